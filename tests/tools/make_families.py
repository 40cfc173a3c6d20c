"""Tiny random models of every family in forms that stress it (odd head counts, windows shorter than rows, tied and untied heads, RoPE
scalings, both generations of config.json), each with reference results by transformers and PEFT in float32:

    python make_families.py FOLDER [--seed 1] [--only llama_dynamic,...]     (pip install torch transformers peft safetensors)
    LORA_FAMILIES=FOLDER build/release/tests/test_adapters_families

FOLDER/NAME/ holds config.json, model.safetensors, adapter/ (PEFT) and golden.safetensors: input_ids and labels [2, T], logits of the base,
logits_lora, loss, grad.* and, of five AdamW steps, losses, step5.* and noise.*;
packed_input_ids [1, T] with packed_logits of its two documents."""
import argparse
import copy
import json
import os

import torch
import transformers as tf
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

LENGTH = 48
KEPT = "gemma2_scalar,gemma3_mixed,phi3_partial,mixtral_window,deepseek_v3_groups,smollm3_nope,starcoder2_window"
SMALL = dict(vocab_size=288, hidden_size=60, intermediate_size=88, num_hidden_layers=3, max_position_embeddings=128, bos_token_id=1,
             eos_token_id=2, pad_token_id=0, attention_dropout=0.0)
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
DENSE = ATTENTION + ["gate_proj", "up_proj", "down_proj"]
LATENT = ["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"]


def heads(count, kv, size=None):
    sizes = dict(num_attention_heads=count, num_key_value_heads=kv)
    return sizes | (dict(head_dim=size) if size else {})


def rope(kind, base=10000.0, **more):
    return dict(rope_parameters=dict(rope_type=kind, rope_theta=base, **more))


def latent(**more):
    sizes = dict(num_attention_heads=5, num_key_value_heads=5, kv_lora_rank=20, qk_nope_head_dim=12, qk_rope_head_dim=6, v_head_dim=10,
                 head_dim=6, num_experts_per_tok=3, moe_intermediate_size=28, first_k_dense_replace=1)
    return sizes | more


