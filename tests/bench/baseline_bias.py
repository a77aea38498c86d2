"""How much equation (4)'s baseline pushes responses to stop: process RL with several baselines, side by side.

    python tests/bench/baseline_bias.py --model runs/seed0/bi/last --data runs/seed0/toy/train.jsonl [--steps 30]

A right *incorrect* verdict may end a response or go on to a retry. If the group mean lags behind a rising reward,
R - b is above 0 for all of them, and with the weights 1/|y|_a of (6) more so in short responses. Printed for each
baseline: mean R - b of such checks and their mean weight times R - b, for those that stop and those that go on.
"""
import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import torch

import rl_process
import verifier


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--lr", default="1e-4")
    parser.add_argument("--baselines", nargs="+", default=["running", "recent", "batch"])
    args = parser.parse_args()
    print("baseline    checks R - b: stop    go on    weighted: stop    go on    trials first -> last   VA")
    for baseline in args.baselines:
        seen = {"stop": [], "go": []}
        trials, agree = [], []
        real = rl_process.set_advantages

        def watch(trajectories, table, flags, baseline=baseline):
            if baseline == "recent":                # what was there counts half with every batch
                table.table = {context: (n / 2, total / 2) for context, (n, total) in table.table.items()}
            found = real(trajectories, table, flags)
            for t in trajectories:
                kl = rl_process.per_action((t.logp - t.logp_ref).cpu(), [t], "sum")
                push = (t.advantage + flags.beta * kl).tolist()
                for i, action in enumerate(t.actions):
                    if action.type == "verify" and verifier.parse_verdict(action.text) == "incorrect" and t.right[i]:
                        kind = "stop" if i + 1 == len(t.actions) else "go"
                        seen[kind].append((push[i], push[i] / len(t.rewards)))
            trials.append(sum(len(rl_process.solves(t)) for t in trajectories) / len(trajectories))
            agree.append(rl_process.behaviour(trajectories)["VA"])
            return found

        rl_process.set_advantages = watch
        with tempfile.TemporaryDirectory() as folder:
            rl_process.train(rl_process.parse_args([
                "--model", args.model, "--data", args.data, "--out", f"{folder}/run", "--steps", str(args.steps),
                "--lr", args.lr, "--schedule", "linear", "--updates-per-rollout", "1", "--ratio", "sum",
                "--prompts-per-step", "32", "--num-samples", "4", "--beta", "0.02", "--max-new-tokens", "300",
                "--max-tokens", "4096", "--baseline", "running" if baseline == "recent" else baseline, "--eval-every", "1000", "--save-every", "1000"]))
        rl_process.set_advantages = real
        mean = {kind: torch.tensor(rows or [(0.0, 0.0)]).mean(0).tolist() for kind, rows in seen.items()}
        print(f"{baseline:11} {mean['stop'][0]:+18.3f} {mean['go'][0]:+8.3f} {mean['stop'][1]:+17.4f} {mean['go'][1]:+8.4f}"
              f"  {trials[0]:.2f} -> {trials[-1]:.2f} ({len(seen['stop'])}, {len(seen['go'])})  {agree[0]:.3f} -> {agree[-1]:.3f}")


if __name__ == "__main__":
    main()
