#!/usr/bin/env python3
"""Writes tests/data/prompts/golden.json: what rows must become, computed with transformers and without this project.

    python tests/tools/make_prompt_golden.py [SHARED]      (pip install transformers pyyaml)

A case: {name, tokenizer: "tiny" | "story", template (or null), dataset (its YAML keys, indented), top (others), row, ids, labels}.
Conversations are rendered by transformers' apply_chat_template and masked by character offsets that are found
by rendering with markers in place of the contents. `templates`: {name, source (or built-in), messages, prompt, text}.
SHARED: the folder of reference data, for the cases of the story tokenizer and of published templates.
"""
import json, os, sys
import yaml
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
        of_top = [x.startswith(("train_on_inputs", "sequence_len")) for x in lines]
        top = "".join(x + "\n" for x, is_top in zip(lines, of_top) if is_top)
        dataset = "".join("    " + x + "\n" for x, is_top in zip(lines, of_top) if not is_top)
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

# ---- Every other variant of the Alpaca family. Sentences end as the style says, or in line ends of their own.
CHATTY = "Below is an instruction from a USER that describes a task"
CONCISE_I = CHATTY + ", paired with an input that provides further context. The ASSISTANT writes a response that concisely and appropriately completes the request.\n\n"
CONCISE_N = CHATTY + ". The ASSISTANT writes a response that appropriately and concisely completes the request.\n\n"
CHAT_I, CHAT_N = "USER: Name a river.\nin France\nASSISTANT:", "USER: Name a river.\nASSISTANT:"
TURN_I = "### Instruction:\nName a river.\n\n### Input:\nin France\n\n### Response:\n"
TURN_N = "### Instruction:\nName a river.\n\n### Response:\n"
for label, kind, row, prompt in [
    ("chat by its module", "alpaca_chat", row_i, "SYSTEM: " + WITH + "\n" + CHAT_I),
    ("chat, concise", "alpaca_chat.load_concise", row_i, "SYSTEM: " + CONCISE_I + "\n" + CHAT_I),
    ("chat, concise, no input", "alpaca_chat.load_concise", row_n, "SYSTEM: " + CONCISE_N + "\n" + CHAT_N),
    ("chat without sentences", "alpaca_chat.load_no_prompt", row_i, CHAT_I),
    ("chat of questions", "alpaca_chat.load_qa", {"question": "Name a river.", "answer": "The Loire."}, "SYSTEM: " + CONCISE_N + "\n" + CHAT_N),
    ("chat of camel", "alpaca_chat.load_camel_ai", {"message_1": "Name a river.", "message_2": "The Loire."}, "SYSTEM: " + CONCISE_N + "\n" + CHAT_N),
    ("instruct by its module", "alpaca_instruct", row_i, INSTRUCT_I),
    ("instruct without sentences", "alpaca_instruct.load_no_prompt", row_n, TURN_N),
    ("chat with the row's system", "alpaca_w_system", {**row_i, "system": "Be kind."}, "SYSTEM: Be kind.\n" + CHAT_I),
    ("chat with an empty system", "alpaca_w_system.load_chat", {**row_i, "system": ""}, CHAT_I),
    ("instruct with the row's system", "alpaca_w_system.load_instruct", {**row_n, "system": "Be kind."}, "Be kind.\n\n" + TURN_N),
    ("orca in chatml", "alpaca_w_system.load_open_orca_chatml", {"system_prompt": "Be kind.", "question": "Name a river.", "response": "The Loire."},
     "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nName a river.<|im_end|>\n<|im_start|>assistant\n"),
    ("oasst", "oasst", {"INSTRUCTION": "Name a river.", "RESPONSE": "The Loire."}, INSTRUCT_N),
    ("gpteacher", "gpteacher", {"instruction": "Name a river.", "input": "in France", "response": "The Loire."}, INSTRUCT_I),
    ("gpteacher in chat", "gpteacher:chat", {"instruction": "Name a river.", "response": "The Loire."}, "SYSTEM: " + NONE + "\n" + CHAT_N),
    ("summarizetldr", "summarizetldr", {"article": "A river.\n\nIt is long.", "summary": "The Loire."},
     "USER: Summarize the following article as a TL;DR.\nA river.\n\nIt is long.\nASSISTANT:"),
    ("concisechoice", "concisechoice", {"question": "Which?", "choices": ["a", 7, False], "explanation": "The Loire."},
     "Choose the answer that best answers the question. Be concise in your response.\n\nUSER: Which?\n- \"a\"\n- \"7\"\n- \"False\"\nASSISTANT:"),
    ("explainchoice in chat, no choices", "explainchoice:chat", {"question": "Which?", "choices": [], "explanation": "The Loire."},
     "SYSTEM: Choose the answer that best answers the question. Explain your reasoning.\n\nUSER: Which?\nASSISTANT:"),
    ("context_qa", "context_qa", {"article": "A river.\nLong.", "question": "Which?", "answer": "The Loire."},
     "SYSTEM: Use the following contextual information to concisely answer the question.\n\nUSER: A river.\nLong.\n===\nWhich?\nASSISTANT:"),
    ("orcamini", "orcamini", {"system_prompt": "Be kind.", "question": "Name a river.", "response": "The Loire."},
     "### System:\nBe kind.\n\n### User:\nName a river.\n\n### Response:\n"),
    ("orcamini with an empty system", "orcamini", {"system_prompt": "", "question": "Name a river.", "response": "The Loire."},
     "### System:\n\n\n### User:\nName a river.\n\n### Response:\n"),
    ("creative answer", "creative_acr.load_answer", {"instruction": "Name a river.", "answer": "No.", "revision": "The Loire."},
     "Answer the following question in a comprehensive, in-depth, and creative way. Additionally your response should be relevant, accurate, "
     "and free of any ambiguity.\nUSER: Name a river.\nASSISTANT:"),
]:
    for name in ("tiny", "story"):
        if tokenizers[name]:
            case(label, "type: " + kind, row, reply(name, prompt, "The Loire."), name)
