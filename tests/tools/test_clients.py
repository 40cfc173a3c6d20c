#!/usr/bin/env python3
"""The openai client, LangChain, LlamaIndex and lm-evaluation-harness against `lora serve`, unchanged.

    pip install openai langchain-openai llama-index-llms-openai-like llama-index-embeddings-openai-like 'lm_eval[api]'
    tests/tools/test_clients.py build/release/lora

Prints SKIPPED for a client that is not installed."""
import importlib.metadata
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

from served import ROOT, Server

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
ANSWER = "The capital of France is Paris."


def refused(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError("was not refused")


def check_openai(server):
    import openai

    client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["tiny"] and client.models.retrieve("tiny").id == "tiny"
    answer = client.chat.completions.create(model="tiny", messages=QUESTION, temperature=0, logprobs=True, top_logprobs=2)
    assert answer.choices[0].message.content == ANSWER and answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == len(answer.choices[0].logprobs.content)
    assert "".join(t.token for t in answer.choices[0].logprobs.content) == ANSWER

    chunks = list(client.chat.completions.create(model="tiny", messages=QUESTION, temperature=0, stream=True,
                                                 stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == ANSWER
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[-1].usage.completion_tokens == answer.usage.completion_tokens
    text = client.completions.create(model="tiny", prompt="The river", max_tokens=4, temperature=0, echo=True, logprobs=1)
    assert text.choices[0].text.startswith("The river") and text.choices[0].logprobs.token_logprobs[0] is None
    pieces = client.completions.create(model="tiny", prompt="The river", max_tokens=4, temperature=0, stream=True)
    assert "The river" + "".join(c.choices[0].text for c in pieces) == text.choices[0].text
    schema = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "y"]}}, "required": ["a", "b"],
              "additionalProperties": False}
    shaped = client.chat.completions.create(model="tiny", messages=QUESTION, seed=3, max_tokens=200, response_format={
        "type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}})
    value = json.loads(shaped.choices[0].message.content)
    assert set(value) == {"a", "b"} and isinstance(value["a"], int) and value["b"] in ("x", "y")

    vectors = [client.embeddings.create(model="tiny", input=["a cat", "a river"], **extra).data[1].embedding
               for extra in ({}, {"encoding_format": "float"})]
    assert len(vectors[0]) == len(vectors[1]) and max(abs(a - b) for a, b in zip(*vectors)) < 1e-6
    assert abs(sum(v * v for v in vectors[0]) - 1) < 1e-5

    error = refused(openai.NotFoundError, lambda: client.chat.completions.create(model="other", messages=QUESTION))
    assert error.code == "model_not_found"
    error = refused(openai.BadRequestError, lambda: client.completions.create(model="tiny", prompt="x " * 2000))
    assert error.code == "context_length_exceeded"
    error = refused(openai.BadRequestError, lambda: client.completions.create(model="tiny", prompt="x", temperature=-1))
    assert error.param == "temperature"
    print("openai", openai.__version__, "works")


def check_openai_tools(server):
    import openai

    client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {
        "type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"], "additionalProperties": False}}}]
    asked = {"model": "tiny", "messages": QUESTION, "tools": tools, "tool_choice": "required", "seed": 5, "max_tokens": 200}
    answer = client.chat.completions.create(**asked).choices[0]
    call = answer.message.tool_calls[0]
    assert answer.finish_reason == "tool_calls" and call.function.name == "weather"
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")
    deltas = [c.choices[0].delta for c in client.chat.completions.create(**asked, stream=True)]
    assert [t.function.arguments for d in deltas for t in d.tool_calls or []] == [call.function.arguments]
    back = [*QUESTION, answer.message, {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
    assert client.chat.completions.create(model="tiny", messages=back, tools=tools, max_tokens=4).choices[0].message.role == "assistant"
    print("tools work")


def check_langchain(server):
    import langchain_openai

    reach = {"base_url": server.url + "/v1", "api_key": "none", "model": "tiny"}
    llm = langchain_openai.ChatOpenAI(temperature=0, **reach)
    asked = QUESTION[0]["content"]
    assert llm.invoke(asked).content == ANSWER
    assert "".join(chunk.content for chunk in llm.stream(asked)) == ANSWER
    schema = {"title": "city", "type": "object", "properties": {"name": {"enum": ["Paris", "Rome"]}}, "required": ["name"],
              "additionalProperties": False}
    assert llm.with_structured_output(schema, method="json_schema").invoke(asked)["name"] in ("Paris", "Rome")
    vectors = langchain_openai.OpenAIEmbeddings(check_embedding_ctx_length=False, **reach).embed_documents(["a cat", "a river"])
    assert len(vectors) == 2 and abs(sum(v * v for v in vectors[1]) - 1) < 1e-5
    print("langchain-openai", importlib.metadata.version("langchain-openai"), "works")


def check_llama_index(server):
    from llama_index.core.llms import ChatMessage
    from llama_index.embeddings.openai_like import OpenAILikeEmbedding
    from llama_index.llms.openai_like import OpenAILike

    reach = {"api_base": server.url + "/v1", "api_key": "none"}
    llm = OpenAILike(model="tiny", is_chat_model=True, temperature=0, **reach)
    messages = [ChatMessage(**QUESTION[0])]
    assert llm.chat(messages).message.content == ANSWER
    assert "".join(chunk.delta for chunk in llm.stream_chat(messages)) == ANSWER
    vector = OpenAILikeEmbedding(model_name="tiny", **reach).get_text_embedding("a cat")
    assert abs(sum(v * v for v in vector) - 1) < 1e-5
    print("llama-index-llms-openai-like", importlib.metadata.version("llama-index-llms-openai-like"), "works")


def write_task(folder):
    """A task of lm-eval over local rows: which continuation is likelier, and a generation."""
    rows = [{"q": "The capital of France is", "choices": ["Paris.", "legs."], "gold": 0},
            {"q": "A cat has four", "choices": ["Paris.", "legs."], "gold": 1}]
    data = pathlib.Path(folder) / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}\ntest_split: test\n"
    (pathlib.Path(folder) / "choice.yaml").write_text(
        "task: choice\n" + dataset + "output_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_choice: '{{choices}}'\n"
        "doc_to_target: gold\nmetric_list: [{metric: acc}, {metric: acc_norm}]\n")
    (pathlib.Path(folder) / "write.yaml").write_text(
        "task: write\n" + dataset + "output_type: generate_until\ndoc_to_text: 'What is the capital of France?'\n"
        "doc_to_target: 'The capital of France is Paris.'\ngeneration_kwargs: {until: ['\\n'], max_gen_toks: 20}\n"
        "metric_list: [{metric: exact_match}]\n")


def run_lm_eval(folder, model, tasks, arguments, *more):
    output = pathlib.Path(folder) / ("out-" + re.sub(r"\W", "", model + tasks + arguments[-20:]))
    command = [sys.executable, "-m", "lm_eval", "--model", model, "--model_args", arguments, "--tasks", tasks, "--include_path", folder,
               "--output_path", str(output), *more]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": folder})
    if done.returncode:
        raise AssertionError(done.stderr[-3000:])
    return json.loads(next(output.rglob("results*.json")).read_text())["results"]


def check_lm_eval(server):
    import lm_eval

    with tempfile.TemporaryDirectory() as folder:
        write_task(folder)
        url = server.url + "/v1/completions"
        for tokenizer in ("tokenizer_backend=remote", f"tokenizer_backend=huggingface,tokenizer={ROOT / 'tests/data/tiny-hf'}"):
            base = f"model=tiny,base_url={url},max_length=512,num_concurrent=2,{tokenizer}"
            results = run_lm_eval(folder, "local-completions", "choice", base)
            assert results["choice"]["acc,none"] == 1.0, results
        base = f"model=tiny,base_url={server.url}/v1/chat/completions,num_concurrent=2"
        results = run_lm_eval(folder, "local-chat-completions", "write", base, "--apply_chat_template")
        assert results["write"]["exact_match,none"] == 1.0, results
    print("lm-eval", lm_eval.__version__, "works")


def main():
    program = sys.argv[1]
    with Server(program) as server:
        for name, check in (("openai", check_openai), ("langchain_openai", check_langchain),
                            ("llama_index.llms.openai_like", check_llama_index), ("lm_eval", check_lm_eval)):
            try:
                importlib.import_module(name)
            except ImportError:
                print(f"SKIPPED: {name} is not installed")
                continue
            check(server)
    try:
        __import__("openai")
    except ImportError:
        return
    with Server(program, "--chat-template", "qwen_25", "--context", "2048") as server:
        check_openai_tools(server)


main()
