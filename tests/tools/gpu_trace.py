#!/usr/bin/env python3
"""Where a card's time goes: runs a program with tests/tools/gpu_trace.c, and prints a table of its kernels: calls, milliseconds, share of what
all kernels take, and microseconds a call; and how long nothing ran between the first kernel and the last.

    python3 tests/tools/gpu_trace.py [--last SECONDS] -- PROGRAM ARGUMENT...

--last: only what began in the last seconds before the last kernel's end, such as a step of training. Needs CUPTI, which the CUDA toolkit
has; exit code 3 without it. The last line has the figures.
"""
import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
PARTS, NAME = 40, 90  # lines of the table, characters of a name


def build(folder):
    """The library that the driver loads, or None."""
    library = folder / "trace.so"
    for toolkit in (os.environ.get("CUDA_HOME"), "/usr/local/cuda", "/usr"):
        if not toolkit:
            continue
        for include, lib in (("include", "lib64"), ("extras/CUPTI/include", "extras/CUPTI/lib64"), ("include", "lib")):
            if not (pathlib.Path(toolkit) / include / "cupti.h").exists():
                continue
            lib = f"{toolkit}/{lib}"
            command = ["cc", "-O2", "-shared", "-fPIC", HERE / "gpu_trace.c", "-o", library, f"-I{toolkit}/{include}", f"-I{toolkit}/include",
                       f"-L{lib}", "-lcupti", f"-Wl,-rpath,{lib}"]
            if subprocess.run(command, capture_output=True).returncode == 0:
                return library
    return None


def short(name):
    """A kernel's name without its arguments, where c++filt is there to take it apart."""
    if name.startswith("_Z") and shutil.which("c++filt"):
        name = subprocess.run(["c++filt", name], capture_output=True, text=True).stdout.strip()
    name = re.sub(r"^void |\(anonymous namespace\)::", "", name)
    return re.sub(r"\(.*", "", name)[:NAME]


def covered(intervals):
    """The length of the union."""
    total = end = 0
    for begin, stop in sorted(intervals):
        total += max(0, stop - max(begin, end))
        end = max(end, stop)
    return total


def report(kernels, last):
    """kernels: (begin, end, name), nanoseconds"""
    if not kernels:
        sys.exit("no kernel ran")
    end = max(end for _, end, _ in kernels)
    begin = max(min(begin for begin, _, _ in kernels), end - last * 1e9 if last else 0)
    kernels = [kernel for kernel in kernels if kernel[0] >= begin]
    span, busy = end - begin, covered([kernel[:2] for kernel in kernels])
    sums = {}
    for start, stop, name in kernels:
        calls, time = sums.get(name, (0, 0))
        sums[name] = calls + 1, time + stop - start
    every = sum(time for _, time in sums.values())
    print(f"{'calls':>7} {'ms':>9} {'share':>6} {'us a call':>10}  kernel")
    for name, (calls, time) in sorted(sums.items(), key=lambda item: -item[1][1])[:PARTS]:
        print(f"{calls:7d} {time / 1e6:9.2f} {100 * time / every:5.1f}% {time / calls / 1e3:10.1f}  {short(name)}")
    first = short(max(sums, key=lambda name: sums[name][1]))
    print(f"FIGURES: {span / 1e6:.1f} ms, nothing ran in {100 * (1 - busy / span):.1f}% of it; the most, "
          f"{100 * max(time for _, time in sums.values()) / every:.0f}%, by {first}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--last", type=float, default=0)
    parser.add_argument("program", nargs="+")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        library = build(pathlib.Path(folder))
        if not library:
            print("FIGURES: CUPTI or a C compiler is not there")
            sys.exit(3)
        trace = pathlib.Path(folder) / "trace.txt"
        environment = dict(os.environ, CUDA_INJECTION64_PATH=str(library), TRACE_OUT=str(trace))
        code = subprocess.run(options.program, env=environment).returncode
        if code:
            sys.exit(code)
        kernels = []
        for line in trace.read_text().splitlines() if trace.exists() else []:
            begin, end, name = line.split(" ", 2)
            kernels.append((int(begin), int(end), name))
    report(kernels, options.last)


if __name__ == "__main__":
    main()
