#!/usr/bin/env python3
"""Trains the same rows from the same first adapter with `lora` and with transformers + PEFT in several configurations, one after the other on
this machine, and writes a table of speed, peak memory and losses in Markdown.

    pip install torch transformers peft bitsandbytes safetensors
    python tests/tools/compare_peft.py --lora build/release/lora --model MODEL.gguf --hf FOLDER [--steps 6] [--also bf16=false] [--output TABLE.md]

MODEL.gguf is what `lora` trains on; FOLDER holds the same weights in float32 for PEFT (`lora merge --adapter A:0 --type f32` writes it).
Rows: random ones of --length tokens with every token labelled; or --rows ROWS.jsonl, one {"input_ids": [...], "labels": [...]} a line; or
--questions, or --alpaca, where `lora` packs its rows and PEFT pads each batch to its longest, and trained tokens are counted. Rows are taken
in order; the last --held-out of them are never trained, and their loss after training is compared. Each run is a process of its own, so that
its peak memory is its own. The first step, and PEFT's steps that compile, are left out of the rates; the first is reported.
"""
import argparse, datetime, importlib.metadata, json, os, subprocess, sys, tempfile

PEERS = "float32,bfloat16,nf4,float32-compile,bfloat16-compile,nf4-compile"
FEATURES = "avx2 avx512f avx512_vnni avx512_bf16 amx_int8 amx_bf16".split()


def arguments():
    a = argparse.ArgumentParser()
    a.add_argument("--lora", required=True); a.add_argument("--model", required=True); a.add_argument("--hf", required=True); a.add_argument("--rows")
    for name, value in dict(r=16, alpha=32, steps=20, mb=4, ga=1, length=512, threads=0, held_out=0, seed=3).items():
        a.add_argument("--" + name.replace("_", "-"), type=int, default=value)
    a.add_argument("--lr", type=float, default=2e-4)
    a.add_argument("--peers", default=PEERS, help="PEFT's configurations, separated by commas (default: all, %(default)s)")
    a.add_argument("--set", action="append", default=[], help="a recipe key for lora, as key=value")
    a.add_argument("--also", action="append", default=[], help="one more run of lora, with this recipe key changed: key=value")
    a.add_argument("--questions", help="rows from this JSONL of {question, answer}, tokenised by FOLDER's tokenizer and chat template; answers are trained")
    a.add_argument("--alpaca", help="rows from this JSON array of {instruction, input, output} with Alpaca's prompt; outputs are trained")
    a.add_argument("--peft-mb", type=int, help="PEFT's micro-batch, where it is not --mb (default with --alpaca: 8 rows)")
    a.add_argument("--kbit", action="store_true", help="NF4 by prepare_model_for_kbit_training, which makes all that is not quantised float32: slower")
    a.add_argument("--limit", type=int, default=1800, help="seconds after which a run is given up")
    a.add_argument("--output", help="write the table to this file as well")
    a = a.parse_args()
    known = PEERS.split(",")
    a.peers = [peer for peer in a.peers.split(",") if peer]
    for peer in a.peers:
        if peer not in known: sys.exit(f"compare_peft: no peer is called {peer}; they are {PEERS}")
    a.peft_mb = a.peft_mb or (8 if a.alpaca else a.mb)
    return a


def peer_process(a, settings, what):
    """Runs peft_peer.py; returns None, or the reason why it failed."""
    program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "peft_peer.py")
    # A cache of its own, so that the first step compiles as it does for a user.
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": os.path.join(a.folder, "inductor"), "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run([sys.executable, program, settings, what], env=environment, stderr=subprocess.PIPE, text=True, timeout=a.limit)
    except subprocess.TimeoutExpired:
        return f"not done within {a.limit} s"
    if done.returncode == 0: return None
    sys.stderr.write(done.stderr)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return f"fails: {lines[-1].strip()[:160]}" if lines else f"fails with {done.returncode}"