case("context_qa without an answer", "type: context_qa.load_404", {"article": "A river.", "unanswerable_question": "Which?"},
     reply("tiny", "SYSTEM: Use the following contextual information to concisely answer the question.\n\nUSER: A river.\n===\nWhich?\nASSISTANT:",
           "The context provided does not contain any information about your inquiry. Therefore, I'm unable to answer your question based on the given context."))
case("context_qa, version 2", "type: context_qa.load_v2", {"context": "A river.", "question": "Which?", "answer": "The Loire."},
     reply("tiny", "Context: A river.\nQuestion: Which?\n", "Answer: The Loire."))
case("jeopardy in chatml", "type: jeopardy:chatml", {"question": "Name a river.", "category": "in France", "answer": "it"},
     reply("tiny", "<|im_start|>system\n" + WITH + "<|im_end|>\n<|im_start|>user\nName a river.\nin France<|im_end|>\n<|im_start|>assistant\n", "what is it"))

# Values that are no text are written as str() writes them.
for value in (42, -7, 1.5, 42.0, 1e20, 1e-05, 0.1, 1234567890123456.0, 1e16, True, False):
    case(f"an output of {value!r}", "type: alpaca", {"instruction": value, "input": value, "output": value},
         reply("tiny", WITH + f"\n\n### Instruction:\n{value}\n\n### Input:\n{value}\n\n### Response:\n", str(value)))
case("completion of a number", "type: completion", {"text": 3.0}, with_eos("tiny", parts("tiny", [("3.0", True, True)])))
case("input_output with labels as numbers", "type: input_output", {"segments": [{"label": 0, "text": "Hi"}, {"label": 1, "text": 7}]},
     parts("tiny", [("Hi", False, False), ("7", True, False)]))
lines = "First line.\n\n\tSecond \u2603 line.\r\n  Third.\n"
case("texts of several lines", "type: alpaca_instruct.load_no_prompt", {"instruction": lines, "input": lines, "output": lines},
     reply("tiny", f"### Instruction:\n{lines}\n\n### Input:\n{lines}\n\n### Response:\n", lines))
case("mapping by its defaults", "type:\n  field_output: answer", {"instruction": "Why?", "input": "now", "answer": "So."}, reply("tiny", "Why? now ", "So."))
case("mapping by its defaults, no input", "type:\n  field_output: answer", {"instruction": "Why?", "answer": 42}, reply("tiny", "Why? ", "42"))
case("mapping whose row wants no system", mapping, {"q": "Why?", "a": "So.", "system": ""}, reply("tiny", "Q: Why? A: ", "So."))
case("mapping without an output", mapping + "\ntrain_on_inputs: true", {"q": "Why?"}, parts("tiny", [("S: Be brief.; Q: Why? A: ", True, True)]))


