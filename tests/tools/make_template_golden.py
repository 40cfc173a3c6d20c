#!/usr/bin/env python3
"""Writes tests/data/templates/golden.json: what transformers' chat template environment prints.

    python3 tests/tools/make_template_golden.py [FOLDER_OF_SHARED_TEMPLATES]

Needs transformers and jinja2. Rendered are
- the expressions and statements of tests/tools/template_corpus, each by itself, over VARIABLES;
- the templates of tests/data/templates, over every conversation, with and without tools, generation prompt and EXTRAS;
- with a folder, the templates in it over the same. Of these only digests are kept: the texts are not ours.
An error is an error, whatever its words; only what raise_exception says is kept.
"""
import datetime
import hashlib
import itertools
import json
import os
import pathlib
import sys
import time

os.environ["TZ"] = "UTC"
time.tzset()

import jinja2  # noqa: E402
from transformers.utils import chat_template_utils  # noqa: E402

NOW = 1700000000
TESTS = pathlib.Path(__file__).resolve().parent.parent


class FixedTime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(NOW)


chat_template_utils.datetime = FixedTime

VARIABLES = {
    "messages": [
        {"role": "user", "content": "Hi <b>'x'\" é"},
        {"role": "assistant", "content": "yo", "n": 3, "tags": ["a", "B"]},
        {"role": "user", "content": None},
    ],
    "s": "Hello World",
    "t": " \t padded \n",
    "u": "ÀÉß ﬁ straße ΣΑΣ İı",
    "n": 42,
    "f": 3.14159,
    "neg": -7,
    "z": 0,
    "lst": [3, 1, 2, "x", None, True, 1.5],
    "nums": [5, 3, 9, 1, 3],
    "words": ["banana", "Apple", "cherry", "apple"],
    "d": {"b": 1, "a": 2, "c": {"x": [1, 2, {"y": None}]}, "items": "shadow", "key with space": "v"},
    "e": {},
    "el": [],
    "tools": None,
    "yes": True,
    "no": False,
    "big": 9007199254740993,
    "sm": 1e-7,
    "lg": 1e16,
    "fl": 100.0,
    "neg0": -0.0,
    "text": "line1\nline2\r\n\nline4\x0bv\u2028w",
    "people": [
        {"name": "Bob", "age": 30, "c": {"k": "z"}},
        {"name": "alice", "age": 25, "c": {"k": "a"}},
        {"name": "Carl", "age": 30},
        {"name": "dave"},
    ],
    "nested": [[1, [2, 3]], [4, [5, 6]]],
    "tree": [{"n": "a", "ch": [{"n": "b", "ch": []}, {"n": "c", "ch": [{"n": "d", "ch": []}]}]}],
    "quotes": "it's \"q\" \\ \n\t\x01 \x7f \xa0 \u200b \U0001F600",
}

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The \"weather\" of <a> place & a time.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Its\nname"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
                "days": {"type": "integer"},
                "more": {
                    "type": "object",
                    "properties": {
                        "a": {"type": ["string", "null"], "description": "x"},
                        "b": {"type": "array", "items": {"type": "number"}},
                    },
                    "required": ["a"],
                },
            },
            "required": ["city"],
        },
        "return": {"type": "string", "description": "text"},
    },
}
CLOCK = {"type": "function", "function": {"name": "now", "description": "Zeit — jetzt ✓", "parameters": {"type": "object", "properties": {}}}}
TOOLS = [WEATHER, CLOCK]


def call(identifier, name, arguments):
    return {"id": identifier, "type": "function", "function": {"name": name, "arguments": arguments}}


def user(content="q"):
    return {"role": "user", "content": content}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


MANY = {"city": "Zürich \"x\"", "days": 3, "f": 1.5, "ok": True, "n": None, "l": [1, "a", {}]}
CONVERSATIONS = [
    ["one question", [user("Hello, world!")]],
    ["system", [{"role": "system", "content": "You are  helpful.\n"}, user(" Hi\tthere "), assistant("\n Hello é 日本 \U0001F600 "), user("Thanks")]],
    ["many turns", [user("a"), assistant("b"), user("c"), assistant("d")]],
    ["thinking in the text", [user("q1"), assistant("<think>\nhm, so\n</think>\n\nanswer 1"), user("q2 /no_think"),
                              assistant("answer 2", reasoning_content="deep thought\n", thinking="deep thought\n")]],
    ["thinking aside", [{"role": "system", "content": "S /think"}, user("q1"), assistant("a1", reasoning_content="r1", thinking="r1"), user("q2")]],
    ["call", [user("weather?"), assistant(None, tool_calls=[call("abcdefghi", "get_weather", MANY)]),
              {"role": "tool", "tool_call_id": "abcdefghi", "name": "get_weather", "content": "{\"t\": 20}"}, assistant("It is 20."), user("ok")]],
    ["two calls as text", [{"role": "system", "content": "sys"}, user("time?"),
                           assistant("", tool_calls=[call("call12345", "now", "{\"a\": 1}"), call("call12346", "now", "{}")]),
                           {"role": "tool", "tool_call_id": "call12345", "name": "now", "content": "12:00"},
                           {"role": "tool", "tool_call_id": "call12346", "name": "now", "content": "12:01"}, assistant("noon", thinking="t")]],
    ["bare call", [user("time?"), {"role": "assistant", "tool_calls": [{"name": "now", "arguments": {}}]},
                   {"role": "tool", "content": {"a": [1, 2.0, None, True]}}, assistant("x")]],
    ["parts", [{"role": "system", "content": [{"type": "text", "text": "Sys"}]},
               user([{"type": "text", "text": "one"}, {"type": "image"}, {"type": "text", "text": "two"}]), assistant([{"type": "text", "text": "three"}])]],
    ["empty texts", [{"role": "system", "content": ""}, user(""), assistant("")]],
    ["nothing", []],
    ["wrong order", [assistant("first"), assistant("again"), user("x"), {"role": "wrong", "content": "y"}]],
    ["developer", [{"role": "developer", "content": "Dev text"}, user("x<|im_end|>{{ y }}"), assistant("it's \"q\"")]],
    ["ends with a reply", [user("weather?"), assistant("Let me see", thinking="need it", tool_calls=[call("abcdefghi", "get_weather", {"city": "Bern"})]),
                           {"role": "tool", "tool_call_id": "abcdefghi", "name": "get_weather", "content": "20 °C"}]],
    ["ipython", [user("run"), assistant("<|python_tag|>print(1)"), {"role": "ipython", "content": "1\n"}, user("next")]],
]
EXTRAS = [
    {},
    {"enable_thinking": True, "thinking": True, "builtin_tools": ["wolfram_alpha", "code_interpreter"], "reasoning_effort": "high",
     "date_string": "01 Jan 2025", "documents": [{"title": "T1", "text": "Body 1"}, {"title": "T2", "text": "Body\n2, which is longer"}]},
    {"enable_thinking": False, "thinking": False, "tools_in_user_message": False, "xml_tools": ["def f(): pass"], "python_tools": ["def g(): pass"]},
]
FIXED = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


