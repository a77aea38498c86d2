"""The rewards in another engine: TRL's trainers take verifier.reward_func, for real, on a tiny model; and
the recipe of recipes/trl on two processes. TRL is no requirement: without it these tests are skipped.

    python -m venv recipes/trl/.venv && recipes/trl/.venv/bin/pip install -r recipes/trl/requirements.txt
    recipes/trl/.venv/bin/python -m pytest tests/test_trl.py
"""
import functools
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import transformers
from chain import END, ONE, WAIT, save_chain, save_problems

import model as models
import rl_outcome
import verifier

pytestmark = pytest.mark.engines
trl = pytest.importorskip("trl", reason="trl is not installed (it is not a requirement)")
ENDLESS = {2: {ONE: 1}, ONE: {WAIT: 1}, WAIT: {WAIT: 1}}        # a right answer at once, and no end


def make_trainer(kind, folder, out, reward_func, answers, **settings):
    """A trainer whose every prompt asks for one of the answers in turn."""
    from datasets import Dataset
    prompts = [[{"role": "user", "content": "Q"}]] * len(answers)
    data = Dataset.from_dict({"prompt": prompts, "answer": answers})
    config = getattr(trl, f"{kind}Config")(**{
        **dict(output_dir=str(out), use_cpu=True, bf16=False, report_to=[], save_strategy="no", max_steps=2,
               per_device_train_batch_size=8, num_generations=4, max_completion_length=16, temperature=0.7,
               learning_rate=1e-2, logging_steps=1, disable_tqdm=True, seed=0), **settings})
    trainer = getattr(trl, f"{kind}Trainer")
    return trainer(model=folder, args=config, train_dataset=data, reward_funcs=reward_func)


@pytest.mark.parametrize("kind", ["RLOO", "GRPO"])
def test_trl_trains_on_our_reward(tmp_path, kind):
    from transformers import AutoModelForCausalLM
    folder, seen = save_chain(tmp_path / "model"), []

    def reward_func(prompts, completions, **columns):
        rewards = verifier.reward_func(prompts, completions, **columns)
        seen.extend(zip(completions, columns["answer"], rewards))
        return rewards

    trainer = make_trainer(kind, folder, tmp_path / "out", reward_func, ["1", "2"] * 4)
    trainer.train()
    assert len(seen) == 16 and {reward for *_, reward in seen} == {1.0, -1.0}
    for completion, answer, reward in seen:     # the chain writes \boxed{1} or \boxed{2}, checks, retries
        last = completion[0]["content"].split("Let me try again.")[-1]
        assert reward == (1 if f"\\boxed{{{answer}}}" in last else -1), (completion, answer)
    logged = [row["reward"] for row in trainer.state.log_history if "reward" in row]
    expected = [sum(r for *_, r in seen[i:i + 8]) / 8 for i in (0, 8)]
    assert logged == pytest.approx(expected)
    before = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    after = trainer.model.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("stop, reward", [(None, 1.0), (END, -1.0), ([0, END], -1.0)])
@pytest.mark.parametrize("kind", ["RLOO", "GRPO"])
def test_trl_an_unfinished_response_earns_minus_one(tmp_path, kind, stop, reward):
    """A right answer, then words without end: -1 where the stop token is bound, as in our scripts."""
    folder = save_chain(tmp_path / "model", ENDLESS)
    bound = functools.partial(verifier.reward_func, eos_token_id=stop) if stop else verifier.reward_func
    trainer = make_trainer(kind, folder, tmp_path / "out", bound, ["1"] * 4, max_steps=1)
    trainer.train()
    logged = [row for row in trainer.state.log_history if "reward" in row]
    assert [(row["reward"], row["completions/clipped_ratio"]) for row in logged] == [(reward, 1.0)]


@pytest.mark.parametrize("kind", ["RLOO", "GRPO"])
def test_trl_a_finished_response_keeps_its_reward(tmp_path, kind):
    folder = save_chain(tmp_path / "model", {2: {ONE: 1}, ONE: {END: 1}})
    bound = functools.partial(verifier.reward_func, eos_token_id=END)
    trainer = make_trainer(kind, folder, tmp_path / "out", bound, ["1", "2"] * 2, max_steps=1)
    trainer.train()
    logged = [row for row in trainer.state.log_history if "reward" in row]
    assert [(row["reward"], row["completions/clipped_ratio"]) for row in logged] == [(0.0, 0.0)]


def watch(trainer, seen):
    """Keeps of every rollout what TRL made of it, as (its output, the same as our trajectories)."""
    original = trainer._generate_and_score_completions

    def watched(inputs):
        out = original(inputs)
        names = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
        rows = [rl_outcome.Trajectory({}, p[m.bool()].tolist(), i[n.bool()].tolist(), True)
                for p, m, i, n in zip(*(out[name] for name in names))]
        weights = {name: w.detach().clone() for name, w in trainer.model.named_parameters()}
        seen.append((out, rows, weights))
        return out
    trainer._generate_and_score_completions = watched


class Gradient(transformers.TrainerCallback):
    """Keeps the clipped gradient of every update."""
    def __init__(self):
        self.found = []

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        self.found.append({name: w.grad.detach().clone() for name, w in model.named_parameters()})


