"""rl_process.py: contexts, baselines, advantages and loss on a batch worked out by hand; resume with the table."""
import argparse
import json

import pytest
import torch
from chain import AGAIN, END, ONE, RIGHT, TWO, WAIT, WRONG, flags, save_chain, save_problems
from test_rl_outcome import NO, OK, RETRY, S1, S2, adam, read, run as _, same_weights, untimed, weights, write_samples

import model as models
import rl_process as rl


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    return save_chain(tmp_path_factory.mktemp("chain") / "model")


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    return save_problems(tmp_path_factory.mktemp("chain") / "problems.jsonl")


def run(*argv):
    rl.train(rl.parse_args([str(a) for a in argv]))


def score_args(**more):
    return argparse.Namespace(**{**dict(end_token="verify", baseline="batch", offline=None, num_samples=2,
                                        beta=0.0, ratio="sum", average="trajectory"), **more})


# Two problems (gold 1, level 1; gold 2, level 2), two responses each. The ids are whole phrases, see chain.py.
BATCH = [
    # wrong, refuted; right, accepted                                          rewards  -1 +1 +1 +1
    ("1", [TWO, WAIT, WRONG, AGAIN, ONE, WAIT, RIGHT, END]),
    # right, accepted, after a repeated "Wait" that opens nothing              rewards  +1 +1
    ("1", [ONE, WAIT, WAIT, RIGHT, END]),
    # wrong, accepted                                                          rewards  -1 -1
    ("2", [ONE, WAIT, RIGHT, END]),
    # wrong, refuted; right, but the check never ends: unfinished              rewards  -1 +1 +1 -1
    ("2", [ONE, WAIT, WRONG, AGAIN, TWO, WAIT]),
]


@pytest.fixture
def batch(chain):
    def make(**more):
        tokenizer, found = models.load(chain)[1], []
        for gold, ids in BATCH:
            t = rl.Trajectory({"id": gold, "problem": "Q", "answer": gold, "level": int(gold)}, [2], ids, ids[-1] == END)
            found.append(rl.score(t, tokenizer, score_args(**more)))
            t.logp = torch.full((len(ids),), -1.0)
            t.logp_ref = torch.full((len(ids),), -1.5)
        return found
    return make


def test_actions_tokens_and_rewards(batch):
    a, b, c, d = batch()
    assert [t.rewards for t in (a, b, c, d)] == [[-1, 1, 1, 1], [1, 1], [-1, -1], [-1, 1, 1, -1]]
    assert a.owner == [0, 1, 1, 2, 2, 3, 3, 3]                  # "Let me try again." opens the second solution
    assert b.owner == [0, 1, 1, 1, 1] and c.owner == [0, 1, 1, 1] and d.owner == [0, 1, 1, 2, 2, 3]
    assert [t.reward for t in (a, b, c, d)] == [1, 1, -1, -1] and not d.finished


def test_every_token_counts_once(batch):
    found = batch()
    logp = torch.arange(1.0, 1 + sum(len(t.ids) for t in found))
    total = rl.per_action(logp, found, "sum")
    assert len(total) == 12 and total.sum() == logp.sum()
    assert total[:4].tolist() == [1, 2 + 3, 4 + 5, 6 + 7 + 8]
    assert rl.per_action(logp, found, "mean")[:4].tolist() == [1, 2.5, 4.5, 7]
    assert rl.per_action(logp, found, "sum")[4:6].tolist() == [9, 10 + 11 + 12 + 13]
    free = rl.per_action(logp, batch(end_token="free"), "sum")
    assert free[3] == 6 + 7 and total.sum() - free.sum() == 8 + 13 + 17     # the three stop tokens


def test_a_token_that_straddles_a_boundary_belongs_to_its_first_character(tiny_qwen2):
    tokenizer = models.load_tokenizer(tiny_qwen2)
    text = "So \\boxed{2}.\n\n" + NO.strip() + "\n\nLet me try again.\n\n\\boxed{1}."
    ids = tokenizer(text, add_special_tokens=False).input_ids
    t = rl.score(rl.Trajectory({"answer": "1"}, [1], ids, True), tokenizer, score_args())
    assert len(t.owner) == len(ids) and t.owner == sorted(t.owner) and set(t.owner) == {0, 1, 2}
    place, starts = 0, [a.start for a in t.actions]
    for token, owner in zip(ids, t.owner):
        assert owner == max(i for i, start in enumerate(starts) if start <= place)
        place += len(tokenizer.decode([token]))


