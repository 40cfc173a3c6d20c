#!/usr/bin/env python3
"""Makes tests/fuzz/corpus/tokenizer/: small tokenizers of every kind, each followed by a NUL byte and a text.

    python3 tests/tools/make_tokenizer_corpus.py     (needs gguf)
"""
import json
import pathlib

import gguf

CORPUS = pathlib.Path(__file__).resolve().parent.parent / "fuzz" / "corpus" / "tokenizer"
TEXT = "\0ab abab <s>  ab\n 12 a\u0301 \u00e9\ufb01 <|x|>ab ▁a's".encode() + b"\xff\xc3"


def model(**more):
    vocab = ["<s>", "a", "b", "ab", "\u0120", "\u0120ab", "▁", "▁ab", "1", "2", "<0xC3>", "<0xA9>"]
    return {"type": "BPE", "vocab": {text: i for i, text in enumerate(vocab)}, "merges": ["a b", ["\u0120", "ab"], "▁ ab"]} | more


def added(**flags):
    return [{"id": 0, "content": "<s>", "special": True}, {"id": 12, "content": "<|x|>"} | flags]


def split(pattern, **more):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False} | more


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
SPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
TEMPLATE = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}], "special_tokens": {"<s>": {"ids": [0]}}}
FILES = {
    "bytes": {"model": model(ignore_merges=True), "added_tokens": added(lstrip=True, rstrip=True), "post_processor": TEMPLATE,
              "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split(r"(?i:'s)|[^\r\n\p{L}]?\p{L}+|\p{N}{1,3}|\s+(?!\S)|[\s\u4e00-\u9fff]+"), BYTES]}},
    "stages": {"model": model(), "added_tokens": added(single_word=True), "normalizer": {"type": "NFKC"},
               "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": False}, {"type": "Punctuation", "behavior": "Contiguous"},
                                 split("b", behavior="MergedWithNext"), split("a", behavior="MergedWithPrevious", invert=True), BYTES | {"add_prefix_space": True, "use_regex": True}]}},
    "characters": {"model": model(byte_fallback=True, fuse_unk=True, unk_token="<s>"), "added_tokens": added(normalized=True),
                   "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
                   "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}},
    "metaspace": {"model": model(unk_token="<s>"), "added_tokens": added(), "pre_tokenizer": SPACE, "decoder": SPACE,
                  "post_processor": {"type": "BertProcessing", "sep": ["a", 1], "cls": ["b", 2]}},
}


def write_gguf():
    writer = gguf.GGUFWriter(CORPUS / "vocabulary.gguf", "llama")
    tokens = ["<s>", "a", "b", "ab", "\u0120", "\u0120ab", "1", "<|x|>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 1, 1, 1, 1, 1, 1, 4])
    writer.add_token_merges(["a b", "\u0120 ab"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_chat_template("{{ bos_token }} ab ab a<|x|>b<s> \u00e9a\u0301 1 ab")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def main():
    CORPUS.mkdir(parents=True, exist_ok=True)
    for name, parts in FILES.items():
        (CORPUS / f"{name}.json").write_bytes(json.dumps(parts, ensure_ascii=False, separators=(",", ":")).encode() + TEXT)
    write_gguf()


main()
