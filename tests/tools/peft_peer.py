"""One training run of transformers + PEFT, for compare_peft.py, which starts it in a process of its own so that its peak memory is its own.

    python peft_peer.py SETTINGS.json PEER

PEER is float32, bfloat16 or nf4, each with `-compile` behind it for torch.compile; `rows` tokenises the rows that the settings ask for, and
`init` writes the first adapter that all trainers start from. What a run gives is in FOLDER/PEER.json:
{"losses": [..], "times": [[seconds, tokens, trained tokens], ..], "compiled": [steps that compiled], "peak": bytes, ...}.
"""
import json, os, random, resource, sys, time

ALPACA = "Below is an instruction that describes a task{}. Write a response that appropriately completes the request.\n\n### Instruction:\n{}\n\n{}### Response:\n"


def question_texts(s, tokenizer):
    for row in map(json.loads, open(s["questions"]).readlines()[:s["count"]]):
        question = [{"role": "user", "content": row["question"]}]
        prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
        yield prompt, tokenizer.apply_chat_template(question + [{"role": "assistant", "content": row["answer"]}], tokenize=False)[len(prompt):]


def alpaca_texts(s, tokenizer):
    for row in json.load(open(s["alpaca"]))[:s["count"]]:
        more = (", paired with an input that provides further context", f"### Input:\n{row['input']}\n\n") if row.get("input") else ("", "")
        yield ALPACA.format(more[0], row["instruction"], more[1]), row["output"] + tokenizer.eos_token


def make_rows(s):
    """Token ids and labels of the settings' rows, as FOLDER/train.jsonl and held.jsonl, the same for every trainer."""
    rows = []
    if s["rows"]:
        rows = [json.loads(line) for line in open(s["rows"])]
    elif s["questions"] or s["alpaca"]:
        from transformers import AutoTokenizer
        tokenizer = AutoTokenizer.from_pretrained(s["hf"])
        for texts in (question_texts if s["questions"] else alpaca_texts)(s, tokenizer):
            masked, trained = (tokenizer(text, add_special_tokens=False).input_ids for text in texts)
            rows.append({"input_ids": (masked + trained)[:s["length"]], "labels": ([-100] * len(masked) + trained)[:s["length"]]})
    else:
        vocabulary, numbers = json.load(open(os.path.join(s["hf"], "config.json")))["vocab_size"], random.Random(s["seed"])
        for _ in range(s["count"]):
            ids = [numbers.randrange(100, vocabulary) for _ in range(s["length"])]
            rows.append({"input_ids": ids, "labels": ids})
    rows = [row for row in rows if any(label != -100 for label in row["labels"][1:])]
    split = len(rows) - s["held_out"]
    for name, part in (("train", rows[:split]), ("held", rows[split:])):
        with open(os.path.join(s["folder"], name + ".jsonl"), "w") as file: file.writelines(json.dumps(row) + "\n" for row in part)


def load_base(s, kind):
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig
    options = {"dtype": torch.float32 if kind == "float32" else torch.bfloat16}
    if kind == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                                                            bnb_4bit_compute_dtype=torch.bfloat16)
        options["device_map"] = {"": "cpu"}
    model = AutoModelForCausalLM.from_pretrained(s["hf"], **options)
    model.config.use_cache = False
    if kind == "nf4" and s["kbit"]:
        from peft import prepare_model_for_kbit_training
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    return model


def write_first_adapter(s):
    import torch
    from peft import LoraConfig, get_peft_model
    torch.manual_seed(s["seed"])
    config = LoraConfig(r=s["r"], lora_alpha=s["alpha"], target_modules="all-linear", task_type="CAUSAL_LM")
    get_peft_model(load_base(s, "float32"), config).save_pretrained(os.path.join(s["folder"], "init"))


def tensors(batch):
    """Rows padded to the longest. Without padding there is no mask, which is what PEFT is fastest with."""
    import torch
    longest = max(len(row["input_ids"]) for row in batch)
    pad = lambda values, value: values + [value] * (longest - len(values))
    given = {"input_ids": torch.tensor([pad(row["input_ids"], 0) for row in batch]), "labels": torch.tensor([pad(row["labels"], -100) for row in batch])}
    if any(len(row["input_ids"]) < longest for row in batch):
        given["attention_mask"] = torch.tensor([pad([1] * len(row["input_ids"]), 0) for row in batch])
    return given


def trained_tokens(batch):
    return sum(sum(1 for label in row["labels"][1:] if label != -100) for row in batch)


def train(s, peer):
    import torch
    from peft import PeftModel
    if s["threads"]: torch.set_num_threads(s["threads"])
    rows, held = ([json.loads(line) for line in open(os.path.join(s["folder"], name + ".jsonl"))] for name in ("train", "held"))
    kind, compiled = peer.removesuffix("-compile"), peer.endswith("-compile")
    model = PeftModel.from_pretrained(load_base(s, kind), os.path.join(s["folder"], "init"), is_trainable=True)
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=s["lr"], betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, fused=True)
    # Rows of one length compile once; of many lengths, torch chooses what is dynamic.
    run = torch.compile(model, dynamic=None if s["alpaca"] or s["questions"] or s["rows"] else False) if compiled else model

    def loss_of(batch, denominator):  # as the Trainer does: the model's own loss, and with bf16 under autocast, else the float32 adapters cost more
        with torch.autocast("cpu", torch.bfloat16, enabled=kind != "float32"):
            return run(**tensors(batch), num_items_in_batch=torch.tensor(float(denominator))).loss

    def graphs():
        if not compiled: return 0
        from torch._dynamo.utils import counters
        return counters["stats"]["unique_graphs"]

    losses, times, compiling, per = [], [], [], s["peft_mb"] * s["ga"]
    for step in range(s["peft_steps"]):
        before, start = graphs(), time.perf_counter()
        batch = [rows[(step * per + i) % len(rows)] for i in range(per)]
        total, n = 0.0, trained_tokens(batch)
        for i in range(0, per, s["peft_mb"]):
            loss = loss_of(batch[i:i + s["peft_mb"]], n)
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(total)
        times.append((time.perf_counter() - start, sum(len(row["input_ids"]) for row in batch), n))
        if graphs() != before: compiling.append(step)
    result = {"losses": losses, "times": times, "compiled": compiling, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    if compiled:
        from torch._dynamo.utils import counters
        result["graphs"], result["breaks"] = graphs(), sum(counters["graph_break"].values())
    if held:
        model.eval()
        with torch.no_grad(): result["held"] = sum(float(loss_of([row], 1)) for row in held) / trained_tokens(held)
    json.dump(result, open(os.path.join(s["folder"], peer + ".json"), "w"))


if __name__ == "__main__":
    settings, what = json.load(open(sys.argv[1])), sys.argv[2]
    {"rows": make_rows, "init": write_first_adapter}.get(what, lambda s: train(s, what))(settings)
