// A piece of the training data, or of a file, as token sequences.
#include "cli/merge_texts.h"

#include <stdlib.h>
#include <string.h>

#include "cli/hub_files.h"
#include "core/file.h"
#include "core/log.h"
#include "data/dataset.h"
#include "data/tokenizer/tokenizer.h"
#include "recipes/recipe.h"

enum { WINDOW_TOKENS = 512, TEXT_LIMIT = 64 << 20 };

static void add_text(MergeTexts *texts, const int32_t *ids, int64_t count) {
  int64_t first = texts->begins[texts->count], room = MERGE_TEXT_TOKENS - first;
  if (count > room) count = room;
  if (count <= 0) return;
  memcpy(texts->ids + first, ids, (size_t)count * sizeof *ids);
  texts->begins[++texts->count] = first + count;
}

// The beginning of a file, in windows that fit the context.
static Status texts_from_file(MergeTexts *out, const char *model, const char *path, int64_t context) {
  Buffer text = {0};
  Tokenizer *tokenizer = NULL;
  TokenList ids = {0};
  Status status = STATUS_OK;
  TRY_DONE(file_read(&text, path, TEXT_LIMIT));
  TRY_DONE(tokenizer_open(&tokenizer, model));
  // No token is longer than its text's bytes are many: 64 bytes a token are more than enough for what is wanted.
  size_t length = text.length < MERGE_TEXT_TOKENS * 64 ? text.length : MERGE_TEXT_TOKENS * 64;
  TRY_DONE(tokenizer_encode(&ids, tokenizer, text.data ? text.data : "", length, TOKENIZE_ADD_SPECIAL));
  int64_t window = context < WINDOW_TOKENS ? context : WINDOW_TOKENS;
  for (int64_t first = 0; first < ids.count; first += window)
    add_text(out, ids.ids + first, ids.count - first < window ? ids.count - first : window);
  if (out->count == 0) status = status_fail(STATUS_BAD_INPUT, "%s: holds no text to measure on", path);
  out->source = memory_copy_string(path);
done:
  token_list_release(&ids);
  tokenizer_free(tokenizer);
  buffer_release(&text);
  return status;
}

// recipe.yml beside the adapter's files, or one folder up (a checkpoint's); NULL when there is none.
static char *find_recipe(const char *adapter) {
  char *folder = directory_exists(adapter) ? memory_copy_string(adapter) : path_parent(adapter), *found = NULL;
  for (int up = 0; up < 2 && !found; up++) {
    char *path = path_join(folder, "recipe.yml"), *parent = path_join(folder, "..");
    if (file_exists(path)) found = memory_copy_string(path);
    free(path);
    free(folder);
    folder = parent;
  }
  free(folder);
  return found;
}

static Status texts_from_recipe(MergeTexts *out, const char *model, const char *path, int64_t context, ThreadPool *pool) {
  Recipe recipe;
  RowSet train = {0}, evaluation = {0};
  Tokenizer *tokenizer = NULL;
  const RecipeOverride base = {"base_model", model};
  Status status = recipe_load(&recipe, path, &base, 1);
  if (status == STATUS_OK) status = recipe_fetch(&recipe, RECIPE_TOKENIZER | RECIPE_DATA);
  if (status == STATUS_OK && dataset_needs_tokenizer(&recipe)) status = dataset_open_tokenizer(&tokenizer, &recipe);
  if (status == STATUS_OK && (recipe.load_in_4bit || recipe.load_in_8bit) && directory_exists(model))
    log_notice("%s: trained over %s weights; the adapter is merged into, and compared on, the float weights of %s", path,
               recipe.load_in_4bit ? "NF4" : "8-bit", model);
  DatasetOptions options = {.pool = pool, .skip_bad_rows = true};
  if (status == STATUS_OK) status = dataset_prepare(&train, &evaluation, &recipe, tokenizer, &options);
  if (status == STATUS_OK)
    for (int64_t i = 0; i < train.count; i++)
      add_text(out, train.rows[i].ids, train.rows[i].count < context ? train.rows[i].count : context);
  row_set_release(&train);
  row_set_release(&evaluation);
  tokenizer_free(tokenizer);
  recipe_release(&recipe);
  return status;
}

Status merge_texts_open(MergeTexts *out, const char *model, const char *adapter, const char *text, int64_t context, ThreadPool *pool) {
  *out = (MergeTexts){.ids = memory_new(MERGE_TEXT_TOKENS, sizeof(int32_t)), .begins = memory_new(MERGE_TEXT_TOKENS + 1, sizeof(int64_t))};
  if (text) return texts_from_file(out, model, text, context);
  char *recipe = find_recipe(adapter);
  if (!recipe) {
    out->source = memory_format("there is no recipe.yml beside %s; give a text with --text FILE", adapter);
  } else if (texts_from_recipe(out, model, recipe, context, pool) == STATUS_OK) {
    out->source = recipe;
    return STATUS_OK;
  } else {
    out->source = memory_format("the training data of %s cannot be read (%s); give a text with --text FILE", recipe, status_message());
    out->count = 0;
  }
  free(recipe);
  return STATUS_OK;
}

void merge_texts_release(MergeTexts *texts) {
  free(texts->ids);
  free(texts->begins);
  free(texts->source);
  *texts = (MergeTexts){0};
}
