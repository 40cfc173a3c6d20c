#!/usr/bin/env python3
"""What a card reaches in training: a llama of random Q4_K_M weights, two rows of 2048 tokens, a few steps of LoRA on all linear layers, once
with as few layers recomputed as memory allows, once with all, and once with cuDNN's attention; beside what scripts/cuda-roofline expects of the
nearest card.

    python3 tests/tools/gpu_rate.py LORA FOLDER [--card NAME] [--simulated]

Needs Python alone. Blocks repeat after 4099 of them: rates depend on shapes and types. The model, FOLDER/model.gguf, is 4.6 GiB (--simulated:
a tiny one) and stays there, as do the recipes. Recomputed or not, the losses have to agree.
The last line has the figures.
"""
import argparse
import json
import math
import os
import pathlib
import random
import re
import statistics
import struct
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
F32, Q4_K, Q6_K = 0, 12, 14
BYTES = {F32: 1024, Q4_K: 144, Q6_K: 210}  # of 256 values
BLOCKS = 4099


class Shape:
    def __init__(self, layers, hidden, heads, kv_heads, feed_forward, vocabulary, context):
        self.layers, self.hidden, self.heads, self.kv_heads = layers, hidden, heads, kv_heads
        self.feed_forward, self.vocabulary, self.context = feed_forward, vocabulary, context


LLAMA_8B = Shape(32, 4096, 32, 8, 14336, 128256, 8192)
TINY = Shape(1, 256, 4, 2, 256, 256, 256)


def tensors(shape):
    """(name, type, rows, columns), types as llama.cpp's Q4_K_M has them (tests/tools/make_random_gguf.py)."""
    key = shape.hidden // shape.heads * shape.kv_heads
    eighth = shape.layers // 8
    yield "token_embd", Q4_K, shape.vocabulary, shape.hidden
    for i in range(shape.layers):
        more = Q6_K if i < eighth or i >= 7 * shape.layers // 8 or (i - eighth) % 3 == 2 else Q4_K
        for name, kind, rows, columns in (("attn_norm", F32, 1, shape.hidden), ("attn_q", Q4_K, shape.hidden, shape.hidden),
                                          ("attn_k", Q4_K, key, shape.hidden), ("attn_v", more, key, shape.hidden),
                                          ("attn_output", Q4_K, shape.hidden, shape.hidden), ("ffn_norm", F32, 1, shape.hidden),
                                          ("ffn_gate", Q4_K, shape.feed_forward, shape.hidden), ("ffn_up", Q4_K, shape.feed_forward, shape.hidden),
                                          ("ffn_down", more, shape.hidden, shape.feed_forward)):
            yield f"blk.{i}.{name}", kind, rows, columns
    yield "output_norm", F32, 1, shape.hidden
    yield "output", Q6_K, shape.vocabulary, shape.hidden


def pattern(kind):
    """BLOCKS blocks whose weights have mean 0 and a deviation near 0.02; norms are ones."""
    if kind == F32:
        return struct.pack("<256f", *[1.0] * 256)
    numbers, size = random.Random(kind), BYTES[kind]
    data = bytearray(numbers.randbytes(BLOCKS * size))
    for at in range(0, len(data), size):
        if kind == Q4_K:
            data[at:at + 4] = struct.pack("<2e", 8e-5, 7.5 * 8e-5)
        else:
            data[at + 208:at + 210] = struct.pack("<e", 1.5e-5)
    return bytes(data)


def string(text):
    return struct.pack("<Q", len(text)) + text.encode()


