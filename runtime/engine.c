// The life of texts: submitted, waiting for a place, read, written, told of, ended.
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "core/thread.h"
#include "runtime/engine_parts.h"

const char *finish_reason_name(FinishReason reason) {
  static const char *const names[] = {
      [FINISH_STOP] = "stop", [FINISH_LENGTH] = "length", [FINISH_CANCEL] = "cancel", [FINISH_ERROR] = "error"};
  return names[reason];
}

static Status check_cache(const Model *model, const EngineOptions *options) {
  const ModelConfig *config = &model->config;
  if (pages_type_fits(options->cache_type, config->head_size) && pages_type_fits(options->cache_type, config->value_size)) return STATUS_OK;
  return status_fail(STATUS_USAGE,
                     "%s: heads of %" PRId64 " and %" PRId64 " values cannot be kept in q8_0, whose blocks have 32; keep them in f16",
                     model->path, config->head_size, config->value_size);
}

Status engine_new(Engine **out, const Model *model, EngineOptions options) {
  *out = NULL;
  TRY(check_cache(model, &options));
  if (options.chunk <= 0) options.chunk = ENGINE_CHUNK;
  if (options.chunk > options.context) options.chunk = options.context;
  if (options.drafts > ENGINE_DRAFTS) options.drafts = ENGINE_DRAFTS;
  int64_t of_text = (options.context + PAGE_TOKENS - 1) / PAGE_TOKENS;
  // One page more for each text: the last that it has in common with an earlier one is copied.
  int64_t pages = options.cache_tokens > 0 ? (options.cache_tokens + PAGE_TOKENS - 1) / PAGE_TOKENS : options.parallel * (of_text + 1);
  if (pages < of_text)
    return status_fail(STATUS_USAGE, "a cache of %" PRId64 " tokens does not hold one context of %" PRId64 "; raise --cache-tokens",
                       options.cache_tokens, options.context);
  Engine *engine = memory_new(1, sizeof *engine);
  engine->model = model;
  engine->options = options;
  int roots = 1 + (options.adapters ? adapter_bank_count(options.adapters) : 0);
  Status status = page_store_new(&engine->store, model, options.cache_type, pages, roots);
  if (status != STATUS_OK) {
    free(engine);
    return status;
  }
  condition_new(&engine->changed);
  pthread_mutex_init(&engine->lock, NULL);
  pthread_mutex_init(&engine->stepping, NULL);
  engine->submitted.end = &engine->submitted.first;
  engine->waiting.end = &engine->waiting.first;
  engine->running.end = &engine->running.first;
  pass_new(&engine->pass, engine);
  *out = engine;
  return STATUS_OK;
}

int64_t engine_context(const Engine *engine) { return engine->options.context; }
int64_t engine_vocabulary(const Engine *engine) { return engine->model->config.vocabulary; }

static Status check_request(const Engine *engine, const EngineRequest *request) {
  int64_t context = engine->options.context, vocabulary = engine->model->config.vocabulary;
  if (request->prompt_count < 1)
    return status_fail(STATUS_USAGE, "the prompt is empty, and the model adds no token of its own before a text");
  if (request->prompt_count + (request->max_tokens > 0) > context)
    return status_fail(
        STATUS_USAGE, "the context is full: it holds %" PRId64 " tokens, and the prompt has %" PRId64 "%s; shorten it or raise the context",
        context, request->prompt_count, request->max_tokens > 0 ? " and needs one more to answer" : "");
  for (int64_t i = 0; i < request->prompt_count; i++)
    if (request->prompt[i] < 0 || request->prompt[i] >= vocabulary)
      return status_fail(STATUS_BAD_INPUT,
                         "%s: the prompt has the token %d, but the model has only %" PRId64 "; tokenizer and model do not belong together",
                         engine->model->path, request->prompt[i], vocabulary);
  return STATUS_OK;
}

static void queue_append(TextQueue *queue, Text *text) {
  text->next = NULL;
  *queue->end = text;
  queue->end = &text->next;
}

static void queue_remove(TextQueue *queue, Text *text) {
  Text **at = &queue->first;
  while (*at != text) at = &(*at)->next;
  *at = text->next;
  if (queue->end == &text->next) queue->end = at;
}

static Text *text_new(const Engine *engine, const EngineRequest *request) {
  Text *text = memory_new(1, sizeof *text);
  int64_t context = engine->options.context, left = context - request->prompt_count;
  text->request = *request;
  if (text->request.top > ENGINE_TOP) text->request.top = ENGINE_TOP;
  text->most = request->prompt_count + (request->max_tokens < left ? request->max_tokens : left);
  text->ids = memory_new((size_t)text->most, sizeof *text->ids);
  memcpy(text->ids, request->prompt, (size_t)request->prompt_count * sizeof *text->ids);
  text->request.prompt = text->ids;
  text->count = text->usage.prompt_tokens = request->prompt_count;
  int biases = request->sampling.bias_count;
  if (biases) {
    text->biases = memory_new((size_t)biases, sizeof *text->biases);
    memcpy(text->biases, request->sampling.biases, (size_t)biases * sizeof *text->biases);
    text->request.sampling.biases = text->biases;
  }
  text->submitted = time_seconds();
  return text;
}

