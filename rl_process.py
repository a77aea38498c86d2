"""Stage 2b: process-level group RL from scratch (S2R, arXiv 2502.12853, section 2.3.2; --offline: App. F).

Read rl_outcome.py first: `diff rl_outcome.py rl_process.py` is this stage. Here every action earns a reward
of its own, R_a = +1 for a right solution and for a verification whose verdict is the truth, else -1, and is
compared with the actions of the same reward context, which is the rewards of all earlier actions:

    (4)  b(a) = mean reward over the group G of actions with the reward context of a
    (5)  A(a) = R_a(a) - b(a) - beta log [pi(a) / pi_ref(a)]
    (6)  L = -E 1/|y|_a sum over a of min(r_a A_a, clip(r_a, 1-eps, 1+eps) A_a),    r_a = pi(a) / pi_old(a)

    python rl_process.py --model runs/sft/last --data runs/toy/train.jsonl --out runs/toy/prl \\
        --steps 100 --lr 5e-5 --schedule linear --updates-per-rollout 1 --ratio sum --max-new-tokens 300

Reads a checkpoint, problems, a samples file. Writes OUT/{args.json, metrics.jsonl, samples.txt, last, best}.

Chosen on purpose, besides what rl_outcome.py says on ratio, KL term, temperature, ids and randomness:
- A token belongs to the action of its first character, a connecting phrase to the action it opens, the line
  breaks before it to the action they end: so the choice to go on is credited to the verification before it.
- (4) is a running mean over the run and this batch, 0 for a context met less than 10 times. `--baseline`
  batch: this batch only; level: a group per problem level; rloo: leave-one-out by place (SPOC, 2506.06923).
- The stop token is part of the last action (`--end-token`). There it shares the +1 of a right *incorrect*
  verdict, and the policy may learn to stop after its first refutation. own: an action with reward R_o and
  groups of its own; free: no action, no gradient, as in the released code.
- (6) weighs the actions of a short trajectory more, which also rewards stopping early; `--average batch`
  weighs all alike. The released code's doubled rewards are off (`--bonus`).

Map: flags - log-probs - advantage and loss - rollout - rewards - data - statistics - update - run - train.
"""
import argparse
import json
import resource
import shutil
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm
from transformers import DynamicCache

import model as models
import verifier
from model import InputError


ONLINE = ("running", "batch", "level", "rloo")
OFFLINE = ("bin-position", "bin-context", "context")


def parse_args(argv=None):
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    add = parser.add_argument
    # files
    add("--model", required=True, help="the SFT model, folder or hub name: first policy and reference")
    add("--data", help="problems: file, folder or datasets name (not with --offline)")
    add("--split", help="split of --data")
    add("--out", required=True, help="run folder, the only place written to")
    add("--eval-data", help="held-out problems for greedy evaluation")
    add("--samples", help="samples file whose accuracy per problem filters --data")
    add("--min-acc", type=float, help="of --samples or --offline: least accuracy of a problem (0.1)")
    add("--max-acc", type=float, help="greatest (0.9; with --offline 0.7)")
    add("--offline", metavar="SAMPLES", help="learn from this samples file without rollouts")
    # algorithm
    add("--steps", type=int, default=500, help="rollouts (500)")
    add("--prompts-per-step", type=int, default=64, help="P, problems per rollout (64)")
    add("--num-samples", type=int, default=4, help="M, responses per problem (4)")
    add("--updates-per-rollout", type=int, default=4, help="n, updates on a rollout (4)")
    add("--beta", type=float, default=0.05, help="weight of the KL term (0.05); 0 loads no reference")
    add("--clip", type=float, default=0.2, help="eps, half the clip range of the ratio (0.2)")
    add("--temperature", type=float, default=0.7, help="T, in sampling and in all log-probs (0.7)")
    add("--max-new-tokens", type=int, default=8000, help="longest response (8000)")
    add("--ratio", choices=("mean", "sum"), default="mean", help="log-ratio: mean over tokens, or sum (6)")
    add("--baseline", choices=ONLINE + OFFLINE, help="group of (4) (running; with --offline bin-position)")
    add("--end-token", choices=("verify", "own", "free"), default="verify",
        help="the stop token: part of the last action, an action with reward R_o, or in no action")
    add("--average", choices=("trajectory", "batch"), default="trajectory",
        help="mean over the actions of a trajectory, then over trajectories (6), or over all actions")
    add("--bonus", action="store_true", help="the released code's doublings of R - b")
    # optimizer
    add("--lr", type=float, default=5e-7, help="learning rate of AdamW (5e-7)")
    add("--schedule", choices=("constant", "linear"), default="constant", help="linear: down to 0 (constant)")
    add("--warmup", type=int, default=5, help="steps of linear warm-up (5)")
    add("--max-grad-norm", type=float, default=1.0, help="gradient clipping (1)")
    add("--max-tokens", type=int, default=16384, help="padded tokens in a micro-batch (16384)")
    # machine
    add("--device", default="auto", help="auto, cpu, cuda or mps")
    add("--dtype", default="auto", help="policy: auto (bf16 on CUDA), bf16 or fp32; the optimizer is fp32")
    add("--offload", choices=("none", "reference", "optimizer", "both"), default="none", help="host keeps")
    add("--grad-checkpointing", action="store_true", help="recompute activations in the backward pass")
    add("--rollout-rows", type=int, default=256, help="most responses decoded at once (256)")
    # run
    add("--seed", type=int, default=0)
    add("--eval-every", type=int, default=20, help="steps between evaluations (20)")
    add("--save-every", type=int, default=20, help="steps between checkpoints (20)")
    add("--show-every", type=int, default=20, help="steps between two whole responses in samples.txt (20)")
    add("--resume", action="store_true", help="go on from --out/last")
    add("--force", action="store_true", help="throw away the run in --out")
    args = parser.parse_args(argv)
    if not (args.samples or args.offline or args.min_acc is args.max_acc is None):
        raise InputError("--min-acc and --max-acc filter by --samples or --offline, and there is none")
    args.min_acc = 0.1 if args.min_acc is None else args.min_acc
    args.max_acc = args.max_acc if args.max_acc is not None else 0.7 if args.offline else 0.9
    if args.temperature <= 0 or args.num_samples < 2:
        raise InputError("--temperature must be above 0 and --num-samples above 1")
    for name in ("steps", "prompts_per_step", "updates_per_rollout", "max_new_tokens", "max_tokens",
                 "rollout_rows", "eval_every", "save_every", "show_every"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} must be at least 1")
    if args.updates_per_rollout > args.prompts_per_step * args.num_samples:
        raise InputError("--updates-per-rollout is greater than the number of responses")
    args.baseline = args.baseline or ("bin-position" if args.offline else "running")
    if args.baseline not in (OFFLINE if args.offline else ONLINE):
        raise InputError(f"--baseline {args.baseline}: not with{'' if args.offline else 'out'} --offline")
    if bool(args.data) == bool(args.offline):
        raise InputError("one of --data and --offline is needed")
    return args


