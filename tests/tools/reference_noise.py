"""How far five optimiser steps of a reference model in float32 are from the same steps in float64, by tensor: what no implementation in
float32 can be held to. python reference_noise.py FAMILY_FOLDER (made by make_golden.py; pip install torch transformers peft safetensors)"""
import sys

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

folder = sys.argv[1]
golden = load_file(f"{folder}/golden.safetensors")
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager", experts_implementation="eager")
model = PeftModel.from_pretrained(model, f"{folder}/adapter", is_trainable=True).to(torch.float64)
model.train()
parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
optimizer = torch.optim.AdamW(parameters.values(), lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
for _ in range(5):
    optimizer.zero_grad()
    logits = model(input_ids=golden["input_ids"]).logits
    torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), golden["labels"][:, 1:].flatten(), ignore_index=-100).backward()
    optimizer.step()
errors = []
for name, p in parameters.items():
    name = name.replace(".default", "")
    errors.append((float((p - golden[f"step5.{name}"]).abs().max() / p.abs().max()), name))
for error, name in sorted(errors, reverse=True)[:5]:
    print(f"{error:.2e} {name}")
