// The names that values of recipes may have: optimisers, schedules, chat templates and dataset types of Axolotl 0.18.
#include "recipes/schema.h"

const char *const optimizer_words[] = {
    // AdamW, in every spelling.
    "adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw_bnb_8bit", "adamw_8bit", "adamw_torch_8bit", "adamw_torch_4bit",
    "paged_adamw_8bit", "paged_adamw_32bit", "paged_adamw", "ao_adamw_4bit", "ao_adamw_8bit", "ao_adamw_fp8", "adamw_apex_fused",
    "adamw_anyprecision", "adamw_torch_xla", "adamw_torch_npu_fused", "optimi_adamw", "flash_adamw",
    // Others.
    "adafactor", "adagrad", "adalomo", "ademamix", "ademamix_8bit", "adopt_adamw", "apollo_adamw", "apollo_adamw_layerwise", "came_pytorch",
    "dion", "flash_lion", "flash_sgd", "flash_sgdw", "galore_adafactor", "galore_adafactor_layerwise", "galore_adamw", "galore_adamw_8bit",
    "galore_adamw_8bit_layerwise", "galore_adamw_layerwise", "grokadamw", "lion", "lion_32bit", "lion_8bit", "lion_pytorch", "lomo", "muon",
    "paged_ademamix_32bit", "paged_ademamix_8bit", "paged_lion_32bit", "paged_lion_8bit", "q_galore_adamw8bit", "rmsprop", "rmsprop_bnb",
    "rmsprop_bnb_32bit", "rmsprop_bnb_8bit", "schedule_free_adamw", "schedule_free_radam", "schedule_free_sgd", "sgd", "stable_adamw",
    NULL};

const char *const scheduler_words[] = {"cosine",
                                       "linear",
                                       "constant",
                                       "constant_with_warmup",
                                       "cosine_with_restarts",
                                       "cosine_with_min_lr",
                                       "cosine_warmup_with_min_lr",
                                       "polynomial",
                                       "inverse_sqrt",
                                       "reduce_lr_on_plateau",
                                       "warmup_stable_decay",
                                       "one_cycle",
                                       "rex",
                                       NULL};

// Those of TRL's DPO.
const char *const dpo_loss_words[] = {"sigmoid",   "hinge",        "ipo",      "exo_pair",     "nca_pair", "robust",   "bco_pair",
                                      "sppo_hard", "aot",          "aot_pair", "aot_unpaired", "discopop", "apo_zero", "apo_down",
                                      "sft",       "sigmoid_norm", NULL};

const char *const chat_template_words[] = {"alpaca",
                                           "aya",
                                           "chatml",
                                           "cohere",
                                           "command_a",
                                           "command_a_rag",
                                           "command_a_tool_use",
                                           "deepseek_v2",
                                           "deepseek_v3",
                                           "exaone",
                                           "exaone4",
                                           "falcon_h1",
                                           "gemma",
                                           "gemma3",
                                           "gemma3n",
                                           "gemma4",
                                           "gemma4_unified",
                                           "granite",
                                           "granitemoe",
                                           "jamba",
                                           "llama3",
                                           "llama3_2_vision",
                                           "llama4",
                                           "llava",
                                           "metharme",
                                           "mistral_v1",
                                           "mistral_v2v3",
                                           "mistral_v3_tekken",
                                           "mistral_v7_tekken",
                                           "nemotron",
                                           "nemotron_h",
                                           "phi_3",
                                           "phi_35",
                                           "phi_4",
                                           "pixtral",
                                           "qwen_25",
                                           "qwen2_vl",
                                           "qwen3",
                                           "qwen3_5",
                                           "jinja",
                                           "tokenizer_default",
                                           NULL};

