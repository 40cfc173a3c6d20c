#!/usr/bin/env python3
"""How time grows with tokens and memory with the dataset, for `lora` alone; prints two tables in Markdown.

    python tests/tools/measure_scaling.py build/release/lora MODEL.gguf [--threads N] [--steps 4]

Rows of 512 tokens, every one trained, r = 16 on all linear layers. The first table varies the micro-batch: seconds of a step after the first, and
that for each token beside the first line's. The second varies the number of rows, prepared before by `lora preprocess`, and gives the peak of the
process that trains.
"""
import argparse, datetime, json, os, random, subprocess, tempfile

LENGTH = 512


def write_rows(path, count):
    generator = random.Random(1)
    with open(path, "w") as file:
        for _ in range(count):
            ids = [generator.randrange(1000, 40000) for _ in range(LENGTH)]
            file.write(json.dumps({"input_ids": ids, "labels": ids}) + "\n")


def write_recipe(folder, model, rows, batch, steps):
    recipe = dict(base_model=os.path.abspath(model), adapter="qlora", load_in_4bit=True, lora_r=16, lora_alpha=32, lora_target_linear=True, sequence_len=LENGTH,
                  sample_packing=False, micro_batch_size=batch, gradient_accumulation_steps=1, max_steps=steps, learning_rate=2e-4, save_strategy="no",
                  output_dir=f"{folder}/out", dataset_prepared_path=f"{folder}/prepared")
    path = f"{folder}/recipe.yml"
    with open(path, "w") as file:
        file.write("".join(f"{key}: {json.dumps(value)}\n" for key, value in recipe.items()) + f"datasets: [{{path: {rows}}}]\n")
    return path


def run(program, *words):
    done = subprocess.run([program, *words], capture_output=True, text=True)
    if done.returncode != 0: raise SystemExit(done.stderr)


def train(a, folder, rows, batch):
    """Seconds of the fastest step after the first, and the process's peak in bytes."""
    recipe = write_recipe(folder, a.model, rows, batch, a.steps)
    threads = ["--threads", str(a.threads)]
    run(a.lora, "preprocess", recipe, *threads)
    run(a.lora, "train", recipe, *threads)
    steps = [json.loads(line) for line in open(f"{folder}/out/metrics.jsonl")]
    return min(step["tokens"] / step["tokens_per_second"] for step in steps[1:]), steps[-1]["peak_memory_bytes"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lora"); parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=os.cpu_count()); parser.add_argument("--steps", type=int, default=4)
    a = parser.parse_args()
    processor = next(line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
    print(f"{datetime.date.today()}, {a.threads} threads of {processor}; {os.path.basename(a.model)}\n")
    with tempfile.TemporaryDirectory() as folder:
        print("| micro-batch of rows of 512 | tokens a step | time a token, to the first line's |\n|---|---|---|")
        first = None
        for batch in (1, 2, 4, 8):
            rows = f"{folder}/rows{batch}.jsonl"
            write_rows(rows, batch * a.steps)
            seconds = train(a, folder, rows, batch)[0] / (batch * LENGTH)
            first = first or seconds
            print(f"| {batch} | {batch * LENGTH} | {seconds / first:.2f} |", flush=True)
        print("\n| rows of 512 tokens | tokens | peak memory, to the first line's |\n|---|---|---|")
        first = None
        for count in (100, 1000, 10000, 50000):
            rows = f"{folder}/many.jsonl"
            write_rows(rows, count)
            peak = train(a, folder, rows, 2)[1]
            first = first or peak
            print(f"| {count} | {count * LENGTH} | {peak / first:.3f} ({peak / 2**20:.0f} MiB) |", flush=True)


if __name__ == "__main__":
    main()
