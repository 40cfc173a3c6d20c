// From a request's fields to texts of the engine, and from these to whole answers.
#include "server/completion.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "core/log.h"
#include "server/completion_stream.h"

// ---- The fields of both

static uint64_t random_seed(void) {
  uint64_t seed = 0;
  if (getrandom(&seed, sizeof seed, 0) != sizeof seed) seed = (uint64_t)(time_seconds() * 1e9);
  return seed;
}

static Status read_seed(Completion *completion) {
  Fields *fields = &completion->call->fields;
  int64_t seed;
  bool is_given = fields_get(fields, "seed") != NULL;
  TRY(fields_integer(&seed, fields, "seed", INT64_MIN, INT64_MAX));
  completion->sampling.seed = is_given ? (uint64_t)seed : random_seed();
  completion->is_repeatable = is_given || completion->sampling.temperature == 0;
  return STATUS_OK;
}

static Status read_biases(Completion *completion) {
  Fields *fields = &completion->call->fields;
  const json_t *biases = NULL, *value;
  const char *key;
  int64_t vocabulary = completion->server->served.model->config.vocabulary;
  TRY(fields_object(&biases, fields, "logit_bias"));
  json_object_foreach((json_t *)(uintptr_t)biases, key, value) {
    char *end;
    long long id = strtoll(key, &end, 10);
    double bias = json_number_value(value);
    if (!*key || *end || id < 0 || id >= vocabulary)
      return fields_fail(fields, "logit_bias", "\"logit_bias\" has the key \"%s\", which is no token id below %lld", key,
                         (long long)vocabulary);
    if (!json_is_number(value) || !(fabs(bias) <= 100))
      return fields_fail(fields, "logit_bias", "\"logit_bias\" of token %lld must be a number from -100 to 100", id);
    ARRAY_PUSH(completion->biases, completion->bias_count, completion->bias_capacity) = (TokenBias){.id = (int32_t)id, .bias = bias};
  }
  completion->sampling.biases = completion->biases;
  completion->sampling.bias_count = completion->bias_count;
  return STATUS_OK;
}

// Neutral where OpenAI documents no other value: the logits' own softmax.
static Status read_sampling(Completion *completion) {
  Fields *fields = &completion->call->fields;
  SamplerSettings *sampling = &completion->sampling;
  *sampling = (SamplerSettings){.temperature = 1, .top_p = 1, .repetition_penalty = 1, .repetition_window = -1};
  TRY(fields_float(&sampling->temperature, fields, "temperature", 0, 100));
  TRY(fields_integer(&sampling->top_k, fields, "top_k", -1, 1 << 30));
  if (sampling->top_k < 0) sampling->top_k = 0;  // others write -1 for all
  TRY(fields_float(&sampling->top_p, fields, "top_p", 0, 1));
  TRY(fields_float(&sampling->min_p, fields, "min_p", 0, 1));
  TRY(fields_float(&sampling->repetition_penalty, fields, "repeat_penalty", 0.01, 100));
  TRY(fields_float(&sampling->repetition_penalty, fields, "repetition_penalty", 0.01, 100));
  TRY(fields_float(&sampling->presence_penalty, fields, "presence_penalty", -2, 2));
  TRY(fields_float(&sampling->frequency_penalty, fields, "frequency_penalty", -2, 2));
  TRY(read_biases(completion));
  return read_seed(completion);
}

static Status read_stream(Completion *completion) {
  Fields *fields = &completion->call->fields;
  const json_t *options = NULL;
  TRY(fields_bool(&completion->streams, fields, "stream"));
  TRY(fields_object(&options, fields, "stream_options"));
  if (options && !completion->streams) return fields_fail(fields, "stream_options", "\"stream_options\" goes with \"stream\": true");
  Fields inner = {.object = options};
  Status status = fields_bool(&completion->includes_usage, &inner, "include_usage");
  if (status != STATUS_OK) fields->param = "stream_options";
  return status;
}

