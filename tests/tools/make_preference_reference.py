#!/usr/bin/env python3
"""Makes tests/trainer/data/preference.json: losses of preference training by TRL's own trainers, over five steps of a tiny model, in float32.

    pip install torch transformers peft trl safetensors            # written against trl 1.16
    python tests/tools/make_preference_reference.py

The model is a reference model of tests/adapters/data/families with its adapter; the reference policy is the model alone. For each run:
  trainer, settings   as TRL is told; rows: pairs [prompt, chosen, rejected] or [prompt, completion, label] of token ids as TRL trains on them
  losses [5]          before each of five AdamW steps (learning rate 1e-2, no weight decay, no clipping); they follow from the gradients
  metrics             what TRL logs at the first step
"""
import json, logging, os, tempfile, warnings
os.environ.update(TRL_EXPERIMENTAL_SILENCE="1", HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="", HF_DATASETS_DISABLE_PROGRESS_BARS="1")
warnings.filterwarnings("ignore")
import datasets, peft, torch, transformers, trl
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

HERE = os.path.dirname(os.path.abspath(__file__))
FAMILY = os.path.join(HERE, "..", "adapters", "data", "families", "smollm3_nope")
OUT = os.path.join(HERE, "..", "trainer", "data", "preference.json")
PAD, BOS, EOS = 0, 1, 2
KINDS = dict(dpo=(trl.DPOTrainer, trl.DPOConfig), cpo=(CPOTrainer, CPOConfig), orpo=(ORPOTrainer, ORPOConfig), kto=(trl.KTOTrainer, trl.KTOConfig))
# name: kind, rows of a micro-batch, settings
RUNS = {
    "sigmoid": ("dpo", 4, dict(loss_type=["sigmoid"], beta=0.1)),
    "sigmoid_micro": ("dpo", 2, dict(loss_type=["sigmoid"], beta=0.3)),
    "smoothed": ("dpo", 1, dict(loss_type=["aot"], beta=0.1, label_smoothing=0.1)),  # one pair a micro-batch: nothing to sort
    "hinge": ("dpo", 4, dict(loss_type=["hinge"], beta=0.1)),
    "ipo": ("dpo", 4, dict(loss_type=["ipo"], beta=0.1)),
    "robust": ("dpo", 4, dict(loss_type=["robust"], beta=0.1, label_smoothing=0.1)),
    "exo_pair": ("dpo", 4, dict(loss_type=["exo_pair"], beta=0.1, label_smoothing=0.05)),
    "nca_pair": ("dpo", 4, dict(loss_type=["nca_pair"], beta=0.1)),
    "bco_pair": ("dpo", 4, dict(loss_type=["bco_pair"], beta=0.1)),
    "sppo_hard": ("dpo", 4, dict(loss_type=["sppo_hard"], beta=0.5)),
    "aot": ("dpo", 4, dict(loss_type=["aot"], beta=0.1, label_smoothing=0.1)),
    "aot_unpaired": ("dpo", 4, dict(loss_type=["aot_unpaired"], beta=0.1)),
    "apo_zero": ("dpo", 4, dict(loss_type=["apo_zero"], beta=0.1)),
    "apo_down": ("dpo", 4, dict(loss_type=["apo_down"], beta=0.1)),
    "discopop": ("dpo", 4, dict(loss_type=["discopop"], beta=0.1)),
    "sigmoid_norm": ("dpo", 4, dict(loss_type=["sigmoid_norm"], beta=0.5)),
    "mixed": ("dpo", 4, dict(loss_type=["sigmoid", "ipo", "sft"], loss_weights=[1.0, 0.02, 0.5], beta=0.1)),
    "simpo": ("cpo", 4, dict(loss_type="simpo", beta=2.0, simpo_gamma=1.0, cpo_alpha=0.0)),
    "simpo_alpha": ("cpo", 4, dict(loss_type="simpo", beta=2.0, simpo_gamma=0.5, cpo_alpha=0.3)),
    "orpo": ("orpo", 4, dict(beta=0.1)),
    "kto": ("kto", 8, dict(loss_type="kto", beta=0.1)),
    "kto_micro": ("kto", 4, dict(loss_type="kto", beta=0.1, desirable_weight=1.0, undesirable_weight=1.5)),
}
PAIRS = [(9, 12, 7), (5, 4, 15), (1, 6, 6), (17, 1, 3)]  # tokens of the prompt with BOS, of the better and of the worse reply without EOS
SINGLES = [(1, 6, 9), (0, 3, 14), (1, 11, 2), (1, 1, 8), (0, 8, 1), (1, 14, 5), (0, 4, 10), (1, 2, 12)]  # label, prompt, reply


