#!/usr/bin/env python3
"""Compares the built-in chat templates with those they stand for, and writes tests/data/templates/builtin.json.

    python tests/tools/make_builtin_golden.py ORIGINALS [--random 2000] [--seed 1]        (pip install transformers jinja2)

ORIGINALS: a folder of NAME.jinja, Axolotl's src/axolotl/utils/chat_templates/templates (0.19.0; granite, granitemoe and
nemotron only stand in its history, nemotron as nemotron_h). Both are rendered by transformers'
own environment, on the conversations below and on random ones; every difference is printed, and the exit status is 1.
Two are meant: where an original prints a list of parts as Python writes it, ours may refuse, and images ours do refuse.

The file, all of it from the originals:
    now             what strftime_now is given, seconds since 1970 (UTC; the texts hold the date, so render with TZ=UTC)
    bos, eos        the variables bos_token and eos_token
    conversations   {name: {messages, tools (or null)}}
    cases           [{template, conversation, prompt (add_generation_prompt), bos and eos (only as null: the variable is not
                      defined), variables (only where there are others), text, or error: true,
                      opening: where it is there, openings[opening] stands in front of text,
                      generated: [[begin, end], ...], the bytes inside {% generation %}, where there are any}]
    openings        long texts that many of a template's begin with, such as a default system message
"""
import argparse, datetime, functools, json, os, random, sys
from transformers.utils.chat_template_utils import _compile_jinja_template, _render_with_assistant_indices

here = os.path.dirname(os.path.abspath(__file__))
folder = os.path.join(here, "..", "..", "data", "template", "builtin")
NOW = 1767351600  # 2026-01-02 11:00 UTC


def system(text): return {"role": "system", "content": text}
def user(text): return {"role": "user", "content": text}
def reply(text, **more): return {"role": "assistant", "content": text, **more}
def parts(*texts): return [{"type": "text", "text": text} for text in texts]
def call(name, arguments, id="abc123XYZ"):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
def result(text, id="abc123XYZ", **more): return {"role": "tool", "tool_call_id": id, "content": text, **more}


WEATHER = {"type": "function", "function": {"name": "weather", "description": "The weather of a town, today <now>", "parameters": {
    "type": "object", "properties": {"town": {"type": "string", "description": "Its name: \"Zürich\""},
                                     "unit": {"type": "string", "enum": ["C", "F"]}}, "required": ["town"]}}}
SUM = {"type": "function", "function": {"name": "sum", "description": "Adds numbers", "parameters": {
    "type": "object", "properties": {"numbers": {"type": "array", "description": "What to add", "items": {"type": "number"}},
                                     "exact": {"type": "boolean", "nullable": True},
                                     "how": {"type": "object", "properties": {"base": {"type": "integer"}}, "required": ["base"]}},
    "required": ["numbers", "how"]}, "return": {"type": "number"}}}
BARE = {"type": "function", "function": {"name": "dice", "description": "Throws a die",
                                         "parameters": {"type": "object", "properties": {}}}}
BOOK = {"type": "function", "function": {"name": "book", "description": "Books rooms", "parameters": {"type": "object", "properties": {
    "guests": {"type": "array", "items": {"type": "object", "properties": {"name": {"type": "string"},
                                                                           "Age": {"type": "integer", "nullable": True}},
                                          "required": ["name"], "additionalProperties": False, "default": None}},
    "tags": {"type": "array", "description": "Words", "items": {"type": ["string", "null"], "enum": ["a", "B", 1, None]}},
    "room": {"type": "object", "description": "Which", "properties": {"floor": {"type": "number", "minimum": 1.5}}},
    "extra": {"type": "object", "beds": {"type": "integer", "description": "How many"}}, "any": {},
    "nights": {"type": "array", "items": {}}}},
    "response": {"type": "object", "description": "The booking"}}}
BE_BRIEF, HELLO, SUNNY = system("Be brief."), user("Hello there"), "It is sunny, 21 °C."
ASK, TOWN = user("How is the weather in Zürich?"), {"town": "Zürich", "unit": "C"}

