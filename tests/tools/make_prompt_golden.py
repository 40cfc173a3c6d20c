#!/usr/bin/env python3
"""Writes tests/data/prompts/golden.json: what rows must become, computed with transformers and without this project.

    python tests/tools/make_prompt_golden.py [SHARED]      (pip install transformers)

A case: {name, tokenizer: "tiny" | "story", template (or null), dataset (its YAML keys, indented), top (others), row, ids, labels}.
Conversations are rendered by transformers' apply_chat_template and masked by character offsets that are found
by rendering with markers in place of the contents. `templates`: {name, source (or built-in), messages, prompt, text}.
SHARED: the folder of reference data, for the cases of the story tokenizer and of published templates.
"""
import json, os, sys
from transformers import AutoTokenizer, PreTrainedTokenizerFast

here = os.path.dirname(os.path.abspath(__file__))
shared = sys.argv[1] if len(sys.argv) > 1 else None
tiny = AutoTokenizer.from_pretrained(os.path.join(here, "..", "data", "tiny-hf"))
# tokenizer.json as it is: transformers 5 rebuilds a LlamaTokenizer without its unknown tokens.
story = PreTrainedTokenizerFast(tokenizer_file=os.path.join(shared, "data/story/tokenizer.json"), bos_token="<|start_story|>",
                                eos_token="<|end_story|>") if shared else None
tokenizers = {"tiny": tiny, "story": story}

CHATML = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}" \
         "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
CHATML_SYSTEM = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou help, " \
                "plainly.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}" \
                "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
LLAMA3 = "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + " \
         "message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}" \
         "{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
ALPACA = "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' and loop.first %}{{ message['content'] }}" \
         "{% elif message['role'] == 'user' %}{{ '### Instruction:\n' + message['content'] }}{% elif message['role'] == 'assistant' %}" \
         "{{ '### Response:\n' + message['content'] + eos_token }}{% endif %}{% if not loop.last %}{{ '\n\n' }}{% endif %}{% endfor %}" \
         "{% if add_generation_prompt %}{{ '\n\n### Response:\n' }}{% endif %}"
STOPS = {"chatml": "<|im_end|>", "llama3": "<|eot_id|>", "alpaca": "<|im_end|>"}
SOURCES = {"chatml": CHATML, "llama3": LLAMA3, "alpaca": ALPACA}


def parts(name, segments):
    """Segments of (text, trained, with specials) tokenised apart; EOS behind the last."""
    t, ids, labels = tokenizers[name], [], []
    for text, trained, specials in segments:
        new = t(text, add_special_tokens=specials).input_ids
        ids += new
        labels += new if trained else [-100] * len(new)
    return ids, labels


def with_eos(name, encoded):
    ids, labels = encoded
    eos = tokenizers[name].eos_token_id
    return (ids, labels) if ids[-1] == eos else (ids + [eos], labels + [eos])


def render(t, source, messages, prompt=False):
    return t.apply_chat_template(messages, chat_template=source, tokenize=False, add_generation_prompt=prompt)


def chat(name, form, messages, trained, ends, source=None):
    """`trained`: numbers of the messages that train; `ends`: of those whose end of turn does."""
    t = tokenizers[name]
    source = source or SOURCES[form]
    text = render(t, source, messages)
    mask = [False] * len(text)
    at = 0
    for i, m in enumerate(messages):
        content = m["content"].strip() if form == "llama3" else m["content"]
        marked = [dict(x) for x in messages]
        marked[i]["content"] = "\u2603\u2603"
        at = render(t, source, marked).index("\u2603\u2603")
        end = at + len(content)
        assert text[at:end] == content
        for c in range(at, end):
            mask[c] |= i in trained
        if text[end:].startswith(STOPS[form]):
            for c in range(end, end + len(STOPS[form])):
                mask[c] |= i in ends
    e = t(text, add_special_tokens=False, return_offsets_mapping=True)
    labels = [i if any(mask[b:f]) else -100 for i, (b, f) in zip(e.input_ids, e.offset_mapping)]
    return e.input_ids, labels


WITH = "Below is an instruction that describes a task, paired with an input that provides further context. Write a response that appropriately completes the request."
NONE = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
INSTRUCT_I = WITH + "\n\n### Instruction:\nName a river.\n\n### Input:\nin France\n\n### Response:\n"
INSTRUCT_N = NONE + "\n\n### Instruction:\nName a river.\n\n### Response:\n"
row_i = {"instruction": "Name a river.", "input": "in France", "output": "The Loire."}
row_n = {"instruction": "Name a river.", "input": "", "output": "The Loire."}
cases = []


