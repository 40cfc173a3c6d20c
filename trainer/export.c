// What a finished run leaves in output_dir: the adapter as PEFT and GGUF, the recipe as it was resolved, and the model
// card that says how it was made.
#include <math.h>
#include <string.h>
#include <stdlib.h>

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
                adapter->rslora ? ", rank-stabilised" : "");
  buffer_format(card, "| adapted linear layers | %d of %d |\n| trainable parameters | %lld |\n", adapter->count, run->model->linear_count,
                (long long)adapter->size);
  buffer_format(card, "| steps | %lld of %lld sequences each |\n", (long long)run->total_steps,
                (long long)(recipe->micro_batch_size * recipe->gradient_accumulation_steps));
  buffer_format(card, "| sequence length, packing | %lld, %s |\n", (long long)recipe->sequence_len, recipe->sample_packing ? "yes" : "no");
  buffer_format(card, "| learning rate | %g, %s, %lld warm-up steps |\n", recipe->learning_rate,
                recipe->lr_scheduler ? recipe->lr_scheduler : "cosine", (long long)run->schedule.warmup_steps);
  if (isfinite(loss)) buffer_format(card, "| last step's loss | %.4f |\n", loss);
  if (isfinite(eval_loss)) buffer_format(card, "| evaluation loss, perplexity | %.4f, %.3f |\n", eval_loss, exp(eval_loss));
  buffer_append_string(
      card,
      "\n## Use\n\n`adapter_model.safetensors` is for PEFT; `adapter.gguf` for llama.cpp and `lora`:\n\n```\nlora generate --model BASE "
      "--adapter . --prompt \"...\"\n"
      "lora merge --model BASE --adapter . --output merged.gguf\n```\n\n`recipe.yml` is the whole recipe as it was run.\n");
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

Status run_export(Run *run, double loss, double eval_loss) {
  const char *folder = run->recipe->output_dir;
  char *gguf = path_join(folder, "adapter.gguf"), *recipe = path_join(folder, "recipe.yml"), *card_path = path_join(folder, "README.md");
  Buffer card = {0};
  write_card(&card, run, loss, eval_loss);
  Status status;
  optimizer_show_average(run->optimizer, run->adapter->data);
  TRY_DONE(run->backend->check(run->backend));
  TRY_DONE(adapter_save_peft(run->adapter, folder, recipe_model_name(run->recipe)));
  TRY_DONE(adapter_save_gguf(run->adapter, gguf));
  TRY_DONE(file_write_whole(recipe, run->recipe->resolved, strlen(run->recipe->resolved)));
  TRY_DONE(file_write_whole(card_path, card.data, card.length));
  TRY_DONE(write_chat_template(run));
  log_info("the adapter is in %s", folder);
done:
  optimizer_show_training(run->optimizer, run->adapter->data);
  buffer_release(&card);
  free(gguf);
  free(recipe);
  free(card_path);
  return status;
}