static void text_free(Text *text) {
  sampler_free(&text->sampler);
  free(text->ids);
  free(text->biases);
  free(text->masked);
  free(text->hidden_sum);
  free(text->found);
  free(text->found_top);
  free(text->message);
  free(text);
}

Status engine_submit(int64_t *number, Engine *engine, const EngineRequest *request) {
  TRY(check_request(engine, request));
  Text *text = text_new(engine, request);
  pthread_mutex_lock(&engine->lock);
  *number = text->number = ++engine->numbers;
  queue_append(&engine->submitted, text);
  engine->counts.waiting++;
  pthread_cond_broadcast(&engine->changed);
  pthread_mutex_unlock(&engine->lock);
  return STATUS_OK;
}

void engine_cancel(Engine *engine, int64_t number) {
  pthread_mutex_lock(&engine->lock);
  ARRAY_PUSH(engine->cancelled, engine->cancelled_count, engine->cancelled_capacity) = number;
  pthread_cond_broadcast(&engine->changed);
  pthread_mutex_unlock(&engine->lock);
}

static void add_interrupter(Engine *engine, int count) {
  pthread_mutex_lock(&engine->lock);
  engine->interrupters += count;
  pthread_cond_broadcast(&engine->changed);
  pthread_mutex_unlock(&engine->lock);
}

// The mutex alone would let the thread that steps take it again and again.
static void let_others_in(Engine *engine) {
  pthread_mutex_lock(&engine->lock);
  while (engine->interrupters > 0) pthread_cond_wait(&engine->changed, &engine->lock);
  pthread_mutex_unlock(&engine->lock);
}

Status engine_set_scale(Engine *engine, int adapter, double scale) {
  add_interrupter(engine, 1);
  pthread_mutex_lock(&engine->stepping);
  Status status = adapter_bank_set_scale(engine->options.adapters, adapter, scale);
  if (status == STATUS_OK) page_store_forget(engine->store, 1 + adapter);
  pthread_mutex_unlock(&engine->stepping);
  add_interrupter(engine, -1);
  return status;
}

static void end_text(Engine *engine, TextQueue *queue, Text *text, FinishReason reason) {
  queue_remove(queue, text);
  if (text->has_pages) page_list_end(&text->pages, engine->store);
  double now = time_seconds();
  EngineUsage *usage = &text->usage;
  usage->wait_seconds = (text->begun > 0 ? text->begun : now) - text->submitted;
  usage->prompt_seconds = text->begun > 0 ? (text->read > 0 ? text->read : now) - text->begun : 0;
  usage->seconds = text->read > 0 ? now - text->read : 0;
  PageCounts pages = page_store_counts(engine->store);
  pthread_mutex_lock(&engine->lock);
  engine->counts.running -= queue == &engine->running;
  engine->counts.waiting -= queue == &engine->waiting;
  engine->counts.free_pages = pages.free, engine->counts.kept_pages = pages.kept;
  pthread_mutex_unlock(&engine->lock);
  if (text->request.reader.end)
    text->request.reader.end(reason, usage, text->status, text->message ? text->message : "", text->request.reader.context);
  text_free(text);
}

static Text *find_text(const TextQueue *queue, int64_t number) {
  Text *text = queue->first;
  while (text && text->number != number) text = text->next;
  return text;
}

// Takes over what other threads have asked for.
static void take_submitted(Engine *engine) {
  pthread_mutex_lock(&engine->lock);
  if (engine->submitted.first) {
    *engine->waiting.end = engine->submitted.first;
    engine->waiting.end = engine->submitted.end;
  }
  engine->submitted = (TextQueue){NULL, &engine->submitted.first};
  int64_t *cancelled = engine->cancelled, count = engine->cancelled_count;
  engine->cancelled = NULL;
  engine->cancelled_count = engine->cancelled_capacity = 0;
  engine->is_woken = false;
  pthread_mutex_unlock(&engine->lock);
  for (int64_t i = 0; i < count; i++) {
    Text *text = find_text(&engine->running, cancelled[i]);
    if (text) end_text(engine, &engine->running, text, FINISH_CANCEL);
    else if ((text = find_text(&engine->waiting, cancelled[i]))) end_text(engine, &engine->waiting, text, FINISH_CANCEL);
  }
  free(cancelled);
}