# ---------------------------------------------------------------- log-probs

# Same as sft.head_logits
def head_logits(hidden, weight, temperature=1.0):
    """[n,H], [V,H] -> [n,V], float32 also from 16-bit inputs: rounded logits would make noisy ratios."""
    logits = product(hidden, weight.T)
    return logits if temperature == 1 else logits.div_(temperature)


# Same as sft.product
def product(a, b):
    """Matrix product, float32 at least."""
    if a.dtype not in (torch.bfloat16, torch.float16):
        return a @ b
    return torch.mm(a, b, out_dtype=torch.float32) if a.is_cuda else a.float() @ b.float()


# Same as sft.add_product
def add_product(total, a, b):
    """total += a @ b, without a temporary where the dtypes agree."""
    return total.addmm_(a, b) if a.dtype == total.dtype else total.add_(product(a, b))


# Same as sft.TokenLogprobs
class TokenLogprobs(torch.autograd.Function):
    """Forward keeps one number a token, the logsumexp; backward makes each chunk's logits again."""

    @staticmethod
    def forward(ctx, hidden, weight, targets, chunk, temperature):
        picked, lse, w = [], [], weight.to(hidden.dtype)
        for h, t in zip(hidden.split(chunk), targets.split(chunk)):
            logits = head_logits(h, w, temperature)  # [chunk,V]
            top = logits.amax(1)
            picked.append(logits.gather(1, t[:, None])[:, 0])
            lse.append(logits.sub_(top[:, None]).exp_().sum(1).log() + top)
            del logits  # before the next chunk's are made
        lse = torch.cat(lse)
        ctx.save_for_backward(hidden, weight, targets, lse)
        ctx.chunk, ctx.temperature = chunk, temperature
        return torch.cat(picked) - lse

    @staticmethod
    def backward(ctx, grad):
        hidden, weight, targets, lse = ctx.saved_tensors
        w, grad = weight.to(hidden.dtype), grad / ctx.temperature
        grad_h, grad_w = torch.empty_like(hidden), torch.zeros_like(weight, dtype=lse.dtype)
        for h, t, z, g, out in zip(*(x.split(ctx.chunk) for x in (hidden, targets, lse, grad, grad_h))):
            slope = head_logits(h, w, ctx.temperature).sub_(z[:, None]).exp_()  # softmax [chunk,V]
            slope = slope.mul_(-g[:, None]).scatter_add_(1, t[:, None], g[:, None]).to(h.dtype)
            out.copy_(product(slope, w))
            add_product(grad_w, slope.T, h)
            del slope
        return grad_h, grad_w.to(weight.dtype), None, None, None