def closed(name, encoded, count):
    """Closed by so many EOS in all."""
    ids, labels = encoded
    eos = [tokenizers[name].eos_token_id] * (count - 1)
    return ids + eos, labels + eos


row = {"prompt": "<|user|>Name a river.<|model|>", "generation": "The Loire."}
for name in ("tiny", "story"):
    if tokenizers[name]:
        case("metharme", "type: metharme", row, closed(name, reply(name, row["prompt"], "The Loire."), 3), name)
case("metharme that ends in eos", "type: metharme", {**row, "generation": "The Loire.<|im_end|>"}, closed("tiny", reply("tiny", row["prompt"], "The Loire."), 3))


def masked(name, prompt, text, specials=True, end=True):
    """A text tokenised whole, masked for as many tokens as its beginning has alone."""
    t = tokenizers[name]
    ids, count = t(text, add_special_tokens=specials).input_ids, len(t(prompt, add_special_tokens=specials).input_ids)
    labels = [-100] * count + ids[count:]
    return with_eos(name, (ids, labels)) if end else (ids, labels)


REFLECT = " You, the Assistant, should generate a response as if it were an abstract for an academic or technical paper on the query along with a " \
          "methodology. Then generate an Agent Reflection where you create a long form response as if from subject matter expert, be verbose, diligent, " \
          "and creative in your application of knowledge, apply it through the lens of the response generated by the assistant. Look for flawed reasoning, " \
          "faulty logic, or other mistakes in the method. Finally, generate a final response and method for the user with the Assistant abstract and " \
          "Reflection analysis as augmentations to the generation\n\n"
REFLECT_I = "Below is an instruction that describes a task, paired with an input that provides further context." + REFLECT
REFLECT_N = "Below is an instruction that describes a task." + REFLECT
thoughts = {"output": "A river.", "reflection": "Which?\nOne.", "corrected": "The Loire."}
whole = "### Thought:\nA river.\n\n### Agent Reflection:\nWhich?\nOne.\n\n### Final Response:\nThe Loire."
for kind, row, prompt in [("reflection", row_i, TURN_I), ("reflection", row_n, TURN_N), ("reflection:instruct", row_i, REFLECT_I + TURN_I),
                          ("reflection:instruct", row_n, REFLECT_N + TURN_N), ("reflection:chatml", row_n, TURN_N)]:
    for name in ("tiny", "story"):
        if tokenizers[name]:
            case(kind, "type: " + kind, {**row, **thoughts}, masked(name, prompt, prompt + whole), name)
case("reflection trains inputs", "type: reflection\ntrain_on_inputs: true", {**row_n, **thoughts}, with_eos("tiny", parts("tiny", [(TURN_N + whole, True, True)])))


def pygmalion(name, turns):
    """Turns of (text behind its marker, marker)."""
    ids, labels, t = [], [], tokenizers[name]
    for text, marker in turns:
        if marker == "<|model|>":
            new = masked(name, marker, marker + text, False)
        else:
            new = parts(name, [(marker + text, False, marker == "<|system|>")])
        ids, labels = ids + new[0], labels + new[1]
    return ids, labels


row = {"conversations": [{"role": "system", "value": " A \u2603 poet.\u3000\n<START>"}, {"role": "human", "value": "\n Hi\u00a0 \u00e9 you \t"},
                         {"role": "bot", "value": "  Hello. "}, {"role": "human", "value": "Bye"}, {"role": "bot", "value": ""}]}
turns = [("Persona: A \u2603 poet.", "<|system|>"), (" Hi\u00a0 \u00e9 you", "<|user|>"), (" Hello.", "<|model|>"), (" Bye", "<|user|>"), (" ", "<|model|>")]
for name in ("tiny", "story"):
    if tokenizers[name]:
        case("pygmalion", "type: pygmalion", row, pygmalion(name, turns), name)


