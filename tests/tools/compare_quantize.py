"""`lora quantize` beside llama.cpp's quantize: the same file to the same types, with the same threads.

    pip install llama-cpp-python gguf numpy
    python tests/tools/compare_quantize.py build/release/lora MODEL.gguf --text TEXT [--calibration TEXT] [--threads 2]
        [--types q4_k_m,...] [--chunks 40]

MODEL becomes f32 first. For each type, without an importance matrix and with one that `lora imatrix` makes of the calibration text,
both quantise; then `lora perplexity` measures both files on the text. A line tells the bytes, whether all tensors have the
same types, the perplexities, their ratio (1.01 is the most that is allowed), and the ratio of times. Without --text only files and times are
compared, and the squared error of the weights (random models). Exits with 1 when a ratio is above 1.01 or types differ. Not part of the test suite:
llama.cpp's build is long.
"""

import argparse
import ctypes
import pathlib
import subprocess
import sys
import tempfile
import time

import gguf
import llama_cpp
import numpy as np

FILE_TYPES = {
    "q2_k": 10, "q3_k_s": 11, "q3_k_m": 12, "q3_k_l": 13, "iq4_xs": 30, "iq4_nl": 25, "q4_0": 2, "q4_1": 3, "q4_k_s": 14, "q4_k_m": 15,
    "q5_0": 8, "q5_1": 9, "q5_k_s": 16, "q5_k_m": 17, "q6_k": 18, "q8_0": 7,
}
MOST = 1.01


def run(*words):
    return subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True).stdout


def read_importance(path):
    tensors = {tensor.name: np.array(tensor.data, dtype=np.float32) for tensor in gguf.GGUFReader(path).tensors}
    return {
        name.removesuffix(".in_sum2"): np.ascontiguousarray(values.reshape(-1) / tensors[name.removesuffix("in_sum2") + "counts"].reshape(-1)[0])
        for name, values in tensors.items() if name.endswith(".in_sum2")
    }


def quantize_theirs(source, output, kind, threads, importance):
    params = llama_cpp.llama_model_quantize_default_params()
    params.nthread, params.ftype, params.allow_requantize = threads, FILE_TYPES[kind], True
    if importance:
        data = (llama_cpp.llama_cpp.llama_model_imatrix_data * (len(importance) + 1))()
        for i, (name, values) in enumerate(importance.items()):
            data[i].name, data[i].size = name.encode(), values.size
            data[i].data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        params.imatrix = data
    start = time.time()
    if llama_cpp.llama_model_quantize(str(source).encode(), str(output).encode(), ctypes.byref(params)) != 0:
        raise SystemExit(f"llama.cpp does not quantise {source} to {kind}")
    return time.time() - start


def quantize_ours(program, source, output, kind, threads, importance):
    words = [program, "quantize", source, output, "--type", kind, "--threads", threads, "--quiet"]
    start = time.time()
    run(*words, *(["--imatrix", importance] if importance else []))
    return time.time() - start


def types_of(path):
    return {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}


def same_types(ours, theirs):
    """Newer llama.cpp puts Q4_0 where rows do not hold blocks of 256; IQ4_NL, as before, is as large and nearer."""
    return ours.keys() == theirs.keys() and all(
        kind == theirs[name] or (kind, theirs[name]) == ("IQ4_NL", "Q4_0") for name, kind in ours.items())


def values_of(path):
    return {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float64).reshape(-1)
        for tensor in gguf.GGUFReader(path).tensors
    }


def weight_error(path, expected):
    """The mean over tensors of the relative squared error."""
    values = values_of(path)
    errors = [np.sum((values[name] - x) ** 2) / max(np.sum(x ** 2), 1e-30) for name, x in expected.items()]
    return float(np.mean(errors))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("lora")
    parser.add_argument("model")
    parser.add_argument("--text")
    parser.add_argument("--calibration")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--chunks", type=int, default=40)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--types", default=",".join(FILE_TYPES))
    arguments = parser.parse_args()
    llama_cpp.llama_log_set(LOG, None)
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        source, ours, theirs = folder / "f32.gguf", folder / "ours.gguf", folder / "theirs.gguf"
        run(arguments.lora, "quantize", arguments.model, source, "--type", "f32", "--quiet")
        matrix = None
        if arguments.calibration:
            matrix = folder / "imatrix.gguf"
            run(arguments.lora, "imatrix", "--model", source, "--text", arguments.calibration, "--output", matrix, "--chunks", arguments.chunks,
                "--context", arguments.context, "--quiet")
        expected = None if arguments.text else values_of(source)

        def measure(path):
            if not arguments.text:
                return weight_error(path, expected)
            words = run(arguments.lora, "perplexity", "--model", path, "--text", arguments.text, "--context", arguments.context, "--quiet")
            return float(words.split()[-4])

        print(f"f32: {measure(source):.6g}")
        print("type      imatrix  bytes, ours/theirs  types   ours        theirs      ours/theirs  time, ours/theirs")
        for kind in arguments.types.split(","):
            for importance in [None, matrix] if matrix else [None]:
                ours_time = min(quantize_ours(arguments.lora, source, ours, kind, arguments.threads, importance) for _ in range(2))
                table = read_importance(importance) if importance else None
                theirs_time = min(quantize_theirs(source, theirs, kind, arguments.threads, table) for _ in range(2))
                same = same_types(types_of(ours), types_of(theirs))
                ratio_bytes = ours.stat().st_size / theirs.stat().st_size
                a, b = measure(ours), measure(theirs)
                failures += not same or a > b * MOST
                print(f"{kind:10}{'yes' if importance else 'no':9}{ratio_bytes:<20.4f}{'same' if same else 'DIFFER':8}{a:<12.6g}{b:<12.6g}"
                      f"{a / b:<13.4f}{ours_time / theirs_time:.2f}", flush=True)
    return 1 if failures else 0


@llama_cpp.llama_log_callback
def LOG(level, text, data):
    pass


if __name__ == "__main__":
    sys.exit(main())
