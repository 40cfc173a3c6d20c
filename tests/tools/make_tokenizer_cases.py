#!/usr/bin/env python3
"""Makes tests/data/tokenizer_cases.json: what Hugging Face's tokenizers library gives for hard strings.

Each case is a patch of the top level of tests/data/tiny-hf/tokenizer.json (another pre_tokenizer, normalizer, ...), with the ids
of each string (special tokens added), and what they decode to (null where the bytes are no valid UTF-8 there, or where we mean to give
the text back and the library does not). The cases `prepend` and `metaspace` bring a vocabulary of characters with byte fallback, `suffix`
and `prefix` ones with affixes, trained here on tests/tools/tiny_corpus.txt.

    python3 tests/tools/make_tokenizer_cases.py     (needs tokenizers)
"""
import json
import pathlib

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

HERE = pathlib.Path(__file__).resolve().parent
DATA = HERE.parent / "data"

STRINGS = [
    "", " ", "   ", "a", " a", "Hello, world!", "  Hello   world  ", "I'VE we'll 'S don't IT'S 'ſ", "\r\n\r\n x\r\n", "\t\ttab\n\n\n  x   \n",
    "1234567890 12 3.14 ½ ² ٣٤٥", "e\u0301 o\u0308\u0323 \u0b95\u0bca", "\u1100\u1161\u11a8 한국어 ｶﾞ ﬁ Å", "👨‍👩‍👧 🇩🇪 ✌🏽 ❤️",
    "def f(x):\n    return {'a': [1,2,3]}  # ok\n", "\u00a0\u2003x\u3000y\u200bz\u0085w\u2028q\u180er", "<|im_start|>user\nhi<|im_end|>\n",
    "<|endoftext|> <|im_endx<|im_end|><|im_end|>  ", "漢字かな交じり文", "\x00\x01\x1c\x1d\x7f", "naïve façade İstanbul ΑΣ ß", "~~~~---===...",
    ".\n.\r\n..\n\n", "a" * 70 + " " * 40 + "b", "the story of the little model that wanted to learn", "word<sep> next <sep>word  <sep>  <mask>",
    "  <mask>  x", "monday day day", "▁the▁ ▁", "a-b--c -d- e", "it's 3rd, 'tis 'RE", "\ufeffx\u00ad", "𝔘𝔫𝔦 ①②③ ㎏", "<0x0A>\\n", "\n",
]

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def sequence(*stages):
    return {"type": "Sequence", "pretokenizers": list(stages)}


