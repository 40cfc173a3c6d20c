#!/usr/bin/env python3
"""Makes tests/fuzz/corpus/tokenizer/: small tokenizers of every kind, each followed by a NUL byte and a text (GGUF files and models of
SentencePiece: their last 64 bytes are the text).

    python3 tests/tools/make_tokenizer_corpus.py     (needs gguf, sentencepiece, protobuf)
"""
import json
import pathlib

import gguf
from sentencepiece import sentencepiece_model_pb2

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
    "alphabet": {"model": model(end_of_word_suffix="b", continuing_subword_prefix="a"), "added_tokens": added(),
                 "normalizer": {"type": "Sequence", "normalizers": [{"type": "BertNormalizer"}, {"type": "Strip"}, {"type": "StripAccents"}, {"type": "Nmt"},
                                                                    {"type": "Replace", "pattern": {"Regex": r"\s+|a*"}, "content": " b"}]},
                 "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}, {"type": "CharDelimiterSplit", "delimiter": "-"}, BYTES | {"use_regex": True},
                                                                         {"type": "Digits", "individual_digits": False}, split(r"\b|(?=\d)"), {"type": "BertPreTokenizer"}]},
                 "decoder": {"type": "Sequence", "decoders": [{"type": "ByteLevel"}, {"type": "BPEDecoder", "suffix": "b"}, {"type": "Strip", "content": "a", "start": 2, "stop": 1}]}},
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


PIECES = ["<unk>", "<s>", "</s>", "<0x61>", "<0xC3>", "<|x|>", "▁", "a", "b", "ab", "▁ab", "abab", "▁a▁b", "éa", "1", "\n\n"]
TYPES = [2, 3, 3, 6, 6, 4] + [1] * 10


def write_spaces(name, kind):
    writer = gguf.GGUFWriter(CORPUS / f"{name}.gguf", "llama")
    writer.add_tokenizer_model(kind)
    writer.add_token_list(PIECES)
    writer.add_token_types(TYPES)
    writer.add_token_scores([-float(i // 2) for i in range(len(PIECES))])
    writer.add_token_merges(["a b", "▁ ab", "ab ab"])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_chat_template(" abab ab\n\n <s>éa▁a <|x|> a b 1 c éab \u00e9a\u0301 <0x61>")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def write_pieces(name, remove_extra):
    proto = sentencepiece_model_pb2.ModelProto()
    for i, piece in enumerate(PIECES):
        entry = proto.pieces.add()
        entry.piece, entry.score, entry.type = piece, -float(i), TYPES[i]
    proto.trainer_spec.model_type = 2
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.remove_extra_whitespaces = remove_extra
    text = " abab ab\n\n <s>éa▁a <|x|> a b 1 c éab \u00e9a\u0301  <0x61> ▁ ".encode()
    (CORPUS / f"{name}.model").write_bytes(proto.SerializeToString() + bytes([4 << 3 | 2, len(text)]) + text)  # a field that readers skip


def main():
    CORPUS.mkdir(parents=True, exist_ok=True)
    for name, parts in FILES.items():
        (CORPUS / f"{name}.json").write_bytes(json.dumps(parts, ensure_ascii=False, separators=(",", ":")).encode() + TEXT)
    write_gguf()
    write_spaces("scores", "llama")
    write_spaces("merges", "gemma4")
    write_pieces("pieces", False)
    write_pieces("trimmed", True)


main()
