#!/usr/bin/env python3
"""The closed form of scripts/scaling beside what runs over links of known rates take (tests/tools/network_namespaces). As root, on Linux.

    tests/tools/check_scaling.py collectives [--machines 2 4] [--rates 100mbit 1gbit]     sums and gathers alone (tests/tools/collectives.c)
    tests/tools/check_scaling.py training [--machines 1 2 4] [--rates 100mbit 1gbit none] [--shard-base] [--lora build/release/lora]
    --mca NAME VALUE                                                                      a setting of Open MPI

Training is of a llama of 16 layers with random Q4_K_M weights, rows of 128 tokens, LoRA of r = 8 on all linear layers, one thread a
rank and one rank a machine. What a step takes is the lower quartile of metrics.jsonl (tokens / tokens_per_second) after the first two
steps. The machines share this one's processors, so the closed form is given the compute time of as many processes that train alone,
each by itself and all at once, just before and just after (of more than there are processors, as many as those, times the rest); it
is spread over the layers by their flops. Bytes a second: the link's rate x 1448 / 1514, what a frame of Ethernet leaves for data. A sum in place goes, by Open MPI's own choice, up a tree and down again: 2
ceil(log2 K) times the whole array over one link after another; the program asks for a ring among up to eight ranks, and gives a buffer
apart among more, whose halves Open MPI then sums (parallel/mpi): both move what the ring of scripts/scaling does. Needs Open MPI with
mpicc, iproute2, and a build with MPI."""
import argparse
import datetime
import importlib.machinery
import importlib.util
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "tools"))
import gpu_rate


