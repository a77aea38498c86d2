"""Stage 2a: outcome-level RLOO from scratch (S2R, arXiv 2502.12853, section 2.3.1; offline: section 2.4, App. F).

Every step samples M responses for each of P problems, rewards a response by its last solution only,
R_o = +1 if its boxed answer is right else -1, and then takes n clipped policy-gradient updates:

    (2)  A(x, y_m) = R_o(x, y_m) - b_m - beta * log [pi(y_m|x) / pi_ref(y_m|x)]     b_m = mean R_o of the other M-1
    (3)  L = -E min(r A, clip(r, 1-eps, 1+eps) A)                                   r = pi(y|x) / pi_old(y|x)

    python rl_outcome.py --model runs/sft --data toy/train.jsonl --eval-data toy/test.jsonl --out runs/orl \\
        --steps 200 --lr 2e-4 --schedule linear --updates-per-rollout 1 --beta 0.02 --max-new-tokens 200
    python rl_outcome.py --model runs/sft-qwen --data HuggingFaceH4/MATH-500 --split test --out runs/orl-qwen \\
        --offload both --grad-checkpointing --max-new-tokens 3000

Reads a checkpoint folder or hub name, a problem file, and optionally a samples file (accuracy filter, --offline).
Writes --out/{args.json, metrics.jsonl, samples.txt, last, best}; last also holds what --resume needs.

Chosen on purpose:
- The ratio is the exponential of the *mean* token log-ratio, as in the released code: with hundreds of tokens the
  product of (3) leaves the clip range after one update. `--ratio sum` is the equation to the letter.
- The KL term is the summed log-ratio to the reference, detached, inside the advantage: as a loss term its expected
  gradient would be zero. One sample of it may be negative; only its mean over many is a distance.
- The temperature divides the logits of the sampler, pi_old, pi_ref and pi: they are one policy.
- The stop token is the last token of the response and is trained. A response that never stops has R_o = -1.
- Sampled ids are trained on as they are. pi_old is scored once per rollout by the same forward as the update, in
  the same micro-batches, so that the first update's ratio is exactly 1 (asserted).
- Groups whose responses all have one reward have advantage 0 (but for the KL term). They are kept and counted.

Map: flags - log-probs - advantage and loss - rollout - rewards - statistics - update - checkpoints - train.
"""
import argparse
import json
import resource
import shutil
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    # files
    add("--model", required=True, help="start of the policy and frozen reference: the SFT model (folder or hub name)")
    add("--data", help="problems: JSONL file or datasets name (not needed with --offline)")
    add("--split", help="split of --data")
    add("--out", required=True, help="run folder, the only place written to")
    add("--eval-data", help="held-out problems for greedy evaluation")
    add("--samples", help="samples file whose accuracy per problem filters --data")
    add("--min-acc", type=float, default=0.1, help="keep problems with at least this sampled accuracy")
    add("--max-acc", type=float, help="and at most this (default: 0.9; 0.7 with --offline)")
    add("--offline", metavar="SAMPLES", help="learn from this samples file; no rollouts (App. F)")
    # algorithm
    add("--steps", type=int, default=500, help="rollouts")
    add("--prompts-per-step", type=int, default=64, help="P, problems per rollout")
    add("--num-samples", type=int, default=4, help="M, responses per problem")
    add("--updates-per-rollout", type=int, default=4, help="n, updates on each rollout")
    add("--beta", type=float, default=0.05, help="beta, weight of the KL term; 0 loads no reference")
    add("--clip", type=float, default=0.2, help="eps, clip range of the ratio")
    add("--temperature", type=float, default=0.7, help="T of sampling and of all log-probs")
    add("--max-new-tokens", type=int, default=8000, help="longest response")
    add("--ratio", choices=("mean", "sum"), default="mean", help="log-ratio: mean over the tokens, or (3) as written")
    add("--average", choices=("trajectory", "batch"), default="trajectory", help="mean over actions: (6), or flat")
    add("--baseline", choices=ONLINE + OFFLINE, help="group of (4) (default: running; bin-position with --offline)")
    add("--end-token", choices=("verify", "own", "free"), default="verify", help="action that owns the stop token: "
        "the last one, one of its own rewarded with R_o, or none (no gradient)")
    add("--bonus", action="store_true", help="the released code's two doublings of R - b")
    # optimiser
    add("--lr", type=float, default=5e-7, help="learning rate of AdamW")
    add("--schedule", choices=("constant", "linear"), default="constant", help="linear: to 0 at the last step")
    add("--warmup", type=int, default=5, help="steps of linear warm-up")
    add("--max-grad-norm", type=float, default=1.0, help="gradient clipping")
    add("--max-tokens", type=int, default=16384, help="padded tokens per micro-batch")
    # machine
    add("--device", default="auto", help="auto, cpu, cuda or mps")
    add("--dtype", default="auto", help="auto (bf16 on CUDA), bf16 or fp32; the optimiser always works in fp32")
    add("--offload", choices=("none", "reference", "optimizer", "both"), default="none", help="what the host holds")
    add("--grad-checkpointing", action="store_true", help="recompute activations in the backward pass")
    add("--rollout-rows", type=int, default=256, help="most responses decoded at once")
    # run
    add("--seed", type=int, default=0)
    add("--eval-every", type=int, default=20, help="steps between evaluations")
    add("--save-every", type=int, default=20, help="steps between checkpoints")
    add("--show-every", type=int, default=20, help="steps between two whole responses in samples.txt")
    add("--resume", action="store_true", help="go on from --out/last")
    add("--force", action="store_true", help="throw away an earlier run in --out")
    args = parser.parse_args(argv)
    if args.max_acc is None:
        args.max_acc = 0.7 if args.offline else 0.9
    args.baseline = args.baseline or ("bin-position" if args.offline else "running")
    if args.baseline not in (OFFLINE if args.offline else ONLINE):
        raise InputError(f"--baseline {args.baseline}: not with{'' if args.offline else 'out'} --offline")
    if args.temperature <= 0:
        raise InputError("--temperature must be above 0: a greedy policy has no probabilities to train")
    if args.num_samples < 2:
        raise InputError("--num-samples must be at least 2: the baseline is the mean of the others")
    if not (args.data or args.offline):
        raise InputError("--data is needed (or --offline)")
    return args