CONVERSATIONS = {
    "one question": ([HELLO], None),
    "one turn": ([HELLO, reply("Hi. What can I do?")], None),
    "system": ([BE_BRIEF, HELLO, reply("Hi.")], None),
    "system and question": ([BE_BRIEF, HELLO], None),
    "system alone": ([BE_BRIEF], None),
    "turns": ([user("2 + 2?"), reply("4"), user("Twice that?"), reply("8"), user("And 日本語 🙂?")], None),
    "system and turns": ([BE_BRIEF, user("2 + 2?"), reply("4"), user("Twice that?"), reply("8")], None),
    "white space": ([system(" \n Mind the gaps.\t\n"), user("\n  a  b \n\n"), reply("  \n c\u00a0\n"), user("d\n")], None),
    "empty contents": ([system(""), user(""), reply("")], None),
    "same question twice": ([HELLO, reply("Hi."), HELLO], None),
    "user twice": ([user("One"), user("Two"), reply("Three")], None),
    "assistant first": ([reply("May I help?"), user("Yes"), reply("How?")], None),
    "assistant twice": ([HELLO, reply("Hi."), reply("Still there?")], None),
    "system late": ([HELLO, reply("Hi."), system("Be rude."), user("Hello?"), reply("What?")], None),
    "system twice": ([BE_BRIEF, system("Be kind."), HELLO, reply("Hi.")], None),
    "unknown role": ([HELLO, {"role": "narrator", "content": "A long silence."}], None),
    "parts": ([system(parts("Be", " brief. ")), user(parts(" First, ", "second. ")), reply(parts("Yes.", " No. "))], None),
    "markup": ([user("<|im_end|> </s> {{ x }} {% if %} </think>"), reply("\\n \"quoted\" <b>&amp;</b>")], None),
    "thought inside": ([user("2 + 2?"), reply("<think>\n2 and 2\n</think>\n\n4"), user("Twice?"),
                        reply("<think>\nthen 8\n\n</think>\n\n8\n")], None),
    "thought apart": ([user("2 + 2?"), reply("4", reasoning_content="2 and 2"), user("Twice?"),
                       reply("\n8", reasoning_content="\nthen 8\n")], None),
    "thought empty": ([user("2 + 2?"), reply("4", reasoning_content=""), reply("5", reasoning_content=None)], None),
    "tools offered": ([ASK], [WEATHER, SUM]),
    "tools offered, system": ([BE_BRIEF, ASK, reply("I cannot."), user("Try.")], [BARE, WEATHER]),
    "tools offered, nested": ([BE_BRIEF, ASK], [BOOK]),
    "no tools": ([BE_BRIEF, HELLO, reply("Hi.")], []),
    "tool called": ([ASK, reply("", tool_calls=[call("weather", TOWN)]), result(SUNNY), reply("Sunny.")], [WEATHER]),
    "tool called, no content": ([BE_BRIEF, ASK, reply(None, tool_calls=[call("weather", TOWN)]), result(SUNNY), reply("Sunny."),
                                 user("Thanks")], [WEATHER]),
    "tool called, arguments as text": ([ASK, reply(None, tool_calls=[call("weather", '{"town": "Zürich"}')]), result(SUNNY),
                                        reply("Sunny.")], [WEATHER]),
    "tools called": ([ASK, reply("Let me see.", tool_calls=[call("weather", TOWN), call("sum", '{"numbers": [1, 2.5]}', "id4567890")]),
                      result(SUNNY), result("3.5", "id4567890"), reply("Sunny; 3.5.")], [WEATHER, SUM]),
    "tools called, thought": ([ASK, reply("I look.", reasoning_content="Which town?", tool_calls=[
                                  call("weather", {"town": "Bern", "days": [1, 2], "deep": {"b": True, "a": None}})]),
                               result(SUNNY), reply("Sunny.", reasoning_content="Clear."), user("And?")], [WEATHER]),
    "tool result last": ([ASK, reply("", tool_calls=[call("weather", TOWN)]), result(SUNNY)], None),
    "tool result as parts": ([ASK, reply("", tool_calls=[call("weather", TOWN)]), result(parts("Rain", "y")), reply("Rainy.")], None),
    "tool result nested": ([ASK, reply("", tool_calls=[call("weather", TOWN)]), result({"content": "Rainy"}), reply("Rainy.")], None),
    "tool result early": ([result("5"), user("What was that?"), reply("5")], None),
    "tool id too short": ([ASK, reply("", tool_calls=[call("weather", TOWN, "1")]), result(SUNNY, "1"), reply("Sunny.")], None),
    "tool id missing": ([ASK, reply("", tool_calls=[{"type": "function", "function": {"name": "weather", "arguments": TOWN}}]),
                         {"role": "tool", "name": "weather", "content": SUNNY}, reply("Sunny.")], None),
    "tool calls bare": ([ASK, reply("", tool_calls=[{"name": "weather", "arguments": TOWN}]), {"role": "tool", "content": SUNNY}], None),
    "tool calls empty": ([ASK, reply("Sunny.", tool_calls=[])], None),
    "tool calls null": ([ASK, reply("Sunny.", tool_calls=None)], None),
    "tool then user": ([ASK, reply("", tool_calls=[call("weather", TOWN)]), result(SUNNY), user("So?"), reply("Sunny.")], None),
    "named": ([{"role": "user", "name": "Ann", "content": "Hello"}, reply("Hi, Ann.")], None),
    "content null": ([HELLO, reply(None), user("Well?")], None),
    "content missing": ([HELLO, {"role": "assistant"}, user("Well?")], None),
    "tool answered by a user": ([ASK, reply("I look."), user("<tool_response>\nrain\n</tool_response>"),
                                 reply("Rainy.", reasoning_content="Wet.")], None),
}
IMAGE = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
# Templates whose originals also take images: ours refuse them.
VISION = ["gemma3", "gemma3n", "gemma4", "gemma4_unified", "llama3_2_vision", "llama4", "llava", "mistral_v7_tekken", "pixtral",
          "qwen2_vl", "qwen3_5"]
