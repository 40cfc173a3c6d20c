#!/usr/bin/env python3
"""Writes tests/data/prompts/preference.json: the tokens that Axolotl's strategies and TRL's trainers make of preference rows.

    python tests/tools/make_preference_rows.py AXOLOTL
                        (pip install trl==1.16.0 transformers datasets; pip download --no-deps axolotl==0.18.0)

AXOLOTL: the folder that holds the package `axolotl`, unpacked; its strategies are run from their own files, and what those import of
the rest of the package stands below. Texts become tokens by TRL's own trainers: DPOTrainer, KTOTrainer, and ORPOTrainer.
A case: {name, tokenizer: a folder of tests/data, rl, dataset (YAML keys, indented), row, prompt, replies: one or two lists of ids,
undesirable}. `versions` says with which libraries.
"""
import copy, importlib.util, json, os, sys, types
import datasets, transformers, trl
from transformers import AutoTokenizer
from trl import DPOTrainer, KTOTrainer
from trl.experimental.orpo import ORPOTrainer

datasets.disable_progress_bars()
here = os.path.dirname(os.path.abspath(__file__))
package = os.path.join(sys.argv[1], "axolotl")
tokenizers = {name: AutoTokenizer.from_pretrained(os.path.join(here, "..", "data", name)) for name in ("tiny-hf", "tiny-spm-json")}
cases = []

# ---- Axolotl's strategies

class Any:
    def __init__(self, *args, **kwargs):
        pass


def stand_in(name, **values):
    module = types.ModuleType(name)
    module.__dict__.update(values)
    sys.modules[name] = module


def own_or_given(user_choice=None, jinja_template=None, tokenizer=None):
    return jinja_template or tokenizer.chat_template


for name in ("axolotl", "axolotl.utils", "axolotl.utils.schemas"):
    stand_in(name)
stand_in("axolotl.utils.chat_templates", extract_chat_template_args=lambda cfg, ds_cfg=None: (None, cfg.get("template")), get_chat_template=own_or_given,
         get_chat_template_from_config=lambda cfg, ds_cfg=None, tokenizer=None: own_or_given(None, cfg.get("template"), tokenizer))
stand_in("axolotl.utils.schemas.utils", handle_legacy_message_fields_logic=lambda cfg: cfg)
stand_in("axolotl.prompt_tokenizers", IGNORE_INDEX=-100, PromptTokenizingStrategy=Any)
stand_in("axolotl.prompters", Prompter=Any)


