"""rl_outcome.py: numbers worked out by hand, parity with references, resume, bad input."""
import argparse
import copy
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from chain import END, ONE, RIGHT, TABLE, TWO, WAIT, WRONG, flags, save_chain, save_problems

import model as models
import rl_outcome as rl
import verifier


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    return save_chain(tmp_path_factory.mktemp("chain") / "model")


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    return save_problems(tmp_path_factory.mktemp("chain") / "problems.jsonl")


def run(*argv):
    rl.train(rl.parse_args([str(a) for a in argv]))


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def untimed(rows):
    return [{k: v for k, v in row.items() if "second" not in k and "per_s" not in k and k != "peak_gb"} for row in rows]


def weights(folder):
    return models.load(folder)[0].state_dict()


def same_weights(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


# ---------------------------------------------------------------- the maths

def test_leave_one_out_by_hand():
    rewards = torch.tensor([[1., 1., -1., -1.], [1., 1., 1., 1.], [1., -1., -1., -1.]])
    third = 1 / 3
    wanted = [[-third, -third, third, third], [1, 1, 1, 1], [-1, -third, -third, -third]]
    assert torch.allclose(rl.leave_one_out(rewards), torch.tensor(wanted))


def test_advantages_of_a_group_sum_to_zero_before_the_kl_term():
    rewards = torch.tensor([[1., -1., -1., 1., 1.], [-1., -1., 1., -1., -1.]])
    a = rl.advantage(rewards, rl.leave_one_out(rewards), torch.zeros(2, 5), 0.05)
    assert torch.allclose(a.sum(1), torch.zeros(2), atol=1e-6) and a.abs().max() > 1


def test_advantage_by_hand_and_without_gradient():
    log_ratio = torch.tensor([2.0, -4.0], requires_grad=True)
    a = rl.advantage(torch.tensor([1., -1.]), torch.tensor([-0.5, 0.5]), log_ratio, 0.1)
    assert torch.allclose(a, torch.tensor([1.3, -1.1]))         # 1.5 - 0.2 and -1.5 + 0.4
    assert not a.requires_grad


@pytest.mark.parametrize("ratio, advantage, loss, slope", [
    (1.5, 2.0, -2.4, 0.0),       # good, already likelier than 1 + eps: clipped, no gradient
    (0.5, 2.0, -1.0, -1.0),      # good, less likely: not clipped; d loss / d logp = -r A
    (1.5, -2.0, 3.0, 3.0),       # bad, likelier: not clipped
    (0.5, -2.0, 1.6, 0.0),       # bad, already less likely than 1 - eps: clipped
    (1.0, 2.0, -2.0, -2.0),
])
def test_clipped_loss(ratio, advantage, loss, slope):
    logp = torch.tensor([ratio]).log().requires_grad_()
    value = rl.clipped_loss(logp, torch.zeros(1), torch.tensor([advantage]), 0.2)
    value.sum().backward()
    assert value.item() == pytest.approx(loss, abs=1e-5) and logp.grad.item() == pytest.approx(slope, abs=1e-5)


def test_per_response_mean_and_sum():
    batch = [rl.Trajectory({}, [1], [1, 2, 3], True), rl.Trajectory({}, [1], [4], True)]
    logp = torch.tensor([-1., -2., -3., -5.])
    assert rl.per_response(logp, batch, "sum").tolist() == [-6, -5]
    assert rl.per_response(logp, batch, "mean").tolist() == [-2, -5]


def test_learning_rate():
    args = argparse.Namespace(lr=8.0, schedule="linear", warmup=2, steps=4)
    assert [models.learning_rate(s, args.steps, args) for s in range(4)] == [4, 6, 4, 2]
    args.schedule = "constant"
    assert [models.learning_rate(s, args.steps, args) for s in range(4)] == [4, 8, 8, 8]


def test_take_goes_through_every_item_once_an_epoch():
    drawn = [x for step in range(1, 15) for x in rl.take(list("abcdefg"), 4, step, seed=3)]
    for epoch in range(8):
        assert sorted(drawn[7 * epoch:7 * epoch + 7]) == list("abcdefg")
    assert drawn[:7] != drawn[7:14] or drawn[7:14] != drawn[14:21]
    assert len(rl.take([1, 2], 5, 1, 0)) == 5                   # fewer items than a step wants


# ---------------------------------------------------------------- log-probs and updates on tiny random models

def random_trajectories(path, lengths=(5, 1, 9, 3), prompts=(4, 7, 2, 11)):
    policy, tokenizer = models.load(path)
    torch.manual_seed(1)
    size = policy.get_output_embeddings().weight.shape[0]
    batch = [rl.Trajectory({}, torch.randint(5, size, (p,)).tolist(), torch.randint(5, size, (n,)).tolist(), True)
             for p, n in zip(prompts, lengths)]
    for i, t in enumerate(batch):
        t.advantage = torch.tensor([1.5, -0.5, 0.7, -2.0][i])
    return policy, batch


def update_args(**more):
    return argparse.Namespace(**{**dict(temperature=0.7, max_tokens=10 ** 6, ratio="mean", clip=0.2, max_grad_norm=1e9,
                                        offload="none", grad_checkpointing=False, lr=1e-3, offline=None), **more})


@pytest.mark.parametrize("tiny", ["tiny_qwen2", "tiny_llama"])
def test_response_logprobs_equal_the_naive_formula(tiny, request):
    policy, batch = random_trajectories(request.getfixturevalue(tiny))
    with torch.no_grad():
        found = rl.response_logprobs(policy, batch, 0.7)
        naive = []
        for t in batch:                                         # one row at a time, full logits
            logits = policy(torch.tensor([t.prompt + t.ids])).logits[0, len(t.prompt) - 1:-1] / 0.7
            naive.append(logits.log_softmax(-1)[range(len(t.ids)), t.ids])
    assert torch.allclose(found, torch.cat(naive), atol=1e-4)


def test_micro_batches_keep_everything_and_the_limit():
    batch = [rl.Trajectory({}, [0] * 3, [1] * n, True) for n in (5, 1, 9, 3, 3, 50)]
    parts = rl.micro_batches(batch, 24)
    assert sorted(id(t) for part in parts for t in part) == sorted(map(id, batch))
    assert all(len(p) == 1 or len(p) * max(3 + len(t.ids) for t in p) <= 24 for p in parts) and len(parts) == 3


@pytest.mark.parametrize("ratio", ["mean", "sum"])
@pytest.mark.parametrize("max_tokens", [12, 40, 10 ** 6])
def test_first_ratio_is_exactly_one(tiny_qwen2, ratio, max_tokens):
    policy, batch = random_trajectories(tiny_qwen2)
    args = update_args(ratio=ratio, max_tokens=max_tokens)
    rl.set_logprobs(policy, None, [batch], args)
    optimizer, masters = adam(policy, args)
    assert rl.update(policy, optimizer, batch, 1e-3, args)["ratio"].tolist() == [1.0] * 4
    assert rl.update(policy, optimizer, batch, 1e-3, args)["ratio"].tolist() != [1.0] * 4


def adam(policy, args):
    """-> (optimizer, its float32 weights)"""
    optimizer = models.make_optimizer(policy, args.lr, args.offload in ("optimizer", "both"))
    return optimizer, optimizer.param_groups[0]["params"]


def gradients_after(path, args):
    """Weights after one SGD-like look: the gradient that update() hands to the optimizer."""
    policy, batch = random_trajectories(path)
    rl.set_logprobs(policy, None, [batch], args)
    optimizer, masters = adam(policy, args)
    seen = []
    optimizer.step = lambda: seen.extend(w.grad.clone() for w in masters)
    rl.update(policy, optimizer, batch, 1e-3, args)
    return seen


@pytest.mark.parametrize("other", [{"max_tokens": 1}, {"max_tokens": 40}, {"offload": "optimizer"},
                                   {"grad_checkpointing": True}])
def test_gradient_does_not_depend_on_how_it_is_made(tiny_qwen2, other):
    """Accumulation 1 x 4 = 4 x 1; masters on the host; checkpointing."""
    whole, parts = gradients_after(tiny_qwen2, update_args()), gradients_after(tiny_qwen2, update_args(**other))
    assert len(whole) == len(parts) > 5
    for a, b in zip(whole, parts):
        assert torch.allclose(a, b, atol=1e-5 * a.abs().max().item() + 1e-8)
    assert max(a.abs().max() for a in whole) > 1e-3


def test_a_bf16_policy_keeps_its_small_updates(chain):
    policy, _ = models.load(chain, dtype="bf16")
    args = update_args(lr=1e-6)
    batch = [rl.Trajectory({}, [2], [ONE, WAIT, RIGHT, END], True, advantage=torch.tensor(1.0))]
    rl.set_logprobs(policy, None, [batch], args)
    optimizer, masters = adam(policy, args)
    before = [w.clone() for w in masters]
    rl.update(policy, optimizer, batch, 1e-6, args)
    assert all(w.dtype == torch.float32 for w in masters)
    assert any((w != b).any() for w, b in zip(masters, before))
    assert all(torch.equal(p, w.bfloat16()) for p, w in zip(policy.parameters(), masters))


def test_a_better_response_becomes_likelier_and_a_worse_one_less_likely(chain):
    policy, _ = models.load(chain)
    args = update_args()
    good, bad = (rl.Trajectory({}, [2], [first, WAIT, RIGHT, END], True) for first in (ONE, TWO))
    good.advantage, bad.advantage = torch.tensor(1.0), torch.tensor(-1.0)
    rl.set_logprobs(policy, None, [[good, bad]], args)
    before = [t.logp[0].item() for t in (good, bad)]
    assert before == pytest.approx([torch.tensor(.5).log().item()] * 2, abs=1e-3)
    optimizer, masters = adam(policy, args)
    rl.update(policy, optimizer, [good, bad], 1e-3, args)
    rl.set_logprobs(policy, None, [[good, bad]], args)
    assert good.logp[0].item() > before[0] and bad.logp[0].item() < before[1]


def test_a_gradient_that_is_not_finite_changes_nothing(chain):
    policy, _ = models.load(chain)
    args = update_args()
    batch = [rl.Trajectory({}, [2], [ONE, END], True, advantage=torch.tensor(float("nan")))]
    rl.set_logprobs(policy, None, [batch], args)
    optimizer, masters = adam(policy, args)
    before = copy.deepcopy(policy.state_dict())
    assert rl.update(policy, optimizer, batch, 1e-3, args)["skipped"]
    assert same_weights(before, policy.state_dict()) and not optimizer.state


# ---------------------------------------------------------------- rollout

@pytest.mark.parametrize("tiny", ["tiny_qwen2", "tiny_llama"])
def test_greedy_rollout_equals_generate(tiny, request):
    policy, tokenizer = models.load(request.getfixturevalue(tiny))
    stops = models.stop_ids(policy, tokenizer)
    torch.manual_seed(0)
    prompts = [torch.randint(5, 250, (n,)).tolist() for n in torch.randint(1, 30, (24,)).tolist()]
    found = rl.rollout(policy, prompts, 1, stops, 0, torch.zeros(24, 20))
    for prompt, ids in zip(prompts, found):
        out = policy.generate(torch.tensor([prompt]), max_new_tokens=20, do_sample=False, eos_token_id=stops,
                              pad_token_id=tokenizer.pad_token_id)[0, len(prompt):].tolist()
        assert ids == out


def test_a_sample_does_not_depend_on_its_batch(tiny_qwen2):
    policy, tokenizer = models.load(tiny_qwen2)
    stops = models.stop_ids(policy, tokenizer)
    prompts = [models.prompt_ids(tokenizer, text) for text in ("Solve 7x+133=693", "2+2", "If $a^2 = 2$ then?")]
    uniforms = torch.rand(12, 25, generator=torch.Generator().manual_seed(5))
    together = rl.rollout(policy, prompts, 4, stops, 0.7, uniforms)
    apart = [ids for i, p in enumerate(prompts) for ids in rl.rollout(policy, [p], 4, stops, 0.7, uniforms[4 * i:4 * i + 4])]
    single = [rl.rollout(policy, [prompts[i // 4]], 1, stops, 0.7, uniforms[i:i + 1])[0] for i in range(12)]
    assert together == apart == single and len({tuple(ids) for ids in together}) > 6


def test_choose_draws_from_the_softmax():
    """Chi-square of 40,000 draws at T = 0.7 over 5 tokens: 99.9 % point for 4 degrees of freedom is 18.5."""
    logits = torch.tensor([0.0, 1.0, -1.0, 0.5, -3.0])
    uniforms = torch.rand(40000, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(rl.choose(logits.expand(40000, 5), uniforms, 0.7), minlength=5)
    expected = 40000 * (logits / 0.7).softmax(-1)
    assert ((counts - expected) ** 2 / expected).sum() < 18.5
    edge = rl.choose(logits.expand(2, 5), torch.tensor([0.0, 1 - 2 ** -24]), 0.7)
    assert edge.tolist() == [0, 4]


def test_responses_are_cut_and_rewarded(chain, problems):
    """The stop token stays as the last token; R_o is the last solution's; unfinished responses count as wrong."""
    policy, tokenizer = models.load(chain)
    args = rl.parse_args(flags(chain, problems, "unused", "--max-new-tokens", 7))
    found = rl.sample_trajectories(policy, tokenizer, models.read_problems(problems), 4, 0.7, args, 1)
    assert len(found) == 48 and {t.finished for t in found} == {True, False}
    for t in found:
        assert t.finished == (t.ids[-1] == END) and END not in t.ids[:-1]
        last = [i for i in t.ids if i in (ONE, TWO)][-1]
        assert t.reward == (1 if t.finished and last == ONE else -1) and rl.solves(t)[-1] == (last == ONE)
        assert t.finished or t.rewards[-1] == -1
    other = rl.sample_trajectories(policy, tokenizer, models.read_problems(problems), 4, 0.7, args, 2)
    assert [t.ids for t in found] != [t.ids for t in other]
    args.rollout_rows = 8                                       # fewer rows at a time, the same samples
    again = rl.sample_trajectories(policy, tokenizer, models.read_problems(problems), 4, 0.7, args, 1)
    assert [t.ids for t in found] == [t.ids for t in again]


def scored(text, gold="1", finished=True):
    t = rl.Trajectory({"answer": gold}, [1], [1, 2], finished, actions=verifier.parse_actions(text))
    t.right = [reward > 0 for reward in verifier.action_rewards(t.actions, gold, True)]
    t.rewards = verifier.action_rewards(t.actions, gold, finished)
    t.reward = verifier.outcome_reward(t.actions, gold, finished)
    return t


S1, S2 = "\\boxed{1}\n\n", "\\boxed{2}\n\n"
OK = "Wait, let me recheck my solution.\n\nTherefore, the answer is correct.\n\n"
NO = "Wait, let me recheck my solution.\n\nTherefore, the answer is incorrect.\n\n"
DUNNO = "Wait, let me recheck my solution.\n\nHm.\n\n"
RETRY = "Let me try again.\n\n"


def test_behaviour_by_hand():
    """wrong-caught-right-passed; right-passed; wrong-passed; right-refuted-wrong-(no verdict), unfinished."""
    found = rl.behaviour([scored(S2 + NO + RETRY + S1 + OK), scored(S1 + OK), scored(S2 + OK),
                          scored(S1 + NO + RETRY + S2 + DUNNO, finished=False)])
    wanted = {"accuracy": 2 / 4, "first_accuracy": 2 / 4, "VA": 3 / 6, "ER": 1 / 3, "CP": 2 / 3, "ICR": 1 / 2,
              "CIR": 1 / 2, "no_verdict": 1 / 6, "trials": 6 / 4, "finished": 3 / 4, "tokens": 2}
    assert found == pytest.approx(wanted)
    assert rl.behaviour([scored(S1)])["VA"] is None             # no verification: undefined, not 0


# ---------------------------------------------------------------- whole runs on the chain

def test_training_learns_the_chain_and_logs_it(chain, problems, tmp_path):
    run(*flags(chain, problems, tmp_path / "run", "--eval-data", problems, steps=12))
    rows = read(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(13))
    assert sum(r["accuracy"] for r in rows[1:3]) / 2 < 0.7 < 0.9 < sum(r["accuracy"] for r in rows[-3:]) / 3
    for key in ("reward", "first_accuracy", "VA", "ER", "CP", "ICR", "CIR", "trials", "tokens", "finished", "kl",
                "entropy", "clip_share", "ratio_mean", "ratio_max", "grad_norm", "loss", "lr", "skipped",
                "no_signal", "rollout_tokens_per_s", "update_tokens_per_s", "peak_gb",
                "seconds", "seconds_rollout", "seconds_logprobs", "seconds_update"):
        assert key in rows[-1], key
    assert "eval_accuracy" in rows[0] and "eval_accuracy" in rows[2] and "eval_accuracy" not in rows[1]
    assert rows[1]["kl"] == 0 and 0 < rows[1]["entropy"] < 1
    text = (tmp_path / "run" / "samples.txt").read_text()
    assert text.count("== step") == 12 and "[solve " in text and "[verify " in text
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"args.json", "metrics.jsonl", "samples.txt", "last", "best"}
    assert (tmp_path / "run" / "last" / "trainer.pt").exists() and not (tmp_path / "run" / "best" / "trainer.pt").exists()
    assert json.loads((tmp_path / "run" / "args.json").read_text())["num_samples"] == 4


@pytest.mark.parametrize("extra", [["--ratio", "sum", "--schedule", "linear"], ["--beta", "0"],
                                   ["--offload", "both", "--grad-checkpointing"], ["--dtype", "bf16"]])
def test_resume_is_exact(chain, problems, tmp_path, extra):
    """Two runs of which one is cut at step 2 of 4 end in the same weights, logs and optimizer."""
    run(*flags(chain, problems, tmp_path / "whole", "--eval-data", problems, *extra))
    if "linear" in extra:                           # the schedule needs the real number of steps: stop it by Ctrl-C
        handler = {}
        original = signal.signal
        signal.signal = lambda number, action: handler.setdefault("stop", action)
        update, calls = rl.update, []

        def interrupting(*args):
            calls.append(1)
            if len(calls) == 3:
                handler["stop"]()
            return update(*args)
        rl.update = interrupting
        try:
            with pytest.raises(KeyboardInterrupt):
                run(*flags(chain, problems, tmp_path / "cut", "--eval-data", problems, *extra))
        finally:
            rl.update, signal.signal = update, original
    else:
        run(*flags(chain, problems, tmp_path / "cut", "--eval-data", problems, *extra, steps=2))
    assert len(read(tmp_path / "cut" / "metrics.jsonl")) == 3
    run(*flags(chain, problems, tmp_path / "cut", "--eval-data", problems, "--resume", *extra))
    whole, cut = (weights(tmp_path / name / "last") for name in ("whole", "cut"))
    assert same_weights(whole, cut) and not same_weights(whole, weights(chain))
    a, b = (untimed(read(tmp_path / name / "metrics.jsonl")) for name in ("whole", "cut"))
    assert len(a) == 5
    if "linear" not in extra:
        assert a == b and (tmp_path / "whole/samples.txt").read_text() == (tmp_path / "cut/samples.txt").read_text()
    states = [torch.load(tmp_path / name / "last" / "trainer.pt") for name in ("whole", "cut")]
    assert all(torch.equal(x, y) for x, y in zip(states[0]["weights"], states[1]["weights"]))
    assert all(torch.equal(x["exp_avg_sq"], y["exp_avg_sq"]) for x, y in
               zip(states[0]["optimizer"]["state"].values(), states[1]["optimizer"]["state"].values()))


def test_resume_after_kill_9(chain, problems, tmp_path, repo):
    """Killed at any moment, also half-way through a checkpoint, the run ends as if nothing had happened."""
    argv = flags(chain, problems, tmp_path / "killed", "--eval-data", problems, steps=60)
    process = subprocess.Popen([sys.executable, str(repo / "rl_outcome.py"), *argv], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    log = tmp_path / "killed" / "metrics.jsonl"
    deadline = time.time() + 120
    while time.time() < deadline and process.poll() is None and not (log.exists() and log.read_text().count("\n") > 7):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = len(read(log)) - 1
    assert 7 <= done < 60
    run(*argv, "--resume")
    run(*flags(chain, problems, tmp_path / "whole", "--eval-data", problems, steps=60))
    assert same_weights(weights(tmp_path / "whole" / "last"), weights(tmp_path / "killed" / "last"))
    assert untimed(read(tmp_path / "whole" / "metrics.jsonl")) == untimed(read(log))


def test_three_bad_updates_stop_the_run_and_leave_the_last_checkpoint(chain, problems, tmp_path, monkeypatch):
    run(*flags(chain, problems, tmp_path / "run", steps=2))
    before = weights(tmp_path / "run" / "last")
    monkeypatch.setattr(rl, "clipped_loss", lambda logp, *rest: logp * float("nan"))
    with pytest.raises(models.InputError, match="not finite"):
        run(*flags(chain, problems, tmp_path / "run", "--resume", steps=9))
    assert same_weights(before, weights(tmp_path / "run" / "last"))
    assert torch.load(tmp_path / "run" / "last" / "trainer.pt")["step"] == 2


def write_samples(path):
    """Six problems, eight responses each; `right` of them are right at the first go."""
    good, bad = S1 + OK.strip(), S2 + NO + RETRY + S1 + NO.strip() + "\n\n" + RETRY + S2 + OK.strip()
    rows = []
    for i, right in enumerate((0, 1, 2, 4, 5, 8)):
        rows.append({"id": str(i), "problem": "Q", "answer": "1", "level": 1,
                     "responses": [good] * right + [bad] * (8 - right), "finished": [True] * 8, "tokens": [9] * 8})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_offline(chain, tmp_path):
    args = rl.parse_args(["--model", chain, "--out", "x", "--offline", str(write_samples(tmp_path / "s.jsonl"))])
    data = rl.read_offline(*models.load(chain), args)
    rl.set_bin_baselines(data)
    assert len(data) == 4 * 8                                   # accuracies 1/8, 2/8, 4/8, 5/8 lie in [0.1, 0.7]
    assert {round(t.problem["accuracy"], 3): round(t.baseline, 3) for t in data} == {
        .125: -.75, .25: -.5, .5: 0, .625: .25}                 # 2 * accuracy - 1: every bin has one problem
    assert all(t.ids[-1] == END for t in data)
    run("--model", chain, "--offline", tmp_path / "s.jsonl", "--out", tmp_path / "run", "--steps", 6, "--lr", 1e-2,
        "--prompts-per-step", 2, "--max-new-tokens", 40, "--warmup", 0)
    row = read(tmp_path / "run" / "metrics.jsonl")[-1]
    assert row["rollout_tokens_per_s"] is None
    tokens = torch.tensor([[2]])
    logp = [models.load(path)[0](tokens).logits[0, -1].log_softmax(-1)[ONE].item() for path in (chain, tmp_path / "run/last")]
    assert logp[1] > logp[0] + 0.05                             # the right first answer became likelier


def rejected(t):
    return rl.rejected(t, argparse.Namespace(max_new_tokens=100))


def test_rejection_rules_of_the_offline_variant():
    assert rejected(scored(S2 + NO + RETRY + S1 + OK)) is None
    assert "verify" in rejected(scored(S2 + NO + RETRY + S1))
    assert "goes on" in rejected(scored(S1 + OK + RETRY + S1 + OK))
    assert rejected(scored(S2 + OK + RETRY + S1 + OK)) is None           # accepted wrongly, then mended
    assert "20" in rejected(scored((S2 + NO + RETRY) * 10 + S1 + OK))
    assert rejected(scored((S2 + NO + RETRY) * 9 + S1 + OK)) is None


def test_accuracy_filter(chain, tmp_path):
    rows = [{"id": str(i), "problem": f"Q{i}", "answer": "1", "responses": [S1] * right + [S2] * (4 - right),
             "finished": [True] * 4} for i, right in enumerate((0, 1, 2, 4))]
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    args = rl.parse_args(["--model", chain, "--data", str(tmp_path / "s.jsonl"), "--samples", str(tmp_path / "s.jsonl"),
                          "--out", "x", "--min-acc", "0.25", "--max-acc", "0.9"])
    assert [row["id"] for row in rl.read_data(*models.load(chain), args)[0]] == ["1", "2"]
    args.min_acc = 0.6
    with pytest.raises(models.InputError, match="nothing is left"):
        rl.read_data(*models.load(chain), args)


# ---------------------------------------------------------------- bad input

def test_a_run_is_not_overwritten_nor_resumed_with_other_flags(chain, problems, tmp_path):
    argv = flags(chain, problems, tmp_path / "run", steps=2)
    run(*argv)
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    with pytest.raises(models.InputError, match="--resume"):
        run(*argv)
    with pytest.raises(models.InputError, match="--beta"):
        run(*argv, "--resume", "--beta", "0.3")
    run(*argv, "--resume")                                      # finished: nothing to do
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before
    run(*argv, "--force", "--seed", "1")
    assert untimed(read(tmp_path / "run" / "metrics.jsonl")) != untimed(map(json.loads, before.splitlines()))


@pytest.mark.parametrize("line, words", [
    ('{"problem": "Q", "answer": ""}', ["problems.jsonl:2", "answer"]),
    ('{"problem": "Q"}', ["problems.jsonl:2", "answer"]),
    ('{"problem": ', ["problems.jsonl:2", "JSON"]),
    ('[1]', ["problems.jsonl:2"]),
])
def test_bad_problem_lines(chain, tmp_path, line, words):
    data = tmp_path / "problems.jsonl"
    data.write_text('{"problem": "Q", "answer": "1"}\n' + line + "\n")
    with pytest.raises(models.InputError) as error:
        run(*flags(chain, data, tmp_path / "run"))
    assert all(word in str(error.value) for word in words) and not (tmp_path / "run").exists()


@pytest.mark.parametrize("extra, word", [
    (["--temperature", "0"], "--temperature"), (["--num-samples", "1"], "--num-samples"),
    (["--steps", "0"], "--steps"), (["--updates-per-rollout", "25"], "--updates-per-rollout"),
    (["--offline", "s.jsonl"], "--offline"), (["--model", "/nowhere/at/all"], "/nowhere"),
    (["--eval-data", "/nowhere.jsonl"], "/nowhere.jsonl"), (["--samples", "/nowhere.jsonl"], "/nowhere.jsonl"),
])
def test_bad_flags(chain, problems, tmp_path, extra, word):
    with pytest.raises(models.InputError, match=word):
        run(*flags(chain, problems, tmp_path / "run", *extra))
    assert not (tmp_path / "run").exists()


def test_bad_samples_file(chain, tmp_path):
    (tmp_path / "s.jsonl").write_text('{"problem": "Q", "answer": "1", "responses": ["a"], "finished": []}\n')
    with pytest.raises(models.InputError, match="s.jsonl:1.*finished"):
        run("--model", chain, "--offline", tmp_path / "s.jsonl", "--out", tmp_path / "run")


def test_stored_responses_beyond_the_last_position_are_not_learnt_from(chain, tmp_path, capsys):
    text = S2 + NO + RETRY + S1 + OK
    row = {"problem": "Q", "answer": "1", "responses": [text, S2, S2 * 300 + text], "finished": [True] * 3}
    (tmp_path / "s.jsonl").write_text(json.dumps(row) + "\n")
    args = rl.parse_args(["--model", chain, "--offline", str(tmp_path / "s.jsonl"), "--out", "r"])
    assert len(rl.read_offline(*models.load(chain), args)) == 1 and (
        "'empty, too long or unreadable': 1" in capsys.readouterr().out)


def test_stored_responses_of_tokens_that_only_the_tokenizer_has_are_not_learnt_from(chain, tmp_path, capsys):
    text, (policy, tokenizer) = S2 + NO + RETRY + S1 + OK, models.load(chain)
    tokenizer.add_tokens("<new>")
    row = {"problem": "Q", "answer": "1", "responses": [text, S2, "<new>" + text], "finished": [True] * 3}
    (tmp_path / "s.jsonl").write_text(json.dumps(row) + "\n")
    args = rl.parse_args(["--model", chain, "--offline", str(tmp_path / "s.jsonl"), "--out", "r"])
    assert len(rl.read_offline(policy, tokenizer, args)) == 1
    assert "'empty, too long or unreadable': 1" in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--prompts-per-step", "--num-samples"])
def test_a_rollout_has_an_end(flag):
    with pytest.raises(models.InputError, match=flag):
        rl.parse_args(["--model", "m", "--data", "d", "--out", "r", flag, "9" * 25])


def test_bad_input_is_one_line_and_status_2(chain, run_script, tmp_path):
    found = run_script("rl_outcome.py", "--model", chain, "--data", "missing.jsonl", "--out", "run")
    assert found.returncode == 2 and "Traceback" not in found.stderr
    assert [x for x in found.stderr.splitlines() if x.startswith("error:")] == [
        "error: missing.jsonl: [Errno 2] No such file or directory: 'missing.jsonl'"]
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- faults that once went unnoticed, and their neighbours

def naive_ratio_loss(policy, batch, temperature, ratio):
    """-(1/B) sum of A r by autograd, every logit in memory, a response at a time; r = 1 in value."""
    terms = []
    for t in batch:
        logits = policy(torch.tensor([t.prompt + t.ids])).logits[0, len(t.prompt) - 1:-1] / temperature
        logp = logits.log_softmax(-1)[range(len(t.ids)), t.ids]
        total = logp.mean() if ratio == "mean" else logp.sum()
        terms.append(-t.advantage * torch.exp(total - total.detach()))
    return torch.stack(terms).mean()


@pytest.mark.parametrize("ratio", ["mean", "sum"])
def test_gradient_of_update_is_that_of_the_naive_formula(tiny_qwen2, ratio):
    """No KL term with a gradient, no gradient through the advantage, the right sign and denominator."""
    policy, batch = random_trajectories(tiny_qwen2)
    wanted = torch.autograd.grad(naive_ratio_loss(policy, batch, 0.7, ratio), list(policy.parameters()))
    found = gradients_after(tiny_qwen2, update_args(ratio=ratio, max_tokens=40))
    for a, b in zip(found, wanted, strict=True):
        assert torch.allclose(a, b, atol=1e-4 * b.abs().max().item() + 1e-8)


def test_log_probs_of_a_rollout_are_scored_once(chain, problems, tmp_path):
    """Were pi_old scored anew before the second update, its ratio would be 1 as well."""
    run(*flags(chain, problems, tmp_path / "run", steps=2))
    rows = read(tmp_path / "run" / "metrics.jsonl")
    assert rows[2]["ratio_max"] > 1.01 and rows[2]["clip_share"] < 1


def pair(lengths=(2, 4), gap=0.5):
    batch = [rl.Trajectory({}, [1], [1] * n, True, reward=r) for n, r in zip(lengths, (1, -1))]
    for t in batch:
        t.logp, t.logp_ref = torch.full((len(t.ids),), -1.0), torch.full((len(t.ids),), -1.0 - gap)
    return batch


def advantage_args(**more):
    return argparse.Namespace(**{**dict(beta=0.1, num_samples=2, offline=None), **more})


def test_the_kl_term_is_summed_over_tokens_and_lowers_the_advantage():
    batch = pair()
    silent = rl.set_advantages(batch, advantage_args())
    assert [t.advantage.item() for t in batch] == pytest.approx([1 + 1 - 0.1 * 1, -1 - 1 - 0.1 * 2]) and silent == 0
    rl.set_advantages(batch, advantage_args(beta=0.0))
    assert [t.advantage.item() for t in batch] == [2, -2]
    batch[1].reward = 1
    assert rl.set_advantages(batch, advantage_args()) == 1      # all alike: nothing to learn but the KL term
    assert [t.advantage.item() for t in batch] == pytest.approx([-0.1, -0.2])


def test_offline_uses_the_stored_baseline_and_the_reference_as_pi_old(tiny_qwen2):
    batch = pair(gap=0.0)
    batch[0].baseline, batch[1].baseline = -0.75, 0.5
    rl.set_advantages(batch, advantage_args(offline="file"))
    assert [t.advantage.item() for t in batch] == [1.75, -1.5]
    policy, batch = random_trajectories(tiny_qwen2)
    reference, args = models.load(tiny_qwen2)[0], update_args(offline="file")
    with torch.no_grad():
        policy.get_output_embeddings().weight.mul_(1.1)
    rl.set_logprobs(policy, reference, [batch], args)
    assert all(torch.equal(t.logp_old, t.logp_ref) and not torch.allclose(t.logp, t.logp_ref) for t in batch)
    rl.set_logprobs(policy, reference, [batch], update_args())
    assert all(torch.equal(t.logp_old, t.logp) for t in batch)
    with torch.no_grad():                           # the temperature divides the reference's logits too
        for t in batch:
            logits = reference(torch.tensor([t.prompt + t.ids])).logits[0, len(t.prompt) - 1:-1] / 0.7
            assert torch.allclose(t.logp_ref, logits.log_softmax(-1)[range(len(t.ids)), t.ids], atol=1e-4)


def test_resume_goes_on_in_the_offline_data(chain, tmp_path):
    argv = ["--model", chain, "--offline", write_samples(tmp_path / "s.jsonl"), "--lr", 1e-2, "--prompts-per-step", 1,
            "--num-samples", 4, "--max-new-tokens", 40, "--warmup", 0, "--save-every", 2, "--updates-per-rollout", 2]
    run(*argv, "--out", tmp_path / "whole", "--steps", 4)
    run(*argv, "--out", tmp_path / "cut", "--steps", 2)
    run(*argv, "--out", tmp_path / "cut", "--steps", 4, "--resume")
    assert same_weights(*(weights(tmp_path / name / "last") for name in ("whole", "cut")))


def test_unfinished_samples_count_as_accurate_but_are_punished(chain, tmp_path):
    row = {"problem": "Q", "answer": "1", "responses": [S1 + OK.strip()] * 2, "finished": [False, True]}
    (tmp_path / "s.jsonl").write_text(json.dumps(row) + "\n")
    args = rl.parse_args(["--model", chain, "--out", "x", "--offline", str(tmp_path / "s.jsonl"), "--max-acc", "1"])
    first, second = rl.read_offline(*models.load(chain), args)
    assert first.problem["accuracy"] == 1 and (first.reward, second.reward) == (-1, 1)
    assert first.rewards == [1, -1] and second.rewards == [1, 1] and rl.solves(first) == [True]
    assert first.ids + [END] == second.ids
    rl.set_bin_baselines([first, second])
    assert first.baseline == second.baseline == 0


def test_a_check_is_judged_against_the_solution_before_it():
    found = rl.behaviour([scored(S2 + NO + RETRY + S1 + OK)])
    assert (found["VA"], found["ER"], found["CP"], found["ICR"], found["CIR"]) == (1, 1, 1, 1, None)
    found = rl.behaviour([scored(S1 + NO + RETRY + S1 + OK)])   # doubts a right one, in vain
    assert (found["VA"], found["ER"], found["CP"], found["ICR"], found["CIR"]) == (1 / 2, None, 1, None, 0)


def test_a_right_but_unfinished_response_counts_in_accuracy_alone():
    found = scored(S1 + OK, finished=False)
    assert rl.behaviour([found])["accuracy"] == 1 and found.reward == -1 and found.rewards == [1, -1]
    assert rl.behaviour([found])["VA"] == 1 and rl.behaviour([found])["finished"] == 0


def test_every_stop_token_ends_a_response(tiny_qwen2):
    """The eos token is <|endoftext|>, but the model ends its turns with <|im_end|>."""
    policy, tokenizer = models.load(tiny_qwen2)
    tokenizer.eos_token = "<|endoftext|>"
    turn, text = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    stops = models.stop_ids(policy, tokenizer)
    assert {turn, text} <= set(stops)
    for stop in (turn, text):
        with torch.no_grad():
            policy.get_output_embeddings().weight.zero_()       # every token alike, so the uniform picks the token
        size = policy.get_output_embeddings().weight.shape[0]
        uniforms = torch.tensor([[5.5, 6.5, stop + 0.5, 7.5]], dtype=torch.float64) / size
        assert rl.rollout(policy, [[3, 4]], 1, stops, 1.0, uniforms) == [[5, 6, stop]]


def test_every_token_of_a_large_vocabulary_can_be_drawn():
    """With a float32 CDF some 116,000 of these tokens could not: here the 64 least likely, and 64 others."""
    size = 151936
    logits = torch.randn(size, generator=torch.Generator().manual_seed(0)) * 2
    probs = logits.softmax(-1)
    cdf = probs.double().cumsum(-1)
    for places in (probs.argsort()[:64], torch.arange(0, size, size // 63)[:64]):
        middle = (cdf[places] - probs[places].double() / 2) / cdf[-1]
        assert torch.equal(rl.choose(logits.expand(64, size), middle, 1.0), places)


def test_random_streams_have_nothing_in_common():
    keys = [("draws", 1, 0, 0), ("order", 1), ("epoch", 1), ("draws", 1, 0, 1), ("draws", 1, 1, 0), ("draws", 2, 0, 0),
            ("order", 2), ("epoch", 0), ("order", 0)]
    first = [rl.stream(7, *key).random() for key in keys]
    assert len(set(first)) == len(keys) and first[0] == rl.stream(7, "draws", 1, 0, 0).random()
    assert rl.stream(8, "order", 1).random() != first[1]


def test_the_first_problems_of_the_first_epoch_are_visited():
    assert sorted(x for step in (1, 2, 3) for x in rl.take(list("abcdef"), 2, step, seed=0)) == list("abcdef")


def test_a_response_ends_at_the_models_last_position(tiny_qwen2, capsys):
    policy, _ = models.load(tiny_qwen2)
    policy.config.max_position_embeddings = 10
    found = rl.rollout(policy, [[5, 6, 7], [8]], 2, [-5], 0.7, torch.rand(4, 20, dtype=torch.float64))
    assert [len(ids) for ids in found] == [7, 7, 9, 9]
    args = argparse.Namespace(rollout_rows=9, max_new_tokens=10**25, seed=0)      # no more draws than positions
    assert rl.sample_trajectories(policy, models.load_tokenizer(tiny_qwen2), [], 2, 0.7, args, 1) == []
    models.check_room(policy, [[1, 2, 3]], 7)
    assert capsys.readouterr().out == ""
    models.check_room(policy, [[1, 2, 3]], 8)
    assert "position 10" in capsys.readouterr().out
    with pytest.raises(models.InputError, match="10 positions"):
        models.check_room(policy, [[1] * 10], 1)


def test_a_linear_schedule_is_not_resumed_with_other_steps(chain, problems, tmp_path):
    run(*flags(chain, problems, tmp_path / "run", "--schedule", "linear", steps=2))
    with pytest.raises(models.InputError, match="--steps"):
        run(*flags(chain, problems, tmp_path / "run", "--schedule", "linear", "--resume", steps=4))


def test_best_is_the_best_evaluation_step_0_included(chain, problems, tmp_path):
    argv = flags(chain, problems, tmp_path / "run", "--eval-data", problems, "--lr", "0")
    run(*argv[:], "--eval-every", "1")
    assert same_weights(weights(tmp_path / "run" / "best"), weights(chain))     # nothing beat step 0
    state = torch.load(tmp_path / "run" / "last" / "trainer.pt")
    assert state["best"] == read(tmp_path / "run" / "metrics.jsonl")[0]["eval_accuracy"]
    torch.save({**state, "best": 2.0}, tmp_path / "run" / "last" / "trainer.pt")
    import shutil
    shutil.rmtree(tmp_path / "run" / "best")
    run(*flags(chain, problems, tmp_path / "run", "--eval-data", problems, "--lr", "0", "--eval-every", "1", "--resume",
               steps=6))
    assert not (tmp_path / "run" / "best").exists()


def test_ctrl_c_leaves_no_extra_evaluation(chain, problems, tmp_path, monkeypatch):
    """Interrupted at step 3 and resumed, the log is that of an uninterrupted run."""
    argv = ["--eval-data", problems, "--schedule", "linear"]
    run(*flags(chain, problems, tmp_path / "whole", *argv))
    real, calls = rl.update, []

    def interrupting(*args):
        calls.append(1)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(rl, "update", interrupting)
        run(*flags(chain, problems, tmp_path / "cut", *argv))
    assert [row["step"] for row in read(tmp_path / "cut" / "metrics.jsonl")] == [0, 1, 2, 3]
    run(*flags(chain, problems, tmp_path / "cut", *argv, "--resume"))
    for name in ("metrics.jsonl", "samples.txt"):
        texts = [(tmp_path / run_name / name) for run_name in ("whole", "cut")]
        if name == "samples.txt":
            assert texts[0].read_text() == texts[1].read_text()
        else:
            assert untimed(read(texts[0])) == untimed(read(texts[1]))


def test_bins_are_tenths_and_end_below_the_next():
    """3/8 lies in the bin of 0.3, not in that of 0.4."""
    data = [rl.Trajectory({"accuracy": accuracy}, [1], [1], True, reward=reward)
            for accuracy, reward in ((.375, 1), (.4, -1), (.3, -1))]
    rl.set_bin_baselines(data)
    assert [t.baseline for t in data] == [0, -1, 0]


def test_a_bf16_policy_draws_from_float32_logits(tiny_qwen2):
    """The t-th of 2,000 first tokens inverts the float32 CDF; bf16 logits would move a few of them."""
    policy, _ = models.load(tiny_qwen2, dtype="bf16")
    uniforms = (torch.arange(2000, dtype=torch.float64) + 0.5)[:, None] / 2000
    found = [ids[0] for ids in rl.rollout(policy, [[5, 9, 200, 31]], 2000, [-5], 0.7, uniforms)]
    with torch.no_grad():
        hidden = policy.get_decoder()(input_ids=torch.tensor([[5, 9, 200, 31]])).last_hidden_state[0, -1]
        probs = (hidden.double() @ policy.get_output_embeddings().weight.double().T / 0.7).softmax(-1)
    wanted = torch.searchsorted(probs.cumsum(0), uniforms[:, 0])
    assert len(set(found)) > 20 and sum(a != b for a, b in zip(found, wanted.tolist())) <= 2


def test_every_response_belongs_to_its_problem(chain):
    """Two responses to each of three problems, side by side; each is scored with its own gold answer."""
    policy, tokenizer = models.load(chain)
    args = argparse.Namespace(rollout_rows=99, max_new_tokens=20, seed=0, end_token="verify")
    problems = [{"id": i, "problem": text, "answer": i}
                for i, text in (("1", "Q"), ("2", RETRY.strip()), ("3", "Q"))]
    found = rl.sample_trajectories(policy, tokenizer, problems, 2, 0.7, args, 1)
    assert [t.problem["id"] for t in found] == ["1", "1", "2", "2", "3", "3"]
    assert all(t.prompt == models.prompt_ids(tokenizer, t.problem["problem"]) for t in found)
    for t in found:
        assert rl.solves(t) == [i == ONE and t.problem["id"] == "1" or i == TWO and t.problem["id"] == "2"
                                for i in t.ids if i in (ONE, TWO)]


def test_an_evaluation_is_greedy(tmp_path, problems):
    """The likelier first answer, 0.6, is given every time."""
    path = save_chain(tmp_path / "model", {**TABLE, 2: {ONE: .6, TWO: .4}})
    args = rl.parse_args(flags(path, problems, "unused"))
    found = rl.evaluate(*models.load(path), models.read_problems(problems), args)
    assert found["eval_first_accuracy"] == 1 and rl.evaluate(*models.load(path), [], args) == {}


def test_accuracy_of_a_stored_problem_is_that_of_last_solutions(tmp_path):
    row = {"problem": "Q", "answer": "1", "responses": [S2 + NO + RETRY + S1 + OK, S1 + NO + RETRY + S2 + OK,
                                                        S2 + NO + RETRY + S1 + OK]}
    (tmp_path / "s.jsonl").write_text(json.dumps(row) + "\n")
    row, = rl.read_samples(tmp_path / "s.jsonl", argparse.Namespace(min_acc=0, max_acc=1))
    assert row["accuracy"] == 2 / 3


def test_a_response_of_just_max_new_tokens_is_not_too_long():
    t = scored(S1 + OK)                                         # two ids
    assert [rl.rejected(t, argparse.Namespace(max_new_tokens=n)) for n in (1, 2)] == ["too long", None]


def test_a_held_out_problem_that_does_not_fit_is_refused(chain, problems, tmp_path):
    (tmp_path / "p.jsonl").write_text(json.dumps({"problem": "\\boxed{1}" * 256, "answer": "1"}) + "\n")
    with pytest.raises(models.InputError, match="a prompt of 256 tokens fills"):
        run(*flags(chain, problems, tmp_path / "run", "--eval-data", tmp_path / "p.jsonl"))


def test_statistics_by_hand():
    """Two responses of 2 and 4 tokens, log pi - log pi_ref 0.5 a token; two updates; 1, 2 and 4 seconds."""
    batch, tenth = pair(), torch.tensor([1.0, 1.1])
    updates = [{"ratio": tenth, "loss": 1.0, "norm": 3.0, "skipped": False},
               {"ratio": tenth + 0.2, "loss": 2.0, "norm": 4.0, "skipped": True}]
    found = rl.statistics(batch, updates, [10, 11, 13, 17], argparse.Namespace(clip=0.25, offline=None))
    assert {k: found[k] for k in found if k != "peak_gb"} == pytest.approx({
        "reward": 0, "entropy": 1, "kl": (1 + 2) / 2, "ratio_mean": 1.15, "ratio_max": 1.3,
        "clip_share": 1 / 4, "loss": 1.5, "grad_norm": 3.5, "skipped": 1, "seconds": 7, "seconds_rollout": 1,
        "seconds_logprobs": 2, "seconds_update": 4, "rollout_tokens_per_s": 6, "update_tokens_per_s": 6 / 4})


@pytest.mark.parametrize("max_tokens", [1, 40, 10 ** 6])
def test_the_loss_of_an_update_is_that_of_all_its_parts(tiny_qwen2, max_tokens):
    """The ratio is 1, so it is minus the mean advantage: -(1.5 - 0.5 + 0.7 - 2) / 4."""
    policy, batch = random_trajectories(tiny_qwen2)
    args = update_args(max_tokens=max_tokens)
    rl.set_logprobs(policy, None, [batch], args)
    found = rl.update(policy, adam(policy, args)[0], batch, 1e-3, args)
    assert found["loss"] == pytest.approx(0.3 / 4, abs=1e-6)


def test_one_bad_update_of_several_is_skipped_and_a_ratio_off_1_is_refused(chain):
    policy, args = models.load(chain)[0], argparse.Namespace(out="run", offline=None)

    def check(ratio, *skipped, **more):
        rl.check_updates([{"skipped": s, "ratio": torch.tensor([1.0, ratio])} for s in skipped], policy,
                         argparse.Namespace(**{**vars(args), **more}))

    check(1.0, True, False)
    with pytest.raises(models.InputError, match="not finite"):
        check(1.0, True, True)
    for ratio in (1.01, 0.99):
        with pytest.raises(models.InputError, match="the first ratio is off by 0.01"):
            check(ratio, False)
    check(1.5, False, offline="s.jsonl")                        # pi_old is another model there


def test_the_order_of_an_epoch_depends_on_the_seed():
    assert rl.take(list(range(20)), 20, 1, seed=0) != rl.take(list(range(20)), 20, 1, seed=1)


def test_offline_needs_the_reference_without_a_kl_term_too(chain, tmp_path):
    """One update a step: were pi_old the policy itself, every ratio would be 1."""
    run("--model", chain, "--offline", write_samples(tmp_path / "s.jsonl"), "--out", tmp_path / "run",
        "--beta", 0, "--steps", 2, "--lr", 1e-2, "--prompts-per-step", 2, "--updates-per-rollout", 1,
        "--warmup", 0)
    first, second = [row["ratio_max"] for row in read(tmp_path / "run" / "metrics.jsonl")[1:]]
    assert first == 1 and second > 1.001


def test_a_run_by_its_log(chain, problems, tmp_path):
    """Three steps, linear from 0.01; evaluated at 0, 2 and the last; --resume takes no other method."""
    argv = flags(chain, problems, tmp_path / "run", "--eval-data", problems, "--schedule", "linear", steps=3)
    run(*argv)
    rows = read(tmp_path / "run" / "metrics.jsonl")
    assert [row["lr"] for row in rows[1:]] == pytest.approx([0.01, 0.02 / 3, 0.01 / 3])
    assert [row["step"] for row in rows if "eval_accuracy" in row] == [0, 2, 3]
    assert (tmp_path / "run" / "samples.txt").read_text().count("== step 3, problem") == 2
    for name, value in {"model": tmp_path, "data": "x", "lr": 1, "temperature": 1, "clip": 0.1, "steps": 9,
                        "ratio": "sum", "prompts-per-step": 7, "num-samples": 5, "max-new-tokens": 9,
                        "updates-per-rollout": 3, "seed": 9, "warmup": 9, "max-grad-norm": 9,
                        "dtype": "bf16"}.items():
        with pytest.raises(models.InputError, match=f"another --{name} than"):
            run(*argv, "--resume", f"--{name}", value)
    run(*argv, "--resume", "--eval-every", 9, "--max-tokens", 999, "--rollout-rows", 9, "--save-every", 9)


def test_minibatches_are_a_new_deal_of_every_rollout(chain, problems, tmp_path, monkeypatch):
    """Each response is in one of the two, and not all samples of a problem are in the same one."""
    real, seen = rl.update, []
    monkeypatch.setattr(rl, "update", lambda policy, optimizer, batch, *rest: seen.append(
        [t.problem["id"] for t in batch]) or real(policy, optimizer, batch, *rest))
    run(*flags(chain, problems, tmp_path / "run", steps=2))     # 12 problems, 6 a step, 4 samples of each
    assert [len(part) for part in seen] == [12] * 4
    for first, second in (seen[:2], seen[2:]):
        assert {i: (first + second).count(i) for i in first + second} == dict.fromkeys(first + second, 4)
        assert len(set(first) & set(second)) > 0


def test_a_stored_response_may_end_at_the_last_position(chain, tmp_path):
    row = {"problem": "Q", "answer": "1", "responses": [S1 + OK, S2 + OK], "finished": [True] * 2}
    (tmp_path / "s.jsonl").write_text(json.dumps(row) + "\n")
    args = rl.parse_args(["--model", chain, "--offline", str(tmp_path / "s.jsonl"), "--out", "r"])
    policy, tokenizer = models.load(chain)
    size = len(rl.read_offline(policy, tokenizer, args)[0])
    for end, kept in ((size, 2), (size - 1, 0)):
        policy.config.max_position_embeddings = end
        assert len(rl.read_offline(policy, tokenizer, args)) == kept


def test_without_a_reference_the_policy_is_its_own(chain):
    """--beta 0: the KL that is logged is 0, and nothing is subtracted."""
    policy, batch = models.load(chain)[0], [rl.Trajectory({}, [2], [ONE, WAIT, RIGHT, END], True)]
    rl.set_logprobs(policy, None, [batch], update_args())
    assert torch.equal(batch[0].logp_ref, batch[0].logp) and torch.equal(batch[0].logp_old, batch[0].logp)
