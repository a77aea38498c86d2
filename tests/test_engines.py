"""The files and rewards in engines that sample or train elsewhere, against the real packages: vLLM's
batch runner, the types of the `openai` package, verl's loader. None is a requirement: without it its tests
are skipped. recipes/trl/README.md and recipes/vllm/README.md say how to install them.
"""
import json
import os
import subprocess
import sys

import pytest
from conftest import REPO

pytestmark = pytest.mark.engines
PROBLEMS = [{"id": "a/1", "problem": "Solve 7x+133=693", "answer": "80"},
            {"id": "b", "problem": "What is $1+1$? Say \"two\".", "answer": "2"}]
TEXTS = [["\\boxed{80}", "so \\boxed{2}"], ["\\boxed{3}", "no end \\boxed{2}"]]     # [problem][sample]
ENDS = [["stop", "stop"], ["stop", "length"]]


@pytest.fixture
def exported(tmp_path, run_script):
    """exported(model) -> the lines that `batch.py export` writes for two problems, two samples each."""
    def export(model):
        (tmp_path / "p.jsonl").write_text("".join(json.dumps(p) + "\n" for p in PROBLEMS))
        done = run_script("recipes/vllm/batch.py", "export", "--model", model, "--data", "p.jsonl",
                          "--num-samples", 2, "--temperature", 0.7, "--max-new-tokens", 50, "--seed", 3,
                          "--out", "prompts.jsonl")
        assert done.returncode == 0, done.stderr
        lines = (tmp_path / "prompts.jsonl").read_text().splitlines()
        assert len(lines) == 2
        return lines
    return export


@pytest.fixture
def imported(tmp_path, run_script):
    """imported(model, lines) -> the samples that `batch.py import` makes of an engine's output lines."""
    def take(model, lines, fails=False):
        (tmp_path / "out.jsonl").write_text("".join(line + "\n" for line in lines))
        done = run_script("recipes/vllm/batch.py", "import", "out.jsonl", "--model", model, "--data",
                          "p.jsonl", "--num-samples", 2, "--temperature", 0.7, "--out", "s.jsonl", "--force")
        assert done.returncode == (2 if fails else 0), done.stderr
        return done.stderr if fails else [json.loads(line) for line in open(tmp_path / "s.jsonl")]
    return take


def check_samples(rows):
    assert [row["id"] for row in rows] == ["a/1", "b"]
    assert [row["responses"] for row in rows] == TEXTS
    assert [row["finished"] for row in rows] == [[end == "stop" for end in ends] for ends in ENDS]
    assert all(count > 0 for row in rows for count in row["tokens"])


def choices(i, chat=True):
    """The choices of an answer to problem i, as plain data."""
    def content(text):
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"message": message} if chat else {"text": text}
    return [{"index": j, "logprobs": None, "finish_reason": end, **content(text)}
            for j, (text, end) in enumerate(zip(TEXTS[i], ENDS[i]))]


# ---------------------------------------------------------------- vLLM's batch runner

@pytest.fixture(scope="session")
def batch():
    """vLLM's module of `vllm run-batch`: its request and output models."""
    pytest.importorskip("vllm", reason="vllm is not installed (it is not a requirement)")
    return pytest.importorskip("vllm.entrypoints.launchers.run_batch", exc_type=ImportError,
                               reason="vllm is installed, but its batch runner cannot be imported here")


def test_vllm_reads_our_prompts(batch, exported, tiny_qwen2):
    """Every line passes the runner's own check, and asks for the sampling that we asked for."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    for line, problem in zip(exported(tiny_qwen2), PROBLEMS):
        request = batch.BatchRequestInput.model_validate_json(line)
        assert (request.custom_id, request.method) == (problem["id"], "POST")
        assert request.url == "/v1/chat/completions"
        body = request.body
        assert type(body) is ChatCompletionRequest and not body.model_extra
        assert [turn["role"] for turn in body.messages] == ["system", "user"]
        assert body.messages[1]["content"] == problem["problem"] and body.model == tiny_qwen2
        params = body.to_sampling_params(body.max_tokens, {})           # {}: `--generation-config vllm`
        assert (params.n, params.temperature, params.max_tokens, params.seed) == (2, 0.7, 50, 3)
        assert (params.top_p, params.top_k, params.min_p, params.repetition_penalty) == (1, 0, 0, 1)
        assert not params.stop and not params.ignore_eos
        stops = json.loads(line)["body"].get("stop_token_ids", [])      # vLLM's own field
        assert set(params.stop_token_ids) == set(stops)


def test_vllm_takes_what_a_model_recommends_unless_told(batch, exported, tiny_qwen2):
    """Why README says `--generation-config vllm`: else top_p and the like come from the model's own file."""
    body = batch.BatchRequestInput.model_validate_json(exported(tiny_qwen2)[0]).body
    params = body.to_sampling_params(50, {"top_k": 20, "repetition_penalty": 1.05})
    assert (params.top_k, params.repetition_penalty) == (20, 1.05)