def peft_run(a, settings, peer):
    failure = peer_process(a, settings, peer)
    return {"failure": failure} if failure else json.load(open(f"{a.folder}/{peer}.json"))


def lora_run(a, changed=()):
    folder, gguf = a.folder, a.model.endswith(".gguf")
    recipe = dict(base_model=os.path.abspath(a.model), adapter="qlora" if gguf else "lora", lora_model_dir=f"{folder}/init",
                  lora_r=a.r, lora_alpha=a.alpha, lora_dropout=0, lora_target_linear=True, sequence_len=a.length if a.alpaca else 100000,
                  curriculum_sampling=not a.alpaca, sample_packing=bool(a.alpaca), micro_batch_size=a.mb, gradient_accumulation_steps=a.ga,
                  learning_rate=a.lr, lr_scheduler="constant", dataset_prepared_path=f"{folder}/prepared", optimizer="adamw_torch", weight_decay=0, max_grad_norm=1.0, warmup_steps=0,
                  logging_steps=10, save_strategy="no", output_dir=f"{folder}/output")
    if gguf: recipe["load_in_4bit"] = True
    recipe.update({"num_epochs": 1} if a.alpaca else {"max_steps": a.steps})
    lines = [f"{key}: {json.dumps(value)}" for key, value in recipe.items()] + [f"datasets: [{{path: {folder}/train.jsonl}}]"]
    if a.held_out: lines.append(f"test_datasets: [{{path: {folder}/held.jsonl}}]\neval_strategy: steps\neval_steps: {a.steps}")
    open(f"{folder}/recipe.yml", "w").write("\n".join(lines) + "\n")
    command = [a.lora, "train", f"{folder}/recipe.yml"] + [f"--{item}" for item in [*a.set, *changed]] + (["--threads", str(a.threads)] if a.threads else [])
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL if a.steps > 50 else None)
    metrics = [json.loads(line) for line in open(f"{folder}/output/metrics.jsonl")]
    steps = [m for m in metrics if "loss" in m]
    result = {"losses": [m["loss"] for m in steps], "peak": steps[-1]["peak_memory_bytes"],
              "times": [(m["tokens"] / m["tokens_per_second"], m["tokens"], m["trained_tokens"]) for m in steps]}
    held = [m["eval_loss"] for m in metrics if "eval_loss" in m]
    if held: result["held"] = held[-1]
    return result


def rate(a, run):
    """Tokens a second, trained ones for real rows; without the first step and those that compiled."""
    left_out = {0, *run.get("compiled", [])}
    kept = [t for i, t in enumerate(run["times"]) if i not in left_out]
    return sum(t[2 if a.alpaca else 1] for t in kept) / sum(t[0] for t in kept) if kept else float("nan")


def machine():
    """What a reader has to know of the machine and the libraries, as one sentence."""
    facts = dict(line.split(":", 1) for line in open("/proc/cpuinfo").read().split("\n\n")[0].splitlines() if ":" in line)
    facts = {key.strip(): value.strip() for key, value in facts.items()}
    has = [name for name in FEATURES if name in facts.get("flags", "").split()]
    memory = int(open("/proc/meminfo").readline().split()[1]) / 2**20
    versions = []
    for name in ("torch", "transformers", "peft", "bitsandbytes"):
        try: versions.append(f"{name} {importlib.metadata.version(name).split('+')[0]}")
        except importlib.metadata.PackageNotFoundError: versions.append(f"no {name}")
    return (f"{datetime.date.today()}, {len(os.sched_getaffinity(0))} cores of {facts.get('model name', 'an unknown processor')} ({', '.join(has)}), {memory:.0f} GB; "
            + ", ".join(versions) + ".")


def names_of(peer):
    kind = {"float32": "float32", "bfloat16": "bfloat16", "nf4": "bitsandbytes NF4"}[peer.removesuffix("-compile")]
    return f"PEFT, {kind}, {'torch.compile' if peer.endswith('-compile') else 'eager'}"


