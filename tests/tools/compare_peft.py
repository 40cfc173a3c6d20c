#!/usr/bin/env python3
"""Trains the same rows from the same first adapter with `lora` and with transformers + PEFT (eager, float32), one after the other on this
machine, and prints speed, peak memory and losses side by side.

    pip install torch transformers peft safetensors
    python tests/tools/compare_peft.py --lora build/release/lora --model MODEL.gguf --hf FOLDER [--rows ROWS.jsonl] [--steps 20] ...

MODEL.gguf is what `lora` trains on; FOLDER holds the same weights in float32 for PEFT (`lora merge --adapter A:0 --type f32` writes it).
ROWS.jsonl: one {"input_ids": [...], "labels": [...]} a line; without it (or --questions), random rows of --length tokens with every token
labelled. Rows are taken in order; the last --held-out of them are never trained, and their loss after training is compared. Each trainer runs
in a process of its own, so that its peak memory is its own.
"""
import argparse, json, os, random, resource, subprocess, sys, tempfile, time


def arguments():
    a = argparse.ArgumentParser()
    a.add_argument("--lora"); a.add_argument("--model"); a.add_argument("--hf", required=True); a.add_argument("--rows")
    for name, value in dict(r=16, alpha=32, steps=20, mb=4, ga=1, length=512, threads=0, held_out=0, seed=3).items():
        a.add_argument("--" + name.replace("_", "-"), type=int, default=value)
    a.add_argument("--lr", type=float, default=2e-4)
    a.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    a.add_argument("--set", action="append", default=[], help="a recipe key for lora, as key=value")
    a.add_argument("--also", action="append", default=[], help="one more run of lora, with this recipe key changed: key=value")
    a.add_argument("--questions", help="rows from this JSONL of {question, answer}, tokenised by FOLDER's tokenizer and chat template; answers are trained")
    a.add_argument("--peft-child", help=argparse.SUPPRESS)
    return a.parse_args()


def question_rows(a, count):
    from transformers import AutoTokenizer
    tokenizer, rows = AutoTokenizer.from_pretrained(a.hf), []
    for row in map(json.loads, open(a.questions).readlines()[:count]):
        question = [{"role": "user", "content": row["question"]}]
        prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
        whole = tokenizer.apply_chat_template(question + [{"role": "assistant", "content": row["answer"]}], tokenize=False)
        masked, ids = (tokenizer(text, add_special_tokens=False).input_ids for text in (prompt, whole))
        rows.append({"input_ids": ids, "labels": [-100] * len(masked) + ids[len(masked):]})
    return rows


def read_rows(a):
    count = a.steps * a.mb * a.ga + a.held_out
    if a.rows: return [json.loads(line) for line in open(a.rows)]
    if a.questions: return question_rows(a, count)
    vocabulary = json.load(open(os.path.join(a.hf, "config.json")))["vocab_size"]
    numbers = random.Random(a.seed)
    rows = []
    for _ in range(count):
        ids = [numbers.randrange(100, vocabulary) for _ in range(a.length)]
        rows.append({"input_ids": ids, "labels": ids})
    return rows


