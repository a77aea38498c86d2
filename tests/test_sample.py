"""sample.py: parity with generate, random numbers, continuous batching, resume, bad input."""
import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from transformers.generation.logits_process import TemperatureLogitsWarper

import model as models
import sample

STOP = list(range(40, 60))              # a random model meets one of these within tens of tokens


def random_prompts(count, seed=0, longest=40):
    rng = random.Random(seed)
    return [[rng.randrange(3, 380) for _ in range(rng.randrange(1, longest))] for _ in range(count)]


def collect(model, prompts, seeds, *args, **options):
    """{(prompt, sample): (ids, finished)} of sample.generate."""
    found = sample.generate(model, prompts, seeds, *args, **options)
    return {(i, k): (ids, finished) for i, k, ids, finished in found}


# ---- decoding

@pytest.mark.parametrize("name", ["tiny_qwen2", "tiny_llama"])
def test_greedy_parity_with_generate(name, request):
    """200 prompts of mixed lengths through 32 slots, against model.generate in left-padded batches of 50."""
    model, _ = models.load(request.getfixturevalue(name), device="cpu")
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
    model, _ = models.load(tiny_qwen2, device="cpu")
    prompts, which = [[5, 9, 200, 31], [7, 8, 11, 12, 13, 14, 15]], [0, 0, 0, 1]
    rows = [prompts[i][:] for i in which]
    with torch.inference_mode():
        cache = sample.SlotCache(model, 6, 20)
        for store in sum(cache.stores, []):
            store.fill_(3.0)                # what an earlier row left behind must not be seen
        sample.prefill(model, cache, rows, 2)
        for store in sum(cache.stores, []):
            store[:4] = store[2:].clone()
        for step in range(4):
            token = torch.tensor([row[-1] for row in rows])
            length = torch.tensor([len(row) - 1 for row in rows])
            found = sample.decode(model, cache, token, length, int(length.max()) + 1)
            plain = torch.cat([model(input_ids=torch.tensor([row])).logits[:, -1] for row in rows])
            assert found.dtype == torch.float32 and torch.allclose(found, plain, atol=1e-4)
            for slot, row in enumerate(rows):
                row.append(100 + 10 * slot + step)          # the siblings go different ways
        model.to(torch.bfloat16)
        found = sample.decode(model, sample.SlotCache(model, 1, 3), torch.tensor([5]), torch.tensor([0]), 1)
        assert found.dtype == torch.float32                 # drawn from in float32, whatever the model


def test_prompts_are_prefilled_once_and_slots_never_overflow(tiny_llama, monkeypatch):
    model, _ = models.load(tiny_llama, device="cpu")
    prompts, seen, widths = random_prompts(20, longest=10), [], []
    real_prefill, real_decode = sample.prefill, sample.decode

    def prefill(model, cache, rows, first):
        seen.extend(map(tuple, rows))
        real_prefill(model, cache, rows, first)

    def decode(model, cache, token, length, view):
        widths.append(len(token))
        return real_decode(model, cache, token, length, view)

    monkeypatch.setattr(sample, "prefill", prefill)
    monkeypatch.setattr(sample, "decode", decode)
    seeds = [[[i, k] for k in range(4)] for i in range(20)]
    found = collect(model, prompts, seeds, STOP, 30, 10, temperature=1.0)
    assert len(found) == 80 and sorted(seen) == sorted(map(tuple, prompts * 4))
    assert max(widths) <= 10
    assert sum(widths) == sum(len(ids) for ids, _ in found.values())    # no step is spent on a finished row
    lonely = sum(max(len(found[i, k][0]) for k in range(4)) for i in range(20))
    assert len(widths) < 0.7 * lonely                                   # rows of several prompts run together


def test_equal_prompts_are_computed_once(tiny_llama, monkeypatch):
    model, _ = models.load(tiny_llama, device="cpu")
    sizes, decoder = [], model.get_decoder()
    monkeypatch.setattr(model, "get_decoder", lambda: lambda **given: sizes.append(
        tuple(given["input_ids"].shape)) or decoder(**given))
    with torch.inference_mode():
        sample.prefill(model, sample.SlotCache(model, 8, 9), [[5, 6, 7], [8], [5, 6, 7], [5, 6, 7]], 2)
    assert sizes == [(1, 1), (2, 3)]        # the token that shows the shapes; two rows, not four