# Same as sft.token_logprobs
def token_logprobs(hidden, weight, targets, chunk=256, temperature=1.0):
    """log softmax(hidden @ weight.T / temperature)[targets] without ever holding [N,V].

    hidden [N,H], weight [V,H] (the head, tied or not), targets [N] -> [N] float32. Call it outside autocast.
    """
    return TokenLogprobs.apply(hidden, weight, targets, chunk, temperature)


# Same as rl_outcome.response_logprobs
def response_logprobs(policy, batch, temperature):
    """Log-probs of the response tokens of trajectories, one after the other: [sum of len(t.ids)].

    Rows are padded on the right, where causal attention never looks, so no mask is needed.
    """
    rows = [torch.tensor(t.prompt + t.ids) for t in batch]
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(policy.device)                # [B, L]
    hidden = policy.get_decoder()(input_ids=tokens, use_cache=False).last_hidden_state            # [B, L, H]
    hidden = torch.cat([h[len(t.prompt) - 1:len(t.prompt) + len(t.ids) - 1] for h, t in zip(hidden, batch)])
    targets = torch.tensor([i for t in batch for i in t.ids], device=policy.device)                   # [N]
    return token_logprobs(hidden, policy.get_output_embeddings().weight, targets, temperature=temperature)


# Same as rl_outcome.micro_batches
def micro_batches(batch, max_tokens):
    """Split trajectories into lists of like length, each of at most max_tokens tokens when padded."""
    parts = []
    for t in sorted(batch, key=lambda t: len(t.prompt) + len(t.ids)):
        if not parts or (len(parts[-1]) + 1) * (len(t.prompt) + len(t.ids)) > max_tokens:
            parts.append([])
        parts[-1].append(t)
    return parts


# ---------------------------------------------------------------- advantage and loss

def reward_contexts(rewards):
    """The reward context of every action of a trajectory.

    >>> reward_contexts([-1, 1, 1])
    [(), (-1,), (-1, 1)]
    """
    return [tuple(rewards[:i]) for i in range(len(rewards))]


class ContextBaseline:
    """Equation (4): mean reward of the actions met in a context; 0 until there were `least` of them."""

    def __init__(self, least=10):
        self.least, self.table = least, {}      # context -> (count, sum)

    def update(self, contexts, rewards):
        for context, reward in zip(contexts, rewards):
            count, total = self.table.get(context, (0, 0))
            self.table[context] = count + 1, total + reward

    def mean(self, context):
        count, total = self.table.get(context, (0, 0))
        return total / count if count >= self.least else 0.0

    def state_dict(self):
        return dict(self.table)

    def load_state_dict(self, table):
        self.table = dict(table)


def groups(t, baseline):
    """The group of (4) of every action of a trajectory."""
    contexts = reward_contexts(t.rewards)
    if t.actions and len(contexts) > len(t.actions):    # --end-token own: not compared with another solve
        contexts[-1] = ("end", *contexts[-1])
    if baseline == "level":
        return [(t.problem["level"], context) for context in contexts]
    if baseline.startswith("bin"):                      # tenths of the problem's sampled accuracy (App. F)
        places = contexts if baseline == "bin-context" else range(len(contexts))
        return [(int(10 * t.problem["accuracy"]), place) for place in places]
    return contexts


def leave_one_out(rewards):
    """Mean reward of the action at the same place in the other samples of the problem; 0 where none has it.

    >>> leave_one_out([[1, 1], [-1], [1, -1]])
    [[0.0, -1.0], [1.0], [0.0, 1.0]]
    """
    def others(m, i):
        found = [r[i] for k, r in enumerate(rewards) if k != m and i < len(r)]
        return sum(found) / len(found) if found else 0.0
    return [[others(m, i) for i in range(len(r))] for m, r in enumerate(rewards)]


def bonus(rewards):
    """The released code's factors on R - b: 2 for the check of a right solution, and for a retry that makes a
    wrong solution right or a right one wrong.

    >>> bonus([-1, 1, 1, 1])
    [1.0, 1.0, 2.0, 2.0]
    """
    return [2.0 if (rewards[i - 1] > 0 if i % 2 else i > 0 and r != rewards[i - 2]) else 1.0
            for i, r in enumerate(rewards)]


# Same as rl_outcome.advantage
def advantage(rewards, baseline, log_ratio, beta):
    """Equation (5), with log_ratio = log [pi_old(a) / pi_ref(a)]: three [N] -> [N], without gradient."""
    return (rewards - baseline - beta * log_ratio).detach()


