// One pass: which rows of which texts, the graph for them, and what comes of their logits. Rows of texts that are being written come first, those of
// prompts after them; within each, texts of one adapter lie together.
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "runtime/draft.h"
#include "runtime/engine_parts.h"

struct Pass {
  Engine *engine;
  Tape tape;
  Tensor *logits, *hidden;
  int64_t graph_rows, graph_wanted;  // that the graph was built for
  bool has_hidden;
  int64_t most_rows, most_wanted, table_entries;
  // What the graph reads:
  int32_t *ids, *positions, *slots, *wanted, *tables;
  PagedInput paged;
  PagedSpan *spans;
  RowGroup *groups, *wanted_groups;
  int64_t rows, wanted_count, span_count, table_count;
  int group_count, wanted_group_count;
  Text **texts;  // of the pass
  int64_t text_count;
  float *results;  // [most_wanted, vocabulary]: logits on the host
  float *states;  // [most_rows, hidden]: of embeddings
};

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

void pass_new(Pass **out, Engine *engine) {
  const EngineOptions *options = &engine->options;
  const ModelConfig *config = &engine->model->config;
  Pass *pass = *out = memory_new(1, sizeof *pass);
  int64_t writing = options->parallel * (1 + options->drafts);
  pass->engine = engine;
  pass->most_rows = writing + options->chunk;
  pass->most_wanted = writing + larger(WANTED_ROWS, options->parallel);
  pass->table_entries = options->parallel * ((options->context + PAGE_TOKENS - 1) / PAGE_TOKENS);
  size_t rows = (size_t)pass->most_rows, texts = (size_t)options->parallel;
  pass->ids = memory_new(rows, sizeof *pass->ids);
  pass->positions = memory_new(rows, sizeof *pass->positions);
  pass->slots = memory_new(rows, sizeof *pass->slots);
  pass->wanted = memory_new((size_t)larger(pass->most_wanted, pass->most_rows), sizeof *pass->wanted);
  pass->tables = memory_new((size_t)pass->table_entries, sizeof *pass->tables);
  pass->spans = memory_new(texts, sizeof *pass->spans);
  pass->groups = memory_new(texts, sizeof *pass->groups);
  pass->wanted_groups = memory_new(texts, sizeof *pass->wanted_groups);
  pass->texts = memory_new(texts, sizeof *pass->texts);
  pass->results = memory_new((size_t)(pass->most_wanted * config->vocabulary), sizeof *pass->results);
  pass->states = memory_new(rows * (size_t)config->hidden, sizeof *pass->states);
  pass->paged = (PagedInput){.layers = page_store_layers(engine->store),
                             .slots = pass->slots,
                             .tables = pass->tables,
                             .table_count = pass->table_entries,
                             .context = options->context};
  tape_new(&pass->tape, engine->model->backend);
}

void pass_free(Pass *pass) {
  if (!pass) return;
  tape_free(&pass->tape);
  free(pass->ids);
  free(pass->positions);
  free(pass->slots);
  free(pass->wanted);
  free(pass->tables);
  free(pass->spans);
  free(pass->groups);
  free(pass->wanted_groups);
  free(pass->texts);
  free(pass->results);
  free(pass->states);
  free(pass);
}

float *pass_logits(const Pass *pass, int64_t wanted) { return pass->results + wanted * pass->engine->model->config.vocabulary; }

static void add_group(RowGroup *groups, int *count, int64_t begin, int64_t end, int adapter) {
  if (adapter < 0 || begin == end) return;
  RowGroup *last = *count ? &groups[*count - 1] : NULL;
  if (last && last->adapter == adapter && last->end == begin) last->end = end;
  else groups[(*count)++] = (RowGroup){begin, end, adapter};
}