def test_long_prompts_are_prefilled_in_parts(tiny_llama, monkeypatch):
    model, _ = models.load(tiny_llama, device="cpu")
    prompts, parts, real = [[7] * 30] * 3 + [[9] * 30] * 3, [], sample.prefill
    monkeypatch.setattr(sample, "prefill", lambda m, cache, rows, first: parts.append(len(rows))
                        or real(m, cache, rows, first))
    monkeypatch.setattr(sample, "PREFILL_TOKENS", 50)
    assert len(collect(model, prompts, [[0]] * 6, [], 3, 6)) == 6
    assert parts == [2, 2, 2]


def test_graph_buckets_give_the_same_tokens(tiny_qwen2):
    """The CUDA branch of make_step with a stand-in for the capture: rounded sizes, idle rows, few graphs."""
    model, _ = models.load(tiny_qwen2, device="cpu")
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
        with torch.inference_mode():
            cache, trace = sample.SlotCache(model, 16, 300, 10), []
            cache.state[:, sample.TOKEN] = torch.arange(16) + 60
            cache.uniforms[:] = torch.from_numpy(np.random.default_rng(0).random((16, 10)))
            step = sample.make_step(model, cache, 1.0, recorder)
            for n, view in ((16, 1), (15, 2), (7, 3), (7, 4), (3, 257), (3, 258)):
                cache.state[n:, sample.LENGTH:] = 300       # an ended row's place is past everything
                step(n, view)
                trace.append(cache.state[:n].clone())
        results.append(trace)
    assert all(torch.equal(a, b) for a, b in zip(*results))
    assert [trace[-1][:, sample.LENGTH:].tolist() for trace in results] == [[[6, 6]] * 3] * 2
    assert recorded == [None, "pool", "pool"]       # (16, 256), (8, 256), (4, 300): 15 rounds up to 16


# ---- random numbers

def test_choose_is_greedy_or_the_inverse_cdf():
    probs = torch.tensor([[0.25, 0.0, 0.5, 0.25, 0.0]]).repeat(6, 1)
    uniforms = torch.tensor([0.0, 0.2499, 0.25, 0.74, 0.75, 1 - 2.0**-53], dtype=torch.float64)
    assert sample.choose(probs.log(), uniforms, 1.0).tolist() == [0, 0, 2, 2, 3, 3]
    assert sample.choose(probs.log(), uniforms, 0).tolist() == [2] * 6
    # T = 1/2 squares the odds: 1 : 4 : 1
    assert sample.choose(probs.log(), torch.full((6,), 0.166, dtype=torch.float64), 0.5).tolist() == [0] * 6
    assert sample.choose(probs.log(), torch.full((6,), 0.167, dtype=torch.float64), 0.5).tolist() == [2] * 6


def test_every_token_of_a_large_vocabulary_can_be_drawn():
    """One token holds nearly all the mass; the others, 1e-10 each, still have their steps in the CDF."""
    size = 151936
    logits = torch.full((1, size), -23.0)
    logits[0, 7] = 0.0
    step = 1 / (1 + (size - 1) * np.exp(-23.0)) * np.exp(-23.0)             # about 1e-10
    for token in (0, 6, 8, 1000, 75968, size - 2, size - 1):
        below = token * step if token <= 7 else 1 - (size - token) * step
        uniform = torch.tensor([below + step / 2], dtype=torch.float64)
        assert sample.choose(logits, uniform, 1.0).item() == token


def test_a_response_is_the_plain_loop_over_its_own_random_numbers(tiny_qwen2):
    """The t-th token inverts the CDF of a plain forward at the t-th number of the sample's generator."""
    model, _ = models.load(tiny_qwen2, device="cpu")
    prompts, seeds = random_prompts(3, seed=4), [[[3, i, k] for k in range(2)] for i in range(3)]
    found = collect(model, prompts, seeds, STOP, 12, 4, temperature=0.7)
    for (i, k), (ids, finished) in found.items():
        uniforms = torch.from_numpy(np.random.default_rng(seeds[i][k]).random(12))
        with torch.no_grad():
            for t, token in enumerate(ids):
                logits = model(input_ids=torch.tensor([prompts[i] + ids[:t]]), use_cache=False).logits[:, -1]
                cdf = (logits.double() / 0.7).softmax(-1).cumsum(-1)[0]
                assert (cdf[token - 1] if token else 0) - 1e-6 <= uniforms[t] <= cdf[token] + 1e-6
                assert (t + 1 == len(ids)) == (token in STOP or t == 11)
        assert finished == (ids[-1] in STOP)


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