Status completion_constrain(Completion *completion, Grammar *grammar, const char *param) {
  if (completion->grammar) {
    grammars_leave(&completion->server->grammars, grammar);
    return fields_fail(&completion->call->fields, param, "\"%s\": the text has another constraint already; give one", param);
  }
  completion->grammar = grammar;
  return STATUS_OK;
}

static Status take_grammar(Completion *completion, Status parsed, Grammar *grammar, const char *param) {
  if (parsed == STATUS_OK) return completion_constrain(completion, grammar, param);
  completion->call->fields.param = param;
  return status_context(parsed, "\"%s\"", param);
}

static Status read_format(Completion *completion) {
  Fields *fields = &completion->call->fields;
  const json_t *format = NULL, *schema = NULL;
  const char *type = NULL;
  Grammar *grammar = NULL;
  TRY(fields_object(&format, fields, "response_format"));
  if (!format) return STATUS_OK;
  Fields inner = {.object = format};
  Status status = fields_string(&type, &inner, "type");
  if (status == STATUS_OK && type && strcmp(type, "text") == 0) return STATUS_OK;
  if (status == STATUS_OK && type && strcmp(type, "json_object") == 0) {
    status = grammars_of_schema(&grammar, &completion->server->grammars, NULL);
    return take_grammar(completion, status, grammar, "response_format");
  }
  bool is_schema = type && strcmp(type, "json_schema") == 0;
  if (status == STATUS_OK && !is_schema)
    status = status_fail(STATUS_USAGE, "\"type\" must be \"text\", \"json_object\" or \"json_schema\"");
  if (status == STATUS_OK) status = fields_object(&schema, &inner, "json_schema");
  inner.object = schema;
  const json_t *own = schema ? fields_get(&inner, "schema") : NULL;
  if (status == STATUS_OK && !own) status = status_fail(STATUS_USAGE, "\"json_schema\" must be an object with a \"schema\"");
  if (status != STATUS_OK) {
    fields->param = "response_format";
    return status_context(status, "\"response_format\"");
  }
  status = grammars_of_schema(&grammar, &completion->server->grammars, own);
  return take_grammar(completion, status, grammar, "response_format");
}

static Status read_grammar(Completion *completion) {
  const char *text = NULL;
  Grammar *grammar = NULL;
  TRY(fields_string(&text, &completion->call->fields, "grammar"));
  if (!text || !*text) return STATUS_OK;
  Status status = grammars_of_gbnf(&grammar, &completion->server->grammars, text);
  return take_grammar(completion, status, grammar, "grammar");
}

Status completion_adapter(int *adapter, const char **name, Call *call) {
  const ServedModel *served = &call->server->served;
  *adapter = -1;
  *name = served->name;
  TRY(fields_string(name, &call->fields, "model"));
  if (strcmp(*name, served->name) == 0) return STATUS_OK;
  *adapter = served->adapters ? adapter_bank_find(served->adapters, *name) : -1;
  if (*adapter >= 0) return STATUS_OK;
  return call_fail(call, MHD_HTTP_NOT_FOUND, "model_not_found", "model",
                   "the model \"%s\" is not served here; GET /v1/models tells which are", *name);
}

// The engine's thread looks for them at each token: long ones would hold up everybody.
static Status read_stops(Completion *completion) {
  Fields *fields = &completion->call->fields;
  TRY(fields_strings(&completion->stops, &completion->stop_count, &completion->stop_capacity, fields, "stop", STOPS_MOST));
  for (int i = 0; i < completion->stop_count; i++)
    if (strlen(completion->stops[i]) > STOP_BYTES_MOST)
      return fields_fail(fields, "stop", "\"stop\" has a string of more than %d bytes", STOP_BYTES_MOST);
  return STATUS_OK;
}

