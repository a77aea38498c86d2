"""sample.py: parity with generate, random streams, continuous batching, resume, other engines' files."""
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from transformers import DynamicCache
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

import model as M
import sample as S

STOP = list(range(40, 60))              # a random model meets one of these within tens of tokens


def random_prompts(count, seed=0, longest=40):
    rng = random.Random(seed)
    return [[rng.randrange(3, 380) for _ in range(rng.randrange(1, longest))] for _ in range(count)]


def collect(model, prompts, keys, *args, **options):
    """{(prompt, sample): (ids, finished)} of sample.generate."""
    found = S.generate(model, prompts, keys, *args, **options)
    return {(i, k): (ids, finished) for i, k, ids, finished in found}


# ---- decoding

@pytest.mark.parametrize("name", ["tiny_qwen2", "tiny_llama"])
def test_greedy_parity_with_generate(name, request):
    """200 prompts of mixed lengths through 32 slots, against model.generate in left-padded batches of 50."""
    model, _ = M.load(request.getfixturevalue(name), device="cpu")
    prompts = random_prompts(200)
    found = collect(model, prompts, [[0]] * 200, STOP, 60, 32)
    assert len(found) == 200 and 100 < sum(finished for _, finished in found.values()) < 200
    for first in range(0, 200, 50):
        part = prompts[first:first + 50]
        longest = max(map(len, part))
        ids = torch.tensor([[0] * (longest - len(p)) + p for p in part])
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in part])
        out = model.generate(input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=60,
                             eos_token_id=STOP, pad_token_id=0)[:, longest:].tolist()
        for i, row in enumerate(out, first):
            end = next((at + 1 for at, token in enumerate(row) if token in STOP), None)
            assert found[i, 0] == (row[:end], end is not None)


def test_shared_prefill_gives_the_logits_of_a_plain_forward(tiny_qwen2):
    """Three rows share prompt 0, one has prompt 1; each decode step is checked against the whole sequence."""
    model, _ = M.load(tiny_qwen2, device="cpu")
    prompts, which = [[5, 9, 200, 31], [7, 8, 11, 12, 13, 14, 15]], [0, 0, 0, 1]
    cache, alone = S.SlotCache(model, 6, 20), S.SlotCache(model, 6, 20)
    cache.store.fill_(3.0)                  # what an earlier row left behind must not be seen
    rows = [prompts[i][:] for i in which]
    with torch.inference_mode():
        S.prefill(model, cache, prompts, which, 2)
        cache.store[:, :, :4] = cache.store[:, :, 2:].clone()
        for slot, i in enumerate(which):
            S.prefill(model, alone, [prompts[i]], [0], slot)
        for step in range(4):
            token = torch.tensor([row[-1] for row in rows])
            length = torch.tensor([len(row) - 1 for row in rows])
            shared = S.decode(model, cache, token, length, int(length.max()) + 1)
            separate = S.decode(model, alone, token, length, int(length.max()) + 1)
            plain = torch.cat([model(input_ids=torch.tensor([row])).logits[:, -1] for row in rows])
            assert torch.allclose(shared, plain, atol=1e-4) and torch.allclose(shared, separate, atol=1e-4)
            for slot, row in enumerate(rows):
                row.append(100 + 10 * slot + step)          # the siblings go different ways


def test_prompts_are_prefilled_once_and_slots_never_overflow(tiny_llama, monkeypatch):
    model, _ = M.load(tiny_llama, device="cpu")
    prompts, seen, widths = random_prompts(20, longest=10), [], []
    real_prefill, real_decode = S.prefill, S.decode

    def prefill(model, cache, chosen, which, first):
        seen.extend(map(tuple, chosen))
        real_prefill(model, cache, chosen, which, first)

    def decode(model, cache, token, length, view):
        widths.append(len(token))
        return real_decode(model, cache, token, length, view)

    monkeypatch.setattr(S, "prefill", prefill)
    monkeypatch.setattr(S, "decode", decode)
    keys = [[S.stream_key(0, i, k) for k in range(4)] for i in range(20)]
    found = collect(model, prompts, keys, STOP, 30, 10, temperature=1.0)
    assert len(found) == 80 and sorted(seen) == sorted(map(tuple, prompts))
    assert max(widths) <= 10
    assert sum(widths) == sum(len(ids) for ids, _ in found.values())    # no step is spent on a finished row
    lonely = sum(max(len(found[i, k][0]) for k in range(4)) for i in range(20))
    assert len(widths) < 0.7 * lonely                                   # rows of several prompts run together


