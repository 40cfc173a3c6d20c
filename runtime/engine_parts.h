// What the files of the engine share.
#ifndef RUNTIME_ENGINE_PARTS_H
#define RUNTIME_ENGINE_PARTS_H

#include <pthread.h>

#include "runtime/engine.h"
#include "runtime/pages.h"

enum {
  MIXED_CHUNK = 128,  // rows of prompts in a pass in which others are writing: they wait for it
  WANTED_ROWS = 128,  // of prompts whose logits are wanted in a pass
  MOST_DRAFTS = 16,
  MOST_PASSED = 256,  // texts that may be passed over for later ones, while they wait for what others read
};

// A request that is being worked on, or waits.
typedef struct Text {
  struct Text *next;
  int64_t number;
  EngineRequest request;  // whose arrays are the text's own
  int32_t *ids;  // [capacity]: the prompt, and what has been written
  int64_t count, capacity, most;  // most: tokens that the text may come to
  PageList pages;
  bool has_pages, is_writing;  // is_writing: all but the last token of ids are in the pages
  Sampler sampler;
  TokenBias *biases;
  float *masked;  // [vocabulary]: logits, where there is a constraint
  float *hidden_sum;  // of wants_embedding
  int32_t drafts[MOST_DRAFTS];
  int64_t draft_count, draft_rest;  // draft_rest: passes without drafts, after some that were wrong
  double submitted, begun, read;  // time_seconds
  EngineUsage usage;
  // Of the present pass:
  int64_t first_row, rows;  // in the batch
  int64_t first_wanted, wanted;  // among the wanted rows
  int64_t first_wanted_position;  // the first wanted row is that of this token, its logits are for the next
  EngineToken *found;  // [found_count]: of the prompt's tokens with their log-probabilities, then new ones
  TokenChance *found_top;  // [..][request.top]
  int64_t found_count, found_capacity, new_count;  // new_count: the last of found are new tokens
  bool meets_end;  // an end token came after them
  Status status;
  char *message;
} Text;

typedef struct TextQueue {
  Text *first, **end;
} TextQueue;

struct Engine {
  const Model *model;
  EngineOptions options;
  PageStore *store;
  pthread_mutex_t lock;  // of what follows
  pthread_cond_t changed;
  TextQueue submitted;
  int64_t *cancelled;
  int64_t cancelled_count, cancelled_capacity, numbers;
  bool is_woken;
  int interrupters;  // threads that want to change something between passes
  EngineCounts counts;
  pthread_mutex_t stepping;  // held while a pass is under way
  // Of the thread that steps:
  TextQueue waiting, running;  // in order
  struct Pass *pass;
};

// How many of the prompt's tokens are read. The last one's row would bring nothing but the logits of a token that nobody wants.
static inline int64_t text_target(const Text *text) {
  const EngineRequest *request = &text->request;
  return request->prompt_count - (request->max_tokens == 0 && request->chances_from > 0 && !request->wants_embedding);
}

// The batch of one pass and its graph.
typedef struct Pass Pass;
void pass_new(Pass **out, Engine *engine);
void pass_free(Pass *pass);
// Chooses rows of the running texts, computes them, and leaves found tokens (or a failure) in the texts. *did: false when there is none to do.
Status pass_run(bool *did, Pass *pass);
Text **pass_texts(const Pass *pass, int64_t *count);  // whose rows were in the last pass
// The logits of a wanted row, of the last pass; and room for them to be changed.
float *pass_logits(const Pass *pass, int64_t wanted);

// What comes of the logits: new tokens into text->found, to be told afterwards. Any thread, one for a text.
void text_draw(Text *text, const Pass *pass, const Engine *engine);

#endif