def test_trl_makes_our_update_but_for_the_kl_of_the_other_responses(tmp_path):
    """On TRL's own rollouts: log-probs at T = 0.7 and the clipped gradient are ours. Its advantage is (2)
    with one more term, beta times the mean KL of the other responses: it subtracts the KL before the
    baseline."""
    folder, beta, rewards, seen, gradient = save_chain(tmp_path / "model"), 0.5, [], [], Gradient()

    def reward_func(prompts, completions, **columns):
        rewards.append(verifier.reward_func(prompts, completions, **columns))
        return rewards[-1]

    trainer = make_trainer("RLOO", folder, tmp_path / "out", reward_func, ["1", "2"] * 4, beta=beta,
                           lr_scheduler_type="constant")
    watch(trainer, seen)
    trainer.add_callback(gradient)
    trainer.train()
    reference, policy = (models.load(folder, "cpu", "fp32")[0] for _ in range(2))
    args = SimpleNamespace(ratio="sum", clip=0.2)
    for turn, (out, rows, weights) in enumerate(seen):
        policy.load_state_dict(weights, strict=False)
        policy.zero_grad()
        logp = rl_outcome.response_logprobs(policy, rows, 0.7)
        with torch.no_grad():
            ref = rl_outcome.response_logprobs(reference, rows, 0.7)
        sizes = [len(t.ids) for t in rows]
        old, kl = (torch.stack([part.sum() for part in x.detach().split(sizes)]) for x in (logp, logp - ref))
        assert turn == 0 or kl.abs().max() > 0.01           # the second policy is not the reference
        torch.testing.assert_close(out["old_logps"], old, atol=1e-4, rtol=1e-4)
        reward = torch.tensor(rewards[turn])
        baseline = rl_outcome.leave_one_out(reward.view(-1, 4)).flatten()
        ours = rl_outcome.advantage(reward, baseline, kl, beta)
        others = rl_outcome.leave_one_out(kl.view(-1, 4)).flatten()
        torch.testing.assert_close(out["advantages"], ours + beta * others, atol=1e-3, rtol=1e-3)
        for t, part, a in zip(rows, logp.detach().split(sizes), out["advantages"]):
            t.logp_old, t.advantage = part, a
        rl_outcome.loss_of(rows, rows, logp, args)[0].backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        for name, w in policy.named_parameters():
            torch.testing.assert_close(gradient.found[turn][name], w.grad, atol=1e-4, rtol=1e-3)
    assert len(seen) == 2 and max(g.abs().max() for g in gradient.found[1].values()) > 0.01


def launch(repo, *argv, processes=2):
    """The recipe's command, as README writes it."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes",
               str(processes), "--main_process_port", "0", str(repo / "recipes/trl/train.py")]
    command += map(str, argv)
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=900, env=env)


@pytest.mark.skipif(torch.cuda.device_count() == 1, reason="two processes need two GPUs, or none")
def test_recipe_on_two_processes(tmp_path, repo, run_script):
    """Trains, and what it leaves goes straight into sample.py and evaluate.py."""
    folder, data = save_chain(tmp_path / "model"), save_problems(tmp_path / "p.jsonl")
    out = tmp_path / "run"
    flags = ["--model", folder, "--data", data, "--out", out, "--steps", 6, "--prompts-per-step", 8,
             "--num-samples", 4, "--updates-per-rollout", 2, "--max-new-tokens", 16, "--lr", "3e-2",
             "--warmup", 0, "--rows", 4]
    done = launch(repo, *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 process(es)" in done.stdout
    rows = [json.loads(line) for line in open(out / "metrics.jsonl")]
    assert [row["step"] for row in rows] == list(range(1, 7))
    assert rows[-1]["reward"] > rows[0]["reward"] + 0.3 and rows[0]["kl"] == pytest.approx(0, abs=1e-3)
    assert {"VA", "accuracy", "finished", "tokens", "trials"} <= set(rows[0])
    again = launch(repo, *flags)
    assert again.returncode != 0 and "--force overwrites it" in again.stderr
    for name, model in (("chain", folder), ("trl", out / "last")):
        done = run_script("sample.py", "--model", model, "--data", data, "--out", f"{name}.jsonl",
                          "--num-samples", 4, "--temperature", 0.7, "--max-new-tokens", 16)
        assert done.returncode == 0, done.stderr
    done = run_script("evaluate.py", "chain=chain.jsonl", "trl=trl.jsonl", "--out", "report",
                      "--metrics", f"trl={out}/metrics.jsonl")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report/report.json").exists()


def test_recipe_refuses_what_does_not_divide(tmp_path, repo):
    folder, data = save_chain(tmp_path / "model"), save_problems(tmp_path / "p.jsonl")
    done = launch(repo, "--model", folder, "--data", data, "--out", tmp_path / "run",
                  "--prompts-per-step", 3, "--num-samples", 3, "--updates-per-rollout", 2)
    assert done.returncode != 0 and "9 responses are no multiple" in done.stderr
    assert not (tmp_path / "run/last").exists()
