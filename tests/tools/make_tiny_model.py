#!/usr/bin/env python3
"""Makes the tiny model that the tests and the offline demo use: tests/data/tiny.gguf and tests/data/tiny-hf/.

A llama of 0.5 million weights (hidden 128, 3 layers, 4 heads over 2 KV heads, feed-forward 256, tied
embeddings), trained for a minute on tests/tools/tiny_corpus.txt, so that its answers are short words and not
noise. Its tokenizer is a byte-level BPE with SmolLM2's pre-tokeniser (tokenizer.ggml.pre = smollm) and special
tokens, its chat template ChatML without a default system message.

tiny-hf: bf16 weights as transformers writes them. tiny.gguf: the same weights in the layout of a quantised llama
(Q and K rows permuted for interleaved RoPE), matrices Q4_1, embeddings Q8_0, norms F32.

    python3 tests/tools/make_tiny_model.py [FOLDER]     (needs torch, transformers, tokenizers, gguf; default: tests/data)
"""
import json
import pathlib
import sys

import gguf
import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

HERE = pathlib.Path(__file__).resolve().parent
OUT = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent / "data"
VOCAB_SIZE = 768
CONTEXT = 512
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def read_corpus():
    """The chats as (question, answer), and the tales."""
    chats, tales, question = [], [], None
    for line in (HERE / "tiny_corpus.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("? "):
            question = line[2:]
        elif line.startswith("= "):
            chats.append((question, line[2:]))
        elif line and not line.startswith("#"):
            tales.append(line)
    return chats, tales


def train_tokenizer(texts):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCAB_SIZE,
            special_tokens=[AddedToken(name, special=True, normalized=False) for name in SPECIALS],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    assert tokenizer.get_vocab_size() == VOCAB_SIZE, tokenizer.get_vocab_size()
    return tokenizer


def train_model(tokenizer, chats, tales):
    torch.manual_seed(20)
    torch.set_num_threads(1)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE, hidden_size=128, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, max_position_embeddings=CONTEXT, rms_norm_eps=1e-5, rope_theta=10000.0,
        tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=2, hidden_act="silu", dtype=torch.float32,
    )
    model = LlamaForCausalLM(config)
    rows = [f"<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n{a}<|im_end|>\n" for q, a in chats]
    rows = [torch.tensor(tokenizer.encode(row).ids) for row in rows + [tale + "<|im_end|>" for tale in tales]]
    steps, batch = 700, 16
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps, pct_start=0.1)
    order = torch.Generator().manual_seed(21)
    for step in range(steps):
        chosen = [rows[i] for i in torch.randperm(len(rows), generator=order)[:batch]]
        ids = torch.nn.utils.rnn.pad_sequence(chosen, batch_first=True, padding_value=2)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in chosen], batch_first=True)
        loss = model(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)
    return model.to(torch.bfloat16).eval()


def write_hf(folder, tokenizer, model):
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    settings = {
        "bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>", "unk_token": "<|endoftext|>",
        "add_bos_token": False, "add_eos_token": False, "clean_up_tokenization_spaces": False,
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": CONTEXT, "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def permute(weight, heads):
    """Rows of a head: the halves of rotate-half RoPE become the pairs of interleaved RoPE."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path, tokenizer, model):
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name("Tiny")
    writer.add_license("apache-2.0")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_1)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(VOCAB_SIZE)
    description = json.loads(tokenizer.to_str())["model"]
    tokens = [None] * VOCAB_SIZE
    for token, index in tokenizer.get_vocab().items():
        tokens[index] = token
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if token in SPECIALS else gguf.TokenType.NORMAL for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in description["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(TEMPLATE)

    weights = {name: tensor.float().numpy() for name, tensor in model.state_dict().items()}

    def add(name, source, kind=None, heads=0):
        weight = weights[source]
        if heads:
            weight = permute(weight, heads)
        if kind is None:
            writer.add_tensor(name, np.ascontiguousarray(weight, dtype=np.float32))
        else:
            writer.add_tensor(name, gguf.quants.quantize(np.ascontiguousarray(weight), kind), raw_dtype=kind)

    q4, q8 = gguf.GGMLQuantizationType.Q4_1, gguf.GGMLQuantizationType.Q8_0
    add("token_embd.weight", "model.embed_tokens.weight", q8)
    for layer in range(config.num_hidden_layers):
        source, target = f"model.layers.{layer}.", f"blk.{layer}."
        add(target + "attn_norm.weight", source + "input_layernorm.weight")
        add(target + "attn_q.weight", source + "self_attn.q_proj.weight", q4, config.num_attention_heads)
        add(target + "attn_k.weight", source + "self_attn.k_proj.weight", q4, config.num_key_value_heads)
        add(target + "attn_v.weight", source + "self_attn.v_proj.weight", q4)
        add(target + "attn_output.weight", source + "self_attn.o_proj.weight", q4)
        add(target + "ffn_norm.weight", source + "post_attention_layernorm.weight")
        add(target + "ffn_gate.weight", source + "mlp.gate_proj.weight", q4)
        add(target + "ffn_up.weight", source + "mlp.up_proj.weight", q4)
        add(target + "ffn_down.weight", source + "mlp.down_proj.weight", q4)
    add("output_norm.weight", "model.norm.weight")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def show(tokenizer, model, questions):
    for question in questions:
        ids = tokenizer.encode(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n").ids
        out = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), max_new_tokens=40, do_sample=False)
        print(question, "->", tokenizer.decode(out[0, len(ids) :].tolist()))


def main():
    chats, tales = read_corpus()
    tokenizer = train_tokenizer([text for chat in chats for text in chat] + tales + ["user\n", "assistant\n"])
    model = train_model(tokenizer, chats, tales)
    OUT.mkdir(parents=True, exist_ok=True)
    write_hf(OUT / "tiny-hf", tokenizer, model)
    write_gguf(OUT / "tiny.gguf", tokenizer, model)
    show(tokenizer, model, ["What is the capital of France?", "How do I make tea?", "What is the capital of Peru?"])


if __name__ == "__main__":
    main()