// Appends rows of a text: tokens behind those whose keys and values are there, ids[0 .. count - 1] of them, and wants the last `wanted`.
static void add_rows(Pass *pass, Text *text, const int32_t *ids, int64_t count, int64_t wanted) {
  PageList *pages = &text->pages;
  text->first_row = pass->rows;
  text->rows = count;
  text->first_wanted = pass->wanted_count;
  text->wanted = wanted;
  text->first_wanted_position = pages->tokens + count - wanted;
  page_list_extend(pass->slots + pass->rows, pages, pass->engine->store, count);
  for (int64_t i = 0; i < count; i++) {
    pass->ids[pass->rows + i] = ids[i];
    pass->positions[pass->rows + i] = (int32_t)(pages->tokens + i);
  }
  for (int64_t i = 0; i < wanted; i++) pass->wanted[pass->wanted_count + i] = (int32_t)(pass->rows + count - wanted + i);
  pass->spans[pass->span_count++] = (PagedSpan){.query_begin = pass->rows,
                                                .query_end = pass->rows + count,
                                                .length = pages->tokens + count,
                                                .table = pass->table_count,
                                                .is_alone = text->is_writing};
  for (int64_t i = 0; i < pages->count; i++) pass->tables[pass->table_count++] = page_number(pages, i);
  add_group(pass->groups, &pass->group_count, pass->rows, pass->rows + count, text->request.adapter);
  add_group(pass->wanted_groups, &pass->wanted_group_count, pass->wanted_count, pass->wanted_count + wanted, text->request.adapter);
  pass->rows += count;
  pass->wanted_count += wanted;
  pass->texts[pass->text_count++] = text;
}

// The last token, and what may follow it.
static void add_writer(Pass *pass, Text *text) {
  int64_t left = text->most - text->count;  // new tokens that there is room for; the last is never read
  int64_t most = smaller(smaller(pass->engine->options.drafts, ENGINE_DRAFTS), left - 1);
  text->draft_count = 0;
  if (text->draft_rest > 0) text->draft_rest--;
  else if (most > 0) text->draft_count = draft_lookup(text->drafts, text->ids, text->count, most);
  int32_t ids[ENGINE_DRAFTS + 1];
  ids[0] = text->ids[text->count - 1];
  memcpy(ids + 1, text->drafts, (size_t)text->draft_count * sizeof *ids);
  add_rows(pass, text, ids, 1 + text->draft_count, 1 + text->draft_count);
}

// How many of `count` rows of a prompt from token `first` on have logits that somebody wants: a row's are of the token after it.
static int64_t wanted_rows(const Text *text, int64_t first, int64_t count) {
  const EngineRequest *request = &text->request;
  int64_t from = request->prompt_count - (request->max_tokens > 0);  // from the last row the first new token is drawn
  if (request->chances_from > 0) from = smaller(from, request->chances_from - 1);
  return larger(0, first + count - larger(first, from));
}

// Gives a prompt its share of the rows, as far as they and the wanted ones go.
static void share_rows(Text *text, int64_t *rows_left, int64_t *wanted_left) {
  int64_t first = text->pages.tokens, count = smaller(text_target(text) - first, *rows_left);
  int64_t wanted = text->request.wants_embedding ? count : wanted_rows(text, first, count);
  if (!text->request.wants_embedding) {
    if (wanted > *wanted_left) count -= wanted - *wanted_left, wanted = *wanted_left;
    *wanted_left -= wanted;
  }
  *rows_left -= count;
  text->rows = count, text->wanted = wanted;
}

static bool is_read(const Text *text, bool of_embeddings) { return !text->is_writing && text->request.wants_embedding == of_embeddings; }

static void choose_rows(Pass *pass, bool of_embeddings) {
  const Engine *engine = pass->engine;
  pass->rows = pass->wanted_count = pass->span_count = pass->table_count = pass->text_count = 0;
  pass->group_count = pass->wanted_group_count = 0;
  int adapters = engine->options.adapters ? adapter_bank_count(engine->options.adapters) : 0;
  for (int adapter = -1; adapter < adapters && !of_embeddings; adapter++)
    for (Text *text = engine->running.first; text; text = text->next)
      if (text->is_writing && text->request.adapter == adapter) add_writer(pass, text);
  pass->paged.kinds.alone = pass->paged.wanted_kinds.alone = pass->rows;
  // Those that came first have the first choice, whatever their adapter.
  int64_t rows = pass->rows > 0 ? smaller(MIXED_CHUNK, engine->options.chunk) : engine->options.chunk, wanted = WANTED_ROWS;
  for (Text *text = engine->running.first; text; text = text->next)
    if (is_read(text, of_embeddings)) share_rows(text, &rows, &wanted);
  for (int adapter = -1; adapter < adapters; adapter++)
    for (Text *text = engine->running.first; text; text = text->next)
      if (is_read(text, of_embeddings) && text->request.adapter == adapter && text->rows > 0)
        add_rows(pass, text, text->ids + text->pages.tokens, text->rows, text->wanted);
}