def test_vllm_writes_what_we_read(batch, exported, imported, tiny_qwen2):
    """Output lines made by the runner's own classes, from an answer that its own class has checked."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionResponse
    lines = []
    for i, line in enumerate(exported(tiny_qwen2)):
        request = batch.BatchRequestInput.model_validate_json(line)
        answer = ChatCompletionResponse.model_validate({
            "model": request.body.model, "choices": choices(i),
            "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}})
        data = batch.BatchResponseData(body=answer, request_id="vllm-batch-1")
        output = batch.BatchRequestOutput(id="vllm-1", custom_id=request.custom_id, response=data, error=None)
        lines.append(output.model_dump_json())
    check_samples(imported(tiny_qwen2, reversed(lines)))


def test_vllm_error_line_is_named(batch, exported, imported, tiny_qwen2):
    request = batch.BatchRequestInput.model_validate_json(exported(tiny_qwen2)[0])
    error = batch.make_error_request_output(request, error_msg="the engine is out of memory")
    said = imported(tiny_qwen2, [error.model_dump_json()], fails=True)
    assert said.startswith("error: out.jsonl:1: ") and "the engine is out of memory" in said


def test_vllm_has_no_completions_endpoint(batch, exported, tiny_llama):
    """A model without a chat template: the runner answers with an error, so README sends it elsewhere."""
    import asyncio
    line = exported(tiny_llama)[0]
    assert json.loads(line)["url"] == "/v1/completions"
    endpoint = {"url": "/v1/chat/completions", "handler_getter": lambda: None, "wrapper_fn": None}
    try:
        output = asyncio.run(batch.run_one_request(line, {"completions": endpoint}))
    except ValueError:                                  # pydantic refuses the line
        return
    assert "not a supported endpoint" in output.error


# ---------------------------------------------------------------- the types of the openai package

@pytest.fixture(scope="session")
def openai():
    return pytest.importorskip("openai", reason="openai is not installed (it is not a requirement)")


@pytest.mark.parametrize("kind", ["chat", "plain"])
def test_openai_types_take_our_prompts(openai, exported, request, kind):
    """No field that its request types do not know, but vLLM's stop_token_ids, and none of a wrong type."""
    from pydantic import ConfigDict, TypeAdapter, with_config
    if kind == "chat":
        from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming as Params
    else:
        from openai.types.completion_create_params import CompletionCreateParamsNonStreaming as Params
    model = request.getfixturevalue({"chat": "tiny_qwen2", "plain": "tiny_llama"}[kind])
    strict = TypeAdapter(with_config(ConfigDict(extra="forbid"))(Params))
    for line, problem in zip(exported(model), PROBLEMS):
        row = json.loads(line)
        assert (row["custom_id"], row["method"]) == (problem["id"], "POST")
        assert row["url"] == {"chat": "/v1/chat/completions", "plain": "/v1/completions"}[kind]
        row["body"].pop("stop_token_ids", None)
        strict.validate_python(row["body"])


def test_openai_batches_know_our_urls(openai):
    from typing import get_args, get_type_hints

    from openai.types.batch_create_params import BatchCreateParams
    endpoints = str(get_args(get_type_hints(BatchCreateParams)["endpoint"]))
    assert "'/v1/chat/completions'" in endpoints and "'/v1/completions'" in endpoints


@pytest.mark.parametrize("kind", ["chat", "plain"])
def test_openai_answers_are_what_we_read(openai, exported, imported, request, kind):
    """Lines of a batch's output file around answers that are openai's own objects."""
    from openai.types import Completion
    from openai.types.chat import ChatCompletion
    model, lines = request.getfixturevalue({"chat": "tiny_qwen2", "plain": "tiny_llama"}[kind]), []
    for i, line in enumerate(exported(model)):
        answer = {"id": "x", "created": 0, "model": "m", "choices": choices(i, kind == "chat")}
        answer = (ChatCompletion.model_validate({**answer, "object": "chat.completion"}) if kind == "chat"
                  else Completion.model_validate({**answer, "object": "text_completion"}))
        lines.append(json.dumps({
            "id": f"batch_req_{i}", "custom_id": json.loads(line)["custom_id"], "error": None,
            "response": {"status_code": 200, "request_id": "r", "body": answer.model_dump(mode="json")}}))
    check_samples(imported(model, reversed(lines)))