def losses_apart(run, reference):
    if run is reference: return ""
    return f"{max(abs(x - y) / abs(y) for x, y in zip(run['losses'], reference['losses'])):.1e}"


def table(a, runs):
    peers = [run for name, run in runs.items() if name in a.peers and "failure" not in run]
    best, least = max((rate(a, run) for run in peers), default=float("nan")), min((run["peak"] for run in peers), default=float("nan"))
    reference = runs.get("float32", {"failure": "not run"})
    has_reference, has_held = "failure" not in reference, any("held" in run for run in runs.values())
    has_losses = has_reference and not a.alpaca  # packed and padded batches have other rows, so that losses do not compare
    unit = "trained tokens/s" if a.alpaca else "tokens/s"
    head = ["", f"{unit} to the best PEFT", "to eager float32", "peak memory, GiB", "to PEFT's least", "first step, s"]
    head += ["furthest loss from float32 PEFT's, relative"] * has_losses + ["last loss"] * has_held + ["held-out loss"] * has_held
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, run in runs.items():
        row = [names_of(name) if name in a.peers else name]
        if "failure" in run: row += [run["failure"].replace("|", "/")] + [""] * (len(head) - 2)
        else:
            row += [f"{rate(a, run) / best:.2f}", f"{rate(a, run) / rate(a, reference):.2f}" if has_reference else "", f"{run['peak'] / 2**30:.2f}",
                    f"{run['peak'] / least:.2f}", f"{run['times'][0][0]:.1f}"]
            if has_losses: row.append(losses_apart(run, reference))
            if has_held: row += [f"{run['losses'][-1]:.5f}", f"{run['held']:.5f}" if "held" in run else ""]
        lines.append("| " + " | ".join(row) + " |")
    notes = ["PEFT runs in the fastest way that was found for each: the model's own loss, bfloat16 and NF4 under autocast, NF4 "
             + ("with" if a.kbit else "without") + " `prepare_model_for_kbit_training`."] if peers else []
    notes += [f"{names_of(name)}: {run['graphs']} graphs, {run['breaks']} graph breaks, {len(run['compiled'])} steps that compiled, "
              f"{sum(run['times'][i][0] for i in run['compiled']):.0f} s in all."
             for name, run in runs.items() if "graphs" in run]
    return "\n".join([machine(), "", *lines, *([""] + notes if notes else [])]) + "\n"


def report(a, name, run):
    if "failure" in run: print(f"{name}: {run['failure']}", flush=True)
    else: print(f"{name}: {rate(a, run):.1f} {'trained ' if a.alpaca else ''}tokens/s, {run['peak'] / 2**30:.2f} GiB, first step {run['times'][0][0]:.1f} s, "
                f"losses {run['losses'][0]:.5f} .. {run['losses'][-1]:.5f}", flush=True)


def main():
    a = arguments()
    with tempfile.TemporaryDirectory() as a.folder:
        count = a.steps * max(a.mb, a.peft_mb) * a.ga + a.held_out
        settings = f"{a.folder}/settings.json"
        keep = "hf rows questions alpaca folder r alpha ga length threads held_out seed lr peft_mb kbit".split()
        json.dump({**{name: getattr(a, name) for name in keep}, "count": count, "peft_steps": a.steps}, open(settings, "w"))
        for what in ("rows", "init"):
            failure = peer_process(a, settings, what)
            if failure: sys.exit(f"compare_peft: {what}: {failure}")
        runs = {}
        for name, key in [("lora", [])] + [(f"lora, `{key.replace('=', ': ')}`", [key]) for key in a.also]:
            runs[name] = lora_run(a, key)
            report(a, name, runs[name])
        for peer in a.peers:
            runs[peer] = peft_run(a, settings, peer)
            report(a, names_of(peer), runs[peer])
        text = table(a, runs)
    print("\n" + text)
    if a.output: open(a.output, "w").write(text)


main()
