#!/usr/bin/env python3
"""Makes tests/models/data/quantized_models.safetensors: whole tiny models in each quantised format, and the logits that transformers computes
in float32 with the floats that each format's own library makes of the weights (quantized_layers.py says which).

For each case NAME: NAME/config (config.json as bytes), NAME/TENSOR for every tensor of the folder, NAME/logits. All have `embedding` as
model.embed_tokens.weight, tied to the head. What transformers itself can load on the CPU is also loaded as the quantised folder it is.

    python3 tests/tools/make_quantized_models.py [FILE]
        (needs torch, transformers, accelerate, bitsandbytes, compressed-tensors, safetensors, AutoGPTQ's and AutoAWQ's layers)
"""
import json
import pathlib
import sys
import tempfile

import quantized_layers as layers
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

OUT = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).resolve().parent.parent / "models/data/quantized_models.safetensors"
IDS = torch.tensor([[1, 300, 17, 402, 99, 45, 511, 260, 3]])
HIDDEN, FEED_FORWARD, EXPERTS, LAYERS, VOCABULARY = 64, 96, 4, 2, 768
LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": FEED_FORWARD,
         "num_hidden_layers": LAYERS, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": VOCABULARY, "rms_norm_eps": 1e-5,
         "max_position_embeddings": 128, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": True, "bos_token_id": 1,
         "eos_token_id": 2, "torch_dtype": "float16"}
MIXTRAL = {**LLAMA, "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_local_experts": EXPERTS, "num_experts_per_tok": 2}
torch.manual_seed(11)
tensors = {"embedding": (torch.randn(VOCABULARY, HIDDEN) * 0.3).half()}


def shapes(config):
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        for name, rows in (("q", HIDDEN), ("k", HIDDEN // 2), ("v", HIDDEN // 2), ("o", HIDDEN)):
            yield f"{at}.self_attn.{name}_proj", rows, HIDDEN
        if config is LLAMA:
            yield from ((f"{at}.mlp.gate_proj", FEED_FORWARD, HIDDEN), (f"{at}.mlp.up_proj", FEED_FORWARD, HIDDEN),
                        (f"{at}.mlp.down_proj", HIDDEN, FEED_FORWARD))
            continue
        for e in range(EXPERTS):
            name = f"{at}.block_sparse_moe.experts.{e}"
            yield from ((f"{name}.w1", FEED_FORWARD, HIDDEN), (f"{name}.w3", FEED_FORWARD, HIDDEN), (f"{name}.w2", HIDDEN, FEED_FORWARD))


def logits_of(config, weights, expected=None):
    """By transformers, with its own dequantisation of quantised weights, which must have the values `expected` of the modules."""
    quantization = config.get("quantization_config", {})
    method = quantization.get("quant_method")
    if method == "fp8":
        config = {**config, "quantization_config": quantization | {"dequantize": True}}
    with tempfile.TemporaryDirectory() as folder:
        save_file({k: v.contiguous() for k, v in weights.items()}, folder + "/model.safetensors", metadata={"format": "pt"})
        pathlib.Path(folder, "config.json").write_text(json.dumps(config))
        model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager",
                                                     dtype=torch.bfloat16 if method == "compressed-tensors" else torch.float32)
        if method == "compressed-tensors":  # it computes in the type that scales are loaded as: bfloat16
            for name, value in model.state_dict().items():
                assert name not in expected or "_proj" not in name or torch.equal(value.float(), expected[name]), name
            return None
        if method == "bitsandbytes":
            model = model.dequantize(dtype=torch.float32).float()
        with torch.no_grad():
            return model(IDS).logits[0].float()


def add(name, config, quantization, quantize, loads=False):
    shared = {"model.norm.weight": (1 + torch.randn(HIDDEN) * 0.1).half()}
    for layer in range(LAYERS):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shared[f"model.layers.{layer}.{norm}.weight"] = (1 + torch.randn(HIDDEN) * 0.1).half()
        if config is MIXTRAL:
            shared[f"model.layers.{layer}.block_sparse_moe.gate.weight"] = (torch.randn(EXPERTS, HIDDEN) * 0.3).half()
    quantized, floats = dict(shared), {k: v.float() for k, v in shared.items()}
    for module, rows, columns in shapes(config):
        parts, values = quantize(torch.randn(rows, columns) * columns**-0.5)
        quantized |= {f"{module}.{part}": value for part, value in parts.items()}
        floats[module + ".weight"] = values.float()
    embedding = {"model.embed_tokens.weight": tensors["embedding"]}
    logits = logits_of(config, floats | {k: v.float() for k, v in embedding.items()})
    full = {**config, "quantization_config": quantization}
    if loads:
        own = logits_of(full, quantized | embedding, floats)
        assert own is None or torch.equal(own, logits), name
    tensors[f"{name}/config"] = torch.tensor(list(json.dumps(full).encode()), dtype=torch.uint8)
    tensors[f"{name}/logits"] = logits
    for key, value in quantized.items():
        tensors[f"{name}/{key}"] = value.contiguous().clone()


def gptq_settings(bits, group, order, symmetric):
    return {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": order, "sym": symmetric, "damp_percent": 0.01,
            "checkpoint_format": "gptq", "modules_in_block_to_quantize": None}


fp8_settings = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [32, 32], "modules_to_not_convert": ["lm_head"]}
group_4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True}
add("gptq_4bit", LLAMA, gptq_settings(4, 32, False, True), lambda w: layers.gptq(w, 4, 32))
add("gptq_3bit_order", LLAMA, gptq_settings(3, 32, True, False), lambda w: layers.gptq(w, 3, 32, True, False))
add("awq", LLAMA, {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm", "modules_to_not_convert": None},
    lambda w: layers.awq(w, 32))
add("fp8", LLAMA, fp8_settings, lambda w: layers.fp8(w, (32, 32)), True)
add("bitsandbytes_4bit", LLAMA, {"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False, "bnb_4bit_quant_type": "nf4",
                                 "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": "float32"}, layers.nf4, True)
add("bitsandbytes_8bit", LLAMA, {"quant_method": "bitsandbytes", "load_in_4bit": False, "load_in_8bit": True}, layers.int8, True)
add("compressed_tensors", LLAMA, {"quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
                                  "config_groups": {"group_0": {"targets": ["Linear"], "weights": group_4}}, "ignore": ["lm_head"]},
    lambda w: layers.compressed(w, group_4), True)
add("mixtral_gptq", MIXTRAL, gptq_settings(4, 32, False, True), lambda w: layers.gptq(w, 4, 32))
add("mixtral_fp8", MIXTRAL, fp8_settings | {"modules_to_not_convert": ["lm_head", "gate"]}, lambda w: layers.fp8(w, (32, 32)), True)

OUT.parent.mkdir(parents=True, exist_ok=True)
save_file(tensors, OUT)
print(f"{OUT}: {OUT.stat().st_size} bytes, {sum(1 for name in tensors if name.endswith('/config'))} cases")
