// A recipe: what a run is told, as one struct. A field bears its key's name; the schema table in
// schema.c says each key's type, range, default and meaning, and prints docs/recipes.md.
#ifndef RECIPES_RECIPE_H
#define RECIPES_RECIPE_H

#include <stdbool.h>
#include <stdint.h>

#include "core/memory.h"
#include "core/status.h"

// A list of strings.
typedef struct StringList {
  char **items;
  int count;
} StringList;

// key: value pairs, in the recipe's order.
typedef struct StringPairs {
  char **keys, **values;
  int count;
} StringPairs;

// "absent", "false", "true" and "auto" are different things to a user.
typedef enum Choice { CHOICE_ABSENT = -1, CHOICE_FALSE = 0, CHOICE_TRUE = 1, CHOICE_AUTO = 2 } Choice;

// The position of a value in the recipe, for messages; line 0: from the command line or a default.
typedef struct RecipePosition {
  int line, column;
} RecipePosition;

// One entry of datasets[] or test_datasets[], or that of pretraining_dataset.
typedef struct DatasetRecipe {
  RecipePosition position;
  char *path;
  char *hub_id;  // what the recipe says where `path` is now a folder of the Hub's cache; else NULL
  char *type;  // "alpaca", "chat_template", ...; NULL: pre-tokenised rows
  // A `type` given as a mapping:
  bool type_is_mapping;
  char *field_system, *field_instruction, *field_input, *field_output, *format, *no_input_format, *system_format, *system_prompt;
  char *ds_type, *name, *split, *revision, *field, *conversation;
  StringList data_files;
  // Of preference rows, with a `type` given as a mapping:
  char *field_prompt, *field_completion, *field_label, *prompt_format, *chosen_format, *rejected_format, *completion_format;
  char *chat_template, *chat_template_jinja;
  char *field_messages;  // default "messages"
  char *message_field_role, *message_field_content;  // older spellings of message_property_mappings
  StringPairs message_property_mappings;  // property -> field of the row
  char *message_field_training, *message_field_training_detail;
  char *field_tools, *field_thinking, *template_thinking_key, *field_chosen, *field_rejected;
  StringPairs roles;  // target role -> source names joined by ','
  StringList roles_to_train;  // default: assistant
  bool has_roles_to_train;  // an explicit empty list means: none by role
  char *train_on_eos;  // "all", "turn", "last", "none"; NULL: turn
  char *train_on_eot;  // NULL: as train_on_eos
  Choice drop_system_message, split_thinking;
  int64_t shards, shards_idx;
  int64_t skip;  // of pretraining_dataset: rows to pass over
} DatasetRecipe;

// Something that a recipe was told; `key` with its dots, the position of the key or its value.
typedef struct RecipeRemark {
  RecipePosition position;
  char *key, *message;
  bool is_notice;  // else a problem: the recipe is refused
} RecipeRemark;