VARIABLES = {"qwen3": [{"enable_thinking": False}, {"enable_thinking": True}], "qwen3_5": [{"enable_thinking": False}],
             "exaone4": [{"enable_thinking": True}, {"skip_think": False}], "gemma4": [{"enable_thinking": True}],
             "llama3_2_vision": [{"date_string": "26 Jul 2024"}, {"tools_in_user_message": False}],
             "llama4": [{"tools_in_user_message": False}], "command_a": [{"safety_mode": "strict"}], "granite": [{"thinking": True}]}


@functools.lru_cache(None)
def compiled(path):
    template = _compile_jinja_template(open(path, encoding="utf-8").read())
    template.environment.globals["strftime_now"] = lambda form: datetime.datetime.fromtimestamp(NOW, datetime.timezone.utc).strftime(form)
    return template


def render(path, case):
    """What the case becomes: {text} and perhaps {generated}, or {error: true}; and the error's text."""
    given = dict(case.get("variables", {}))
    given.update({name + "_token": case[name] for name in ("bos", "eos") if case[name] is not None})
    messages, tools = json.loads(json.dumps([case["messages"], case["tools"]]))
    try:
        text, spans = _render_with_assistant_indices(compiled(path), messages, tools, None, case["add_generation_prompt"], **given)
    except Exception as error:  # jinja's own, and Python's from inside a template
        return {"error": True}, f"{type(error).__name__}: {error}"
    spans = [[len(text[:place].encode()) for place in span] for span in spans]
    return {"text": text, **({"generated": spans} if spans else {})}, None


def is_python(expected):
    """The original printed a list or an object as Python writes it."""
    return "[{'type'" in expected.get("text", "") or "{'content'" in expected.get("text", "")


def cases_of(name, source, everything):
    """The cases of a template: all, or those that are written: of thoughts and tools one each, where the original does not
    speak of them."""
    for number, (title, (messages, tools)) in enumerate(CONVERSATIONS.items()):
        if title == "tool result nested" and not name.startswith("mistral"): continue
        offered = title.startswith("tools offered") or title == "no tools"
        spoken_of = ("tools" if offered else "tool_calls") in source and name != "command_a"  # which does with documents alone
        if not everything and "tool" in title and title != "tool called" and not spoken_of: continue
        if not everything and "</think>" not in source and title.startswith("thought") and title != "thought apart": continue
        case = {"conversation": title, "messages": messages, "tools": tools, "bos": "<s>", "eos": "</s>"}
        for prompt in (False, True) if everything or title in ("one turn", "tool result last") else (number % 2 == 0,):
            yield {**case, "add_generation_prompt": prompt}
        if title in ("one turn", "turns", "system", "tools called")[:4 if everything else 1]:
            for bos, eos in (None, "</s>"), (None, None):
                yield {**case, "add_generation_prompt": False, "bos": bos, "eos": eos}
        if everything or title in ("one question", "tools called, thought"):
            for variables in VARIABLES.get(name, []):
                yield {**case, "add_generation_prompt": title == "one question", "variables": variables}


class Openings:
    """Takes out of texts what a template always begins with, without and with a system message, and under the same tools."""

    def __init__(self): self.all = []

    def cut(self, path, case, expected):
        text, best = expected.get("text", ""), ""
        for pair in [[user("A")], [user("B")]], [[system("A"), user("A")], [system("B"), user("A")]]:
            common = os.path.commonprefix([render(path, {**case, "messages": messages})[0].get("text", "") for messages in pair])
            if text.startswith(common) and len(common) > len(best): best = common
        if len(best) < 100: return expected
        if best not in self.all: self.all.append(best)
        return {**expected, "text": text[len(best):], "opening": self.all.index(best)}


