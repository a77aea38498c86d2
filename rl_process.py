"""Stage 2b: process-level group RL from scratch (S2R, arXiv 2502.12853, section 2.3.2; --offline: App. F).

Read rl_outcome.py first: `diff rl_outcome.py rl_process.py` is this stage. Here every action earns a reward
of its own, R_a = +1 for a right solution and for a verification whose verdict is the truth, else -1, and is
compared with actions of all problems and steps in the same reward context, the rewards of what came before:

    (4)  b(a) = mean reward over the group G of actions with the reward context of a
    (5)  A(a) = R_a(a) - b(a) - beta log [pi(a) / pi_ref(a)]
    (6)  L = -E 1/|y|_a sum over a of min(r_a A_a, clip(r_a, 1-eps, 1+eps) A_a),    r_a = pi(a) / pi_old(a)

    python rl_process.py --model runs/seed0/bi/last --data runs/seed0/toy/train.jsonl --out runs/my-prl \\
        --steps 20 --lr 1e-4 --schedule linear --updates-per-rollout 1 --ratio sum --max-new-tokens 300

Reads a checkpoint, problems, a samples file. Writes OUT/{args.json, metrics.jsonl, samples.txt, last, best}.
In (6) |y|_a is the number of actions. Stop token, group of (4), mean of (6) are flags: see EXPERIMENTS.md.
Sections marked (=) are the same in rl_outcome.py.
Map: flags - log-probs - advantage and loss - rollout - rewards - data - statistics - update - train.
"""
import time
from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache

import model as models
import verifier
from model import InputError, number

ONLINE = ("running", "batch", "level", "rloo")
OFFLINE = ("bin-position", "bin-context", "context")


def add_credit_flags(add):
    """The flags of (4) to (6). --baseline running: over run and batch; batch: this batch only; level:
    a group per problem level too; rloo: leave-one-out by place (SPOC, arXiv 2506.06923)."""
    add("--baseline", choices=ONLINE + OFFLINE, help="group of (4) (running; with --offline bin-position)")
    # As part of a right *incorrect* verdict the stop token shares its +1, though ending there is wrong.
    add("--end-token", choices=("verify", "own", "free"), default="verify",
        help="the stop token: part of the last action, an action with reward R_o, or in no action")
    add("--average", choices=("trajectory", "batch"), default="trajectory",
        help="mean over each trajectory's actions first (6): short ones weigh more; or over all alike")


