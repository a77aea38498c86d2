"""Stages 0 and 1: build trial-and-error trajectories and learn them (S2R, arXiv 2502.12853, §2.2, App. C.1).

Stage 0 (`build`) joins wrong samples of the model's own, each with a check that refutes it, and a right one
with a check that confirms it: y = (s1, v1, ... sk, vk). The lower a problem's sampled accuracy, the larger k.
Stage 1 (`train`) is supervised fine-tuning with a mask over actions and a KL penalty to the base model:

    (1)  L = -E sum_t delta_mask(a_t) log pi(a_t | x, y_<t)  +  c KL(pi || pi_base)

delta_mask is 1 for every verification, the last solution and <end>, and 0 for the earlier, wrong solutions.

    python sft.py build --samples runs/samples.jsonl --verifications toy --keep 1 1 1 1 --out traj.jsonl
    python sft.py train --model runs/toy/base --data traj.jsonl --out runs/sft --lr 5e-4 --epochs 2 \\
        --schedule linear --kl-coef 0.3 --kl-on first
    python sft.py build --samples samples.jsonl --verifications teacher.jsonl --out traj.jsonl
    python sft.py train --model Qwen/Qwen2.5-Math-1.5B --data traj.jsonl --out runs/sft \\
        --grad-checkpointing --offload optimizer

Reads  samples {problem, answer, responses, finished}, verifications {id, answer, verification[, kind]}
Writes trajectories {the problem's fields, actions: [{type, text}]}, whose texts concatenate to the response;
       --out/{args.json, metrics.jsonl, last}: last is a Hugging Face folder, with what --resume needs

Chosen on purpose:
- Connecting phrases belong to the action that they open, for the mask even with the white space before them
  (in files and in RL it ends the action before): there the policy decides to go on. "Let me try again." is
  trained wherever it follows an *incorrect* verdict, even when the solution behind it is masked; else the
  model learns to refute but not to retry. The paper's code trains only the last one.
- <end> is the stop token, appended and trained. The paper's code cuts it off.
- The loss is the mean over a batch's trained tokens, the KL term the mean over the tokens that --kl-on names.
  The paper takes the trained ones. On the toy world `first` is better: the first solution, masked or not,
  keeps the base's skill, and no term holds the retries to a base that never retried.
- --isc is Partial Answer Masking of "Small Language Model Can Self-correct" (arXiv 2401.07301), which we take
  to be: every *wrong* solution is masked as a whole, all else is trained (they have no KL term: --kl-coef 0).
  `build` makes all earlier solutions wrong, so there it equals (1); it differs where a right one is doubted.

Map: flags - stage 0 - log-probs and KL - masks - batches and losses - run.
"""
import argparse
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

import model as models
import verifier
from model import InputError

