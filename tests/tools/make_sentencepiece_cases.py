#!/usr/bin/env python3
"""Makes small SentencePiece vocabularies from tests/tools/tiny_corpus.txt, and what the sentencepiece library gives for hard strings.

    tests/data/tiny-spm/tokenizer.model      BPE with byte fallback and a user-defined piece, as Llama's
    tests/data/tiny-spm.gguf                 the same vocabulary as llama.cpp's converter writes it
    tests/data/tiny-spm-json/tokenizer.json  the same as transformers' converter writes it: merges in the order of scores
    tests/data/tiny-spm-plain/tokenizer.model  BPE without bytes, spaces at the ends removed
    tests/data/sentencepiece_cases.json      strings, and the ids of the two models and of the tokenizer.json (by tokenizers)

    python3 tests/tools/make_sentencepiece_cases.py     (needs sentencepiece, protobuf, tokenizers, gguf)
"""
import json
import pathlib
import tempfile

import gguf
import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer

HERE = pathlib.Path(__file__).resolve().parent
DATA = HERE.parent / "data"

STRINGS = [
    "", " ", "   ", "a", " a", "Hello, world!", "  Hello   world  ", "the story of the little model that wanted to learn", "\n", "\n\n x\r\n\t", "aaaaaaaaaaaaaaaaa",
    "1234567890 3.14", "é e\u0301 ñ", "한국어 漢字かな ไทย", "👨‍👩‍👧 🦙", "▁the▁ ▁", "<0x0A><s></s><unk>", "the<sep>the <sep> the", "x" * 200, "the " * 60, " the" + " " * 40 + "the", "don't we'll I'VE",
    "\u00a0\u3000\u200b", "def f(x):\n    return {'a': [1, 2]}\n", "<sep>", "<sep><sep> a", "zq", "the\u2581the",
]


def train(name, size, **options):
    folder = DATA / name
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        sentencepiece.SentencePieceTrainer.train(
            input=str(HERE / "tiny_corpus.txt"), model_prefix=f"{work}/m", vocab_size=size, model_type="bpe", character_coverage=0.9995,
            normalization_rule_name="identity", user_defined_symbols=["<sep>"], minloglevel=3, **options)
        proto = sentencepiece_model_pb2.ModelProto.FromString(pathlib.Path(f"{work}/m.model").read_bytes())
    proto.trainer_spec.input[:] = ["tiny_corpus.txt"]  # not the paths of this machine
    proto.trainer_spec.model_prefix = "m"
    (folder / "tokenizer.model").write_bytes(proto.SerializeToString())
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def piece_type(model, i):
    for kind, name in ((2, "IsUnknown"), (3, "IsControl"), (5, "IsUnused"), (6, "IsByte")):
        if getattr(model, name)(i):
            return kind
    return 4 if model.IdToPiece(i) == "<sep>" else 1


def write_gguf(model):
    ids = range(model.GetPieceSize())
    writer = gguf.GGUFWriter(DATA / "tiny-spm.gguf", "llama")
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([model.IdToPiece(i) for i in ids])
    writer.add_token_scores([model.GetScore(i) for i in ids])
    writer.add_token_types([piece_type(model, i) for i in ids])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def write_json(model):
    pieces = [model.IdToPiece(i) for i in range(model.GetPieceSize())]
    known = {piece for i, piece in enumerate(pieces) if piece_type(model, i) == 1}
    merges = []
    for i, piece in enumerate(pieces):
        if piece in known:
            merges += [(-model.GetScore(i), piece[:k], piece[k:]) for k in range(1, len(piece)) if piece[:k] in known and piece[k:] in known]
    merges.sort(key=lambda merge: merge[0])
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [{"id": i, "content": pieces[i], "special": i < 3} | flags for i in (0, 1, 2, pieces.index("<sep>"))]
    normalizer = [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    decoder = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]
    root = {
        "version": "1.0", "added_tokens": added, "normalizer": {"type": "Sequence", "normalizers": normalizer}, "pre_tokenizer": None,
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                           "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": decoder},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True, "vocab": {piece: i for i, piece in enumerate(pieces)},
                  "merges": [[left, right] for _, left, right in merges]},
    }
    folder = DATA / "tiny-spm-json"
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(root, ensure_ascii=False, separators=(",", ":"))
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return Tokenizer.from_str(text)


def main():
    model = train("tiny-spm", 700, byte_fallback=True, remove_extra_whitespaces=False)
    plain = train("tiny-spm-plain", 400, remove_extra_whitespaces=True)
    (DATA / "tiny-spm" / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>", "added_tokens_decoder": {
        "0": {"content": "<unk>", "special": True}, "700": {"content": "<|im_end|>", "special": True}, "701": {"content": "<tool>", "special": False}}}), encoding="utf-8")
    write_gguf(model)
    peer = write_json(model)
    cases = {"strings": STRINGS, "model": [model.encode(string) for string in STRINGS], "plain": [plain.encode(string) for string in STRINGS],
             "json": [peer.encode(string, add_special_tokens=False).ids for string in STRINGS]}
    (DATA / "sentencepiece_cases.json").write_text("{" + ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in cases.items()) + "}\n", encoding="utf-8")


main()