def case(name, recipe, row, encoded, tokenizer="tiny", template=None):
    if tokenizers[tokenizer]:
        lines = recipe.split("\n")
        top = "".join(x + "\n" for x in lines if x.startswith("train_on_inputs"))
        dataset = "".join("    " + x + "\n" for x in lines if not x.startswith("train_on_inputs"))
        cases.append(dict(name=name, tokenizer=tokenizer, template=template, dataset=dataset, top=top, row=row, ids=encoded[0], labels=encoded[1]))


def reply(name, prompt, output, inputs=False):
    new = tokenizers[name](output).input_ids
    if new and new[0] == tokenizers[name].bos_token_id:
        new = new[1:]
    ids, labels = parts(name, [(prompt, inputs, True)])
    return with_eos(name, (ids + new, labels + new))


for name in [n for n in tokenizers if tokenizers[n]]:
    case("alpaca with an input", "type: alpaca", row_i, reply(name, INSTRUCT_I, "The Loire."), name)
    case("alpaca without an input", "type: alpaca", row_n, reply(name, INSTRUCT_N, "The Loire."), name)
    case("completion", "type: completion", {"text": "Once upon a time"}, with_eos(name, parts(name, [("Once upon a time", True, True)])), name)
case("alpaca trains inputs", "type: alpaca\ntrain_on_inputs: true", row_i, reply("tiny", INSTRUCT_I, "The Loire.", True))
case("alpaca null input", "type: alpaca", {**row_n, "input": None}, reply("tiny", INSTRUCT_N, "The Loire."))
case("alpaca ends in eos already", "type: alpaca", {**row_n, "output": "The Loire.<|im_end|>"}, reply("tiny", INSTRUCT_N, "The Loire."))
case("alpaca chat", "type: alpaca:chat", row_i,
     reply("tiny", "SYSTEM: " + WITH + "\nUSER: Name a river.\nin France\nASSISTANT:", "The Loire."))
case("alpaca chat no input", "type: alpaca:chat", row_n, reply("tiny", "SYSTEM: " + NONE + "\nUSER: Name a river.\nASSISTANT:", "The Loire."))
case("alpaca chatml", "type: alpaca:chatml", row_i,
     reply("tiny", "<|im_start|>system\n" + WITH + "<|im_end|>\n<|im_start|>user\nName a river.\nin France<|im_end|>\n<|im_start|>assistant\n", "The Loire."))
case("alpaca phi", "type: alpaca:phi", row_n,
     reply("tiny", "<|system|>\n" + NONE + "<|end|>\n<|user|>\nName a river.<|end|>\n<|assistant|>\n", "The Loire."))
case("alpaca phi input", "type: alpaca:phi", row_i,
     reply("tiny", "<|system|>\n" + WITH + "<|end|>\n<|user|>\nName a river.<|end|>in France<|assistant|>", "The Loire."))
case("jeopardy", "type: jeopardy", {"question": "Name a river.", "category": "in France", "answer": "The Loire."},
     reply("tiny", INSTRUCT_I, "what is The Loire."))
case("alpaca with the row's system", "type: alpaca_w_system.load_open_orca",
     {"system_prompt": "Be kind.", "question": "Who?", "response": "Me."},
     reply("tiny", "### System:\nBe kind.\n### Human:\nWho?\n### Assistant:\n", "Me."))
case("explainchoice", "type: explainchoice", {"question": "Which?", "choices": ["a", "b"], "solution": "a"},
     reply("tiny", "Choose the answer that best answers the question. Explain your reasoning.\n\n\n### Instruction:\nWhich?\n\n### Input:\n"
           '- "a"\n- "b"\n\n### Response:\n', "a"))
mapping = "type:\n  field_instruction: q\n  field_input: c\n  field_output: a\n  format: \"[{{q}}] {instruction} ({input}) \"\n" \
          "  no_input_format: \"Q: {instruction} A: \"\n  system_format: \"S: {system}; \"\n  system_prompt: Be brief."
case("mapping with an input", mapping, {"q": "Why?", "c": "now", "a": "So."}, reply("tiny", "S: Be brief.; [{q}] Why? (now) ", "So."))
case("mapping without an input", mapping, {"q": "Why?", "a": "So.", "system": "Be long."}, reply("tiny", "S: Be long.; Q: Why? A: ", "So."))
case("completion by field", "type: completion\nfield: body", {"body": "caf\u00e9 \u2603 ok"}, with_eos("tiny", parts("tiny", [("caf\u00e9 \u2603 ok", True, False)])))
case("input_output", "type: input_output", {"segments": [{"label": False, "text": "<|im_start|>Hi"}, {"label": True, "text": " there<|im_end|>"}]},
     parts("tiny", [("<|im_start|>Hi", False, False), (" there<|im_end|>", True, False)]))

