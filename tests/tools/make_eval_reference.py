#!/usr/bin/env python3
"""References for `lora eval` from lm-evaluation-harness, beside the tests, in eval/data:

    make_eval_reference.py --data FOLDER      (pip install lm-eval torch transformers langdetect nltk immutabledict)

judges.json, verdicts of the harness's own judges on random answers: math: [answer, gold, is_equiv]; boxed: [solution, what
last_boxed_only_string and remove_boxed make of it, or null]; gsm8k: [text, strict, flexible] as the two filters give them; ifeval:
[instruction, arguments, response, strict, loose]. Answers are put together from pieces that the rules look at, in several scripts, with a
fixed seed.

harness.json, what the harness finds with tests/data/tiny-hf over choices.jsonl and continuations.jsonl, and over the first rows of FOLDER's
arc_easy.jsonl: of each task "likelihoods", [log-probability, is_greedy] of each choice of each item, and its metrics.
"""
import argparse
import json
import os
import random
import re
import tempfile

import compare_lm_eval
import yaml
from lm_eval.filters.extraction import RegexFilter
from lm_eval.tasks.hendrycks_math import utils as math_utils
from lm_eval.tasks.ifeval import instructions_registry
from lm_eval.tasks.ifeval import utils as ifeval_utils

HERE = os.path.dirname(os.path.abspath(__file__))
FOLDER = os.path.join(HERE, "..", "eval", "data")
MODEL = os.path.join(HERE, "..", "data", "tiny-hf")
ARC_ITEMS = 300

MATH_PIECES = ["1", "2", "12", "-3", "0.5", ".5", "x", "y", "\\frac", "\\tfrac", "\\dfrac", "{", "}", "{1}", "{2}", "12", "/", "=", "\\sqrt",
               "\\sqrt{3}", "\\text{ cm}", "\\text{ feet}", "\\left(", "\\right)", "^\\circ", "^{\\circ}", "\\$", "\\%", "\\!", "\\\\", " ",
               "\n", ",", "+", "k = ", "\\pi", "é", "²"]
GSM_PIECES = ["#### ", "####", "18", "-3", "1,234.5", "$", "$20", ".", ",", " ", "\n", "The answer is ", "x", "#### 7.", "-", "0", "é", "<<2*3=6>>"]
TEXT_PIECES = ["word", "Word ", "été", " 中文 ", "x_y", "²", "…", ",", ". ", "! ", "\n", "\n\n", "\n\n", "***", "******", " ", "*bold*", "**b c**",
               "* item\n", "- item\n", "  * two\n", "[here]", "[a\nb]", "P.S. ", "P.P.S ", "p. s. ", "Section 1 ", "SECTION 2\n", "Day 3", "<<",
               ">>", "<<Title>>", "\"", "```json\n", "```", "{\"a\": 1}", "[1, 2.5]", "My answer is yes.", "İ", "ẞ", "K", "ſ", "the END", "bye",
               "\u00a0", "\u2003", "\x1c", "Σας", "don't", "'"]


def join(pieces, random_numbers, most):
    return "".join(random_numbers.choice(pieces) for _ in range(random_numbers.randint(0, most)))


def math_cases(r):
    cases = []
    while len(cases) < 1500:
        a = join(MATH_PIECES, r, 6)
        b = r.choice([a, a.replace(" ", ""), a.replace("\\frac12", "\\frac{1}{2}"), join(MATH_PIECES, r, 3), "\\frac{1}{2}", "0.5", "1/2"])
        cases.append([a, b, bool(math_utils.is_equiv(a, b))])
    same = [c for c in cases if c[2]]
    return same[:300] + [c for c in cases if not c[2]][:300]


def boxed_cases(r):
    pieces = ["\\boxed{", "\\boxed ", "\\fbox{", "{", "}", "}", "3", "$", "x^{2}", " so ", "\\boxed{\\frac{1}{2}}"]
    cases = []
    while len(cases) < 200:
        text = join(pieces, r, 7)
        try:
            found = math_utils.last_boxed_only_string(text)
            cases.append([text, None if found is None else math_utils.remove_boxed(found)])
        except (AssertionError, IndexError):
            continue  # the original fails on it
    return cases


def gsm8k_cases(r):
    strict = RegexFilter("#### (\\-?[0-9\\.\\,]+)")
    flexible = RegexFilter("(-?[$0-9.,]{2,})|(-?[0-9]+)", group_select=-1)

    def normalise(text):
        for pattern in (",", "\\$", "(?s).*#### ", "\\.$"):
            text = re.sub(pattern, "", text)
        return text.lower()

    cases = []
    for _ in range(300):
        text = join(GSM_PIECES, r, 8)
        cases.append([text, normalise(strict.apply([[text]], [{}])[0][0]), normalise(flexible.apply([[text]], [{}])[0][0])])
    return cases


def relation(r, key, name, most):
    return {key: r.randint(1, most), name: r.choice(["less than", "at least"])}


