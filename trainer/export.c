// What a finished run leaves in output_dir: the adapter as PEFT and GGUF, or the model where all of it was trained, the recipe as it was
// resolved, and the model card that says how it was made.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "adapters/merge.h"
#include "core/log.h"
#include "trainer/run.h"

// Text in a YAML double-quoted string.
static void append_quoted(Buffer *out, const char *text) {
  buffer_append_string(out, "\"");
  for (; *text; text++) {
    if (*text == '"' || *text == '\\') buffer_append_string(out, "\\");
    if ((unsigned char)*text >= ' ') buffer_append(out, text, 1);
  }
  buffer_append_string(out, "\"");
}

static void describe_data(Buffer *card, const Run *run) {
  for (int i = 0; i < run->recipe->dataset_count; i++) {
    const DatasetRecipe *dataset = &run->recipe->datasets[i];
    buffer_format(card, "- `%s` as %s\n", dataset->hub_id ? dataset->hub_id : path_name(dataset->path),
                  dataset->type              ? dataset->type
                  : dataset->type_is_mapping ? "format strings"
                                             : "tokenised rows");
  }
}

static void write_settings(Buffer *card, const Run *run, double loss, double eval_loss) {
  const Recipe *recipe = run->recipe;
  const Adapter *adapter = run->adapter;
  char *trained = run_describe_trained(run);
  if (!adapter->is_full)
    buffer_format(card, "| rank, alpha, dropout | %lld, %g, %g%s |\n", (long long)adapter->rank, adapter->alpha, recipe->lora_dropout,
                  adapter->dora     ? ", DoRA"
                  : adapter->rslora ? ", rank-stabilised"
                                    : "");
  buffer_format(card, "| trained | %s |\n| trainable parameters | %lld |\n", trained, (long long)adapter->size);
  free(trained);
  buffer_format(card, "| steps | %lld of %lld sequences each |\n", (long long)run->total_steps,
                (long long)(recipe->micro_batch_size * recipe->gradient_accumulation_steps));
  buffer_format(card, "| sequence length, packing | %lld, %s |\n", (long long)recipe->sequence_len, recipe->sample_packing ? "yes" : "no");
  buffer_format(card, "| learning rate | %g, %s, %lld warm-up steps |\n", recipe->learning_rate,
                recipe->lr_scheduler ? recipe->lr_scheduler : "cosine", (long long)run->schedule.warmup_steps);
  if (isfinite(loss)) buffer_format(card, "| last step's loss | %.4f |\n", loss);
  if (isfinite(eval_loss)) buffer_format(card, "| evaluation loss, perplexity | %.4f, %.3f |\n", eval_loss, exp(eval_loss));
}

static const char use_model[] =
    "\n## Use\n\nThe folder is a model of its own, for transformers and `lora`:\n\n```\nlora generate --model . --prompt \"...\"\n"
    "lora export --model . --output model.gguf\n```\n";
static const char use_adapter[] =
    "\n## Use\n\n`adapter_model.safetensors` is for PEFT; `adapter.gguf` for llama.cpp and `lora`:\n\n```\nlora generate --model BASE "
    "--adapter . --prompt \"...\"\nlora merge --model BASE --adapter . --output merged.gguf\n```\n";
static const char use_merged[] =
    "\n## Use\n\n`adapter_model.safetensors` is for PEFT and `lora`. A GGUF adapter cannot hold what was trained here, so `merged.gguf`, "
    "the base with all of it, is for llama.cpp:\n\n```\nlora generate --model BASE --adapter . --prompt \"...\"\n"
    "lora generate --model merged.gguf --prompt \"...\"\n```\n";

