"""recipes/vllm/batch.py: prompts for another engine and its answers, with the format's own examples. Against
the real packages: test_engines.py."""
import argparse
import importlib.util
import json

import pytest

import model as models
import sample

PROBLEMS = [{"problem": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(12)]


@pytest.fixture(scope="session")
def batch(repo):
    """The recipe's script as a module."""
    spec = importlib.util.spec_from_file_location("batch", repo / "recipes" / "vllm" / "batch.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def call(batch):
    return lambda *argv: batch.main(list(map(str, argv)))


def write(path, rows):
    models.write_jsonl(path, rows)
    return path


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def problems(tmp_path):
    return write(tmp_path / "problems.jsonl", PROBLEMS)


def test_exported_prompts_come_back_as_a_samples_file(tmp_path, tiny_qwen2, problems, call):
    common = ["--model", tiny_qwen2, "--data", problems, "--num-samples", 2]
    call("export", *common, "--out", tmp_path / "e.jsonl")
    prompts, tokenizer = read(tmp_path / "e.jsonl"), models.load_tokenizer(tiny_qwen2)
    assert [p["custom_id"] for p in prompts] == [str(i) for i in range(12)]
    assert prompts[3]["prompt"] == tokenizer.decode(models.prompt_ids(tokenizer, PROBLEMS[3]["problem"]))
    assert prompts[3]["body"]["messages"][1] == {"role": "user", "content": PROBLEMS[3]["problem"]}
    assert prompts[3]["body"]["n"] == 2 and prompts[3]["url"] == "/v1/chat/completions"
    with pytest.raises(models.InputError, match="e.jsonl exists already: --force overwrites it"):
        call("export", *common, "--out", tmp_path / "e.jsonl")
    lines = [{"custom_id": p["custom_id"], "response": {"status_code": 200, "body": {"choices": [
        {"message": {"role": "assistant", "content": f"\\boxed{{{i}}}"}, "finish_reason": "stop"},
        {"message": {"role": "assistant", "content": "and so on"}, "finish_reason": "length"}]}}}
        for i, p in reversed(list(enumerate(prompts)))]
    simple = [{"id": p["custom_id"], "responses": [f"\\boxed{{{i}}}", "and so on"], "finished": [True, False]}
              for i, p in enumerate(prompts)]
    for name, answers in (("batch", lines), ("simple", simple)):
        given = write(tmp_path / f"{name}.jsonl", answers)
        call("import", given, *common, "--out", tmp_path / f"{name}.out")
        rows = read(tmp_path / f"{name}.out")
        assert [r["responses"][0] for r in rows] == [f"\\boxed{{{i}}}" for i in range(12)]
        assert rows[5]["finished"] == [True, False] and rows[5]["answer"] == "10"
        count = len(tokenizer("and so on", add_special_tokens=False).input_ids)
        assert rows[5]["tokens"] == [1 + len(tokenizer("\\boxed{5}", add_special_tokens=False).input_ids), count]


def test_the_verification_prompt_forbids_solving(tmp_path, tiny_qwen2, call):
    data = write(tmp_path / "s.jsonl", [{"id": "a", "problem": "1+1?", "answer": "2", "responses": [
        "\\boxed{2}", "so \\boxed{3}", "\\boxed{2}"]}])
    call("export", "--model", tiny_qwen2, "--data", data, "--verify", "--out", tmp_path / "e.jsonl")
    first, second = read(tmp_path / "e.jsonl")
    for said in ("1+1?", "answer: 2", "Do not solve", "the answer is correct.", "the answer is incorrect.",
                 "the answer cannot be verified."):
        assert said in first["prompt"]
    assert "answer: 3" in second["prompt"]


def test_without_a_chat_template_the_prompt_itself_is_exported(tiny_llama, batch):
    tokenizer = models.load_tokenizer(tiny_llama)
    args = argparse.Namespace(model="m", num_samples=3, temperature=0.7, max_new_tokens=9, seed=1)
    line, = batch.exported(tokenizer, [sample.Request("7", {}, "s", "u", None)], args)
    body = {"model": "m", "n": 3, "temperature": 0.7, "top_p": 1.0, "max_tokens": 9, "seed": 1,
            "stop_token_ids": models.stop_ids(None, tokenizer), "prompt": "s\n\nu\n\n"}
    assert line == {"custom_id": "7", "method": "POST", "url": "/v1/completions", "body": body,
                    "prompt": "s\n\nu\n\n"}


def test_a_refused_system_turn_is_folded_as_in_our_own_prompts(tiny_qwen2, batch):
    tokenizer = models.load_tokenizer(tiny_qwen2)
    tokenizer.chat_template = ("{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}"
                               "{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}")
    args = argparse.Namespace(model="m", num_samples=1, temperature=0, max_new_tokens=9, seed=1)
    line, = batch.exported(tokenizer, [sample.Request("7", {}, "s", "u", None)], args)
    assert line["body"]["messages"] == [{"role": "user", "content": "s\n\nu"}]
    assert line["prompt"] == "<user>s\n\nu"


@pytest.mark.parametrize("line, said", [
    ({"custom_id": "0", "response": "only one"}, "a.jsonl:1: field 'custom_id', 'response' or 'responses' is"),
    ({"id": "0", "responses": ["only one"]}, "field 'custom_id' '0': fewer than 2 responses"),
    ({"custom_id": "0", "response": {"body": {}}}, "a.jsonl:1: field 'custom_id', 'response' or 'responses'"),
    ({"responses": ["nobody's"]}, "a.jsonl:1: field 'custom_id', 'response' or 'responses' is malformed"),
    ({"id": "0", "responses": [None, "x"]}, "a.jsonl:1: field 'custom_id', 'response' or 'responses' is"),
    ({"id": "0", "responses": ["x", "y"], "finished": [True]}, "a.jsonl:1: field 'custom_id', 'response' or"),
    ({"id": "0", "responses": ["\ud83d", "y"]}, "a.jsonl:1: not JSON"),
    ({"custom_id": "0", "error": {"message": "no such model"}}, "a.jsonl:1: the engine reports.*no such model"),
    ({"custom_id": "0", "response": {"body": {"error": "busy"}}}, "a.jsonl:1: the engine reports.*busy"),
])
def test_answers_that_cannot_be_used(tmp_path, tiny_qwen2, problems, call, line, said):
    (tmp_path / "a.jsonl").write_text(json.dumps(line))
    with pytest.raises(models.InputError, match=said):
        call("import", tmp_path / "a.jsonl", "--model", tiny_qwen2, "--data", problems, "--num-samples", 2,
             "--limit", 1, "--out", tmp_path / "x.jsonl")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "problems.jsonl"]


def test_no_input_is_overwritten_and_bad_calls_are_refused(tmp_path, tiny_qwen2, problems, call):
    given = write(tmp_path / "a.jsonl", [{"id": "0", "responses": ["x"]}])
    before = given.read_bytes()
    with pytest.raises(models.InputError, match="is the input: write to another file"):
        call("import", given, "--model", tiny_qwen2, "--data", problems, "--out", given, "--force")
    assert given.read_bytes() == before
    for flags in ([], ["import"], ["translate"], ["export", "--model", "m"], ["import", given, "--colour", "red"]):
        with pytest.raises(models.InputError):
            call(*flags)


def test_to_verl_overwrites_nothing_unasked(tmp_path, run_script):
    row = '{"problem": "1+1?", "answer": "2"}\n'
    for name in ("p.jsonl", "old.jsonl"):
        (tmp_path / name).write_text(row)
    for flags, said in ((["--out", "old.jsonl"], "old.jsonl exists already"),
                        (["--out", "p.jsonl", "--force"], "p.jsonl is the input"), (["--out", ""], "an argument is empty")):
        done = run_script("recipes/trl/to_verl.py", "--data", "p.jsonl", *flags)
        assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert (tmp_path / "p.jsonl").read_text() == (tmp_path / "old.jsonl").read_text() == row
