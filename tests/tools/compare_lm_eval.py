#!/usr/bin/env python3
"""`lora eval` beside lm-evaluation-harness over the same items: prompts and continuations character by character, log-probabilities of each
choice, greedy texts, metrics and standard errors.

    compare_lm_eval.py --model FOLDER --data FOLDER [--tasks A,B] [--limit N] [--chat] [--lora PROGRAM]

--chat compares the prompts of a conversation, of tasks whose answers are texts.

The harness's own task files are used, its data sets being replaced by the rows of --data in the form of the originals; it runs the model by
transformers in float32. Needs lm-eval, torch and transformers. Exit code 1 when a prompt differs, a log-probability by more than 0.02, or a
metric by more than half a point.
"""
import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile

LIKELIHOOD_TOLERANCE = 0.02
METRIC_TOLERANCE = 0.005


def read_rows(path, limit):
    opened = gzip.open(path, "rt", encoding="utf-8") if path.endswith(".gz") else open(path, encoding="utf-8")
    with opened as file:
        rows = [json.loads(line) for line in file if line.strip()]
    return rows[:limit] if limit else rows


def read_csv(path, limit):
    import csv

    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return rows[:limit] if limit else rows


def arc(row):
    labels = "ABCDEFGH"[: len(row["choices"])]
    return {"question": row["query"].removeprefix("Question: "), "choices": {"text": row["choices"], "label": list(labels)},
            "answerKey": labels[row["gold"]]}


def openbook(row):
    labels = "ABCDEFGH"[: len(row["choices"])]
    return {"question_stem": row["query"], "choices": {"text": row["choices"], "label": list(labels)}, "answerKey": labels[row["gold"]]}


def piqa(row):
    return {"goal": row["query"].removeprefix("Question: ").rstrip("\n"), "sol1": row["choices"][0], "sol2": row["choices"][1],
            "label": row["gold"]}


def boolq(row):
    passage, question = row["query"].rsplit("\nQuestion: ", 1)
    return {"passage": passage, "question": question.removesuffix("?"), "label": row["gold"]}


def winogrande(row):
    first, second = row["context_options"]
    common = os.path.commonprefix([first, second])
    return {"sentence": common + "_ " + row["continuation"], "option1": first[len(common):], "option2": second[len(common):],
            "answer": str(row["gold"] + 1)}


def lambada(row):
    return {"text": row["context"] + " " + row["continuation"].strip()}


def mmlu(row):
    return {"question": row["question"], "choices": [row[f"choice{i}"] for i in range(4)], "answer": int(row["answer"])}


def same(row):
    return row


# Of a task: the harness's file, the rows, how one becomes the original's, and settings that replace the harness's.
TASKS = {
    "arc_easy": ("arc/arc_easy.yaml", "arc_easy.jsonl", arc, {}),
    "arc_challenge": ("arc/arc_challenge.yaml", "arc_challenge.jsonl", arc, {}),
    "piqa": ("piqa/piqa.yaml", "piqa.jsonl", piqa, {}),
    "boolq": ("super_glue/boolq/default.yaml", "boolq.jsonl", boolq, {}),
    "openbook_qa": ("openbookqa/openbookqa.yaml", "openbook_qa.jsonl", openbook, {}),
    "winogrande": ("winogrande/default.yaml", "winogrande.jsonl", winogrande, {}),
    "lambada": ("lambada/lambada_openai.yaml", "lambada_openai.jsonl", lambada, {}),
    "mmlu": ("mmlu/default/mmlu_{subject}.yaml", "mmlu", mmlu, {"num_fewshot": 5}),
    # The harness draws shots by chance; the first ones are what is compared.
    "gsm8k": ("gsm8k/gsm8k.yaml", "gsm8k", same, {"fewshot_config": {"sampler": "first_n", "split": "train"}}),
    "math500": ("hendrycks_math/hendrycks_math500.yaml", "math500.jsonl", same, {}),
    "ifeval": ("ifeval/ifeval.yaml", "ifeval/input_data.jsonl", same, {}),
}

