// What comes of a pass's logits for one text: log-probabilities of the prompt's tokens, and new tokens, as many as drafts were right and one more.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/engine_parts.h"

static bool failed(Text *text, Status status) {
  if (status == STATUS_OK) return false;
  text->status = status;
  text->message = memory_copy_string(status_message());
  return true;
}

// Tells of token `id` at `position`, whose logits these are.
static void find(Text *text, int32_t id, int64_t position, const float *logits, int64_t vocabulary, bool wants_chances) {
  int top = wants_chances ? text->request.top : 0;
  EngineToken *token = &text->found[text->found_count];
  *token = (EngineToken){.id = id, .position = position, .logits = logits};
  if (wants_chances) {
    TokenChance *chances = text->found_top + text->found_count * text->request.top;
    double log_sum = log_sum_exp(logits, vocabulary);
    token->log_probability = token_log_probability(logits, id, log_sum);
    token->top = chances;
    token->top_count = top_chances(chances, top, logits, vocabulary, log_sum);
  }
  text->found_count++;
}

static void make_room(Text *text, int64_t count) {
  if (count <= text->found_capacity) return;
  text->found_capacity = count;
  text->found = memory_grow(text->found, (size_t)count, sizeof *text->found);
  text->found_top = memory_grow(text->found_top, (size_t)(count * text->request.top + 1), sizeof *text->found_top);
}

static void mask(float *masked, const float *logits, int64_t vocabulary, const uint64_t *allowed) {
  for (int64_t i = 0; i < vocabulary; i++) masked[i] = allowed[i / 64] >> (i % 64) & 1 ? logits[i] : -INFINITY;
}

// Draws the token after ids[count - 1]. False when the text is at its end, or it failed.
static bool draw(Text *text, const float *logits, const Engine *engine) {
  const Tokenizer *tokenizer = engine->options.tokenizer;
  const EngineRequest *request = &text->request;
  int64_t vocabulary = engine->model->config.vocabulary;
  const float *own = logits;
  if (request->constraint) {
    mask(text->masked, logits, vocabulary, constraint_mask(request->constraint));
    own = text->masked;
  }
  int32_t id;
  if (failed(text, sampler_next(&id, &text->sampler, own, vocabulary, text->ids, text->count))) return false;
  if (tokenizer && !request->ignores_end && tokenizer_is_end(tokenizer, id)) return text->meets_end = true, false;
  if (request->constraint && failed(text, constraint_accept(request->constraint, id))) return false;
  find(text, id, text->count, logits, vocabulary, request->wants_chances);
  text->new_count++;
  text->ids[text->count++] = id;
  return true;
}

void text_draw(Text *text, const Pass *pass, const Engine *engine) {
  const EngineRequest *request = &text->request;
  int64_t vocabulary = engine->model->config.vocabulary, row = 0;
  text->found_count = text->new_count = 0;
  if (request->wants_embedding) return;
  make_room(text, text->wanted + 1);
  for (; !text->is_writing && row < text->wanted; row++) {
    int64_t position = text->first_wanted_position + row + 1;
    if (position == request->prompt_count) break;
    find(text, text->ids[position], position, pass_logits(pass, text->first_wanted + row), vocabulary, true);
  }
  bool is_first = !text->is_writing && row < text->wanted;
  if (!text->is_writing && !is_first) return;
  for (int64_t draft = 0; row < text->wanted && draw(text, pass_logits(pass, text->first_wanted + row), engine); row++, draft++)
    if (is_first || draft >= text->draft_count || text->ids[text->count - 1] != text->drafts[draft]) break;
}
