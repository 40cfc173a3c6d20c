"""The reference for kl_weight, by transformers and PEFT in float64:

    python make_kl_reference.py    (pip install torch transformers peft safetensors)

Writes trainer/data/kl.safetensors beside the tests: for adapters over the small families of the repository, CASE.loss and CASE.kl, the means over
the labelled tokens of -log p and of KL(p || q), q being the model with its adapter off; and for each trained tensor, CASE.NAME, the gradient of
loss + 0.5 kl as 16 of its values, evenly apart, and its norm. Versions are noted in the file's metadata."""
import os

import peft
import torch
import transformers as tf
from peft import PeftModel
from safetensors.torch import load_file, save_file

HERE = os.path.dirname(os.path.abspath(__file__))
FAMILIES = os.path.join(HERE, "..", "adapters", "data", "families")
TRAINED = os.path.join(HERE, "..", "adapters", "data", "trained")
NOTE = {"torch": torch.__version__, "transformers": tf.__version__, "peft": peft.__version__}
WEIGHT, SAMPLES = 0.5, 16
CASES = {
    "smollm3_nope": ("smollm3_nope", os.path.join(FAMILIES, "smollm3_nope", "adapter")),
    "gemma2_scalar": ("gemma2_scalar", os.path.join(FAMILIES, "gemma2_scalar", "adapter")),
    "tokens_tied": ("gemma2_scalar", os.path.join(TRAINED, "tokens_tied")),
    "lora_vocabulary": ("mixtral_window", os.path.join(TRAINED, "lora_vocabulary")),
    "modules_apart": ("starcoder2_window", os.path.join(TRAINED, "modules_apart")),
}


def sample(values):
    flat = values.detach().double().flatten()
    at = torch.arange(SAMPLES) * flat.numel() // SAMPLES
    return torch.cat([flat[at], flat.norm().reshape(1)]).float()


def case(family, adapter):
    folder = os.path.join(FAMILIES, family)
    golden = load_file(os.path.join(folder, "golden.safetensors"))
    base = tf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager", experts_implementation="eager")
    model = PeftModel.from_pretrained(base, adapter, is_trainable=True).double().eval()
    labels = golden["labels"][:, 1:]
    at = labels >= 0
    log_p = model(input_ids=golden["input_ids"]).logits[:, :-1][at].log_softmax(-1)
    with torch.no_grad(), model.disable_adapter():
        log_q = model(input_ids=golden["input_ids"]).logits[:, :-1][at].log_softmax(-1)
    loss = -log_p.gather(1, labels[at][:, None]).mean()
    kl = (log_p.exp() * (log_p - log_q)).sum(1).mean()
    (loss + WEIGHT * kl).backward()
    kept = {"loss": loss.detach().float().reshape(1), "kl": kl.detach().float().reshape(1)}
    for key, p in model.named_parameters():
        if p.requires_grad:
            kept[key.replace(".default", "").replace(".modules_to_save", "").replace("base_model.model.", "")] = sample(p.grad)
    return kept


def main():
    tensors = {}
    for name, (family, adapter) in CASES.items():
        kept = case(family, adapter)
        print(name, kept["loss"].item(), kept["kl"].item(), len(kept))
        tensors |= {f"{name}.{key}": value for key, value in kept.items()}
    save_file(tensors, os.path.join(HERE, "..", "trainer", "data", "kl.safetensors"), metadata=NOTE)


if __name__ == "__main__":
    main()