# Where the boolq of --data has a header that the harness's has not ("Passage: "), or --data asks in other words, prompts differ by design.
METRICS = {"exact_match,strict-match": "exact_match_strict", "exact_match,flexible-extract": "exact_match_flexible"}


def write_rows(path, rows):
    with open(path, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")
    return path


def task_config(name, arguments, folder, subject=None):
    """A task file that includes the harness's own, over our rows."""
    import lm_eval.tasks

    source, path, convert, more = TASKS[name]
    source = os.path.join(os.path.dirname(lm_eval.tasks.__file__), source.format(subject=subject))
    path = os.path.join(arguments.data, path)
    label = f"lora_{name}" + (f"_{subject}" if subject else "")
    files = {}
    if name == "mmlu":
        files["test"] = [convert(r) for r in read_csv(f"{path}/test/{subject}_test.csv", arguments.limit)]
        files["dev"] = [convert(r) for r in read_csv(f"{path}/dev/{subject}_dev.csv", 5)]
    elif name == "gsm8k":
        files["test"] = read_rows(f"{path}/test.jsonl", arguments.limit)
        files["train"] = read_rows(f"{path}/train.jsonl", 5)
    else:
        files["test"] = [convert(r) for r in read_rows(path, arguments.limit)]
    written = {split: write_rows(f"{folder}/{label}_{split}.jsonl", rows) for split, rows in files.items()}
    config = {"include": source, "task": label, "dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": written},
              "test_split": "test", "validation_split": None, "training_split": "train" if "train" in written else None,
              "fewshot_split": "dev" if "dev" in written else "train" if "train" in written else None, **more}
    if name == "boolq":  # the header of our rows
        config["doc_to_text"] = "{{passage}}\nQuestion: {{question}}?\nAnswer:"
    if name == "math500":
        config["generation_kwargs"] = {"until": ["Problem:"], "do_sample": False, "max_gen_toks": 256}
    import yaml

    with open(f"{folder}/{label}.yaml", "w", encoding="utf-8") as file:
        yaml.safe_dump(config, file)
    return label


def subjects(arguments):
    names = sorted(os.listdir(os.path.join(arguments.data, "mmlu", "test")))
    return [n.removesuffix("_test.csv") for n in names][: arguments.subjects or None]


def plain_tokenizer(folder):
    """tokenizer.json as it is: the classes that tokenizer_config.json names build some anew, without their unknown token."""
    from transformers import PreTrainedTokenizerFast

    with open(os.path.join(folder, "tokenizer_config.json"), encoding="utf-8") as file:
        config = json.load(file)
    names = {k: config[k] for k in ("bos_token", "eos_token", "unk_token", "pad_token", "chat_template") if config.get(k)}
    names = {k: v["content"] if isinstance(v, dict) else v for k, v in names.items()}
    return PreTrainedTokenizerFast(tokenizer_file=os.path.join(folder, "tokenizer.json"), clean_up_tokenization_spaces=False, **names)


