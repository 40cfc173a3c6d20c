#!/usr/bin/env python3
"""Makes tests/models/data/quantized.safetensors: one matrix in every quantised format that is read, as the format's own library or its
documented packing writes it, and the floats that its reference makes of it.

For each case NAME: NAME/config (config.json as bytes), NAME/TENSOR for every tensor of the module, and NAME/expected in the type of the reference.

Most cases are made by the libraries (quantized_layers.py). What these do not write on the CPU is packed here from the documentation, with the
floats by the formulas of their PyTorch layers: GPTQ's second version, scales in bfloat16 and zeros of 0 (scales * (q - zero) in the scales'
type), FP8 with blocks that run over the edge, one scale for all or one a row (float32(q) * scale), compressed-tensors with weight_g_idx.

    python3 tests/tools/make_quantized_folders.py [FILE]
        (needs torch, transformers, bitsandbytes, compressed-tensors, safetensors, AutoGPTQ's and AutoAWQ's layers)
"""
import json
import pathlib
import sys

import quantized_layers as layers
import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import dequantize
from safetensors.torch import save_file

OUT = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).resolve().parent.parent / "models/data/quantized.safetensors"
ROWS, COLUMNS = 64, 96
torch.manual_seed(7)
tensors = {}


def add(name, quantization, parts, expected, dtype="float16"):
    config = {"torch_dtype": dtype, "quantization_config": quantization}
    tensors[f"{name}/config"] = torch.tensor(list(json.dumps(config).encode()), dtype=torch.uint8)
    for part, value in parts.items():
        tensors[f"{name}/{part}"] = value.contiguous().clone()
    assert expected.shape == (ROWS, COLUMNS), name
    tensors[f"{name}/expected"] = expected.contiguous().clone()


def weights():
    return torch.randn(ROWS, COLUMNS) * 0.05


# ---- bitsandbytes ----
for kind in ("nf4", "fp4"):
    for nested in (False, True):
        for block in (64, 128):
            parts, expected = layers.nf4(weights(), kind, nested, block)
            quantization = {"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False, "bnb_4bit_quant_type": kind,
                            "bnb_4bit_use_double_quant": nested}
            add(f"bnb_{kind}_{'nested' if nested else 'plain'}_{block}", quantization, parts, expected, "bfloat16")
add("bnb_int8", {"quant_method": "bitsandbytes", "load_in_4bit": False, "load_in_8bit": True}, *layers.int8(weights()))