@pytest.mark.parametrize("temperature", [0.7, 1.3])
def test_sampled_frequencies_match_the_softmax(tiny_qwen2, temperature):
    """6,000 first tokens of one prompt against its softmax; the counts must reject another temperature."""
    model, _ = models.load(tiny_qwen2, device="cpu")
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(0.7)      # flatter, so that many tokens take part
    prompt, count = [5, 9, 200, 31], 6000
    found = collect(model, [prompt], [list(range(count))], [], 1, 2000, temperature=temperature)
    counts = torch.bincount(torch.tensor([ids[0] for ids, _ in found.values()]), minlength=403).double()
    with torch.no_grad():
        scores = model(input_ids=torch.tensor([prompt])).logits[:, -1]
    scores = TemperatureLogitsWarper(temperature)(None, scores)
    probs = scores.double().softmax(-1)[0]
    assert (probs > 5 / count).sum() > 20
    assert abs(chi_square(counts, probs)) < 4
    assert chi_square(counts, (scores * 0.8).double().softmax(-1)[0]) > 10


def test_a_sample_does_not_depend_on_its_batch(tiny_llama):
    model, _ = models.load(tiny_llama, device="cpu")
    prompts, seeds = random_prompts(12, seed=1), [[[3, i, k] for k in range(4)] for i in range(12)]
    wide = collect(model, prompts, seeds, STOP, 40, 48, temperature=0.7)
    narrow = collect(model, prompts, seeds, STOP, 40, 3, temperature=0.7)
    assert wide == narrow
    alone = collect(model, [prompts[7]], [[seeds[7][2]]], STOP, 40, temperature=0.7)
    assert alone[0, 0] == wide[7, 2]
    assert len({tuple(wide[i, k][0]) for i in range(12) for k in range(4)}) > 40
    other = collect(model, [prompts[7]], [[[4, 7, 2]]], STOP, 40, temperature=0.7)
    assert other[0, 0] != wide[7, 2]


def arguments(**changes):
    values = {"seed": 0, "max_new_tokens": 50, "batch_size": 8, "batch_tokens": 4096, "num_samples": 1,
              "temperature": 1.0}
    return argparse.Namespace(**{**values, **changes})


def test_seeds_differ_by_seed_problem_and_sample(tiny_qwen2, monkeypatch):
    model, tokenizer = models.load(tiny_qwen2, device="cpu")
    seen, prompts = [], []
    monkeypatch.setattr(sample, "generate",
                        lambda *given: prompts.append(given[1]) or seen.append(given[2]) or [])
    asked = (("1", "u"), ("11", "u"), ("1", "v"))
    requests = [sample.Request(key, {}, "s", user, None) for key, user in asked]
    for seed in range(3):
        list(sample.sample(model, tokenizer, requests, arguments(seed=seed, num_samples=3)))
        assert prompts[-1] == [models.prompt_ids(tokenizer, user, "s") for _, user in asked]
    seeds = [seed for call in seen for prompt in call for seed in prompt]
    streams = {tuple(np.random.default_rng(seed).integers(2**63, size=2)) for seed in seeds}
    assert len(streams) == len(seeds) == 27


# ---- memory

@pytest.mark.parametrize("batch_size, batch_tokens, slots", [
    (8, 300, 3), (2, 300, 2), (8, 99, 1), (8, 10**17, 8)])
def test_slots_fit_the_budget(tiny_qwen2, monkeypatch, batch_size, batch_tokens, slots):
    """The longest prompt, 60 tokens, and 40 new ones: a slot of 100; one slot there always is."""
    model, _ = models.load(tiny_qwen2, device="cpu")
    made, real = [], sample.SlotCache
    monkeypatch.setattr(sample, "SlotCache", lambda *given: made.append(given[1:]) or real(*given))
    assert len(collect(model, [[5] * 60, [6] * 9], [[0], [0]], STOP, 40, batch_size, batch_tokens)) == 2
    assert made == [(slots, 100, 40)]


def test_no_slot_is_longer_than_the_model(tiny_qwen2, monkeypatch):
    model, _ = models.load(tiny_qwen2, device="cpu")

    def look(model, *given):
        raise models.InputError(str(given))

    monkeypatch.setattr(sample, "SlotCache", look)
    with pytest.raises(models.InputError, match=r"\(2, 2048, 2048\)"):
        collect(model, [[5] * 60], [[0]], STOP, 10**9, 9, 5000)


def test_tight_budgets_change_no_token(tiny_qwen2):
    model, _ = models.load(tiny_qwen2, device="cpu")
    prompts = random_prompts(8, seed=2)
    free = collect(model, prompts, [[0]] * 8, STOP, 30)
    assert free == collect(model, prompts, [[0]] * 8, STOP, 30, 256, 80)