def test_openai_error_line_is_named(openai, exported, imported, tiny_qwen2):
    """A request that failed: the batch's error file holds its answer, an ErrorObject in a body of its own."""
    from openai.types.shared import ErrorObject
    error = ErrorObject(code="429", message="too many requests", param=None, type="rate_limit")
    row = {"id": "batch_req_1", "custom_id": json.loads(exported(tiny_qwen2)[0])["custom_id"], "error": None,
           "response": {"status_code": 429, "request_id": "r", "body": {"error": error.model_dump()}}}
    said = imported(tiny_qwen2, [json.dumps(row)], fails=True)
    assert said.startswith("error: out.jsonl:1: ") and "too many requests" in said


# ---------------------------------------------------------------- verl

VERL = """
import asyncio, os, sys, torch
from hydra import compose, initialize_config_dir
from tensordict import TensorDict
import numpy as np, verl, verl.trainer
from verl import DataProto
from verl.experimental.reward_loop import migrate_legacy_reward_impl
from verl.trainer.ppo.reward import get_custom_reward_fn, load_reward_manager

class Letters:                                  # a tokenizer, as far as verl's reward manager needs one
    def decode(self, ids, skip_special_tokens):
        return "".join(chr(i) for i in ids if i > 1 or not skip_special_tokens)

def item(text, stop):
    ids = [ord(c) for c in text] + [1] * stop
    tokens = torch.tensor([ids])
    batch = TensorDict({"responses": tokens, "prompts": tokens[:, :1], "attention_mask":
                        torch.ones(1, 1 + len(ids), dtype=torch.long)}, batch_size=1)
    rest = dict(data_source=["s2r"], reward_model=[{"ground_truth": "0.5"}], extra_info=[{}])
    return DataProto(batch, {k: np.array(v, dtype=object) for k, v in rest.items()})

folder = os.path.join(os.path.dirname(verl.trainer.__file__), "config")
with initialize_config_dir(folder, version_base=None):
    config = migrate_legacy_reward_impl(compose("ppo_trainer", overrides=sys.argv[1:]))
function = get_custom_reward_fn(config)
call = lambda text: function(data_source="s2r", solution_str=text, ground_truth="0.5", extra_info={})
print(verl.__version__, [call("\\\\boxed{1/2}"), call("\\\\boxed{2}"), call("")])

async def main():
    manager = load_reward_manager(config, Letters())
    for text, stop in (("\\\\boxed{1/2}", 1), ("\\\\boxed{3}", 1), ("\\\\boxed{1/2}", 0)):
        print((await manager.run_single(item(text, stop)))["reward_score"])
asyncio.run(main())
"""


@pytest.mark.parametrize("prefix", ["reward.", ""])
def test_verl_loads_our_reward_from_another_folder(tmp_path, prefix):
    """verl's own configuration, loader and reward manager, with the settings that README shows (and those of
    older releases, which 0.9 still translates). What it cannot know: the last response was cut off."""
    pytest.importorskip("verl", reason="verl is not installed (it is not a requirement)")
    settings = [f"{prefix}custom_reward_function.path={REPO / 'verifier.py'}",
                f"{prefix}custom_reward_function.name=compute_score"]
    done = subprocess.run([sys.executable, "-c", VERL, *settings], cwd=tmp_path, capture_output=True,
                          text=True, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()[-4:]
    assert lines[0].endswith("[1.0, -1.0, -1.0]") and lines[1:] == ["1.0", "-1.0", "1.0"]


VERL_DATA = """
import sys
from transformers import AutoTokenizer
from omegaconf import OmegaConf
from verl.utils.dataset.rl_dataset import RLHFDataset
config = OmegaConf.create({"cache_dir": "cache", "max_prompt_length": 200,
                           "filter_overlong_prompts_workers": 1})
data = RLHFDataset(sys.argv[1], AutoTokenizer.from_pretrained(sys.argv[2]), config)
for row in data:
    print(row["reward_model"]["ground_truth"], row["data_source"], [t["role"] for t in row["raw_prompt"]])
"""


def test_verl_reads_our_problems(tmp_path, run_script, tiny_qwen2):
    """recipes/trl/to_verl.py writes what verl's own data set reads."""
    pytest.importorskip("verl", reason="verl is not installed (it is not a requirement)")
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(p) + "\n" for p in PROBLEMS))
    done = run_script("recipes/trl/to_verl.py", "--data", "p.jsonl", "--out", "verl.jsonl")
    assert done.returncode == 0, done.stderr
    done = subprocess.run([sys.executable, "-c", VERL_DATA, "verl.jsonl", tiny_qwen2], cwd=tmp_path,
                          capture_output=True, text=True, timeout=600,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-2:] == ["80 s2r ['system', 'user']", "2 s2r ['system', 'user']"]