PHRASES = {"solve": verifier.SOLVE_PHRASE, "verify": verifier.VERIFY_PHRASE}


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    style = {"formatter_class": argparse.ArgumentDefaultsHelpFormatter}
    build_parser = commands.add_parser("build", help="stage 0: samples -> trajectories", **style)
    train_parser = commands.add_parser("train", help="stage 1: masked SFT on trajectories", **style)
    add = build_parser.add_argument
    add("--samples", required=True, help="samples file, K responses per problem (paper: 5 at T = 0.7)")
    add("--verifications", help="file of verifications, or `toy`: written by toy.py")
    add("--kind", choices=("confirmative", "problem-solving"), default="confirmative", help="of check")
    add("--wrong-share", type=float, nargs="+", default=[0, 0.2, 0.6, 1], help="k-th: most wrong for k")
    add("--keep", type=float, nargs="+", default=[0.24, 0.5, 0.5, 0.5], help="k-th: chance to be drawn")
    add("--max-chars", type=int, default=24000, help="longest response")
    add("--original-solutions", action="store_true", help="Table 2's baseline: `solution`, no verification")
    add("--workers", type=int, default=0, help="processes that judge answers")
    add("--seed", type=int, default=0, help="of the draws")
    add("--out", required=True, help="trajectories file")
    add("--force", action="store_true", help="overwrite --out")

    add = train_parser.add_argument
    add("--model", required=True, help="base model, also pi_base of the KL term (folder or hub name)")
    add("--data", required=True, help="trajectories file")
    add("--out", required=True, help="run folder, the only place written to")
    # algorithm
    mask = train_parser.add_mutually_exclusive_group()
    mask.add_argument("--isc", action="store_true", help="mask every wrong solution, and nothing else")
    mask.add_argument("--no-mask", action="store_true", help="train every action")
    add("--kl-coef", type=float, default=0.1, help="c, weight of the KL term; 0 loads no base model")
    add("--kl-on", choices=("trained", "first", "all"), default="trained", help="tokens held near the base")
    add("--epochs", type=int, default=3)
    add("--batch-size", type=int, default=32, help="trajectories per step")
    add("--max-length", type=int, default=8000, help="longest prompt + response, in tokens")
    # optimiser
    add("--lr", type=float, default=5e-6, help="learning rate of AdamW")
    add("--schedule", choices=("constant", "linear", "cosine"), default="constant", help="after warm-up")
    add("--warmup", type=int, default=5, help="steps of linear warm-up")
    add("--max-grad-norm", type=float, default=1.0, help="gradient clipping")
    # machine
    add("--max-tokens", type=int, default=16384, help="padded tokens per micro-batch")
    add("--grad-checkpointing", action="store_true", help="recompute activations in the backward pass")
    add("--device", default="auto", help="auto, cpu, cuda or mps")
    add("--dtype", default="auto", help="models: auto (bf16 on CUDA), bf16 or fp32; the optimizer is fp32")
    add("--offload", choices=("none", "optimizer"), default="none", help="the host keeps fp32 weights, AdamW")
    # run
    add("--held-out", type=float, default=0.05, help="share kept for evaluation (at most 200)")
    add("--eval-every", type=int, default=50, help="steps between held-out losses")
    add("--save-every", type=int, default=200, help="steps between checkpoints")
    add("--seed", type=int, default=0, help="of the split and the order of the data")
    add("--resume", action="store_true", help="go on from --out/last")
    add("--force", action="store_true", help="throw away an earlier run in --out")
    return parser.parse_args(argv)


# ---------------------------------------------------------------- stage 0: trajectories

def read_verifications(args):
    """-> {(problem id or text, answer): [verification, ...]} of the kind asked for."""
    path, found = args.verifications, {}
    with tempfile.TemporaryDirectory() as folder:
        if path == "toy":
            path = f"{folder}/verifications.jsonl"
            command = [sys.executable, str(Path(__file__).with_name("toy.py")), "--verify", args.samples,
                       "--kind", args.kind, "--out", path]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise InputError("toy.py --verify: " + (done.stderr.strip().splitlines() or ["failed"])[-1])
        rows = models.read_jsonl(path, ("answer", "verification"))
    for number, row in enumerate(rows, 1):
        for field in ("answer", "verification"):
            if not isinstance(row[field], str):
                raise InputError(f"{path}:{number}: field '{field}' is not a text")
        if row.get("id") is None and row.get("problem") is None:
            raise InputError(f"{path}:{number}: field 'id' or 'problem' is needed")
        if row.get("kind") in (None, args.kind):
            for key in (str(row.get("id")), row.get("problem")):
                found.setdefault((key, row["answer"].strip()), []).append(row["verification"].strip())
    return found


def sample_fault(row, args):
    """What is wrong with a row of the samples file, or None."""
    gold, texts, finished = verifier.check_gold(row["answer"]), row.get("responses"), row.get("finished")
    if gold:
        return f"field 'answer' {gold}"
    if args.original_solutions:
        return None if str(row.get("solution") or "").strip() else "field 'solution' is missing"
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
        return "field 'responses' must be a list of texts"
    if not isinstance(finished, list) or len(finished) != len(texts):
        return "field 'finished' must have one entry for each response"


def rounds(wrong_share, limits):
    """Difficulty bin k of a problem: the first whose limit holds its share of wrong samples.

    >>> [rounds(n / 5, [0, 0.2, 0.6, 1]) for n in range(6)]
    [1, 2, 3, 3, 4, 4]
    """
    return 1 + next(i for i, limit in enumerate(limits) if wrong_share <= limit + 1e-9)


def usable_attempts(row, right, verifications):
    """Finished samples that have a check which agrees with the truth; of the wrong, one for each answer.

    -> (right [(solution, check)], wrong [(solution, check)])
    """
    good, bad = [], {}
    for text, finished, is_right in zip(row["responses"], row["finished"], right):
        answer = finished and verifier.extract_boxed(text)
        if not answer or any(verifier.is_equivalent(answer, other) for other in bad):
            continue
        keys = [(name, answer.strip()) for name in (row["id"], row["problem"])]
        checks = [check for key in keys for check in verifications.get(key, [])]
        truth = "correct" if is_right else "incorrect"
        check = next((c for c in checks if verifier.parse_verdict(c) == truth), None)
        if check and is_right:
            good.append((text.strip(), check))
        elif check:
            bad[answer] = (text.strip(), check)
    return good, list(bad.values())