def parse_args(argv=None):
    parser = models.Parser(__doc__)
    add, count, share, rate = parser.add_argument, number(int, 1), number(float, 0, 1), number(float, 0)
    # files
    add("--model", required=True, help="the SFT model, folder or hub name: first policy and reference")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", help="problems: file, or folder or name for datasets")
    source.add_argument("--offline", metavar="SAMPLES", help="learn from this samples file without rollouts")
    add("--split", help="split of --data")
    add("--out", required=True, help="run folder, the only place written to")
    add("--eval-data", help="held-out problems for greedy evaluation, which picks best/")
    add("--samples", help="samples file whose accuracy per problem filters --data")
    add("--min-acc", type=share, help="of --samples or --offline: least accuracy of a problem (0.1)")
    add("--max-acc", type=share, help="greatest (0.9; with --offline 0.7)")
    # algorithm
    add("--steps", type=count, default=500, help="rollouts (500)")
    add("--prompts-per-step", type=number(int, 1, 10**6), default=64, help="P, problems per rollout (64)")
    add("--num-samples", type=number(int, 2, 10**6), default=4, help="M, responses per problem (4)")
    add("--updates-per-rollout", type=count, default=4, help="n, parts of a rollout, an update each (4)")
    add("--beta", type=rate, default=0.05, help="weight of the KL term (0.05); 0 loads no reference")
    add("--clip", type=share, default=0.2, help="eps, half the clip range of the ratio (0.2)")
    add("--temperature", type=number(float, 1e-3), default=0.7, help="T, in sampling and all log-probs (0.7)")
    add("--max-new-tokens", type=count, default=8000, help="longest response (8000)")
    # Of hundreds of tokens the product in r leaves the clip range after one update: so "mean", as in the
    # released code; "sum" is the equation to the letter.
    add("--ratio", choices=("mean", "sum"), default="mean", help="log-ratio: mean over tokens, or sum")
    add_credit_flags(add)
    # optimizer
    add("--lr", type=rate, default=5e-7, help="learning rate of AdamW (5e-7)")
    add("--schedule", choices=("constant", "linear"), default="constant", help="linear: down to 0 (constant)")
    add("--warmup", type=number(int, 0), default=5, help="steps of linear warm-up (5)")
    add("--max-grad-norm", type=rate, default=1.0, help="gradient clipping (1)")
    add("--max-tokens", type=count, default=16384, help="padded tokens in a micro-batch (16384)")
    # machine
    add("--device", default="auto", help="auto, cpu, cuda; mps is not tested")
    add("--dtype", choices=("auto", "bf16", "fp32"), default="auto", help="policy; the optimizer is fp32")
    add("--offload", choices=("none", "reference", "optimizer", "both"), default="none", help="host keeps")
    add("--grad-checkpointing", action="store_true", help="recompute activations in the backward pass")
    add("--rollout-rows", type=count, default=256, help="most responses decoded at once (256)")
    # run
    add("--seed", type=number(int, 0), default=0)
    add("--eval-every", type=count, default=20, help="steps between evaluations, texts in samples.txt (20)")
    add("--save-every", type=count, default=20, help="steps between checkpoints (20)")
    add("--resume", action="store_true", help="go on from --out/last")
    add("--force", action="store_true", help="throw away the run in --out")
    args = parser.parse_args(argv)
    if (args.min_acc or args.max_acc) and not (args.samples or args.offline):
        raise InputError("--min-acc and --max-acc filter by --samples or --offline, and there is none")
    args.min_acc = 0.1 if args.min_acc is None else args.min_acc
    if args.max_acc is None:
        args.max_acc = 0.7 if args.offline else 0.9
    if args.updates_per_rollout > args.prompts_per_step * args.num_samples:
        raise InputError("--updates-per-rollout is greater than the number of responses")
    args.baseline = args.baseline or ("bin-position" if args.offline else "running")
    if args.baseline not in (OFFLINE if args.offline else ONLINE):
        raise InputError(f"--baseline {args.baseline}: not with{'' if args.offline else 'out'} --offline")
    return args


# ---------------------------------------------------------------- log-probs (=)
def token_logprobs(hidden, weight, targets, chunk=256, temperature=1.0):
    """log softmax(hidden @ weight.T / temperature)[targets] without ever holding [N, V].

    hidden [N, H], weight [V, H] (the head, tied or not), targets [N] -> [N] float32. Logits exist for one
    chunk at a time, and torch's `checkpoint` makes them again in the backward pass: those of 16,384 tokens
    take 10 GB at V = 152k. All is float32, also from 16-bit inputs: rounded logits make noisy ratios.
    """
    wide = torch.promote_types(hidden.dtype, torch.float32)
    weight = weight.to(wide)

    def logprobs(h, t):
        logits = (h.to(wide) @ weight.T).div_(temperature)                                        # [chunk, V]
        return -F.cross_entropy(logits, t, reduction="none")

    parts = [checkpoint(logprobs, h, t, use_reentrant=False, preserve_rng_state=False)
             for h, t in zip(hidden.split(chunk), targets.split(chunk))]
    return torch.cat(parts)


def response_logprobs(policy, trajectories, temperature):
    """Log-probs of the response tokens of trajectories, one after the other: [sum of len(t.ids)]. Rows are
    padded on the right, where causal attention never looks, so no mask is needed."""
    rows = [torch.tensor(t.prompt + t.ids) for t in trajectories]
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(policy.device)                # [B, L]
    hidden = policy.get_decoder()(input_ids=tokens, use_cache=False).last_hidden_state             # [B, L, H]
    hidden = [h[len(t.prompt) - 1:len(t) - 1] for h, t in zip(hidden, trajectories)]    # predict t.ids
    targets = torch.tensor([i for t in trajectories for i in t.ids], device=policy.device)            # [N]
    head = policy.get_output_embeddings().weight
    return token_logprobs(torch.cat(hidden), head, targets, temperature=temperature)