def write_model(path, shape):
    number = lambda key, value: string(key) + struct.pack("<II", 4, value)
    real = lambda key, value: string(key) + struct.pack("<If", 6, value)
    text = lambda key, value: string(key) + struct.pack("<I", 8) + string(value)
    fields = [text("general.architecture", "llama"), text("general.name", "random weights"), number("llama.block_count", shape.layers),
              number("llama.context_length", shape.context), number("llama.embedding_length", shape.hidden),
              number("llama.feed_forward_length", shape.feed_forward), number("llama.attention.head_count", shape.heads),
              number("llama.attention.head_count_kv", shape.kv_heads), real("llama.attention.layer_norm_rms_epsilon", 1e-5),
              real("llama.rope.freq_base", 500000.0), number("llama.rope.dimension_count", shape.hidden // shape.heads),
              number("llama.vocab_size", shape.vocabulary), number("general.file_type", 15), text("tokenizer.ggml.model", "no_vocab")]
    header, offset, sizes = b"", 0, []
    for name, kind, rows, columns in tensors(shape):
        size = rows * columns // 256 * BYTES[kind]
        dimensions = (columns,) if kind == F32 else (columns, rows)
        header += string(name + ".weight") + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, kind, offset)
        sizes.append((kind, size))
        offset += -(-size // 32) * 32
    patterns = {kind: pattern(kind) for kind in BYTES}
    with open(path, "wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, len(sizes), len(fields)) + b"".join(fields) + header)
        file.write(bytes(-file.tell() % 32))
        for kind, size in sizes:
            data, left = patterns[kind], size
            while left > 0:
                file.write(data if left >= len(data) else data[:left])
                left -= len(data)
            file.write(bytes(-size % 32))


RECIPE = """base_model: {folder}/model.gguf
adapter: qlora
load_in_4bit: true
lora_r: 16
lora_alpha: 32
lora_target_linear: true
datasets: [{{path: {folder}/rows.jsonl}}]
dataset_prepared_path: {folder}/prepared
sequence_len: {length}
micro_batch_size: 2
gradient_accumulation_steps: 1
max_steps: {steps}
learning_rate: 2e-4
optimizer: adamw_torch
save_strategy: "no"
{checkpointing}output_dir: {folder}/{name}
"""


def train(lora, folder, name, checkpointing, attention, length, steps):
    """(tokens/s, the median of the steps after two; peak bytes; loss)"""
    recipe = folder / f"{name}.yml"
    recipe.write_text(RECIPE.format(folder=folder, length=length, steps=steps, checkpointing=checkpointing, name=name))
    subprocess.run([lora, "train", str(recipe), "--device", "cuda"], check=True, env=dict(os.environ, LORA_CUDA_ATTENTION=attention))
    lines = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "tokens_per_second" in line]
    late = lines[2:] or lines
    return statistics.median(line["tokens_per_second"] for line in late), lines[-1]["peak_memory_bytes"], lines[-1]["loss"]


def expected(card):
    """(column of scripts/cuda-roofline's table, tokens/s with every layer recomputed and with none) for the nearest card, or None."""
    result = subprocess.run([sys.executable, ROOT / "scripts" / "cuda-roofline", "time"], capture_output=True, text=True)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in result.stdout.splitlines() if line.startswith("|")]
    if not rows:
        return None
    cards = {"4090": "RTX 4090", "A100": "A100", "H100": "H100", "H200": "H100", "GH200": "H100"}
    names = [name for word, name in cards.items() if word in card]
    wanted = names[0] if names else "H100" if re.search(r"B[12]00", card) else "RTX 4090" if "RTX" in card or "L40" in card else "A100"
    column = next(i for i, cell in enumerate(rows[0]) if cell.startswith(wanted))
    rate = {row[0]: row[column] for row in rows if row[0].startswith("tokens/s")}
    return wanted, rate["tokens/s, every layer recomputed"], rate["tokens/s, nothing recomputed"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lora")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--card", default="")
    parser.add_argument("--simulated", action="store_true")
    options = parser.parse_args()
    shape, length, steps = (TINY, 24, 2) if options.simulated else (LLAMA_8B, 2048, 8)
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "model.gguf").exists():
        write_model(folder / "model.gguf", shape)
    numbers = random.Random(7)
    with open(folder / "rows.jsonl", "w") as rows:
        for _ in range(2 * steps):
            ids = [numbers.randrange(3, shape.vocabulary) for _ in range(length)]
            rows.write(json.dumps({"input_ids": ids, "labels": ids}) + "\n")
    figures, losses = [], []
    # Runs as short as these do not ask for cuDNN's attention by themselves.
    for name, checkpointing, attention in (("as-memory-allows", "", "own"), ("all-recomputed", "gradient_checkpointing: true\n", "own"),
                                           ("by-cudnn", "", "cudnn")):
        rate, peak, loss = train(options.lora, folder, name, checkpointing, attention, length, steps)
        if not math.isfinite(loss):
            sys.exit(f"the loss is {loss}")
        losses.append(loss)
        figures.append(f"{name} {rate:.0f} tokens/s, {peak / 2**30:.2f} GiB")
    if max(losses) - min(losses) > 1e-3 * losses[0]:
        sys.exit(f"losses are not alike: {losses}")
    near = None if options.simulated else expected(options.card)
    if near:
        figures.append(f"expected of {near[0]}: {near[1]} all recomputed, {near[2]} nothing")
    print("FIGURES: " + "; ".join(figures))


if __name__ == "__main__":
    main()