// How much of a prompt may come from earlier texts: something has to be computed, and what is wanted of its tokens is.
static int64_t most_reused(const Text *text) {
  const EngineRequest *request = &text->request;
  if (request->wants_embedding) return 0;
  if (request->chances_from > 0) return request->chances_from - 1;
  return request->prompt_count - 1;
}

// Whether another text is reading what this one could share: then it waits until that is done.
static bool should_wait(const Engine *engine, const Text *text) {
  int64_t most = most_reused(text), have = -1;
  for (const Text *other = engine->running.first; other; other = other->next) {
    if (other->is_writing || other->request.adapter != text->request.adapter || other->request.wants_embedding) continue;
    int64_t common = 0, end = text_target(other) < most ? text_target(other) : most;
    while (common < end && other->ids[common] == text->ids[common]) common++;
    if (common < PAGE_TOKENS) continue;
    if (have < 0) have = page_store_match(engine->store, 1 + text->request.adapter, text->ids, most);
    if (common / PAGE_TOKENS * PAGE_TOKENS > have) return true;
  }
  return false;
}

// False when there are not pages enough now.
static bool begin_text(Engine *engine, Text *text) {
  if (!page_list_begin(&text->pages, engine->store, 1 + text->request.adapter, text->ids, most_reused(text), text->most,
                       text->request.is_repeatable))
    return false;
  int64_t vocabulary = engine->model->config.vocabulary;
  if (text->request.max_tokens > 0) sampler_new(&text->sampler, text->request.sampling, vocabulary);
  text->sampler.first_new = text->request.prompt_count;
  if (text->request.constraint) text->masked = memory_new((size_t)vocabulary, sizeof *text->masked);
  text->has_pages = true;
  text->begun = time_seconds();
  text->usage.reused_tokens = text->pages.tokens;
  queue_remove(&engine->waiting, text);
  queue_append(&engine->running, text);
  return true;
}

// In the order in which they came, but for those that wait for others' prompts. One that needs more pages than there are is not passed over: the
// small ones behind it would keep it waiting for ever.
static void begin_texts(Engine *engine) {
  int64_t running = 0, begun = 0, reused = 0, passed = 0;
  for (const Text *text = engine->running.first; text; text = text->next) running++;
  for (Text *text = engine->waiting.first, *next; text && running + begun < engine->options.parallel && passed < MOST_PASSED; text = next) {
    next = text->next;
    passed++;
    if (should_wait(engine, text)) continue;
    if (!begin_text(engine, text)) break;
    begun++;
    reused += text->usage.reused_tokens;
  }
  pthread_mutex_lock(&engine->lock);
  engine->counts.running += begun;
  engine->counts.waiting -= begun;
  engine->counts.reused_tokens += reused;
  pthread_mutex_unlock(&engine->lock);
}

typedef struct DrawTask {
  Engine *engine;
  Text **texts;
} DrawTask;

static void draw_text(void *argument, int64_t index, int thread) {
  (void)thread;
  const DrawTask *task = argument;
  text_draw(task->texts[index], task->engine->pass, task->engine);
}

// Keys and values that are right are there from now on. Of drafts those are that were drawn.
static void fill_pages(Engine *engine, Text *text) {
  bool was_writing = text->is_writing;
  int64_t rows = text->rows;
  if (was_writing) {
    int64_t accepted = 0;
    while (accepted < text->draft_count && accepted < text->new_count && text->found[accepted].id == text->drafts[accepted]) accepted++;
    rows = 1 + accepted;
    text->usage.draft_tokens += text->draft_count;
    text->usage.accepted_tokens += accepted;
    // Drafts cost rows: after some that were all wrong, none for a while.
    if (text->draft_count > 0 && accepted == 0) text->draft_rest = 4;
  }
  page_list_fill(&text->pages, engine->store, text->ids, rows, !was_writing);
  if (was_writing || text->pages.tokens < text_target(text)) return;
  text->is_writing = true;
  text->read = time_seconds();
}

// Tells the reader; returns whether it has had enough.
static bool tell(Text *text) {
  const EngineReader *reader = &text->request.reader;
  for (int64_t i = 0; i < text->found_count; i++) {
    const EngineToken *token = &text->found[i];
    bool is_new = i >= text->found_count - text->new_count;
    text->usage.new_tokens += is_new;
    if (!is_new && reader->prompt_token) reader->prompt_token(token, reader->context);
    if (is_new && reader->token && !reader->token(token, reader->context)) return true;
  }
  return false;
}

static void tell_embedding(const Engine *engine, Text *text) {
  int64_t columns = engine->model->config.hidden;
  for (int64_t c = 0; c < columns; c++) text->hidden_sum[c] /= (float)text->request.prompt_count;
  if (text->request.reader.embedding) text->request.reader.embedding(text->hidden_sum, columns, text->request.reader.context);
}