def micro_batches(batch, max_tokens):
    """Split items with a length into lists of like length, each of at most max_tokens when padded."""
    parts = []
    for item in sorted(batch, key=len):
        if not parts or (len(parts[-1]) + 1) * len(item) > max_tokens:
            parts.append([])
        parts[-1].append(item)
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
        """Count actions, of one trajectory or of many: two lists of the same length."""
        for context, reward in zip(contexts, rewards):
            count, total = self.table.get(context, (0, 0))
            self.table[context] = count + 1, total + reward

    def mean(self, context, own=None):
        """own: a reward in the table to leave out, for a leave-one-out mean of at least `least` others."""
        count, total = self.table.get(context, (0, 0))
        if own is not None:
            count, total = count - 1, total - own
        return total / count if count >= self.least else 0.0

    def report(self, most=20):
        """The contexts met most often, a line each."""
        rows = sorted(self.table.items(), key=lambda item: -item[1][0])[:most]
        return "\n".join(f"{str(context):40} {n:7d} {total / n:+.3f}" for context, (n, total) in rows)

    def state_dict(self):                       # the table alone, a copy
        return dict(self.table)

    def load_state_dict(self, table):           # what state_dict gave; a copy is kept
        self.table = dict(table)


def groups(t, baseline):
    """The group of (4) of every action of a trajectory. An <end> that is an action has groups of its own."""
    contexts, places = reward_contexts(t.rewards), list(range(len(t.rewards)))
    if len(places) > len(t.actions):
        contexts[-1], places[-1] = ("end", *contexts[-1]), "end"
    if baseline == "level":
        return [(t.problem["level"], context) for context in contexts]
    if baseline == "rloo":
        return [(t.problem["id"], place) for place in places]
    if baseline.startswith("bin"):              # tenths of the problem's sampled accuracy (App. F)
        keys = contexts if baseline == "bin-context" else places
        return [(int(10 * t.problem["accuracy"]), key) for key in keys]
    return contexts


def advantage(rewards, baseline, log_ratio, beta):
    """Equations (2), (5), with log_ratio = log [pi_old / pi_ref]: three [N] -> [N], without gradient.

    The KL term is the whole log-ratio, not its mean over tokens, and part of the reward. As a loss on these
    samples it would do nothing, the expected gradient of log pi being 0; sft.py sums over all tokens instead.
    """
    return (rewards - baseline - beta * log_ratio).detach()


def clipped_loss(logp, logp_old, advantages, clip):
    """Equations (3), (6) before the mean, of N responses or actions: three [N] -> [N]."""
    ratio = torch.exp(logp - logp_old)
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def per_action(logp, batch, ratio):
    """Token log-probs [N] of trajectories -> [A], mean or sum over each action; owner -1: a token of none."""
    first = np.cumsum([0] + [len(t.rewards) for t in batch]).tolist()
    owners = [f + o if o >= 0 else first[-1] for t, f in zip(batch, first) for o in t.owner]
    owners = torch.tensor(owners, device=logp.device)
    total = logp.new_zeros(first[-1] + 1).index_add(0, owners, logp)    # the last place: tokens of no action
    if ratio == "mean":
        total = total / torch.bincount(owners, minlength=len(total)).clamp(min=1)
    return total[:-1]


def action_weights(part, batch, average):
    """Weights [A] (CPU) of the actions of a part of a batch in the mean of (6), or in the plain mean."""
    actions = sum(len(t.rewards) for t in batch)
    return torch.tensor([1 / actions if average == "batch" else 1 / (len(batch) * len(t.rewards))
                         for t in part for _ in t.rewards])


def loss_of(part, batch, logp, args):
    """The share of `part` in (6), the mean over `batch`, from token log-probs [N]; -> loss, ratios [A]."""
    logp = per_action(logp, part, args.ratio)
    logp_old = per_action(torch.cat([t.logp_old for t in part]), part, args.ratio)
    advantages = torch.cat([t.advantage for t in part]).to(logp.device)
    weights = action_weights(part, batch, args.average).to(logp.device)
    loss = (weights * clipped_loss(logp, logp_old, advantages, args.clip)).sum()
    return loss, (logp - logp_old).detach().exp()


# ---------------------------------------------------------------- rollout (=)
@dataclass
class Trajectory:
    problem: dict                   # the row of the problem file
    prompt: list                    # token ids
    ids: list                       # token ids as sampled; the stop token, if any, is the last
    finished: bool                  # stopped by itself
    actions: list = None            # verifier.Action
    owner: list = None              # for every id the index of its action, -1: none
    right: list = None              # of every action: is the solution right, is the verdict the truth
    rewards: list = None            # R_a of every action, +1 or -1
    reward: int = 0                 # R_o
    baseline: float = 0.0           # of a stored response (rl_outcome --offline)
    advantage: torch.Tensor = None  # [], or [actions] in rl_process
    logp: torch.Tensor = None       # [len(ids)] under the policy at the start of the step
    logp_ref: torch.Tensor = None   # [len(ids)] under the reference
    logp_old: torch.Tensor = None   # [len(ids)] under the policy that sampled it

    def __len__(self):
        return len(self.prompt) + len(self.ids)


