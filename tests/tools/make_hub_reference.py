#!/usr/bin/env python3
"""Writes tests/hub/data/splits.json: which files datasets finds for each split, by its rules for names and for a card's configurations.

    pip install datasets
    python tests/tools/make_hub_reference.py > tests/hub/data/splits.json

Each layout is made as a folder of empty files; datasets.data_files and datasets.utils.metadata are asked about it.
"""
import json
import os
import pathlib
import sys
import tempfile

from datasets.data_files import get_data_patterns, resolve_pattern
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard

LAYOUTS = [
    ["train.jsonl", "test.jsonl"],
    ["train.jsonl", "validation.jsonl", "test.jsonl"],
    ["rows.jsonl"],
    ["a.jsonl", "b.jsonl", "sub/c.jsonl"],
    ["data/train-00000-of-00002.jsonl", "data/train-00001-of-00002.jsonl", "data/test-00000-of-00001.jsonl", "other/train.jsonl"],
    ["data/train_sft-00000-of-00001.jsonl", "data/test_sft-00000-of-00001.jsonl"],
    ["train/a.jsonl", "train/b.jsonl", "test/a.jsonl", "validation.jsonl"],
    ["my_train_file_1.jsonl", "my_train_file_2.jsonl", "my_eval.jsonl", "dev.jsonl"],
    ["training.jsonl", "valid.jsonl", "evaluation-2.jsonl", "constrained.jsonl", "restrain.jsonl"],
    ["en/train-1.jsonl", "en/dev.jsonl", "de/train.jsonl"],
    ["data.train/x.jsonl", "data.test/x.jsonl"],
    ["train2024.jsonl", "2024test.jsonl"],
    ["trainer.jsonl", "tests.jsonl"],
    ["Train.jsonl", "TEST.jsonl"],
]

GLOBS = [
    "*.jsonl", "**", "**/*.jsonl", "data/*", "data/**", "data/*-0000?-*.jsonl", "data/train-*.jsonl", "**/train*", "sub/**/*.jsonl", "*/*.jsonl",
    "data/[a-t]*.jsonl", "data/[!t]*.jsonl", "sub/deep/x.jsonl", "**/deep/**", "nothing/*", "s*b/*/x.jsonl", "[rs]*.jsonl",
]
GLOB_FILES = ["rows.jsonl", "data/train-00000-of-00002.jsonl", "data/train-00001-of-00002.jsonl", "data/other.jsonl", "data/zebra.jsonl",
              "sub/x.jsonl", "sub/deep/x.jsonl", "sub/deep/deeper/train.jsonl"]

CARDS = [
    "configs:\n- config_name: default\n  data_files: a.jsonl\n",
    "configs:\n- config_name: default\n  data_files:\n  - a.jsonl\n  - sub/*.jsonl\n",
    "configs:\n- config_name: x\n  data_files:\n  - split: train\n    path: a.jsonl\n  - split: test\n    path:\n    - b.jsonl\n    - sub/c.jsonl\n",
    "configs:\n- config_name: one\n  data_files: a.jsonl\n- config_name: two\n  default: true\n  data_files: b.jsonl\n",
    "configs:\n- config_name: one\n  data_files: a.jsonl\n- config_name: default\n  data_dir: sub\n  data_files: \"*.jsonl\"\n",
    "license: mit\n",
]
CARD_FILES = ["a.jsonl", "b.jsonl", "sub/c.jsonl", "sub/d.jsonl"]


def make(folder, names):
    for name in names:
        path = pathlib.Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")


def resolve(folder, patterns):
    found = set()
    for pattern in patterns:
        try:
            found |= {os.path.relpath(path, os.path.realpath(folder)) for path in resolve_pattern(pattern, os.path.realpath(folder))}
        except FileNotFoundError:
            pass
    return sorted(found)


def layout_case(names):
    with tempfile.TemporaryDirectory() as folder:
        make(folder, names)
        patterns = get_data_patterns(os.path.realpath(folder))
        return {"files": sorted(names), "splits": {str(split): resolve(folder, found) for split, found in patterns.items()}}


def card_case(head):
    with tempfile.TemporaryDirectory() as folder:
        make(folder, CARD_FILES)
        card = f"---\n{head}---\n# Rows\n"
        configs = MetadataConfigs.from_dataset_card_data(DatasetCard(card).data)
        found = {}
        for name, config in configs.items():
            data_files, base = config.get("data_files"), config.get("data_dir", "")
            if isinstance(data_files, str):
                data_files = [data_files]
            if isinstance(data_files[0], str):
                data_files = [{"split": "train", "path": data_files}]
            found[name] = {entry["split"]: resolve(folder, [os.path.join(base, path) for path in
                                                            ([entry["path"]] if isinstance(entry["path"], str) else entry["path"])])
                           for entry in data_files}
        return {"card": card, "files": CARD_FILES, "default": configs.get_default_config_name(), "configs": found}


def main():
    with tempfile.TemporaryDirectory() as folder:
        make(folder, GLOB_FILES)
        globs = {pattern: resolve(folder, [pattern]) for pattern in GLOBS}
    json.dump({"layouts": [layout_case(names) for names in LAYOUTS], "glob_files": GLOB_FILES, "globs": globs,
               "cards": [card_case(head) for head in CARDS]}, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
