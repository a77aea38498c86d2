"""One RL step, rollout of 64 problems x 4 responses and four updates of 64, against TRL's RLOOTrainer.

    python tests/bench/rl_step.py [--rounds 2] [--max-new-tokens 230] [--threads 1]

Both train the same randomly initialised model of the toy world's size on the same problems with the same sizes,
temperature, beta and clip range, without gradient checkpointing, in this process, turn by turn. A random model
stops with a natural skew: after 1 to --max-new-tokens tokens. The first step of every run is a warm-up and is
not counted. CPU seconds are shown beside the wall clock, for a busy machine. `trl` is not among the project's
requirements: run this with a Python that has it.
"""
import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--rounds", type=int, default=2, help="runs of each side")
parser.add_argument("--steps", type=int, default=2, help="counted steps of a run")
parser.add_argument("--max-new-tokens", type=int, default=230)
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--skip-trl", action="store_true", help="this project's side alone")
args = parser.parse_args()
os.environ["OMP_NUM_THREADS"] = str(args.threads)
os.environ["HF_HUB_OFFLINE"] = "1"
REPO = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPO), str(REPO / "toy_base")]

import torch  # noqa: E402

import rl_outcome  # noqa: E402
import rl_process  # noqa: E402
import toy  # noqa: E402
import train_base  # noqa: E402
import verifier  # noqa: E402

torch.set_num_threads(args.threads)
PROMPTS, SAMPLES, UPDATES = 64, 4, 4


def now():
    """(wall clock, CPU time) in seconds"""
    return time.perf_counter(), time.process_time()


def per_step(start, end):
    return [(b - a) / args.steps for a, b in zip(start, end)]


def ours(stage, folder, data, out):
    """-> ([wall, CPU] seconds per step, tokens per response) of the counted steps."""
    marks, take = [], stage.take
    stage.take = lambda *rest: marks.append(now()) or take(*rest)       # called once at the start of every step
    stage.train(stage.parse_args([
        "--model", folder, "--data", data, "--out", str(out), "--steps", str(1 + args.steps), "--prompts-per-step",
        str(PROMPTS), "--num-samples", str(SAMPLES), "--updates-per-rollout", str(UPDATES), "--max-new-tokens",
        str(args.max_new_tokens), "--max-tokens", "4096", "--save-every", "1000"]))
    marks.append(now())
    stage.take = take
    rows = [json.loads(line) for line in open(Path(out) / "metrics.jsonl")][2:]
    split = {k: statistics.mean(r["seconds_" + k] for r in rows) for k in ("rollout", "logprobs", "update")}
    print("   ", ", ".join(f"{name} {seconds:.2f} s" for name, seconds in split.items()))
    return per_step(marks[1], marks[-1]), statistics.mean(r["tokens"] for r in rows)


def trl_rloo(folder, problems, out):
    """-> the same of trl.RLOOTrainer: one step of ours is a generation and the four optimizer steps on it."""
    import datasets
    from transformers import PrinterCallback, TrainerCallback
    from trl import RLOOConfig, RLOOTrainer

    marks, lengths = [], []

    class Clock(TrainerCallback):
        def on_step_begin(self, _, state, control, **kwargs):
            marks.append(now())

        def on_log(self, _, state, control, logs=None, **kwargs):
            lengths.extend(logs[k] for k in ("completions/mean_length",) if k in logs)       # once a generation

        def on_train_end(self, _, state, control, **kwargs):
            marks.append(now())

    rows = [{"prompt": p["problem"], "answer": p["answer"]} for p in problems]
    config = RLOOConfig(
        output_dir=str(out), use_cpu=True, bf16=False, per_device_train_batch_size=PROMPTS * SAMPLES // UPDATES,
        steps_per_generation=UPDATES, num_generations=SAMPLES, max_completion_length=args.max_new_tokens,
        temperature=0.7, beta=0.05, epsilon=0.2, learning_rate=5e-7, lr_scheduler_type="constant", max_steps=UPDATES *
        (1 + args.steps), gradient_checkpointing=False, report_to=[], save_strategy="no", logging_steps=1,
        disable_tqdm=True, seed=0)
    trainer = RLOOTrainer(model=folder, reward_funcs=verifier.reward_func, args=config,
                          train_dataset=datasets.Dataset.from_list(rows), callbacks=[Clock()])
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return per_step(marks[UPDATES], marks[-1]), statistics.mean(map(float, lengths[1:]))


def main():
    tokenizer = train_base.build_tokenizer()
    torch.manual_seed(0)
    net = train_base.build_model(tokenizer)
    problems = toy.problems(400, 0, "train")
    sides = {"rl_outcome": lambda out: ours(rl_outcome, folder, data, out),
             "rl_process": lambda out: ours(rl_process, folder, data, out)}
    if not args.skip_trl:
        sides["trl.RLOOTrainer"] = lambda out: trl_rloo(folder, problems, out)
    found = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as temporary:
        folder, data = temporary + "/model", temporary + "/train.jsonl"
        net.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        Path(data).write_text("".join(json.dumps(p) + "\n" for p in problems))
        for turn in range(args.rounds):
            for name, side in sides.items():
                seconds, tokens = side(f"{temporary}/{name}{turn}")
                found[name].append(seconds)
                print(f"round {turn + 1}: {name:16} {seconds[0]:7.2f} s a step (CPU {seconds[1]:.2f} s), "
                      f"{tokens:.0f} tokens a response", flush=True)
    best = {name: [min(times) for times in zip(*turns)] for name, turns in found.items()}
    for name, (wall, cpu) in best.items():
        print(f"{name:16} best {wall:7.2f} s a step, CPU {cpu:.2f} s", end="")
        other = best.get("trl.RLOOTrainer")
        print(f": trl.RLOOTrainer takes {other[0] / wall:.2f} x as long, CPU {other[1] / cpu:.2f} x" if other else "")


if __name__ == "__main__":
    main()
