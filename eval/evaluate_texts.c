// Texts that a model writes, or that are given, and their judges; a block of items at a time.
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "eval/evaluate.h"
#include "runtime/generate.h"

enum { BLOCK = 256 };

typedef struct Block {
  Buffer *prompts, *texts;  // [items]
  TokenList ids;
  TextRequest *requests;  // [items]
  size_t *begins;  // [items]: where a request's ids begin
  const char **stops;
  int64_t first, items;
  const TaskSet *set;
} Block;

static void block_new(Block *block, const TaskSet *set, int64_t first) {
  int64_t items = set->item_count - first < BLOCK ? set->item_count - first : BLOCK;
  *block = (Block){.set = set, .first = first, .items = items};
  block->prompts = memory_new((size_t)items, sizeof *block->prompts);
  block->texts = memory_new((size_t)items, sizeof *block->texts);
  block->requests = memory_new((size_t)items, sizeof *block->requests);
  block->begins = memory_new((size_t)items, sizeof *block->begins);
}

static void block_release(Block *block) {
  for (int64_t i = 0; i < block->items; i++) {
    buffer_release(&block->prompts[i]);
    buffer_release(&block->texts[i]);
  }
  free(block->prompts);
  free(block->texts);
  free(block->requests);
  free(block->begins);
  free(block->stops);
  token_list_release(&block->ids);
}

// ---- Prompts ----

static void add_message(json_t *messages, const char *role, const char *content) {
  json_array_append_new(messages, json_pack("{s:s, s:s}", "role", role, "content", content));
}

// Shots are turns of the conversation, and the description is its system message.
static Status render_chat(Buffer *out, const TaskSet *set, const TaskItem *item, const ChatTemplate *chat) {
  const TaskGroup *group = &set->groups[item->group];
  Buffer question = {0}, answer_start = {0};
  ChatText text = {0};
  json_t *messages = json_array();
  if (*group->description) add_message(messages, "system", group->description);
  for (int64_t i = 0; i < group->shot_count; i++) {
    add_message(messages, "user", group->shots[i].question);
    add_message(messages, "assistant", group->shots[i].answer);
  }
  if (set->task->ask_in_chat) set->task->ask_in_chat(&question, &answer_start, item);
  else buffer_append_string(&question, item->question);
  add_message(messages, "user", question.data);
  Status status = chat_template_render(&text, chat, messages, NULL, true);
  if (status == STATUS_OK) buffer_append(out, text.text.data, text.text.length);
  buffer_append(out, answer_start.data ? answer_start.data : "", answer_start.length);
  chat_text_release(&text);
  json_decref(messages);
  buffer_release(&question);
  buffer_release(&answer_start);
  return status;
}

static Status encode_prompt(TokenList *ids, Buffer *prompt, const TaskSet *set, const TaskItem *item, const EvaluateOptions *options) {
  if (!options->chat) {
    item_context(prompt, set, item, item->question);
    return generate_encode(ids, options->tokenizer, prompt->data, prompt->length);
  }
  TRY(render_chat(prompt, set, item, options->chat));
  return tokenizer_encode(ids, options->tokenizer, prompt->data, prompt->length, TOKENIZE_PARSE_SPECIAL);
}

// The prompt keeps its end, so that prompt and answer fit.
static Status make_request(Block *block, int64_t i, TaskResult *result, const Scorer *scorer, const EvaluateOptions *options) {
  TextRequest *request = &block->requests[i];
  block->begins[i] = (size_t)block->ids.count;
  TRY(encode_prompt(&block->ids, &block->prompts[i], block->set, &block->set->items[block->first + i], options));
  request->count = block->ids.count - (int64_t)block->begins[i];
  request->max_tokens = options->max_tokens > 0 ? options->max_tokens : block->set->task->max_tokens;
  int64_t most = scorer->most_tokens - request->max_tokens;
  if (most < 1)
    return status_fail(STATUS_USAGE,
                       "an answer of %" PRId64 " tokens leaves no room for a prompt in a context of %" PRId64
                       "; choose a larger --context, or fewer by --max-tokens",
                       request->max_tokens, scorer->most_tokens);
  if (request->count == 0) return status_fail(STATUS_BAD_INPUT, "the prompt is empty");
  if (request->count <= most) return STATUS_OK;
  block->begins[i] += (size_t)(request->count - most);
  request->count = most;
  result->truncated++;
  return STATUS_OK;
}

