"""One linear layer [out, in] in each quantised format, by the library that writes it: NAME(weight, ...) -> (tensors by part, the floats that
the library makes of them).

bitsandbytes, compressed-tensors and transformers (FP8: Fp8Quantize and Fp8Dequantize) are called as they are. AutoGPTQ 0.7.1 and AutoAWQ
0.2.9 no longer import under today's transformers, but their layers do, on the CPU: QuantLinear.pack and its forward on unit vectors;
WQLinear_GEMM.from_linear and dequantize_gemm. Both come by `pip install --no-deps auto-gptq==0.7.1 autoawq==0.2.9`.
"""
import importlib
import pathlib
import sys
import types

import bitsandbytes.functional as F
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import dequantize
from transformers.integrations.finegrained_fp8 import Fp8Dequantize, Fp8Quantize


def layer_class(package, module, name):
    """A class of a package whose own __init__ fails to import."""
    if package not in sys.modules:
        sys.modules[package] = types.ModuleType(package)
        sys.modules[package].__path__ = [str(pathlib.Path(p) / package) for p in sys.path if (pathlib.Path(p) / package).is_dir()]
    return getattr(importlib.import_module(f"{package}.{module}"), name)


def linear(weight):
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight
    return layer


def rounded_to_grid(weight, index, bits, symmetric, least_zero):
    """Scales and zeros [out, groups] of each row's groups, and the weight on their grid: packing then rounds nothing."""
    groups, top = int(index.max()) + 1, 2**bits - 1
    scales, zeros = torch.empty(len(weight), groups), torch.empty(len(weight), groups)
    for g in range(groups):
        part = weight[:, index == g]
        low, high = part.amin(1).clamp(max=0), part.amax(1).clamp(min=0)
        if symmetric:
            high = torch.maximum(-low, high)
            low = -high
        scales[:, g] = ((high - low) / top).half().float()
        zeros[:, g] = torch.full_like(low, 2 ** (bits - 1)) if symmetric else (-low / scales[:, g]).round().clamp(least_zero, top)
    scale, zero = scales[:, index], zeros[:, index]
    codes = ((weight / scale).round() + zero).clamp(0, top)
    return scales, zeros, (codes - zero) * scale


def gptq(weight, bits, group, order=False, symmetric=True):
    """The first version: zeros are stored less one. QuantLinear.pack cannot store the zero 0 (its -1 fills the other fields too)."""
    rows, columns = weight.shape
    size = group if group > 0 else columns
    index = torch.arange(columns) // size
    if order:
        index = index[torch.randperm(columns)]
    scales, zeros, grid = rounded_to_grid(weight.float(), index, bits, symmetric, 1)
    layer = layer_class("auto_gptq", "nn_modules.qlinear.qlinear_cuda", "QuantLinear")(bits, group, columns, rows, False)
    layer.pack(linear(grid), scales, zeros, index.int())
    layer.scales = layer.scales.half()
    return ({"qweight": layer.qweight, "qzeros": layer.qzeros, "scales": layer.scales, "g_idx": layer.g_idx},
            layer(torch.eye(columns, dtype=torch.float16)).t())


def awq(weight, group):
    rows, columns = weight.shape
    size = group if group > 0 else columns
    scales, zeros, grid = rounded_to_grid(weight.float(), torch.arange(columns) // size, 4, False, 0)
    layer = layer_class("awq", "modules.linear.gemm", "WQLinear_GEMM").from_linear(linear(grid), 4, size, scales=scales.t().contiguous(),
                                                                                  zeros=zeros.t().contiguous())
    floats = layer_class("awq", "utils.packing_utils", "dequantize_gemm")(layer.qweight, layer.qzeros, layer.scales, 4, size)
    return {"qweight": layer.qweight, "qzeros": layer.qzeros, "scales": layer.scales}, floats.t()


def fp8(weight, block):
    quantizer = types.SimpleNamespace(quantization_config=types.SimpleNamespace(weight_block_size=block, scale_fmt="float"))
    parts = Fp8Quantize(quantizer)._quantize_one("weight", weight)
    return parts, Fp8Dequantize(quantizer)._dequantize_one(parts["weight"], parts["weight_scale_inv"], torch.float32)


def nf4(weight, kind="nf4", nested=True, block=64):
    packed, state = F.quantize_4bit(weight, blocksize=block, compress_statistics=nested, quant_type=kind)
    parts = {"weight": packed, **{"weight." + key: value for key, value in state.as_dict(packed=True).items()}}
    return parts, F.dequantize_4bit(packed, state)


def int8(weight):
    values, scales, _ = F.int8_vectorwise_quant(weight.half())
    return ({"weight": values, "SCB": scales, "weight_format": torch.tensor(0, dtype=torch.uint8)}, F.int8_vectorwise_dequant(values, scales))


def packed_parts(q, arguments, scales, zeros=None):
    """compressed-tensors' pack-quantized, and its floats."""
    bits = arguments["num_bits"]
    parts = {"weight_scale": scales, "weight_packed": pack_to_int32(q, bits), "weight_shape": torch.tensor(q.shape)}
    assert torch.equal(unpack_from_int32(parts["weight_packed"], bits, q.shape), q)
    if zeros is not None:
        parts["weight_zero_point"] = pack_to_int32(zeros, bits, packed_dim=0)
    return parts, dequantize(q, scales, zeros, QuantizationArgs(**arguments))


def compressed(weight, arguments):
    size = arguments["group_size"]
    scales, zeros, grid = rounded_to_grid(weight.float(), torch.arange(weight.shape[1]) // size, arguments["num_bits"], True, 0)
    scales = scales.bfloat16()
    q = (grid / scales.float().repeat_interleave(size, 1)).round().clamp(-8, 7).to(torch.int8)
    return packed_parts(q, arguments, scales)