// Builds the graph for so many rows, unless it is the one that stands.
static Status build_graph(Pass *pass, bool of_embeddings) {
  const Model *model = pass->engine->model;
  if (pass->graph_rows == pass->rows && pass->graph_wanted == pass->wanted_count && pass->has_hidden == of_embeddings) return STATUS_OK;
  pass->graph_rows = 0;
  tape_begin(&pass->tape, TAPE_FORWARD);
  bool is_silent = pass->wanted_count == 0;  // only keys and values
  DecoderInput input = {.ids = pass->ids,
                        .positions = pass->positions,
                        .tokens = pass->rows,
                        .paged = &pass->paged,
                        .rows = pass->wanted,
                        .row_count = is_silent ? 1 : pass->wanted_count};
  pass->hidden = decoder_hidden(&pass->tape, model, &input);
  pass->logits = is_silent || of_embeddings ? NULL : decoder_logits(&pass->tape, model, pass->hidden);
  tape_keep(pass->logits ? pass->logits : pass->hidden);
  tape_plan(&pass->tape, 0);
  TRY(tape_reserve(&pass->tape));
  pass->graph_rows = pass->rows;
  pass->graph_wanted = pass->wanted_count;
  pass->has_hidden = of_embeddings;
  return STATUS_OK;
}

static Status compute(Pass *pass, bool of_embeddings) {
  Backend *backend = pass->engine->model->backend;
  PagedInput *paged = &pass->paged;
  bool in_int8 = !pass->engine->options.is_exact;
  paged->batch = (PagedBatch){pass->spans, pass->span_count};
  paged->kinds.in_int8 = paged->wanted_kinds.in_int8 = in_int8;
  paged->kinds.groups = pass->groups, paged->kinds.group_count = pass->group_count;
  paged->wanted_kinds.groups = pass->wanted_groups, paged->wanted_kinds.group_count = pass->wanted_group_count;
  if (pass->wanted_count == 0) pass->wanted[0] = 0;
  TRY(build_graph(pass, of_embeddings));
  tape_forward(&pass->tape);
  if (pass->logits) tape_read(pass->results, &pass->tape, pass->logits);
  else if (of_embeddings) tape_read(pass->states, &pass->tape, pass->hidden);
  return backend->check(backend);
}

static void add_states(Pass *pass, Text *text) {
  int64_t columns = pass->engine->model->config.hidden;
  if (!text->hidden_sum) text->hidden_sum = memory_new((size_t)columns, sizeof *text->hidden_sum);
  for (int64_t i = 0; i < text->rows; i++)
    for (int64_t c = 0; c < columns; c++) text->hidden_sum[c] += pass->states[(text->first_row + i) * columns + c];
}

Status pass_run(bool *did, Pass *pass) {
  bool of_embeddings = !pass->has_hidden;  // by turns, where there are both
  choose_rows(pass, of_embeddings);
  if (pass->rows == 0) choose_rows(pass, of_embeddings = !of_embeddings);
  *did = pass->rows > 0;
  if (!*did) return STATUS_OK;
  TRY(compute(pass, of_embeddings));
  for (int64_t i = 0; i < pass->text_count && of_embeddings; i++) add_states(pass, pass->texts[i]);
  return STATUS_OK;
}

Text **pass_texts(const Pass *pass, int64_t *count) {
  *count = pass->text_count;
  return pass->texts;
}
