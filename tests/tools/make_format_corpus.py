#!/usr/bin/env python3
"""Seeds of the fuzz targets fuzz_gguf and fuzz_safetensors: small whole files, and shapes that were bugs in readers elsewhere.

    python tests/tools/make_format_corpus.py tests/fuzz/corpus
"""
import json
import os
import struct
import sys

out = sys.argv[1]


def write(folder, name, data):
    os.makedirs(f"{out}/{folder}", exist_ok=True)
    with open(f"{out}/{folder}/{name}", "wb") as file:
        file.write(data)


def text(value):
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def key(name, kind, data):
    return text(name) + struct.pack("<I", kind) + data


def array(name, element, count, data):
    return key(name, 9, struct.pack("<IQ", element, count) + data)


def tensor(name, shape, kind, offset):
    return text(name) + struct.pack("<I", len(shape)) + b"".join(struct.pack("<Q", n) for n in shape) + struct.pack("<IQ", kind, offset)


def gguf(keys, tensors, data=0, version=3, counts=None):
    counts = counts or (len(tensors), len(keys))
    head = b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join(keys) + b"".join(tensors)
    return head + b"\0" * (-len(head) % 32) + bytes(range(64)) * (data // 64)


u32 = lambda value: struct.pack("<I", value)
model = [key("general.architecture", 8, text("llama")), key("llama.block_count", 4, u32(1)), key("llama.attention.head_count", 4, u32(2)),
         array("tokenizer.ggml.tokens", 8, 3, text("<s>") + text("<0x0A>") + text("a")), array("tokenizer.ggml.token_type", 5, 3, struct.pack("<3i", 3, 6, 1)),
         array("tokenizer.ggml.scores", 6, 3, struct.pack("<3f", 0, -1, -2)), key("tokenizer.ggml.bos_token_id", 4, u32(0))]
weights = [tensor("token_embd.weight", [4, 3], 0, 0), tensor("blk.0.attn_q.weight", [32, 2], 2, 64), tensor("blk.0.ffn_up.weight", [256], 14, 128)]
scalars = [key(f"k{kind}", kind, bytes([1] * size)) for kind, size in enumerate([1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8]) if size]
write("gguf", "model", gguf(model, weights, 384))
blocks = {2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210),
          15: (256, 292), 16: (256, 66), 20: (32, 18), 23: (256, 136), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17)}
tensors, end = [], 0
for kind, (elements, size) in blocks.items():
    tensors.append(tensor(f"t{kind}", [elements, 1, 2], kind, end))
    end += -(-2 * size // 32) * 32
write("gguf", "block_types", gguf(model[:1], tensors, -(-end // 64) * 64))
write("gguf", "version_2", gguf(model, weights, 384, version=2))
write("gguf", "scalars", gguf(scalars + [key("general.alignment", 4, u32(64))], []))
write("gguf", "string_length_wraps", gguf([key("k", 8, struct.pack("<Q", 2**64 - 1))], []))
write("gguf", "array_size_wraps", gguf([array("k", 10, 2**61 + 1, b"")], []))
write("gguf", "array_in_array", gguf([array("k", 9, 1, array("k", 9, 1, b""))], []))
write("gguf", "counts_wrap", gguf([], [], counts=(2**59 + 1, 2**60)))
write("gguf", "shape_wraps", gguf([], [tensor("t", [2**32, 2**32, 1, 1], 0, 0)], 64))
write("gguf", "offset_wraps", gguf([], [tensor("t", [16], 0, 2**64 - 32)], 64))
write("gguf", "alignment_zero", gguf([key("general.alignment", 4, u32(0))], weights, 384))
write("gguf", "special_token_outside", gguf(model[:6] + [key("tokenizer.ggml.eos_token_id", 4, u32(2**32 - 1))], weights, 384))
split = [key("split.no", 2, struct.pack("<H", 0)), key("split.count", 2, struct.pack("<H", 3)), key("split.tensors.count", 5, struct.pack("<i", 3))]
heads = array("llama.attention.head_count_kv", 4, 1, u32(1))
write("gguf", "split_first", gguf(model + split, weights, 384))
write("gguf", "heads_by_block", gguf(model + [heads], weights + [tensor("blk.0.attn_k.weight", [32, 1], 2, 384)], 448))
write("gguf", "adapter", gguf([key("general.type", 8, text("adapter")), key("adapter.type", 8, text("lora")), key("adapter.lora.alpha", 6, struct.pack("<f", 8))],
                              [tensor("blk.0.attn_q.weight.lora_a", [8, 2], 0, 0), tensor("blk.0.attn_q.weight.lora_b", [2, 4], 0, 64)], 128))
write("gguf", "type_not_read", gguf([], [tensor("a", [2**62], 20, 0), tensor("b", [2**62], 20, 32)], 64))


def safetensors(header, data=0, length=None):
    body = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(body) if length is None else length) + body + bytes(data)


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


good = {"__metadata__": {"format": "pt", "é": "\n\\"}, "a": entry("F32", [2, 2], 0, 16), "b": entry("BF16", [3], 16, 22), "c": entry("F64", [], 22, 30),
        "d": entry("F16", [0, 7], 30, 30), "e": entry("I8", [2], 30, 32)}
write("safetensors", "model", safetensors(good, 32))
write("safetensors", "padded", safetensors(json.dumps(good).encode() + b"   ", 32))
write("safetensors", "empty", safetensors({}))
write("safetensors", "length_wraps", safetensors(good, 32, 2**64 - 1))
write("safetensors", "shape_wraps", safetensors({"a": entry("F64", [2**61], 0, 0)}))
write("safetensors", "overlap", safetensors({"a": entry("U8", [4], 0, 4), "b": entry("U8", [4], 2, 6)}, 6))
write("safetensors", "twice", safetensors(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"\\u0061":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1))
write("safetensors", "nested", safetensors(b'{"a":' + b"[" * 300 + b"]" * 300 + b"}"))
every = {}
for name, size in sorted({"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4,
                                             "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8}.items(), key=lambda item: -item[1]):
    begin = max((item["data_offsets"][1] for item in every.values()), default=0)
    every[name] = entry(name, [2, 1], begin, begin + 2 * size)
write("safetensors", "every_type", safetensors(every, max(item["data_offsets"][1] for item in every.values())))
write("safetensors", "open_string", safetensors(b'{"a\\'))