def variants():
    """name: (config, target modules, old generation of config.json)"""
    yarn = dict(factor=8.0, original_max_position_embeddings=16)
    factors = [1.0 + 0.2 * i for i in range(6)]
    return {
        "llama_dynamic": (tf.LlamaConfig(**SMALL | dict(max_position_embeddings=16), **heads(5, 1, 12), **rope("dynamic", factor=4.0)), DENSE, True),
        "llama_bias": (tf.LlamaConfig(**SMALL, **heads(6, 3), attention_bias=True, mlp_bias=True, tie_word_embeddings=True), DENSE, False),
        "llama_yarn_plain": (tf.LlamaConfig(**SMALL, **heads(3, 3, 20), **rope("yarn", **yarn)), DENSE, True),
        "llama_llama3": (tf.LlamaConfig(**SMALL, **heads(6, 2), **rope("llama3", 5e5, factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                                                       original_max_position_embeddings=32)), DENSE, True),
        "mistral_odd": (tf.MistralConfig(**SMALL, **heads(9, 3, 20), sliding_window=7), DENSE, True),
        "mistral_full": (tf.MistralConfig(**SMALL, **heads(6, 2, 10), sliding_window=None, tie_word_embeddings=True), DENSE, False),
        "qwen2_window": (tf.Qwen2Config(**SMALL, **heads(6, 2), use_sliding_window=True, sliding_window=9, max_window_layers=1,
                                        tie_word_embeddings=True), DENSE, False),
        "qwen3_window": (tf.Qwen3Config(**SMALL, **heads(5, 5, 14), use_sliding_window=True, sliding_window=6, max_window_layers=2,
                                        tie_word_embeddings=True), DENSE, True),
        "qwen3_bias": (tf.Qwen3Config(**SMALL, **heads(3, 1, 32), attention_bias=True), DENSE, False),
        "gemma2_scalar": (tf.Gemma2Config(**SMALL, **heads(6, 3, 16), query_pre_attn_scalar=40, sliding_window=5, attn_logit_softcapping=2.0,
                                          final_logit_softcapping=3.0), DENSE, True),
        "gemma3_linear": (tf.Gemma3TextConfig(**SMALL | dict(num_hidden_layers=7), **heads(6, 2, 20), query_pre_attn_scalar=20, sliding_window=8,
                                              rope_parameters=dict(
                                                  full_attention=dict(rope_type="linear", rope_theta=1e6, factor=8.0),
                                                  sliding_attention=dict(rope_type="default", rope_theta=1e4))), DENSE, False),
        "gemma3_mixed": (tf.Gemma3TextConfig(**SMALL, **heads(3, 3, 16), query_pre_attn_scalar=30, sliding_window=4,
                                             layer_types=["full_attention", "sliding_attention", "sliding_attention"]), DENSE, False),
        "phi3_partial": (tf.Phi3Config(**SMALL | dict(hidden_size=64), **heads(4, 2), sliding_window=9, tie_word_embeddings=True,
                                       original_max_position_embeddings=16, partial_rotary_factor=0.75,
                                       **rope("longrope", partial_rotary_factor=0.75, short_factor=factors,
                                              long_factor=[3 * f for f in factors], original_max_position_embeddings=16)),
                         ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"], False),
        "phi3_short": (tf.Phi3Config(**SMALL, **heads(5, 5), original_max_position_embeddings=64,
                                     **rope("longrope", short_factor=factors, long_factor=[3 * f for f in factors],
                                            original_max_position_embeddings=64)), ["qkv_proj", "down_proj"], True),
        "mixtral_window": (tf.MixtralConfig(**SMALL, **heads(6, 2, 10), num_local_experts=6, num_experts_per_tok=3, sliding_window=7),
                           ATTENTION, False),
        "qwen3_moe_mixed": (tf.Qwen3MoeConfig(**SMALL, **heads(6, 3, 12), num_experts=5, num_experts_per_tok=2, moe_intermediate_size=24,
                                              norm_topk_prob=False, decoder_sparse_step=1, mlp_only_layers=[1], tie_word_embeddings=True),
                            ATTENTION, False),
        "deepseek_v2_lite": (tf.DeepseekV2Config(**SMALL, **latent(q_lora_rank=None, n_routed_experts=6, n_shared_experts=2, topk_method="greedy"),
                                                 **rope("yarn", mscale=0.707, mscale_all_dim=0.707, beta_fast=32, beta_slow=1, **yarn)),
                             ["q_proj"] + LATENT[2:], False),
        "deepseek_v3_groups": (tf.DeepseekV3Config(**SMALL, **latent(q_lora_rank=18, n_routed_experts=16, n_shared_experts=1, n_group=4,
                                                                     topk_group=2, norm_topk_prob=True, routed_scaling_factor=2.5),
                                                   **rope("yarn", mscale=1.0, mscale_all_dim=1.0, beta_fast=32, beta_slow=1, **yarn)),
                               LATENT, False),
        "smollm3_nope": (tf.SmolLM3Config(**SMALL, **heads(6, 2), no_rope_layer_interval=2, use_sliding_window=False, tie_word_embeddings=True),
                         DENSE, False),
        "starcoder2_window": (tf.Starcoder2Config(**SMALL, **heads(6, 2), sliding_window=7, use_bias=True, tie_word_embeddings=False,
                                                  residual_dropout=0.0, embedding_dropout=0.0), ATTENTION + ["c_fc", "c_proj"], True),
        "starcoder2_plain": (tf.Starcoder2Config(**SMALL, **heads(3, 1), sliding_window=None, use_bias=False, tie_word_embeddings=True,
                                                 residual_dropout=0.0, embedding_dropout=0.0), ATTENTION + ["c_fc", "c_proj"], False),
    }


def age(folder):
    """Turns config.json into the generation before rope_parameters and dtype."""
    path = os.path.join(folder, "config.json")
    config = json.load(open(path))
    parameters = config.pop("rope_parameters")
    config["rope_theta"] = parameters.pop("rope_theta")
    if parameters.pop("rope_type") != "default":
        config["rope_scaling"] = parameters | {"type": config.get("rope_type", None) or age.kind}
    config["torch_dtype"] = config.pop("dtype")
    config.pop("layer_types", None)
    json.dump(config, open(path, "w"), indent=2)


def trained_of(model):
    return {key.replace(".default", ""): p for key, p in model.named_parameters() if p.requires_grad}


def train(model, ids, labels):
    """Five AdamW steps: losses, the first step's gradients and logits."""
    trained = trained_of(model)
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    losses = []
    for step in range(5):
        optimizer.zero_grad()
        logits = model(input_ids=ids).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        loss.backward()
        losses.append(float(loss))
        if step == 0:
            first = {key: p.grad.clone() for key, p in trained.items()}, logits.detach()
        optimizer.step()
    return losses, *first


def make(name, config, targets, is_old, folder, seed):
    torch.manual_seed(seed)
    model = tf.AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter)) if parameter.ndim == 1 else parameter.normal_(0, 0.09)
        for key, buffer in model.named_buffers():
            if "e_score_correction_bias" in key:
                buffer.normal_(0, 0.05)
    model.save_pretrained(folder)
    if is_old:
        age.kind = config.rope_parameters["rope_type"]
        age(folder)
    ids = torch.randint(3, config.vocab_size, (2, LENGTH))
    labels = ids.clone()
    labels[0, : LENGTH // 5] = labels[1, : LENGTH // 3] = labels[1, -LENGTH // 6 :] = -100
    golden = dict(input_ids=ids, labels=labels, logits=model(input_ids=ids).logits.detach())
    model = get_peft_model(model, LoraConfig(r=3, lora_alpha=6, lora_dropout=0.0, target_modules=targets, task_type="CAUSAL_LM"))
    with torch.no_grad():
        for parameter in trained_of(model).values():
            parameter.normal_(0, 0.1)
    model.save_pretrained(os.path.join(folder, "adapter"))
    half = LENGTH // 2
    documents = [ids[:1, :half], ids[1:, :half]]
    golden["packed_input_ids"] = torch.cat(documents, 1)
    packed = []
    for document in documents:
        model(input_ids=ids[:, :4])  # transformers' dynamic RoPE remembers the longest row so far until a short one comes
        packed.append(model(input_ids=document).logits.detach())
    golden["packed_logits"] = torch.cat(packed, 1)
    exact = copy.deepcopy(model).double()
    losses, gradients, logits = train(model, ids, labels)
    train(exact, ids, labels)
    golden |= dict(losses=torch.tensor(losses), loss=torch.tensor(losses[:1]), logits_lora=logits)
    golden |= {"grad." + key: value for key, value in gradients.items()}
    for (key, parameter), truth in zip(trained_of(model).items(), trained_of(exact).values()):
        golden["step5." + key] = parameter.detach().clone()
        # What float32 itself costs: where a gradient is near zero Adam turns its rounding into a step of full size.
        golden["noise." + key] = ((parameter - truth).abs().max() / truth.abs().max()).detach().float().reshape(1)
    save_file({key: value.contiguous() for key, value in golden.items()}, os.path.join(folder, "golden.safetensors"))
    print(f"{name}: loss {losses[0]:.4f} to {losses[-1]:.4f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="")
    parser.add_argument("--small", action="store_true", help="the models that the repository keeps, in tests/adapters/data/families")
    arguments = parser.parse_args()
    if arguments.small:
        LENGTH = 20
        SMALL |= dict(vocab_size=40, intermediate_size=20)
        arguments.only = arguments.only or KEPT
    for name, (config, targets, is_old) in variants().items():
        if not arguments.only or name in arguments.only.split(","):
            make(name, config, targets, is_old, os.path.join(arguments.folder, name), arguments.seed)