// After its rows of a pass: told, and ended where it is at its end.
static void advance_text(Engine *engine, Text *text) {
  if (text->status != STATUS_OK) return end_text(engine, &engine->running, text, FINISH_ERROR);
  if (tell(text) || text->meets_end) return end_text(engine, &engine->running, text, FINISH_STOP);
  if (!text->is_writing) return;
  if (text->request.wants_embedding && text->count == text->request.prompt_count) tell_embedding(engine, text);
  if (text->count == text->most) end_text(engine, &engine->running, text, FINISH_LENGTH);
}

static void count_pass(Engine *engine, Text *const *texts, int64_t count) {
  PageCounts pages = page_store_counts(engine->store);
  pthread_mutex_lock(&engine->lock);
  EngineCounts *counts = &engine->counts;
  counts->passes++;
  for (int64_t i = 0; i < count; i++) {
    const Text *text = texts[i];
    counts->new_tokens += text->new_count;
    if (!text->is_writing) counts->prompt_tokens += text->rows;
    else counts->draft_tokens += text->draft_count;
  }
  counts->pages = pages.pages, counts->free_pages = pages.free, counts->kept_pages = pages.kept;
  pthread_mutex_unlock(&engine->lock);
}

static void fail_texts(Engine *engine, Status status) {
  char *message = memory_copy_string(status_message());
  while (engine->running.first) {
    Text *text = engine->running.first;
    text->status = status;
    free(text->message);
    text->message = memory_copy_string(message);
    end_text(engine, &engine->running, text, FINISH_ERROR);
  }
  free(message);
}

// Texts of whose prompt nothing is to be read end at once.
static void end_empty_texts(Engine *engine) {
  for (Text *text = engine->running.first, *next; text; text = next) {
    next = text->next;
    if (text->pages.tokens >= text_target(text) && !text->is_writing) end_text(engine, &engine->running, text, FINISH_LENGTH);
  }
}

static Status step(Engine *engine, bool *is_idle) {
  take_submitted(engine);
  begin_texts(engine);
  end_empty_texts(engine);
  bool did;
  Status status = pass_run(&did, engine->pass);
  *is_idle = !did && !engine->waiting.first;
  if (status != STATUS_OK) fail_texts(engine, status);
  if (status != STATUS_OK || !did) return STATUS_OK;
  int64_t count;
  Text **texts = pass_texts(engine->pass, &count);
  pool_run(engine->model->backend->pool, count, draw_text, &(DrawTask){engine, texts});
  count_pass(engine, texts, count);
  for (int64_t i = 0; i < count; i++) fill_pages(engine, texts[i]);
  for (int64_t i = 0; i < count; i++) advance_text(engine, texts[i]);
  return STATUS_OK;
}

Status engine_step(Engine *engine, bool *is_idle) {
  let_others_in(engine);
  pthread_mutex_lock(&engine->stepping);
  Status status = step(engine, is_idle);
  pthread_mutex_unlock(&engine->stepping);
  return status;
}

Status engine_run(Engine *engine) {
  bool is_idle = false;
  while (!is_idle) TRY(engine_step(engine, &is_idle));
  return STATUS_OK;
}

void engine_wait(Engine *engine, double seconds) {
  struct timespec until = condition_time(seconds);
  pthread_mutex_lock(&engine->lock);
  while (!engine->submitted.first && engine->cancelled_count == 0 && !engine->is_woken)
    if (pthread_cond_timedwait(&engine->changed, &engine->lock, &until) == ETIMEDOUT) break;
  engine->is_woken = false;
  pthread_mutex_unlock(&engine->lock);
}

void engine_wake(Engine *engine) {
  pthread_mutex_lock(&engine->lock);
  engine->is_woken = true;
  pthread_cond_broadcast(&engine->changed);
  pthread_mutex_unlock(&engine->lock);
}

EngineCounts engine_counts(Engine *engine) {
  pthread_mutex_lock(&engine->lock);
  EngineCounts counts = engine->counts;
  pthread_mutex_unlock(&engine->lock);
  return counts;
}

void engine_free(Engine *engine) {
  if (!engine) return;
  take_submitted(engine);
  while (engine->running.first) end_text(engine, &engine->running, engine->running.first, FINISH_CANCEL);
  while (engine->waiting.first) end_text(engine, &engine->waiting, engine->waiting.first, FINISH_CANCEL);
  pass_free(engine->pass);
  page_store_free(engine->store);
  pthread_mutex_destroy(&engine->lock);
  pthread_mutex_destroy(&engine->stepping);
  pthread_cond_destroy(&engine->changed);
  free(engine->cancelled);
  free(engine);
}
