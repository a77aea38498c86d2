"""Twenty training steps in a world of ten tokens, with your functions, in seconds: does it learn?

    .venv/bin/python assignments/curve.py rl_outcome                      stage 2a; more flags are passed on
    .venv/bin/python assignments/curve.py rl_process --average batch      stage 2b
    .venv/bin/python assignments/curve.py sft --no-mask                   stage 1
    .venv/bin/python assignments/curve.py rl_outcome --seeds 3            the mean of three seeds

The model (chain.py) knows one problem, Q, whose answer is 1. Its next token depends on the last one only: it
answers 1 or 2, checks with a coin, and after "incorrect" tries again seven times in ten. Prints means over
five steps each. All randomness is seeded: the same code gives the same numbers on one machine. It stops at
the first blank function; README.md names the assignments that must be written before.
"""
import importlib
import json
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = next(p for p in (HERE, *HERE.parents) if (p / "verifier.py").exists())
COLUMNS = ("reward", "accuracy", "first_accuracy", "VA", "trials", "finished", "tokens", "kl", "grad_norm")
RL = ("--steps 20 --prompts-per-step 8 --num-samples 4 --updates-per-rollout 2 --max-new-tokens 24 --lr 3e-3 "
    "--warmup 0 "
      "--beta 0.05 --ratio sum --temperature 0.7 --eval-every 99 --save-every 99").split()
SFT = ("--batch-size 8 --epochs 1 --lr 3e-3 --warmup 0 --kl-coef 0.1 --held-out 0 --eval-every 99 "
    "--save-every 99").split()
WAIT, AGAIN = "Wait, let me recheck my solution.", "Let me try again."
TRAJECTORY = [{"type": "solve", "text": "\\boxed{2}"}, {"type": "verify", "text": WAIT + "Therefore, the "
    "answer is incorrect."},
              {"type": "solve", "text": AGAIN + "\\boxed{1}"}, {"type": "verify", "text": WAIT + "Therefore, "
              "the answer is correct."}]


def train(script, flags, folder, code=ROOT):
    """Run a stage of the project in `code` on the chain. -> the rows of its metrics.jsonl"""
    sys.path[:0] = [str(code), str(HERE), str(ROOT / "tests")]
    import chain
    folder = Path(folder)
    model = chain.save_chain(folder / "model")
    stage, data = importlib.import_module(script), folder / "data.jsonl"
    if script == "sft":
        rows = [{"id": str(i), "problem": "Q", "answer": "1", "actions": TRAJECTORY} for i in range(160)]
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        argv = ["train", *SFT]
    else:
        chain.save_problems(data)
        argv = RL
    stage.train(stage.parse_args([*argv, "--model", model, "--data", str(data), "--out", str(folder / "run"),
        *flags]))
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    if script == "sft":
        rows[-1].update(odds(folder / "run" / "last", chain))
    return [row for row in rows if row["step"] > 0]


def odds(folder, chain):
    """After SFT: how likely is the wrong first answer, and how likely the right one after a retry?"""
    import torch
    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        first, retry = ((model(torch.tensor([ids])).logits[0, -1]).softmax(-1).tolist() for ids in
                        ([2], [2, chain.TWO, chain.WAIT, chain.WRONG, chain.AGAIN]))
    return {"P(wrong first answer)": first[chain.TWO], "P(right retry)": retry[chain.ONE]}


def mean(values):
    """Without the undefined ones (VA of a batch without a verification)."""
    values = [v for v in values if v is not None]
    return sum(values) / len(values) if values else float("nan")


def summary(rows):
    """Means of five steps each: [(last step, {column: mean})]"""
    names = [name for name in (*COLUMNS, "nll") if name in rows[0]]
    parts = [rows[i:i + 5] for i in range(0, len(rows), 5)]
    return [(part[-1]["step"], {n: mean(r.get(n) for r in part) for n in names}) for part in parts]


def mean_of(runs):
    """Rows of several seeds -> rows of means."""
    return [{name: mean(row[name] for row in rows) for name in rows[0]} for rows in zip(*runs)]


def main():
    flags = sys.argv[2:]
    if len(sys.argv) < 2 or sys.argv[1] not in ("sft", "rl_outcome", "rl_process"):
        raise SystemExit(__doc__)
    seeds = 1
    if "--seeds" in flags:
        at = flags.index("--seeds")
        seeds, flags = int(flags[at + 1]), flags[:at] + flags[at + 2:]
    runs = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            try:
                runs.append(train(sys.argv[1], [*flags, "--seed", str(seed)], folder))
            except NotImplementedError as blank:
                raise SystemExit(f"{blank}\ncurve.py {sys.argv[1]} works once the assignments that README.md "
                                 "names for it are written; come back then.") from None
    rows = mean_of(runs)
    for i, (step, means) in enumerate(summary(rows)):
        if i == 0:
            print("up to step " + " ".join(f"{name:>14}" for name in means))
        print(f"{step:10.0f} " + " ".join(f"{value:14.3f}" for value in means.values()))
    print("".join(f"{name} {value:.3f}\n" for name, value in rows[-1].items() if name.startswith("P(")),
        end="")


if __name__ == "__main__":
    main()
