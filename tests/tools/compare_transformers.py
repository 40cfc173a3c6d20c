"""Logits of what `lora merge` writes as a Hugging Face folder, in transformers, against base + adapter there.

    pip install torch transformers peft gguf
    python tests/tools/compare_transformers.py build/release/lora MODEL ADAPTER

MODEL is a GGUF file (transformers reads it itself, dequantised) or a Hugging Face folder; ADAPTER a PEFT folder. The merged
folder must load by AutoModelForCausalLM and AutoTokenizer, give the logits of MODEL + ADAPTER under PEFT within 1e-4 of the largest,
tokenise as `lora tokenize` does, and render the base's chat template. Exits with 1 when anything differs.
"""

import pathlib
import subprocess
import sys
import tempfile

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXT = "What's 1234 + 56?\n\n  Caf\u00e9 \u6f22\u5b57 <|im_end|> The capital of France is Paris."


def main():
    program, base, adapter = sys.argv[1:4]
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as name:
        output = str(pathlib.Path(name) / "merged")
        subprocess.run([program, "merge", "--model", base, "--adapter", adapter, "--output", output, "--type", "f32"], check=True)
        path = pathlib.Path(base)
        source = {"pretrained_model_name_or_path": base} if path.is_dir() else {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
        reference = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32), adapter).eval()
        merged = AutoModelForCausalLM.from_pretrained(output, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(output)
        ids = tokenizer(TEXT).input_ids
        ours = [int(word) for word in subprocess.run([program, "tokenize", "--model", base, "--text", TEXT], check=True, capture_output=True, text=True).stdout.split()]
        with torch.no_grad():
            expected, actual = (model(torch.tensor([ids])).logits for model in (reference, merged))
        error = float((actual - expected).abs().max() / expected.abs().max())
        template = AutoTokenizer.from_pretrained(**source).chat_template
        checks = {
            f"logits: largest error {error:.2e} of the largest logit": error <= 1e-4,
            f"token ids: {len(ids)}": ids == ours,
            "chat template": tokenizer.chat_template == template,
            "ids of special tokens": (tokenizer.bos_token_id, tokenizer.eos_token_id) == (merged.config.bos_token_id, merged.config.eos_token_id),
        }
        for what, good in checks.items():
            print("ok    " if good else "FAILED", what)
        return not all(checks.values())


if __name__ == "__main__":
    sys.exit(main())