# ---- GPTQ ----
def pack_dense(values, bits):
    """[n, m] of 0 .. 2^bits - 1 into [n * bits / 32, m] int32: bit i * bits + b of the stream of a column is bit b of value i."""
    n, m = values.shape
    stream = ((values.long().unsqueeze(1) >> torch.arange(bits).view(1, -1, 1)) & 1).reshape(n * bits // 32, 32, m)
    words = (stream << torch.arange(32).view(1, -1, 1)).sum(1)
    return torch.where(words >= 2**31, words - 2**32, words).int()


def gptq_by_formula(name, bits, group, order, symmetric, version, keep_index=True, scale_type=torch.float16):
    size = group if group > 0 else COLUMNS
    groups = (COLUMNS + size - 1) // size
    index = torch.arange(COLUMNS) // size
    if order:
        index = index[torch.randperm(COLUMNS)]
    q = torch.randint(0, 2**bits, (COLUMNS, ROWS))
    zeros = torch.full((groups, ROWS), 2 ** (bits - 1)) if symmetric else torch.randint(0, 2**bits, (groups, ROWS))
    scales = (torch.rand(groups, ROWS) * 0.01 + 0.001).to(scale_type)
    stored = zeros if version == 2 else (zeros - 1) & (2**bits - 1)
    expected = (scales[index] * (q - zeros[index]).to(scale_type)).t()
    quantization = {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": order, "sym": symmetric}
    if version == 2:
        quantization["checkpoint_format"] = "gptq_v2"
    parts = {"qweight": pack_dense(q, bits), "qzeros": pack_dense(stored.t(), bits).t(), "scales": scales}
    if keep_index:
        parts["g_idx"] = index.int()
    add(name, quantization, parts, expected)


def gptq(name, bits, group, order, symmetric, says_order=None):
    add(name, {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": order if says_order is None else says_order,
               "sym": symmetric}, *layers.gptq(weights(), bits, group, order, symmetric))


gptq("gptq_2bit", 2, 32, False, False)
gptq("gptq_3bit", 3, 32, True, False)
gptq("gptq_4bit", 4, 32, False, True)
gptq("gptq_4bit_asym", 4, 32, False, False)
gptq("gptq_4bit_order", 4, 32, True, False)
gptq("gptq_4bit_silent_order", 4, 32, True, False, says_order=False)
gptq("gptq_4bit_short_group", 4, 64, False, False)
gptq("gptq_8bit", 8, 32, True, False)
gptq_by_formula("gptq_4bit_zero_0", 4, 32, False, False, 1)
gptq_by_formula("gptq_4bit_row_v2", 4, -1, False, False, 2, keep_index=False)
gptq_by_formula("gptq_4bit_bf16", 4, 16, True, False, 2, scale_type=torch.bfloat16)

# ---- AWQ ----
for group in (32, -1):
    add(f"awq_{group if group > 0 else COLUMNS}", {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": True, "version": "gemm"},
        *layers.awq(weights(), group))

# ---- FP8 ----
add("fp8_block_even", {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [32, 48]}, *layers.fp8(weights(), (32, 48)), "bfloat16")
fp8 = (torch.randn(ROWS, COLUMNS) * 100).to(torch.float8_e4m3fn)
fp8.view(-1)[:16] = torch.tensor([0, 128, 1, 7, 8, 127 - 1, 254, 129] * 2, dtype=torch.uint8).view(torch.float8_e4m3fn)
block = [48, 64]
grid = torch.rand(-(-ROWS // block[0]), -(-COLUMNS // block[1])) * 0.01
full = grid.repeat_interleave(block[0], 0)[:ROWS].repeat_interleave(block[1], 1)[:, :COLUMNS]
add("fp8_block", {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": block}, {"weight": fp8, "weight_scale_inv": grid}, fp8.float() * full,
    "bfloat16")
add("fp8_tensor", {"quant_method": "fp8"}, {"weight": fp8, "weight_scale": torch.tensor(0.0123)}, fp8.float() * torch.tensor(0.0123))
by_row = torch.rand(ROWS, 1) * 0.01
add("fp8_fbgemm", {"quant_method": "fbgemm_fp8"}, {"weight": fp8, "weight_scale": by_row}, fp8.float() * by_row)


# ---- compressed-tensors ----
def compressed(name, format, arguments, scales, q, zeros=None, index=None):
    quantization = {"quant_method": "compressed-tensors", "format": format,
                    "config_groups": {"group_0": {"targets": ["Linear"], "weights": arguments}}, "ignore": ["lm_head"]}
    expected = dequantize(q, scales, zeros, QuantizationArgs(**arguments))
    parts = {"weight_scale": scales}
    if format == "pack-quantized":
        parts, expected = layers.packed_parts(q, arguments, scales, zeros)
    else:
        parts["weight"] = q
        if zeros is not None:
            parts["weight_zero_point"] = zeros
    if index is not None:
        parts["weight_g_idx"] = index.int()
        expected = (q.to(scales.dtype) - zeros.to(scales.dtype)[:, index]) * scales[:, index]
    add(name, quantization, parts, expected, "bfloat16")


def integers(bits, columns=COLUMNS):
    return torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), (ROWS, columns), dtype=torch.int8)


def positive(columns, dtype=torch.bfloat16):
    return (torch.rand(ROWS, columns) * 0.01 + 0.001).to(dtype)


group_4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True}
compressed("ct_pack4", "pack-quantized", group_4, positive(3), integers(4))
compressed("ct_pack4_f16_asym", "pack-quantized", {**group_4, "symmetric": False}, positive(3, torch.float16), integers(4), integers(4, 3))
compressed("ct_pack4_order", "pack-quantized", {**group_4, "symmetric": False}, positive(3), integers(4), integers(4, 3),
           torch.arange(COLUMNS)[torch.randperm(COLUMNS)] // 32)
compressed("ct_pack3", "pack-quantized", {**group_4, "num_bits": 3}, positive(3), integers(3))
compressed("ct_pack8_channel", "pack-quantized", {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True}, positive(1), integers(8))
compressed("ct_int8_asym", "int-quantized", {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": False}, positive(1), integers(8),
           integers(8, 1))
compressed("ct_naive4_group", "naive-quantized", group_4, positive(3), integers(4))
compressed("ct_float8_channel", "float-quantized", {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True}, positive(1), fp8)
compressed("ct_float8_tensor", "float-quantized", {"num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": True},
           torch.tensor([0.0123], dtype=torch.bfloat16), fp8)

OUT.parent.mkdir(parents=True, exist_ok=True)
save_file(tensors, OUT)
print(f"{OUT}: {OUT.stat().st_size} bytes, {sum(1 for name in tensors if name.endswith('/config'))} cases")
