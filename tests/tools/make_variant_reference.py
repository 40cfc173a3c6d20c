"""Reference data of LoRA's variants by PEFT, in float32, on the tiny model of the tests:

    python tests/tools/make_variant_reference.py tests/data/tiny-hf tests/adapters/data/variants     (pip install torch transformers peft safetensors)

FOLDER/dora/ is a DoRA adapter as PEFT writes it, with ranks and alphas by patterns, rsLoRA and chosen layers. FOLDER/dora.safetensors holds
input_ids [2, T], logits of the positions in `rows`, loss, grad.* of every trained tensor, and losses and step5.* of five AdamW steps.
FOLDER/starts.safetensors holds, for each way to start an adapter, scale * B A x of some modules: START.MODULE of the vectors x.COLUMNS.
Versions stand in the files' metadata."""
import os
import sys

import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

LENGTH = 12
VERSIONS = {"made_by": f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}"}
STARTS = {"pissa": 4, "pissa_niter_16": 4, "olora": 4}
MODULES = ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"]


def load(path):
    return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


def tensors(model, prefix, value):
    names = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return {f"{prefix}.{name.replace('.default', '').removesuffix('.weight') if 'magnitude' in name else name.replace('.default', '')}":
            value(p).detach().clone() for name, p in names.items()}


def make_dora(path, folder):
    torch.manual_seed(1)
    config = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "o_proj", "down_proj"], use_dora=True, use_rslora=True, lora_dropout=0.0,
                        rank_pattern={"mlp.down_proj": 3, ".*2.*o_proj": 1}, alpha_pattern={"layers.0.self_attn.q_proj": 7},
                        layers_to_transform=[0, 2], task_type="CAUSAL_LM")
    model = get_peft_model(load(path), config)
    for name, p in model.named_parameters():
        if "lora_B" in name: p.data.normal_(0, 0.05)
        if "magnitude" in name: p.data *= 1 + 0.1 * torch.randn_like(p)
    model.save_pretrained(os.path.join(folder, "dora"))
    ids = torch.randint(0, model.config.vocab_size, (2, LENGTH))
    rows = [0, 3, 7, 11]
    out = {"input_ids": ids, "rows": torch.tensor(rows)}
    out["logits"] = model(ids).logits[:, rows].detach().contiguous()
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    out["loss"] = loss.detach().reshape(1)
    out |= tensors(model, "grad", lambda p: p.grad)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    losses = []
    for _ in range(5):
        optimiser.zero_grad()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        losses.append(loss.detach())
        optimiser.step()
    out["losses"] = torch.stack(losses)
    out |= tensors(model, "step5", lambda p: p)
    save_file(out, os.path.join(folder, "dora.safetensors"), VERSIONS)


def make_starts(path, folder):
    torch.manual_seed(2)
    out = {f"x.{columns}": torch.randn(columns, 4) for columns in (128, 256)}
    for start, rank in STARTS.items():
        torch.manual_seed(3)
        config = LoraConfig(r=rank, lora_alpha=6, target_modules=MODULES, init_lora_weights=start, task_type="CAUSAL_LM")
        model = get_peft_model(load(path), config)
        for name in MODULES:
            module = model.base_model.model.get_submodule(name)
            weight = module.get_delta_weight("default").detach()
            out[f"{start}.{name}"] = (weight @ out[f"x.{weight.shape[1]}"]).contiguous()
    save_file(out, os.path.join(folder, "starts.safetensors"), VERSIONS)


if __name__ == "__main__":
    base, target = sys.argv[1], sys.argv[2]
    os.makedirs(target, exist_ok=True)
    make_dora(base, target)
    make_starts(base, target)
