#!/usr/bin/env python3
"""Compares the statistics of `lora inspect --json` with NumPy's on the values that gguf-py and safetensors read.

    python tests/tools/compare_inspect.py build/release/lora FILE...

Needs gguf, numpy, torch and safetensors.
"""
import json
import subprocess
import sys

import gguf
import numpy as np
import safetensors.torch
import torch

program = sys.argv[1]


def values_of(path):
    if path.endswith(".gguf"):
        for tensor in gguf.GGUFReader(path).tensors:
            yield tensor.name, gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    else:
        for name, tensor in safetensors.torch.load_file(path).items():
            yield name, tensor.to(torch.float64).numpy()


for path in sys.argv[2:]:
    result = subprocess.run([program, "inspect", path, "--json"], capture_output=True, text=True)
    seen = {tensor["name"]: tensor for tensor in json.loads(result.stdout)["tensors"]}
    worst = 0
    for name, values in values_of(path):
        values = np.asarray(values, dtype=np.float64).ravel()
        finite = values[np.isfinite(values)]
        statistics = seen.pop(name)["statistics"]
        if statistics is None:  # of a type that is not built
            continue
        assert statistics["nan"] == np.isnan(values).sum() and statistics["inf"] == np.isinf(values).sum(), name
        assert statistics["zeros"] == (values == 0).sum(), name
        if finite.size == 0:
            continue
        assert statistics["min"] == finite.min() and statistics["max"] == finite.max(), name
        scale = max(np.abs(finite).max(), 1e-300)
        expected = {"mean": finite.mean(), "std": finite.std(), "rms": np.sqrt((finite**2).mean())}
        for key, value in expected.items():
            worst = max(worst, abs(statistics[key] - value) / scale)
    assert not seen, seen.keys()
    assert worst < 1e-12, worst
    print(f"{path}: the same; mean, std and rms within {worst:.1e} of the largest value")