static Status read_fields(Completion *completion) {
  Call *call = completion->call;
  Fields *fields = &call->fields;
  int64_t best_of = 0;
  TRY(completion_adapter(&completion->adapter, &completion->model, call));
  TRY(read_sampling(completion));
  TRY(read_stream(completion));
  TRY(fields_integer(&completion->choices, fields, "n", 1, CHOICES_MOST));
  TRY(fields_integer(&best_of, fields, "best_of", 1, CHOICES_MOST));
  if (best_of && best_of != completion->choices)
    return fields_fail(fields, "best_of", "\"best_of\" other than \"n\" is not supported: all choices are given");
  TRY(read_stops(completion));
  TRY(fields_bool(&completion->ignores_end, fields, "ignore_eos"));
  TRY(read_grammar(completion));
  return read_format(completion);
}

static void completion_free(void *pointer) {
  Completion *completion = pointer;
  answers_release(&completion->answers);  // first: the engine may still follow the constraints
  int count = completion->prompt_count * (int)completion->choices;
  for (int i = 0; completion->constraints && i < count; i++) constraint_free(completion->constraints[i]);
  free(completion->constraints);
  if (completion->grammar) grammars_leave(&completion->server->grammars, completion->grammar);
  if (completion->release_extra) completion->release_extra(completion->extra);
  token_lists_release(completion->prompts, completion->prompt_count);
  buffer_release(&completion->events);
  free(completion->told);
  free(completion->stops);
  free(completion->biases);
  free(completion);
}

Status completion_new(Completion **out, Call *call, const CompletionForm *form) {
  Completion *completion = *out = call->work = memory_new(1, sizeof *completion);
  call->release = completion_free;
  uint8_t random[12];
  if (getrandom(random, sizeof random, 0) != sizeof random) memset(random, 0, sizeof random);
  int length = snprintf(completion->id, sizeof completion->id, "%s", form->id_prefix);
  for (size_t i = 0; i < sizeof random; i++)
    length += snprintf(completion->id + length, sizeof completion->id - (size_t)length, "%02x", random[i]);
  completion->call = call;
  completion->server = call->server;
  completion->form = form;
  completion->created = (int64_t)time(NULL);
  completion->choices = 1;
  completion->max_tokens = -1;
  return read_fields(completion);
}

// ---- Submitting

static Status check_lengths(Call *call, const TokenList *prompts, int count, const char *param, bool wants_new) {
  int64_t context = call->server->served.engine.context;
  for (int i = 0; i < count; i++) {
    if (prompts[i].count + wants_new <= context) continue;
    return call_fail(call, MHD_HTTP_BAD_REQUEST, "context_length_exceeded", param,
                     "the prompt has %lld tokens, and the context holds %lld%s; shorten it, or start the server with a larger --context",
                     (long long)prompts[i].count, (long long)context, wants_new ? ", one of them at least the answer's" : "");
  }
  return STATUS_OK;
}

Status call_check_room(Call *call, const TokenList *prompts, int count, int64_t choices, const char *param, bool wants_new) {
  TRY(check_lengths(call, prompts, count, param, wants_new));
  int64_t texts = count * choices, most = call->server->served.engine.parallel + call->server->options.queue;
  if (texts > most)
    return call_fail(call, MHD_HTTP_BAD_REQUEST, NULL, param, "the request asks for %lld texts; the server takes %lld at most (--queue)",
                     (long long)texts, (long long)most);
  EngineCounts counts;
  if (!server_counts(&counts, call->server)) return call_fail(call, MHD_HTTP_SERVICE_UNAVAILABLE, NULL, NULL, "the server is stopping");
  int64_t others = counts.running + counts.waiting;
  if (others + texts <= most) return STATUS_OK;
  return call_fail(call, MHD_HTTP_TOO_MANY_REQUESTS, "queue_full", NULL, "%lld texts are under way or waiting; ask again in a moment",
                   (long long)others);
}