def peft_run(a, folder):
    import torch
    from transformers import AutoModelForCausalLM
    from peft import LoraConfig, get_peft_model, PeftModel
    if a.threads: torch.set_num_threads(a.threads)
    rows = [json.loads(line) for line in open(os.path.join(folder, "train.jsonl"))]
    held = [json.loads(line) for line in open(os.path.join(folder, "held.jsonl"))] if a.held_out else []
    model = AutoModelForCausalLM.from_pretrained(a.hf, dtype=getattr(torch, a.dtype))
    model.config.use_cache = False
    if a.peft_child == "init":  # only the first adapter, for both trainers
        torch.manual_seed(a.seed)
        get_peft_model(model, LoraConfig(r=a.r, lora_alpha=a.alpha, target_modules="all-linear", task_type="CAUSAL_LM")).save_pretrained(os.path.join(folder, "init"))
        return
    model = PeftModel.from_pretrained(model, os.path.join(folder, "init"), is_trainable=True)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=a.lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)

    def loss_of(batch, reduction_by):
        longest = max(len(r["input_ids"]) for r in batch)
        pad = lambda r, key, value: r[key] + [value] * (longest - len(r["input_ids"]))
        ids = torch.tensor([pad(r, "input_ids", 0) for r in batch]); labels = torch.tensor([pad(r, "labels", -100) for r in batch])
        attention = torch.tensor([[1] * len(r["input_ids"]) + [0] * (longest - len(r["input_ids"])) for r in batch])
        logits = model(input_ids=ids, attention_mask=attention).logits.float()
        return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum") / reduction_by

    trained = lambda batch: sum(sum(1 for y in r["labels"][1:] if y != -100) for r in batch)
    losses, times, per = [], [], a.mb * a.ga
    for step in range(a.steps):
        start, batch = time.time(), [rows[(step * per + i) % len(rows)] for i in range(per)]
        total, n = 0.0, trained(batch)
        for i in range(0, per, a.mb):
            loss = loss_of(batch[i:i + a.mb], n); loss.backward(); total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(parameters, 1.0); optimiser.step(); optimiser.zero_grad()
        losses.append(total); times.append((time.time() - start, sum(len(r["input_ids"]) for r in batch)))
    result = {"losses": losses, "times": times, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    if held:
        model.eval()
        with torch.no_grad():
            result["held"] = sum(float(loss_of([r], 1)) for r in held) / sum(trained([r]) for r in held)
    json.dump(result, open(os.path.join(folder, "peft.json"), "w"))


def lora_run(a, folder, changed=()):
    recipe = dict(base_model=os.path.abspath(a.model), adapter="qlora" if a.model.endswith(".gguf") else "lora", lora_model_dir=f"{folder}/init",
                  lora_r=a.r, lora_alpha=a.alpha, lora_dropout=0, lora_target_linear=True, sequence_len=100000, curriculum_sampling=True, sample_packing=False,
                  micro_batch_size=a.mb, gradient_accumulation_steps=a.ga, max_steps=a.steps, learning_rate=a.lr, lr_scheduler="constant", optimizer="adamw_torch",
                  weight_decay=0, max_grad_norm=1.0, warmup_steps=0, logging_steps=10, save_strategy="no", output_dir=f"{folder}/output")
    if a.model.endswith(".gguf"): recipe["load_in_4bit"] = True
    lines = [f"{key}: {json.dumps(value)}" for key, value in recipe.items()] + [f"datasets: [{{path: {folder}/train.jsonl}}]"]
    if a.held_out: lines.append(f"test_datasets: [{{path: {folder}/held.jsonl}}]\neval_strategy: steps\neval_steps: {a.steps}")
    open(f"{folder}/recipe.yml", "w").write("\n".join(lines) + "\n")
    command = [a.lora, "train", f"{folder}/recipe.yml"] + [f"--{item}" for item in [*a.set, *changed]] + (["--threads", str(a.threads)] if a.threads else [])
    subprocess.run(command, check=True)
    metrics = [json.loads(line) for line in open(f"{folder}/output/metrics.jsonl")]
    steps = [m for m in metrics if "loss" in m]
    result = {"losses": [m["loss"] for m in steps], "times": [(m["tokens"] / m["tokens_per_second"], m["tokens"]) for m in steps], "peak": steps[-1]["peak_memory_bytes"]}
    held = [m["eval_loss"] for m in metrics if "eval_loss" in m]
    if held: result["held"] = held[-1]
    return result


def rate(times):  # the first step warms caches up and is left out
    kept = times[1:] or times
    return sum(t[1] for t in kept) / sum(t[0] for t in kept)


def main():
    a = arguments()
    if a.peft_child: return peft_run(a, a.rows)
    with tempfile.TemporaryDirectory() as folder:
        rows = read_rows(a)
        split = len(rows) - a.held_out
        for name, part in (("train", rows[:split]), ("held", rows[split:])):
            open(f"{folder}/{name}.jsonl", "w").write("".join(json.dumps(r) + "\n" for r in part))
        child = [sys.executable, __file__, "--hf", a.hf, "--rows", folder, "--dtype", a.dtype]
        for name in ("r", "alpha", "steps", "mb", "ga", "threads", "lr", "seed"): child += ["--" + name, str(getattr(a, name))]
        child += ["--held-out", str(a.held_out)]
        subprocess.run(child + ["--peft-child", "init"], check=True)
        runs = {"lora": lora_run(a, folder), **{f"lora, {key}": lora_run(a, folder, [key]) for key in a.also}}
        subprocess.run(child + ["--peft-child", "train"], check=True)
        peft = json.load(open(f"{folder}/peft.json"))
    runs[f"PEFT {a.dtype}"] = peft
    print("| | tokens/s | to PEFT's | peak memory, GiB | to PEFT's | first loss | last loss | furthest from PEFT's | held-out loss |" + "\n" + "|---" * 9 + "|")
    for name, run in runs.items():
        worst = max(abs(x - y) / abs(y) for x, y in zip(run["losses"], peft["losses"]))
        held = f"{run['held']:.5f} ({run['held'] / peft['held'] - 1:+.1e})" if "held" in run else ""
        print(f"| {name} | {rate(run['times']):.0f} | {rate(run['times']) / rate(peft['times']):.2f} | {run['peak'] / 2**30:.2f} | {run['peak'] / peft['peak']:.2f} "
              f"| {run['losses'][0]:.5f} | {run['losses'][-1]:.5f} | {worst:.1e} | {held} |")


main()