IFEVAL = {
    "keywords:existence": lambda r: {"keywords": r.sample(["word", "été", "bye", "ss", "k"], r.randint(1, 2))},
    "keywords:frequency": lambda r: {"keyword": r.choice(["word", " end", "s", "中"]), **relation(r, "frequency", "relation", 3)},
    "keywords:forbidden_words": lambda r: {"forbidden_words": r.sample(["word", "été", "bye", "x", "end", "item", "k"], 2)},
    "keywords:letter_frequency": lambda r: {"letter": r.choice("eiksW"), **relation(r, "let_frequency", "let_relation", 4)},
    "length_constraints:number_paragraphs": lambda r: {"num_paragraphs": r.randint(1, 3)},
    "length_constraints:number_words": lambda r: relation(r, "num_words", "relation", 8),
    "length_constraints:nth_paragraph_first_word": lambda r: (lambda n: {"num_paragraphs": n, "nth_paragraph": r.randint(1, n),
                                                                         "first_word": r.choice(["word", "bye", "été", "don"])})(r.randint(1, 3)),
    "detectable_content:number_placeholders": lambda r: {"num_placeholders": r.randint(1, 2)},
    "detectable_content:postscript": lambda r: {"postscript_marker": r.choice(["P.S.", "P.P.S", "bye"])},
    "detectable_format:number_bullet_lists": lambda r: {"num_bullets": r.randint(1, 3)},
    "detectable_format:constrained_response": lambda r: {},
    "detectable_format:number_highlighted_sections": lambda r: {"num_highlights": r.randint(1, 3)},
    "detectable_format:multiple_sections": lambda r: {"section_spliter": r.choice(["Section", "SECTION", "Day"]),
                                                      "num_sections": r.randint(1, 2)},
    "detectable_format:json_format": lambda r: {},
    "detectable_format:title": lambda r: {},
    "combination:two_responses": lambda r: {},
    "combination:repeat_prompt": lambda r: {"prompt_to_repeat": r.choice(["Word ", "été", "İ", "the END"])},
    "startend:end_checker": lambda r: {"end_phrase": r.choice(["bye", "The END", "été"])},
    "punctuation:no_comma": lambda r: {},
    "startend:quotation": lambda r: {},
}


def ifeval_cases(r):
    cases = []
    for name, arguments_of in IFEVAL.items():
        assert name in instructions_registry.INSTRUCTION_DICT
        wanted, most = {True: 12, False: 12}, 4000
        while any(wanted.values()) and most:
            most -= 1
            arguments, response = arguments_of(r), join(TEXT_PIECES, r, r.choice([2, 4, 10]))
            if name in ("startend:quotation", "combination:repeat_prompt") and r.random() < 0.3:
                response = f'"{response}"' if "quot" in name else arguments["prompt_to_repeat"].upper() + response
            example = ifeval_utils.InputExample(key=0, instruction_id_list=[name], prompt="", kwargs=[arguments])
            strict = ifeval_utils.test_instruction_following_strict(example, response).follow_instruction_list[0]
            loose = ifeval_utils.test_instruction_following_loose(example, response).follow_instruction_list[0]
            if wanted[bool(strict)]:
                wanted[bool(strict)] -= 1
                cases.append([name, arguments, response, bool(strict), bool(loose)])
    return cases


OWN_TASKS = {
    "choices": {"output_type": "multiple_choice", "doc_to_text": "{{query}}", "doc_to_choice": "{{choices}}", "doc_to_target": "{{gold}}",
                "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}]},
    "continuations": {"output_type": "loglikelihood", "doc_to_text": "{{context}}", "doc_to_target": "{{CONTINUATION}}",
                      "metric_list": [{"metric": "acc"}, {"metric": "perplexity"}]},
}


def own_config(name, folder):
    rows = os.path.join(FOLDER, f"{name}.jsonl")
    config = {"task": f"lora_{name}", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": rows}}, "test_split": "test",
              "num_fewshot": 0, **OWN_TASKS[name]}
    # A context that ends in white space brings its own.
    config["doc_to_target"] = config["doc_to_target"].replace("CONTINUATION", "continuation if context[-1] in ' \\n' else ' ' + continuation")
    with open(f"{folder}/{name}.yaml", "w", encoding="utf-8") as file:
        yaml.safe_dump(config, file)
    return config["task"]


def harness_results(data):
    with tempfile.TemporaryDirectory() as folder:
        labels = {own_config(name, folder): name for name in OWN_TASKS}
        arguments = argparse.Namespace(data=data, limit=ARC_ITEMS)
        labels[compare_lm_eval.task_config("arc_easy", arguments, folder)] = "arc_easy"
        found = compare_lm_eval.evaluate(labels, MODEL, folder)
    out = {}
    for label, name in labels.items():
        samples = sorted(found["samples"][label], key=lambda sample: sample["doc_id"])
        metrics = {key.split(",")[0]: value for key, value in found["results"][label].items() if isinstance(value, float)}
        out[name] = {"metrics": metrics, "likelihoods": [[[round(float(p), 5), str(g) == "True"] for p, g in s["filtered_resps"]] for s in samples]}
    return out


def write(name, data):
    """One case a line."""
    with open(os.path.join(FOLDER, name), "w", encoding="utf-8") as file:
        file.write(data)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    arguments = parser.parse_args()
    r = random.Random(10)
    data = {"math": math_cases(r), "boxed": boxed_cases(r), "gsm8k": gsm8k_cases(r), "ifeval": ifeval_cases(r)}
    cases = ",\n".join(f'"{name}": [\n' + ",\n".join(json.dumps(c) for c in cases) + "\n]" for name, cases in data.items())
    write("judges.json", "{" + cases + "}\n")
    results = harness_results(arguments.data)
    tasks = ",\n".join(f'"{name}": {{"metrics": {json.dumps(task["metrics"])}, "likelihoods": [\n'
                       + ",\n".join(json.dumps(item) for item in task["likelihoods"]) + "\n]}" for name, task in results.items())
    write("harness.json", "{" + tasks + "}\n")
    print({name: len(cases) for name, cases in data.items()})


if __name__ == "__main__":
    main()