def test_graph_buckets_give_the_same_tokens(tiny_qwen2):
    """The CUDA branch of make_step with a stand-in for the capture: rounded sizes, idle rows, few graphs."""
    model, _ = M.load(tiny_qwen2, device="cpu")
    recorded = []

    class Recording:
        def __init__(self, run):
            self.replay = run

        def pool(self):
            return "pool"

    def record(run, state, pool):
        recorded.append(pool)
        return Recording(run)

    results = []
    for recorder in (None, record):
        cache, state = S.SlotCache(model, 16, 300), torch.zeros(16, 4, dtype=torch.long)
        state[:, S.TOKEN] = torch.arange(16) + 60
        state[:, S.KEY] = torch.tensor([S.stream_key(0, i) for i in range(16)])
        step = S.make_step(model, cache, state, 1.0, 0, 0.9, recorder)
        trace = []
        with torch.inference_mode():
            for n, view in ((16, 1), (15, 2), (7, 3), (7, 4), (3, 257), (3, 258)):
                step(n, view)
                trace.append(state[:n].clone())
        results.append(trace)
    assert all(torch.equal(a, b) for a, b in zip(*results))
    assert recorded == [None, "pool", "pool"]       # (16, 256), (8, 256), (4, 300): 15 rounds up to 16


# ---- random numbers