# ---------------------------------------------------------------- log-probs

LOGIT_CHUNK = 256  # tokens whose logits are held at once: 256 x 151,936 x 4 bytes = 156 MB


# Same as sft.head_product
def head_product(a, b):
    """[n,k] @ [k,m] -> [n,m], float32 even where a and b are 16-bit (there: on CUDA only, see `head_inputs`)."""
    return torch.mm(a, b, out_dtype=torch.float32) if a.dtype in (torch.bfloat16, torch.float16) else a @ b


# Same as sft.head_inputs
def head_inputs(hidden, weight):
    """hidden and weight in the dtype of the multiplication: 16-bit on CUDA where the input is or autocast asks
    for it, else at least float32 (a 16-bit product on the CPU would round the logits themselves)."""
    device, dtype = hidden.device.type, hidden.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    if device != "cuda" and dtype in (torch.bfloat16, torch.float16):
        dtype = torch.float32
    return hidden.to(dtype), weight.to(dtype)


# Same as sft.TokenLogprobs
class TokenLogprobs(torch.autograd.Function):
    """Forward keeps one number a token, the logsumexp; backward computes each chunk's logits again from it."""

    @staticmethod
    def forward(ctx, hidden, weight, targets, chunk, temperature):
        h, w = head_inputs(hidden, weight)
        picked, lse = [], []
        with torch.autocast(hidden.device.type, enabled=False):
            for h_c, t_c in zip(h.split(chunk), targets.split(chunk)):
                logits = head_product(h_c, w.T)  # [chunk,V]
                if temperature != 1:
                    logits.div_(temperature)
                top = logits.amax(1, keepdim=True)
                picked.append(logits.gather(1, t_c[:, None])[:, 0])
                lse.append(top[:, 0] + logits.sub_(top).exp_().sum(1).log())
                del logits  # before the next chunk's are made
        lse = torch.cat(lse)
        ctx.save_for_backward(hidden, weight, targets, lse)
        ctx.chunk, ctx.temperature, ctx.dtype = chunk, temperature, h.dtype
        return torch.cat(picked) - lse

    @staticmethod
    def backward(ctx, grad):
        hidden, weight, targets, lse = ctx.saved_tensors
        need_h, need_w = ctx.needs_input_grad[:2]
        w = weight.to(ctx.dtype)
        grad = grad / ctx.temperature  # d logp_i / d logits_i = (onehot - softmax) / T
        grad_h = torch.empty_like(hidden) if need_h else None
        grad_w = torch.zeros_like(weight, dtype=lse.dtype) if need_w else None
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), ctx.chunk):
                rows = slice(start, start + ctx.chunk)
                h, g = hidden[rows].to(ctx.dtype), grad[rows, None]
                probs = head_product(h, w.T)
                if ctx.temperature != 1:
                    probs.div_(ctx.temperature)
                probs = probs.sub_(lse[rows, None]).exp_().to(ctx.dtype)  # [chunk,V]
                if need_h:
                    grad_h[rows] = g * (w[targets[rows]] - head_product(probs, w))
                if need_w and h.dtype == grad_w.dtype:
                    grad_w.addmm_(probs.T, h * g, alpha=-1)
                elif need_w:
                    grad_w -= head_product(probs.T, (h * g).to(ctx.dtype))
                del probs
        if need_w:
            grad_w.index_add_(0, targets, hidden.to(grad_w.dtype) * grad[:, None])
            grad_w = grad_w.to(weight.dtype)
        return grad_h, grad_w, None, None, None