// What other programs, and older versions of Axolotl, call a key.
const char *const foreign_names[][2] = {{"model_name_or_path", "base_model"},
                                        {"model_revision", "revision_of_model"},
                                        {"max_seq_length", "sequence_len"},
                                        {"max_length", "sequence_len"},
                                        {"seq_len", "sequence_len"},
                                        {"cutoff_len", "sequence_len"},
                                        {"per_device_train_batch_size", "micro_batch_size"},
                                        {"per_device_eval_batch_size", "eval_batch_size"},
                                        {"num_train_epochs", "num_epochs"},
                                        {"lr", "learning_rate"},
                                        {"lr_scheduler_type", "lr_scheduler"},
                                        {"optim", "optimizer"},
                                        {"gradient_clipping", "max_grad_norm"},
                                        {"packing", "sample_packing"},
                                        {"rank", "lora_r"},
                                        {"target_modules", "lora_target_modules"},
                                        {"modules_to_save", "lora_modules_to_save"},
                                        {"dataset_path", "datasets"},
                                        {"train_dataset", "datasets"},
                                        {"val_dataset", "test_datasets"},
                                        {"eval_dataset", "test_datasets"},
                                        {"push_to_hub_model_id", "hub_model_id"},
                                        {"eval_table_max_new_tokens", "eval_max_new_tokens"},
                                        {NULL, NULL}};

// clang-format off
// Types of the prompt styles: each also takes one of :chat, :instruct, :chatml and :phi (read_dataset_type).
#define STYLED_TYPES "alpaca", "concisechoice", "explainchoice", "gpteacher", "jeopardy", "oasst", "reflection", "summarizetldr"
// Types that are a module; NAME is NAME.load.
#define MODULE_TYPES \
    "alpaca_chat", "alpaca_chat.load_camel_ai", "alpaca_chat.load_concise", "alpaca_chat.load_no_prompt", "alpaca_chat.load_qa", \
    "alpaca_instruct", "alpaca_instruct.load_no_prompt", "alpaca_w_system", "alpaca_w_system.load_chat", \
    "alpaca_w_system.load_instruct", "alpaca_w_system.load_open_orca", "alpaca_w_system.load_open_orca_chatml", "completion", \
    "context_qa", "context_qa.load_404", "context_qa.load_v2", "creative_acr.load_answer", "creative_acr.load_critique", \
    "creative_acr.load_revise", "input_output", "llama2_chat", "messages.chat", "metharme", "orcamini", "pygmalion", \
    "stepwise_supervised"
#define PREFERENCE_TYPES \
    "chat_template.argilla", "chat_template.argilla_chat", "chatml", "chatml.argilla", "chatml.argilla_chat", "chatml.default", \
    "chatml.icr", "chatml.intel", "chatml.prompt_pairs", "chatml.ultra", "llama3", "llama3.argilla", "llama3.argilla_chat", \
    "llama3.default", "llama3.icr", "llama3.intel", "llama3.prompt_pairs", "llama3.ultra", "orpo.chat_template", \
    "orpo.chat_template.argilla", "passthrough", "passthrough.default", "user_defined", "user_defined.default", "zephyr.nectar"

const char *const dataset_type_words[] = {STYLED_TYPES, MODULE_TYPES, "chat_template", "chat_template.default", PREFERENCE_TYPES, NULL};
const char *const styled_type_words[] = {STYLED_TYPES, NULL};
const char *const supervised_type_words[] = {STYLED_TYPES, MODULE_TYPES, NULL};
const char *const preference_type_words[] = {PREFERENCE_TYPES, NULL};
const char *const pair_type_words[] = {"chat_template", "chat_template.default", PREFERENCE_TYPES, NULL};
const char *const kto_type_words[] = {
    "chat_template", "chat_template.default", "chatml.argilla", "chatml.argilla_chat", "chatml.intel", "chatml.prompt_pairs",
    "chatml.ultra", "llama3.argilla", "llama3.argilla_chat", "llama3.intel", "llama3.prompt_pairs", "llama3.ultra", "passthrough",
    "passthrough.default", "user_defined", "user_defined.default", NULL};
// clang-format on