def split(pattern, behavior="Isolated", invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def template(before, after):
    pieces = [{"SpecialToken": {"id": name, "type_id": 0}} for name in before] + [{"Sequence": {"id": "A", "type_id": 0}}]
    pieces += [{"SpecialToken": {"id": name, "type_id": 0}} for name in after]
    ids = {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}
    special = {name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in before + after}
    return {"type": "TemplateProcessing", "single": pieces, "pair": pieces + [{"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": special}


def added(base, *tokens):
    entries = list(base["added_tokens"])
    flags = ["single_word", "lstrip", "rstrip", "normalized", "special"]
    for i, (content, on) in enumerate(tokens):
        entries.append({"id": len(base["model"]["vocab"]) + i, "content": content} | {flag: flag in on for flag in flags})
    return entries


def character_model():
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    alphabet = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=560, special_tokens=["<unk>"] + alphabet, show_progress=False)
    lines = [line for line in (HERE / "tiny_corpus.txt").read_text(encoding="utf-8").splitlines() if line.isascii()]
    tokenizer.train_from_iterator((word for line in lines[:400] for word in line.split()), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    # Bytes are plain tokens of the vocabulary, not added ones.
    special = {"id": 0, "content": "<unk>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    mark = special | {"id": len(model["vocab"]), "content": "<|im_end|>", "normalized": True}
    return model, [special, mark]


def affix_model(**affix):
    """A vocabulary of lower-case words whose subwords carry an affix."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", **affix))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    lines = [line.lower() for line in (HERE / "tiny_corpus.txt").read_text(encoding="utf-8").splitlines() if line.isascii()]
    tokenizer.train_from_iterator(lines[:200], trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>"], show_progress=False, **affix))
    unknown = {"id": 0, "content": "<unk>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"model": json.loads(tokenizer.to_str())["model"], "added_tokens": [unknown]}


def more_cases(character, replace, sentence_decoder):
    """Every kind of component that the cases above do not have."""
    space = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    plain = {"type": "Sequence", "decoders": [space, {"type": "ByteFallback"}, {"type": "Fuse"}]}
    upper, lower = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
    o200k = (rf"[^\r\n\p{{L}}\p{{N}}]?[{upper}]*[{lower}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{{L}}\p{{N}}]?[{upper}]+[{lower}]*"
             r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    falcon = sequence({"type": "Punctuation", "behavior": "Contiguous"}, BYTES | {"use_regex": True},
                      {"type": "Digits", "individual_digits": False}, split("[0-9][0-9][0-9]"))

    def normal(*steps):
        return {"normalizer": {"type": "Sequence", "normalizers": list(steps)}, "pre_tokenizer": BYTES | {"use_regex": True}}

    bert = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True}
    suffix, prefix = affix_model(end_of_word_suffix="</w>"), affix_model(continuing_subword_prefix="##")
    word_decoder = {"type": "BPEDecoder", "suffix": "</w>"}
    prepend = {"type": "Prepend", "prepend": "▁"}
    return {
        "lowercase": normal({"type": "Lowercase"}),
        "strip": normal({"type": "Strip", "strip_left": True, "strip_right": True}),
        "strip_right": normal({"type": "Strip", "strip_left": False, "strip_right": True}, {"type": "NFKD"}, {"type": "StripAccents"}),
        "nmt": normal({"type": "Nmt"}, {"type": "NFKC"}),
        "replace_pattern": normal({"type": "Replace", "pattern": {"Regex": r"\s+|(?<=l)"}, "content": "_"}),
        "bert": {"normalizer": bert, "pre_tokenizer": sequence({"type": "BertPreTokenizer"}, BYTES)},
        "bert_cased": normal(bert | {"lowercase": False, "strip_accents": True, "clean_text": False}),
        "bytes_normalized": {"normalizer": {"type": "ByteLevel"}, "pre_tokenizer": split("Ġ", "MergedWithNext", kind="String")},
        "whitespace": {"pre_tokenizer": sequence({"type": "Whitespace"}, BYTES)},
        "delimiter": {"pre_tokenizer": sequence({"type": "CharDelimiterSplit", "delimiter": "-"}, BYTES)},
        "falcon": {"pre_tokenizer": falcon},
        "gpt_4o": {"pre_tokenizer": sequence(split(o200k), BYTES)},
        "bloom": {"pre_tokenizer": sequence(split(" ?[^(\\s|[.,!?…。，、।۔،])]+"), BYTES)},
        "boundaries": {"pre_tokenizer": sequence(split(r"\d{1,3}(?=(?:\d{3})*\b)|\B-"), BYTES)},
        "empty_matches": {"pre_tokenizer": sequence(split(r"\p{N}+"), split(r"(?=(\d{3})+(?!\d))"), split("l*", "MergedWithNext"), BYTES)},
        "suffix": suffix | {"normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "BertPreTokenizer"}, "decoder": word_decoder},
        "suffix_bytes": suffix | {"pre_tokenizer": BYTES | {"use_regex": True}, "decoder": {"type": "Sequence", "decoders": [BYTES, space]}},
        "prefix": prefix | {"normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "Whitespace"}, "decoder": {"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "Replace", "pattern": {"String": "##"}, "content": ""}]}},
        "gemma": character | {"normalizer": replace, "pre_tokenizer": split(" ", "MergedWithPrevious", kind="String"), "decoder": plain},
        "no_pre_tokenizer": character | {"normalizer": {"type": "Sequence", "normalizers": [prepend, replace]}, "pre_tokenizer": None, "decoder": sentence_decoder, "post_processor": None},
        "dropped_unknown": character | {"model": {"byte_fallback": False, "unk_token": None, "dropout": 0.0}, "normalizer": replace, "pre_tokenizer": None, "decoder": plain},
        "single_unknown": character | {"model": {"byte_fallback": False, "fuse_unk": False}, "normalizer": replace, "pre_tokenizer": None, "decoder": plain},
        "old_metaspace": character | {"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True}, "decoder": {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True}},
        "never_metaspace": character | {"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": True}, "decoder": plain},
        "strip_decoder": character | {"normalizer": replace, "pre_tokenizer": None, "decoder": {"type": "Sequence", "decoders": [space, {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 2, "stop": 0}]}},
        "bert_ends": {"post_processor": {"type": "BertProcessing", "sep": ["<|im_end|>", 2], "cls": ["<|im_start|>", 1]}},
    }


def make_cases(base):
    model, tokens = character_model()
    sentence_decoder = {
        "type": "Sequence",
        "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ],
    }
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    character = {"model": model, "added_tokens": tokens}
    flags = added(base, ("<sep>", ["lstrip"]), ("<mask>", ["lstrip", "rstrip", "special"]), ("day", ["single_word", "normalized"]), ("wor", []))
    cases = {
        "smollm": {},
        "prefix_space": {"pre_tokenizer": BYTES | {"add_prefix_space": True, "use_regex": True}},
        "llama3": {
            "model": base["model"] | {"ignore_merges": True},
            "pre_tokenizer": sequence(split(LLAMA3), BYTES),
            "post_processor": {"type": "Sequence", "processors": [{"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}, template(["<|im_start|>"], [])]},
        },
        "qwen2": {"normalizer": {"type": "NFC"}, "pre_tokenizer": sequence(split(LLAMA3.replace("{1,3}", "")), BYTES), "post_processor": template([], ["<|im_end|>"])},
        "nfkc": {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}]}, "pre_tokenizer": sequence(split(GPT2), BYTES)},
        "nfd": {"normalizer": {"type": "NFD"}, "pre_tokenizer": BYTES | {"use_regex": True}},
        "merged_with_previous": {"pre_tokenizer": sequence(split("-", "MergedWithPrevious", kind="String"), BYTES)},
        "merged_with_next": {"pre_tokenizer": sequence(split("[-.']", "MergedWithNext"), BYTES)},
        "removed": {"pre_tokenizer": sequence(split(r"\s+", "Removed"), BYTES)},
        "contiguous": {"pre_tokenizer": sequence(split(r"\w", "Contiguous"), BYTES)},
        "inverted": {"pre_tokenizer": sequence(split(r"\w+|[^\w\s]+", "Removed", True), BYTES)},
        "digits": {"pre_tokenizer": sequence({"type": "Punctuation", "behavior": "Contiguous"}, {"type": "Digits", "individual_digits": False}, split("[0-9][0-9][0-9]"), BYTES)},
        "words": {"pre_tokenizer": sequence({"type": "WhitespaceSplit"}, {"type": "Punctuation", "behavior": "Isolated"}, BYTES), "post_processor": {"type": "RobertaProcessing", "sep": ["<|im_end|>", 2], "cls": ["<|im_start|>", 1], "trim_offsets": True, "add_prefix_space": False}},
        "han": {"pre_tokenizer": sequence(split(r"\p{Han}+|[\u4e00-\u4eff]|^a|x$|(?i:THE)"), BYTES)},
        "added": {"added_tokens": flags},
        "prepend": character | {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]}, "pre_tokenizer": None, "decoder": sentence_decoder},
        "metaspace": character | {"pre_tokenizer": metaspace, "decoder": metaspace},
        "metaspace_first": character | {"pre_tokenizer": metaspace | {"prepend_scheme": "first", "split": False}, "decoder": metaspace | {"prepend_scheme": "first", "split": False}},
        "unknown": character | {"model": model | {"byte_fallback": False}, "pre_tokenizer": metaspace, "decoder": metaspace},
    }
    more = more_cases(character, replace, sentence_decoder)
    for patch in more.values():  # a model's settings stand for the character model with them
        if "model" in patch and "vocab" not in patch["model"]:
            patch["model"] = model | patch["model"]
    return cases | more


def main():
    base = json.loads((DATA / "tiny-hf" / "tokenizer.json").read_text(encoding="utf-8"))
    cases = []
    made = make_cases(base)
    for name, patch in made.items():
        tokenizer = Tokenizer.from_str(json.dumps(base | patch))
        ids = [tokenizer.encode(string).ids for string in STRINGS]
        texts = [tokenizer.decode(tokenizer.encode(string, add_special_tokens=False).ids, skip_special_tokens=False) for string in STRINGS]
        texts = [None if "\ufffd" in text else text for text in texts]
        if name == "old_metaspace":  # the library drops every space of the first token there
            texts = [None if string.startswith((" ", "▁")) else text for string, text in zip(STRINGS, texts)]
        # A patch of the model's settings alone does not repeat the vocabulary.
        shared = made["prepend"]["model"]
        if name != "prepend" and "model" in patch and patch["model"]["vocab"] == shared["vocab"]:
            patch = patch | {"model": {key: value for key, value in patch["model"].items() if shared[key] != value} | {"same_as": "prepend"}}
        elif "model" in patch:
            patch = patch | {"model": {key: value for key, value in patch["model"].items() if base["model"][key] != value}}
        cases.append({"name": name, "patch": patch, "ids": ids, "texts": texts})
    lines = ",\n".join(json.dumps(case, ensure_ascii=True, separators=(",", ":")) for case in cases)
    strings = json.dumps(STRINGS, ensure_ascii=True)
    (DATA / "tokenizer_cases.json").write_text(f'{{"strings": {strings},\n"cases": [\n{lines}\n]}}\n', encoding="utf-8")


main()
