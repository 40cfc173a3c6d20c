#!/usr/bin/env python3
"""Tokens a second of `lora` and of llama.cpp on the same GGUF files and threads, one after the other several times; prints a table in
Markdown of the best of each.

    CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON" pip install llama-cpp-python gguf numpy
    python tests/tools/compare_generation.py build/release/lora MODEL.gguf [MORE.gguf ...] [--random FILE.gguf] [--threads N] [--rounds 3]

GGML_NATIVE would turn on AMX where the processor has it, which crashes; add -DGGML_AVX512=ON -DGGML_AVX512_VBMI=ON -DGGML_AVX512_VNNI=ON
-DGGML_AVX512_BF16=ON for a processor with AVX-512.

A prompt of 512 tokens in one pass, and 64 tokens after a prompt of 8, as `lora bench --model MODEL --generation` measures them; llama.cpp by llama_cpp's eval,
a token at a time, without sampling on either side. --random makes a Q4_K_M file first: a Llama of hidden size 1024 with random weights and the
first MODEL's vocabulary, quantised by llama.cpp.
"""
import argparse, ctypes, datetime, json, os, pathlib, subprocess, tempfile, time

import gguf
import llama_cpp
import numpy as np

HIDDEN, LAYERS, HEADS, KV_HEADS, FEED_FORWARD = 1024, 12, 16, 4, 2816
PROMPT, GENERATED = 512, 64


def copy_tokenizer(writer, model):
    for name, field in gguf.GGUFReader(model).fields.items():
        if not name.startswith("tokenizer."): continue
        kind, *rest = field.types
        if kind == gguf.GGUFValueType.ARRAY: writer.add_array(name, field.contents())
        else: writer.add_key_value(name, field.contents(), kind)


def make_random(path, model):
    generator = np.random.default_rng(1)
    vocabulary = len(gguf.GGUFReader(model).fields["tokenizer.ggml.tokens"].contents())
    head = HIDDEN // HEADS
    with tempfile.TemporaryDirectory() as folder:
        plain = os.path.join(folder, "plain.gguf")
        writer = gguf.GGUFWriter(plain, "llama")
        writer.add_context_length(2048); writer.add_embedding_length(HIDDEN); writer.add_block_count(LAYERS)
        writer.add_feed_forward_length(FEED_FORWARD); writer.add_head_count(HEADS); writer.add_head_count_kv(KV_HEADS)
        writer.add_layer_norm_rms_eps(1e-5); writer.add_rope_dimension_count(head); writer.add_rope_freq_base(10000.0)
        writer.add_vocab_size(vocabulary); writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
        copy_tokenizer(writer, model)
        def add(name, rows, columns=None):
            shape = (rows, columns) if columns else (rows,)
            if columns: writer.add_tensor(name, (generator.standard_normal(shape, np.float32) * 0.02).astype(np.float16))
            else: writer.add_tensor(name, np.ones(shape, np.float32))
        add("token_embd.weight", vocabulary, HIDDEN); add("output_norm.weight", HIDDEN); add("output.weight", vocabulary, HIDDEN)
        for layer in range(LAYERS):
            b = f"blk.{layer}."
            add(b + "attn_norm.weight", HIDDEN); add(b + "ffn_norm.weight", HIDDEN)
            add(b + "attn_q.weight", HIDDEN, HIDDEN); add(b + "attn_k.weight", KV_HEADS * head, HIDDEN)
            add(b + "attn_v.weight", KV_HEADS * head, HIDDEN); add(b + "attn_output.weight", HIDDEN, HIDDEN)
            add(b + "ffn_gate.weight", FEED_FORWARD, HIDDEN); add(b + "ffn_up.weight", FEED_FORWARD, HIDDEN)
            add(b + "ffn_down.weight", HIDDEN, FEED_FORWARD)
        writer.write_header_to_file(); writer.write_kv_data_to_file(); writer.write_tensors_to_file(); writer.close()
        parameters = llama_cpp.llama_model_quantize_default_params()
        parameters.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M
        if llama_cpp.llama_model_quantize(plain.encode(), str(path).encode(), ctypes.byref(parameters)) != 0:
            raise SystemExit("compare_generation: llama.cpp does not quantise the random model")


def run_lora(program, path, threads):
    done = subprocess.run([program, "bench", "--model", path, "--generation", "--json", "--quiet", "--threads", str(threads)], capture_output=True, text=True)
    if done.returncode != 0: raise SystemExit(done.stderr)
    rates = json.loads(done.stdout)
    return rates["prompt_tokens_per_second"], rates["generation_tokens_per_second"], rates["instruction_set"]


def run_llama(path, threads):
    model = llama_cpp.Llama(path, n_ctx=1024, n_batch=PROMPT, n_ubatch=PROMPT, n_threads=threads, n_threads_batch=threads, verbose=False)
    ids = [100 + i * 37 % 400 for i in range(PROMPT)]
    rates = []
    for first, rest in ((ids, []), (ids[:8], ids[8 : 8 + GENERATED])):
        fastest = float("inf")
        for _ in range(3):
            model.reset()
            start = time.perf_counter()
            model.eval(first)
            if rest: start = time.perf_counter()
            for token in rest: model.eval([token])
            fastest = min(fastest, time.perf_counter() - start)
        rates.append((len(rest) or len(first)) / fastest)
    model.close()
    return rates


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lora"); parser.add_argument("models", nargs="+"); parser.add_argument("--random")
    parser.add_argument("--threads", type=int, default=os.cpu_count()); parser.add_argument("--rounds", type=int, default=3)
    a = parser.parse_args()
    if a.random and not os.path.exists(a.random): make_random(a.random, a.models[0])
    processor = next(line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
    rows = []
    for path in a.models + ([a.random] if a.random else []):
        ours, theirs = [], []
        for _ in range(a.rounds):
            ours.append(run_lora(a.lora, path, a.threads))
            theirs.append(run_llama(path, a.threads))
        best = [max(rate[i] for rate in ours) for i in (0, 1)] + [max(rate[i] for rate in theirs) for i in (0, 1)]
        rows.append((pathlib.Path(path).name, *best))
    table = ours[0][2]
    print(f"{datetime.date.today()}, {a.threads} threads of {processor} ({table} kernels); llama-cpp-python {llama_cpp.__version__}\n")
    print("| | prompt, times llama.cpp | generation, times llama.cpp | tokens/s: lora | llama.cpp |\n|---|---|---|---|---|")
    for name, prompt, generation, their_prompt, their_generation in rows:
        print(f"| {name} | {prompt / their_prompt:.2f} | {generation / their_generation:.2f} | {prompt:.0f}, {generation:.0f} |"
              f" {their_prompt:.0f}, {their_generation:.0f} |")


if __name__ == "__main__":
    main()
