#!/usr/bin/env python3
"""Compares `lora tokenize` with Hugging Face's tokenizers library: the same ids, and how fast, on one thread each.

    python3 tests/tools/compare_tokenizers.py build/release/lora TEXT MODEL...     (needs tokenizers and gguf)

TEXT is a file of UTF-8, 10 MB or so of real text; a MODEL is a GGUF file (a vocabulary alone will do) or a folder with a tokenizer.json.
For a GGUF file the library's tokenizer is built from its tokens and merges (those of SentencePiece from its scores). Prints a line a
model: MB/s for the text as a whole and line by line, and whether all ids are the same.

    ... --random N     compares the ids of N random texts of hard characters for each model instead
"""
import argparse
import json
import os
import pathlib
import random
import subprocess
import tempfile
import time
import unicodedata

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

import gguf
from tokenizers import Tokenizer

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN35 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def split(*patterns):
    return [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False} for pattern in patterns] + [BYTES]


# tokenizer.ggml.pre -> the pre_tokenizer of the model's own tokenizer.json
PRE = {
    "gpt-2": split(GPT2),
    "llama-bpe": split(LLAMA3),
    "qwen2": split(LLAMA3.replace("{1,3}", "")),
    "qwen35": split(QWEN35),
    "smollm": split(r"\p{N}", GPT2),
    "deepseek-coder": split("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"),
    "falcon": [{"type": "Punctuation", "behavior": "Contiguous"}, BYTES | {"use_regex": True},
               {"type": "Digits", "individual_digits": False}, split("[0-9][0-9][0-9]")[0]],
}


def field(reader, name, otherwise=None):
    entry = reader.get_field(name)
    return otherwise if entry is None else entry.contents()


def merges_by_score(tokens, types, scores):
    """What transformers makes of a SentencePiece model: every cut of a token into two tokens, by the token's score."""
    known = {token for token, kind in zip(tokens, types) if kind in (1, 4, 5)}
    made = []
    for token, kind, score in zip(tokens, types, scores):
        if kind in (1, 4, 5):
            made += [(-score, token[:i], token[i:]) for i in range(1, len(token)) if token[:i] in known and token[i:] in known]
    made.sort(key=lambda merge: merge[0])
    return [[left, right] for _, left, right in made]