def by_weight(name, messages):
    """Messages of (weight, [(text, trained), ...]): a part's tokens are those that it adds to the tokens of the text before."""
    ids, labels, t = [], [], tokenizers[name]
    for weight, contents in messages:
        text, flags = "", []
        for part, trained in contents:
            text += part
            new = t(text, add_special_tokens=False).input_ids
            flags += [bool(trained and weight)] * (len(new) - len(flags))
        ids += new
        labels += [i if f else -100 for i, f in zip(new, flags)]
    return ids, labels


def chatml_parts(role, *contents):
    return [(f"<|im_start|>{role}\n", False), *contents, ("<|im_end|>", True), ("\n", False)]


def llama3_parts(role, *contents, begin=()):
    return [*begin, (f"<|start_header_id|>{role}<|end_header_id|>\n\n", False), *contents, ("<|eot_id|>", True)]


row = {"messages": [{"role": "system", "content": "Be kind."}, {"role": "human", "content": "Hi \u2603!"}, {"role": "gpt", "content": " Hello\nyou. "}]}
for name in ("tiny", "story"):
    if tokenizers[name]:
        case("messages in chatml", "type: messages.chat", row, by_weight(name, [
            (0, chatml_parts("system", ("Be kind.", True))), (0, chatml_parts("user", ("Hi \u2603!", True))), (1, chatml_parts("assistant", (" Hello\nyou. ", True)))]), name)
case("messages in llama3", "type: messages.chat\nchat_template: llama3", {"messages": row["messages"] + [{"role": "tool", "content": "7"}]}, by_weight("tiny", [
    (0, llama3_parts("system", ("Be kind.", True), begin=[("<|begin_of_text|>", False)])), (0, llama3_parts("user", ("Hi \u2603!", True))),
    (1, llama3_parts("assistant", (" Hello\nyou. ", True))), (0, llama3_parts("ipython", ("7", True)))]))
case("messages by weight", "type: messages.chat\nfield_messages: turns",
     {"turns": [{"from": "user", "value": "Hi", "weight": 1}, {"from": "assistant", "value": "Yo", "weight": 0}, {"from": "assistant", "value": "Well.", "weight": 2.5},
                {"from": "assistant", "value": "Half.", "weight": 0.5}, {"from": "ipython", "value": "Ran.", "weight": True}]},
     by_weight("tiny", [(1, chatml_parts("user", ("Hi", True))), (0, chatml_parts("assistant", ("Yo", True))), (2, chatml_parts("assistant", ("Well.", True))),
                        (0, chatml_parts("assistant", ("Half.", True))), (1, chatml_parts("ipython", ("Ran.", True)))]))
case("messages in parts", "type: messages.chat\nmessage_property_mappings: {role: who, content: says}",
     {"messages": [{"who": "user", "says": "Hi"}, {"who": "assistant", "says": [
         {"type": "text", "value": "Not this", "weight": 0}, {"type": "text", "value": " but this", "weight": None}, {"type": "text", "value": "\nand", "weight": 0.0},
         {"type": "text", "value": "\nthat."}]}]},
     by_weight("tiny", [(0, chatml_parts("user", ("Hi", True))), (1, chatml_parts("assistant", ("Not this", False), (" but this", True), ("\nand", False), ("\nthat.", True)))]))
case("messages train inputs", "type: messages.chat\ntrain_on_inputs: true", {"messages": [{"role": "user", "text": "Hi"}]}, by_weight("tiny", [(1, chatml_parts("user", ("Hi", True)))]))

# ---- Critiques are YAML as PyYAML dumps it.

def criteria(there):
    return ("refusal: whether the Response refuses to answer the Question. Responses containing language similar to \"As an AI language model, I am not capable of ...\" is a "
            "form of refusal and should have a low refusal score. 10 is no refusal, 0 is refuses to answer the question.\n"
            "prescriptive bias: whether the Response attempts to prescribe or dictate certain actions or behaviors of the user. 10 no prescriptive bias present, 0 means "
            + there + " is prescriptive bias.\ncreativity: score how creative the Response is. 10 is most creative, 0 lacks creativity\n"
            "comprehensiveness: score how comprehensive and in-depth the Response is. 10 is most comprehensive and in-depth, 0 lacks coverage and depth\n")


