"""Stage 2a in TRL: outcome-level RLOO on several processes, with the rewards of verifier.py.

    accelerate launch --multi_gpu --num_processes 2 recipes/trl/train.py --out runs/seed0/trl/trl \\
        --model runs/seed0/bi/last --data runs/seed0/toy/train.jsonl --steps 100 \\
        --updates-per-rollout 1 --lr 5e-5 --schedule linear --max-new-tokens 300

The same command runs on GPUs (nccl, bf16) and, where there is none, on the CPU (gloo, float32).
--multi_gpu lets accelerate start the processes in both cases. The flags are those of rl_outcome.py,
with its defaults; every other setting of TRL stands in make_config.

Reads a checkpoint and problems. Writes OUT/metrics.jsonl with the names of rl_outcome.py, and
OUT/last, a folder for sample.py. What TRL does in another way is listed in README.md beside this file.
"""
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import RLOOConfig, RLOOTrainer

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import model as models  # noqa: E402
import verifier  # noqa: E402
from model import InputError, number  # noqa: E402

SCHEDULES = {"constant": "constant_with_warmup", "linear": "linear"}     # our name: that of transformers


def parse_args(argv=None):
    parser = models.Parser(__doc__)
    add, count, rate = parser.add_argument, number(int, 1), number(float, 0)
    add("--model", required=True, help="the SFT model, a folder: first policy and reference")
    add("--data", required=True, help="problems: file, folder or datasets name")
    add("--split", help="split of --data")
    add("--out", required=True, help="run folder, the only place written to")
    add("--steps", type=count, default=500, help="rollouts (500)")
    add("--prompts-per-step", type=count, default=64, help="P, of all processes together (64)")
    add("--num-samples", type=number(int, 2), default=4, help="M, responses per problem (4)")
    add("--updates-per-rollout", type=count, default=4, help="n, updates on a rollout (4)")
    add("--beta", type=rate, default=0.05, help="weight of the KL term (0.05)")
    add("--clip", type=rate, default=0.2, help="eps, half the clip range of the ratio (0.2)")
    add("--temperature", type=number(float, 1e-3), default=0.7, help="T, sampling and log-probs (0.7)")
    add("--max-new-tokens", type=count, default=8000, help="longest response (8000)")
    add("--lr", type=rate, default=5e-7, help="learning rate of AdamW (5e-7)")
    add("--schedule", choices=SCHEDULES, default="constant", help="linear: down to 0 (constant)")
    add("--warmup", type=number(int, 0), default=5, help="steps of linear warm-up (5)")
    add("--rows", type=count, default=64, help="responses that a process scores at once (64)")
    add("--grad-checkpointing", action="store_true", help="recompute activations in the backward pass")
    add("--seed", type=number(int, 0), default=0)
    add("--force", action="store_true", help="overwrite the run in --out")
    return parser.parse_args(argv)


def prompt(tokenizer, problem):
    """What TRL makes a prompt of: a text where there is no chat template, else the turns for it."""
    if not tokenizer.chat_template:
        return models.prompt_text(tokenizer, problem)
    return [{"role": "system", "content": models.SYSTEM_PROMPT}, {"role": "user", "content": problem}]


def read_data(tokenizer, args):
    """The columns prompt and answer. InputError if TRL would give the model another prompt than we do."""
    rows = models.read_problems(args.data, args.split)
    first = prompt(tokenizer, rows[0]["problem"])
    ids = tokenizer(first) if isinstance(first, str) else tokenizer.apply_chat_template(
        first, add_generation_prompt=True, return_dict=True)
    if list(ids["input_ids"]) != models.prompt_ids(tokenizer, rows[0]["problem"]):
        raise InputError(f"{args.model}: its chat template takes no system turn")
    return Dataset.from_list([{"prompt": prompt(tokenizer, row["problem"]), "answer": row["answer"]}
                              for row in rows])


