// The keys of Axolotl 0.18 that are known and not read: those that change nothing here, those that are refused with
// the remedy, and those that Axolotl itself ignores. Together with schema.c these are all keys of its schema and its
// integrations, and the dead ones of its examples.
#include "recipes/schema.h"

#include <string.h>

#include "core/text.h"

// clang-format off
#define IDLE(names_, why)           {.names = names_, .fate = KEY_IDLE, .doc = why}
#define REFUSED(names_, remedy)     {.names = names_, .fate = KEY_REFUSED, .doc = remedy}
#define PARALLEL(names_, remedy)    {.names = names_, .fate = KEY_PARALLEL, .doc = remedy}
#define PENDING(names_, what)       {.names = names_, .fate = KEY_PENDING, .doc = what}
#define DEAD(names_, meant_)        {.names = names_, .fate = KEY_DEAD, .meant = meant_}

static const SchemaKey keys[] = {
  // Accepted, changing nothing.
  IDLE("wandb_entity wandb_log_model wandb_mode wandb_name wandb_project wandb_run_id wandb_watch use_wandb",
       "Weights & Biases is not used; metrics.jsonl has every figure"),
  IDLE("comet_api_key comet_experiment_config comet_experiment_key comet_mode comet_online comet_project_name comet_workspace use_comet",
       "Comet is not used; metrics.jsonl has every figure"),
  IDLE("mlflow_experiment_name mlflow_run_name mlflow_tracking_uri hf_mlflow_log_artifacts use_mlflow",
       "MLflow is not used; metrics.jsonl has every figure"),
  IDLE("swanlab_api_host swanlab_api_key swanlab_completion_log_interval swanlab_completion_max_buffer swanlab_description "
       "swanlab_experiment_name swanlab_lark_secret swanlab_lark_webhook_url swanlab_log_completions swanlab_log_model swanlab_mode "
       "swanlab_project swanlab_web_host swanlab_workspace use_swanlab", "SwanLab is not used; metrics.jsonl has every figure"),
  IDLE("trackio_project_name trackio_run_name trackio_space_id use_trackio", "Trackio is not used; metrics.jsonl has every figure"),
  IDLE("otel_metrics_host otel_metrics_port use_otel_metrics", "OpenTelemetry is not used; metrics.jsonl has every figure"),
  IDLE("use_tensorboard profiler_steps profiler_steps_start include_tkps include_tokens_per_second total_num_tokens "
       "total_supervised_tokens",
       "metrics.jsonl has every figure, and `lora bench` measures speed"),
  IDLE("plugins", "what plugins add is built in, or refused by its own keys"),
  IDLE("liger_cross_entropy liger_fused_linear_cross_entropy liger_glu_activation liger_layer_norm liger_rms_norm liger_rms_norm_gated "
       "liger_rope liger_swiglu liger_use_token_scaling cut_cross_entropy chunked_cross_entropy chunked_cross_entropy_num_chunks "
       "flash_attn_cross_entropy flash_attn_fuse_mlp flash_attn_rms_norm large_head_attention", "fused kernels are always used here"),
  IDLE("attn_implementation flash_attention flash_attn_d512 flash_optimum flex_attention flex_attn_compile_kwargs eager_attention "
       "sdp_attention "
       "sdpa_varlen sage_attention s2_attention xformers_attention fused_attn_kernel gemma4_hybrid_attn_impl ring_attn_func heads_k_stride",
       "attention has one implementation here, exact and without a T x T matrix"),
  IDLE("lora_embedding_kernel lora_mlp_kernel lora_o_kernel lora_qkv_kernel use_kernels use_dsv4_kernels use_glm_dsa_kernels "
       "dsv4_bf16_all dsv4_fp4_grouped_mode dsv4_fp8_lora_kernel dsv4_fp8_nonexpert_mode dsv4_shared_mlp_lora_kernel "
       "experts_implementation "
       "expert_backend moe_bnb_fast moe_dequant_chunk_size moe_grouped_backend llama4_linearized_experts",
       "a matter of speed; kernels are chosen here"),
  IDLE("torch_compile torch_compile_backend torch_compile_mode torch_compile_options deepcompile torch_empty_cache_steps torchdistx_path "
       "trainer_cls accelerator_config", "there is no PyTorch here"),
  IDLE("gc_collect_steps gc_steps low_cpu_mem_usage lora_on_cpu experimental_skip_move_to_device device_map qlora_sharded_model_loading "
       "dynamic_checkpoint", "memory is planned before the first step; see max_memory"),
  IDLE("gradient_checkpointing_kwargs selective_checkpointing activation_offloading layer_offloading tiled_mlp tiled_mlp_num_shards "
       "tiled_mlp_use_original_mlp", "what is recomputed is chosen by gradient_checkpointing and max_memory"),
  IDLE("bfloat16 float16 float32 fp8 fp8_enable_fsdp_float8_all_gather fp32_norms fp32_norm_classes embeddings_skip_upcast "
       "peft_autocast_adapter_dtype gemma4_fp8_nonexpert gemma4_nf4_nonexpert nonexpert_quantization nvfp4_merge_aware "
       "nvfp4_merge_aware_start_step", "weights keep their type; adapters, gradients and sums are float32"),
  IDLE("model_quantization_config model_quantization_config_kwargs", "how a model is quantised is read from its files"),
  IDLE("model_type type_of_model tokenizer_type base_model_config cls_model_config overrides_of_model_kwargs is_falcon_derived_model "
       "is_llama_derived_model is_mistral_derived_model is_qwen_derived_model lora_fan_in_fan_out", "the model's own files say it"),
  IDLE("tokenizer_legacy tokenizer_save_jinja_files tokenizer_use_fast tokenizer_use_mistral_common",
       "the tokenizer is read from its files"),
  IDLE("mean_resizing_embeddings", "added tokens start at the mean of the others"),
  IDLE("peft_ensure_weight_tying", "tied weights stay tied"),
  IDLE("dataloader_drop_last dataloader_num_workers dataloader_pin_memory dataloader_prefetch_factor dataset_keep_in_memory "
       "dataset_num_proc "
       "dataset_processes preprocess_iterable is_preprocess skip_prepare_dataset num_dataset_shards_to_save multipack_real_batches "
       "sample_packing_eff_est sample_packing_mp_start_method pretrain_multipack_attn "
       "pretraining_sample_concatenation remove_unused_columns batch_flattening pad_to_multiple_of",
       "a matter of speed; data is prepared in parallel here, and never padded"),
  IDLE("push_dataset_to_hub hub_revision hub_strategy", "nothing is uploaded; `huggingface-cli upload` does that from output_dir"),
  IDLE("hf_use_auth_token", "the token is taken from HF_TOKEN"),
  IDLE("save_safetensors save_compressed", "adapters are saved as safetensors"),
  IDLE("merge_lora merge_method", "`lora merge` and export: {merge: true} do that"),
  IDLE("quantization", "`lora quantize` does that"),
  IDLE("bench_dataset bench_split do_bench_eval do_causal_lm_eval eval_causal_lm_metrics eval_max_new_tokens eval_table_size "
       "lm_eval_batch_size "
       "lm_eval_model lm_eval_post_train lm_eval_tasks generate_samples num_generation_samples generation_do_sample "
       "generation_max_new_tokens "
       "generation_prompt_ratio generation_temperature generation_top_k generation_top_p dpo_generate_during_eval",
       "evaluation reports loss and perplexity; `lora eval` runs tasks and `lora generate` writes samples"),
  IDLE("gradio_max_new_tokens gradio_server_name gradio_server_port gradio_share gradio_temperature gradio_title",
       "`lora chat` and `lora serve` do that"),
  IDLE("ddp ddp_broadcast_buffers ddp_bucket_cap_mb ddp_find_unused_parameters local_rank world_size fsdp_version "
       "fsdp_final_state_dict_type "
       "expert_parallel_backend expert_parallel_fallback_on_unsupported expert_parallel_num_nvl_bytes expert_parallel_num_rdma_bytes "
       "expert_parallel_token_capacity ray_num_workers ray_run_name resources_per_worker",
       "processes are started by mpirun, and find each other"),
  IDLE("dpo_padding_free dpo_use_liger_kernel dpo_use_logits_to_keep", "replies are never padded here, and only their logits are computed"),
  IDLE("unfrozen_parameters", "beside an adapter the base stays frozen; lora_modules_to_save trains modules in full"),
  IDLE("axolotl_config_path env_capabilities capabilities recipe", "of Axolotl's own working"),
  IDLE("freeze_mm_modules", "only text is trained"),
  IDLE("relora_cpu_offload relora_prune_method relora_prune_ratio", "part of relora"),
  IDLE("lisa_layers_attribute lisa_step_interval", "part of lisa_n_layers"),

  // Refused.
  REFUSED("processor_type processor_kwargs image_size image_resize_algorithm",
       "images and sound are not built: only text is trained; remove it, with the image columns"),
  REFUSED("fsdp fsdp_config",
       "FSDP is PyTorch's; here a 4-bit base (adapter: qlora) fits, and shard_base: true divides it among processes; remove it"),
  REFUSED("deepspeed",
       "DeepSpeed is PyTorch's; here a 4-bit base (adapter: qlora) fits, and shard_base: true divides it among processes; remove it"),
  PARALLEL("context_parallel_size sequence_parallel_degree",
       "one sequence is not divided among processes; remove it, and lower sequence_len if memory asks"),
  PARALLEL("tensor_parallel_size", "a layer is not divided among processes; remove it, and use adapter: qlora or shard_base: true"),
  PARALLEL("expert_parallel_size", "experts are not divided among processes; remove it, and use shard_base: true"),
  PARALLEL("dp_shard_size", "weights are divided by shard_base: true; remove it"),
  PARALLEL("dp_replicate_size", "the number of processes is mpirun's: `mpirun -n N lora train`; remove it"),
  REFUSED("use_ray", "Ray is not used; start processes by `mpirun -n N lora train`"),
  REFUSED("auto_find_batch_size", "the plan says what fits before the first step; set micro_batch_size"),
  REFUSED("gpu_memory_limit", "use max_memory: 20GiB"),
  REFUSED("quantize_moe_experts", "use load_in_4bit: true, or a quantised GGUF as base_model, which holds its experts quantised"),
  REFUSED("use_scattermoe use_sonicmoe dense_mixer", "its changes to experts are not built; remove it"),
  REFUSED("lora_target_parameters", "adapters on expert parameters are not built; name linears in lora_target_modules"),
  REFUSED("relora", "ReLoRA is not built; train with a higher lora_r, or run again with lora_model_dir"),
  REFUSED("lisa_n_layers", "LISA is not built; use adapter: lora"),
  REFUSED("spectrum_model_name spectrum_top_fraction", "Spectrum is not built; use adapter: lora"),
  REFUSED("reinit_weights shrink_embeddings fix_untrained_tokens peft_layer_replication",
       "changes to the base's weights are not built; remove it"),
  REFUSED("gptq",
       "training on a GPTQ model by this key is not built; use load_in_4bit: true on the model's float weights, or a GGUF of it"),
  REFUSED("qat", "quantisation-aware training is not built; train with adapter: qlora and quantise what comes out"),
  REFUSED("llmcompressor", "use `lora quantize` after training"),
  REFUSED("use_onebitllms", "one-bit training is not built; use adapter: qlora"),
  REFUSED("reward_model process_reward_model num_labels center_rewards_coefficient",
       "reward models are not built; rl: dpo and its kin learn from pairs without one"),
  REFUSED("ebft trl vllm", "training on its own samples (GRPO, EBFT, GDPO) is not built; use rl: dpo, ipo, simpo, orpo or kto"),
  REFUSED("nemo_gym_enabled nemo_gym_auto_clone nemo_gym_auto_start nemo_gym_config_paths nemo_gym_datasets nemo_gym_dir "
       "nemo_gym_head_port "
          "nemo_gym_max_turns nemo_gym_model_name nemo_gym_multi_turn nemo_gym_run_timeout nemo_gym_server_timeout "
       "nemo_gym_verify_timeout hatchery",
          "training in an environment is not built; use rl: dpo, ipo, simpo, orpo or kto"),
  REFUSED("kd_trainer kd_alpha kd_beta kd_ce_alpha kd_normalize_topk kd_online_server kd_online_server_base_url kd_online_timeout "
       "kd_online_topk "
          "kd_temperature kd_temperature_min", "distillation is not built; train on the teacher's replies as text"),
  REFUSED("diffusion", "diffusion training is not built; remove it"),
  REFUSED("use_eaft eaft_alpha eaft_k", "EAFT is not built; remove it"),
  REFUSED("use_pose pose_max_context_len pose_num_chunks pose_split_on_token_ids",
       "PoSE is not built; raise sequence_len, and set rope scaling in model_config"),
  REFUSED("rope_scaling", "write it as model_config: {rope_scaling: {...}}"),
  REFUSED("scaling_softmax scaling_softmax_bias scaling_softmax_factor", "scaled softmax is not built; remove it"),
  REFUSED("max_packed_sequence_len", "Axolotl took it out; use sample_packing: true, which packs to sequence_len"),
  REFUSED("role_boundaries", "turns are found by the template itself; use roles_to_train, train_on_eos and train_on_eot in the dataset"),
  REFUSED("dataset_shard_idx dataset_shard_num", "use shards and shards_idx in the dataset's entry"),
  // Of methods that are not built yet: they validate, and `train` says so.
  PENDING("dpo_norm_loss dpo_use_weighting", "a variant of DPO"),
  PENDING("mora", "MoRA, an adapter with a square matrix (arXiv:2405.12130)"),
  PENDING("grokfast_alpha grokfast_lamb", "Grokfast, a filter over the gradients (arXiv:2405.20233)"),
  PENDING("optim_target_modules qgalore_cos_threshold qgalore_gamma_proj qgalore_proj_bits qgalore_proj_group_size qgalore_proj_quant "
          "qgalore_proj_type qgalore_queue_size qgalore_rank qgalore_scale qgalore_update_proj_gap",
          "GaLore, an optimiser of low rank (arXiv:2403.03507)"),
  PENDING("dion_lr dion_momentum dion_rank_fraction dion_rank_multiple_of", "Dion, an optimiser (arXiv:2504.05295)"),
  PENDING("lr_div_factor", "how far below its peak the one_cycle schedule begins"),

  // Ignored by Axolotl too.
  DEAD("adam_eps", "adam_epsilon"), DEAD("context_parapllel_size", "context_parallel_size"), DEAD("eta_min", "cosine_min_lr_ratio"),
  DEAD("full_finetune", "adapter (left empty)"), DEAD("torch_dtype",
       "bf16"), DEAD("gptq_groupsize gptq_model_v1 gptq_disable_exllama", NULL),
  DEAD("base_model_ignore_patterns", NULL), DEAD("debug", NULL), DEAD("sample_packing_seq_len_multiplier", "micro_batch_size"),
  DEAD("project_name", "wandb_project"), DEAD("test_value", NULL),
  DEAD("jagged_restart_anneal_steps jagged_restart_steps jagged_restart_warmup_steps", NULL),
  DEAD("branch dockerfile_commands gpu gpu_count memory memory_preprocess node_count provider secrets timeout timeout_preprocess "
       "volumes", NULL),
};
// clang-format on

