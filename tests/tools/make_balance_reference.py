#!/usr/bin/env python3
"""Writes tests/models/data/balance.json: load-balancing losses of the families' reference models, by transformers.

"all": what transformers returns as aux_loss for the reference's input_ids. "trained": the same of a training step on them, whose last layer
sees only the tokens with a trained successor, and whose layers weigh the same: f_e and P_e are means over tokens, then over layers.
"documents": that of steps on one document each.

    python3 tests/tools/make_balance_reference.py [FAMILIES]     (needs torch, transformers; default: ../shared/golden/families)
"""
import json
import pathlib
import sys

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

HERE = pathlib.Path(__file__).resolve().parent
FAMILIES = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent.parent.parent / "shared/golden/families"


def shares(logits, used):
    """f_e and P_e of one layer's router logits [tokens, experts]."""
    probabilities = torch.softmax(logits.double(), dim=-1)
    chosen = torch.topk(probabilities, used, dim=-1).indices
    return torch.nn.functional.one_hot(chosen, logits.shape[-1]).double().sum(1).mean(0), probabilities.mean(0)


def trained_loss(layers, wanted, used):
    """layers: router logits [tokens, experts]; wanted [tokens]."""
    f, p = (torch.stack(values).mean(0) for values in zip(*(shares(logits, used) for logits in layers[:-1] + [layers[-1][wanted]])))
    return (layers[0].shape[-1] * (f * p).sum()).item()


def reference(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    golden = load_file(folder / "golden.safetensors")
    ids, labels = golden["input_ids"], golden["labels"]
    with torch.no_grad():
        output = model(input_ids=ids, output_router_logits=True)
    wanted = torch.zeros_like(labels, dtype=torch.bool)
    wanted[:, :-1] = labels[:, 1:] >= 0
    layers = [logits.reshape(*ids.shape, -1) for logits in output.router_logits]
    used = model.config.num_experts_per_tok
    return {
        "all": output.aux_loss.item(),
        "trained": trained_loss([logits.flatten(0, 1) for logits in layers], wanted.flatten(), used),
        "documents": [trained_loss([logits[d] for logits in layers], wanted[d], used) for d in range(len(ids))],
    }


(HERE.parent / "models/data/balance.json").write_text(
    json.dumps({family: reference(FAMILIES / family) for family in ("mixtral", "qwen3_moe")}, indent=2) + "\n"
)