def texts(kind, vocabulary):
    g = torch.Generator().manual_seed(19)
    words = lambda n: "".join(f" t{i}" for i in torch.randint(3, vocabulary, (n,), generator=g).tolist())
    if kind == "kto":
        return [dict(prompt="<s>" + words(p - 1), completion=words(n), label=bool(y)) for y, p, n in SINGLES]
    return [dict(prompt="<s>" + words(p - 1), chosen=words(c), rejected=words(r)) for p, c, r in PAIRS]


def words_tokenizer(vocabulary):
    t = Tokenizer(models.WordLevel({"<pad>": PAD, "<s>": BOS, "</s>": EOS, **{f"t{i}": i for i in range(3, vocabulary)}}, unk_token="<pad>"))
    t.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=t, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def run(kind, batch, settings, folder):
    trainer_class, config_class = KINDS[kind]
    model = transformers.AutoModelForCausalLM.from_pretrained(FAMILY, dtype=torch.float32, attn_implementation="eager")
    tokenizer, rows = words_tokenizer(model.config.vocab_size), texts(kind, model.config.vocab_size)
    lora = peft.LoraConfig.from_pretrained(FAMILY + "/adapter")
    lora.inference_mode = False
    arguments = config_class(output_dir=folder, per_device_train_batch_size=batch, train_sampling_strategy="sequential", bf16=False, use_cpu=True,
                             gradient_checkpointing=False, max_length=128, report_to="none", disable_tqdm=True, **settings)
    trainer = trainer_class(model=model, args=arguments, train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer, peft_config=lora)
    peft.set_peft_model_state_dict(trainer.model, load_file(FAMILY + "/adapter/adapter_model.safetensors"))
    trainer.model.train()
    batches = list(trainer.get_train_dataloader())
    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    optimizer, losses, metrics = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0), [], None
    for _ in range(5):
        optimizer.zero_grad()
        total = 0
        for b in batches:
            loss = trainer.compute_loss(trainer.model, b) / len(batches)
            loss.backward()
            total += loss.item()
        optimizer.step()
        losses.append(total)
        logged = trainer._metrics["train"] if hasattr(trainer, "_metrics") else trainer._stored_metrics["train"]
        metrics = metrics or {k: sum(v) / len(v) for k, v in logged.items() if k.startswith(("rewards/", "logps/", "kl", "nll_loss"))}
    ids = lambda text: tokenizer(text)["input_ids"]
    end = lambda text: ids(text) + [EOS]
    tokens = [[ids(r["prompt"]), end(r["completion"]), int(r["label"])] if kind == "kto" else
              [ids(r["prompt"]), end(r["chosen"]), end(r["rejected"])] for r in rows]
    return dict(trainer=kind, rows_per_micro_batch=batch, settings=settings, rows=tokens, losses=losses, metrics=metrics)


def main():
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    out = dict(family=os.path.basename(FAMILY), versions={m.__name__: m.__version__ for m in (trl, transformers, peft, torch)}, runs={})
    with tempfile.TemporaryDirectory() as folder:
        for name, (kind, batch, settings) in RUNS.items():
            out["runs"][name] = run(kind, batch, settings, folder)
            print(name, out["runs"][name]["losses"], flush=True)
    with open(OUT, "w") as f:
        f.write("{" + ",\n ".join(f'"{k}": {json.dumps(v)}' for k, v in out.items() if k != "runs") + ',\n "runs": {\n  ' +
                ",\n  ".join(f'"{k}": {json.dumps(v)}' for k, v in out["runs"].items()) + "\n }\n}\n")


if __name__ == "__main__":
    main()