talk = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi \u2603!"}, {"role": "assistant", "content": " Hello\nyou. "},
        {"role": "user", "content": "Bye"}, {"role": "assistant", "content": "Until then, caf\u00e9."}]
row = {"messages": talk}
for form in SOURCES:
    case("chat " + form, "type: chat_template\nchat_template: " + form, row, chat("tiny", form, talk, {2, 4}, {2, 4}))
own = "type: chat_template"
case("chat by the model's own template", own, row, chat("tiny", "chatml", talk, {2, 4}, {2, 4}))
case("chat with a default system message", own, {"messages": talk[1:]}, chat("tiny", "chatml", talk[1:], {1, 3}, {1, 3}, CHATML_SYSTEM), template=CHATML_SYSTEM)
case("chat with llama3 of the model", own, row, chat("tiny", "llama3", talk, {2, 4}, {2, 4}), template=LLAMA3)
case("chat trains inputs", own + "\ntrain_on_inputs: true", row, chat("tiny", "chatml", talk, {0, 1, 2, 3, 4}, {0, 1, 2, 3, 4}))
case("chat roles_to_train", own + "\nroles_to_train: [user, gpt]", row, chat("tiny", "chatml", talk, {1, 2, 3, 4}, {1, 2, 3, 4}))
for ends, numbers in dict(all={0, 1, 2, 3, 4}, last={4}, none=set()).items():
    case("chat train_on_eos " + ends, own + "\ntrain_on_eos: " + ends, row, chat("tiny", "chatml", talk, {2, 4}, numbers))
case("chat train_on_eot", "type: chat_template\nchat_template: llama3\ntrain_on_eot: none", row, chat("tiny", "llama3", talk, {2, 4}, set()))
case("chat mapped", own + "\nfield_messages: conversations\nmessage_property_mappings: {role: from, content: value}",
     {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}], "system": "Be kind."},
     chat("tiny", "chatml", [talk[0], {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}], {2}, {2}))
case("chat roles", own + "\nroles: {assistant: [bot, ai], user: [me]}", {"messages": [{"role": "me", "content": "Hi"}, {"role": "ai", "content": "Yo"}]},
     chat("tiny", "chatml", [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}], {1}, {1}))
case("chat drops the system message", own + "\ndrop_system_message: true", row, chat("tiny", "chatml", talk[1:], {1, 3}, {1, 3}))
case("chat by message flags", own + "\nroles_to_train: []\nmessage_field_training: train",
     {"messages": [{**m, "train": i == 4} for i, m in enumerate(talk)]}, chat("tiny", "chatml", talk, {4}, {4}))

# ---- Tools, thoughts and generation blocks, by the built-in templates. What a model has to write is what follows the header of its
# turn, up to the end of that.

def builtin(form):
    return open(os.path.join(here, "..", "..", "data", "template", "builtin", form + ".jinja")).read()


def by_header(form, messages, trained, tools=None, source=None, opened=""):
    """`opened`: what the template's prompt holds behind the header where a reply begins with a thought."""
    header, stop = TURNS[form]
    text = tiny.apply_chat_template(messages, chat_template=source or builtin(form), tokenize=False, tools=tools)
    mask, at = [False] * len(text), 0
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        begin = at = text.index(header, at) + len(header)
        if message.get("reasoning_content"):
            assert text[begin:].startswith(opened)
            begin += len(opened)
        if not (message.get("tool_calls") or message.get("reasoning_content")):
            whole = text.find(message["content"], begin)
            begin = whole if whole >= 0 else text.index(message["content"].strip(), begin)
        at = text.index(stop, begin) + len(stop)
        if i in trained:
            mask[begin:at] = [True] * (at - begin)
    e = tiny(text, add_special_tokens=False, return_offsets_mapping=True)
    return e.input_ids, [i if any(mask[b:f]) else -100 for i, (b, f) in zip(e.input_ids, e.offset_mapping)]


def copy(value):
    return json.loads(json.dumps(value))


tools = [{"type": "function", "function": {"name": "weather", "description": "The weather of a place.", "parameters": {
    "type": "object", "properties": {"place": {"type": "string", "description": "caf\u00e9 <b>\"x\"</b>"}}, "required": ["place"]}}}]
called = [{"role": "user", "content": "Weather in \u00c5s?"},
          {"role": "assistant", "content": "", "tool_calls": [{"id": "call12345", "type": "function", "function": {
              "name": "weather", "arguments": {"place": "\u00c5s \"now\"", "days": 2}}}]},
          {"role": "tool", "name": "weather", "tool_call_id": "call12345", "content": "{\"rain\": true}"},
          {"role": "assistant", "content": "It rains."}]