def join_actions(attempts):
    r"""[(solution, check), ...] -> actions [{type, text}], cut where a connecting phrase begins.

    >>> [a["text"] for a in join_actions([("8", "No."), ("9", "Yes.")])]  # doctest: +NORMALIZE_WHITESPACE
    ['8\n\n', 'Wait, let me recheck my solution.\n\nNo.\n\n', 'Let me try again.\n\n9\n\n',
     'Wait, let me recheck my solution.\n\nYes.']
    """
    texts = [(kind, f"{PHRASES[kind]}\n\n{text}") for pair in attempts for kind, text in zip(PHRASES, pair)]
    actions = [{"type": kind, "text": text + "\n\n"} for kind, text in texts]
    actions[0]["text"] = attempts[0][0] + "\n\n"  # the first solution needs no phrase
    actions[-1]["text"] = texts[-1][1]
    return actions


def build_actions(row, right, verifications, args):
    """One problem -> (its actions, None) or (None, why it falls out). Draws depend on seed and problem."""
    rng = random.Random(f"{args.seed}-{row['id']}")
    if args.original_solutions:
        actions = [{"type": "solve", "text": row["solution"].strip()}]
    elif not any(right):
        return None, "no right sample"
    else:
        k = rounds(1 - sum(right) / len(right), args.wrong_share)
        if rng.random() >= args.keep[k - 1]:
            return None, "not drawn (--keep)"
        good, bad = usable_attempts(row, right, verifications)
        if not good:
            return None, "no check that confirms a right sample"
        actions = join_actions(rng.sample(bad, min(k - 1, len(bad))) + [rng.choice(good)])
    response = "".join(a["text"] for a in actions)
    if len(response) > args.max_chars:
        return None, "too long (--max-chars)"
    if [{"type": a.type, "text": a.text} for a in verifier.parse_actions(response)] != actions:
        return None, "a connecting phrase inside a solution or a check"
    return actions, None


def build(args):
    if Path(args.out).exists() and not args.force:
        raise InputError(f"{args.out} exists already: --force overwrites it")
    limits = args.wrong_share
    if len(limits) != len(args.keep) or limits != sorted(limits) or limits[-1] < 1:
        raise InputError("--wrong-share and --keep: one number for each k, and --wrong-share must rise to 1")
    if not (args.verifications or args.original_solutions):
        raise InputError("--verifications is needed (or --original-solutions)")
    rows = models.read_problems(args.samples)
    for number, row in enumerate(rows, 1):
        if fault := sample_fault(row, args):
            raise InputError(f"{args.samples}:{number}: {fault}")
    verifications, pairs = {}, []
    if not args.original_solutions:
        verifications = read_verifications(args)
        pairs = [(text, row["answer"]) for row in rows for text in row["responses"]]
    right = iter(verifier.judge_many([p[0] for p in pairs], [p[1] for p in pairs], workers=args.workers))
    written, fallen, lengths = [], Counter(), Counter()
    for row in tqdm(rows, desc="build", unit="problem"):
        truth = [] if args.original_solutions else [next(right) and done for done in row["finished"]]
        actions, reason = build_actions(row, truth, verifications, args)
        if actions:
            fields = {name: row[name] for name in row if name not in ("responses", "finished", "tokens")}
            written.append(json.dumps({**fields, "actions": actions}, ensure_ascii=False) + "\n")
        fallen[reason] += 1
        lengths[sum(a["type"] == "solve" for a in actions or [])] += 1
    if not written:
        raise InputError(f"{args.samples}: no trajectory is left; {dict(fallen)}")
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    Path(f"{args.out}.part").write_text("".join(written), encoding="utf-8")
    os.replace(f"{args.out}.part", args.out)
    print(f"{len(rows):6d} problems")
    for reason, count in fallen.most_common():
        print(f"{count:6d} {'fell out: ' + reason if reason else 'trajectories'}")
    print("       rounds: " + ", ".join(f"k={k} {lengths[k]}" for k in sorted(lengths) if k))


# ---------------------------------------------------------------- log-probs and KL, never [N,V] at once

def head_logits(hidden, weight, temperature=1.0):
    """[n,H], [V,H] -> [n,V], float32 also from 16-bit inputs: rounded logits would make noisy ratios."""
    logits = product(hidden, weight.T)
    return logits if temperature == 1 else logits.div_(temperature)