def test_contexts_and_groups(batch):
    a, b, c, d = batch()
    assert rl.reward_contexts(a.rewards) == [(), (-1,), (-1, 1), (-1, 1, 1)]
    assert rl.groups(b, "running") == [(), (1,)] and rl.groups(c, "level") == [(2, ()), (2, (-1,))]
    c.problem["accuracy"] = 0.625
    assert rl.groups(c, "bin-position") == [(6, 0), (6, 1)] and rl.groups(c, "bin-context") == [(6, ()), (6, (-1,))]
    assert rl.groups(c, "context") == [(), (-1,)]


def test_context_baseline_counts_from_ten_and_survives_a_checkpoint():
    table = rl.ContextBaseline()
    table.update([()] * 9 + [(1,)], [1] * 6 + [-1] * 3 + [1])
    assert table.mean(()) == 0.0 and table.mean((1,)) == 0.0 and table.mean((5,)) == 0.0
    table.update([()], [1])
    assert table.mean(()) == pytest.approx(0.4)                 # (7 - 3) / 10
    other = rl.ContextBaseline()
    other.load_state_dict(table.state_dict())
    other.update([()], [-1])
    assert other.mean(()) == pytest.approx(3 / 11) and table.mean(()) == pytest.approx(0.4)


def test_group_baseline_and_advantages_by_hand(batch):
    """Contexts: () -1 +1 -1 -1, mean -1/2; (-1,) +1 -1 +1, mean 1/3; (1,) +1, mean 1; (-1,1) +1 +1, mean 1;
    (-1,1,1) +1 -1, mean 0."""
    found = batch()
    silent = rl.set_advantages(found, None, score_args())
    wanted = [[-1 / 2, 2 / 3, 0, 1], [3 / 2, 0], [-1 / 2, -4 / 3], [-1 / 2, 2 / 3, 0, -1]]
    for t, row in zip(found, wanted):
        assert t.advantage.tolist() == pytest.approx(row)
    assert silent == pytest.approx(3 / 12)
    rl.set_advantages(found, None, score_args(beta=0.1))        # 0.5 nats a token, 1 2 2 3 tokens
    assert found[0].advantage.tolist() == pytest.approx([-.5 - .05, 2 / 3 - .1, -.1, 1 - .15])


def test_the_other_baselines_by_hand(batch):
    found = batch()
    rl.set_advantages(found, rl.ContextBaseline(), score_args(baseline="rloo"))
    assert [t.advantage.tolist() for t in found] == [[-2, 0, 1, 1], [2, 0], [0, -2], [0, 2, 1, -1]]
    table = rl.ContextBaseline(least=1)
    rl.set_advantages(found, table, score_args(baseline="level"))
    assert [t.advantage.tolist() for t in found] == [[-1, 0, 0, 0], [1, 0], [0, -1], [0, 1, 0, 0]]
    table = rl.ContextBaseline()                                # running: too few so far, so b = 0
    rl.set_advantages(found, table, score_args(baseline="running"))
    assert found[0].advantage.tolist() == [-1, 1, 1, 1]
    for _ in range(2):
        rl.set_advantages(found, table, score_args(baseline="running"))
    assert found[0].advantage.tolist() == pytest.approx([-.5, 1, 1, 1])     # () met 12 times, (-1,) only 9
    rl.set_advantages(found, table, score_args(baseline="running"))
    assert found[0].advantage.tolist() == pytest.approx([-.5, 2 / 3, 1, 1])