def test_too_large_a_cache_is_one_line(tiny_qwen2):
    model, _ = models.load(tiny_qwen2, device="cpu")
    with pytest.raises(models.InputError, match="no memory for 2 x 10{15} tokens, lower --batch-tokens"):
        sample.SlotCache(model, 2, 10**15)


# ---- the script

PROBLEMS = [{"problem": f"What is {i} + {i}?", "answer": str(2 * i), "level": 1 + i % 5} for i in range(12)]


def write(path, rows):
    models.write_jsonl(path, rows)
    return path


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def problems(tmp_path):
    return write(tmp_path / "problems.jsonl", PROBLEMS)


def call(monkeypatch, *argv):
    """Run the script's main in this process."""
    monkeypatch.setattr(sys, "argv", ["sample.py", *map(str, argv)])
    sample.main()


@pytest.fixture
def engine(monkeypatch):
    """A stand-in for `sample.sample` that answers every request; -> the keys it was asked for, by call."""
    calls = []

    def answer(model, tokenizer, requests, args):
        calls.append([r.key for r in requests])
        return ((r, [f"{r.key}.{k}" for k in range(args.num_samples)], [True] * args.num_samples,
                 [3] * args.num_samples) for r in requests)

    monkeypatch.setattr(sample, "sample", answer)
    monkeypatch.setattr(models, "load", lambda *given: (None, None))
    monkeypatch.setattr(sample, "check_decoding", lambda model: None)
    return calls


def test_samples_file(tmp_path, tiny_qwen2, problems, monkeypatch):
    out = tmp_path / "runs" / "x.jsonl"
    call(monkeypatch, "--model", tiny_qwen2, "--data", problems, "--out", out, "--num-samples", 3,
         "--max-new-tokens", 25)
    rows = read(out)
    assert [r["problem"] for r in rows] == [p["problem"] for p in PROBLEMS]
    for row, problem in zip(rows, PROBLEMS):
        assert row["answer"] == problem["answer"] and row["level"] == problem["level"]
        assert len(row["responses"]) == len(row["finished"]) == len(row["tokens"]) == 3
        assert all(0 < t <= 25 for t in row["tokens"])
        assert all(t == 25 for t, finished in zip(row["tokens"], row["finished"]) if not finished)
        assert not any("<|im_end|>" in text for text in row["responses"])
    flags = json.loads((tmp_path / "runs" / "x.jsonl.args.json").read_text())
    assert flags["temperature"] == 0.7 and flags["seed"] == 0


def scripted(monkeypatch, script):
    """Make the sampler choose these tokens, one after the other."""
    at = iter(script)
    monkeypatch.setattr(sample, "choose", lambda logits, uniforms, temperature: torch.tensor([next(at)]))


@pytest.mark.parametrize("eos, end", [("<|im_end|>", "<|im_end|>"), ("<|endoftext|>", "<|im_end|>"),
                                      ("<|im_end|>", "<|endoftext|>")])
def test_every_stop_token_ends_and_finishes_a_response(tiny_qwen2, monkeypatch, eos, end):
    """Whatever the tokenizer calls its eos token; the stop token counts, and is not in the text."""
    model, tokenizer = models.load(tiny_qwen2, device="cpu")
    tokenizer.eos_token = eos
    model.generation_config.eos_token_id = None
    text = tokenizer("a = 1\n\nstop here").input_ids
    scripted(monkeypatch, [*text, tokenizer.convert_tokens_to_ids(end), *text])
    (_, texts, finished, tokens), = sample.sample(model, tokenizer, [sample.Request("0", {}, "s", "u", None)],
                                                  arguments())
    assert (texts, finished, tokens) == (["a = 1\n\nstop here"], [True], [len(text) + 1])


def test_a_response_without_a_stop_token_is_unfinished(tiny_qwen2, monkeypatch):
    model, tokenizer = models.load(tiny_qwen2, device="cpu")
    text = tokenizer("a = 1 and so on and on").input_ids[:5]
    scripted(monkeypatch, text + [models.stop_ids(model, tokenizer)[0]])
    (_, texts, finished, tokens), = sample.sample(model, tokenizer, [sample.Request("0", {}, "s", "u", None)],
                                                  arguments(max_new_tokens=5))
    assert (texts, finished, tokens) == ([tokenizer.decode(text)], [False], [5])


def test_half_a_surrogate_pair_becomes_a_question_mark(tiny_qwen2, monkeypatch):
    model, tokenizer = models.load(tiny_qwen2, device="cpu")
    monkeypatch.setattr(tokenizer, "decode", lambda ids, **options: "a\ud83d")
    (_, texts, _, _), = sample.sample(model, tokenizer, [sample.Request("0", {}, "s", "u", None)],
                                      arguments(max_new_tokens=3))
    assert texts == ["a?"]