def render(template, variables):
    """The text, or None for an error, and what raise_exception said."""
    try:
        return chat_template_utils._compile_jinja_template(template).render(**variables), None
    except jinja2.exceptions.TemplateError as error:
        raised = type(error) is jinja2.exceptions.TemplateError
        return None, str(error) if raised else None
    except Exception:
        return None, None


def small_case(template):
    text, message = render(template, VARIABLES)
    assert text is None or " at 0x" not in text, f"an address is printed: {template}"
    return [template, text] if message is None else [template, None, message]


def small_cases():
    corpus = TESTS / "tools" / "template_corpus"
    for line in (corpus / "expressions.txt").read_text(encoding="utf-8").splitlines():
        yield small_case("{{ " + line + " }}")
    for template in (corpus / "statements.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n%%\n"):
        yield small_case(template)
        if "\n" in template:
            yield small_case(template + "\n")
            yield small_case(template.replace("\n", "\r\n") + "\n\n")


def all_variables():
    for (_, messages), tools, prompt, extra in itertools.product(CONVERSATIONS, (None, TOOLS), (False, True), EXTRAS):
        yield {"documents": None, **FIXED, **extra, "messages": messages, "tools": tools, "add_generation_prompt": prompt}


def digests(template):
    texts = [render(template, variables)[0] for variables in all_variables()]
    return texts, ["error" if text is None else hashlib.sha256(text.encode()).hexdigest()[:16] for text in texts]


def own_templates():
    for path in sorted((TESTS / "data" / "templates").glob("*.jinja")):
        texts, hashes = digests(path.read_text(encoding="utf-8"))
        yield path.name, {"digests": hashes, "texts": {str(i): texts[i] for i in range(0, len(texts), 13) if texts[i] is not None}}


def shared_templates(folder):
    for path in sorted(pathlib.Path(folder).glob("*.jinja")):
        source = path.read_bytes()
        yield path.name, {"sha256": hashlib.sha256(source).hexdigest(), "digests": digests(source.decode())[1]}


GENERATIONS = [
    "{% for m in messages %}{{ m.role }}{% generation %}é{{ m.content }}{% endgeneration %}|{% endfor %}",
    "a{% generation %}{% endgeneration %}b{% generation %}{% for c in 'xy' %}{{ c }}{% endfor %}{% endgeneration %}",
    "{% for m in messages %}{% if loop.last %}{%- generation -%} x {%- endgeneration -%}{% endif %}\n{% endfor %}",
]


def generation_case(template):
    compiled = chat_template_utils._compile_jinja_template(template)
    text, spans = chat_template_utils._render_with_assistant_indices(
        compiled_template=compiled, messages=VARIABLES["messages"], tools=None, documents=None, add_generation_prompt=False)
    bytes_before = lambda index: len(text[:index].encode())  # noqa: E731
    return [template, text, [[bytes_before(begin), bytes_before(end)] for begin, end in spans if end > begin]]


def main():
    golden = {
        "now": NOW,
        "variables": VARIABLES,
        "small": list(small_cases()),
        "conversations": CONVERSATIONS,
        "tools": TOOLS,
        "extras": EXTRAS,
        "fixed": FIXED,
        "own": dict(own_templates()),
        "shared": dict(shared_templates(sys.argv[1])) if len(sys.argv) > 1 else {},
        "generations": [generation_case(template) for template in GENERATIONS],
    }
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}" for key, value in golden.items())
    lines = lines.replace('],["', '],\n["')
    (TESTS / "data" / "templates" / "golden.json").write_text("{" + lines + "}\n", encoding="utf-8")
    print(len(golden["small"]), "small templates,", len(golden["own"]), "own and", len(golden["shared"]), "shared ones")


if __name__ == "__main__":
    main()