def test_who_owns_the_stop_token(batch):
    a, b, c, d = batch(end_token="own")
    assert a.owner == [0, 1, 1, 2, 2, 3, 3, 4] and a.rewards == [-1, 1, 1, 1, 1]        # reward R_o
    assert c.owner[-1] == 2 and c.rewards == [-1, -1, -1]
    assert d.owner[-1] == 3 and len(d.rewards) == 4             # unfinished: there is no stop token
    assert rl.groups(a, "rloo") == [("1", 0), ("1", 1), ("1", 2), ("1", 3), ("1", "end")]
    assert rl.groups(d, "rloo") == [("2", 0), ("2", 1), ("2", 2), ("2", 3)]
    assert rl.groups(c, "running") == [(), (-1,), ("end", -1, -1)]
    c.problem["accuracy"] = 0.25
    assert rl.groups(c, "bin-position") == [(2, 0), (2, 1), (2, "end")]
    assert rl.groups(c, "bin-context") == [(2, ()), (2, (-1,)), (2, ("end", -1, -1))]
    found = [a, b, c, d]
    for t in found:
        t.logp = t.logp_ref = torch.zeros(len(t.ids))
    rl.set_advantages(found, rl.ContextBaseline(), score_args(baseline="rloo"))
    assert [t.advantage[-1].item() for t in found] == [0, 0, -1, -1]    # <end> against <end>, check against check
    a, b, c, d = batch(end_token="free")
    assert a.owner[-1] == -1 and len(a.rewards) == 4 and d.owner[-1] == 3
    assert rl.behaviour([a])["trials"] == 2


def test_loss_by_hand(batch):
    """Equation (6): mean over the actions of a trajectory, then over trajectories; or over all 12 actions."""
    found = batch()
    per_trajectory = rl.action_weights(found, found, "trajectory")
    assert per_trajectory.tolist() == pytest.approx([1 / 16] * 4 + [1 / 8] * 4 + [1 / 16] * 4)
    assert rl.action_weights(found[1:2], found, "trajectory").tolist() == pytest.approx([1 / 8] * 2)
    assert rl.action_weights(found, found, "batch").tolist() == pytest.approx([1 / 12] * 12)
    rl.set_advantages(found, None, score_args())
    advantages = torch.cat([t.advantage for t in found])
    ratios = torch.tensor([1.5, 1.5, 1.0, 0.5, 1.1, 1.0, 0.5, 0.5, 1.0, 1.0, 1.0, 1.5])
    loss = (per_trajectory * rl.clipped_loss(ratios.log(), torch.zeros(12), advantages, 0.2)).sum()
    terms = [.75 - .8 + 0 - .5,                 # min(1.5 * -.5, 1.2 * -.5); clip(1.5) 2/3; 0; .5 * 1
             -1.65 + 0,                         # 1.1 * 3/2
             .8 * .5 + .8 * 4 / 3,              # both clipped at .8
             .5 - 2 / 3 + 0 + 1.5]
    assert loss.item() == pytest.approx(terms[0] / 16 + terms[1] / 8 + terms[2] / 8 + terms[3] / 16, abs=1e-6)


def update_args(**more):
    return argparse.Namespace(**{**vars(score_args(temperature=0.7, max_tokens=10 ** 6, clip=0.2, max_grad_norm=1e9,
                                                   offload="none", grad_checkpointing=False, lr=1e-3)), **more})


@pytest.mark.parametrize("more", [{"ratio": "mean"}, {"average": "batch"}, {"end_token": "own"}, {"end_token": "free"}])
def test_first_ratio_is_one_and_micro_batches_do_not_matter(chain, batch, more):
    gradients = []
    for max_tokens in (1, 14, 10 ** 6):
        policy, args = models.load(chain)[0], update_args(max_tokens=max_tokens, **more)
        found = batch(**{k: v for k, v in more.items() if k == "end_token"})
        rl.set_logprobs(policy, None, [found], args)
        rl.set_advantages(found, None, args)
        optimizer, masters = adam(policy, args)
        seen = []
        optimizer.step = lambda: seen.extend(w.grad.clone() for w in masters)
        ratio = rl.update(policy, optimizer, found, 1e-3, args)["ratio"]
        assert ratio.tolist() == [1.0] * sum(len(t.rewards) for t in found)
        gradients.append(seen)
    assert max(g.abs().max() for g in gradients[0]) > 1e-3
    for other in gradients[1:]:
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(gradients[0], other))


