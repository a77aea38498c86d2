"""The reference runs behind the handouts' "what you should see": twenty steps, right and wrong.

    python course/reference.py --out runs/course                       the chain of ten tokens: minutes
    python course/reference.py --out runs/course-toy --bi runs/seed0/bi/last --toy runs/seed0/toy \\
        --trajectories runs/seed0/trajectories.jsonl                   the toy world: an hour or two
    ... --only rloo no-baseline

Each run changes one or two functions of the project, in a copy of its files. Writes OUT/reference.md; a run
that is there is not made again. course/reference.md is the table of the first command. When the toy world or
its base model changes, only the second has to be run again.
"""
import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

from catalogue import COURSE, ROOT, definitions, sources

RL = ("--steps 20 --eval-every 20 --prompts-per-step 16 --num-samples 4 --updates-per-rollout 1 --ratio sum "
      "--lr 1e-4 --schedule linear --warmup 2 --beta 0.05 --temperature 0.7 "
      "--max-new-tokens 300 --max-tokens 4096 --save-every 99")
SFT = "--lr 2e-4 --kl-coef 0.1 --schedule linear --epochs 1 --kl-on first --eval-every 20 --save-every 99"
HOT = "--updates-per-rollout 8"
NO_BASELINE = {"leave_one_out": "def leave_one_out(rewards):\n    return torch.zeros_like(rewards)\n"}
UNCLIPPED = {"clipped_loss": """
    def clipped_loss(logp, logp_old, advantages, clip):
        return -torch.exp(logp - logp_old) * advantages
"""}
NO_TEMPERATURE = {"choose": """
    def choose(logits, uniforms, temperature):
        cdf = logits.softmax(-1).to(uniforms.dtype).cumsum(-1)
        token = torch.searchsorted(cdf, uniforms[:, None] * cdf[:, -1:], right=True)[:, 0]
        return logits.argmax(-1) if temperature == 0 else token.clamp_(max=logits.shape[1] - 1)
"""}
NO_VERDICT = {"parse_verdict": "def parse_verdict(text):\n    return None\n"}
GRPO = {"advantage": """
    def advantage(rewards, baseline, log_ratio, beta):
        groups = rewards.view(-1, 4)
        normed = (groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)
        return (normed.flatten() - beta * log_ratio).detach()
"""}
SCORE_HEAD = """
    def score(t, tokenizer, args):
        t.actions, t.owner = verifier.action_ids(tokenizer, t.ids)
        t.rewards = verifier.action_rewards(t.actions, t.problem["answer"], finished=True)
        t.right = [reward > 0 for reward in t.rewards]
        t.rewards[-1] = t.rewards[-1] if t.finished else -1
        t.reward = 1 if solves(t)[-1] and t.finished else -1
        judged = [r for a, r in zip(t.actions, t.rewards) if a.type == "verify"]
"""
PROGRESS = {"score": SCORE_HEAD + "        t.reward += 1.0 * (solves(t)[-1] - solves(t)[0])\n"
            "        return t\n"}
HACKED = {"score": SCORE_HEAD + "        t.reward += 3 * sum(judged)\n        return t\n"}
CURED = {"score": SCORE_HEAD + "        t.reward += 3 * sum(judged) / max(1, len(judged))\n"
         "        return t\n"}
# name: (script, changed functions, flags, seeds)
RUNS = {
    "rloo": ("rl_outcome", {}, "", 3),
    "no-baseline": ("rl_outcome", NO_BASELINE, "", 1),
    "no-temperature": ("rl_outcome", NO_TEMPERATURE, "", 1),
    "clip": ("rl_outcome", {}, HOT, 1),
    "no-clip": ("rl_outcome", UNCLIPPED, HOT, 1),
    "process": ("rl_process", {}, "--baseline level --average batch", 1),
    "process-no-baseline": ("rl_process", {"ContextBaseline.mean": "def mean(self, context, own=None):\n    "
        "return 0.0\n"},
                            "--baseline level --average batch", 1),
    "process-by-trajectory": ("rl_process", {}, "--baseline level --average trajectory", 1),
    "process-no-verdict": ("rl_process", NO_VERDICT, "--baseline level --average batch", 1),
    "sft": ("sft", {}, "", 1),
    "sft-no-mask": ("sft", {}, "--no-mask", 1),
    "sft-no-kl": ("sft", {}, "--kl-coef 0", 1),
    "grpo": ("rl_outcome", GRPO, "", 3),
    "progress-bonus": ("rl_outcome", PROGRESS, "", 3),
    "hacked": ("rl_outcome", HACKED, "--steps 60 --beta 0", 1),
    "cured": ("rl_outcome", CURED, "--steps 60 --beta 0", 1),
}
COLUMNS = ("accuracy", "first_accuracy", "VA", "ER", "ICR", "trials", "finished", "tokens")


def changed(files, functions):
    """The project's files with whole functions (or "Class.method") replaced in every copy."""
    files = dict(files)
    for name, new in functions.items():
        owner, _, method = name.rpartition(".")
        for file, text in files.items():
            node = definitions(text).get(owner or method)
            node = next((n for n in node.body if getattr(n, "name", None) == method),
                None) if node and owner else node
            if node:
                lines = text.split("\n")
                body = ["" if not line else " " * node.col_offset + line
                    for line in dedent(new).strip().split("\n")]
                lines[node.lineno - 1:node.end_lineno] = body
                files[file] = "\n".join(lines)
    return files


