// Texts that the engine writes for one request, put together: tokens become valid UTF-8 up to a stop string, with their log-probabilities.
// The engine's thread adds, the request's thread waits and reads under the set's lock.
#ifndef SERVER_ANSWER_H
#define SERVER_ANSWER_H

#include <pthread.h>

#include "runtime/text_stream.h"
#include "server/server.h"

typedef struct AnswerToken {
  int32_t id;
  float log_probability;
  int64_t top_begin;  // its likeliest are chances[top_begin .. + top_count)
  int top_count;
} AnswerToken;

typedef struct Answer {
  struct AnswerSet *set;
  int64_t number;  // the engine's
  bool is_submitted, is_ended;
  TextStream stream;
  Buffer piece;
  Buffer text;  // what is certain
  AnswerToken *tokens;  // those of the prompt that log-probabilities are wanted of, then the new ones
  int64_t token_count, token_capacity;
  int64_t prompt_tokens;  // of these, the prompt's
  TokenChance *chances;
  int64_t chance_count, chance_capacity;
  float *embedding;  // [columns]
  int64_t columns;
  FinishReason finish;
  EngineUsage usage;
  Status status;  // of FINISH_ERROR
  char *message;
  double begun, first_token;  // time_seconds()
} Answer;

typedef struct AnswerSet {
  Server *server;
  const Tokenizer *tokenizer;
  bool with_special;  // control tokens print as their text
  pthread_mutex_t lock;
  pthread_cond_t changed;
  uint64_t events;  // counts what has been added
  Answer *answers;  // [count]
  int count, open;  // open: submitted and not ended
  bool is_cancelled;  // by answers_cancel
} AnswerSet;

// `stops` are borrowed.
void answers_new(AnswerSet *set, Server *server, int count, const char *const *stops, int stop_count, bool with_special);
void answers_release(AnswerSet *set);  // cancels what is under way, and waits for its end

// Fills request->reader. Errors as of engine_submit.
Status answer_submit(Answer *answer, EngineRequest *request);
// Asks the engine to end them all; the end comes later.
void answers_cancel(AnswerSet *set);

// Waits, without the lock, until something has been added since `seen` or all have ended; false when the client at `socket` has gone.
bool answers_wait(AnswerSet *set, uint64_t seen, int socket);
// Until all have ended.
bool answers_wait_end(AnswerSet *set, int socket);

// The engine's calls; a test may make them itself.
EngineReader answer_reader(Answer *answer);

#endif