@pytest.mark.parametrize("end_token, moves", [("verify", True), ("own", True), ("free", False)])
def test_the_stop_token_gets_a_gradient_or_none(chain, end_token, moves):
    """One response that ends after a verdict of *incorrect*; only the row of the table behind that verdict matters."""
    policy, args = models.load(chain)[0], update_args(end_token=end_token)
    t = rl.Trajectory({"answer": "1"}, [2], [TWO, WAIT, WRONG, END], True)
    rl.score(t, models.load(chain)[1], args)
    rl.set_logprobs(policy, None, [[t]], args)
    t.advantage = torch.ones(len(t.rewards))
    optimizer, masters = adam(policy, args)
    rl.update(policy, optimizer, [t], 1e-2, args)
    with torch.no_grad():
        after = (policy(torch.tensor([[2, TWO, WAIT, WRONG]])).logits[0, -1] / 0.7).softmax(-1)[END].item()
    assert (after > 0.32) == moves and after > 0.25             # 0.3 before


# ---------------------------------------------------------------- whole runs

def test_training_makes_the_verifications_right(chain, problems, tmp_path):
    """A chain that always solves wrongly: a verdict of *incorrect* is right, and it learns to say so."""
    data = save_problems(tmp_path / "p.jsonl", answer="3")
    run(*flags(chain, data, tmp_path / "run", "--average", "batch", steps=10))
    rows = read(tmp_path / "run" / "metrics.jsonl")
    assert rows[1]["VA"] < 0.7 and rows[-1]["VA"] > 0.9
    assert sum(row["skipped"] for row in rows[1:]) == 0


@pytest.mark.parametrize("extra", [[], ["--baseline", "level", "--end-token", "own"],
                                   ["--baseline", "rloo", "--ratio", "sum", "--end-token", "free"]])
def test_resume_is_exact_with_the_baseline_table(chain, problems, tmp_path, extra):
    run(*flags(chain, problems, tmp_path / "whole", *extra))
    run(*flags(chain, problems, tmp_path / "cut", *extra, steps=2))
    run(*flags(chain, problems, tmp_path / "cut", *extra, "--resume"))
    a, b = (weights(tmp_path / name / "last") for name in ("whole", "cut"))
    assert same_weights(a, b) and not same_weights(a, weights(chain))
    a, b = (torch.load(tmp_path / name / "last" / "trainer.pt")["baseline"] for name in ("whole", "cut"))
    assert a == b and ("rloo" in extra or sum(count for count, _ in a.values()) > 4 * 24 * 2)
    assert untimed(read(tmp_path / "whole/metrics.jsonl")) == untimed(read(tmp_path / "cut/metrics.jsonl"))


def test_the_table_is_printed(chain, problems, tmp_path, capsys):
    run(*flags(chain, problems, tmp_path / "run", steps=2))
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("()") and line.split()[1] == "48" for line in lines)


@pytest.mark.parametrize("baseline, groups", [("bin-position", 14), ("bin-context", None), ("context", None)])
def test_offline(chain, tmp_path, baseline, groups):
    path = write_samples(tmp_path / "s.jsonl")
    run("--model", chain, "--offline", path, "--baseline", baseline, "--out", tmp_path / "run", "--steps", 4, "--lr", 1e-2,
        "--prompts-per-step", 2, "--max-new-tokens", 40, "--warmup", 0)
    table = torch.load(tmp_path / "run/last/trainer.pt")["baseline"]
    first = {"bin-position": (1, 0), "bin-context": (1, ()), "context": ()}[baseline]
    # accuracy 1/8: one right first answer in 8; over accuracies 1, 2, 4, 5 of 8: 12 right, 20 wrong
    assert table[first] == ((32, 12 - 20) if baseline == "context" else (8, 1 - 7))


def test_bad_flags(chain, problems, tmp_path):
    for extra, word in ((["--baseline", "bin-position"], "--baseline"), (["--num-samples", "1"], "--num-samples")):
        with pytest.raises(models.InputError, match=word):
            run(*flags(chain, problems, tmp_path / "run", *extra))
    (tmp_path / "p.jsonl").write_text(json.dumps({"problem": "Q", "answer": "1"}) + "\n")
    with pytest.raises(models.InputError, match="level"):
        run(*flags(chain, tmp_path / "p.jsonl", tmp_path / "run", "--baseline", "level"))
    assert not (tmp_path / "run").exists()


