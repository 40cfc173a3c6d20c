"""References for tensors that are trained in full, by transformers and PEFT in float64:

    python make_trained_reference.py FAMILIES...     (pip install torch transformers peft safetensors)

    python make_trained_reference.py --check PROGRAM

FAMILIES are folders of make_families.py's form. Writes beside the tests, into adapters/data/trained:
full_gradients.safetensors: of each dense family, the gradient of the mean loss by every parameter, "FAMILY.PARAMETER" = 16 of its values,
evenly apart, and its norm, and "FAMILY.loss"; and CASE/, PEFT adapters over families of the repository, with their golden.safetensors: input_ids, labels,
logits, and the gradients of all that PEFT trains, "grad.NAME" in the same form. Versions are noted in each file's metadata. --check has the program `lora` write each adapter, and merge it, and
compares what PEFT and transformers make of the files with the references."""
import json
import os
import shutil
import subprocess
import sys
import tempfile

import peft
import torch
import transformers as tf
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

HERE = os.path.dirname(os.path.abspath(__file__))
DATA = os.path.join(HERE, "..", "adapters", "data")
NOTE = {"torch": torch.__version__, "transformers": tf.__version__, "peft": peft.__version__}
SAMPLES = 16

CASES = {
    "modules_tied": ("gemma2_scalar", dict(target_modules=["q_proj"], modules_to_save=["embed_tokens", "k_proj", "norm"])),
    "modules_apart": ("starcoder2_window", dict(target_modules=["q_proj", "o_proj"], modules_to_save=["lm_head", "c_proj", "model.norm"])),
    "tokens_tied": ("gemma2_scalar", dict(target_modules=["q_proj", "down_proj"], trainable_token_indices=[7, 8, 9, 30, 3])),
    "tokens_apart": ("mixtral_window", dict(target_modules=["q_proj"], trainable_token_indices={"embed_tokens": [5, 3]})),
    "lora_vocabulary": ("mixtral_window", dict(target_modules=["q_proj", "embed_tokens", "lm_head"])),
    "lora_vocabulary_tied": ("phi3_partial", dict(target_modules=["qkv_proj", "embed_tokens", "lm_head"])),
    "lora_embedding_tied": ("gemma2_scalar", dict(target_modules=["q_proj", "embed_tokens"])),
}


def sample(values):
    flat = values.detach().double().flatten()
    at = torch.arange(SAMPLES) * flat.numel() // SAMPLES
    return torch.cat([flat[at], flat.norm().reshape(1)]).float()


def open_model(folder):
    return tf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager", experts_implementation="eager")


def full_gradients(folder):
    golden = load_file(os.path.join(folder, "golden.safetensors"))
    model = open_model(folder)
    loss = model(input_ids=golden["input_ids"], labels=golden["labels"]).loss
    loss.backward()
    name = os.path.basename(folder.rstrip("/"))
    return {f"{name}.loss": loss.detach().float().reshape(1)} | {f"{name}.{key}": sample(p.grad) for key, p in model.named_parameters()}


def adapter_case(name, base, options):
    folder, out = os.path.join(DATA, "families", base), os.path.join(DATA, "trained", name)
    golden = load_file(os.path.join(folder, "golden.safetensors"))
    torch.manual_seed(1)
    model = get_peft_model(open_model(folder), LoraConfig(r=3, lora_alpha=6, task_type="CAUSAL_LM", **options))
    trained = [p for p in model.parameters() if p.requires_grad]
    with torch.no_grad():
        for p in trained:  # what a file of bfloat16 holds
            p.copy_((p + 0.05 * torch.randn_like(p)).bfloat16().double())
    result = model(input_ids=golden["input_ids"], labels=golden["labels"])
    result.loss.backward()
    shutil.rmtree(out, ignore_errors=True)
    model.save_pretrained(out, save_embedding_layers=False)
    os.remove(os.path.join(out, "README.md"))
    path = os.path.join(out, "adapter_model.safetensors")
    save_file({k: v.bfloat16().contiguous() for k, v in load_file(path).items()}, path, metadata=NOTE | {"format": "pt"})
    config = json.load(open(os.path.join(out, "adapter_config.json")))
    config["base_model_name_or_path"] = base
    json.dump({k: v for k, v in config.items() if v is not None}, open(os.path.join(out, "adapter_config.json"), "w"), indent=1, sort_keys=True)
    kept = {"input_ids": golden["input_ids"], "labels": golden["labels"], "loss": result.loss.detach().float().reshape(1),
            "logits": result.logits.detach()[:, ::7].float().contiguous()}
    for key, p in model.named_parameters():
        if p.requires_grad:
            plain = key.replace(".default", "").replace(".modules_to_save", "")
            kept["grad." + plain] = sample(p.grad)
    save_file(kept, os.path.join(out, "golden.safetensors"), metadata=NOTE)


def check(program):
    """What the program writes, read by the libraries."""
    with tempfile.TemporaryDirectory() as folder:
        for name, (base, _) in CASES.items():
            golden = load_file(os.path.join(DATA, "trained", name, "golden.safetensors"))
            source = ["--model", os.path.join(DATA, "families", base), "--adapter", os.path.join(DATA, "trained", name), "--quiet"]
            paths = [os.path.join(folder, name + end) for end in ("-adapter", "-merged")]
            subprocess.run([program, "export", *source, "--output", paths[0]], check=True, stdout=subprocess.DEVNULL)
            subprocess.run([program, "merge", *source, "--type", "f32", "--output", paths[1]], check=True, stdout=subprocess.DEVNULL)
            models = [PeftModel.from_pretrained(open_model(source[1]), paths[0]), open_model(paths[1])]
            for model, path in zip(models, paths):
                with torch.no_grad():
                    logits = model(input_ids=golden["input_ids"]).logits[:, ::7].float()
                error = ((logits - golden["logits"]).abs().max() / golden["logits"].abs().max()).item()
                print(f"{os.path.basename(path)}: {error:.2g}")
                assert error < 1e-5, path


def main():
    if sys.argv[1:2] == ["--check"]:
        return check(sys.argv[2])
    os.makedirs(os.path.join(DATA, "trained"), exist_ok=True)
    gradients = {}
    for folder in sys.argv[1:]:
        config = json.load(open(os.path.join(folder, "config.json")))
        if not any(key in config for key in ("num_experts", "num_local_experts", "n_routed_experts")):
            gradients |= full_gradients(folder)
    if gradients:
        save_file(gradients, os.path.join(DATA, "trained", "full_gradients.safetensors"), metadata=NOTE)
    for name, (base, options) in CASES.items():
        adapter_case(name, base, options)


if __name__ == "__main__":
    main()