def test_uniforms_are_splitmix64():
    """The first two outputs of the published generator for seed 0, and a plain-integer version of it."""
    first_two = S.uniforms(torch.tensor([0, 0]), torch.tensor([0, 1])).tolist()
    assert first_two == [0xE220A839 / 2**32, 0x6E789E6A / 2**32]

    def splitmix64(key, counter):
        z = (key + (counter + 1) * 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return (z ^ (z >> 31)) >> 32

    keys = [S.stream_key(1, "problem", k) for k in range(50)]
    counters = list(range(0, 5000, 100))
    expected = [splitmix64(k, c) / 2**32 for k, c in zip(keys, counters)]
    assert S.uniforms(torch.tensor(keys), torch.tensor(counters)).tolist() == expected


def test_stream_keys_differ_by_seed_problem_and_sample():
    names = [(seed, problem, k) for seed in range(3) for problem in ("1", "11", "a") for k in range(3)]
    assert len({S.stream_key(*name) for name in names}) == len(names)
    assert all(0 <= S.stream_key(*name) < 2**63 for name in names)


@pytest.mark.parametrize("temperature, top_k, top_p",
                         [(0.7, 0, 1.0), (1.3, 5, 1.0), (1.0, 0, 0.9), (0.7, 12, 0.8)])
def test_next_token_probs_match_transformers(temperature, top_k, top_p):
    logits = torch.randn(20, 50, generator=torch.Generator().manual_seed(0)) * 3
    scores = TemperatureLogitsWarper(temperature)(None, logits)
    if top_k:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(None, scores)
    expected = scores.softmax(-1)
    assert torch.allclose(S.next_token_probs(logits, temperature, top_k, top_p), expected, atol=1e-6)
    assert (expected == 0).any() == bool(top_k or top_p < 1)


def test_draw_is_the_inverse_cdf():
    probs = torch.tensor([[0.25, 0.0, 0.5, 0.25, 0.0]]).repeat(6, 1)
    uniform = torch.tensor([0.0, 0.2499, 0.25, 0.74, 0.75, 1 - 2.0**-32], dtype=torch.float64)
    assert S.draw(probs, uniform).tolist() == [0, 0, 2, 2, 3, 3]


def chi_square(counts, probs):
    """Statistic over its degrees of freedom, as z-score; cells that expect fewer than 5 are pooled."""
    expected = probs * counts.sum()
    small = expected < 5
    observed = torch.cat([counts[~small], counts[small].sum()[None]])
    expected = torch.cat([expected[~small], expected[small].sum()[None]])
    if expected[-1] < 5:
        observed, expected = observed[:-1], expected[:-1]
    freedom = len(expected) - 1
    return float((((observed - expected) ** 2 / expected).sum() - freedom) / (2 * freedom) ** 0.5)


@pytest.mark.parametrize("temperature, top_p", [(0.7, 1.0), (1.0, 0.9)])
def test_sampled_frequencies_match_the_softmax(tiny_qwen2, temperature, top_p):
    """6,000 first tokens of one prompt against its softmax; the counts must reject another temperature."""
    model, _ = M.load(tiny_qwen2, device="cpu")
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(0.7)      # flatter, so that many tokens take part
    prompt, count = [5, 9, 200, 31], 6000
    keys = [[S.stream_key(0, "p", k) for k in range(count)]]
    found = collect(model, [prompt], keys, [], 1, 2000, temperature=temperature, top_p=top_p)
    counts = torch.bincount(torch.tensor([ids[0] for ids, _ in found.values()]), minlength=403).double()
    with torch.no_grad():
        scores = model(input_ids=torch.tensor([prompt])).logits[:, -1]
    scores = TemperatureLogitsWarper(temperature)(None, scores)
    allowed = TopPLogitsWarper(top_p)(None, scores) if top_p < 1 else scores
    probs = allowed.double().softmax(-1)[0]
    assert (probs > 5 / count).sum() > 20 and counts[probs == 0].sum() == 0
    assert abs(chi_square(counts, probs)) < 4
    assert chi_square(counts, (allowed * 0.8).double().softmax(-1)[0]) > 10


def test_a_sample_does_not_depend_on_its_batch(tiny_llama):
    model, _ = M.load(tiny_llama, device="cpu")
    prompts = random_prompts(12, seed=1)
    keys = [[S.stream_key(3, i, k) for k in range(4)] for i in range(12)]
    wide = collect(model, prompts, keys, STOP, 40, 48, temperature=0.7, top_p=0.95)
    narrow = collect(model, prompts, keys, STOP, 40, 3, temperature=0.7, top_p=0.95)
    assert wide == narrow
    alone = collect(model, [prompts[7]], [[keys[7][2]]], STOP, 40, temperature=0.7, top_p=0.95)
    assert alone[0, 0] == wide[7, 2]
    assert len({tuple(wide[i, k][0]) for i in range(12) for k in range(4)}) > 40
    other = collect(model, [prompts[7]], [[S.stream_key(4, 7, 2)]], STOP, 40, temperature=0.7, top_p=0.95)
    assert other[0, 0] != wide[7, 2]


# ---- budget

def test_plan():
    assert S.plan([10, 50, 200], 100, 8, 300, 120) == ([100, 70, 0], 2, 120)
    assert S.plan([10, 20], 30, 256, 1000, 4096) == ([30, 30], 20, 50)
    assert S.plan([10, 20], 30, 4, 1000, 4096) == ([30, 30], 4, 50)
    assert S.plan([90, 20], 30, 4, 100, 4096) == ([10, 30], 1, 100)
    assert S.plan([100], 30, 4, 100, 4096) == ([0], 4, 1)


def test_tight_budgets_change_no_token(tiny_qwen2):
    model, _ = M.load(tiny_qwen2, device="cpu")
    prompts = random_prompts(8, seed=2) + [[5] * 90]
    free = collect(model, prompts, [[0]] * 9, STOP, 30)
    tight = collect(model, prompts, [[0]] * 9, STOP, 30, 256, 80)
    assert tight[8, 0] == ([], False) and all(tight[i, 0] == free[i, 0] for i in range(8))


# ---- the script

PROBLEMS = [{"problem": f"What is {i} + {i}?", "answer": str(2 * i), "level": 1 + i % 5} for i in range(12)]


@pytest.fixture
def problems(tmp_path):
    path = tmp_path / "problems.jsonl"
    M.write_jsonl(path, PROBLEMS)
    return path


def call(monkeypatch, *argv):
    """Run the script's main in this process."""
    monkeypatch.setattr(sys, "argv", ["sample.py", *map(str, argv)])
    S.main()


def test_samples_file(tmp_path, tiny_qwen2, problems, monkeypatch):
    out = tmp_path / "runs" / "x.jsonl"
    call(monkeypatch, "--model", tiny_qwen2, "--data", problems, "--out", out, "--num-samples", 3,
         "--max-new-tokens", 25)
    rows, tokenizer = M.read_jsonl(out), M.load(tiny_qwen2)[1]
    assert [r["problem"] for r in rows] == [p["problem"] for p in PROBLEMS]
    for row, problem in zip(rows, PROBLEMS):
        assert row["answer"] == problem["answer"] and row["level"] == problem["level"]
        assert len(row["responses"]) == len(row["finished"]) == len(row["tokens"]) == 3
        assert all(0 < t <= 25 for t in row["tokens"])
        assert all(t == 25 for t, finished in zip(row["tokens"], row["finished"]) if not finished)
        assert not any("<|im_end|>" in text for text in row["responses"])
    flags = M.read_jsonl(tmp_path / "runs" / "x.jsonl.args.json")[0]
    assert flags["temperature"] == 0.7 and flags["seed"] == 0


def test_the_stop_token_is_counted_and_ends_the_text(tiny_qwen2, monkeypatch):
    model, tokenizer = M.load(tiny_qwen2, device="cpu")
    end = M.stop_ids(model, tokenizer)[0]
    script = tokenizer("a = 1\n\nstop here").input_ids + [end]
    at = iter(script)
    monkeypatch.setattr(S, "draw", lambda probs, u: torch.tensor([next(at)]))
    args = argparse_like(num_samples=1, temperature=1.0)
    (_, texts, finished, tokens), = S.sample(model, tokenizer, [S.Request("0", {}, "s", "u", None)], args)
    assert (texts, finished, tokens) == (["a = 1\n\nstop here"], [True], [len(script)])
    at = iter(script)
    args = argparse_like(num_samples=1, temperature=1.0, stop=["\n\nst"])
    (_, texts, finished, tokens), = S.sample(model, tokenizer, [S.Request("0", {}, "s", "u", None)], args)
    assert texts == ["a = 1"] and finished == [True] and 5 <= tokens[0] < len(script)


def argparse_like(**changes):
    import argparse
    values = dict(seed=0, stop=[], max_new_tokens=50, batch_size=8, batch_tokens=4096, top_k=0, top_p=1.0)
    return argparse.Namespace(**{**values, **changes})


def test_a_prompt_that_does_not_fit_is_written_unfinished(tmp_path, tiny_qwen2, monkeypatch, capsys):
    M.write_jsonl(tmp_path / "p.jsonl", [{"problem": "1+1?", "answer": "2"},
                                         {"problem": "7 " * 3000, "answer": "7"}])
    call(monkeypatch, "--model", tiny_qwen2, "--data", tmp_path / "p.jsonl", "--out", tmp_path / "x.jsonl",
         "--max-new-tokens", 5)
    rows = M.read_jsonl(tmp_path / "x.jsonl")
    assert rows[1]["responses"] == [""] and rows[1]["finished"] == [False] and rows[1]["tokens"] == [0]
    assert 0 < rows[0]["tokens"][0] <= 5
    assert "1: a prompt of" in capsys.readouterr().out


def test_kill_and_resume_gives_the_file_of_an_uninterrupted_run(tmp_path, tiny_llama, repo, monkeypatch):
    rows = [{**p, "id": f"{r}-{i}"} for r in range(3) for i, p in enumerate(PROBLEMS)]
    M.write_jsonl(tmp_path / "p.jsonl", rows)
    flags = ["--model", tiny_llama, "--data", tmp_path / "p.jsonl", "--num-samples", 2, "--seed", 5,
             "--max-new-tokens", 80, "--batch-size", 4]
    out = tmp_path / "killed.jsonl"
    process = subprocess.Popen([sys.executable, str(repo / "sample.py"), *map(str, flags), "--out", str(out)],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 200
    while time.time() < deadline and process.poll() is None:
        if out.exists() and out.read_bytes().count(b"\n") >= 3:
            break
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    written = out.read_bytes().count(b"\n")
    assert 3 <= written < 36, "the kill came too late for this test to say anything"
    with open(out, "a") as file:
        file.write('{"id": "0-0", "probl')                  # and a line that was only half on the disk
    call(monkeypatch, *flags, "--out", out, "--resume")
    call(monkeypatch, *flags, "--out", tmp_path / "whole.jsonl")
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert len(M.read_jsonl(out)) == 36


def test_finished_runs_are_not_overwritten(tmp_path, tiny_qwen2, problems, monkeypatch):
    out = tmp_path / "x.jsonl"
    flags = ["--model", tiny_qwen2, "--data", problems, "--out", out, "--max-new-tokens", 5]
    call(monkeypatch, *flags)
    first = out.read_bytes()
    with pytest.raises(M.InputError, match="--resume continues it, --force starts it again"):
        call(monkeypatch, *flags)
    with pytest.raises(M.InputError, match="was begun with seed 0, not 1"):
        call(monkeypatch, *flags, "--resume", "--seed", 1)
    call(monkeypatch, *flags, "--resume")
    assert out.read_bytes() == first
    call(monkeypatch, *flags, "--limit", 3, "--force")
    assert out.read_bytes() == b"".join(first.splitlines(keepends=True)[:3])
    call(monkeypatch, *flags, "--resume")                   # a larger --limit continues a smaller one
    assert out.read_bytes() == first
    out.write_text('{"id": "stranger"}\n')
    with pytest.raises(M.InputError, match="x.jsonl:1: field 'id' 'stranger' is not in"):
        call(monkeypatch, *flags, "--resume")


def test_bad_input_is_one_line_and_writes_nothing(tmp_path, tiny_qwen2, run_script):
    (tmp_path / "p.jsonl").write_text('{"problem": "1+1?", "answer": "2"}\n{"problem": 5}\n')
    done = run_script("sample.py", "--model", tiny_qwen2, "--data", "p.jsonl", "--out", "x.jsonl")
    assert done.returncode == 2 and done.stderr == "error: p.jsonl:2: field 'problem' is not a text\n"
    assert [p.name for p in tmp_path.iterdir()] == ["p.jsonl"]


@pytest.mark.parametrize("flags, said", [
    (["--temperature", -1], "--temperature"), (["--top-p", 0], "--top-p"), (["--limit", 0], "start at 1"),
    (["--num-samples", 2, "--temperature", 0], "same response"), (["--num-samples", 0], "start at 1"),
    (["--model", "./nowhere"], "no model here"), (["--verify"], "field 'responses' is missing"),
])
def test_bad_flags_are_user_errors(tmp_path, tiny_qwen2, problems, monkeypatch, flags, said):
    with pytest.raises(M.InputError, match=said):
        call(monkeypatch, "--model", tiny_qwen2, "--data", problems, "--out", tmp_path / "x.jsonl", *flags)
    assert [p.name for p in tmp_path.iterdir()] == ["problems.jsonl"]


def test_an_empty_gold_stops_the_run(tmp_path, tiny_qwen2, monkeypatch):
    path = tmp_path / "p.jsonl"
    M.write_jsonl(path, [{"problem": "1+1?", "answer": "2"}, {"problem": "2+2?", "answer": "$ $"}])
    with pytest.raises(M.InputError, match="p.jsonl:2: field 'answer'"):
        call(monkeypatch, "--model", tiny_qwen2, "--data", path, "--out", tmp_path / "x.jsonl")


# ---- verification, and other engines

@pytest.fixture
def samples(tmp_path):
    rows = [{"id": "a", "problem": "1+1?", "answer": "2",
             "responses": ["\\boxed{2}", "so \\boxed{3}", "\\boxed{2}", "?"]},
            {"id": "b", "problem": "2+2?", "answer": "4", "responses": ["none"]}]
    M.write_jsonl(tmp_path / "samples.jsonl", rows)
    return tmp_path / "samples.jsonl"


def test_verify_asks_once_for_every_distinct_answer(tmp_path, tiny_qwen2, samples, monkeypatch):
    out = tmp_path / "v.jsonl"
    flags = ["--model", tiny_qwen2, "--data", samples, "--out", out, "--verify", "--num-samples", 2,
             "--max-new-tokens", 8]
    call(monkeypatch, *flags)
    rows = M.read_jsonl(out, ("id", "problem", "answer", "verification", "kind"))
    assert [(r["id"], r["answer"]) for r in rows] == [("a", "2"), ("a", "2"), ("a", "3"), ("a", "3")]
    whole = out.read_bytes()
    out.write_bytes(b"".join(whole.splitlines(keepends=True)[:3]))      # killed amid the lines of a request
    call(monkeypatch, *flags, "--resume")
    assert out.read_bytes() == whole


def test_the_verification_prompt_forbids_solving(tiny_qwen2, samples, monkeypatch, tmp_path):
    call(monkeypatch, "--model", tiny_qwen2, "--data", samples, "--verify", "--export-prompts",
         tmp_path / "e.jsonl")
    first, second = M.read_jsonl(tmp_path / "e.jsonl")
    for said in ("1+1?", "answer: 2", "Do not solve", "the answer is correct.", "the answer is incorrect.",
                 "the answer cannot be verified."):
        assert said in first["prompt"]
    assert "answer: 3" in second["prompt"]


def test_exported_prompts_come_back_as_a_samples_file(tmp_path, tiny_qwen2, problems, monkeypatch):
    common = ["--model", tiny_qwen2, "--data", problems, "--num-samples", 2]
    call(monkeypatch, *common, "--export-prompts", tmp_path / "e.jsonl")
    prompts, tokenizer = M.read_jsonl(tmp_path / "e.jsonl"), M.load(tiny_qwen2)[1]
    assert [p["custom_id"] for p in prompts] == [str(i) for i in range(12)]
    assert prompts[3]["prompt"] == tokenizer.decode(M.prompt_ids(tokenizer, PROBLEMS[3]["problem"]))
    assert prompts[3]["body"]["messages"][1] == {"role": "user", "content": PROBLEMS[3]["problem"]}
    assert prompts[3]["body"]["n"] == 2 and prompts[3]["url"] == "/v1/chat/completions"
    batch = [{"custom_id": p["custom_id"], "response": {"status_code": 200, "body": {"choices": [
        {"message": {"role": "assistant", "content": f"\\boxed{{{i}}}"}, "finish_reason": "stop"},
        {"message": {"role": "assistant", "content": "and so on"}, "finish_reason": "length"}]}}}
        for i, p in reversed(list(enumerate(prompts)))]
    simple = [{"id": p["custom_id"], "responses": [f"\\boxed{{{i}}}", "and so on"], "finished": [True, False]}
              for i, p in enumerate(prompts)]
    for name, answers in (("batch", batch), ("simple", simple)):
        M.write_jsonl(tmp_path / f"{name}.jsonl", answers)
        call(monkeypatch, *common, "--import-responses", tmp_path / f"{name}.jsonl",
             "--out", tmp_path / f"{name}.out")
        rows = M.read_jsonl(tmp_path / f"{name}.out")
        assert [r["responses"][0] for r in rows] == [f"\\boxed{{{i}}}" for i in range(12)]
        assert rows[5]["finished"] == [True, False] and rows[5]["answer"] == "10"
        assert min(rows[5]["tokens"]) > 0


@pytest.mark.parametrize("line, said", [
    ({"custom_id": "0", "response": "only one"}, "field 'custom_id' '0': fewer than 2 responses"),
    ({"custom_id": "0", "response": {"body": {}}}, "a.jsonl:1: field 'custom_id' or 'response' is malformed"),
    ({"response": "nobody's"}, "a.jsonl:1: field 'custom_id' or 'response' is malformed"),
    ({"id": "0", "responses": [None, "x"]}, "a.jsonl:1: field 'custom_id' or 'response' is malformed"),
])
def test_answers_that_cannot_be_used(tmp_path, tiny_qwen2, problems, monkeypatch, line, said):
    M.write_jsonl(tmp_path / "a.jsonl", [line])
    with pytest.raises(M.InputError, match=said):
        call(monkeypatch, "--model", tiny_qwen2, "--data", problems, "--num-samples", 2, "--limit", 1,
             "--import-responses", tmp_path / "a.jsonl", "--out", tmp_path / "x.jsonl")
    assert not (tmp_path / "x.jsonl").exists()
