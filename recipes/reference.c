// docs/recipes.md, from the schema: the same rows that recipes are read by.
#include <string.h>

#include "core/text.h"
#include "recipes/schema.h"

static const char head[] =
    "# Recipes\n\n"
    "<!-- Printed by `lora validate --reference` from the schema; do not edit. -->\n\n"
    "A recipe is a YAML file with the keys of Axolotl 0.18. `lora validate RECIPE...` says what stands against recipes, without a\n"
    "model or data: a line a problem, `FILE:LINE:COLUMN: key: what is wrong, and what to do`, and exit code 2; or 0. `--files`\n"
    "looks for the files that they name too, `--json` is for programs, and `-` reads standard input.\n\n"
    "Every key has one of these fates:\n\n"
    "- it **works**, as the tables below say;\n"
    "- it **validates**, and `train` says that it is not built yet (marked *not yet*);\n"
    "- it **changes nothing** here, which one notice says;\n"
    "- it is **refused** while it asks for something, with what to do instead;\n"
    "- it is **ignored by Axolotl** too: a notice, with what may have been meant.\n\n"
    "A key that is in no list is an error that names the nearest known one; `strict: false` makes it a notice.\n\n"
    "## How values are written\n\n"
    "- An empty value, `~` and `null` are as if the key were not there, of refused keys too. So is an empty text, or `false`\n"
    "  where no truth is asked for.\n"
    "- `true` and `false` may be written yes, no, on, off, 1, 0, and in quotes. Numbers may be in quotes; `2e-5` is a number,\n"
    "  and so are `1_000`, `.5` and `2.0` for a whole one.\n"
    "- Where a list is asked for, one value alone is a list of one. Anchors, aliases and merge keys (`<<`) work.\n"
    "- A key that is there twice has its last value, which a notice says.\n"
    "- Any key can be given on the command line: `--learning_rate 1e-4`, `--datasets.0.path rows.jsonl`,\n"
    "  `--lora_target_modules '[q_proj, v_proj]'`. That wins, and an empty one takes the key away.\n\n";

// What recipe_check (check.c) and the readers say of keys beside each other.
static const char *const checks[] = {
    "`base_model`, `learning_rate`, and `datasets` or `pretraining_dataset` must be there; both of the latter two must not.",
    "At least two of `micro_batch_size`, `gradient_accumulation_steps` and `batch_size` are needed, and the latter two exclude each other.",
    "`load_in_4bit` and `load_in_8bit` need an adapter and exclude each other; `adapter: qlora` needs `load_in_4bit`.",
    "An adapter needs `lora_r` and `lora_alpha`, unless `lora_model_dir` has them.",
    "`tokens` beside an adapter need `lora_modules_to_save: [embed_tokens, lm_head]`, or `peft_trainable_token_indices`.",
    "`peft_layers_pattern` needs `peft_layers_to_transform`.",
    "`warmup_steps` and `warmup_ratio`, `save_steps` and `saves_per_epoch`, `eval_steps` and `evals_per_epoch` exclude each other.",
    "`save_steps` and `saves_per_epoch` go with `save_strategy: steps` only, `eval_steps` and `evals_per_epoch` with `eval_strategy: "
    "steps`.",
    "`eval_steps`, `eval_strategy` and `do_bench_eval` need evaluation data; `evals_per_epoch` without is only noticed.",
    "`val_set_size` and `test_datasets` exclude each other.",
    "`early_stopping_patience` needs saves that fall on evaluations: `save_steps` a multiple of `eval_steps`, or the same per epoch.",
    "`save_strategy: best` needs `metric_for_best_model`.",
    "`sample_packing` excludes `rl`, `s2_attention` and `batch_flattening`; with `eval_table_size` it needs `eval_sample_packing: false`, "
    "as "
    "`do_causal_lm_eval` does.",
    "`bf16` and `fp16` exclude each other.",
    "`chat_template: jinja` needs `chat_template_jinja`, which alone means jinja.",
    "`tokenizer_use_mistral_common` excludes `special_tokens`, `tokens`, `added_tokens_overrides` and `chat_template`.",
    "`streaming` and `pretraining_dataset` need `max_steps`, and exclude `group_by_length` and `rl`.",
    "`train` wants a `micro_batch_size` of 2 or more with `rl: kto`; `exo_pair` and `robust` need a `dpo_label_smoothing` above 0 and "
    "below 0.5.",
    "`dpo_loss_weights` are as many as `dpo_loss_type`; `rl: ipo` has no other loss beside it.",
    "Of `flash_attention`, `xformers_attention`, `sdp_attention` and `flex_attention` one at most is on; likewise `liger_glu_activation` "
    "and "
    "`liger_swiglu`, `liger_cross_entropy` and `liger_fused_linear_cross_entropy`, and the `is_..._derived_model`.",
    "An older spelling beside the newer one must say the same.",
    "In a dataset: `no_input_format` has no `{input}`; `shards_idx` is less than `shards`, which excludes `preprocess_shards`; "
    "`message_field_role` and "
    "`message_field_content` agree with `message_property_mappings`.",
    "A type of preference training without `rl`, or one without pairs beside it, is noticed.",
};