def load(name, path):
    loader = importlib.machinery.SourceFileLoader(name, str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    sys.modules[name] = module
    loader.exec_module(module)
    return module


scaling = load("scaling", ROOT / "scripts" / "scaling")
networks = load("network_namespaces", ROOT / "tests" / "tools" / "network_namespaces")
PAYLOAD = 1448 / 1514
LATENCY = 100e-6
TOKENS, RANK = 128, 8
SHAPE = gpu_rate.Shape(16, 768, 12, 4, 2048, 4096, 512)
RING = ("coll_libnbc_iallreduce_algorithm", "1")
DOUBLING = ("coll_libnbc_iallgather_algorithm", "2")


def link_of(rate):
    bandwidth = math.inf if rate == "none" else networks.bits_per_second(rate) / 8 * PAYLOAD
    return scaling.Link(rate, bandwidth, LATENCY)


def network(machines, rate):
    return networks.Network(machines, None if rate == "none" else rate)


def tree_all_reduce(ranks, size, link):
    return 2 * math.ceil(math.log2(ranks)) * (size / link.bandwidth + link.latency)


def line(*cells):
    print("| " + " | ".join(str(c) for c in cells) + " |", flush=True)


def heading(*cells):
    line(*cells)
    print("|" + "---|" * len(cells))


def announce():
    processor = next(text.split(":")[1].strip() for text in open("/proc/cpuinfo") if text.startswith("model name"))
    print(f"{datetime.date.today()}, {os.cpu_count()} cores of {processor}\n")


# ---- Collectives alone ----


def collectives(a, folder):
    program = str(folder / "collectives")
    subprocess.run(["mpicc", "-O2", "-o", program, str(ROOT / "tests" / "tools" / "collectives.c")], check=True)
    heading("machines", "link", "what", "measured, s", "expected, s", "ratio")
    for rate in a.rates:
        link = link_of(rate)
        for k in a.machines:
            ring, gather = scaling.ring_all_reduce(k, a.bytes, link), scaling.ring_gather(k, a.bytes, link)
            beside = round(1.2 * gather, 3)
            cases = [("sum, ring", ["sum"], [RING], ring),
                     ("sum, not in place, Open MPI's choice", ["apart"], [], ring),
                     ("sum, Open MPI's choice; expected: tree", ["sum"], [], tree_all_reduce(k, a.bytes, link)),
                     ("gather, recursive doubling", ["gather"], [DOUBLING], gather), ("gather, Open MPI's choice", ["gather"], [], gather),
                     (f"gather, computing {beside:.2f} s meanwhile; expected: hidden", ["beside", beside], [DOUBLING], beside),
                     ("the same, MPI asked each millisecond", ["asked", beside], [DOUBLING], beside)]
            for label, (what, *more), mca, expected in cases:
                with network(k, rate) as net:
                    words = [program, what, str(a.bytes), str(a.times), *map(str, more)]
                    done = net.run(words, mca=[*mca, *a.mca], capture_output=True, text=True)
                if done.returncode != 0:
                    raise SystemExit(done.stderr)
                seconds = statistics.median(float(word) for word in done.stdout.split()[1:])
                line(k, rate, label, f"{seconds:.3f}", f"{expected:.3f}", f"{seconds / expected:.2f}")


# ---- Training ----


def write_recipe(folder, name, steps, accumulation, ranks, shard):
    rows = folder / "rows.jsonl"
    count = steps * accumulation * ranks
    with open(rows, "w", encoding="utf-8") as file:
        for i in range(count):
            ids = [(i * 37 + j * 11) % 4000 + 4 for j in range(TOKENS)]
            file.write(json.dumps({"input_ids": ids, "labels": ids}) + "\n")
    settings = {"base_model": str(folder / "model.gguf"), "adapter": "qlora", "load_in_4bit": True, "lora_r": RANK, "lora_alpha": RANK,
                "lora_target_linear": True, "datasets": [{"path": str(rows)}], "sequence_len": TOKENS, "sample_packing": False,
                "bf16": False, "micro_batch_size": 1, "gradient_accumulation_steps": accumulation, "max_steps": steps,
                "learning_rate": 1e-5, "optimizer": "adamw_torch", "save_strategy": "no", "output_dir": str(folder / name),
                "dataset_prepared_path": str(folder / f"prepared-{name}"), **({"shard_base": True} if shard else {})}
    path = folder / f"{name}.yml"
    path.write_text(json.dumps(settings), encoding="utf-8")  # JSON is YAML
    return path


def step_seconds(folder, name):
    lines = [json.loads(text) for text in (folder / name / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines[2:] if "tokens_per_second" in line]
    return statistics.quantiles([step["tokens"] / step["tokens_per_second"] for step in steps], n=4)[0], steps[-1].get("gathered_bytes", 0)


def alone(a, folder, count):
    """Seconds of a step of one process, the mean of so many that run at once."""
    names = [f"alone{i}" for i in range(count)]
    recipes = [str(write_recipe(folder, name, a.steps, a.accumulation, 1, False)) for name in names]
    with network(count, "none") as net:
        running = [subprocess.Popen(net.on(i, [a.lora, "train", recipe, "--threads", "1"]), stdout=subprocess.DEVNULL,
                                    stderr=subprocess.PIPE, text=True) for i, recipe in enumerate(recipes)]
        for process in running:
            if process.wait() != 0:
                raise SystemExit(process.stderr.read())
    return statistics.mean(step_seconds(folder, name)[0] for name in names)


def together(a, folder, count, rate):
    recipe = write_recipe(folder, "together", a.steps, a.accumulation, count, a.shard_base)
    with network(count, rate) as net:
        done = net.run([a.lora, "train", str(recipe), "--threads", "1"], mca=a.mca, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{done.stdout}{done.stderr}check_scaling: mpirun ended with {done.returncode}")
    return step_seconds(folder, "together")


def layer_bytes():
    sizes = [0] * SHAPE.layers
    for name, kind, rows, columns in gpu_rate.tensors(SHAPE):
        if name.startswith("blk.") and kind != gpu_rate.F32:
            sizes[int(name.split(".")[1])] += rows * columns // 256 * gpu_rate.BYTES[kind]
    return sizes


def gathered_bytes(accumulation, ranks):
    """That a rank receives in a step."""
    sizes = layer_bytes()
    return accumulation * (ranks - 1) / ranks * (sum(sizes[2:]) + sum(sizes[:-2]))


def waited_seconds(shape, accumulation, compute, ranks, link):
    """Of a step's gathers: (waited for, all of them)"""
    forward, backward, rest = scaling.micro_batch_flops(shape, 1, TOKENS, RANK, False)
    scale = compute / accumulation / (sum(forward) + sum(backward) + rest)
    gathers = [scaling.ring_gather(ranks, size, link) for size in layer_bytes()]
    visible = scaling.waited(gathers, [f * scale for f in forward]) + scaling.waited(gathers[::-1], [b * scale for b in backward[::-1]])
    return accumulation * visible, accumulation * (sum(gathers[2:]) + sum(gathers[:-2]))


def training(a, folder):
    gpu_rate.write_model(folder / "model.gguf", SHAPE)
    shape = scaling.shape_of(str(folder / "model.gguf"))
    size = 4 * shape.adapter_parameters(RANK)
    print(f"{size / 1e6:.1f} MB of gradients; {max(layer_bytes()) / 1e6:.1f} MB of frozen blocks in the largest layer; "
          f"{a.accumulation} micro-batches of {TOKENS} tokens a rank and step\n")
    heading("ranks", "link", "alone, s", "step, s", "expected, s", "ratio",
            *(["nothing hidden, s", "ratio", "MB gathered, told / expected"] if a.shard_base else []))
    # Others may use the processors: what a process takes alone is measured anew between runs, and a run is given the mean of both.
    for k in a.machines:
        for rate in a.rates if k > 1 else ["none"]:
            # More processes than processors do not keep step when they train alone: they share what as many as these take.
            at_once, link = min(k, os.cpu_count()), link_of(rate)
            before = alone(a, folder, at_once)
            (seconds, told), after = together(a, folder, k, rate), alone(a, folder, at_once)
            compute = (before + after) / 2 * k / at_once
            waited, gathers = waited_seconds(shape, a.accumulation, compute, k, link) if a.shard_base and k > 1 else (0.0, 0.0)
            expected = compute + scaling.ring_all_reduce(k, size, link) + scaling.SUMS * scaling.small_sum(k, link) + waited
            bare = [expected - waited + gathers] if a.shard_base else []
            line(k, rate, f"{compute:.3f}", f"{seconds:.3f}", *(c for e in [expected, *bare] for c in (f"{e:.3f}", f"{seconds / e:.2f}")),
                 *([f"{told / 1e6:.1f} / {gathered_bytes(a.accumulation, k) / 1e6:.1f}"] if a.shard_base else []))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("collectives", "training"))
    parser.add_argument("--lora", default=str(ROOT / "build" / "release" / "lora"))
    parser.add_argument("--machines", type=int, nargs="+")
    parser.add_argument("--rates", nargs="+")
    parser.add_argument("--bytes", type=int, default=8_000_000, help="of a collective")
    parser.add_argument("--times", type=int, default=6)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--accumulation", type=int, default=2)
    parser.add_argument("--shard-base", action="store_true")
    parser.add_argument("--mca", nargs=2, action="append", default=[])
    a = parser.parse_args()
    a.lora = os.path.abspath(a.lora)
    obstacle = networks.cannot()
    if obstacle:
        parser.error(obstacle)
    announce()
    with tempfile.TemporaryDirectory() as folder:
        if a.what == "collectives":
            a.machines, a.rates = a.machines or [2, 4], a.rates or ["100mbit", "1gbit"]
            collectives(a, pathlib.Path(folder))
        else:
            a.machines, a.rates = a.machines or [1, 2, 4], a.rates or ["100mbit", "1gbit", "none"]
            training(a, pathlib.Path(folder))


if __name__ == "__main__":
    main()