typedef struct Recipe {
  char *path;  // of the recipe file
  Arena arena;  // holds everything below
  char *resolved;  // the recipe with its overrides, as YAML text, for output_dir/recipe.yml
  RecipeRemark *remarks;  // everything that was said about it, in order
  int remark_count, problem_count;  // problems among them
  struct Node *tree;  // the YAML that was read, with its overrides; for positions
  bool strict;  // false: unknown keys are warnings

  // Model and tokenizer
  char *base_model_id;  // as hub_id of a dataset
  char *base_model, *tokenizer_config, *revision_of_model, *chat_template, *chat_template_jinja, *default_system_message;
  StringPairs special_tokens;  // pad_token, eos_token, bos_token, unk_token
  StringList additional_special_tokens, tokens, eot_tokens;
  StringPairs added_tokens_overrides, chat_template_kwargs;
  StringPairs model_config;  // overrides of the model's own configuration
  Choice resize_token_embeddings_to_32x, trust_remote_code;

  // Adapter
  char *adapter;  // "lora", "qlora", one that is not built yet, or NULL (full fine-tuning)
  bool load_in_4bit, load_in_8bit;
  int64_t lora_r;
  double lora_alpha, lora_dropout;
  StringList lora_target_modules;  // empty with lora_target_modules_regex set: a string is a regex matched in full
  char *lora_target_modules_regex;
  bool lora_target_linear;
  StringList lora_modules_to_save;
  char *lora_model_dir;
  StringPairs lora_rank_pattern, lora_alpha_pattern;
  bool peft_use_dora, peft_use_rslora;
  int64_t *peft_layers_to_transform;
  int peft_layers_to_transform_count;
  StringList peft_layers_pattern;
  StringList peft_trainable_token_indices;  // ids; of a mapping of modules to ids, that mapping as JSON
  char *peft_init_lora_weights;
  int64_t peft_loftq_bits;  // peft: {loftq_config: {loftq_bits}}; 0: absent
  double loraplus_lr_ratio, loraplus_lr_embedding;  // 0: off

  // Data
  DatasetRecipe *datasets, *test_datasets;
  int dataset_count, test_dataset_count;
  double val_set_size;
  char *dataset_prepared_path;
  bool train_on_inputs;
  int64_t sequence_len, eval_sequence_len, min_sample_len;  // eval_sequence_len 0: as sequence_len
  char *excess_length_strategy;  // "drop", "truncate", "raise"
  bool shuffle_merged_datasets, shuffle_before_merging_datasets, curriculum_sampling, dataset_exact_deduplication, group_by_length;
  bool sample_packing, sample_packing_sequentially;
  Choice eval_sample_packing, pad_to_sequence_len;
  int64_t sample_packing_group_size, sample_packing_bin_size;
  int64_t seed;
  bool has_pretraining;
  DatasetRecipe pretraining;  // of pretraining_dataset: `field` is its text_column, default "text"
  bool streaming;
  int64_t streaming_multipack_buffer_size;  // rows of a chunk

  // Batch and optimiser
  int64_t batch_size;  // micro_batch_size * gradient_accumulation_steps, when it was given; else 0
  int64_t micro_batch_size, gradient_accumulation_steps, eval_batch_size;  // eval_batch_size 0: as micro_batch_size
  double num_epochs;
  int64_t max_steps;  // 0: by epochs
  char *optimizer;
  StringPairs optim_args;
  double learning_rate, weight_decay, max_grad_norm, adam_beta1, adam_beta2, adam_epsilon;
  double adam_beta3, adam_epsilon2;  // of optimisers that have them; 0: their own defaults
  char *lr_scheduler;
  StringPairs lr_scheduler_kwargs;
  double cosine_min_lr_ratio, cosine_constant_lr_ratio;  // 0: off
  int64_t warmup_steps;  // -1: absent
  double warmup_ratio;  // -1: absent
  bool lr_quadratic_warmup;
  StringList lr_groups;  // each as JSON
  double embedding_lr, embedding_lr_scale, neftune_noise_alpha;
  double ema_decay;  // 0: no average
  double kl_weight;  // of the divergence from the base; 0: none

  // Memory and precision
  char *bf16;  // "auto", "true", "false", "full"
  bool fp16, tf32;
  char *gradient_checkpointing;  // NULL: chosen by memory; "true", "false", "offload", "offload_disk", "unsloth"
  int64_t max_memory;  // bytes; 0: what the machine has free
  char *device;  // "cpu", "cuda:0"; NULL: cpu

  // Logging, evaluation, saving
  char *output_dir;
  int64_t logging_steps;
  double eval_steps, save_steps;  // 0: absent; below 1 a fraction of all steps
  double evals_per_epoch, saves_per_epoch;  // 0: absent
  char *eval_strategy, *save_strategy;  // NULL: absent
  int64_t save_total_limit;  // 0: no limit
  bool save_only_model, save_first_step, load_best_model_at_end;
  char *metric_for_best_model;
  Choice greater_is_better;
  int64_t early_stopping_patience;
  char *resume_from_checkpoint;
  bool auto_resume_from_checkpoints;
  double loss_watchdog_threshold;  // 0: off
  int64_t loss_watchdog_patience;
  char *hub_model_id;

  // Preference
  char *rl;  // NULL: supervised
  double rl_beta, orpo_alpha, dpo_label_smoothing, rpo_alpha, kto_desirable_weight, kto_undesirable_weight, simpo_gamma, cpo_alpha;
  StringList dpo_loss_type, dpo_loss_weights;
  bool precompute_ref_log_probs;
  int64_t max_prompt_len;  // 0: any
  char *rl_reference;

  // Distribution and export
  bool shard_base, shard_optimizer;
  int64_t ddp_timeout;
  StringList export_gguf;  // export: {gguf: [...]}
  bool export_merge;
} Recipe;

typedef struct RecipeOverride {
  const char *key, *value;  // key with dots: "datasets.0.path"
} RecipeOverride;

// Reads, overrides, checks. STATUS_USAGE when anything is refused: status_message() then holds one line a
// problem, "FILE:LINE:COL: key: what is wrong, and what to do" (the first 50; all are in `remarks`). Notices are
// logged once each. path "-" is stdin. Release the recipe in either case.
Status recipe_load(Recipe *recipe, const char *path, const RecipeOverride *overrides, int override_count);
// The same from text; `path` only names it. For tests and fuzzing.
Status recipe_parse(Recipe *recipe, const char *path, const char *text, size_t length, const RecipeOverride *overrides, int override_count);
void recipe_release(Recipe *recipe);

// The model as its users know it: its id on the Hub, else base_model.
const char *recipe_model_name(const Recipe *recipe);
// Where a key stands, with dots ("datasets.0.path"); line 0 when the recipe does not have it.
RecipePosition recipe_position(const Recipe *recipe, const char *key);
// Sets the message "FILE:LINE:COL: key: ..." for a key that turns out wrong later; returns `code`.
Status recipe_fail(const Recipe *recipe, Status code, const char *key, const char *format, ...) PRINTF_LIKE(4, 5);

// Why a known type of dataset is refused, and what to use; NULL: it is not.
const char *dataset_type_refusal(const char *type);

// Whether rows of a type (one word, no mapping) can train by a method of `rl`; else appends why not, and what can.
bool preference_type_fits(Buffer *reason, const char *type, const char *rl);

// What `train` says before it starts about keys that validate but are not built yet (rl, dora, optimisers...);
// STATUS_USAGE with a line for each, its position and what works instead, or STATUS_OK.
Status recipe_check_trainable(const Recipe *recipe);

// Appends what the recipe says of the shape of rows, a key a line, the same for the same settings: what a cache of rows depends on.
void recipe_write_row_settings(Buffer *out, const Recipe *recipe);

// Prints docs/recipes.md: every key with type, default and meaning, from the schema table.
void recipe_print_reference(Buffer *out);

#endif