# Same as sft.token_logprobs
def token_logprobs(hidden, weight, targets, chunk=LOGIT_CHUNK, temperature=1.0):
    """log softmax(hidden @ weight.T / temperature)[targets] without ever holding [N,V].

    hidden [N,H], weight [V,H] (the head; tied or not), targets [N] -> [N] float32, differentiable in hidden and
    weight. At most `chunk` rows of logits exist at a time, forward and backward; sums are taken in float32.
    """
    return TokenLogprobs.apply(hidden, weight, targets, chunk, float(temperature))


def response_logprobs(policy, batch, temperature):
    """Log-probs of the sampled tokens of a list of trajectories, one after the other: [sum of len(t.ids)].

    Rows are padded on the right, where causal attention never looks, so no mask is needed.
    """
    device, width = policy.device, max(len(t.prompt) + len(t.ids) for t in batch)
    tokens = torch.zeros(len(batch), width, dtype=torch.long)                     # [B, L]
    for row, t in zip(tokens, batch):
        row[:len(t.prompt) + len(t.ids)] = torch.tensor(t.prompt + t.ids)
    hidden = policy.get_decoder()(input_ids=tokens.to(device), use_cache=False).last_hidden_state     # [B, L, H]
    # The state at position i predicts token i + 1.
    places = [row * width + len(t.prompt) - 1 + i for row, t in enumerate(batch) for i in range(len(t.ids))]
    hidden = hidden.flatten(0, 1)[torch.tensor(places, device=device)]            # [N, H], response tokens only
    targets = torch.tensor([i for t in batch for i in t.ids], device=device)      # [N]
    return token_logprobs(hidden, policy.get_output_embeddings().weight, targets, temperature=temperature)


def micro_batches(batch, max_tokens):
    """Split trajectories into lists of similar length, each at most max_tokens tokens when padded."""
    parts, part = [], []
    for t in sorted(batch, key=lambda t: len(t.prompt) + len(t.ids)):
        if part and (len(part) + 1) * (len(t.prompt) + len(t.ids)) > max_tokens:
            parts.append(part)
            part = []
        part.append(t)
    return parts + [part] if part else parts


# ---------------------------------------------------------------- advantage and loss

def reward_contexts(rewards):
    """The reward context of every action: the rewards of all actions before it.

    >>> reward_contexts([-1, 1, 1])
    [(), (-1,), (-1, 1)]
    """
    return [tuple(rewards[:i]) for i in range(len(rewards))]


class ContextBaseline:
    """Equation (4): mean reward of all actions seen in a context; 0 until `least` were seen."""

    def __init__(self, least=10):
        self.least, self.table = least, {}      # context -> (count, sum)

    def update(self, contexts, rewards):
        for context, reward in zip(contexts, rewards):
            count, total = self.table.get(context, (0, 0.0))
            self.table[context] = count + 1, total + reward

    def mean(self, context):
        count, total = self.table.get(context, (0, 0.0))
        return total / count if count >= self.least else 0.0

    def state_dict(self):
        return dict(self.table)

    def load_state_dict(self, table):
        self.table = dict(table)


def groups(t, baseline):
    """The group of (4) that each action of a trajectory belongs to."""
    contexts = reward_contexts(t.rewards)
    if baseline == "bin-position":
        return [(t.bin, i) for i in range(len(contexts))]
    if baseline in ("level", "bin-context"):
        return [(t.problem["level"] if baseline == "level" else t.bin, c) for c in contexts]
    return contexts


def leave_one_out(rewards):
    """SPOC's baseline: the mean reward of the action at the same place in the other samples, 0 where there is none.

    M lists of rewards -> M lists

    >>> leave_one_out([[1, 1], [-1], [1, -1]])
    [[0.0, -1.0], [1.0], [0.0, 1.0]]
    """
    def others(m, i):
        found = [r[i] for k, r in enumerate(rewards) if k != m and i < len(r)]
        return sum(found) / len(found) if found else 0.0
    return [[others(m, i) for i in range(len(r))] for m, r in enumerate(rewards)]


def bonus(t):
    """The released code's factors on R - b: 2 for checking a right answer, and for a retry that changes correctness."""
    r = t.rewards
    return [2.0 if i % 2 and r[i - 1] > 0 or i % 2 == 0 and i > 1 and r[i] != r[i - 2] else 1.0 for i in range(len(r))]


# Same as rl_outcome.advantages
def advantages(rewards, baseline, logp, logp_ref, beta):
    """Equation (5). All [N]; logp and logp_ref are log-probs of whole actions and carry no gradient."""
    return rewards - baseline - beta * (logp - logp_ref).detach()