def test_accuracy_on_the_bar_is_that_of_the_last_solution(tmp_path, engine, monkeypatch):
    """Finished or not, and whatever stands in a box of the check after it."""
    texts = ["\\boxed{2}", "\\boxed{3}", "\\boxed{3}\n\nWait, let me recheck my solution.\n\nno: \\boxed{2}",
             "\\boxed{3}\n\nWait, let me recheck my solution.\n\nTherefore, the answer is incorrect.\n\n"
             "Let me try again.\n\n\\boxed{2}\n\nWait, let me recheck my solution.\n\nOr \\boxed{9}"]
    monkeypatch.setattr(sample, "sample", lambda model, tokenizer, requests, args: (
        (r, texts, [True, True, True, False], [1] * 4) for r in requests))
    shown, real = [], sample.tqdm
    monkeypatch.setattr(sample, "tqdm", lambda *given, **options: real(*given, **options, disable=True))
    monkeypatch.setattr(real, "set_postfix", lambda self, figures, refresh: shown.append(figures))
    data = write(tmp_path / "p.jsonl", [{"problem": "1+1?", "answer": "2"}, {"problem": "no gold"}])
    call(monkeypatch, "--model", "m", "--data", data, "--out", tmp_path / "x.jsonl", "--num-samples", 4)
    assert [figures.get("accuracy") for figures in shown] == ["0.500", None]


@pytest.mark.parametrize("rows, flags, said", [
    ([{"problem": "1+1?"}, {"problem": "2+2?", "answer": "$ $"}], [], "p.jsonl:2: field 'answer'"),
    ([{"problem": "1+1?"}, {"problem": 5}], [], "p.jsonl:2: field 'problem' is not a text"),
    ([{"problem": "1+1?", "responses": None}], ["--verify"], "p.jsonl:1: field 'responses' is not a list"),
    ([{"problem": "1+1?"}, {"problem": "7 " * 3000}], [], "a prompt of .* tokens fills the model's 2048"),
])
def test_bad_problems_are_one_line_and_write_nothing(tmp_path, tiny_qwen2, monkeypatch, rows, flags, said):
    data = write(tmp_path / "p.jsonl", rows)
    with pytest.raises(models.InputError, match=said):
        call(monkeypatch, "--model", tiny_qwen2, "--data", data, "--out", tmp_path / "a" / "x.jsonl", *flags)
    assert names(tmp_path) == ["p.jsonl"]


def test_ungradable_problems_are_skipped_on_request(tmp_path, engine, monkeypatch, capsys):
    data = write(tmp_path / "p.jsonl", [{"problem": "1?", "answer": "$ $"}, {"problem": "2?", "answer": "4"}])
    call(monkeypatch, "--model", "m", "--data", data, "--out", tmp_path / "x.jsonl", "--skip-ungradable")
    assert engine == [["1"]] and "1 problems skipped" in capsys.readouterr().out


@pytest.mark.parametrize("flags, said", [
    (["--temperature", -1], "--temperature: -1 is"), (["--temperature", "nan"], "--temperature: nan is"),
    (["--num-samples", 2, "--temperature", 0], "same response"), (["--temperature", "1e-300"], "from 0.001"),
    (["--num-samples", 0], "--num-samples: 0 "),
    (["--max-new-tokens", "1.5"], "--max-new-tokens: .*'1.5'"),
    (["--batch-size", 0], "--batch-size"), (["--batch-tokens", 0], "--batch-tokens"),
    (["--limit", 0], "--limit"), (["--seed", -1], "--seed"), (["--dtype", "fp8"], "--dtype"),
    (["--model", "./nowhere"], "no model here"), (["--verify"], "field 'responses' is not a list"),
    (["--device", "abacus"], "--device abacus"),
])
def test_bad_flags_are_user_errors(tmp_path, tiny_qwen2, problems, monkeypatch, flags, said):
    with pytest.raises(models.InputError, match=said):
        call(monkeypatch, "--model", tiny_qwen2, "--data", problems, "--out", tmp_path / "x.jsonl", *flags)
    assert names(tmp_path) == ["problems.jsonl"]


def test_out_is_needed(tiny_qwen2, problems, monkeypatch):
    with pytest.raises(models.InputError, match="required: --out"):
        call(monkeypatch, "--model", tiny_qwen2, "--data", problems)