const SchemaTable schema_others = {keys, sizeof keys / sizeof keys[0]};

// Whether `name` is one of the words of `names`.
static bool names_hold(const char *names, const char *name, size_t length) {
  for (const char *p = names; *p;) {
    size_t word = strcspn(p, " ");
    if (word == length && memcmp(p, name, length) == 0) return true;
    p += word;
    p += strspn(p, " ");
  }
  return false;
}

const SchemaKey *schema_find(const SchemaTable *table, const char *name) {
  size_t length = strlen(name);
  if (length == 0) return NULL;
  for (int i = 0; i < table->count; i++)
    if (table->keys[i].names && names_hold(table->keys[i].names, name, length)) return &table->keys[i];
  return NULL;
}

enum { LONGEST_NAME = 64, FAMILY = 5 };

// Copies the nearest name to `found` if it is nearer than *distance.
static void look_nearer(const SchemaTable *table, const char *name, char found[LONGEST_NAME], int *distance) {
  for (int i = 0; i < table->count; i++) {
    for (const char *p = table->keys[i].names; p && *p;) {
      char word[LONGEST_NAME];
      size_t length = strcspn(p, " ");
      if (length < sizeof word) {
        memcpy(word, p, length);
        word[length] = 0;
        int here = edit_distance(name, word), shared = 0;
        while (name[shared] && name[shared] == word[shared]) shared++;
        // lora_rank is lora_r rather than local_rank: a key's first word is seldom the one that is misspelt.
        if (shared >= FAMILY && here > 2) here -= 2;
        if (here < *distance) *distance = here, memcpy(found, word, length + 1);
      }
      p += length;
      p += strspn(p, " ");
    }
  }
}