def from_gguf(path):
    reader = gguf.GGUFReader(path)
    tokens, types = field(reader, "tokenizer.ggml.tokens"), field(reader, "tokenizer.ggml.token_type")
    kind, pre = field(reader, "tokenizer.ggml.model"), field(reader, "tokenizer.ggml.pre", "")
    model = {"type": "BPE", "vocab": {token: i for i, token in enumerate(tokens)}, "ignore_merges": pre == "llama-bpe"}
    added = [{"id": i, "content": token, "special": False, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
             for i, token in enumerate(tokens) if types[i] == 4]
    root = {"version": "1.0", "added_tokens": added, "normalizer": None, "post_processor": None, "model": model}
    if kind == "gpt2":
        model["merges"] = [merge.split(" ") for merge in field(reader, "tokenizer.ggml.merges")]
        root["normalizer"] = {"type": "NFC"} if pre == "qwen2" else None
        return Tokenizer.from_str(json.dumps(root | {"pre_tokenizer": {"type": "Sequence", "pretokenizers": PRE[pre]}, "decoder": BYTES}))
    model |= {"byte_fallback": True, "fuse_unk": True, "unk_token": tokens[field(reader, "tokenizer.ggml.unknown_token_id")]}
    steps = [{"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    if kind == "llama":
        model["merges"] = merges_by_score(tokens, types, field(reader, "tokenizer.ggml.scores"))
        if field(reader, "tokenizer.ggml.add_space_prefix", True):
            steps.insert(0, {"type": "Prepend", "prepend": "▁"})
    else:
        model["merges"] = [[merge[: merge.index(" ", 1)], merge[merge.index(" ", 1) + 1 :]] for merge in field(reader, "tokenizer.ggml.merges")]
    return Tokenizer.from_str(json.dumps(root | {"normalizer": {"type": "Sequence", "normalizers": steps}, "pre_tokenizer": None, "decoder": None}))


def open_peer(model):
    path = pathlib.Path(model)
    return Tokenizer.from_file(str(path / "tokenizer.json")) if path.is_dir() else from_gguf(path)


def ours(program, model, file, *options):
    return subprocess.run([program, "tokenize", "--model", model, "--file", file, "--no-special", *options], check=True, capture_output=True, text=True).stdout


def measure(program, file, models):
    text = pathlib.Path(file).read_bytes().decode("utf-8")
    megabytes = len(text.encode()) / 1e6
    lines = [line + "\n" for line in text.split("\n")]
    print(f"{'vocabulary':28} {'whole: ours':>12} {'theirs':>7} {'times':>6} {'lines: ours':>12} {'theirs':>7} {'times':>6}   ids")
    for model in models:
        peer = open_peer(model)
        mine = json.loads(ours(program, model, file, "--time"))
        start = time.perf_counter()
        ids = peer.encode(text, add_special_tokens=False).ids
        whole = time.perf_counter() - start
        start = time.perf_counter()
        for line in lines:
            peer.encode(line, add_special_tokens=False)
        by_line = time.perf_counter() - start
        same = ours(program, model, file).split() == [str(i) for i in ids]
        print(f"{pathlib.Path(model).name.removesuffix('.gguf'):28} {megabytes / mine['seconds_whole']:7.1f} MB/s {megabytes / whole:7.1f} {whole / mine['seconds_whole']:6.1f}"
              f" {megabytes / mine['seconds_lines']:7.1f} MB/s {megabytes / by_line:7.1f} {by_line / mine['seconds_lines']:6.1f}   {'the same' if same else 'DIFFERENT'}", flush=True)


def random_text(rng):
    """Mostly what tokenizers trip over: spaces of all kinds, contractions, digits, marks, scripts, emoji, U+2581, line ends."""
    common = ["the", " the", "  ", " ", "\n", "\r\n", "\t", "'s", "'LL", "▁", "▁▁", "é", "e\u0301", "한국", "漢字", "かな", "ไทย", "हिन्दी", "العربية", "עברית", "0", "12", "345", "½", "²",
              "٣", "—", "…", "!?", "...", "//", "=", "$", "`", "🦙", "👨‍👩‍👧", "\u200d", "\u200b", "\u00a0", "\u3000", "\x00", "\x7f", "Ⅷ", "ⓐ", "ß", "İ", "A", "aA", "Zz", "_", "<0x41>", "ſ"]
    pieces = []
    for _ in range(rng.randrange(1, 40)):
        kind = rng.random()
        if kind < 0.6:
            pieces.append(rng.choice(common))
        elif kind < 0.8:
            pieces.append(rng.choice("abcdefghij  \n0123456789.,'-(") * rng.randrange(1, 6))
        else:
            point = rng.choice([rng.randrange(0x20, 0x250), rng.randrange(0x250, 0x3100), rng.randrange(0x3100, 0xD800), rng.randrange(0xE000, 0x1FB00)])
            # Characters newer than Python's Unicode may be newer than that of one of the two libraries of regular expressions.
            pieces.append(chr(point) if unicodedata.category(chr(point)) != "Cn" else "?")
    return "".join(pieces)


def compare_random(program, count, seed, models):
    separator = "\n" + "=" * 7 + "\n"
    for model in models:
        peer, rng, wrong = open_peer(model), random.Random(seed), 0
        with tempfile.TemporaryDirectory() as folder:
            file = str(pathlib.Path(folder) / "text")
            pending = [[random_text(rng) for _ in range(min(64, count - i))] for i in range(0, count, 64)]
            while pending:
                texts = pending.pop()
                text = separator.join(texts)
                pathlib.Path(file).write_bytes(text.encode("utf-8"))
                if ours(program, model, file).split() == [str(i) for i in peer.encode(text, add_special_tokens=False).ids]:
                    continue
                if len(texts) > 1:  # find which
                    pending += [texts[: len(texts) // 2], texts[len(texts) // 2 :]]
                    continue
                wrong += 1
                if wrong <= 5:
                    print(f"  {texts[0]!r}\n    ours   {ours(program, model, file).split()}\n    theirs {peer.encode(text, add_special_tokens=False).ids}")
        print(f"{pathlib.Path(model).name}: {count} random texts, seed {seed}, {wrong} differ", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("text")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--random", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    if given.random:
        compare_random(given.program, given.random, given.seed, given.models)
    else:
        measure(given.program, given.text, given.models)


main()
