// What a finished run leaves in output_dir: the adapter as PEFT and GGUF, the recipe as it was resolved, and the model
// card that says how it was made.
#include <math.h>
#include <string.h>
#include <stdlib.h>

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

static void write_card(Buffer *card, const Run *run, double loss, double eval_loss) {
  const Recipe *recipe = run->recipe;
  const Adapter *adapter = run->adapter;
  RowStatistics rows = row_set_statistics(&run->train_rows);
  buffer_append_string(card, "---\nbase_model: ");
  append_quoted(card, recipe_model_name(recipe));
  buffer_append_string(card, "\nlibrary_name: peft\npipeline_tag: text-generation\ntags:\n- lora\n- base_model:adapter\n---\n\n");
  if (recipe->hub_model_id) buffer_format(card, "# %s\n\nA", recipe->hub_model_id);
  else buffer_append_string(card, "# A");
  buffer_format(card, " LoRA adapter for %s\n\nTrained with lora.c %s.\n\n## Data\n\n", path_name(recipe_model_name(recipe)), LORA_VERSION);
  describe_data(card, run);
  buffer_format(card, "\n%lld rows, %lld tokens, %lld of them trained.\n\n## Training\n\n| | |\n|---|---|\n", (long long)rows.rows,
                (long long)rows.tokens, (long long)rows.trained);
  buffer_format(card, "| rank, alpha, dropout | %lld, %g, %g%s |\n", (long long)adapter->rank, adapter->alpha, recipe->lora_dropout,
                adapter->dora     ? ", DoRA"
                : adapter->rslora ? ", rank-stabilised"
                                  : "");
  buffer_format(card, "| adapted linear layers | %d of %d |\n| trainable parameters | %lld |\n", adapter->count, run->model->linear_count,
                (long long)adapter->size);
  buffer_format(card, "| steps | %lld of %lld sequences each |\n", (long long)run->total_steps,
                (long long)(recipe->micro_batch_size * recipe->gradient_accumulation_steps));
  buffer_format(card, "| sequence length, packing | %lld, %s |\n", (long long)recipe->sequence_len, recipe->sample_packing ? "yes" : "no");
  buffer_format(card, "| learning rate | %g, %s, %lld warm-up steps |\n", recipe->learning_rate,
                recipe->lr_scheduler ? recipe->lr_scheduler : "cosine", (long long)run->schedule.warmup_steps);
  if (isfinite(loss)) buffer_format(card, "| last step's loss | %.4f |\n", loss);
  if (isfinite(eval_loss)) buffer_format(card, "| evaluation loss, perplexity | %.4f, %.3f |\n", eval_loss, exp(eval_loss));
  buffer_format(card,
                "\n## Use\n\n`adapter_model.safetensors` is for PEFT and `lora`%s:\n\n```\nlora generate --model BASE "
                "--adapter . --prompt \"...\"\n"
                "lora merge --model BASE --adapter . --output merged.gguf\n```\n\n`recipe.yml` is the whole recipe as it was run.\n",
                adapter_gguf_obstacle(adapter) ? "" : "; `adapter.gguf` for llama.cpp and `lora`");
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

// base + adapter as one GGUF file, from the files: what was trained on may lie on a device, or be in other blocks.
static Status merge_into(const char *path, const Recipe *recipe) {
  Backend *backend = NULL;
  Model *model = NULL;
  Adapter *adapter = NULL;
  MergeReport report;
  Status status;
  TRY_DONE(backend_new(&backend, "cpu", 0));
  TRY_DONE(model_open(&model, recipe->base_model, (ModelOptions){0}, backend));
  TRY_DONE(adapter_open(&adapter, model, (const char *const[]){recipe->output_dir}, NULL, 1, false));
  TRY_DONE(merge_write_gguf(&report, model, path, (MergeOptions){0}));
done:
  adapter_close(adapter);
  model_close(model);
  if (backend) backend_free(backend);
  return status;
}

// For llama.cpp: a GGUF adapter; where there can be none, the merged model in its place, unless `export` makes one in any case. The PEFT
// folder is there by now, so what goes wrong with that is no reason to fail.
static Status write_gguf(const Run *run) {
  const Recipe *recipe = run->recipe;
  const char *obstacle = adapter_gguf_obstacle(run->adapter);
  char *path = path_join(recipe->output_dir, "adapter.gguf"), *merged = path_join(recipe->output_dir, "merged.gguf");
  Status status = STATUS_OK;
  if (!obstacle) {
    status = adapter_save_gguf(run->adapter, path);
  } else {
    (void)remove(path);  // of an earlier run: it would not belong to this adapter
    bool is_asked = recipe->export_gguf.count > 0;
    log_notice("there is no adapter.gguf: %s; %s", obstacle, is_asked ? "export writes merged models" : "merged.gguf is the model with it");
    if (!is_asked && merge_into(merged, recipe) != STATUS_OK) log_warning("merged.gguf was not written: %s", status_message());
  }
  free(path);
  free(merged);
  return status;
}

Status run_export(Run *run, double loss, double eval_loss) {
  const char *folder = run->recipe->output_dir;
  char *recipe = path_join(folder, "recipe.yml"), *card_path = path_join(folder, "README.md");
  Buffer card = {0};
  write_card(&card, run, loss, eval_loss);
  Status status;
  TRY_DONE(run->backend->check(run->backend));
  TRY_DONE(adapter_save_peft(run->adapter, folder, recipe_model_name(run->recipe)));
  TRY_DONE(write_gguf(run));
  TRY_DONE(file_write_whole(recipe, run->recipe->resolved, strlen(run->recipe->resolved)));
  TRY_DONE(file_write_whole(card_path, card.data, card.length));
  TRY_DONE(write_chat_template(run));
  log_info("the adapter is in %s", folder);
done:
  buffer_release(&card);
  free(recipe);
  free(card_path);
  return status;
}