// Copies the shortest key that has `name` as some of its whole words: peft_use_dora for use_dora.
static void look_around(const SchemaTable *table, const char *name, char found[LONGEST_NAME], size_t *shortest) {
  size_t wanted = strlen(name);
  for (int i = 0; i < table->count; i++) {
    for (const char *p = table->keys[i].names; p && *p;) {
      size_t length = strcspn(p, " ");
      for (size_t at = 0; at + wanted <= length && length < *shortest; at++) {
        bool begins = at == 0 || p[at - 1] == '_', ends = at + wanted == length || p[at + wanted] == '_';
        if (!begins || !ends || memcmp(p + at, name, wanted) != 0) continue;
        memcpy(found, p, length);
        found[length] = 0;
        *shortest = length;
      }
      p += length;
      p += strspn(p, " ");
    }
  }
}

const char *schema_nearest(const SchemaTable *first, const SchemaTable *second, const char *name, char found[LONGEST_NAME]) {
  // The rule of nearest_name: a third of the letters may differ, and one more.
  enum { CLOSE = 3, LONG_ENOUGH = 5 };
  int distance = (int)strlen(name) / 3 + 2;
  size_t shortest = LONGEST_NAME;
  found[0] = 0;
  if (strlen(name) >= LONGEST_NAME) return NULL;
  for (int i = 0; foreign_names[i][0]; i++)
    if (strcmp(foreign_names[i][0], name) == 0 && schema_find(first, foreign_names[i][1])) return foreign_names[i][1];
  look_nearer(first, name, found, &distance);
  if (second) look_nearer(second, name, found, &distance);
  if (found[0] && distance < CLOSE) return found;
  if (strlen(name) >= LONG_ENOUGH) look_around(first, name, found, &shortest);
  return found[0] ? found : NULL;
}
