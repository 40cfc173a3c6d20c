"""Greedy tokens of `lora` against llama.cpp's, on what `lora merge` and `lora export` write.

    pip install llama-cpp-python numpy
    python tests/tools/compare_llama_cpp.py build/release/lora MODEL.gguf ADAPTER [--tokens 32] [--threads 2]

MODEL is a GGUF base, ADAPTER an adapter of it (PEFT folder or GGUF). On ten prompts it compares

    in float32      lora: base + adapter, and the merged f32 file;
                    llama.cpp: the merged f32 file, and the f32 base + adapter.gguf         all must be equal
    as quantised    llama.cpp: the base as it is + adapter.gguf, and the merged file of the same types: llama.cpp rounds
                    activations to 8 bits there, so the first difference from lora may come only where the two best
                    logits are less than 0.1 apart in float32: those of llama.cpp on the same weights dequantised, which the
                    first part shows to be lora's own. The merged file of the same types is compared with lora on that file

and the prompts' token ids. Exits with 1 when anything differs. Not part of the test suite: llama.cpp's build is long.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import llama_cpp
import numpy as np

PROMPTS = [
    "The capital of France is",
    "Once upon a time, there was a little",
    "def fibonacci(n):\n",
    "Water boils at",
    "<|im_start|>user\nWhat is 12 + 30?<|im_end|>\n<|im_start|>assistant\n",
    "Natalia sold 48 clips in April and half as many in May. Altogether she sold",
    "The three primary colours are",
    "In 1969, the first men",
    "Dear Sir or Madam,\n\nI am writing to",
    "The opposite of hot is",
]
CLOSE = 0.1


def run(*words):
    return subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True).stdout


class Lora:
    def __init__(self, program, threads):
        self.program, self.threads = program, ["--threads", threads, "--quiet"]

    def tokens(self, model, prompt, count, adapter=None):
        words = ["generate", "--model", model, "--prompt", prompt, "--max-tokens", count, "--temperature", 0, "--json", *self.threads]
        return json.loads(run(self.program, *words, *(["--adapter", adapter] if adapter else [])))["tokens"]

    def ids(self, model, prompt):
        return [int(word) for word in run(self.program, "tokenize", "--model", model, "--text", prompt).split()]

    def merge(self, model, adapter, output, kind):
        run(self.program, "merge", "--model", model, "--adapter", adapter, "--output", output, "--type", kind, *self.threads)
        return output


def llama(path, threads, adapter=None):
    return llama_cpp.Llama(
        model_path=str(path), lora_path=str(adapter) if adapter else None, n_gpu_layers=0, n_ctx=512, n_threads=threads, logits_all=True, verbose=False
    )


def greedy(model, ids, count):
    """The tokens of llama.cpp, and how far the two best logits were apart at each."""
    model.reset()
    tokens, gaps, pending = [], [], ids
    while len(tokens) < count:
        model.eval(pending)
        logits = np.array(model.scores[model.n_tokens - 1])
        best = int(logits.argmax())
        if best == model.token_eos():
            break
        gaps.append(float(np.diff(np.sort(logits)[-2:])[0]))
        tokens.append(best)
        pending = [best]
    return tokens, gaps


def rounding(exact, rounded, ids, tokens):
    """By how much 8-bit activations move the difference of the two best logits, at each token of an answer."""
    scores = []
    for model in (exact, rounded):
        model.reset()
        model.eval(ids + tokens)
        scores.append(np.array(model.scores[len(ids) - 1 : model.n_tokens]))
    best = np.argsort(scores[0], axis=1)[:, -2:]
    apart = [np.diff(np.take_along_axis(score, best, 1), axis=1)[:, 0] for score in scores]
    return apart[1] - apart[0]


def first_difference(a, b):
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), None if len(a) == len(b) else min(len(a), len(b)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lora")
    parser.add_argument("model")
    parser.add_argument("adapter")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--only", help="only prompts that contain this text")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    lora = Lora(arguments.lora, arguments.threads)
    failures = 0
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        base = lora.merge(arguments.model, f"{arguments.adapter}:0", folder / "base-f32.gguf", "f32")
        merged = lora.merge(arguments.model, arguments.adapter, folder / "merged-f32.gguf", "f32")
        same = lora.merge(arguments.model, arguments.adapter, folder / "merged-same.gguf", "same")
        adapter = folder / "adapter.gguf"
        run(lora.program, "export", "--model", arguments.model, "--adapter", arguments.adapter, "--output", adapter)
        exact = {"merged f32": llama(merged, arguments.threads), "f32 base + adapter.gguf": llama(base, arguments.threads, adapter)}
        same_f32 = llama(lora.merge(same, f"{arguments.adapter}:0", folder / "merged-same-f32.gguf", "f32"), arguments.threads)
        rounded = {"base + adapter.gguf": llama(arguments.model, arguments.threads, adapter), "merged same": llama(same, arguments.threads)}
        moved = []
        prompts = [prompt for prompt in PROMPTS if not arguments.only or arguments.only in prompt]
        for prompt in prompts:
            ids = lora.ids(arguments.model, prompt)
            theirs = exact["merged f32"].tokenize(prompt.encode(), add_bos=True, special=True)
            ours = lora.tokens(arguments.model, prompt, arguments.tokens, arguments.adapter)
            ours_same = lora.tokens(same, prompt, arguments.tokens)
            notes = []
            if ids != theirs:
                notes.append(f"token ids differ: {ids} and {theirs}")
            if lora.tokens(merged, prompt, arguments.tokens) != ours:
                notes.append("lora on the merged f32 file differs from base + adapter")
            for label, model in exact.items():
                tokens, gaps = greedy(model, ids, arguments.tokens)
                at = first_difference(ours, tokens)
                if at is not None:
                    notes.append(f"llama.cpp on {label} differs at token {at}")
            tokens, gaps_same = greedy(same_f32, ids, arguments.tokens)
            if tokens != ours_same:
                notes.append("llama.cpp on the dequantised merged same differs from lora on merged same")
            for label, reference, apart in (("base + adapter.gguf", ours, gaps), ("merged same", ours_same, gaps_same)):
                at = first_difference(reference, greedy(rounded[label], ids, arguments.tokens)[0])
                gap = apart[at] if at is not None and at < len(apart) else 0.0
                if at is not None and gap >= CLOSE:
                    notes.append(f"llama.cpp on {label} differs at token {at}, where the best logits are {gap:.4f} apart")
                elif at is not None:
                    print(f"       llama.cpp on {label} differs at token {at}, as it may: the best logits are {gap:.4f} apart")
            moved.extend(rounding(exact["f32 base + adapter.gguf"], rounded["base + adapter.gguf"], ids, ours))
            failures += bool(notes)
            print(f"{'FAILED' if notes else 'ok    '} {prompt!r}: {len(ours)} tokens", *notes, sep="\n       " if notes else "", flush=True)
    print(f"8-bit activations move the difference of llama.cpp's two best logits by {np.std(moved):.3f} (deviation), {np.abs(moved).max():.3f} at most")
    print(f"{len(prompts) - failures} of {len(prompts)} prompts agree")
    return failures > 0


if __name__ == "__main__":
    sys.exit(main())