def test_a_start_that_fails_leaves_no_trace(tmp_path, tiny_qwen2, problems, monkeypatch):
    """A model that is refused, no memory, a folder that cannot be: the next run starts as a first one."""
    out = tmp_path / "runs" / "x.jsonl"
    flags = ["--model", tiny_qwen2, "--data", problems, "--out", out, "--max-new-tokens", 3]

    def fail(*given):
        raise models.InputError("no")

    for name in ("check_decoding", "SlotCache", "prefill"):
        with monkeypatch.context() as patch, pytest.raises(models.InputError):
            patch.setattr(sample, name, fail)
            call(monkeypatch, *flags)
        assert names(tmp_path) == ["problems.jsonl"]
    before = problems.read_bytes()
    for place in (problems / "x.jsonl", tmp_path):          # under a file; a folder
        with pytest.raises((OSError, models.InputError)):
            call(monkeypatch, *flags, "--out", place)
        assert names(tmp_path) == ["problems.jsonl"] and problems.read_bytes() == before
    call(monkeypatch, *flags)
    assert len(read(out)) == 12


@pytest.mark.parametrize("flags", [
    ["--out", "problems.jsonl", "--force"], ["--out", "./problems.jsonl", "--resume"]])
def test_no_input_is_overwritten(tmp_path, tiny_qwen2, problems, monkeypatch, flags):
    monkeypatch.chdir(tmp_path)
    before = problems.read_bytes()
    with pytest.raises(models.InputError, match="is the input: write to another file"):
        call(monkeypatch, "--model", tiny_qwen2, "--data", "problems.jsonl", *flags)
    assert before == problems.read_bytes()


def test_a_file_of_the_model_is_an_input_and_a_pipe_is_no_file(tmp_path, tiny_qwen2, problems, monkeypatch):
    os.mkfifo(tmp_path / "pipe")                            # a rename would replace it, and /dev/null as well
    for out, said in ((tmp_path / "pipe", "plain file"), (f"{tiny_qwen2}/config.json", "is the input")):
        with pytest.raises(models.InputError, match=said):
            call(monkeypatch, "--model", tiny_qwen2, "--data", problems, "--out", out, "--force")
    assert (tmp_path / "pipe").is_fifo() and names(tmp_path) == ["pipe", "problems.jsonl"]


@pytest.mark.parametrize("template, problem", [("{{ '' }}", "a"), ("{{ messages[-1]['content'] }}", "<new>")])
def test_a_prompt_that_the_model_cannot_read_is_refused(tmp_path, tiny_qwen2, monkeypatch, template, problem):
    """An empty one, or a token that only the tokenizer has."""
    model, tokenizer = models.load(tiny_qwen2)
    tokenizer.chat_template = template
    tokenizer.add_tokens("<new>")
    models.save(model, tokenizer, tmp_path / "m")
    data = write(tmp_path / "p.jsonl", [{"problem": problem, "answer": "1"}])
    with pytest.raises(models.InputError, match="a text is empty, or has tokens"):
        call(monkeypatch, "--model", str(tmp_path / "m"), "--data", data, "--out", tmp_path / "x.jsonl")
    assert not (tmp_path / "x.jsonl").exists()


# ---- resume

