#!/usr/bin/env python3
"""Trains LoRA's variants with `lora` for a few steps, loads what it leaves by PEFT over the same base in float32, and compares the logits with
those of the model that `lora merge` writes of it. Exits with 1 where they differ.

    python tests/tools/compare_variants.py --lora build/release/lora --model tests/data/tiny-hf     (pip install torch transformers peft)
"""
import argparse, json, os, subprocess, sys, tempfile

import torch
import transformers
from peft import PeftModel

VARIANTS = {
    "plain": {},
    "rslora": {"peft_use_rslora": True},
    "patterns": {"lora_rank_pattern": {"q_proj": 2, ".*1.mlp.up_proj": 8}, "lora_alpha_pattern": {"down_proj": 3, "layers.0.self_attn.v_proj": 20}},
    "patterns, rslora": {"lora_rank_pattern": {"[qk]_proj": 2}, "lora_alpha_pattern": {"down_proj": 3}, "peft_use_rslora": True},
    "layers": {"peft_layers_to_transform": [0, 2], "lora_target_linear": False, "lora_target_modules": ["q_proj", "down_proj"]},
    "layers by name": {"peft_layers_to_transform": [1], "peft_layers_pattern": ["layers"]},
    "dora": {"peft_use_dora": True},
    "dora, patterns": {"peft_use_dora": True, "lora_rank_pattern": {"q_proj": 2}, "lora_alpha_pattern": {"o_proj": 2}, "peft_use_rslora": True},
    "dora, modules": {"peft_use_dora": True, "lora_modules_to_save": ["lm_head", "norm"]},
    "dora, tokens": {"peft_use_dora": True, "peft_trainable_token_indices": [300, 9]},
    "embedding and head, patterns, layers": {"lora_target_linear": False, "lora_target_modules": ["q_proj", "embed_tokens", "lm_head"],
                                             "peft_layers_to_transform": [1], "lora_rank_pattern": {"embed_tokens": 2},
                                             "lora_alpha_pattern": {"lm_head": 3}},
    "pissa": {"peft_init_lora_weights": "pissa"},
    "pissa, dora": {"peft_init_lora_weights": "pissa_niter_4", "peft_use_dora": True},
    "olora, rslora": {"peft_init_lora_weights": "olora", "peft_use_rslora": True},
    "olora, patterns": {"peft_init_lora_weights": "olora", "lora_rank_pattern": {"q_proj": 2}, "lora_alpha_pattern": {"o_proj": 2}},
}


def recipe(a, folder, more):
    keys = dict(base_model=os.path.abspath(a.model), adapter="lora", lora_r=4, lora_alpha=6, lora_target_linear=True, sequence_len=64,
                micro_batch_size=2, gradient_accumulation_steps=1, max_steps=5, learning_rate=1e-2, lr_scheduler="constant", bf16=False,
                dataset_prepared_path=f"{folder}/prepared", output_dir=f"{folder}/out", save_strategy="no") | more
    with open(f"{folder}/rows.jsonl", "w") as file:
        for i in range(12): file.write(json.dumps({"input_ids": [260 + (i * 37 + j * 11) % 200 for j in range(20 + i)]} | {"labels": [260 + (i * 37 + j * 11) % 200 for j in range(20 + i)]}) + "\n")
    path = f"{folder}/recipe.yml"
    open(path, "w").write("".join(f"{key}: {json.dumps(value)}\n" for key, value in keys.items()) + f"datasets: [{{path: {folder}/rows.jsonl}}]\n")
    return path


def logits(model, ids):
    with torch.no_grad(): return model(ids).logits


def compare(a, name, more):
    load = lambda path: transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([a.lora, "train", recipe(a, folder, more), "--quiet"], check=True)
        subprocess.run([a.lora, "merge", "--model", a.model, "--adapter", f"{folder}/out", "--output", f"{folder}/merged", "--type", "f32", "--quiet"],
                       check=True, stdout=subprocess.DEVNULL)
        ids = torch.arange(3, 303).reshape(4, 75) * 2
        base = logits(load(a.model), ids)
        peft = logits(PeftModel.from_pretrained(load(a.model), f"{folder}/out").eval(), ids)
        merged = logits(load(f"{folder}/merged"), ids)
    size = merged.abs().max()
    error, effect = ((peft - merged).abs().max() / size).item(), ((base - merged).abs().max() / size).item()
    is_good = error < 1e-4 < 1e-2 < effect
    print(f"{name}: PEFT is {error:.1e} from lora, the base {effect:.1e}{'' if is_good else '   DIFFERENT'}", flush=True)
    return is_good


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--lora", required=True); parser.add_argument("--model", required=True)
    arguments = parser.parse_args()
    results = [compare(arguments, name, more) for name, more in VARIANTS.items()]
    sys.exit(0 if all(results) else 1)