// The task's stops, then those of the options.
static int list_stops(Block *block, const EvaluateOptions *options) {
  int count = 0, capacity = 0;
  for (const char *const *stop = block->set->task->stops; *stop; stop++) ARRAY_PUSH(block->stops, count, capacity) = *stop;
  for (int i = 0; i < options->stop_count; i++) ARRAY_PUSH(block->stops, count, capacity) = options->stops[i];
  return count;
}

static void show(int64_t done, void *context) {
  const Block *block = context;
  progress_show(block->first + done, block->set->item_count, "%s", block->set->name);
}

static Status write_texts(Block *block, TaskResult *result, const Scorer *scorer, const EvaluateOptions *options) {
  int stop_count = list_stops(block, options);
  for (int64_t i = 0; i < block->items; i++) {
    const TaskItem *item = &block->set->items[block->first + i];
    TRY(status_context(make_request(block, i, result, scorer, options), "%s:%" PRId64, item->path, item->line));
  }
  for (int64_t i = 0; i < block->items; i++) {
    block->requests[i].ids = block->ids.ids + block->begins[i];
    block->requests[i].stops = block->stops;
    block->requests[i].stop_count = stop_count;
  }
  return scorer->generate(block->texts, scorer->context, block->requests, block->items, (ScorerProgress){show, block});
}

// ---- Answers that are given ----

static Status find_responses(Block *block, const EvaluateOptions *options) {
  for (int64_t i = 0; i < block->items; i++) {
    const TaskItem *item = &block->set->items[block->first + i];
    int64_t index;
    if (!map_get_string(&options->responses->prompts, item->question, &index))
      return status_fail(STATUS_BAD_INPUT,
                         "%s:%" PRId64 ": there is no response to this prompt (--responses, whose rows are {prompt, response})", item->path,
                         item->line);
    buffer_append_string(&block->prompts[i], item->question);
    buffer_append_string(&block->texts[i], options->responses->texts[index]);
  }
  return STATUS_OK;
}

// ---- Verdicts ----

static Status judge_item(TaskResult *result, const Block *block, int64_t i, const EvaluateOptions *options) {
  const TaskItem *item = &block->set->items[block->first + i];
  Score *scores = result->scores + (block->first + i) * METRICS_MAX;
  JudgeOptions judge = {.allows_code = options->allows_code, .is_chat = options->chat != NULL};
  Buffer *text = &block->texts[i];
  buffer_append(text, "", 0);
  json_t *object = json_pack("{s:s%, s:s%}", "prompt", block->prompts[i].data, block->prompts[i].length, "text", text->data, text->length);
  if (!object) object = json_object();  // a text that is no UTF-8 is judged all the same
  Status status = block->set->task->judge(scores, object, item, text->data, text->length, &judge);
  if (status == STATUS_OK && options->samples) sample_write(block->set, item, scores, options, object);
  else json_decref(object);
  return status_context(status, "%s:%" PRId64, item->path, item->line);
}

Status evaluate_texts(TaskResult *result, const TaskSet *set, const Scorer *scorer, const EvaluateOptions *options) {
  Status status = STATUS_OK;
  for (int64_t first = 0; first < set->item_count && status == STATUS_OK; first += BLOCK) {
    Block block;
    block_new(&block, set, first);
    status = options->responses ? find_responses(&block, options) : write_texts(&block, result, scorer, options);
    for (int64_t i = 0; i < block.items && status == STATUS_OK; i++) {
      status = judge_item(result, &block, i, options);
      if (set->task->runs_code) progress_show(first + i + 1, set->item_count, "%s: running programs", set->name);
    }
    block_release(&block);
  }
  return status;
}