def solves(t):
    """Of every solution of a trajectory: is it right."""
    return [right for action, right in zip(t.actions, t.right) if action.type == "solve"]


def checks(t):
    """Of every verification of a trajectory: (its verdict or None, is the solution before it right)."""
    return [(verifier.parse_verdict(check.text), right)
            for check, right in zip(t.actions[1:], t.right) if check.type == "verify"]


def choose(logits, uniforms, temperature):
    """Next token of every row, greedy at T = 0, else by inverting the CDF: [B, V], [B] in [0, 1) -> [B]. The
    CDF is float64: in float32 most tokens of a large vocabulary would be rounded away and never drawn."""
    if temperature == 0:
        return logits.argmax(-1)
    cdf = (logits / temperature).softmax(-1).to(uniforms.dtype).cumsum(-1)
    token = torch.searchsorted(cdf, uniforms[:, None] * cdf[:, -1:], right=True)[:, 0]
    return token.clamp_(max=logits.shape[1] - 1)


@torch.no_grad()
def rollout(policy, prompts, num_samples, stops, temperature, uniforms):
    """Token ids of P prompts -> lists of ids of P * num_samples responses, those of a prompt side by side.

    uniforms [P * num_samples, most new tokens] are each response's own random numbers, so that it does not
    depend on its batch. A prompt is run once and its cache shared out; finished rows leave the batch. Tokens
    are drawn from the float32 logits that response_logprobs scores.
    """
    device, width, cache = policy.device, max(map(len, prompts)), DynamicCache(config=policy.config)
    head = policy.get_output_embeddings().weight.float()
    tokens = torch.tensor([[0] * (width - len(p)) + p for p in prompts], device=device)               # [P, L]
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    room = torch.tensor([models.most_positions(policy) - len(p) for p in prompts], device=device)
    places = (mask.cumsum(1) - 1).clamp_(min=0)
    hidden = policy.get_decoder()(input_ids=tokens, attention_mask=mask, position_ids=places, cache=cache,
                                  use_cache=True).last_hidden_state[:, -1]                            # [P, H]
    cache.batch_repeat_interleave(num_samples)
    hidden, mask, room = (x.repeat_interleave(num_samples, 0) for x in (hidden, mask, room))
    live = torch.arange(len(hidden), device=device)         # the response of each row; some have ended
    going = torch.ones_like(live, dtype=torch.bool)         # the responses without a stop token
    ids, stops = torch.full(uniforms.shape, -1, device=device), torch.tensor(stops, device=device)
    for t in range(uniforms.shape[1]):
        token = choose(hidden.float() @ head.T, uniforms[live, t], temperature)
        ids[live, t] = torch.where(going[live], token, -1)
        going[live] &= ~torch.isin(token, stops) & (t + 1 < room[live])
        keep = going[live].nonzero()[:, 0]
        if len(keep) == 0 or t + 1 == uniforms.shape[1]:
            break
        if len(keep) <= 0.9 * len(live):                    # dropping rows copies the cache: not for each
            live, token, mask = live[keep], token[keep], mask[keep]
            cache.batch_select_indices(keep)
        mask = torch.cat([mask, mask.new_ones(len(live), 1)], 1)
        place = mask.sum(1, keepdim=True) - 1
        hidden = policy.get_decoder()(input_ids=token[:, None], attention_mask=mask, position_ids=place,
                                      cache=cache, use_cache=True).last_hidden_state[:, -1]
    return [row[:n] for row, n in zip(ids.tolist(), (ids >= 0).sum(1).tolist())]