spoken = copy(called)
spoken[1]["content"] = "Let me look."
twice = copy(called)
twice[1]["tool_calls"].append(copy(twice[1]["tool_calls"][0]))
twice[1]["tool_calls"][1]["id"] = "call12346"
as_text = copy(called)
as_text[1]["tool_calls"][0]["function"]["arguments"] = json.dumps(called[1]["tool_calls"][0]["function"]["arguments"])
TURNS = dict(qwen_25=("<|im_start|>assistant\n", "<|im_end|>"), gemma=("<start_of_turn>model\n", "<end_of_turn>"),
             phi_4=("<|im_start|>assistant<|im_sep|>", "<|im_end|>"))
TURNS.update(qwen3=TURNS["qwen_25"], gemma3=TURNS["gemma"])
for form in ("qwen_25", "qwen3"):
    for label, messages in dict(a_call=called, words_and_a_call=spoken, two_calls=twice).items():
        case(f"{form} trains {label}", f"type: chat_template\nchat_template: {form}", {"messages": messages, "tools": tools},
             by_header(form, messages, {1, 3}, tools))
    case(f"{form} takes arguments as text", f"type: chat_template\nchat_template: {form}", {"messages": as_text, "tools": json.dumps(tools)},
         by_header(form, called, {1, 3}, tools))
thought = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "reasoning_content": "It is four.\nYes.", "content": "4"}]
case("qwen3 trains thoughts", "type: chat_template\nchat_template: qwen3", {"messages": thought}, by_header("qwen3", thought, {1}, opened="<think>\n"))
case("qwen3 splits thoughts", "type: chat_template\nchat_template: qwen3\nsplit_thinking: true",
     {"messages": [thought[0], {"role": "assistant", "content": "<think>\nIt is four.\nYes.\n</think>\n\n4"}]}, by_header("qwen3", thought, {1}, opened="<think>\n"))
case("qwen3 takes thoughts from a field", "type: chat_template\nchat_template: qwen3\nfield_thinking: why",
     {"messages": [thought[0], {"role": "assistant", "why": "It is four.\nYes.", "content": "4"}]}, by_header("qwen3", thought, {1}, opened="<think>\n"))
case("qwen3 leaves the empty thought untrained", "type: chat_template\nchat_template: qwen3", {"messages": [thought[0], {"role": "assistant", "content": "4"}]},
     by_header("qwen3", [thought[0], {"role": "assistant", "content": "4"}], {1}))
THOUGHTS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n{% endif %}" \
           "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
case("the marks of thoughts train where the prompt does not hold them", own, {"messages": thought},
     by_header("qwen3", thought, {1}, source=THOUGHTS), template=THOUGHTS)
plain = [m for m in talk if m["role"] != "system"]
for form in ("gemma", "gemma3", "phi_4"):
    case(f"chat {form}", f"type: chat_template\nchat_template: {form}", {"messages": plain}, by_header(form, plain, {1, 3}))
GENERATION = "{% for message in messages %}<|im_start|>{{ message.role }}\n{% if message.role == 'assistant' %}{% generation %}{{ message.content }}" \
             "<|im_end|>\n{% endgeneration %}{% else %}{{ message.content }}<|im_end|>\n{% endif %}{% endfor %}"
blocks = tiny.apply_chat_template(talk, chat_template=GENERATION, return_dict=True, return_assistant_tokens_mask=True)
case("chat by generation blocks", own, row, (list(blocks["input_ids"]), [i if m else -100 for i, m in zip(blocks["input_ids"], blocks["assistant_masks"])]),
     template=GENERATION)

templates = []
conversations = [talk, talk[1:], [talk[1]], [{"role": "user", "content": "  spaced\u00a0 \n"}, {"role": "assistant", "content": "\n\nyes\t"}]]
published = {"Qwen2.5": "Qwen-Qwen2.5-7B-Instruct.jinja"} if shared else {}
sources = {"chatml": CHATML, "llama3": LLAMA3, "alpaca": ALPACA, "chatml with a system message": CHATML_SYSTEM}
for name, file in published.items():
    sources[name] = open(os.path.join(shared, "data/templates", file)).read()
for name, source in sources.items():
    for messages in conversations:
        for prompt in (False, True):
            templates.append(dict(name=name, shared="data/templates/" + published[name] if name in published else None,
                                  source=None if name in published or name == "alpaca" else source, messages=messages, prompt=prompt,
                                  text=render(tiny, source, messages, prompt)))
out = os.path.join(here, "..", "data", "prompts", "golden.json")
lines = {key: ",\n".join(json.dumps(item) for item in items) for key, items in dict(cases=cases, templates=templates).items()}
open(out, "w").write('{"cases": [\n%(cases)s\n], "templates": [\n%(templates)s\n]}\n' % lines)
print(len(cases), "cases,", len(templates), "renderings,", os.path.getsize(out), "bytes")