def test_kill_and_resume_gives_the_file_of_an_uninterrupted_run(tmp_path, tiny_llama, repo, monkeypatch):
    rows = [{**p, "id": f"{r}-{i}"} for r in range(3) for i, p in enumerate(PROBLEMS)]
    data = write(tmp_path / "p.jsonl", rows)
    flags = ["--model", tiny_llama, "--data", data, "--num-samples", 2, "--seed", 5, "--max-new-tokens", 80,
             "--batch-size", 4]
    out = tmp_path / "killed.jsonl"
    process = subprocess.Popen([sys.executable, str(repo / "sample.py"), *map(str, flags), "--out", str(out)],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        if out.exists() and out.read_bytes().count(b"\n") >= 3:
            break
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    whole = [line for line in out.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    if len(whole) == 36:                                    # the kill came late: lose some lines
        whole = whole[::-1][:30]
    out.write_bytes(b"".join(whole) + b'{"id": "0-0", "probl')      # and half a line
    call(monkeypatch, *flags, "--out", out, "--resume")
    call(monkeypatch, *flags, "--out", tmp_path / "whole.jsonl")
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert len(read(out)) == 36


def test_only_the_missing_requests_are_sampled_again(tmp_path, problems, engine, monkeypatch):
    """Whole lines stay, half a line goes; an interrupt right after leaves a file that resumes again."""
    out = tmp_path / "x.jsonl"
    flags = ["--model", "m", "--data", problems, "--out", out, "--num-samples", 2]
    call(monkeypatch, *flags)
    whole = out.read_bytes()
    lines = whole.splitlines(keepends=True)
    out.write_bytes(lines[4] + lines[0] + lines[7][:30])
    real = sample.sample

    def interrupted(*given):
        results = real(*given)
        yield next(results)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sample, "sample", interrupted)
        call(monkeypatch, *flags, "--resume")
    assert out.read_bytes() == lines[4] + lines[0] + lines[1]
    call(monkeypatch, *flags, "--resume")
    assert engine[1:] == [[str(i) for i in range(12) if i not in (0, 4)],
                          [str(i) for i in range(12) if i not in (0, 1, 4)]]
    assert out.read_bytes() == whole
    call(monkeypatch, *flags, "--resume")                   # nothing is left to do
    assert len(engine) == 3 and out.read_bytes() == whole


def test_finished_runs_are_not_overwritten(tmp_path, problems, engine, monkeypatch):
    out, other = tmp_path / "x.jsonl", write(tmp_path / "other.jsonl", PROBLEMS)
    flags = ["--model", "m", "--data", problems, "--out", out]
    call(monkeypatch, *flags)
    first = out.read_bytes()
    assert json.loads((tmp_path / "x.jsonl.args.json").read_text())["temperature"] == 0     # K = 1: greedy
    with pytest.raises(models.InputError, match="--resume continues it, --force starts it again"):
        call(monkeypatch, *flags)
    for changes, said in ((["--seed", 1], "seed 0"), (["--max-new-tokens", 5], "max_new_tokens 8000"),
                          (["--num-samples", 2], "num_samples 1"), (["--dtype", "bf16"], "dtype 'auto'"),
                          (["--temperature", 1], "temperature 0"), (["--model", "n"], "model 'm'"),
                          (["--data", other], "data '.*problems.jsonl'"), (["--split", "x"], "split None"),
                          (["--skip-ungradable"], "skip_ungradable False")):
        with pytest.raises(models.InputError, match=f"was begun with {said}"):
            call(monkeypatch, *flags, "--resume", *changes)
    call(monkeypatch, *flags, "--resume", "--batch-size", 3)
    assert out.read_bytes() == first and len(engine) == 1
    call(monkeypatch, *flags, "--limit", 3, "--force")
    assert out.read_bytes() == b"".join(first.splitlines(keepends=True)[:3])
    call(monkeypatch, *flags, "--resume")                   # a larger --limit continues a smaller one
    assert out.read_bytes() == first and engine[1:] == [["0", "1", "2"], [str(i) for i in range(3, 12)]]
    out.write_bytes(b"")                                    # no line: nothing to resume, nothing to lose
    call(monkeypatch, *flags)
    assert out.read_bytes() == first


@pytest.mark.parametrize("change", [
    lambda row: row.pop("responses"), lambda row: row.update(responses=[]),
    lambda row: row.update(responses=None), lambda row: row.update(responses="x"),
    lambda row: row.update(responses=[5]), lambda row: row.pop("answer"), lambda row: row.update(answer="7"),
    lambda row: row.update(problem="another"), lambda row: row.update(id="stranger"),
    lambda row: row.update(id=["a"])])
def test_foreign_lines_are_not_resumed(tmp_path, problems, engine, monkeypatch, change):
    out = tmp_path / "x.jsonl"
    flags = ["--model", "m", "--data", problems, "--out", out]
    call(monkeypatch, *flags)
    rows = read(out)
    change(rows[1])
    before = write(out, rows).read_bytes()
    with pytest.raises(models.InputError, match="x.jsonl:2: missing, broken or not of this run; --force"):
        call(monkeypatch, *flags, "--resume")
    assert out.read_bytes() == before and len(engine) == 1


@pytest.mark.parametrize("text", [None, "", "{", "[1]", "{}", "5", "\x00", pytest.param("[" * 99999, id="deep")])
def test_without_its_flags_a_run_is_not_resumed(tmp_path, problems, engine, monkeypatch, text):
    flags = ["--model", "m", "--data", problems, "--out", tmp_path / "x.jsonl"]
    call(monkeypatch, *flags)
    kept = tmp_path / "x.jsonl.args.json"
    kept.unlink() if text is None else kept.write_text(text)
    with pytest.raises(models.InputError, match="x.jsonl.args.json: missing, broken or not of this run"):
        call(monkeypatch, *flags, "--resume")
    assert len(engine) == 1


def test_a_samples_file_can_be_sampled_again_and_resumed(tmp_path, problems, engine, monkeypatch):
    """Its old responses are neither kept nor taken for those of an interrupted run."""
    call(monkeypatch, "--model", "m", "--data", problems, "--out", tmp_path / "a.jsonl")
    out = tmp_path / "b.jsonl"
    flags = ["--model", "m", "--data", tmp_path / "a.jsonl", "--out", out, "--num-samples", 2]
    call(monkeypatch, *flags)
    whole = out.read_bytes()
    out.write_bytes(whole[:len(whole) // 2])
    call(monkeypatch, *flags, "--resume")
    assert out.read_bytes() == whole and len(engine[2]) < 12
    assert read(out)[3]["responses"] == ["3.0", "3.1"]


# ---- verification

@pytest.fixture
def samples(tmp_path):
    return write(tmp_path / "samples.jsonl", [
        {"id": "a", "problem": "1+1?", "answer": "2",
         "responses": ["\\boxed{2}", "so \\boxed{3}", "\\boxed{2}", "?"]},
        {"id": "b", "problem": "2+2?", "answer": "4", "responses": ["none"]},
        {"id": "c", "problem": "3+3?", "responses": ["\\boxed{3}"]}])


def test_verify_asks_once_for_every_distinct_answer(tmp_path, engine, samples, monkeypatch):
    out = tmp_path / "v.jsonl"
    flags = ["--model", "m", "--data", samples, "--out", out, "--verify", "--num-samples", 2]
    call(monkeypatch, *flags)
    rows = read(out)
    asked = [("a", "2"), ("a", "2"), ("a", "3"), ("a", "3"), ("c", "3"), ("c", "3")]
    assert [(r["id"], r["answer"], r["verification"]) for r in rows] == [
        (*pair, f"{pair[0]}\t{pair[1]}.{k % 2}") for k, pair in enumerate(asked)]
    assert rows[0] == {"id": "a", "problem": "1+1?", "answer": "2", "verification": "a\t2.0",
                       "kind": "confirmative", "finished": True}
    whole = out.read_bytes()
    out.write_bytes(b"".join(whole.splitlines(keepends=True)[:3]))      # killed amid the lines of a request
    call(monkeypatch, *flags, "--resume")
    assert out.read_bytes() == whole and engine == [["a\t2", "a\t3", "c\t3"], ["a\t3", "c\t3"]]
    write(out, [{k: v for k, v in row.items() if k != "verification"} for row in rows])
    with pytest.raises(models.InputError, match="v.jsonl:1: missing, broken or not of this run"):
        call(monkeypatch, *flags, "--resume")


def test_what_the_model_is_asked(samples):
    """A check sees the problem and the answer to check, which may be wrong, never the gold one."""
    def asked(*flags):
        argv = ["--model", "m", "--data", str(samples), "--out", "x", *flags]
        return [(r.system, r.user, r.gold) for r in sample.load_requests(sample.parse_args(argv))]

    assert asked()[:2] == [(models.SYSTEM_PROMPT, "1+1?", "2"), (models.SYSTEM_PROMPT, "2+2?", "4")]
    text = "Problem:\n{}\n\nYour earlier answer: {}\n\nCheck this answer."
    assert asked("--verify") == [(sample.VERIFY_SYSTEM, text.format(*pair), None)
                                 for pair in (("1+1?", "2"), ("1+1?", "3"), ("3+3?", "3"))]


def test_the_split_is_that_of_the_flag(tmp_path, monkeypatch):
    import datasets
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for name, rows in (("train", PROBLEMS[:2]), ("test", PROBLEMS[2:5])):
        write(tmp_path / "data" / f"{name}.jsonl", rows)
    argv = ["--model", "m", "--data", str(tmp_path / "data"), "--split", "test", "--out", "x"]
    args = sample.parse_args(argv)
    assert [r.user for r in sample.load_requests(args)] == [p["problem"] for p in PROBLEMS[2:5]]


def test_without_an_answer_there_is_nothing_to_check(tmp_path, engine, monkeypatch):
    data = write(tmp_path / "s.jsonl", [{"id": "b", "problem": "2+2?", "answer": "4", "responses": ["none"]}])
    with pytest.raises(models.InputError, match="s.jsonl: no boxed answers to check"):
        call(monkeypatch, "--model", "m", "--data", data, "--out", tmp_path / "v.jsonl", "--verify")
    assert names(tmp_path) == ["s.jsonl"]


def test_verifications_are_sampled(tmp_path, tiny_qwen2, samples, monkeypatch):
    call(monkeypatch, "--model", tiny_qwen2, "--data", samples, "--verify", "--max-new-tokens", 8, "--out",
         tmp_path / "v.jsonl")
    rows = read(tmp_path / "v.jsonl")
    assert [(r["id"], r["answer"]) for r in rows] == [("a", "2"), ("a", "3"), ("c", "3")]