def one_on_chain(name, args):
    """Make a run on the chain, if it is not there; its table is curve.py's output."""
    script, functions, flags, _ = RUNS[name]
    code, log = Path(args.out) / name / "code", Path(args.out) / name / "curve.txt"
    if log.exists():
        return
    code.mkdir(parents=True, exist_ok=True)
    helpers = {p.name: p.read_text(encoding="utf-8") for p in (COURSE / "tests" / "curve.py",
        ROOT / "tests" / "chain.py")}
    for file, text in {**changed(sources(), functions), **helpers}.items():
        (code / file).write_text(text, encoding="utf-8")
    argv = [sys.executable, str(code / "curve.py"), script, *flags.split(), "--seeds", str(args.seeds)]
    found = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if found.returncode:
        raise SystemExit(f"error: run {name}: {found.stderr[-500:]}")
    log.write_text(f"{args.seeds}\n{found.stdout[found.stdout.index('up to step'):]}")


def chain_table(args):
    """Markdown: the tables of all runs, mean over seeds."""
    out = ""
    for name, (script, functions, flags, _) in RUNS.items():
        path = Path(args.out) / name / "curve.txt"
        if path.exists():
            seeds, *lines = path.read_text().splitlines()
            what = ", ".join(["changed " + " and ".join(f"`{f}`"
                for f in functions)] * bool(functions) + [f"`{flags}`"] * bool(flags))
            count = f"mean of {seeds} seeds" if int(seeds) > 1 else "1 seed"
            out += f"\n**{name}** (`{script}.py`{', ' + what if what else ''}; {count})\n\n"
            out += "".join(f"    {line}\n" for line in lines)
    return out


def one(name, seed, args):
    """Make one run, if it is not there."""
    script, functions, flags, _ = RUNS[name]
    out, code = (Path(args.out) / name / f"seed{seed}").resolve(), (Path(args.out) / name / "code").resolve()
    if (out / "last").exists():
        return
    code.mkdir(parents=True, exist_ok=True)
    for file, text in changed(sources(), functions).items():
        (code / file).write_text(text, encoding="utf-8")
    here, toy = lambda path: str(Path(path).resolve()), Path(args.toy).resolve()
    if script == "sft":
        argv = ["train", "--model", f"{toy}/base", "--data", here(args.trajectories), *SFT.split()]
    else:
        held_out = Path(args.out).resolve() / "held_out.jsonl"
        held_out.write_text("".join((toy / "test.jsonl").read_text().splitlines(True)[:args.held_out]))
        argv = ["--model", here(args.bi), "--data", f"{toy}/train.jsonl", "--eval-data", str(held_out),
            *RL.split()]
    argv = [sys.executable, str(code / f"{script}.py"), *argv, *flags.split(), "--seed", str(seed), "--out",
        str(out), "--force"]
    with open(out.parent / f"seed{seed}.log", "w") as log:
        subprocess.run(argv, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)


def table(args):
    """Markdown: a line for each evaluation of a run, mean over seeds."""
    lines = ["| run | seeds | step | " + " | ".join(COLUMNS) + " | reward | kl | grad norm |",
        "| --- " * (len(COLUMNS) + 6) + "|"]
    for name, (script, *_) in RUNS.items():
        logs = [[json.loads(line) for line in path.read_text().splitlines()]
                for path in sorted(Path(args.out).glob(f"{name}/seed*/metrics.jsonl"))]
        if not logs:
            continue
        if script == "sft":
            row = [r for r in logs[0] if "held_out_verify" in r][0]
            lines.append(f"| {name} | {len(logs)} | {row['step']} | " + ", ".join(
                f"{k} {row[k]:.3f}" for k in row if k.startswith(("held_out", "nll")) or k == "kl") + " |")
            continue
        for i in [i for i, row in enumerate(logs[0]) if "eval_accuracy" in row]:
            def mean(key, i=i):
                values = [log[i].get(key) for log in logs]
                return "–" if None in values else f"{sum(values) / len(values):.3f}"
            lines.append(f"| {name} | {len(logs)} | {logs[0][i]['step']} | " + " | ".join(
                mean(k) for k in [*(f"eval_{c}" for c in COLUMNS), "reward", "kl", "grad_norm"]) + " |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="folder for the runs")
    for flag, text in (("--bi", "BI checkpoint"), ("--toy", "folder of toy.py"), ("--trajectories",
        "of sft.py build")):
        parser.add_argument(flag, help=f"{text}: makes the runs on the toy world instead of the chain")
    parser.add_argument("--seeds", type=int, default=3, help="of the runs on the chain (3)")
    parser.add_argument("--held-out", type=int, default=200, help="test problems of the evaluations (200)")
    parser.add_argument("--only", nargs="+", choices=list(RUNS), default=list(RUNS), help="these runs (all)")
    args = parser.parse_args()
    Path(args.out).mkdir(parents=True, exist_ok=True)
    for seed in range(3 if args.toy else 1):                # first one seed of everything
        for name in [name for name in args.only if seed < RUNS[name][3]]:
            if args.toy:
                one(name, seed, args)
            else:
                one_on_chain(name, args)
            (Path(args.out) / "reference.md").write_text(table(args) if args.toy else chain_table(args))
            print(name, seed, flush=True)


if __name__ == "__main__":
    main()