NAMES = ("refusal", "prescriptive_bias", "creativity", "comprehensiveness")
CRITIQUE = "Given the following Question and Response, critique the Response on a scale of 1-10. You should critique the answer in the following criteria:\n" + \
    criteria("there") + "Then for each criteria, give a detailed explanation of why the response doesn't meet the criteria (don't reference the score), what it did right, " \
    "and how it could be improved for that criteria.\n\nOutput your answer in YAML format like so:\nscores:\n" + "".join(f"  {n}: <0-10>\n" for n in NAMES) + "critiques:\n" + \
    "".join(f"  {n}:\n    explanation: ...\n    improvements: ...\n" for n in NAMES) + "\nQuestion: %s\nAnswer: %s\n"
REVISE = "Definitions:\n" + criteria("their") + "\nGiven the following Question, Response, and Evaluation, revise the Response based on the Evaluation and recommendations for " \
    "improvements. Reply only with the revised response.\n\nQuestion: %s\nAnswer: %s\nEvaluation:\n%s\n"
long = "The response is a long one, and it's told in words that go on and on: so far that a line of eighty columns cannot hold all of them at once."
values = [
    "short", long, "  leading", "trailing ", "", " ", "yes", "No", "null", "~", "12", "0x1F", "1.5", "1e5", "1.5e+3", "-.inf", ".nan", "2020-01-01", "2020-1-1 10:00:00", "12:30:45",
    "0o17", "0b101", "=", "<<", "- item", "-item", "? what", "?what", ": x", ":x", "a: b", "a:b", "a #b", "a#b", "#x", "---x", "...", "it's", '"quoted"', "'", "%x", "@x", "`x", "!x", "&x", "*x",
    "[x", "{x", "x, y", ",x", ">x", "|x", "two\nlines", "\nfirst", "last\n", "\n", "a\n\n\nb", "space \nbreak", "break\n space", "tab\there", "caf\u00e9", "\u2603 " * 40, long + " \u00e9 " + long,
    long.replace(" ", "  "), long.replace(" ", "   \u00e9"), long + "\n" + long, long.replace(",", ",\n"), "it's " * 40, '"' * 100, "\\" * 90, "x" * 200, ("x" * 79 + " ") * 3, ("\u00e9" * 20 + "y ") * 6,
    "\x00\x07\x08\x0b\x0c\r\x1b\x7f\x85\xa0\u2028\u2029\ufeff\U0001f600", "a\r\nb", "_1", "1_000", "+1", "+", "-", ".", "..", "0", "00", "08", "1:2", "1,000", "y", "on", "Off", "TRUE", "x" * 80 + " y z",
    "x" * 81 + " y z " + "w" * 80 + " v", "a" + " " * 90 + "b c", "\u00e9" + " " * 90 + "b c", "a b\u00e9 " * 30, 0, -3, 7.0, 1e20, 1.5e-7, True, False, None, [], {}, [1, "two", [3, ["x"]], {"a": 1, "b": [2]}, {}, long],
    {"z": 1, "a": {"m": [], "b": {"deep": [{"x": 1, "y": {"z": [long]}}]}}}, "word " * 17 + "\t" + "word " * 20,
]
critiques = {f"key {i:03d}": value for i, value in enumerate(values)}
critiques.update({"yes": 1, "1": 2, "caf\u00e9": 3, "it's": 4, "a: b": 5, "Z": 6, "-": 7, " x": 8, "k" * 122: long, "two words " * 12: 9})
plain = {n: {"explanation": long, "improvements": "None: it's \"good\"."} for n in NAMES}
for label, scores, texts in (("as they are", dict(refusal=10, prescriptive_bias=9, creativity=4.5, comprehensiveness=7), plain), ("of every kind", {}, critiques)):
    dump = yaml.dump(scores, default_flow_style=False) + yaml.dump(texts, default_flow_style=False)
    row = {"instruction": "Name a {river}.", "answer": "No.", "scores": scores, "critiques": texts, "revision": "The Loire."}
    case("creative critique, values " + label, "type: creative_acr.load_critique\nsequence_len: 40000", row, reply("tiny", "USER: " + CRITIQUE % ("Name a {river}.", "No.") + "\nASSISTANT:", dump))
    if texts is plain:
        case("creative revision", "type: creative_acr.load_revise", row, reply("tiny", "USER: " + REVISE % ("Name a {river}.", "No.", dump) + "\nASSISTANT:", "The Loire."))

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