# Same as rl_outcome.clipped_loss
def clipped_loss(logp, logp_old, advantages, clip):
    """Equation (6) of each action, before the mean: three [N] -> [N]."""
    ratio = torch.exp(logp - logp_old)
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def per_action(logp, batch, ratio):
    """Token log-probs [N] of trajectories -> [A], the mean or the sum over each action."""
    first = np.cumsum([0] + [len(t.rewards) for t in batch]).tolist()
    owners = [f + o if o >= 0 else first[-1] for t, f in zip(batch, first) for o in t.owner]
    owners = torch.tensor(owners, device=logp.device)
    total = logp.new_zeros(first[-1] + 1).index_add(0, owners, logp)    # the last place: tokens of no action
    if ratio == "mean":
        total = total / torch.bincount(owners, minlength=len(total)).clamp(min=1)
    return total[:-1]


def action_weights(part, batch, average):
    """Weights [A] of the actions of a part of a batch in the mean of (6), or in the plain mean."""
    actions = sum(len(t.rewards) for t in batch)
    return torch.tensor([1 / actions if average == "batch" else 1 / (len(batch) * len(t.rewards))
                         for t in part for _ in t.rewards])


# ---------------------------------------------------------------- rollout

@dataclass
class Trajectory:
    problem: dict                   # the row of the problem file
    prompt: list                    # token ids
    ids: list                       # token ids as sampled; the stop token, if any, is the last
    finished: bool                  # stopped by itself
    actions: list = None            # verifier.Action
    owner: list = None              # for every id the index of its action, -1: none
    rewards: list = None            # +1/-1 for every action (and for an <end> that is one)
    solved: bool = False            # is the last solution right
    reward: float = 0.0             # R_o, for the log
    advantage: torch.Tensor = None  # [actions]
    logp: torch.Tensor = None       # [len(ids)] under the policy at the start of the step
    logp_ref: torch.Tensor = None   # [len(ids)] under the reference
    logp_old: torch.Tensor = None   # [len(ids)] under the policy that sampled it


# Same as rl_outcome.choose
def choose(logits, uniform, temperature):
    """Next token of every row, greedy at T = 0, else by inverting the CDF: [B, V], [B] in [0, 1) -> [B]."""
    if temperature == 0:
        return logits.argmax(-1)
    cdf = (logits.float() / temperature).softmax(-1).to(uniform.dtype).cumsum(-1)
    token = torch.searchsorted(cdf, uniform[:, None] * cdf[:, -1:], right=True)[:, 0]
    return token.clamp_(max=logits.shape[1] - 1)


