#!/usr/bin/env python3
"""Writes a llama of 7B's shape in Q4_K_M with random blocks: what a run needs of memory and time depends on shapes and types alone.

Shape: Llama-2-7B's (32 layers, hidden 4096, 32 heads over --kv-heads KV heads, feed-forward 11008, vocabulary 32000). Types: those of
llama.cpp's Q4_K_M: Q4_K; Q6_K for the output layer and, in half of the layers, for attn_v and ffn_down; F32 norms of ones. 3.8 GiB.
Block scales are chosen so that weights have mean 0 and a standard deviation near 0.02, which keeps losses finite. There is no vocabulary:
rows for it are token ids. Beside random-7b.Q4_K_M.gguf come rows.jsonl, --rows rows of --length ids, every one trained, and recipe.yml, two
steps of LoRA on all linear layers within 6.5 GiB.

    python3 tests/tools/make_random_gguf.py FOLDER [--kv-heads 8] [--layers 4] [--rows 4] [--length 512]     (needs numpy, gguf)
    lora train FOLDER/recipe.yml --profile
"""
import argparse
import json
import pathlib

import gguf
import numpy as np

HIDDEN, HEADS, FEED_FORWARD, VOCABULARY = 4096, 32, 11008, 32000
Q4_K, Q6_K = gguf.GGMLQuantizationType.Q4_K, gguf.GGMLQuantizationType.Q6_K
BLOCK_BYTES = {Q4_K: 144, Q6_K: 210}


def has_more_bits(layer, layers):
    """Whether llama.cpp's Q4_K_M gives attn_v and ffn_down of a layer Q6_K: in the first and last eighth, and every third between."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def tensors(layers, kv_heads):
    """(name, type, rows, columns); type None: a norm."""
    key = HIDDEN // HEADS * kv_heads
    yield "token_embd", Q4_K, VOCABULARY, HIDDEN
    for i in range(layers):
        more = Q6_K if has_more_bits(i, layers) else Q4_K
        yield f"blk.{i}.attn_norm", None, 1, HIDDEN
        yield f"blk.{i}.attn_q", Q4_K, HIDDEN, HIDDEN
        yield f"blk.{i}.attn_k", Q4_K, key, HIDDEN
        yield f"blk.{i}.attn_v", more, key, HIDDEN
        yield f"blk.{i}.attn_output", Q4_K, HIDDEN, HIDDEN
        yield f"blk.{i}.ffn_norm", None, 1, HIDDEN
        yield f"blk.{i}.ffn_gate", Q4_K, FEED_FORWARD, HIDDEN
        yield f"blk.{i}.ffn_up", Q4_K, FEED_FORWARD, HIDDEN
        yield f"blk.{i}.ffn_down", more, HIDDEN, FEED_FORWARD
    yield "output_norm", None, 1, HIDDEN
    yield "output", Q6_K, VOCABULARY, HIDDEN


def random_blocks(rng, kind, rows, columns):
    """uint8 [rows, bytes]. Q4_K: d, dmin, 12 bytes of 6-bit scales, 128 of levels; w = d s q - dmin m with mean 0 where dmin = 7.5 d.
    Q6_K: 192 bytes of levels, 16 of int8 scales, d; w = d s (q - 32)."""
    count = rows * columns // 256
    blocks = np.frombuffer(rng.bytes(count * BLOCK_BYTES[kind]), np.uint8).reshape(count, -1).copy()
    if kind == Q4_K:
        blocks[:, 0:4] = np.array([8e-5, 7.5 * 8e-5], np.float16).view(np.uint8)
    else:
        blocks[:, 208:210] = np.array([1.5e-5], np.float16).view(np.uint8)
    return blocks.reshape(rows, -1)


def write_model(path, layers, kv_heads, rng):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("random llama of 7B's shape")
    writer.add_block_count(layers)
    writer.add_context_length(4096)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(VOCABULARY)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_K_M)
    writer.add_tokenizer_model("no_vocab")
    all_tensors = list(tensors(layers, kv_heads))
    for name, kind, rows, columns in all_tensors:
        if kind is None:
            writer.add_tensor_info(name + ".weight", (columns,), np.dtype(np.float32), columns * 4)
        else:
            width = columns // 256 * BLOCK_BYTES[kind]
            writer.add_tensor_info(name + ".weight", (rows, width), np.dtype(np.uint8), rows * width, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, kind, rows, columns in all_tensors:
        writer.write_tensor_data(np.ones(columns, np.float32) if kind is None else random_blocks(rng, kind, rows, columns))
    writer.close()


RECIPE = """base_model: {folder}/random-7b.Q4_K_M.gguf
adapter: qlora
load_in_4bit: true
lora_r: 16
lora_alpha: 32
lora_target_linear: true
datasets: [{{path: {folder}/rows.jsonl}}]
dataset_prepared_path: {folder}/prepared
sequence_len: {length}
micro_batch_size: 1
gradient_accumulation_steps: 1
max_steps: 2
learning_rate: 2e-4
lr_scheduler: cosine
optimizer: adamw_torch
save_strategy: "no"
max_memory: 6.5GiB
output_dir: {folder}/out
"""


def write_rows(path, count, length, rng):
    with open(path, "w", encoding="utf-8") as rows:
        for _ in range(count):
            ids = rng.integers(3, VOCABULARY, length).tolist()
            rows.write(json.dumps({"input_ids": ids, "labels": ids}) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--kv-heads", type=int, default=32)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    write_model(options.folder / "random-7b.Q4_K_M.gguf", options.layers, options.kv_heads, rng)
    write_rows(options.folder / "rows.jsonl", options.rows, options.length, rng)
    recipe = RECIPE.format(folder=options.folder.resolve(), length=options.length)
    (options.folder / "recipe.yml").write_text(recipe, encoding="utf-8")


if __name__ == "__main__":
    main()
