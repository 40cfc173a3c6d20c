#!/usr/bin/env python3
"""PEFT's rate on a card: a llama of random NF4 weights by transformers, PEFT and bitsandbytes, of the shape and with the rows that gpu_rate.py
gives to `lora train`; LoRA of rank 16 on all linear layers, bfloat16, every layer recomputed (gradient checkpointing).

    python3 tests/tools/gpu_peer.py [--tiny]

Exit code 3 where a library or a card is missing: the last line says which. --tiny: a small shape, on whatever device torch has.
"""
import statistics
import sys
import time


def missing(why):
    print(f"FIGURES: {why}")
    sys.exit(3)


try:
    import bitsandbytes as bnb
    import peft
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
except ImportError as error:
    missing(f"not there: {error.name}")

TINY = "--tiny" in sys.argv
if not torch.cuda.is_available() and not TINY:
    missing("torch sees no CUDA device")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def quantise(module):
    """Each nn.Linear becomes one of NF4 with double quantisation, and its floats are given back, one by one."""
    for name, child in list(module.named_children()):
        if isinstance(child, torch.nn.Linear):
            new = bnb.nn.Linear4bit(child.in_features, child.out_features, bias=False, compute_dtype=torch.bfloat16, compress_statistics=True,
                                    quant_type="nf4", device="meta")
            new.weight = bnb.nn.Params4bit(child.weight.data.cpu(), requires_grad=False, compress_statistics=True, quant_type="nf4")
            setattr(module, name, new.to(DEVICE))
        else:
            quantise(child)


def main():
    size = dict(hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=512) if TINY \
        else dict(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8, vocab_size=128256)
    length, steps = (48, 3) if TINY else (2048, 6)
    torch.manual_seed(1)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(DEVICE):
        model = LlamaForCausalLM(LlamaConfig(**size, max_position_embeddings=8192, attn_implementation="sdpa"))
    torch.set_default_dtype(torch.float32)
    model.config.use_cache = False
    quantise(model.model)
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = peft.get_peft_model(model, peft.LoraConfig(r=16, lora_alpha=32, target_modules=targets, task_type="CAUSAL_LM"))
    model.train()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-4)
    ids = torch.randint(3, size["vocab_size"], (2, length), device=DEVICE)
    rates = []
    for _ in range(steps):
        start = time.perf_counter()
        with torch.autocast(DEVICE, torch.bfloat16):
            model(input_ids=ids, labels=ids).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        rates.append(ids.numel() / (time.perf_counter() - start))
    memory = f", {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB" if DEVICE == "cuda" else ""
    print(f"FIGURES: PEFT {statistics.median(rates[2:]):.0f} tokens/s{memory} (torch {torch.__version__}, bitsandbytes {bnb.__version__}, all recomputed)")


if __name__ == "__main__":
    main()