static const char *kind_text(const SchemaKey *key) {
  switch (key->kind) {
    case VALUE_TEXT: return "text";
    case VALUE_BOOLEAN:
    case VALUE_CHOICE: return "true, false";
    case VALUE_INTEGER: return "whole number";
    case VALUE_NUMBER: return "number";
    case VALUE_WORD: return "";
    case VALUE_TEXTS: return "list";
    case VALUE_PAIRS: return "mapping";
    case VALUE_SPECIAL: return key->form;
  }
  return "";
}

static void print_type(Buffer *out, const SchemaKey *key) {
  bool number = key->kind == VALUE_INTEGER || key->kind == VALUE_NUMBER;
  int words = 0;
  while (key->kind == VALUE_WORD && key->words[words]) words++;
  buffer_append_string(out, kind_text(key));
  if (number && key->max < 1e6) buffer_format(out, ", %g to %g", key->min, key->max);
  else if (number) buffer_format(out, ", from %g", key->min);
  if (words > 12) buffer_append_string(out, "a name below");
  for (int i = 0; i < words && words <= 12; i++) buffer_format(out, "%s%s", i ? ", " : "", key->words[i]);
}

static void print_rows(Buffer *out, const SchemaTable *table) {
  static const char columns[] = "| key | value | default | meaning |\n|---|---|---|---|\n";
  if (table->keys[0].fate != KEY_SECTION) buffer_append_string(out, columns);
  for (int i = 0; i < table->count; i++) {
    const SchemaKey *key = &table->keys[i];
    if (key->fate == KEY_SECTION) {
      buffer_format(out, "%s### %s\n\n%s", i ? "\n" : "", key->doc, columns);
      continue;
    }
    if (key->fate != KEY_WORKS && key->fate != KEY_LATER) continue;
    buffer_format(out, "| `%s` | ", key->names);
    print_type(out, key);
    const char *fallback = key->fallback && strcmp(key->fallback, "-1") != 0 ? key->fallback : "";
    buffer_format(out, " | %s | %s%s%s%s |\n", fallback, key->fate == KEY_LATER ? "*not yet*: " : "", key->doc, key->idle ? ": " : "",
                  key->idle ? key->idle : "");
  }
}

static void print_names(Buffer *out, const char *names) {
  for (const char *p = names; *p;) {
    size_t length = strcspn(p, " ");
    buffer_format(out, "%s`%.*s`", p == names ? "" : ", ", (int)length, p);
    p += length;
    p += strspn(p, " ");
  }
}

static void print_group(Buffer *out, const SchemaTable *table, KeyFate fate, KeyFate also) {
  for (int i = 0; i < table->count; i++) {
    const SchemaKey *key = &table->keys[i];
    if (key->fate != fate && key->fate != also) continue;
    buffer_append_string(out, "- ");
    print_names(out, key->names);
    if (key->doc) buffer_format(out, ": %s", key->doc);
    if (key->meant) buffer_format(out, ": did you mean %s?", key->meant);
    buffer_append_string(out, "\n");
  }
}

typedef bool WordTest(const char *word);

static bool is_any(const char *word) {
  (void)word;
  return true;
}

static bool is_built_optimizer(const char *word) { return !optimizer_refusal(word); }
static bool is_built_scheduler(const char *word) { return !scheduler_refusal(word); }

static bool is_preference_type(const char *word) { return word_is_in(preference_type_words, word); }

// "- **title**: a, b", of the words that pass the test, or that do not.
static void print_words(Buffer *out, const char *title, const char *const *words, WordTest *test, bool passing) {
  buffer_format(out, "- **%s**: ", title);
  for (int i = 0, printed = 0; words[i]; i++)
    if (test(words[i]) == passing) buffer_format(out, "%s`%s`", printed++ ? ", " : "", words[i]);
  buffer_append_string(out, "\n");
}