static Status submit(Completion *completion, int index) {
  const TokenList *prompt = &completion->prompts[index / completion->choices];
  int64_t room = completion->server->served.engine.context - prompt->count;
  EngineRequest request = {.prompt = prompt->ids,
                           .prompt_count = prompt->count,
                           .max_tokens = completion->max_tokens < 0 || completion->max_tokens > room ? room : completion->max_tokens,
                           .sampling = completion->sampling,
                           .adapter = completion->adapter,
                           .wants_chances = completion->wants_chances,
                           .chances_from = completion->wants_chances && completion->echoes && prompt->count > 1,
                           .top = (int)completion->top,
                           .ignores_end = completion->ignores_end,
                           .is_repeatable = completion->is_repeatable};
  request.sampling.seed += (uint64_t)(index % completion->choices);
  if (completion->grammar) {
    TRY(constraint_new(&completion->constraints[index], completion->grammar, completion->server->vocabulary));
    request.constraint = completion->constraints[index];
  }
  return answer_submit(&completion->answers.answers[index], &request);
}

static Status submit_all(Completion *completion) {
  int count = completion->prompt_count * (int)completion->choices;
  TRY(call_check_room(completion->call, completion->prompts, completion->prompt_count, completion->choices, completion->form->prompt_name,
                      completion->max_tokens != 0));
  answers_new(&completion->answers, completion->server, count, completion->stops, completion->stop_count, completion->with_special);
  completion->told = memory_new((size_t)count, sizeof *completion->told);
  completion->constraints = memory_new((size_t)count, sizeof *completion->constraints);
  for (int i = 0; i < count; i++) TRY(submit(completion, i));
  return STATUS_OK;
}

// ---- Whole answers

const char *completion_finish(const Answer *answer) { return answer->finish == FINISH_LENGTH ? "length" : "stop"; }

json_t *completion_usage(const Completion *completion) {
  int64_t prompt = 0, reused = 0, written = 0;
  for (int i = 0; i < completion->answers.count; i++) {
    const EngineUsage *usage = &completion->answers.answers[i].usage;
    written += usage->new_tokens;
    if (i % completion->choices) continue;  // one prompt, however many choices
    prompt += completion->prompts[i / completion->choices].count;
    reused += usage->reused_tokens;
  }
  return json_pack("{s:I, s:I, s:I, s:{s:I}}", "prompt_tokens", (json_int_t)prompt, "completion_tokens", (json_int_t)written,
                   "total_tokens", (json_int_t)(prompt + written), "prompt_tokens_details", "cached_tokens", (json_int_t)reused);
}

// The failure of one text is that of the request.
static Status check_answers(const AnswerSet *set, Call *call) {
  for (int i = 0; i < set->count; i++) {
    const Answer *answer = &set->answers[i];
    if (answer->finish == FINISH_ERROR) return status_fail(answer->status, "%s", answer->message ? answer->message : "the text failed");
    if (answer->finish == FINISH_CANCEL) return call_fail(call, MHD_HTTP_SERVICE_UNAVAILABLE, NULL, NULL, "the server is stopping");
  }
  return STATUS_OK;
}

Status call_await(AnswerSet *set, Call *call) {
  enum { CLIENT_CLOSED = 499 };  // nginx's number, for the counts: nobody reads the answer
  if (answers_wait_end(set, call->socket)) return check_answers(set, call);
  return call_fail(call, CLIENT_CLOSED, NULL, NULL, "the client has gone");
}

static Status reply_whole(Completion *completion) {
  TRY(call_await(&completion->answers, completion->call));
  json_t *choices = json_array();
  for (int i = 0; i < completion->answers.count; i++) json_array_append_new(choices, completion->form->choice(completion, i));
  return call_reply_json(
      completion->call, MHD_HTTP_OK,
      json_pack("{s:s, s:s, s:I, s:s, s:o, s:o}", "id", completion->id, "object", completion->form->object, "created",
                (json_int_t)completion->created, "model", completion->model, "choices", choices, "usage", completion_usage(completion)));
}

Status completion_answer(Completion *completion) {
  TRY(submit_all(completion));
  return completion->streams ? completion_stream(completion) : reply_whole(completion);
}