static void write_card(Buffer *card, const Run *run, double loss, double eval_loss) {
  const Recipe *recipe = run->recipe;
  bool is_full = run->adapter->is_full;
  RowStatistics rows = row_set_statistics(&run->train_rows);
  buffer_append_string(card, "---\nbase_model: ");
  append_quoted(card, recipe_model_name(recipe));
  buffer_format(card, "\nlibrary_name: %s\npipeline_tag: text-generation\ntags:\n%s---\n\n", is_full ? "transformers" : "peft",
                is_full ? "- base_model:finetune\n" : "- lora\n- base_model:adapter\n");
  if (recipe->hub_model_id) buffer_format(card, "# %s\n\nA", recipe->hub_model_id);
  else buffer_append_string(card, "# A");
  buffer_format(card, " %s %s\n\nTrained with lora.c %s.\n\n## Data\n\n", is_full ? "fine-tuned" : "LoRA adapter for",
                path_name(recipe_model_name(recipe)), LORA_VERSION);
  describe_data(card, run);
  buffer_format(card, "\n%lld rows, %lld tokens, %lld of them trained.\n\n## Training\n\n| | |\n|---|---|\n", (long long)rows.rows,
                (long long)rows.tokens, (long long)rows.trained);
  write_settings(card, run, loss, eval_loss);
  buffer_append_string(card, is_full ? use_model : adapter_gguf_obstacle(run->adapter) ? use_merged : use_adapter);
  buffer_append_string(card, "\n`recipe.yml` is the whole recipe as it was run.\n");
}

// The template of the conversations, for whoever talks to the adapter: the base may have another, or none.
static Status write_chat_template(const Run *run) {
  char *source;
  TRY(dataset_chat_template(&source, run->recipe, run->tokenizer));
  char *path = path_join(run->recipe->output_dir, "chat_template.jinja");
  Status status = source ? file_write_whole(path, source, strlen(source)) : STATUS_OK;
  free(path);
  free(source);
  return status;
}

static Status write_model(const Run *run, const char *folder) {
  char *source;
  TRY(dataset_chat_template(&source, run->recipe, run->tokenizer));
  Status status = merge_write_files(run->model, folder, source);
  free(source);
  return status;
}

Status run_write_trained(const Run *run, const char *folder) {
  const Recipe *recipe = run->recipe;
  TRY(run->adapter->is_full ? write_model(run, folder) : adapter_save_peft(run->adapter, folder, recipe_model_name(recipe)));
  if (!run->has_new_tokens) return STATUS_OK;
  Arena arena = {0};
  TokenChanges changes = dataset_token_changes(&arena, recipe);
  Status status = tokenizer_copy_folder(folder, dataset_tokenizer_path(recipe), &changes);
  arena_release(&arena);
  return status;
}

// Where it cannot hold what was trained, one of an earlier run must not stay. (Of a full model there is none to speak of.)
static Status write_gguf_adapter(const Run *run) {
  const char *obstacle = adapter_gguf_obstacle(run->adapter);
  char *path = path_join(run->recipe->output_dir, "adapter.gguf");
  Status status = STATUS_OK;
  if (!obstacle) {
    status = adapter_save_gguf(run->adapter, path);
  } else {
    if (!run->adapter->is_full) log_notice("there is no adapter.gguf: %s; merged.gguf is written in place of it", obstacle);
    (void)remove(path);
  }
  free(path);
  return status;
}

Status run_export(Run *run, double loss, double eval_loss) {
  const char *folder = run->recipe->output_dir;
  char *recipe = path_join(folder, "recipe.yml"), *card_path = path_join(folder, "README.md");
  Buffer card = {0};
  write_card(&card, run, loss, eval_loss);
  Status status;
  TRY_DONE(run->backend->check(run->backend));
  TRY_DONE(run_write_trained(run, folder));
  TRY_DONE(write_gguf_adapter(run));
  TRY_DONE(file_write_whole(recipe, run->recipe->resolved, strlen(run->recipe->resolved)));
  TRY_DONE(file_write_whole(card_path, card.data, card.length));
  TRY_DONE(write_chat_template(run));
  log_info("the %s is in %s", run->adapter->is_full ? "model" : "adapter", folder);
done:
  buffer_release(&card);
  free(recipe);
  free(card_path);
  return status;
}