def sample_trajectories(policy, tokenizer, problems, num_samples, temperature, args, step):
    """Roll out and score num_samples responses to each problem, at most --rollout-rows at once."""
    stops, trajectories, end = models.stop_ids(policy, tokenizer), [], models.most_positions(policy)
    size, real = max(1, args.rollout_rows // num_samples), "f4" if policy.device.type == "mps" else "f8"
    for first in range(0, len(problems), size):
        part = [(p, models.prompt_ids(tokenizer, p["problem"])) for p in problems[first:first + size]]
        uniforms = [stream(args.seed, "draws", step, first + i, m).random(min(args.max_new_tokens, end), real)
                    for i in range(len(part)) for m in range(num_samples)]
        uniforms = torch.from_numpy(np.stack(uniforms)).to(policy.device)
        responses = rollout(policy, [prompt for _, prompt in part], num_samples, stops, temperature, uniforms)
        trajectories += [score(Trajectory(*part[i // num_samples], ids, ids[-1] in stops), tokenizer, args)
                         for i, ids in enumerate(responses)]
    return trajectories


def stream(seed, purpose, *place):
    """A generator for each purpose and place: so a resumed run repeats an uninterrupted one bit for bit."""
    return np.random.default_rng([("draws", "order", "epoch").index(purpose), seed, *place])


# ---------------------------------------------------------------- rewards
def score(t, tokenizer, args):
    """Cut the response into actions and reward it. Without a stop token its last action and R_o are -1, but
    a right last solution still counts in `accuracy`, as in evaluate.py."""
    t.actions, t.owner = verifier.action_ids(tokenizer, t.ids)
    t.rewards = verifier.action_rewards(t.actions, t.problem["answer"], finished=True)  # the truth first
    t.right = [reward > 0 for reward in t.rewards]
    t.rewards[-1] = t.rewards[-1] if t.finished else -1
    t.reward = 1 if solves(t)[-1] and t.finished else -1
    if t.finished and args.end_token == "own":
        t.owner, t.rewards = t.owner[:-1] + [len(t.actions)], t.rewards + [t.reward]
    elif t.finished and args.end_token == "free":
        t.owner = t.owner[:-1] + [-1]
    return t


def set_advantages(trajectories, table, args):
    """Equation (5) for a rollout; -> share of actions without a signal (R_a = b)."""
    if args.baseline in ("batch", "rloo"):
        table = ContextBaseline(least=1)
    if not args.offline:
        for t in trajectories:
            table.update(groups(t, args.baseline), t.rewards)
    silent = []
    for t in trajectories:
        own = t.rewards if args.baseline == "rloo" else [None] * len(t.rewards)
        baseline = torch.tensor([table.mean(*x) for x in zip(groups(t, args.baseline), own)])
        kl = per_action((t.logp - t.logp_ref).cpu(), [t], "sum")
        rewards = torch.tensor(t.rewards).float()
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


# ---------------------------------------------------------------- data (=)
def read_samples(path, args):
    """Rows of a samples file whose accuracy, a new field, lies in [min_acc, max_acc]."""
    rows = models.read_problems(path, samples=True)
    for row in rows:
        hits = [verifier.judge_solves(verifier.parse_actions(t), row["answer"])[-1] for t in row["responses"]]
        row["accuracy"] = sum(hits) / len(hits)
    kept = [row for row in rows if args.min_acc <= row["accuracy"] <= args.max_acc]
    print(f"{path}: {len(kept)} of {len(rows)} problems have an accuracy in [{args.min_acc}, {args.max_acc}]")
    return kept


def rejected(t, args):
    """App. F: why a stored trajectory is not learnt from, or None."""
    reasons = {"too long": len(t.ids) > args.max_new_tokens, "more than 20 actions": len(t.actions) > 20,
               "not solve, verify, solve, verify": t.actions[-1].type == "solve",
               "goes on after a right solution was found correct": ("correct", True) in checks(t)[:-1]}
    return next((reason for reason, holds in reasons.items() if holds), None)


def read_offline(policy, tokenizer, args):
    """Stored trajectories. A samples file has no ids, so here the text is tokenized."""
    reasons, kept, stop = Counter(), [], models.stop_ids(policy, tokenizer)[0]
    for row in read_samples(args.offline, args):
        for text, finished in zip(row["responses"], row["finished"]):
            ids = tokenizer(text, add_special_tokens=False).input_ids + [stop] * bool(finished)
            t = Trajectory(row, models.prompt_ids(tokenizer, row["problem"]), ids, bool(finished))
            known = max(t.prompt + ids) < len(policy.get_input_embeddings().weight)
            fits = ids and known and len(t) <= models.most_positions(policy)
            reason = rejected(score(t, tokenizer, args), args) if fits else "empty, too long or unreadable"
            reasons[reason or "kept"] += 1
            kept += [] if reason else [t]
    print(f"{args.offline}: {dict(reasons)}")
    return kept


def read_data(policy, tokenizer, args):
    """-> (problems to sample, or with --offline trajectories; held-out problems)"""
    held_out = models.read_problems(args.eval_data) if args.eval_data else []
    if args.offline:
        data = read_offline(policy, tokenizer, args)
    else:
        data = models.read_problems(args.data, args.split)
        prompts = [models.prompt_ids(tokenizer, row["problem"]) for row in data + held_out]
        models.check_room(policy, prompts, args.max_new_tokens)
    if args.samples:
        accuracy = {row["problem"]: row["accuracy"] for row in read_samples(args.samples, args)}
        data = [row for row in data if row["problem"] in accuracy]
    if not data:
        raise InputError(f"{args.offline or args.data}: nothing is left to learn from")
    return data, held_out


def take(data, count, step, seed):
    """The items of step 1, 2, ...; every epoch is a permutation of its own."""
    places = [divmod(i, len(data)) for i in range((step - 1) * count, step * count)]
    order = {e: stream(seed, "epoch", e).permutation(len(data)) for e in {epoch for epoch, _ in places}}
    return [data[order[epoch][i]] for epoch, i in places]


# ---------------------------------------------------------------- statistics (=)
def behaviour(trajectories):
    """Metrics of App. E, as evaluate.py counts them; None where the denominator is zero."""
    def mean(values):
        values = list(values)
        return sum(values) / len(values) if values else None

    ends = [(solves(t)[0], solves(t)[-1]) for t in trajectories]
    judged = [check for t in trajectories for check in checks(t)]
    return {"accuracy": mean(last for _, last in ends), "first_accuracy": mean(first for first, _ in ends),
            "VA": mean(verdict == ("correct" if right else "incorrect") for verdict, right in judged),
            "ER": mean(verdict == "incorrect" for verdict, right in judged if not right),
            "CP": mean(right for verdict, right in judged if verdict == "correct"),
            "ICR": mean(last for first, last in ends if not first),
            "CIR": mean(not last for first, last in ends if first),
            "no_verdict": mean(verdict is None for verdict, _ in judged),
            "finished": mean(t.finished for t in trajectories),
            "trials": mean(len(solves(t)) for t in trajectories),
            "tokens": mean(len(t.ids) for t in trajectories)}


def evaluate(policy, tokenizer, problems, args):
    """Metrics of a greedy response to every held-out problem."""
    found = behaviour(sample_trajectories(policy, tokenizer, problems, 1, 0, args, 0)) if problems else {}
    return {f"eval_{name}": value for name, value in found.items()}


def statistics(trajectories, updates, clock, args):
    """What a step's log line says about policy, updates and cost."""
    tokens, total, seconds = sum(len(t.ids) for t in trajectories), len(trajectories), np.diff(clock)
    logp, ref = (torch.cat([getattr(t, name) for t in trajectories]) for name in ("logp", "logp_ref"))
    ratio = torch.cat([u["ratio"] for u in updates])
    return {"reward": sum(t.reward for t in trajectories) / total,
            "entropy": -logp.mean().item(),                 # estimated from the sampled tokens
            "kl": (logp - ref).sum().item() / total,        # unbiased (k1); that of one batch may be negative
            "ratio_mean": ratio.mean().item(), "ratio_max": ratio.max().item(),
            "clip_share": ((ratio - 1).abs() > args.clip).float().mean().item(),
            "loss": np.mean([u["loss"] for u in updates]), "grad_norm": np.mean([u["norm"] for u in updates]),
            "skipped": sum(u["skipped"] for u in updates), "seconds": seconds.sum(),
            **dict(zip(("seconds_rollout", "seconds_logprobs", "seconds_update"), seconds)),
            "rollout_tokens_per_s": None if args.offline else tokens / seconds[0],
            "update_tokens_per_s": tokens / seconds[2],
            "peak_gb": torch.cuda.max_memory_allocated() / 1e9}                         # of the GPU


def show(t, step):
    """A response in full, action by action with its rewards."""
    head = (f"== step {step}, problem {t.problem['id']}, answer {t.problem['answer']}, reward {t.reward:+g}, "
            f"{len(t.ids)} tokens{'' if t.finished else ', unfinished'}\n{t.problem['problem']}")
    return "\n".join([head] + [f"[{a.type} {r:+d}] {a.text}" for a, r in zip(t.actions, t.rewards)]) + "\n"


# ---------------------------------------------------------------- update (=)
@torch.no_grad()
def set_logprobs(policy, reference, minibatches, args):
    """Score every token under the policy and the reference, in the micro-batches that `update` will make: so
    the first ratio is exactly 1 (on a GPU up to rounding). Offline, the reference is the sampler, pi_old."""
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


def update(policy, optimizer, batch, lr, args):
    """One step of AdamW on a minibatch; no step if a number is not finite."""
    total, ratios = 0.0, []
    policy.train(args.grad_checkpointing)                   # transformers checkpoints in training mode only
    for part in micro_batches(batch, args.max_tokens):
        loss, ratio = loss_of(part, batch, response_logprobs(policy, part, args.temperature), args)
        loss.backward()
        total += loss.item()
        ratios.append(ratio)
    policy.eval()
    norm = models.optimizer_step(policy, optimizer, lr, args.max_grad_norm)
    return {"loss": total, "norm": norm, "skipped": not np.isfinite(norm), "ratio": torch.cat(ratios)}


def check_updates(updates, policy, args):
    """InputError where no update could be made, or the first ratio of a rollout is not 1."""
    if all(u["skipped"] for u in updates):
        raise InputError(f"the loss is not finite: try a lower --lr; {args.out}/last, if any, is good")
    off = (updates[0]["ratio"] - 1).abs().max().item()
    if off > (0 if policy.device.type == "cpu" else 0.05) and not args.offline:
        raise InputError(f"the first ratio is off by {off:.2g}: the model scores a text anew each time")


# ---------------------------------------------------------------- train
def train(args):
    free = ["eval_data", "eval_every", "max_tokens", "rollout_rows"]    # what --resume may change
    free += ["steps"] if args.schedule == "constant" else []            # else the learning rate depends on it
    run = models.Run(args, free, ["metrics.jsonl", "samples.txt"])
    policy, tokenizer = models.load(run.last if run.state else args.model, args.device, args.dtype)
    models.check_model(policy)
    reference = models.load(args.model, args.device, args.dtype)[0] if args.beta or args.offline else None
    if reference and args.offload in ("reference", "both"):
        reference.to("cpu")
    data, held_out = read_data(policy, tokenizer, args)
    optimizer = models.make_optimizer(policy, args.lr, args.offload in ("optimizer", "both"), run.state)
    if args.grad_checkpointing:
        policy.activation_checkpointing_enable({"use_reentrant": False})
    table = start_baseline(data, args, run.state)
    if run.begin() == 0:
        row = {"step": 0, **evaluate(policy, tokenizer, held_out, args)}
        run.log(row)
        run.save_best(row.get("eval_accuracy"), policy, tokenizer)
    for step in run.steps(args.steps):
        clock = [time.time()]
        taken = take(data, args.prompts_per_step * (args.num_samples if args.offline else 1), step, args.seed)
        trajectories = taken if args.offline else sample_trajectories(
            policy, tokenizer, taken, args.num_samples, args.temperature, args, step)
        clock.append(time.time())
        order = stream(args.seed, "order", step).permutation(len(trajectories))
        parts = np.array_split(order, args.updates_per_rollout)
        minibatches = [[trajectories[i] for i in part] for part in parts]
        set_logprobs(policy, reference, minibatches, args)
        no_signal = set_advantages(trajectories, table, args)
        clock.append(time.time())
        lr = models.learning_rate(step - 1, args.steps, args)
        updates = [update(policy, optimizer, batch, lr, args) for batch in minibatches]
        check_updates(updates, policy, args)
        clock.append(time.time())
        row = {"step": step, "lr": lr, **behaviour(trajectories), "no_signal": no_signal,
               **statistics(trajectories, updates, clock, args)}
        if step % args.eval_every == 0 or step == args.steps:
            row |= evaluate(policy, tokenizer, held_out, args)
            run.note(show(trajectories[0], step) + "\n" + show(trajectories[-1], step))
        run.log(row, shown=("reward", "accuracy", "kl", "seconds"))
        run.save_best(row.get("eval_accuracy"), policy, tokenizer)
        run.save(step, policy, tokenizer, optimizer, baseline=table.state_dict())
    print("group of (4), count, mean reward", table.report(), sep="\n")


if __name__ == "__main__":
    models.run_main(lambda: train(parse_args()))