def test_bad_input_is_one_line_and_status_2(chain, run_script, tmp_path):
    found = run_script("rl_process.py", "--model", chain, "--data", "missing.jsonl", "--out", "run")
    assert found.returncode == 2 and "Traceback" not in found.stderr
    assert "error: missing.jsonl: [Errno 2] No such file or directory: 'missing.jsonl'" in found.stderr.splitlines()


# ---------------------------------------------------------------- faults that once went unnoticed, and their neighbours

def test_the_kl_term_does_not_depend_on_the_ratio(batch):
    found, other = batch(), batch()
    rl.set_advantages(found, None, score_args(beta=0.1))
    rl.set_advantages(other, None, score_args(beta=0.1, ratio="mean"))
    assert [t.advantage.tolist() for t in found] == [t.advantage.tolist() for t in other]


def test_defaults_are_the_papers(chain):
    args = rl.parse_args(["--model", chain, "--data", "x", "--out", "y"])
    assert (args.average, args.baseline, args.end_token) == ("trajectory", "running", "verify")
    assert (args.num_samples, args.prompts_per_step, args.updates_per_rollout, args.steps) == (4, 64, 4, 500)
    assert (args.clip, args.beta, args.temperature, args.lr) == (0.2, 0.05, 0.7, 5e-7)
    args = rl.parse_args(["--model", chain, "--offline", "x", "--out", "y"])
    assert (args.baseline, args.min_acc, args.max_acc) == ("bin-position", 0.1, 0.7)


def test_gradient_of_update_is_that_of_equation_6_by_hand(chain, batch):
    """-(1/B) sum over trajectories of the mean over actions of A r, by autograd on full logits; r = 1 in value."""
    policy, args, found = models.load(chain)[0], update_args(), batch()
    rl.set_logprobs(policy, None, [found], args)
    rl.set_advantages(found, None, args)
    terms = []
    for t in found:
        logits = policy(torch.tensor([t.prompt + t.ids])).logits[0, len(t.prompt) - 1:-1] / 0.7
        logp = logits.log_softmax(-1)[range(len(t.ids)), t.ids]
        actions = [torch.stack([x for x, o in zip(logp, t.owner) if o == i]).sum() for i in range(len(t.rewards))]
        terms.append(torch.stack([-a * torch.exp(x - x.detach()) for a, x in zip(t.advantage, actions)]).mean())
    wanted = torch.autograd.grad(torch.stack(terms).mean(), list(policy.parameters()))
    optimizer, masters = adam(policy, args)
    seen = []
    optimizer.step = lambda: seen.extend(w.grad.clone() for w in masters)
    rl.update(policy, optimizer, found, 1e-3, args)
    for a, b in zip(seen, wanted, strict=True):
        assert torch.allclose(a, b, atol=1e-4 * b.abs().max().item() + 1e-7)


def test_log_probs_of_a_rollout_are_scored_once(chain, problems, tmp_path):
    run(*flags(chain, problems, tmp_path / "run", steps=2))
    assert read(tmp_path / "run" / "metrics.jsonl")[2]["ratio_max"] > 1.01


def test_the_table_of_contexts_prints_through_a_method():
    table = rl.ContextBaseline()
    table.update([(), (-1,)], [1, -1])
    table.update([()], [-1])
    assert table.report(1).split() == ["()", "2", "+0.000"] and len(table.report().splitlines()) == 2


def test_bins_end_below_the_next(batch):
    c = batch()[2]
    c.problem["accuracy"] = 0.875
    assert rl.groups(c, "bin-position") == [(8, 0), (8, 1)]


def test_offline_needs_the_reference_without_a_kl_term_too(chain, tmp_path):
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
    for name, value in {"lr": 1, "temperature": 1, "baseline": "batch", "end-token": "own",
                        "average": "batch", "steps": 9}.items():
        with pytest.raises(models.InputError, match=f"another --{name} than"):
            run(*argv, "--resume", f"--{name}", value)


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