def evaluate(labels, model, folder, is_chat=False):
    """The harness's results of the tasks whose files are in the folder."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    harness = HFLM(pretrained=model, tokenizer=plain_tokenizer(model), dtype="float32", device="cpu", batch_size=8)
    manager = TaskManager(include_path=folder, include_defaults=False)
    return simple_evaluate(model=harness, tasks=list(labels), task_manager=manager, log_samples=True, bootstrap_iters=0,
                           apply_chat_template=is_chat, fewshot_as_multiturn=is_chat)


def run_harness(names, arguments, folder):
    labels = {}
    for name in names:
        for subject in subjects(arguments) if name == "mmlu" else [None]:
            labels[task_config(name, arguments, folder, subject)] = (name, subject)
    return labels, evaluate(labels, arguments.model, folder, arguments.chat)


def run_lora(name, arguments, folder):
    output, samples = f"{folder}/{name}.json", f"{folder}/{name}.samples.jsonl"
    command = [arguments.lora, "eval", "--quiet", "--model", arguments.model, "--tasks", name, "--data", arguments.data, "--output", output,
               "--samples", samples]
    if name in ("gsm8k", "math500"):
        command += ["--max-tokens", "256"]
    if arguments.chat:
        command.append("--chat")
    if arguments.limit:
        command += ["--limit", str(arguments.limit)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    with open(output, encoding="utf-8") as file:
        results = json.load(file)["results"][name]
    return results, read_rows(samples, 0)


class Comparison:
    def __init__(self, name):
        self.name, self.items, self.prompts, self.texts, self.largest, self.worst = name, 0, 0, 0, 0.0, 0.0

    def say(self, what, ours, theirs):
        print(f"{self.name}: {what} differs\n  lora:    {ours!r}\n  harness: {theirs!r}", file=sys.stderr)

    def choices(self, ours, theirs):
        self.items += 1
        for choice, arguments, response in zip(ours["choices"], theirs["arguments"], theirs["filtered_resps"]):
            context = choice.get("context", ours["prompt"])
            whole = context + ("" if self.name == "lambada" and choice["text"][0].isspace() else " ") + choice["text"]
            if whole.rstrip() != (arguments[0] + arguments[1]).rstrip():
                self.prompts += 1
                self.say("a prompt", whole, arguments[0] + arguments[1])
            difference = abs(choice["log_probability"] - float(response[0]))
            if difference > LIKELIHOOD_TOLERANCE:
                self.say(f"the log-probability of {arguments}", choice["log_probability"], response[0])
            self.largest = max(self.largest, difference)

    def text(self, ours, theirs):
        self.items += 1
        if ours["prompt"] != theirs["arguments"][0][0]:
            self.prompts += 1
            self.say("a prompt", ours["prompt"], theirs["arguments"][0][0])
        written = theirs["resps"][0][0]
        if ours["text"].strip() != written.strip():
            self.texts += 1

    def metrics(self, ours, theirs):
        for key, value in theirs.items():
            name = METRICS.get(key, key.split(",")[0])
            if name in ours and ours[name] is not None and isinstance(value, float):
                difference = abs(ours[name] - value) / (max(1.0, abs(value)) if name == "perplexity" else 1.0)
                print(f"  {name:28} lora {ours[name]:.6f}  harness {value:.6f}")
                self.worst = max(self.worst, difference)

    def verdict(self):
        good = self.prompts == 0 and self.largest <= LIKELIHOOD_TOLERANCE and self.worst <= METRIC_TOLERANCE
        print(f"{self.name}: {self.items} items, {self.prompts} prompts differ, {self.texts} texts differ, log-probabilities by at most "
              f"{self.largest:.2e}, metrics by {self.worst:.2e}: {'good' if good else 'NOT GOOD'}")
        return good


def plain_sample(sample):
    """Arguments as a list of tuples, whatever form the harness keeps them in."""
    arguments = sample["arguments"]
    if isinstance(arguments, dict):
        arguments = [tuple(a[f"arg_{i}"] for i in range(len(a))) for a in arguments.values()]
    return {**sample, "arguments": arguments}


def compare(name, labels, harness, arguments, folder):
    results, samples = run_lora(name, arguments, folder)
    comparison = Comparison(name)
    for label, (task, subject) in labels.items():
        if task != name:
            continue
        own = [s for s in samples if subject is None or s["group"] == subject]
        theirs = {}
        for sample in harness["samples"][label]:
            theirs.setdefault(sample["doc_id"], plain_sample(sample))
        for ours in own:
            sample = theirs[ours["id"]]
            (comparison.choices if "choices" in ours else comparison.text)(ours, sample)
        comparison.metrics(results if subject is None else results["groups"][subject] if "groups" in results else results,
                           harness["results"][label])
    return comparison.verdict()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--tasks", default="arc_easy,arc_challenge,piqa,boolq,openbook_qa,winogrande,lambada,mmlu")
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("--subjects", type=int, default=3, help="of mmlu, the first so many; 0: all")
    parser.add_argument("--chat", action="store_true")
    parser.add_argument("--lora", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../build/release/lora"))
    arguments = parser.parse_args()
    names = arguments.tasks.split(",")
    with tempfile.TemporaryDirectory() as folder:
        labels, harness = run_harness(names, arguments, folder)
        verdicts = [compare(name, labels, harness, arguments, folder) for name in names]
    return 0 if all(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
