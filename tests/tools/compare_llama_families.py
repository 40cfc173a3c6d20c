"""llama.cpp's logits on the GGUF that `lora quantize FOLDER x.gguf --type f32` makes of each reference model, against the reference's
own (transformers, in golden.safetensors):

    python compare_llama_families.py LORA FOLDER_OF_FAMILIES...     (pip install llama-cpp-python safetensors numpy)

Prints max |difference| / max |logit| of the first document. A model that llama.cpp does not load is said so."""
import ctypes
import os
import subprocess
import sys
import tempfile

import llama_cpp as ll
import numpy as np
from safetensors.numpy import load_file

LIMIT = 2e-3  # float32 sums in another order, and llama.cpp's float16 tables
WINDOW = "llama.cpp has no sliding windows for this architecture"
# What llama.cpp computes otherwise whatever the file says.
OTHERWISE = {
    "deepseek_v2": "it ranks groups of experts by their two best, DeepSeek-V2 by the best",
    "deepseek_v2_lite": "it takes for a Lite model what has 26 or 27 layers",
    "gemma2_scalar": "it has no key for query_pre_attn_scalar",
    "gemma3_mixed": "it has no key for which layers see a window",
    "llama_dynamic": "it has no dynamic RoPE",
    "mistral": WINDOW, "mistral_odd": WINDOW, "mixtral_window": WINDOW, "phi3_partial": WINDOW, "qwen2_window": WINDOW,
    "qwen3_window": WINDOW, "starcoder2_window": WINDOW,
    "phi3_short": "it chooses LongRoPE's factors by the context's size, not the row's",
    "qwen3_bias": "it knows no biases there",
    "qwen3_moe_mixed": "it knows no dense layers there",
    "smollm3_nope": "it leaves RoPE out of each fourth layer in any case",
    "starcoder2_plain": "it needs the biases",
}


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def keep(level, text, data):
    messages.append(text.decode(errors="replace").strip())


def logits_of(path, ids):
    model_parameters = ll.llama_model_default_params()
    model_parameters.use_mmap = False
    model = ll.llama_model_load_from_file(path.encode(), model_parameters)
    if not model:
        return None
    parameters = ll.llama_context_default_params()
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = 512 if len(ids) > 256 else 256
    parameters.n_threads = parameters.n_threads_batch = 2
    parameters.type_k = parameters.type_v = 0
    parameters.flash_attn_type = 0
    if hasattr(parameters, "swa_full"):
        parameters.swa_full = True
    context = ll.llama_init_from_model(model, parameters)
    batch = ll.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for i, token in enumerate(ids):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, 1
        batch.seq_id[i][0] = 0
    failed = ll.llama_decode(context, batch)
    vocabulary = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(model))
    rows = None
    if not failed:
        rows = np.ctypeslib.as_array(ll.llama_get_logits(context), (len(ids), vocabulary)).copy()
    ll.llama_batch_free(batch)
    ll.llama_free(context)
    ll.llama_model_free(model)
    return rows


messages = []
ll.llama_log_set(keep, None)
ll.llama_backend_init()
bad = 0
for parent in sys.argv[2:]:
    for name in sorted(os.listdir(parent)):
        folder = os.path.join(parent, name)
        if not os.path.exists(f"{folder}/golden.safetensors"):
            continue
        golden = load_file(f"{folder}/golden.safetensors")
        with tempfile.TemporaryDirectory() as temporary:
            path = os.path.join(temporary, "model.gguf")
            subprocess.run([sys.argv[1], "quantize", folder, path, "--type", "f32", "--quiet"], check=True)
            messages.clear()
            rows = logits_of(path, golden["input_ids"][0].tolist())
        if rows is None:
            bad += name not in OTHERWISE
            print(f"{name:20s} not loaded: {OTHERWISE.get(name) or next((m for m in messages if 'error' in m), 'decoding failed')}")
            continue
        expected = golden["logits"][0]
        rows = rows[:, : expected.shape[1]]
        error = np.abs(rows - expected).max() / np.abs(expected).max()
        bad += not error < LIMIT and name not in OTHERWISE
        print(f"{name:20s} {error:.1e}{'' if error < LIMIT else '  ' + OTHERWISE.get(name, 'DIFFERS')}")
sys.exit(bad > 0)
