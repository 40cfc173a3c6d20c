"""tests/eval/data/imatrix.gguf and imatrix.dat: what transformers says about the inputs of the linear layers of tests/data/tiny-hf, in both formats
of llama.cpp, and the corpus of tests/fuzz/fuzz_imatrix.c.

    pip install torch transformers gguf numpy
    python tests/tools/make_imatrix_reference.py
"""

import pathlib
import struct

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM

TESTS = pathlib.Path(__file__).parent.parent
CONTEXT, CHUNKS = 24, 3
NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}


def write_gguf(path, sums, counts):
    writer = gguf.GGUFWriter(path, "")
    writer.kv_data[0].clear()
    writer.add_string("general.type", "imatrix")
    writer.add_array("imatrix.datasets", ["ids"])
    writer.add_uint32("imatrix.chunk_count", CHUNKS)
    writer.add_uint32("imatrix.chunk_size", CONTEXT)
    for name, values in sums.items():
        writer.add_tensor(name + ".in_sum2", values.astype(np.float32).reshape(1, -1))
        writer.add_tensor(name + ".counts", np.array([[counts[name]]], dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def dat_bytes(sums, counts):
    parts = [struct.pack("<i", len(sums))]
    for name, values in sums.items():
        means = (values / counts[name] * CHUNKS).astype("<f4")
        parts.append(struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", CHUNKS, means.size) + means.tobytes())
    return b"".join(parts) + struct.pack("<ii", CHUNKS, 3) + b"ids"


def main():
    model = AutoModelForCausalLM.from_pretrained(TESTS / "data/tiny-hf", torch_dtype=torch.float64)
    sums, counts = {}, {}

    def watch(name):
        def hook(module, inputs):
            x = inputs[0].reshape(-1, inputs[0].shape[-1])
            sums[name] = sums.get(name, 0) + (x ** 2).sum(0).numpy()
            counts[name] = counts.get(name, 0) + x.shape[0]
        return hook

    for name, module in model.named_modules():
        for end, short in NAMES.items():
            if name.endswith(end):
                module.register_forward_pre_hook(watch(f"blk.{name.split('.')[2]}.{short}.weight"))
    with torch.no_grad():
        for chunk in range(CHUNKS):
            model(torch.tensor([[(31 * i + 7) % 700 for i in range(chunk * CONTEXT, (chunk + 1) * CONTEXT)]]))
    (TESTS / "eval/data").mkdir(exist_ok=True)
    write_gguf(TESTS / "eval/data/imatrix.gguf", sums, counts)
    dat = dat_bytes(sums, counts)
    (TESTS / "eval/data/imatrix.dat").write_bytes(dat)
    corpus = TESTS / "fuzz/corpus/imatrix"
    corpus.mkdir(exist_ok=True)
    few = {name: sums[name][:8] for name in list(sums)[:2]}
    small = dat_bytes(few, counts)
    write_gguf(corpus / "small.gguf", few, counts)
    whole = (corpus / "small.gguf").read_bytes()
    (corpus / "nan.gguf").write_bytes(whole[:-64] + struct.pack("<f", float("nan")) * 16)
    (corpus / "cut.gguf").write_bytes(whole[:-40])
    (corpus / "small.dat").write_bytes(small)
    (corpus / "cut.dat").write_bytes(small[:60])
    (corpus / "many.dat").write_bytes(struct.pack("<i", 0x7FFFFFFF) + small[4:])
    (corpus / "twice.dat").write_bytes(struct.pack("<i", 4) + small[4:-11] * 2)
    (corpus / "long_name.dat").write_bytes(struct.pack("<ii", 1, 0x7FFFFFFF) + small[8:])
    (corpus / "negative.dat").write_bytes(small.replace(struct.pack("<ii", CHUNKS, 8), struct.pack("<ii", CHUNKS, -8), 1))
    (corpus / "empty").write_bytes(b"")


if __name__ == "__main__":
    main()