def product(a, b):
    """Matrix product, float32 at least."""
    if a.dtype not in (torch.bfloat16, torch.float16):
        return a @ b
    return torch.mm(a, b, out_dtype=torch.float32) if a.is_cuda else a.float() @ b.float()


def add_product(total, a, b):
    """total += a @ b, without a temporary where the dtypes agree."""
    return total.addmm_(a, b) if a.dtype == total.dtype else total.add_(product(a, b))


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


def token_logprobs(hidden, weight, targets, chunk=256, temperature=1.0):
    """log softmax(hidden @ weight.T / temperature)[targets] without ever holding [N,V].

    hidden [N,H], weight [V,H] (the head, tied or not), targets [N] -> [N] float32. Call it outside autocast.
    """
    return TokenLogprobs.apply(hidden, weight, targets, chunk, temperature)


class SumKL(torch.autograd.Function):
    """A sum needs no upstream gradient per token, so that forward can make the gradient at once."""

    @staticmethod
    def forward(ctx, hidden, weight, base_hidden, base_weight, chunk):
        w, base_w = weight.to(hidden.dtype), base_weight.to(base_hidden.dtype)
        exact = torch.promote_types(hidden.dtype, torch.float32)
        total, grad_h, grad_w = 0, torch.empty_like(hidden), torch.zeros_like(weight, dtype=exact)
        for h, b, out in zip(*(x.split(chunk) for x in (hidden, base_hidden, grad_h))):
            logp = head_logits(h, w).log_softmax(1)  # [chunk,V]
            gap = logp - head_logits(b, base_w).log_softmax(1)
            probs = logp.exp_()
            kl = (probs * gap).sum(1, keepdim=True)
            slope = gap.sub_(kl).mul_(probs).to(h.dtype)  # d KL / d logits = p (log p - log q - KL)
            out.copy_(product(slope, w))
            add_product(grad_w, slope.T, h)
            total = total + kl.sum()
        ctx.save_for_backward(grad_h, grad_w.to(weight.dtype))
        return total

    @staticmethod
    def backward(ctx, grad):
        return *(grad.to(g.dtype) * g for g in ctx.saved_tensors), None, None, None


def sum_kl(hidden, weight, base_hidden, base_weight, chunk=128):
    """Sum over tokens of KL(pi || pi_base) over the whole vocabulary; some five [chunk,V] blocks at most.

    hidden [N,H], weight [V,H], base_hidden [N,H'], base_weight [V,H'] -> one float32 number.
    """
    return SumKL.apply(hidden, weight, base_hidden, base_weight, chunk)


# ---------------------------------------------------------------- masks

@dataclass
class Example:
    """One trajectory as tokens: prompt + response + <end>, and one entry for each token in every list."""
    ids: list[int]
    kinds: list[str]     # "prompt", "solve", "verify" or "end"
    trained: list[bool]  # counts in (1)
    held: list[bool]     # counts in the KL term


def trained_actions(actions):
    """delta_mask of (1) for each action: every verification, and the last solution.

    >>> trained_actions([{"type": t} for t in ("solve", "verify", "solve", "verify")])
    [False, True, True, True]
    """
    types = [a["type"] if isinstance(a, dict) else a.type for a in actions]
    last = max((i for i, t in enumerate(types) if t == "solve"), default=None)
    return [t == "verify" or i == last for i, t in enumerate(types)]


def label_characters(actions, trained):
    """-> (type, is trained, is of the first solution) for each character of the response.

    A phrase, and the white space before it, is trained with the action that it opens; a retry phrase also
    wherever it follows an *incorrect* verdict.
    """
    labels, before = [], ""
    for i, (action, learn) in enumerate(zip(actions, trained)):
        kind, text, start = action["type"], action["text"], len(labels)
        labels += [(kind, learn, i == 0)] * len(text)
        if i > 0:
            stop = start + (len(PHRASES[kind]) if text.startswith(PHRASES[kind]) else 0)
            start -= len(before) - len(before.rstrip())
            learn = learn or (kind == "solve" and verifier.parse_verdict(before) == "incorrect")
            labels[start:stop] = [(kind, learn, False)] * (stop - start)
        before = text
    return labels