# Same as rl_outcome.rollout
@torch.no_grad()
def rollout(policy, prompts, num_samples, stops, temperature, uniforms):
    """Token ids of P prompts -> lists of ids of P * num_samples responses, those of a prompt side by side.

    uniforms [P * num_samples, most new tokens] are each response's own random numbers, so that it does not
    depend on its batch. A prompt is run once and its cache shared out; finished rows leave the batch.
    """
    device, width, cache = policy.device, max(map(len, prompts)), DynamicCache(config=policy.config)
    tokens = torch.tensor([[0] * (width - len(p)) + p for p in prompts], device=device)              # [P, L]
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    logits = policy(input_ids=tokens, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp_(min=0),
                    past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
    cache.batch_repeat_interleave(num_samples)
    logits, mask = logits.repeat_interleave(num_samples, 0), mask.repeat_interleave(num_samples, 0)
    live = torch.arange(len(logits), device=device)         # the response of each row of the batch
    going = torch.ones_like(live, dtype=torch.bool)         # the responses without a stop token
    ids, stops = torch.full(uniforms.shape, -1, device=device), torch.tensor(stops, device=device)
    for t in range(uniforms.shape[1]):
        token = choose(logits, uniforms[live, t], temperature)
        ids[live, t] = torch.where(going[live], token, -1)
        going[live] &= ~torch.isin(token, stops)
        keep = going[live].nonzero()[:, 0]
        if len(keep) == 0 or t + 1 == uniforms.shape[1]:
            break
        if len(keep) <= 0.9 * len(live):                    # it copies the cache: not for every row
            live, token, mask = live[keep], token[keep], mask[keep]
            cache.batch_select_indices(keep)
        mask = torch.cat([mask, mask.new_ones(len(live), 1)], 1)
        place = mask.sum(1, keepdim=True) - 1
        logits = policy(input_ids=token[:, None], attention_mask=mask, position_ids=place,
                        past_key_values=cache, use_cache=True).logits[:, -1]
    return [row[:n] for row, n in zip(ids.tolist(), (ids >= 0).sum(1).tolist())]


# Same as rl_outcome.sample_trajectories
def sample_trajectories(policy, tokenizer, problems, num_samples, temperature, args, step):
    """Roll out and score num_samples responses to each problem, at most --rollout-rows at once."""
    stops, trajectories = models.stop_ids(policy, tokenizer), []
    size = max(1, args.rollout_rows // num_samples)
    for first in range(0, len(problems), size):
        part = [(p, models.prompt_ids(tokenizer, p["problem"])) for p in problems[first:first + size]]
        keys = [[args.seed, step, first + i, m] for i in range(len(part)) for m in range(num_samples)]
        uniforms = [np.random.default_rng(key).random(args.max_new_tokens, np.float32) for key in keys]
        uniforms = torch.from_numpy(np.stack(uniforms)).to(policy.device)
        responses = rollout(policy, [prompt for _, prompt in part], num_samples, stops, temperature, uniforms)
        trajectories += [score(Trajectory(*part[i // num_samples], ids, ids[-1] in stops), tokenizer, args)
                         for i, ids in enumerate(responses)]
    return trajectories


# ---------------------------------------------------------------- rewards

def score(t, tokenizer, args):
    """Cut the response into actions and reward it."""
    t.actions, t.owner = verifier.action_ids(tokenizer, t.ids)
    t.rewards = verifier.action_rewards(t.actions, t.problem["answer"], t.finished)
    t.reward = verifier.outcome_reward(t.actions, t.problem["answer"], t.finished)
    t.solved = t.reward > 0
    if t.finished and args.end_token == "own":
        t.owner, t.rewards = t.owner[:-1] + [len(t.actions)], t.rewards + [t.reward]
    elif t.finished and args.end_token == "free":
        t.owner = t.owner[:-1] + [-1]
    return t


def set_advantages(trajectories, table, args):
    """Equation (5) for a rollout; -> share of actions without a signal (R_a = b)."""
    if args.baseline == "batch":
        table = ContextBaseline(least=1)
    if not args.offline:
        for t in trajectories:
            table.update(groups(t, args.baseline), t.rewards)
    baselines = [[table.mean(group) for group in groups(t, args.baseline)] for t in trajectories]
    if args.baseline == "rloo":
        m, rewards = args.num_samples, [t.rewards for t in trajectories]
        baselines = [b for i in range(0, len(rewards), m) for b in leave_one_out(rewards[i:i + m])]
    silent = []
    for t, b in zip(trajectories, baselines):
        factor = torch.tensor(bonus(t.rewards)) if args.bonus else 1
        rewards, baseline = factor * torch.tensor(t.rewards).float(), factor * torch.tensor(b)
        kl = per_action((t.logp - t.logp_ref).cpu(), [t], "sum")
        t.advantage = advantage(rewards, baseline, kl, args.beta)
        silent.append((rewards - baseline).abs() < 1e-6)
    return torch.cat(silent).float().mean().item()


def start_baseline(data, args, state):
    """The table of (4): that of the checkpoint, with --offline that of all the data, else empty."""
    table = ContextBaseline()
    if args.baseline == "level" and any(row["level"] is None for row in data):
        raise InputError(f"{args.data}: --baseline level needs a field 'level' in every problem")
    if state:
        table.load_state_dict(state["baseline"])
    elif args.offline:
        for t in data:
            table.update(groups(t, args.baseline), t.rewards)
    return table


# ---------------------------------------------------------------- data

# Same as rl_outcome.read_samples
def read_samples(path, args):
    """Rows of a samples file whose accuracy, a new field, lies in [min_acc, max_acc]."""
    rows = models.read_problems(path, check=verifier.check_gold)
    for number, row in enumerate(rows, 1):
        texts, ends = row.get("responses"), row.get("finished")
        if not (isinstance(texts, list) and isinstance(ends, list) and len(texts) == len(ends) > 0):
            raise InputError(f"{path}:{number}: 'responses' and 'finished' must be lists of one length")
        rewards = [verifier.outcome_reward(verifier.parse_actions(str(text)), row["answer"], end)
                   for text, end in zip(texts, ends)]
        row["accuracy"] = sum(r > 0 for r in rewards) / len(rewards)
    kept = [row for row in rows if args.min_acc <= row["accuracy"] <= args.max_acc]
    print(f"{path}: {len(kept)} of {len(rows)} problems have an accuracy in [{args.min_acc}, {args.max_acc}]")
    return kept


# Same as rl_outcome.rejected
def rejected(t):
    """App. F: why a stored trajectory is not learnt from, or None."""
    if len(t.actions) > 20:
        return "more than 20 actions"
    if len(t.actions) % 2:
        return "not solve, verify, solve, verify"
    for right, check in zip(t.rewards[:-2:2], t.actions[1:-2:2]):
        if right > 0 and verifier.parse_verdict(check.text) == "correct":
            return "goes on after a right solution was found correct"


def read_offline(tokenizer, stop, args):
    """Stored trajectories. A samples file has no ids, so here the text is tokenized."""
    reasons, kept = Counter(), []
    for row in read_samples(args.offline, args):
        prompt = models.prompt_ids(tokenizer, row["problem"])
        for text, end in zip(row["responses"], row["finished"]):
            ids = tokenizer(str(text), add_special_tokens=False).input_ids + [stop] * bool(end)
            t = score(Trajectory(row, prompt, ids, bool(end)), tokenizer, args)
            reason = "too long" if len(ids) > args.max_new_tokens else "empty" if not ids else rejected(t)
            reasons[reason or "kept"] += 1
            if not reason:
                kept.append(t)
    print(f"{args.offline}: {dict(reasons)}")
    return kept


# Same as rl_outcome.read_data
def read_data(tokenizer, stop, args):
    """Problems to sample, or with --offline trajectories."""
    if args.offline:
        data = read_offline(tokenizer, stop, args)
    else:
        data = models.read_problems(args.data, args.split, check=verifier.check_gold)
    if args.samples:
        wanted = {row["problem"] for row in read_samples(args.samples, args)}
        data = [row for row in data if row["problem"] in wanted]
    if not data:
        raise InputError(f"{args.offline or args.data}: nothing is left to learn from")
    return data


# Same as rl_outcome.take
def take(data, count, step, seed):
    """The items of a step; every epoch is a permutation of its own."""
    places = range(step * count, (step + 1) * count)
    order = {epoch: np.random.default_rng([seed, epoch]).permutation(len(data))
             for epoch in {i // len(data) for i in places}}
    return [data[order[i // len(data)][i % len(data)]] for i in places]


# ---------------------------------------------------------------- statistics

# Same as rl_outcome.behaviour
def behaviour(trajectories):
    """Metrics of App. E; None where the denominator is zero."""
    n, total = Counter(), len(trajectories)
    for t in trajectories:
        right = [r > 0 for r in t.rewards[:len(t.actions):2]]
        n.update(solved=t.solved, first=right[0], trials=len(right), finished=t.finished, tokens=len(t.ids),
                 mended=right[-1] and not right[0], broken=right[0] and not right[-1])
        for ok, action in zip(right, t.actions[1::2]):
            verdict = verifier.parse_verdict(action.text)
            passed, caught = verdict == "correct", verdict == "incorrect" and not ok
            n.update(checks=1, wrong=not ok, silent=verdict is None, passed=passed, caught=caught,
                     precise=passed and ok, agree=caught or passed and ok)
    shares = {"accuracy": ("solved", total), "first_accuracy": ("first", total), "VA": ("agree", n["checks"]),
              "ER": ("caught", n["wrong"]), "CP": ("precise", n["passed"]),
              "ICR": ("mended", total - n["first"]), "CIR": ("broken", n["first"]),
              "no_verdict": ("silent", n["checks"]), "trials": ("trials", total),
              "finished": ("finished", total), "tokens": ("tokens", total)}
    return {name: n[top] / below if below else None for name, (top, below) in shares.items()}


# Same as rl_outcome.evaluate
def evaluate(policy, tokenizer, problems, args):
    """Metrics of a greedy response to every held-out problem."""
    found = behaviour(sample_trajectories(policy, tokenizer, problems, 1, 0, args, 0)) if problems else {}
    return {f"eval_{name}": value for name, value in found.items()}


# Same as rl_outcome.statistics
def statistics(trajectories, updates, clock, args):
    """What a step's log line says about policy, updates and cost."""
    tokens, seconds = sum(len(t.ids) for t in trajectories), np.diff(clock)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    logp, ref = (torch.cat([getattr(t, name) for t in trajectories]) for name in ("logp", "logp_ref"))
    ratio, total = torch.cat([u["ratio"] for u in updates]), len(trajectories)
    solved = np.array([t.solved for t in trajectories]).reshape(-1, 1 if args.offline else args.num_samples)
    return {"reward": sum(t.reward for t in trajectories) / total,
            "always_solved": solved.all(1).mean(), "never_solved": 1 - solved.any(1).mean(),
            "entropy": -logp.mean().item(),                 # estimated from the sampled tokens
            "kl": (logp - ref).sum().item() / total,        # unbiased (k1); that of one batch may be negative
            "kl_k3": (torch.expm1(ref - logp) - (ref - logp)).sum().item() / total,      # never negative
            "ratio_mean": ratio.mean().item(), "ratio_max": ratio.max().item(), "seconds": seconds.sum(),
            "clip_share": ((ratio - 1).abs() > args.clip).float().mean().item(),
            "loss": np.mean([u["loss"] for u in updates]), "grad_norm": np.mean([u["norm"] for u in updates]),
            "skipped": sum(u["skipped"] for u in updates), "update_tokens_per_s": tokens / seconds[2],
            **dict(zip(("seconds_rollout", "seconds_logprobs", "seconds_update"), seconds)),
            "rollout_tokens_per_s": None if args.offline else tokens / seconds[0],
            "peak_gb": (torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak) / 1e9}


# ---------------------------------------------------------------- update

# Same as rl_outcome.make_optimizer
def make_optimizer(policy, args, state):
    """AdamW on float32 weights -> (optimizer, those weights).

    A bf16 weight would lose an update of 5e-7, so the optimizer then works on float32 copies, on the host if
    asked to. Every gradient moves to its copy as soon as it is complete.
    """
    weights, host = list(policy.parameters()), args.offload in ("optimizer", "both")
    if policy.dtype != torch.float32 or host:
        copies = {p: p.detach().to("cpu" if host else p.device, torch.float32, copy=True) for p in weights}

        def move_gradient(p):
            grad, copy = p.grad.to(copies[p].device, torch.float32), copies[p]
            copy.grad, p.grad = grad if copy.grad is None else copy.grad.add_(grad), None

        for p in weights:
            p.register_post_accumulate_grad_hook(move_gradient)
        weights = list(copies.values())
    optimizer = torch.optim.AdamW(weights, lr=args.lr, weight_decay=0.0)
    if state:
        optimizer.load_state_dict(state["optimizer"])
        for w, saved in zip(weights, state["weights"]):
            w.data.copy_(saved)
    return optimizer, weights


# Same as rl_outcome.learning_rate
def learning_rate(step, args):
    """Of step 0, 1, ...: linear warm-up, then constant or linear to 0."""
    decay = 1 - step / args.steps if args.schedule == "linear" else 1
    return args.lr * decay * min(1, (step + 1) / max(1, args.warmup))


# Same as rl_outcome.set_logprobs
@torch.no_grad()
def set_logprobs(policy, reference, minibatches, args):
    """Score every token under the policy and the reference, in the micro-batches that `update` will make."""
    if reference:
        reference.to(policy.device)
    for part in [part for batch in minibatches for part in micro_batches(batch, args.max_tokens)]:
        logp = response_logprobs(policy, part, args.temperature)
        logp_ref = response_logprobs(reference, part, args.temperature) if reference else logp
        sizes = [len(t.ids) for t in part]
        for t, a, b in zip(part, logp.split(sizes), logp_ref.split(sizes)):
            t.logp, t.logp_ref, t.logp_old = a, b, b if args.offline else a
    if reference and args.offload in ("reference", "both"):
        reference.to("cpu")


def update(policy, optimizer, weights, batch, lr, args):
    """One step of AdamW on (6), the mean over the whole minibatch; no step if a number is not finite."""
    loss, ratios = 0.0, []
    policy.train(args.grad_checkpointing)                   # transformers checkpoints in training mode only
    for part in micro_batches(batch, args.max_tokens):
        logp = per_action(response_logprobs(policy, part, args.temperature), part, args.ratio)
        logp_old = per_action(torch.cat([t.logp_old for t in part]), part, args.ratio)
        advantages = torch.cat([t.advantage for t in part]).to(logp.device)
        weights_a = action_weights(part, batch, args.average).to(logp.device)
        part_loss = (weights_a * clipped_loss(logp, logp_old, advantages, args.clip)).sum()
        part_loss.backward()
        loss += part_loss.item()
        ratios.append((logp - logp_old).detach().exp())
    policy.eval()
    norm = torch.nn.utils.clip_grad_norm_(weights, args.max_grad_norm).item()
    skipped = not np.isfinite([loss, norm]).all()
    if not skipped:
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        with torch.no_grad():
            for p, w in zip(policy.parameters(), weights):
                p.copy_(w)                                  # changes nothing where they are one tensor
    optimizer.zero_grad()
    return {"loss": loss, "norm": norm, "skipped": bool(skipped), "ratio": torch.cat(ratios)}


# ---------------------------------------------------------------- run folder

FREE_FLAGS = ("resume", "force", "device", "steps", "eval_data", "eval_every", "save_every", "show_every")
LOGS = ("metrics.jsonl", "samples.txt")


# Same as sft.start_run
def start_run(args):
    """Refuse to overwrite a run, or to resume one with other flags. -> trainer state, or None"""
    flags, last = Path(args.out) / "args.json", Path(args.out) / "last"
    if flags.exists() and not (args.resume or args.force):
        raise InputError(f"{args.out} holds a run already: --resume goes on with it, --force throws it away")
    if args.resume and flags.exists():
        old = json.loads(flags.read_text())
        for name in set(vars(args)) - set(FREE_FLAGS):
            if old.get(name) != getattr(args, name):
                raise InputError(f"--resume with another --{name.replace('_', '-')} than the run began with")
    if args.resume and models.has_checkpoint(last):
        return torch.load(last / "trainer.pt", map_location="cpu", weights_only=True)
    return None


# Same as rl_outcome.start_files
def start_files(args, state):
    """Write args.json, and cut the logs back to what they were at the checkpoint."""
    out = Path(args.out)
    for name in () if state else ("last", "best"):
        shutil.rmtree(out / name, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / "args.json").write_text(json.dumps(vars(args), indent=1) + "\n")
    for name in LOGS:
        with open(out / name, "a") as file:
            file.truncate(state["sizes"][name] if state else 0)


# Same as rl_outcome.append
def append(args, name, text):
    with open(Path(args.out) / name, "a") as file:
        file.write(text + "\n")


# Same as rl_outcome.show
def show(t, step):
    """A response in full, action by action with its rewards."""
    head = (f"== step {step}, problem {t.problem['id']}, answer {t.problem['answer']}, reward {t.reward:+g}, "
            f"{len(t.ids)} tokens{'' if t.finished else ', unfinished'}\n{t.problem['problem']}")
    return "\n".join([head] + [f"[{a.type} {r:+d}] {a.text}" for a, r in zip(t.actions, t.rewards)]) + "\n"


# ---------------------------------------------------------------- train

def train(args):
    state, out = start_run(args), Path(args.out)
    policy, tokenizer = models.load(out / "last" if state else args.model, args.device, args.dtype)
    reference = models.load(args.model, args.device, args.dtype)[0] if args.beta or args.offline else None
    if reference and args.offload in ("reference", "both"):
        reference.to("cpu")
    data = read_data(tokenizer, models.stop_ids(policy, tokenizer)[0], args)
    held_out = models.read_problems(args.eval_data, check=verifier.check_gold) if args.eval_data else []
    table = start_baseline(data, args, state)
    models.check_head(policy)
    optimizer, weights = make_optimizer(policy, args, state)
    if args.grad_checkpointing:
        policy.gradient_checkpointing_enable({"use_reentrant": False})
    start_files(args, state)
    start, best, bad, stop_now = state["step"] if state else 0, state["best"] if state else -1, 0, []
    # Ctrl-C: finish the step, save, leave; a second one leaves at once
    signal.signal(signal.SIGINT,
                  lambda *_: stop_now.append(1) or signal.signal(signal.SIGINT, signal.default_int_handler))
    if not state:
        append(args, "metrics.jsonl", json.dumps({"step": 0, **evaluate(policy, tokenizer, held_out, args)}))
    for step in (bar := tqdm(range(start + 1, args.steps + 1), initial=start, total=args.steps, unit="step")):
        clock = [time.time()]
        if args.offline:
            trajectories = take(data, args.prompts_per_step * args.num_samples, step, args.seed)
        else:
            problems = take(data, args.prompts_per_step, step, args.seed)
            trajectories = sample_trajectories(policy, tokenizer, problems, args.num_samples,
                                               args.temperature, args, step)
        clock.append(time.time())
        order = np.random.default_rng([args.seed, step]).permutation(len(trajectories))
        parts = np.array_split(order, args.updates_per_rollout)
        minibatches = [[trajectories[i] for i in part] for part in parts]
        set_logprobs(policy, reference, minibatches, args)
        row = {"step": step, "lr": learning_rate(step - 1, args), **behaviour(trajectories),
               "no_signal": set_advantages(trajectories, table, args)}
        clock.append(time.time())
        updates = []
        for batch in minibatches:
            updates.append(update(policy, optimizer, weights, batch, row["lr"], args))
            bad = bad + 1 if updates[-1]["skipped"] else 0
            if bad == 3:
                raise InputError(f"step {step}: 3 updates in a row not finite; {out}/last is the last good")
        off, slack = (updates[0]["ratio"] - 1).abs().max().item(), 0 if policy.device.type == "cpu" else 0.05
        assert bad or args.offline or off <= slack, f"the first ratio is off by {off}"
        clock.append(time.time())
        row |= statistics(trajectories, updates, clock, args)
        final = step == args.steps or bool(stop_now)
        if step % args.eval_every == 0 or final:
            row |= evaluate(policy, tokenizer, held_out, args)
            if row.get("eval_accuracy", -1) > best:
                best = row["eval_accuracy"]
                models.save(policy, tokenizer, out / "best")
        append(args, "metrics.jsonl", json.dumps(row))
        if step % args.show_every == 0:
            append(args, "samples.txt", show(trajectories[0], step) + "\n" + show(trajectories[-1], step))
        if step % args.save_every == 0 or final:
            models.save(policy, tokenizer, out / "last", {"trainer.pt": {
                "step": step, "best": best, "optimizer": optimizer.state_dict(), "weights": weights,
                "baseline": table.state_dict(),
                "sizes": {name: (out / name).stat().st_size for name in LOGS}}})
        bar.set_postfix({x: f"{row[x]:.3g}" for x in ("reward", "accuracy", "kl", "seconds")})
        if stop_now:
            raise KeyboardInterrupt
    print("group of (4), count, mean reward")
    for group, (count, total) in sorted(table.table.items(), key=lambda item: -item[1][0])[:20]:
        print(f"{str(group):40} {count:7d} {total / count:+.3f}")


if __name__ == "__main__":
    models.run_main(lambda: train(parse_args()))