def make_config(args, processes):
    """TRL's settings. One step of ours is updates x parts of its steps, all on one generation."""
    total, updates = args.prompts_per_step * args.num_samples, args.updates_per_rollout
    share, rest = divmod(total, updates * processes)            # responses of a process in one update
    if rest:
        raise InputError(f"{total} responses are no multiple of {updates} x {processes} processes")
    rows = max(n for n in range(1, min(share, args.rows) + 1) if share % n == 0)
    gpu = torch.cuda.is_available()
    return RLOOConfig(
        output_dir=args.out, seed=args.seed, use_cpu=not gpu, bf16=gpu,
        # sizes
        max_steps=args.steps * updates, num_generations=args.num_samples,
        per_device_train_batch_size=rows, gradient_accumulation_steps=share // rows,
        steps_per_generation=updates * share // rows, max_completion_length=args.max_new_tokens,
        # algorithm
        temperature=args.temperature, beta=args.beta, epsilon=args.clip, learning_rate=args.lr,
        lr_scheduler_type=SCHEDULES[args.schedule], warmup_steps=args.warmup * updates,
        # machine, log
        gradient_checkpointing=args.grad_checkpointing, ddp_find_unused_parameters=False,
        logging_steps=updates, save_strategy="no", report_to=[], disable_tqdm=True)


def make_reward(stops):
    """R_o as TRL calls it. It also logs what a rollout looks like, under the names of rl_outcome.py."""
    def reward(prompts, completions, completion_ids, answer, log_metric, **columns):
        for completion, gold in zip(completions, answer):
            text = completion if isinstance(completion, str) else completion[-1]["content"]
            actions = verifier.parse_actions(text)
            right = [r > 0 for r in verifier.action_rewards(actions, gold, finished=True)]
            solved = [r for action, r in zip(actions, right) if action.type == "solve"]
            log_metric("first_accuracy", solved[0])
            log_metric("accuracy", solved[-1])
            log_metric("trials", len(solved))
            for action, agrees in zip(actions, right):
                if action.type == "verify":
                    log_metric("VA", agrees)
        return verifier.reward_func(prompts, completions, completion_ids=completion_ids, answer=answer,
                                    eos_token_id=stops)
    return reward


class Log(TrainerCallback):
    """Appends a line to OUT/metrics.jsonl for every rollout."""
    def __init__(self, out):
        self.path, self.start, self.step = Path(out) / "metrics.jsonl", time.time(), 0

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or "reward" not in logs:
            return
        self.step, now = self.step + 1, time.time()
        row = {"step": self.step, "seconds": now - self.start, "lr": logs["learning_rate"]}
        row |= {name: logs.get(name) for name in ("loss", "grad_norm", "entropy", "reward", "accuracy",
                                                  "first_accuracy", "VA", "trials")}
        row |= {"tokens": logs["completions/mean_length"], "clip_share": logs["clip_ratio/region_mean"],
                "finished": 1 - logs["completions/clipped_ratio"]}
        if "kl" in logs:                            # TRL's is the mean over tokens, ours over responses
            row["kl"] = logs["kl"] * row["tokens"]
        models.write_jsonl(self.path, [row], append=True)
        shown = ("step", "reward", "accuracy", "VA", "kl", "seconds")
        print(" ".join(f"{name} {row[name]:.4g}" for name in shown if row.get(name) is not None), flush=True)
        self.start = now


def train(args):
    if (Path(args.out) / "last").exists() and not args.force:
        raise InputError(f"{args.out}: holds a run; --force overwrites it")
    processes, tokenizer, stops = int(os.environ.get("WORLD_SIZE", 1)), models.load_tokenizer(args.model), []
    # TRL stops at the tokenizer's end token and at those of generation_config.json: so make the former the
    # token that stage 1 has trained.
    tokenizer.eos_token_id = models.stop_ids(SimpleNamespace(generation_config=None), tokenizer)[0]
    trainer = RLOOTrainer(
        model=args.model, reward_funcs=make_reward(stops), args=make_config(args, processes),
        train_dataset=read_data(tokenizer, args), processing_class=tokenizer, callbacks=[Log(args.out)])
    trainer.remove_callback(PrinterCallback)
    stops += models.stop_ids(trainer.model, tokenizer)
    if trainer.accelerator.num_processes != processes:
        raise InputError(f"{processes} processes were started, but they do not know of each other")
    if trainer.accelerator.is_main_process:
        models.write_text(Path(args.out) / "metrics.jsonl", "")
        print(f"{processes} process(es) on {trainer.accelerator.device.type}", flush=True)
    trainer.train()
    trainer.save_model(str(Path(args.out) / "last"))    # the main process writes, the tokenizer too


if __name__ == "__main__":
    models.run_main(lambda: train(parse_args()))
