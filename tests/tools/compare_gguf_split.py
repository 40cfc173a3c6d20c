#!/usr/bin/env python3
"""Splits a GGUF file as gguf-py does (the way of llama.cpp's converter) and checks that `lora inspect` sees the same tensors in the parts.

    python tests/tools/compare_gguf_split.py build/release/lora tests/data/tiny.gguf

Needs gguf (pip install gguf).
"""
import json
import pathlib
import subprocess
import sys
import tempfile

import gguf

program, source = sys.argv[1], sys.argv[2]


def inspect(path):
    result = subprocess.run([program, "inspect", str(path), "--json"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr + result.stdout
    return json.loads(result.stdout)


def value_of(field):
    return field.contents()


def split(reader, path, tensors, small_first):
    architecture = value_of(reader.fields["general.architecture"])
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=tensors, small_first_shard=small_first)
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        kind = field.types[0]
        writer.add_key_value(key, value_of(field), kind, field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


whole = inspect(source)
reader = gguf.GGUFReader(source)
for tensors in (1, 5, 7, 100):
    for small_first in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            split(reader, pathlib.Path(folder) / "model.gguf", tensors, small_first)
            parts = sorted(pathlib.Path(folder).glob("*.gguf"))
            seen = inspect(parts[0])
            assert seen["tensors"] == whole["tensors"], "the tensors differ"
            assert len(seen["files"]) == len(parts)
            print(f"{len(parts)} files of at most {tensors} tensors{', the first without any' if small_first else ''}: "
                  f"{len(seen['tensors'])} tensors, the same types, shapes and statistics")