def clipped_loss(logp, logp_old, advantages, clip):
    """Equation (6) for each action, before the mean. Three [N] -> [N]."""
    ratio = torch.exp(logp - logp_old)
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def per_action(logp, batch, ratio):
    """Token log-probs [N] of a list of trajectories -> [A]: their mean or sum over each action. Tokens that no
    action owns are left out."""
    sizes = [len(t.rewards) for t in batch]
    first = np.cumsum([0] + sizes)
    index = torch.tensor([o + f if o >= 0 else first[-1] for t, f in zip(batch, first) for o in t.owner], device=logp.device)
    count = first[-1] + 1                                   # the last place collects tokens without an owner
    total = logp.new_zeros(count).index_add(0, index, logp)
    if ratio == "mean":
        total = total / torch.bincount(index, minlength=count).clamp(min=1)
    return total[:-1]


def action_weights(batch, average):
    """The weight of every action of a minibatch: 1 / (trajectories * |y|_a) as in (6), or 1 / actions."""
    if average == "batch":
        return [[1 / sum(len(t.rewards) for t in batch)] * len(t.rewards) for t in batch]
    return [[1 / (len(batch) * len(t.rewards))] * len(t.rewards) for t in batch]


# ---------------------------------------------------------------- rollout

@dataclass
class Trajectory:
    problem: dict                   # the row of the problem file
    prompt: list                    # token ids
    ids: list                       # token ids as sampled; the stop token, if any, is the last
    finished: bool                  # stopped by itself
    actions: list = field(default_factory=list)     # verifier.Action
    owner: list = field(default_factory=list)       # for each id the index of its action
    rewards: list = field(default_factory=list)     # +1/-1 per action (and for <end>)
    reward: float = 0.0             # R_o (for the log)
    solved: bool = False            # is the last solution right
    bin: int = 0                    # accuracy of the problem in tenths (--offline)
    advantage: torch.Tensor = None  # [actions]
    weight: torch.Tensor = None     # [actions], in the mean of (6)
    logp: torch.Tensor = None       # [len(ids)] under the policy at the start of the step
    logp_ref: torch.Tensor = None   # [len(ids)] under the reference
    logp_old: torch.Tensor = None   # [len(ids)] under the policy that sampled it


def uniforms(streams, t):
    """One number in [0, 1) per random stream for its token t: [B] int64 -> [B] float64.

    A hash of (stream, t) (splitmix64), so a sample does not depend on the batch it is drawn in.
    """
    x = streams + torch.full_like(streams, t) * -7046029254386353131
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685), (31, 1)):
        x = (x ^ ((x >> shift) & ((1 << 64 - shift) - 1))) * factor
    return ((x >> 11) & ((1 << 53) - 1)).double() / 2 ** 53


def choose(logits, streams, t, temperature):
    """Next token of each row: the most likely one at T = 0, else a draw from softmax(logits / T). [B, V] -> [B]"""
    if temperature == 0:
        return logits.argmax(-1)
    total = (logits.float() / temperature).softmax(-1).double().cumsum(-1)
    point = uniforms(streams, t)[:, None] * total[:, -1:]
    return torch.searchsorted(total, point, right=True)[:, 0].clamp_(max=logits.shape[1] - 1)


@torch.no_grad()
def rollout(policy, prompts, num_samples, stops, temperature, max_new_tokens, streams):
    """Sample num_samples responses to each prompt. streams: one int per response.

    -> list of P * num_samples lists of ids, those of a prompt side by side; the stop token, if any, is the last.
    Each prompt is run once and its cache shared out; a finished response leaves the batch.
    """
    device, width = policy.device, max(map(len, prompts))
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)     # [P, L]
    tokens = torch.tensor([[0] * (width - len(p)) + p for p in prompts], device=device)
    cache = DynamicCache(config=policy.config)
    out = policy(input_ids=tokens, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp_(min=0),
                 past_key_values=cache, use_cache=True, logits_to_keep=1)
    cache.batch_repeat_interleave(num_samples)
    logits = out.logits[:, -1].repeat_interleave(num_samples, 0)                 # [B, V]
    mask = mask.repeat_interleave(num_samples, 0)
    streams, stops = torch.tensor(streams, device=device), torch.tensor(stops, device=device)
    live = torch.arange(len(logits), device=device)         # the response that each row of the batch belongs to
    ids = torch.full((len(logits), max_new_tokens), -1, device=device)
    for t in range(max_new_tokens):
        token = choose(logits, streams[live], t, temperature)
        ids[live, t] = token
        keep = (~torch.isin(token, stops)).nonzero()[:, 0]
        if len(keep) == 0 or t == max_new_tokens - 1:
            break
        if len(keep) < len(live):
            live, token, mask = live[keep], token[keep], mask[keep]
            cache.batch_select_indices(keep)
        mask = torch.cat([mask, mask.new_ones(len(live), 1)], 1)
        out = policy(input_ids=token[:, None], attention_mask=mask, position_ids=mask.sum(1, keepdim=True) - 1,
                     past_key_values=cache, use_cache=True)
        logits = out.logits[:, -1]
    return [row[:n] for row, n in zip(ids.tolist(), (ids >= 0).sum(1).tolist())]


