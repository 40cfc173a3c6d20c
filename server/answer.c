#include "server/answer.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "core/log.h"
#include "core/thread.h"

static const double look_seconds = 0.1;  // how often it is looked whether the client is still there

// ---- The engine's side

static void add_token(Answer *answer, const EngineToken *token) {
  AnswerToken *own = &ARRAY_PUSH(answer->tokens, answer->token_count, answer->token_capacity);
  *own = (AnswerToken){.id = token->id, .log_probability = token->log_probability, .top_begin = answer->chance_count};
  own->top_count = token->top_count;
  for (int i = 0; i < token->top_count; i++) ARRAY_PUSH(answer->chances, answer->chance_count, answer->chance_capacity) = token->top[i];
}

static void tell(AnswerSet *set) {
  set->events++;
  pthread_cond_broadcast(&set->changed);
  pthread_mutex_unlock(&set->lock);
}

// Nobody is told: a prompt's tokens are read when all are there.
static void on_prompt_token(const EngineToken *token, void *context) {
  Answer *answer = context;
  pthread_mutex_lock(&answer->set->lock);
  add_token(answer, token);
  answer->prompt_tokens++;
  pthread_mutex_unlock(&answer->set->lock);
}

static bool on_token(const EngineToken *token, void *context) {
  Answer *answer = context;
  AnswerSet *set = answer->set;
  answer->piece.length = 0;
  tokenizer_decode_piece(&answer->piece, set->tokenizer, token->id, set->with_special);
  pthread_mutex_lock(&set->lock);
  if (answer->first_token == 0) answer->first_token = time_seconds();
  add_token(answer, token);
  bool goes_on = text_stream_push(&answer->text, &answer->stream, answer->piece.data ? answer->piece.data : "", answer->piece.length);
  tell(set);
  return goes_on;
}

static void on_embedding(const float *mean, int64_t columns, void *context) {
  Answer *answer = context;
  pthread_mutex_lock(&answer->set->lock);
  answer->embedding = memory_new((size_t)columns, sizeof *mean);
  memcpy(answer->embedding, mean, (size_t)columns * sizeof *mean);
  answer->columns = columns;
  pthread_mutex_unlock(&answer->set->lock);
}

static void on_end(FinishReason reason, const EngineUsage *usage, Status status, const char *message, void *context) {
  Answer *answer = context;
  AnswerSet *set = answer->set;
  pthread_mutex_lock(&set->lock);
  text_stream_finish(&answer->text, &answer->stream);
  answer->finish = reason;
  if (usage) answer->usage = *usage;
  answer->status = status;
  if (reason == FINISH_ERROR) answer->message = memory_copy_string(message);
  answer->is_ended = true;
  set->open--;
  tell(set);
}

EngineReader answer_reader(Answer *answer) {
  return (EngineReader){.prompt_token = on_prompt_token, .token = on_token, .embedding = on_embedding, .end = on_end, .context = answer};
}

// ---- The request's side

void answers_new(AnswerSet *set, Server *server, int count, const char *const *stops, int stop_count, bool with_special) {
  *set = (AnswerSet){.server = server, .tokenizer = server->served.tokenizer, .with_special = with_special, .count = count};
  pthread_mutex_init(&set->lock, NULL);
  condition_new(&set->changed);
  set->answers = memory_new((size_t)count, sizeof *set->answers);
  for (int i = 0; i < count; i++) {
    set->answers[i].set = set;
    text_stream_new(&set->answers[i].stream, stops, stop_count);
  }
}

Status answer_submit(Answer *answer, EngineRequest *request) {
  AnswerSet *set = answer->set;
  request->reader = answer_reader(answer);
  answer->begun = time_seconds();
  pthread_mutex_lock(&set->lock);
  set->open++;  // before it: the end may come while engine_submit is returning
  pthread_mutex_unlock(&set->lock);
  int64_t number = 0;
  Status status = server_submit(&number, set->server, request);
  pthread_mutex_lock(&set->lock);
  answer->number = number;
  answer->is_submitted = status == STATUS_OK;
  if (status != STATUS_OK) set->open--;
  pthread_mutex_unlock(&set->lock);
  return status;
}

void answers_cancel(AnswerSet *set) {
  pthread_mutex_lock(&set->lock);
  set->is_cancelled = true;
  for (int i = 0; i < set->count; i++) {
    Answer *answer = &set->answers[i];
    if (!answer->is_submitted || answer->is_ended) continue;
    pthread_mutex_unlock(&set->lock);  // the engine may be telling us of this very text
    server_cancel(set->server, answer->number);
    pthread_mutex_lock(&set->lock);
  }
  pthread_mutex_unlock(&set->lock);
}

// A client that has shut its side reads no answer either, or will not soon: what it does not read is what nobody asked for.
static bool client_has_gone(int socket) {
  char byte;
  if (socket < 0) return false;
  ssize_t got = recv(socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  return got == 0 || (got < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
}

static bool wait_until(AnswerSet *set, uint64_t seen, bool for_end, int socket) {
  bool is_there = true;
  struct timespec look = condition_time(look_seconds);
  pthread_mutex_lock(&set->lock);
  while (set->open > 0 && (for_end || set->events == seen) && is_there) {
    if (pthread_cond_timedwait(&set->changed, &set->lock, &look) != ETIMEDOUT) continue;
    is_there = !client_has_gone(socket);
    look = condition_time(look_seconds);
  }
  pthread_mutex_unlock(&set->lock);
  return is_there;
}

bool answers_wait(AnswerSet *set, uint64_t seen, int socket) { return wait_until(set, seen, false, socket); }
bool answers_wait_end(AnswerSet *set, int socket) { return wait_until(set, 0, true, socket); }

static void answer_measure(const Answer *answer, Metrics *metrics) {
  if (!answer->is_ended) return;
  metrics_time(metrics, METRIC_WAIT, answer->usage.wait_seconds);
  if (answer->first_token > 0) metrics_time(metrics, METRIC_FIRST_TOKEN, answer->first_token - answer->begun);
  if (answer->usage.new_tokens > 0) metrics_time(metrics, METRIC_TOKEN, answer->usage.seconds / (double)answer->usage.new_tokens);
}

void answers_release(AnswerSet *set) {
  if (!set->answers) return;
  answers_cancel(set);
  answers_wait_end(set, -1);
  for (int i = 0; i < set->count; i++) {
    Answer *answer = &set->answers[i];
    answer_measure(answer, &set->server->metrics);
    text_stream_release(&answer->stream);
    buffer_release(&answer->piece);
    buffer_release(&answer->text);
    free(answer->tokens);
    free(answer->chances);
    free(answer->embedding);
    free(answer->message);
  }
  free(set->answers);
  pthread_cond_destroy(&set->changed);
  pthread_mutex_destroy(&set->lock);
  *set = (AnswerSet){0};
}