def strategy(folder, module, function, dataset, template):
    path = os.path.join(package, "prompt_strategies", folder, module + ".py")
    spec = importlib.util.spec_from_file_location(folder + "_" + module, path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    transform = getattr(loaded, function)({"datasets": [dataset], "template": template}, dataset_idx=0)
    return transform[0] if isinstance(transform, tuple) else transform


def transformed(rl, type_, dataset, template, tokenizer, row):
    """The texts of a row by its type; a row without one is what TRL takes."""
    if type_ is None:
        return row
    folder = rl if rl in ("orpo", "kto") else "dpo"
    module, function = ("user_defined", "default") if isinstance(type_, dict) else (type_.split(".") + ["default"])[:2]
    transform = strategy(folder, module, function, dataset, template)
    takes_tokenizer = "tokenizer" in transform.__code__.co_varnames[:transform.__code__.co_argcount]
    row = copy.deepcopy(row)
    return transform(row, tokenizer=tokenizer) if takes_tokenizer else transform(row)


# ---- TRL's tokens

def once(ids, bos):
    """Axolotl drops a BOS that the tokenizer puts before one of the template's own."""
    return ids[1:] if len(ids) > 1 and bos is not None and ids[0] == ids[1] == bos else ids


def tokens(rl, tokenizer, row):
    args = types.SimpleNamespace(dataset_num_proc=None, max_length=None, truncation_mode="keep_start", per_device_train_batch_size=1)
    if rl == "orpo":
        me = types.SimpleNamespace(is_encoder_decoder=False, processing_class=tokenizer, max_length=100000)
        me.build_tokenized_answer = lambda prompt, answer: ORPOTrainer.build_tokenized_answer(me, prompt, answer)
        made = ORPOTrainer.tokenize_row(me, row)
        prompt = made["prompt_input_ids"]
        replies = [made[which + "_input_ids"] for which in ("chosen", "rejected")]
        assert all(ids[:len(prompt)] == prompt for ids in replies)
        return prompt, [ids[len(prompt):] for ids in replies]
    rows = datasets.Dataset.from_list([row])
    bos = tokenizer.bos_token_id
    if rl == "kto":
        me = types.SimpleNamespace(_tokenizer=tokenizer, calculate_KL=False, undesirable_weight=1.0, desirable_weight=1.0)
        made = KTOTrainer._prepare_dataset(me, rows, tokenizer, args, "other")[0]
        return once(made["prompt_ids"], bos), [made["completion_ids"]]
    made = DPOTrainer._prepare_dataset(types.SimpleNamespace(_tokenizer=tokenizer), rows, tokenizer, args, "train")[0]
    return once(made["prompt_ids"], bos), [made["chosen_ids"], made["rejected_ids"]]


def yaml_of(value):
    return json.dumps(value)


def builtin(name):
    return open(os.path.join(here, "..", "..", "data", "template", "builtin", name + ".jinja")).read()


def case(name, rl, type_, row, dataset={}, form=None, tokenizer="tiny-hf", ours=None):
    """`form`: a built-in chat template; `ours`: the type by another name, where the recipe has one."""
    t = copy.deepcopy(tokenizers[tokenizer])
    template = builtin(form) if form else None
    if template:
        t.chat_template = template
    texts = transformed(rl, type_, {**dataset, "type": type_}, template, t, row)
    label = texts.get("label")
    kept = {k: texts[k] for k in ("prompt", "chosen", "rejected", "completion", "label") if k in texts}
    prompt, replies = tokens(rl, t, kept)
    lines = {**dataset, "chat_template": form} if form else dict(dataset)
    if ours or type_ is not None:
        lines["type"] = ours or type_
    cases.append(dict(name=name, tokenizer=tokenizer, rl=rl, dataset="".join(f"    {k}: {yaml_of(v)}\n" for k, v in lines.items()),
                      row=row, prompt=list(prompt), replies=[list(r) for r in replies], undesirable=rl == "kto" and not label))


# ---- Texts

question, good, bad = "Name a river caf\u00e9.", "The Loire.", "A lake \u2603\n"
CHAT = [{"role": "user", "content": question}, {"role": "assistant", "content": good}]
WORSE = [{"role": "user", "content": question}, {"role": "assistant", "content": bad}]
PAIRS = {
    "default": [{"prompt": question, "chosen": good, "rejected": bad}, {"input": question, "chosen_response": good, "rejected_response": bad},
                {"question": question, "chosen": good, "rejected": bad, "system": ""}, {"instruction": question, "chosen": good, "rejected": bad, "system": "Be kind."}],
    "argilla_chat": [{"chosen": CHAT, "rejected": WORSE, "system": "Be kind."}],
    "icr": [{"input": question, "chosen": good, "rejected": bad}, {"input": question, "chosen": good, "rejected": bad, "system": "Be kind."}],
    "intel": [{"question": question, "chosen": good, "rejected": bad, "system": "Be kind."}],
    "prompt_pairs": [{"prompt": question, "chosen": good, "rejected": bad, "system": "Be kind."}],
    "ultra": [{"prompt": question, "chosen": CHAT, "rejected": WORSE, "system": "Be kind."}],
}
SINGLES = {
    "argilla": [{"instruction": question, "completion": good, "label": True}, {"instruction": question, "completion": bad, "label": False, "system": "Be kind."}],
    "argilla_chat": [{"completion": CHAT, "label": False}],
    "intel": [{"question": question, "completion": good, "label": True, "system": "Be kind."}],
    "prompt_pairs": [{"prompt": question, "completion": good, "label": False, "system": "Be kind."}],
    "ultra": [{"prompt": question, "completion": good, "label": True}],
}
for style in ("chatml", "llama3"):
    for variant, rows in PAIRS.items():
        for i, row in enumerate(rows):
            case(f"{style}.{variant} {i}", "dpo", f"{style}.{variant}", row)
    for variant, rows in SINGLES.items():
        for i, row in enumerate(rows):
            case(f"kto {style}.{variant} {i}", "kto", f"{style}.{variant}", row)
case("chatml alone is its default", "ipo", "chatml", PAIRS["default"][0])
case("chatml of simpo", "simpo", "chatml.intel", PAIRS["intel"][0])
for name in ("tiny-hf", "tiny-spm-json"):
    case(f"chatml.intel with {name}", "dpo", "chatml.intel", PAIRS["intel"][0], tokenizer=name)
    case(f"passthrough with {name}", "dpo", "passthrough", {"prompt": question, "chosen": " " + good, "rejected": bad}, tokenizer=name)
    # Tokens melt over the border: the prompt is shorter than alone.
    case(f"a word that goes on in the reply, {name}", "dpo", "passthrough", {"prompt": "He said the w", "chosen": "ord.", "rejected": "rong thing"}, tokenizer=name)
    case(f"a kto word that goes on in the reply, {name}", "kto", None, {"prompt": "He said the w", "completion": "ord.", "label": False}, tokenizer=name)
    eos = tokenizers[name].eos_token
    case(f"replies that end already, {name}", "dpo", None, {"prompt": "a", "chosen": good + eos, "rejected": bad}, tokenizer=name)
    case(f"texts without a prompt of their own, {name}", "dpo", None, {"chosen": "Human: hi\n\nAssistant: yes caf\u00e9", "rejected": "Human: hi\n\nAssistant: no"}, tokenizer=name)
case("texts that begin alike up to a space", "dpo", None, {"chosen": "Assistant: \u2603", "rejected": "Assistant: \u00e9"})
case("texts of which one begins the other", "dpo", None, {"chosen": "a b c", "rejected": "a b"})
case("texts that begin alike within a word", "dpo", None, {"chosen": "Human: hi\n\nAssistant: yesterday", "rejected": "Human: hi\n\nAssistant: yes"})
mapping = {"field_prompt": "q", "field_system": "s", "field_chosen": "a", "field_rejected": "b", "prompt_format": "[{{S}}] {system} [Q] {prompt} [A]",
           "chosen_format": "+ {chosen}", "rejected_format": "- {rejected} {{x}}"}
case("a mapping of formats", "dpo", mapping, {"q": question, "a": good, "b": bad, "s": "Be kind."})
case("a mapping of formats without a system text", "dpo", mapping, {"q": question, "a": good, "b": bad})
case("a mapping of fields", "dpo", {"field_prompt": "q"}, {"q": question, "chosen": good, "rejected": bad})
mapping = {"field_prompt": "q", "field_completion": "a", "field_label": "ok", "field_system": "s", "prompt_format": "{system} Q: {prompt}\nA:", "completion_format": " {completion}"}
case("a kto mapping", "kto", mapping, {"q": question, "a": good, "ok": False, "s": "Be kind."})
case("a kto mapping of fields", "kto", {"field_prompt": "q"}, {"q": question, "completion": good, "label": True})

# ---- Conversations

talk = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi \u2603!"}, {"role": "assistant", "content": "Hello you."}, {"role": "user", "content": question}]
better, worse = {"role": "assistant", "content": good}, {"role": "assistant", "content": "  A lake? \n"}
# Axolotl looks for the whole content in what is printed, so contents have no white space around them where a template trims them.
for form in (None, "llama3", "alpaca", "qwen3", "phi_4"):
    trimmed = worse if form in (None, "alpaca", "phi_4") else {**worse, "content": "A lake?"}
    for rl in ("dpo", "simpo"):
        case(f"chat_template by {form}, {rl}", rl, "chat_template.default", {"messages": talk, "chosen": better, "rejected": trimmed}, form=form)
    case(f"chat_template.argilla_chat by {form}", "dpo", "chat_template.argilla_chat", {"chosen": talk + [better], "rejected": [talk[1], trimmed]}, form=form)
for form in ("gemma", "mistral_v1"):
    row = {"messages": talk[1:], "chosen": better, "rejected": {**worse, "content": "A lake?"}}
    for name in tokenizers:
        case(f"chat_template by {form} with {name}", "dpo", "chat_template", row, form=form, tokenizer=name)
case("chat_template with texts", "dpo", "chat_template", {"messages": question, "chosen": good, "rejected": bad})
case("chat_template with lists", "dpo", "chat_template", {"messages": talk, "chosen": talk + [better], "rejected": talk + [worse]})
case("chat_template with mapped names", "dpo", "chat_template.default",
     {"conversations": [{"from": "human", "value": question}], "good": {"from": "gpt", "value": good}, "bad": {"from": "gpt", "value": bad}},
     dataset={"field_messages": "conversations", "field_chosen": "good", "field_rejected": "bad", "message_property_mappings": {"role": "from", "content": "value"},
              "roles": {"user": ["human"], "assistant": ["gpt"]}})
PROMPTED = {"prompt": "Which one?", "chosen": CHAT, "rejected": WORSE, "system": "Be kind."}
for form in (None, "llama3", "phi_4"):
    for row, label in (({"chosen": talk[1:] + [better], "rejected": talk[1:] + [WORSE[1]]}, "of several turns"), (PROMPTED, "with a prompt")):
        case(f"orpo chat_template.argilla by {form} {label}", "orpo", "chat_template.argilla", row, form=form)
    case(f"trl conversation by {form}", "dpo", None, {"prompt": talk, "chosen": [better], "rejected": [worse]}, form=form)
    case(f"trl conversation without a prompt by {form}", "ipo", None, {"chosen": talk + [better], "rejected": talk + [WORSE[1]]}, form=form)
    case(f"trl kto conversation by {form}", "kto", None, {"prompt": talk, "completion": [better], "label": True}, form=form)
case("orpo by its long name", "orpo", "chat_template.argilla", PROMPTED, ours="orpo.chat_template.argilla")

versions = {"axolotl": "0.18.0", "trl": trl.__version__, "transformers": transformers.__version__}
out = os.path.join(here, "..", "data", "prompts", "preference.json")
open(out, "w").write('{"versions": %s, "cases": [\n%s\n]}\n' % (json.dumps(versions), ",\n".join(json.dumps(item) for item in cases)))
print(len(cases), "cases,", os.path.getsize(out), "bytes")