def sample_trajectories(policy, tokenizer, problems, num_samples, temperature, args, step):
    """Roll out and score: -> P * M trajectories, those of a problem side by side."""
    stops, trajectories = models.stop_ids(policy, tokenizer), []
    prompts = [models.prompt_ids(tokenizer, p["problem"]) for p in problems]
    size = max(1, args.rollout_rows // num_samples)
    for first in range(0, len(problems), size):
        part = range(first, min(first + size, len(problems)))
        streams = [hash((args.seed, step, i, m)) for i in part for m in range(num_samples)]
        responses = rollout(policy, [prompts[i] for i in part], num_samples, stops, temperature,
                            args.max_new_tokens, streams)
        trajectories += [Trajectory(problems[i], prompts[i], ids, ids[-1] in stops)
                         for i, ids in zip(np.repeat(part, num_samples), responses)]
    return [score(t, tokenizer, args) for t in trajectories]


# ---------------------------------------------------------------- rewards

def score(t, tokenizer, args):
    """Cut the response into actions and reward it."""
    t.actions, t.owner = verifier.action_ids(tokenizer, t.ids)
    t.rewards = verifier.action_rewards(t.actions, t.problem["answer"], t.finished)
    t.reward = verifier.outcome_reward(t.actions, t.problem["answer"], t.finished)
    t.solved = t.reward > 0
    if t.finished and args.end_token == "own":
        t.owner[-1] = len(t.actions)
        t.rewards = t.rewards + [t.reward]
    elif t.finished and args.end_token == "free":
        t.owner[-1] = -1
    return t


def set_advantages(trajectories, table, args):
    """Equation (5) for a whole rollout."""
    if args.baseline == "batch":
        table = ContextBaseline(least=1)
    if not args.offline:
        for t in trajectories:
            table.update(groups(t, args.baseline), t.rewards)
    if args.baseline == "rloo":
        m = args.num_samples
        baselines = [b for i in range(0, len(trajectories), m)
                     for b in leave_one_out([t.rewards for t in trajectories[i:i + m]])]
    else:
        baselines = [[table.mean(g) for g in groups(t, args.baseline)] for t in trajectories]
    for t, b in zip(trajectories, baselines):
        logp, logp_ref = (per_action(x, [t], "sum").cpu() for x in (t.logp, t.logp_ref))
        r, b, k = torch.tensor([t.rewards, b, bonus(t) if args.bonus else [1.0] * len(b)], dtype=torch.float)
        t.advantage = advantages(k * r, k * b, logp, logp_ref, args.beta)


# ---------------------------------------------------------------- data

def read_samples(path, tokenizer, stop, args):
    """Samples file -> one list of scored trajectories per problem; the text is tokenized, for ids are not in it."""
    groups = []
    for number, row in enumerate(models.read_jsonl(path, ("problem", "answer", "responses", "finished")), 1):
        texts, finished = row["responses"], row["finished"]
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise InputError(f"{path}:{number}: field 'responses' must be a list of texts")
        if not isinstance(finished, list) or len(finished) != len(texts):
            raise InputError(f"{path}:{number}: field 'finished' must have one entry for each response")
        check_answer(row, f"{path}:{number}")
        prompt = models.prompt_ids(tokenizer, row["problem"])
        ids = [tokenizer(text, add_special_tokens=False).input_ids + [stop] * end for text, end in zip(texts, finished)]
        groups.append([score(Trajectory(row, prompt, i, bool(end)), tokenizer, args)
                       for i, end in zip(ids, finished) if i])
    return groups


def check_answer(row, where):
    reason = verifier.check_gold(row["answer"])
    if reason:
        raise InputError(f"{where}: field 'answer' {reason}")


def accuracy(group):
    return sum(t.solved for t in group) / len(group) if group else 0.0


def rejected(t):
    """App. F: why a stored trajectory is not learnt from, or None."""
    if len(t.actions) > 20:
        return "more than 20 actions"
    if [a.type for a in t.actions] != ["solve", "verify"] * (len(t.actions) // 2):
        return "not solve, verify, solve, verify"
    for solve, verify in zip(t.rewards[0:-2:2], t.actions[1:-2:2]):
        if solve > 0 and verifier.parse_verdict(verify.text) == "correct":
            return "goes on after a right answer found correct"


def read_offline(args, tokenizer, stop):
    """App. F: filter by problem and by trajectory; the problem's accuracy falls in a bin of a tenth."""
    kept, reasons = [], Counter()
    for group in read_samples(args.offline, tokenizer, stop, args):
        if not args.min_acc <= accuracy(group) <= args.max_acc:
            reasons["accuracy of the problem"] += len(group)
            continue
        for t in group:
            reason = rejected(t)
            reasons[reason] += 1
            if not reason:
                t.bin = int(10 * accuracy(group))
                kept.append(t)
    print(f"offline: {reasons.pop(None, 0)} responses kept; rejected: {dict(reasons)}")
    if not kept:
        raise InputError(f"{args.offline}: no trajectory is left after the filters")
    return kept


def read_data(path, split, args, tokenizer=None, stop=None):
    """Problems whose sampled accuracy lies in [min_acc, max_acc] where --samples tells it."""
    problems = models.read_problems(path, split)
    for number, row in enumerate(problems, 1):
        check_answer(row, f"{path}:{number}")
    if not (args.samples and tokenizer):
        return problems
    known = {group[0].problem["problem"]: accuracy(group) for group in read_samples(args.samples, tokenizer, stop, args)}
    kept = [p for p in problems if args.min_acc <= known.get(p["problem"], -1) <= args.max_acc]
    print(f"accuracy filter: {len(kept)} of {len(problems)} problems kept")
    if not kept:
        raise InputError(f"{args.samples}: no problem of {path} has an accuracy in [{args.min_acc}, {args.max_acc}]")
    return kept


def draw(count, size, step, seed):
    """Indices of a step's items: a new permutation every epoch, a function of (seed, step) alone, so that a resumed
    run meets the same data."""
    first = step * size
    epochs = range(first // count, (first + size - 1) // count + 1)
    order = np.concatenate([np.random.default_rng([seed, epoch]).permutation(count) for epoch in epochs])
    return order[first - epochs[0] * count:][:size]


# ---------------------------------------------------------------- statistics

def behaviour(trajectories):
    """Metrics of App. E over a list of trajectories; None where the denominator is zero."""
    n = Counter()
    for t in trajectories:
        solves = [r > 0 for r, a in zip(t.rewards, t.actions) if a.type == "solve"]
        n["first"] += solves[0]
        n["trials"] += len(solves)
        n["recovered"] += solves[-1] > solves[0]
        n["lost"] += solves[-1] < solves[0]
        for i, action in enumerate(t.actions):
            if action.type == "verify":
                right, verdict = t.rewards[i - 1] > 0, verifier.parse_verdict(action.text)
                n["verify"] += 1
                n["agree"] += verdict == ("correct" if right else "incorrect")
                n["wrong"] += not right
                n["recalled"] += not right and verdict == "incorrect"
                n["accepted"] += verdict == "correct"
                n["precise"] += right and verdict == "correct"
                n["silent"] += verdict is None
    total = len(trajectories)
    share = {"accuracy": (sum(t.solved for t in trajectories), total), "first_accuracy": (n["first"], total),
             "VA": (n["agree"], n["verify"]), "ER": (n["recalled"], n["wrong"]), "CP": (n["precise"], n["accepted"]),
             "ICR": (n["recovered"], total - n["first"]), "CIR": (n["lost"], n["first"]), "trials": (n["trials"], total),
             "no_verdict": (n["silent"], n["verify"]), "finished": (sum(t.finished for t in trajectories), total),
             "tokens": (sum(len(t.ids) for t in trajectories), total)}
    return {name: a / b if b else None for name, (a, b) in share.items()}


def policy_statistics(trajectories, args):
    """Entropy, distance to the reference and signal of a rollout."""
    logp, ref = torch.cat([t.logp for t in trajectories]), torch.cat([t.logp_ref for t in trajectories])
    total = len(trajectories)
    advantages = torch.cat([t.advantage for t in trajectories])
    stats = {"reward": sum(t.reward for t in trajectories) / total,
             "entropy": -logp.mean().item(),             # an estimate, from the sampled tokens
             "kl": (logp - ref).sum().item() / total,    # k1, unbiased; a batch's value may be negative
             "kl_k3": (torch.expm1(ref - logp) - (ref - logp)).sum().item() / total}     # never negative
    stats["zero_advantage"] = (advantages == 0).float().mean().item()
    return stats


# ---------------------------------------------------------------- update

def make_optimizer(policy, args):
    """AdamW on float32 weights -> (optimizer, those weights).

    A float32 policy is trained directly. A bf16 policy, in which an update of 5e-7 would be lost, or one whose
    optimiser lives on the host, gets float32 masters; every finished gradient moves to its master at once.
    """
    weights, host = list(policy.parameters()), args.offload in ("optimizer", "both")
    if policy.dtype != torch.float32 or host:
        masters = {p: p.detach().to("cpu" if host else p.device, torch.float32, copy=True) for p in weights}

        def collect(p):
            grad = p.grad.to(masters[p].device, torch.float32)
            masters[p].grad = grad if masters[p].grad is None else masters[p].grad + grad
            p.grad = None

        for p in weights:
            p.register_post_accumulate_grad_hook(collect)
        weights = list(masters.values())
    return torch.optim.AdamW(weights, lr=args.lr, weight_decay=0.0), weights


def learning_rate(step, args):
    """Of step 0, 1, ...: linear warm-up, then constant or linear to 0."""
    decay = 1 - step / args.steps if args.schedule == "linear" else 1
    return args.lr * decay * min(1, (step + 1) / max(1, args.warmup))


def update(policy, optimizer, weights, batch, args):
    """One step of AdamW on (3) over a minibatch. The mean is over the minibatch, however it is cut up.

    -> {"loss", "grad_norm", "skipped", "ratio": one per action}. Nothing is changed by a gradient that is not finite.
    """
    total, ratios = 0.0, []
    for t, weight in zip(batch, action_weights(batch, args.average)):
        t.weight = torch.tensor(weight)
    policy.train(args.grad_checkpointing)                   # transformers checkpoints only in training mode
    for part in micro_batches(batch, args.max_tokens):
        logp = per_action(response_logprobs(policy, part, args.temperature), part, args.ratio)
        logp_old = per_action(torch.cat([t.logp_old for t in part]), part, args.ratio)
        advantage, weight = (torch.cat(x).to(logp.device) for x in zip(*[(t.advantage, t.weight) for t in part]))
        loss = (weight * clipped_loss(logp, logp_old, advantage, args.clip)).sum()
        loss.backward()
        total += loss.item()
        ratios.append((logp - logp_old).detach().exp())
    policy.eval()
    norm = torch.nn.utils.clip_grad_norm_(weights, args.max_grad_norm).item()
    skipped = not np.isfinite([total, norm]).all()
    if not skipped:
        optimizer.step()
        with torch.no_grad():
            for p, w in zip(policy.parameters(), weights):
                p.copy_(w)                                  # nothing to do where they are the same tensor
    optimizer.zero_grad(set_to_none=True)
    return {"loss": total, "grad_norm": norm, "skipped": skipped, "ratio": torch.cat(ratios)}


@torch.no_grad()
def score_logprobs(policy, reference, minibatches, args):
    """Log-probs of every token under the policy and the reference, in the micro-batches that `update` will make."""
    host = args.offload in ("reference", "both")
    for scorer, name in ((policy, "logp"), (reference, "logp_ref")):
        if scorer is reference and reference is not None and host:
            reference.to(policy.device)
        for part in [part for batch in minibatches for part in micro_batches(batch, args.max_tokens)]:
            if scorer is None:
                values = [t.logp for t in part]             # no reference: the KL term is 0
            else:
                values = response_logprobs(scorer, part, args.temperature).split([len(t.ids) for t in part])
            for t, value in zip(part, values):
                setattr(t, name, value)
    if reference is not None and host:
        reference.to("cpu")


# ---------------------------------------------------------------- run folder

FREE_FLAGS = ("resume", "force", "steps", "device", "eval_data", "eval_every", "save_every", "show_every")


def check_run(args):
    """Refuse to overwrite a run, and to resume one with other flags."""
    flags = Path(args.out) / "args.json"
    if not flags.exists():
        return
    if not (args.resume or args.force):
        raise InputError(f"{args.out} holds a run already: --resume goes on with it, --force throws it away")
    if args.resume:
        old = json.loads(flags.read_text())
        changed = [name for name, value in vars(args).items() if name not in FREE_FLAGS and old.get(name) != value]
        if changed:
            raise InputError(f"--resume with another --{changed[0].replace('_', '-')} than the run began with "
                             f"({old.get(changed[0])})")


def start_files(args, state):
    """Write args.json; cut the logs back to what they were at the checkpoint (empty without one)."""
    out = Path(args.out)
    if not state:
        for name in ("last", "best"):
            shutil.rmtree(out / name, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / "args.json").write_text(json.dumps(vars(args), indent=1) + "\n")
    for name in ("metrics.jsonl", "samples.txt"):
        with open(out / name, "a") as file:
            file.truncate(state["sizes"][name] if state else 0)


def append(args, name, text):
    with open(Path(args.out) / name, "a") as file:
        file.write(text)


def show(t, step):
    """One response in full, action by action with its rewards."""
    lines = [f"== step {step}, problem {t.problem.get('id')}, answer {t.problem['answer']}, reward {t.reward:+g}, "
             f"{len(t.ids)} tokens{'' if t.finished else ', unfinished'}", t.problem["problem"]]
    lines += [f"[{a.type} {r:+d}] {a.text}" for a, r in zip(t.actions, t.rewards)]
    return "\n".join(lines) + "\n\n"


def train(args):
    check_run(args)
    last = Path(args.out) / "last"
    state = None
    if args.resume and models.has_checkpoint(last):
        state = torch.load(last / "trainer.pt", map_location="cpu", weights_only=True)
    policy, tokenizer = models.load(last if state else args.model, args.device, args.dtype)
    reference = None
    if args.beta or args.offline:
        reference = models.load(args.model, args.device, args.dtype)[0].requires_grad_(False)
        if args.offload in ("reference", "both"):
            reference.to("cpu")
    if args.grad_checkpointing:
        policy.gradient_checkpointing_enable({"use_reentrant": False})
    stop = models.stop_ids(policy, tokenizer)[0]
    held_out = read_data(args.eval_data, None, args) if args.eval_data else None
    data = read_offline(args, tokenizer, stop) if args.offline else read_data(args.data, args.split, args, tokenizer, stop)
    table = ContextBaseline()
    if args.offline:
        for t in data:
            table.update(groups(t, args.baseline), t.rewards)
    optimizer, weights = make_optimizer(policy, args)
    if state:
        optimizer.load_state_dict(state["optimizer"])
        table.load_state_dict(state["baseline"])
        for w, saved in zip(weights, state["weights"]):
            w.data.copy_(saved)
    start_files(args, state)
    start, best = (state["step"], state["best"]) if state else (0, -1.0)
    stop_now, bad = [], 0
    signal.signal(signal.SIGINT, lambda *_: stop_now.append(1) or signal.signal(signal.SIGINT, signal.default_int_handler))

    def measure():
        return {f"eval_{k}": v for k, v in
                behaviour(sample_trajectories(policy, tokenizer, held_out, 1, 0, args, 0)).items()}

    if held_out and not state:
        append(args, "metrics.jsonl", json.dumps({"step": 0, **measure()}) + "\n")
    bar = tqdm(range(start, args.steps), initial=start, total=args.steps)
    for step in bar:
        clock = [time.time()]
        if args.offline:
            trajectories = [data[i] for i in draw(len(data), args.prompts_per_step * args.num_samples, step, args.seed)]
        else:
            problems = [data[i] for i in draw(len(data), args.prompts_per_step, step, args.seed)]
            trajectories = sample_trajectories(policy, tokenizer, problems, args.num_samples, args.temperature, args, step)
        clock.append(time.time())
        order = np.random.default_rng([args.seed, step]).permutation(len(trajectories))
        minibatches = [[trajectories[i] for i in part] for part in np.array_split(order, args.updates_per_rollout)]
        score_logprobs(policy, reference, minibatches, args)
        for t in trajectories:
            t.logp_old = t.logp_ref if args.offline else t.logp
        set_advantages(trajectories, table, args)
        clock.append(time.time())
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args)
        updates = []
        for batch in minibatches:
            updates.append(update(policy, optimizer, weights, batch, args))
            bad = bad + 1 if updates[-1]["skipped"] else 0
            if bad == 3:
                raise InputError(f"step {step + 1}: three updates in a row were not finite; {last} is the last good one; try a lower --lr")
        if not args.offline:
            off = (updates[0]["ratio"] - 1).abs().max().item()
            assert off <= (0 if policy.device.type == "cpu" else 0.05), f"first ratio is off by {off}"
        clock.append(time.time())
        ratio = torch.cat([u["ratio"] for u in updates])
        n = sum(len(t.ids) for t in trajectories)
        row = {"step": step + 1, "lr": learning_rate(step, args), **behaviour(trajectories), **policy_statistics(trajectories, args),
               "loss": np.mean([u["loss"] for u in updates]), "grad_norm": np.mean([u["grad_norm"] for u in updates]),
               "skipped": sum(map(int, [u["skipped"] for u in updates])),
               "ratio_mean": ratio.mean().item(), "ratio_max": ratio.max().item(),
               "clip_share": ((ratio - 1).abs() > args.clip).float().mean().item(),
               "seconds": clock[3] - clock[0], "seconds_rollout": clock[1] - clock[0], "seconds_logprobs": clock[2] - clock[1],
               "seconds_update": clock[3] - clock[2], "rollout_tokens_per_second": n / (clock[1] - clock[0]),
               "update_tokens_per_second": n / (clock[3] - clock[2]),
               "peak_gb": (torch.cuda.max_memory_allocated() if policy.device.type == "cuda" else
                           resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024) / 1e9}
        final = step + 1 == args.steps or bool(stop_now)
        if held_out and ((step + 1) % args.eval_every == 0 or final):
            row.update(measure())
            if row["eval_accuracy"] > best:
                best = row["eval_accuracy"]
                models.save(policy, tokenizer, Path(args.out) / "best")
        append(args, "metrics.jsonl", json.dumps(row) + "\n")
        if step % args.show_every == 0:
            append(args, "samples.txt", show(trajectories[0], step + 1) + show(trajectories[len(trajectories) // 2], step + 1))
        if (step + 1) % args.save_every == 0 or final:
            sizes = {name: (Path(args.out) / name).stat().st_size for name in ("metrics.jsonl", "samples.txt")}
            models.save(policy, tokenizer, last, {"trainer.pt": {
                "step": step + 1, "best": best, "optimizer": optimizer.state_dict(), "weights": [w.data for w in weights],
                "sizes": sizes, "baseline": table.state_dict(), "args": vars(args)}})
        bar.set_postfix(reward=f"{row['reward']:.2f}", acc=f"{row['accuracy']:.2f}", kl=f"{row['kl']:.2f}", tps=int(row["rollout_tokens_per_second"]))
        if stop_now:
            raise KeyboardInterrupt


def main():
    train(parse_args())


if __name__ == "__main__":
    models.run_main(main)
