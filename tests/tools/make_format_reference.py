#!/usr/bin/env python3
"""Small reference files of the formats, each made by its own library, for tests/formats.

    pip install numpy gguf safetensors torch bitsandbytes llama-cpp-python
    python tests/tools/make_format_reference.py tests/formats/data

blocks.gguf      by gguf-py: `x` [8, 32] f32; for each type T that we read, `T.random`, blocks of random bits whose scales are
                 finite, and `T.random.f32`, gguf-py's dequantisation (ggml's own for Q8_K, which gguf-py lacks); where
                 gguf-py quantises T, and we do, `T.x`, its blocks of x.
nf4.safetensors  by bitsandbytes: `small` and `odd`, each with the input `.x`, NF4 with double quantisation (`.packed`,
                 `.absmax`, `.nested_absmax`, `.offset`) and the dequantised `.values`; `formula`: the same without `.x` and
                 `.values`, of 600 blocks that the test computes itself; `levels`, `scale_levels`: its code books.
"""
import ctypes
import sys

import gguf
import numpy as np

out = sys.argv[1]
rng = np.random.default_rng(11)
WRITTEN = "F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0".split()


def block_inputs():
    x = rng.standard_normal((8, 32)).astype(np.float32)
    x[1] = 0
    x[2] *= np.float32(1e-6)  # the scale is a subnormal half
    x[3] *= np.float32(3e3)
    x[4] = np.float32(-0.75)  # constant: the range types have no range
    x[5, 7] = -x[5, 3]        # a tie between magnitudes, not between signs
    x[6] = np.arange(-16, 16)  # ties between levels
    return x


def random_blocks(kind):
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    count = 256 // elements
    blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
    name = kind.name
    if name in ("F32", "F16", "BF16"):
        return np.ascontiguousarray(gguf.quantize(rng.standard_normal((1, 256)).astype(np.float32), kind)).view(np.uint8)
    if name == "MXFP4":
        blocks[:, 0] = np.resize([120, 127, 0, 1, 2, 255], count)  # E8M0: subnormal, ordinary and infinite products
        return blocks.reshape(1, -1)
    if name == "Q8_K":
        blocks[:, :4] = rng.standard_normal(count).astype(np.float32).view(np.uint8).reshape(count, 4)
        return blocks.reshape(1, -1)
    two = {"Q4_1": 0, "Q5_1": 0, "Q4_K": 0, "Q5_K": 0, "Q2_K": 80}
    one = {"Q6_K": 208, "Q3_K": 108, "TQ1_0": 52, "TQ2_0": 64}
    halves = [two[name], two[name] + 2] if name in two else [one.get(name, 0)]
    for at in halves:
        values = (rng.standard_normal(count) * 0.01).astype(np.float16)
        blocks[:, at:at + 2] = values.view(np.uint8).reshape(count, 2)
    return blocks.reshape(1, -1)


def dequantize(blocks, kind):
    if kind.name != "Q8_K":
        return gguf.dequantize(blocks, kind).astype(np.float32)
    import llama_cpp

    out = np.empty((1, 256), np.float32)
    ggml = ctypes.CDLL(llama_cpp.llama_cpp._lib._name.replace("libllama", "libggml-base"))
    ggml.dequantize_row_q8_K(ctypes.c_void_p(blocks.ctypes.data), ctypes.c_void_p(out.ctypes.data), ctypes.c_int64(out.size))
    return out


def write_blocks():
    writer = gguf.GGUFWriter(out + "/blocks.gguf", "reference")
    x = block_inputs()
    writer.add_tensor("x", x)
    for name in "F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q4_K Q5_K Q6_K Q2_K Q3_K Q8_K IQ4_NL IQ4_XS MXFP4 TQ1_0 TQ2_0".split():
        kind = gguf.GGMLQuantizationType[name]
        blocks = random_blocks(kind)
        writer.add_tensor(name.lower() + ".random", blocks, raw_dtype=kind)
        values = dequantize(blocks, kind)
        writer.add_tensor(name.lower() + ".random.f32", np.ascontiguousarray(values))
        if name in WRITTEN:
            quantized = np.ascontiguousarray(gguf.quantize(x, kind)).view(np.uint8)
            writer.add_tensor(name.lower() + ".x", quantized, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_nf4():
    import bitsandbytes.functional as bnb
    import torch
    from safetensors.torch import save_file

    tensors = {"levels": bnb.get_4bit_type("nf4", device="cpu"), "scale_levels": bnb.create_dynamic_map()}
    inputs = {"small": torch.randn(12, 64, generator=torch.Generator().manual_seed(3)),
              "odd": torch.randn(1, 301, generator=torch.Generator().manual_seed(4)) * 1e-3}
    inputs["small"][2] = 0  # a block of zeros
    inputs["small"][4, 5] = 40.0
    i = torch.arange(64 * 600, dtype=torch.int64)
    inputs["formula"] = ((i * i + 7 * i * (i // 64)) % 1009 - 504).float().reshape(600, 64) / 1024
    for name, x in inputs.items():
        packed, state = bnb.quantize_4bit(x, blocksize=64, compress_statistics=True, quant_type="nf4")
        tensors |= {name + ".absmax": state.absmax, name + ".offset": state.offset.reshape(1), name + ".nested_absmax": state.state2.absmax}
        if name != "formula":
            tensors |= {name + ".x": x, name + ".packed": packed, name + ".values": bnb.dequantize_4bit(packed, state).float()}
    save_file({key: value.contiguous() for key, value in tensors.items()}, out + "/nf4.safetensors")


write_blocks()
write_nf4()