def encode(row, tokenizer, end, args):
    """Trajectory -> Example. The response is tokenised as a whole; a token that straddles two actions belongs
    to the action of its first character."""
    actions = row["actions"]
    learn = trained_actions(actions)
    if args.isc:
        learn = [a["type"] == "verify" or verifier.judge(a["text"], row["answer"]) for a in actions]
    if args.no_mask:
        learn = [True] * len(actions)
    labels = label_characters(actions, learn)
    prompt = models.prompt_ids(tokenizer, row["problem"])
    text = "".join(a["text"] for a in actions)
    response = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    tokens = [labels[min(start, len(labels) - 1)] for start, _ in response["offset_mapping"]]
    tokens = [("prompt", False, False)] * len(prompt) + tokens + [("end", True, False)]
    kinds, trained, first = map(list, zip(*tokens))
    held = {"trained": trained, "first": first, "all": [kind != "prompt" for kind in kinds]}[args.kl_on]
    return Example(prompt + response["input_ids"] + [end], kinds, trained, held)


def load_examples(args, tokenizer, end):
    """-> (training examples, held-out examples)"""
    rows, examples = models.read_jsonl(args.data, ("problem", "answer", "actions")), []
    for number, row in enumerate(tqdm(rows, desc="tokenise", unit="row"), 1):
        actions, where = row["actions"], f"{args.data}:{number}: field 'actions'"
        if not isinstance(actions, list) or not all(isinstance(a, dict) for a in actions):
            raise InputError(f"{where} must be a list of {{type, text}}")
        if not actions or any(a.get("type") != ("solve", "verify")[i % 2] for i, a in enumerate(actions)):
            raise InputError(f"{where}: the types must go solve, verify, solve, ...")
        if not all(isinstance(a.get("text"), str) and a["text"].strip() for a in actions):
            raise InputError(f"{where}: every action needs a text")
        examples.append(encode(row, tokenizer, end, args))
    short = [e for e in examples if len(e.ids) <= args.max_length]
    random.Random(args.seed).shuffle(short)
    n = min(200, round(args.held_out * len(short)))
    print(f"{len(short) - n} trajectories, {n} more held out, {len(rows) - len(short)} too long")
    if len(short) == n:
        raise InputError(f"{args.data}: no trajectory to train on")
    return short[n:], short[:n]


# ---------------------------------------------------------------- batches and losses

def micro_batches(examples, max_tokens):
    """Cut a batch into groups of like length: at most max_tokens padded, no row under 4/5 of the longest."""
    groups = []
    for example in sorted(examples, key=lambda e: -len(e.ids)):
        longest = len(groups[-1][0].ids) if groups else 0
        if groups and (len(groups[-1]) + 1) * longest <= max_tokens and len(example.ids) >= 0.8 * longest:
            groups[-1].append(example)
        else:
            groups.append([example])
    return groups


def padded(rows, device):
    """Lists -> [B,T], zeros on the right, where causal attention never looks: no attention mask is needed."""
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True).to(device)


def micro_losses(policy, base, group):
    """-> (log-probs of the trained tokens [n], summed KL of the held tokens)"""
    ids = padded([e.ids for e in group], policy.device)  # [B,T]
    trained = padded([e.trained[1:] for e in group], policy.device)  # [B,T-1], of the token that is predicted
    held = padded([e.held[1:] for e in group], policy.device)
    hidden = policy.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state  # [B,T,H]
    head = policy.get_output_embeddings().weight
    logp = token_logprobs(hidden[:, :-1][trained], head, ids[:, 1:][trained])
    if base is None or not held.any():
        return logp, logp.new_zeros(())
    reach = held.any(0).nonzero().max() + 1  # the base need not read past the last held token
    with torch.no_grad():
        base_hidden = base.get_decoder()(input_ids=ids[:, :reach], use_cache=False).last_hidden_state
    held = held[:, :reach]
    return logp, sum_kl(hidden[:, :reach][held], head, base_hidden[held], base.get_output_embeddings().weight)


def update(policy, base, optimizer, batch, args):
    """One step on (1). The denominators are those of the whole batch, however it is cut up."""
    trained, held = sum(sum(e.trained) for e in batch), sum(sum(e.held) for e in batch)
    nll = kl = 0.0
    for group in micro_batches(batch, args.max_tokens):
        logp, kl_sum = micro_losses(policy, base, group)
        loss = args.kl_coef * kl_sum / max(held, 1) - logp.sum() / trained
        loss.backward()
        nll, kl = nll - logp.sum().item() / trained, kl + kl_sum.item() / max(held, 1)
    weights = optimizer.param_groups[0]["params"]
    norm = torch.nn.utils.clip_grad_norm_(weights, args.max_grad_norm).item()
    if not math.isfinite(nll + kl + norm):
        raise InputError("the loss is not finite: try a lower --lr, or --dtype fp32")
    optimizer.step()
    with torch.no_grad():
        for p, w in zip(policy.parameters(), weights):
            p.copy_(w)  # changes nothing where they are one tensor
    optimizer.zero_grad()
    return {"loss": nll + args.kl_coef * kl, "nll": nll, "kl": kl, "grad_norm": norm,
            "trained_tokens": trained, "tokens": sum(len(e.ids) for e in batch)}