static void print_refused_types(Buffer *out) {
  buffer_append_string(out, "- **refused**:");
  static const char *const styled[] = {"reflection:chat", NULL}, *const *const lists[] = {dataset_type_words, styled};
  for (int list = 0, printed = 0; list < 2; list++)
    for (int i = 0; lists[list][i]; i++) {
      const char *reason = dataset_type_refusal(lists[list][i]);
      if (reason) buffer_format(out, "%s `%s` (%s)", printed++ ? "," : "", lists[list][i], reason);
    }
  buffer_append_string(out, "\n");
}

static void print_types(Buffer *out) {
  buffer_append_string(out, "\n### Its `type`, as a name\n\n");
  print_words(out, "trained", dataset_type_words, dataset_type_is_built, true);
  print_refused_types(out);
  print_words(out, "of preference training, with `rl`", dataset_type_words, is_preference_type, true);
  print_words(out, "with a style behind it, `:chat`, `:instruct`, `:chatml` or `:phi`", styled_type_words, is_any, true);
  buffer_append_string(out,
                       "\n`sharegpt` is no more: it is `chat_template` with `field_messages: conversations` and\n"
                       "`message_property_mappings: {role: from, content: value}`. No type at all: rows have `input_ids` and `labels`.\n");
}

// A line a reason, with all words that follow each other and have it.
static void print_refused_names(Buffer *out, const char *title, const char *const *words, const char *(*refusal)(const char *word)) {
  buffer_format(out, "- **%s, refused**:\n", title);
  for (int i = 0; words[i]; i++) {
    const char *reason = refusal(words[i]), *next = words[i + 1] ? refusal(words[i + 1]) : NULL;
    if (!reason) continue;
    bool is_first = i == 0 || !refusal(words[i - 1]) || strcmp(refusal(words[i - 1]), reason) != 0;
    buffer_format(out, "%s`%s`", is_first ? "  - " : ", ", words[i]);
    if (!next || strcmp(next, reason) != 0) buffer_format(out, " %s\n", reason);
  }
}

static void print_name_lists(Buffer *out) {
  buffer_append_string(out, "\n## Names\n\n");
  print_words(out, "optimizer", optimizer_words, is_built_optimizer, true);
  print_refused_names(out, "optimizer", optimizer_words, optimizer_refusal);
  print_words(out, "lr_scheduler", scheduler_words, is_built_scheduler, true);
  print_refused_names(out, "lr_scheduler", scheduler_words, scheduler_refusal);
  print_words(out, "chat_template", chat_template_words, is_any, true);
  print_words(out, "dpo_loss_type", dpo_loss_words, is_any, true);
}

static void print_fates(Buffer *out) {
  buffer_append_string(out, "\n## Validates, and `train` says that it is not built yet\n\nBeside the keys marked *not yet* above:\n\n");
  print_group(out, &schema_others, KEY_PENDING, KEY_PENDING);
  buffer_append_string(out, "\n## Accepted, and changing nothing here (one notice)\n\n");
  print_group(out, &schema_others, KEY_IDLE, KEY_IDLE);
  buffer_append_string(out, "\nIn a dataset:\n\n");
  print_group(out, &schema_dataset, KEY_IDLE, KEY_IDLE);
  buffer_append_string(out, "\n## Refused while they ask for something, and what to do\n\nNumbers of processes are refused above 1.\n\n");
  print_group(out, &schema_others, KEY_REFUSED, KEY_PARALLEL);
  buffer_append_string(out, "\nIn a dataset:\n\n");
  print_group(out, &schema_dataset, KEY_REFUSED, KEY_PARALLEL);
  buffer_append_string(out, "\n## Ignored by Axolotl too (one notice)\n\n");
  print_group(out, &schema_others, KEY_DEAD, KEY_DEAD);
}

void recipe_print_reference(Buffer *out) {
  buffer_append_string(out, head);
  buffer_append_string(out, "## Keys\n\n");
  print_rows(out, &schema_recipe);
  buffer_append_string(out, "\n## An entry of `datasets` or `test_datasets`\n\n");
  print_rows(out, &schema_dataset);
  print_types(out);
  buffer_append_string(out, "\n### Its `type`, as a mapping\n\n");
  print_rows(out, &schema_dataset_type);
  buffer_append_string(out, "\n## The entry of `pretraining_dataset`\n\nThe keys of an entry of `datasets`, and:\n\n");
  print_rows(out, &schema_pretraining);
  buffer_append_string(out, "\n## Keys beside each other\n\n");
  for (size_t i = 0; i < sizeof checks / sizeof checks[0]; i++) buffer_format(out, "- %s\n", checks[i]);
  print_name_lists(out);
  print_fates(out);
}
