#!/usr/bin/env python3
"""One process beside several with the same cores: time, losses, memory. Runs take turns, so that a machine whose speed changes is fair to both.

    tests/tools/compare_ranks.py --lora build/release/lora --model demo/SmolLM2-135M-Instruct.Q4_1.gguf [--ranks 2] [--pairs 5] [--also KEY=VALUE]
    --apart      each rank counts as a machine of its own, with shard_base: what divides the base on the CPU

Rows of 512 tokens, every one labelled; r = 16 on all linear layers; a step is 4 micro-batches of 2 rows however many processes there are.
A step's time is tokens / tokens_per_second of metrics.jsonl, the first two steps left out. Memory is the sum over the processes of their
proportional share (PSS) at its largest, sampled. Needs Open MPI, and numpy not."""
import argparse
import json
import os
import re
import statistics
import subprocess
import tempfile
import threading
import time

from measure_scaling import LENGTH, write_rows

STEP, ROWS = 4, 2


def recipe_text(options, rows, folder, accumulation, more):
    lines = [f"base_model: {os.path.abspath(options.model)}", "adapter: qlora", "load_in_4bit: true", "lora_r: 16", "lora_alpha: 32",
             "lora_target_linear: true", "datasets:", f"  - path: {rows}", f"sequence_len: {LENGTH}", f"micro_batch_size: {ROWS}",
             f"gradient_accumulation_steps: {accumulation}", f"max_steps: {options.steps}", "save_strategy: 'no'", "val_set_size: 0",
             "learning_rate: 1e-4", f"dataset_prepared_path: {folder}/prepared", f"output_dir: {folder}/out"]
    return "\n".join(lines + [setting.replace("=", ": ", 1) for setting in more]) + "\n"


def processes_of(parent):
    children = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True).stdout.split()
    return [int(child) for child in children] or [parent]


def share_bytes(process):
    try:
        text = open(f"/proc/{process}/smaps_rollup").read()
    except OSError:
        return 0
    return int(re.search(r"^Pss:\s+(\d+)", text, re.M).group(1)) * 1024


class Memory(threading.Thread):
    def __init__(self, process):
        super().__init__(daemon=True)
        self.process, self.most, self.ended = process, 0, False

    def run(self):
        while not self.ended:
            self.most = max(self.most, sum(share_bytes(p) for p in processes_of(self.process.pid)))
            time.sleep(0.25)


def run(options, ranks, rows, more):
    with tempfile.TemporaryDirectory() as folder:
        recipe = f"{folder}/recipe.yml"
        open(recipe, "w").write(recipe_text(options, rows, folder, STEP // ranks, more))
        command = [os.path.abspath(options.lora), "train", recipe, "--threads", str(options.cores // ranks)]
        environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
        if options.apart and ranks > 1:
            environment["LORA_MACHINE"] = "each"
        if ranks > 1:
            command = ["mpirun", "--oversubscribe", "-n", str(ranks)] + command
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
        memory = Memory(process)
        memory.start()
        log = process.communicate()[0]
        memory.ended = True
        if process.returncode:
            raise SystemExit(log)
        lines = [json.loads(line) for line in open(f"{folder}/out/metrics.jsonl")]
        seconds = statistics.median(line["tokens"] / line["tokens_per_second"] for line in lines[2:])
        return {"seconds": seconds, "losses": [line["loss"] for line in lines], "memory": memory.most,
                "gathered": lines[-1].get("gathered_bytes"), "log": log}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lora", default="build/release/lora")
    parser.add_argument("--model", required=True)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--also", action="append", default=[], help="a further recipe key, for both")
    parser.add_argument("--apart", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = f"{folder}/rows.jsonl"
        write_rows(rows, STEP * ROWS * options.steps)
        pairs = []
        for pair in range(options.pairs):
            one = run(options, 1, rows, options.also)
            many = run(options, options.ranks, rows, options.also + (["shard_base=true"] if options.apart else []))
            pairs.append((one, many))
            furthest = max(abs(a - b) / abs(a) for a, b in zip(one["losses"], many["losses"]))
            print(f"pair {pair + 1}: {one['seconds']:.3f} s a step by one process, {many['seconds']:.3f} by {options.ranks}: "
                  f"{many['seconds'] / one['seconds']:.3f}; losses differ by at most {furthest:.1e}; memory "
                  f"{one['memory'] / 2**20:.0f} and {many['memory'] / 2**20:.0f} MiB", flush=True)
        ratios = sorted(many["seconds"] / one["seconds"] for one, many in pairs)
        print(f"{options.ranks} processes take {statistics.median(ratios):.3f} of one's time ({ratios[0]:.3f} to {ratios[-1]:.3f})")
        for line in pairs[-1][1]["log"].splitlines():
            if line.startswith(("the base is divided", "memory:")):
                print(line)
        if options.apart:
            print(f"gathered in a step: {pairs[-1][1]['gathered'] / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