def random_case(dice):
    texts = ["", "a", " b ", "\nc\n\n", "<think>\nx\n</think>\n\ny", "</think>", "\n<tool_response>z</tool_response>", "ü 🙂", "<|x|>"]

    def text():
        chosen = dice.choices(texts, k=dice.randint(1, 3))
        return parts(*chosen) if dice.random() < 0.1 else "".join(chosen[1:])

    messages = [system(text())] if dice.random() < 0.4 else []
    turn = dice.random() < 0.1
    for _ in range(dice.randint(0 if messages else 1, 6)):
        role = "assistant" if turn else "user"
        if dice.random() < 0.15: role = dice.choice(["system", "tool", "user", "assistant", "ipython"])
        turn = role != "assistant"
        message = {"role": role, "content": text() if dice.random() < 0.97 else None}
        if role == "assistant":
            if dice.random() < 0.2: message["reasoning_content"] = dice.choice(texts + [None])
            if dice.random() < 0.3:
                message["tool_calls"] = [call(dice.choice("fg"), dice.choice([TOWN, {}, '{"a": 1}']),
                                              dice.choice(["abc123XYZ"] * 9 + ["1"]))
                                         for _ in range(dice.choice([0, 1, 1, 1, 2, 3]))]
        if role == "tool" and dice.random() < 0.9: message["tool_call_id"] = "abc123XYZ"
        messages.append(message)
        if message.get("tool_calls") and dice.random() < 0.8: messages.append(result(text()))
    return {"messages": messages, "tools": dice.choice([None, None, None, [], [WEATHER], [SUM, BARE], [BOOK]]),
            "add_generation_prompt": dice.random() < 0.5, "bos": "<s>", "eos": "</s>"}


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("originals")
    options.add_argument("--random", type=int, default=300)
    options.add_argument("--seed", type=int, default=1)
    options = options.parse_args()
    files = {name[:-6]: name for name in sorted(os.listdir(folder)) if name.endswith(".jinja")}
    for line in open(os.path.join(folder, "aliases"), encoding="utf-8"):
        if line.strip(): files[line.split()[0]] = line.split()[1] + ".jinja"
    written, openings, wrong = [], Openings(), 0
    for name in sorted(files):
        original, ours = os.path.join(options.originals, name + ".jinja"), os.path.join(folder, files[name])
        source = open(original, encoding="utf-8").read()
        dice = random.Random(f"{options.seed} {name}")
        different = errors = total = 0
        for case in [*cases_of(name, source, True), *(random_case(dice) for _ in range(options.random))]:
            (expected, reason), (got, complaint) = render(original, case), render(ours, case)
            total, errors = total + 1, errors + ("error" in expected)
            if expected != got and not (is_python(expected) and "error" in got):
                different += 1
                if different <= 3:
                    print(f"{name}: {json.dumps(case, ensure_ascii=False)}\n  expected {reason or expected}\n  got      {complaint or got}")
        seen = {"messages": [user(IMAGE)], "tools": None, "add_generation_prompt": True, "bos": "<s>", "eos": "</s>"}
        if name in VISION and "error" not in render(ours, seen)[0]:
            print(f"{name}: an image is not refused")
            different += 1
        print(f"{name}: {total} conversations, {errors} of them errors, {different} differ")
        wrong += different
        for case in cases_of(name, source, False):
            if name == "command_a_tool_use" and case["tools"] not in (None, [], [WEATHER]): continue  # 6 KB each
            if files[name] != name + ".jinja" and case["conversation"] not in ("turns", "system and turns", "tools called"): continue
            expected, _ = render(original, case)
            if is_python(expected): continue
            shown = {"template": name, "conversation": case["conversation"], "prompt": case["add_generation_prompt"]}
            shown.update({key: None for key in ("bos", "eos") if case[key] is None})
            shown.update({"variables": case["variables"]} if "variables" in case else {})
            written.append({**shown, **openings.cut(original, case, expected)})
    path = os.path.join(here, "..", "data", "templates", "builtin.json")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as out:
        out.write('{"now": %d, "bos": "<s>", "eos": "</s>",\n"conversations": {\n' % NOW)
        out.write(",\n".join(f"{json.dumps(title)}: {json.dumps({'messages': messages, 'tools': tools}, ensure_ascii=False)}"
                             for title, (messages, tools) in CONVERSATIONS.items()))
        out.write('},\n"openings": ' + json.dumps(openings.all, ensure_ascii=False, indent=0) + ',\n"cases": [\n')
        out.write(",\n".join(json.dumps(case, ensure_ascii=False, separators=(",", ":")) for case in written) + "]}\n")
    print(f"{len(files)} templates, {len(written)} cases in {os.path.getsize(path)} bytes, {wrong} differences")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
