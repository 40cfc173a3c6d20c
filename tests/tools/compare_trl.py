#!/usr/bin/env python3
"""Times DPO by `lora train` beside TRL's DPOTrainer, and compares losses, on the same pairs in the same order; prints a table.

    pip install torch transformers peft trl             # written against trl 1.16
    python tests/tools/compare_trl.py --lora build/release/lora --model MODEL.gguf --hf FOLDER --pairs dpo_en_demo.json [--steps 6] [--length 512]

FOLDER is the same base in float32 (docs/benchmarks.md says how it is made). --pairs: LLaMA-Factory's {conversations, chosen, rejected}. Adapters of
rank 16 on all linear layers, micro-batch 4, AdamW at a rate of 2e-5 without warm-up, the reference computed beside. TRL runs in a process of its
own, eager, in float32 or with bf16. Times are by wall time between steps, the first left out; memory is each process's own peak.
"""
import argparse, json, os, resource, subprocess, sys, tempfile, time


def read_pairs(path, count, length):
    """Pairs of one question whose texts are short enough that nobody drops or cuts them (4 characters a token at the least)."""
    pairs = []
    for row in json.load(open(path)):
        turns = row["conversations"]
        if len(turns) != 1 or turns[0]["from"] != "human": continue
        texts = turns[0]["value"], row["chosen"]["value"], row["rejected"]["value"]
        if all(texts) and texts[1] != texts[2] and max(len(texts[0]) + len(t) for t in texts[1:]) < 2.5 * length: pairs.append(texts)
    return pairs[:count]


def train_by_trl(settings):
    os.environ.update(TRL_EXPERIMENTAL_SILENCE="1", HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="")
    import datasets, torch, transformers
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer
    turn = lambda role, text: [{"role": role, "content": text}]
    rows = [{"prompt": turn("user", p), "chosen": turn("assistant", c), "rejected": turn("assistant", r)} for p, c, r in settings["pairs"]]
    arguments = DPOConfig(output_dir=settings["folder"], per_device_train_batch_size=4, gradient_accumulation_steps=1, max_steps=settings["steps"],
                          learning_rate=2e-5, lr_scheduler_type="constant", warmup_steps=0, weight_decay=0.0, max_grad_norm=1.0, beta=0.1,
                          train_sampling_strategy="sequential", bf16=settings["bf16"], use_cpu=True, gradient_checkpointing=False,
                          max_length=2 * settings["length"], logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(settings["hf"], dtype=torch.bfloat16 if settings["bf16"] else torch.float32)
    times = []

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, *_, **__): times.append(time.perf_counter())

    trainer = DPOTrainer(model=model, args=arguments, train_dataset=datasets.Dataset.from_list(rows), callbacks=[Clock()],
                         processing_class=transformers.AutoTokenizer.from_pretrained(settings["hf"]),
                         peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    trainer.train()
    result = {"losses": [h["loss"] for h in trainer.state.log_history if "loss" in h], "seconds": [b - a for a, b in zip(times, times[1:])],
              "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    json.dump(result, open(os.path.join(settings["folder"], "trl.json"), "w"))


def run_trl(a, pairs, folder, bf16):
    settings = {"pairs": pairs, "folder": folder, "steps": a.steps, "length": a.length, "hf": a.hf, "bf16": bf16}
    path = os.path.join(folder, "settings.json")
    json.dump(settings, open(path, "w"))
    subprocess.run([sys.executable, os.path.abspath(__file__), "--trl", path], check=True, stdout=subprocess.DEVNULL)
    return json.load(open(os.path.join(folder, "trl.json")))


def run_lora(a, pairs, folder):
    rows = os.path.join(folder, "pairs.jsonl")
    turn = lambda role, text: {"role": role, "content": text}
    with open(rows, "w") as f:
        for p, c, r in pairs: f.write(json.dumps({"messages": [turn("user", p)], "chosen": turn("assistant", c), "rejected": turn("assistant", r)}) + "\n")
    recipe = os.path.join(folder, "recipe.yml")
    with open(recipe, "w") as f:
        f.write(f"base_model: {os.path.abspath(a.model)}\nadapter: qlora\nload_in_4bit: true\nlora_r: 16\nlora_alpha: 32\nlora_target_linear: true\nrl: dpo\n"
                f"datasets:\n  - path: {rows}\n    type: chat_template.default\nsequence_len: {2 * a.length}\nmicro_batch_size: 4\ngradient_accumulation_steps: 1\n"
                f"max_steps: {a.steps}\nlearning_rate: 2e-5\nlr_scheduler: constant\nwarmup_steps: 0\noptimizer: adamw_torch\nweight_decay: 0\nmax_grad_norm: 1\n"
                f"curriculum_sampling: true\nsave_strategy: 'no'\ndataset_prepared_path: {folder}/prepared\noutput_dir: {folder}/out\n")
    subprocess.run([a.lora, "train", recipe, "--quiet"], check=True)
    lines = [json.loads(line) for line in open(f"{folder}/out/metrics.jsonl")]
    return {"losses": [l["loss"] for l in lines], "seconds": [l["tokens"] / l["tokens_per_second"] for l in lines][1:],
            "peak": max(l["peak_memory_bytes"] for l in lines)}


def main():
    p = argparse.ArgumentParser()
    for name in ("lora", "model", "hf", "pairs", "trl"): p.add_argument("--" + name)
    p.add_argument("--steps", type=int, default=6)
    p.add_argument("--length", type=int, default=512)
    a = p.parse_args()
    if a.trl: return train_by_trl(json.load(open(a.trl)))
    pairs, results = read_pairs(a.pairs, 4 * a.steps, a.length), {}
    if len(pairs) < 4 * a.steps: sys.exit(f"{a.pairs}: only {len(pairs)} pairs are short enough for {a.steps} steps of 4")
    for name, run in (("lora", run_lora), ("TRL, float32", lambda *x: run_trl(*x, False)), ("TRL, bf16", lambda *x: run_trl(*x, True))):
        with tempfile.TemporaryDirectory() as folder: results[name] = run(a, pairs, folder)
    rate = {name: 4 * len(r["seconds"]) / sum(r["seconds"]) for name, r in results.items()}
    best = max(v for name, v in rate.items() if name != "lora")
    print("| | pairs/s to the best of TRL | peak memory, GiB | furthest loss from float32 TRL's |\n|---|---|---|---|")
    for name, r in results.items():
        far = max(abs(x - y) for x, y in zip(r["losses"], results["TRL, float32"]["losses"]))
        print(f"| {name} | {rate[name] / best:.2f} | {r['peak'] / 2**30:.2f} | {far:.1e} |")


if __name__ == "__main__":
    main()