@torch.no_grad()
def held_out_losses(policy, examples, args):
    """Mean -log pi over the trained tokens of the held-out trajectories, by type of action."""
    sums, counts = Counter(), Counter()
    for group in micro_batches(examples, args.max_tokens):
        values = micro_losses(policy, None, group)[0].tolist()
        for kind, value in zip([k for e in group for k, t in zip(e.kinds, e.trained) if t], values):
            sums[kind] -= value
            counts[kind] += 1
    return {f"held_out_{kind}": sums[kind] / counts[kind] for kind in sorted(counts)}


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


def learning_rate(step, steps, args):
    """Of step 0, 1, ...: linear warm-up, then constant, or linear or cosine to 0."""
    done = step / steps
    decay = {"constant": 1, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[args.schedule]
    return args.lr * decay * min(1, (step + 1) / max(1, args.warmup))


# ---------------------------------------------------------------- run

FREE_FLAGS = ("resume", "force", "device", "offload", "save_every")


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


def train(args):
    state, out = start_run(args), Path(args.out)
    policy, tokenizer = models.load(out / "last" if state else args.model, args.device, args.dtype)
    models.check_head(policy)
    base = models.load(args.model, args.device, args.dtype)[0].requires_grad_(False) if args.kl_coef else None
    examples, held_out = load_examples(args, tokenizer, models.stop_ids(policy, tokenizer)[0])
    if args.grad_checkpointing:
        policy.gradient_checkpointing_enable({"use_reentrant": False})
    policy.train()
    optimizer, weights = make_optimizer(policy, args, state if state and "optimizer" in state else None)
    per_epoch = math.ceil(len(examples) / args.batch_size)
    steps, state = args.epochs * per_epoch, state or {"step": 0, "log_size": 0}
    if not state["step"]:
        shutil.rmtree(out / "last", ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / "args.json").write_text(json.dumps(vars(args), indent=1) + "\n")
    stop_now = []
    # Ctrl-C: finish the step, save, leave; a second one leaves at once
    signal.signal(signal.SIGINT,
                  lambda *_: stop_now.append(1) or signal.signal(signal.SIGINT, signal.default_int_handler))
    with open(out / "metrics.jsonl", "a") as log:
        log.truncate(state["log_size"])
        bar = tqdm(range(state["step"], steps), initial=state["step"], total=steps, desc="sft", unit="step",
                   mininterval=1)
        for step in bar:
            began, (epoch, place) = time.time(), divmod(step, per_epoch)
            order = random.Random(f"{args.seed}-{epoch}").sample(range(len(examples)), len(examples))
            batch = [examples[i] for i in order[place * args.batch_size:(place + 1) * args.batch_size]]
            optimizer.param_groups[0]["lr"] = lr = learning_rate(step, steps, args)
            record = {"step": step + 1, "epoch": epoch + 1, "lr": lr}
            record |= update(policy, base, optimizer, batch, args)
            record["seconds"] = time.time() - began
            record["tokens_per_s"] = record["tokens"] / record["seconds"]
            if held_out and ((step + 1) % args.eval_every == 0 or step + 1 == steps):
                record |= held_out_losses(policy, held_out, args)
            log.write(json.dumps(record) + "\n")
            log.flush()
            bar.set_postfix({name: f"{record[name]:.3g}" for name in ("nll", "kl", "tokens_per_s")},
                            refresh=False)
            if (step + 1) % args.save_every == 0 or step + 1 == steps or stop_now:
                trainer = {"step": step + 1, "log_size": log.tell()}
                if step + 1 < steps:  # a finished run needs no optimizer
                    trainer |= {"optimizer": optimizer.state_dict(), "weights": weights}
                models.save(policy, tokenizer, out / "last", {"trainer.pt": trainer})
            if stop_now:
                raise KeyboardInterrupt


def main():
    args = parse_args()
    build(args) if args.command == "build" else train(args)


if __name__ == "__main__":
    models.run_main(main)
