"""Stage 0 and 1: build trial-and-error trajectories, then learn them (S2R, arXiv 2502.12853, section 2.2, App. C.1).

Stage 0 (`build`) joins a problem's own wrong samples, each with a check that refutes it, and a right one with a check
that confirms it:  y = (s1, v1, s2, v2, ..., sk, vk). The harder the problem (by sampled accuracy), the larger k.
Stage 1 (`train`) is supervised fine-tuning with a mask over actions and a KL penalty to the base model:

    (1)  L = -E sum_t delta_mask(a_t) log pi(a_t | x, y_<t)  +  c KL(pi || pi_base)

    delta_mask = 1 for every verification, the last solution and <end>; 0 for the prompt and the earlier, wrong solutions

    python sft.py build --samples runs/toy/samples.jsonl --verifications toy --keep 1 1 1 1 --out runs/toy/sft.jsonl
    python sft.py train --model runs/toy/base --data runs/toy/sft.jsonl --out runs/sft \\
        --lr 5e-4 --schedule linear --epochs 2 --kl-coef 0.3 --kl-on first
    python sft.py build --samples samples.jsonl --verifications teacher.jsonl --out trajectories.jsonl
    python sft.py train --model Qwen/Qwen2.5-Math-1.5B --data trajectories.jsonl --out runs/sft --grad-checkpointing

Reads  samples (problem, answer, responses, finished), verifications (id or problem, answer, verification[, kind]).
Writes trajectories: the problem's fields + actions [{type, text}], whose texts concatenate to the response;
       --out/{args.json, metrics.jsonl, last}: last is a Hugging Face folder, with what --resume needs.

Chosen on purpose:
- Connecting phrases, with the white space before them, belong to the action that they open: there the policy decides to
  go on instead of stopping. "Let me try again." is trained wherever it follows an *incorrect* verdict, even when the
  solution behind it is masked: else the model would learn to refute and never to retry. The code of the paper masks it.
- <end> is the stop token, appended and trained. The code of the paper cuts it off.
- The loss is the mean over the trained tokens of a batch, the KL term the mean over the tokens of --kl-on. The paper
  holds the trained tokens near the base. On the toy world `first` works better: the first solution, masked or not, keeps
  the base's skill, and no term holds the retries to a base that never retried.
- --isc, the mask of "Small Language Model Can Self-correct" (arXiv 2401.07301): Partial Answer Masking, which we take
  to be: an answer that is *wrong* is masked as a whole, everything else is trained, and there is no KL term (pass
  --kl-coef 0). On what `build` writes every earlier solution is wrong, so the mask is (1)'s; the two differ where
  a trajectory doubts a right solution. With --no-mask everything is trained.

Map: flags - stage 0 - log-probs and KL - masks - batches - held-out loss - training loop.
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

LOGIT_CHUNK = 256  # tokens whose logits are held at once: 256 x 151,936 x 4 bytes = 156 MB
PHRASES = {"solve": verifier.SOLVE_PHRASE, "verify": verifier.VERIFY_PHRASE}


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    style = {"formatter_class": argparse.ArgumentDefaultsHelpFormatter}
    add = commands.add_parser("build", help="stage 0: samples + verifications -> trajectories", **style).add_argument
    add("--samples", required=True, help="samples file: K responses per problem at T = 0.7 (paper: K = 5)")
    add("--verifications", help="file of verifications, or `toy`: ask toy.py")
    add("--kind", choices=("confirmative", "problem-solving"), default="confirmative", help="verifications to use")
    add("--wrong-share", type=float, nargs="+", default=[0, 0.2, 0.6, 1], help="k-th number: most wrong for k rounds")
    add("--keep", type=float, nargs="+", default=[0.24, 0.5, 0.5, 0.5], help="k-th number: chance to keep a problem")
    add("--max-chars", type=int, default=24000, help="longest response")
    add("--original-solutions", action="store_true", help="the data's own `solution`, unverified (Table 2's baseline)")
    add("--workers", type=int, default=0, help="processes that judge answers")
    add("--seed", type=int, default=0, help="of the draws")
    add("--out", required=True, help="trajectories file")
    add("--force", action="store_true", help="overwrite --out")

    add = commands.add_parser("train", help="stage 1: masked SFT on trajectories", **style).add_argument
    add("--model", required=True, help="base model, also pi_base of the KL term (folder or hub name)")
    add("--data", required=True, help="trajectories file")
    add("--out", required=True, help="run folder, the only place written to")
    # algorithm
    add("--isc", dest="mask", action="store_const", const="isc", default="paper", help="mask wrong solutions only")
    add("--no-mask", dest="mask", action="store_const", const="none", default="paper", help="train every action")
    add("--kl-coef", type=float, default=0.1, help="c, weight of the KL term; 0 loads no base model")
    add("--kl-on", choices=("trained", "first", "all"), default="trained", help="tokens held near the base model")
    add("--epochs", type=int, default=3)
    add("--batch-size", type=int, default=32, help="trajectories per step")
    add("--max-length", type=int, default=8000, help="longer trajectories (prompt and response, tokens) are left out")
    # optimiser
    add("--lr", type=float, default=5e-6, help="learning rate of AdamW")
    add("--schedule", choices=("constant", "linear", "cosine"), default="constant", help="linear, cosine: to 0 at the end")
    add("--warmup", type=int, default=5, help="steps of linear warm-up")
    add("--max-grad-norm", type=float, default=1.0, help="gradient clipping")
    # machine
    add("--max-tokens", type=int, default=16384, help="padded tokens per micro-batch (gradients accumulate to a batch)")
    add("--grad-checkpointing", action="store_true", help="recompute activations in the backward pass")
    add("--device", default="auto", help="auto, cpu, cuda or mps")
    add("--dtype", default="auto", help="auto (bf16 on CUDA), bf16 or fp32; the weights are always fp32")
    # run
    add("--held-out", type=float, default=0.05, help="share of the trajectories (at most 200) kept for evaluation")
    add("--eval-every", type=int, default=50, help="steps between held-out losses")
    add("--save-every", type=int, default=200, help="steps between checkpoints")
    add("--seed", type=int, default=0, help="of the data order")
    add("--resume", action="store_true", help="go on from --out/last")
    add("--force", action="store_true", help="throw away an earlier run in --out")
    return parser.parse_args(argv)


# ---------------------------------------------------------------- stage 0: trajectories

def read_verifications(args):
    """-> {(problem id or problem text, answer): [verification, ...]}, of the kind asked for."""
    path = args.verifications
    with tempfile.TemporaryDirectory() as folder:
        if path == "toy":
            path = f"{folder}/verifications.jsonl"
            command = [sys.executable, str(Path(__file__).with_name("toy.py")), "--verify", args.samples,
                       "--kind", args.kind, "--out", path]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise InputError("toy.py --verify: " + (done.stderr.strip().splitlines() or ["failed"])[-1])
        rows = models.read_jsonl(path, ("answer", "verification"))
    found = {}
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


def read_samples(args):
    """Samples rows, every gold answer readable."""
    rows = models.read_problems(args.samples)
    for number, row in enumerate(rows, 1):
        where = f"{args.samples}:{number}"
        reason = verifier.check_gold(row["answer"])
        if reason:
            raise InputError(f"{where}: field 'answer' {reason}")
        if args.original_solutions:
            if not isinstance(row.get("solution"), str) or not row["solution"].strip():
                raise InputError(f"{where}: field 'solution' is missing (--original-solutions needs it)")
            continue
        texts = row.get("responses")
        if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
            raise InputError(f"{where}: field 'responses' must be a list of texts")
        if not isinstance(row.get("finished"), list) or len(row["finished"]) != len(texts):
            raise InputError(f"{where}: field 'finished' must have one entry for each response")
    return rows


def rounds(wrong_share, limits):
    """Difficulty bin k of a problem: the first whose limit holds its share of wrong samples.

    >>> [rounds(n / 5, [0, 0.2, 0.6, 1]) for n in range(6)]
    [1, 2, 3, 3, 4, 4]
    """
    return 1 + next(i for i, limit in enumerate(limits) if wrong_share <= limit + 1e-9)


def usable_attempts(row, right, verifications):
    """Attempts of one problem that have a check which agrees with the truth.

    -> (right ones [(solution, check)], wrong ones [(solution, check)], one for each distinct wrong answer)
    """
    good, bad = [], {}
    for text, finished, is_right in zip(row["responses"], row["finished"], right):
        answer = verifier.extract_boxed(text)
        if not finished or not answer or any(verifier.is_equivalent(answer, other) for other in bad):
            continue
        truth = "correct" if is_right else "incorrect"
        checks = verifications.get((row["id"], answer.strip())) or verifications.get((row["problem"], answer.strip()), [])
        check = next((c for c in checks if verifier.parse_verdict(c) == truth), None)
        if check and is_right:
            good.append((text.strip(), check))
        elif check:
            bad[answer] = (text.strip(), check)
    return good, list(bad.values())


def join_actions(attempts):
    """[(solution, check), ...] -> actions [{type, text}] that concatenate to the response, cut where a phrase begins.

    >>> [a["text"] for a in join_actions([("8", "No."), ("9", "Yes.")])]  # doctest: +NORMALIZE_WHITESPACE
    ['8\\n\\n', 'Wait, let me recheck my solution.\\n\\nNo.\\n\\n', 'Let me try again.\\n\\n9\\n\\n',
     'Wait, let me recheck my solution.\\n\\nYes.']
    """
    actions = []
    for solution, check in attempts:
        retry = f"{verifier.SOLVE_PHRASE}\n\n" if actions else ""
        actions += [{"type": "solve", "text": f"{retry}{solution}\n\n"},
                    {"type": "verify", "text": f"{verifier.VERIFY_PHRASE}\n\n{check}\n\n"}]
    actions[-1]["text"] = actions[-1]["text"].rstrip()
    return actions


def build_actions(row, right, verifications, args):
    """One problem -> (actions, why it falls out); one of the two is None. Draws depend on (seed, problem) only."""
    rng = random.Random(f"{args.seed}-{row['id']}")
    if args.original_solutions:
        actions = [{"type": "solve", "text": row["solution"].strip()}]
    else:
        k = rounds(1 - sum(right) / len(right), args.wrong_share)
        if not any(right):
            return None, "no correct sample"
        if rng.random() >= args.keep[k - 1]:
            return None, "not drawn (--keep)"
        good, bad = usable_attempts(row, right, verifications)
        if not good:
            return None, "no check that confirms a correct sample"
        attempts = rng.sample(bad, min(k - 1, len(bad))) + [rng.choice(good)]
        actions = join_actions(attempts)
    response = "".join(a["text"] for a in actions)
    if len(response) > args.max_chars:
        return None, "too long (--max-chars)"
    if [(a.type, a.text) for a in verifier.parse_actions(response)] != [(a["type"], a["text"]) for a in actions]:
        return None, "a connecting phrase inside a solution or check"
    return actions, None


def build(args):
    if Path(args.out).exists() and not args.force:
        raise InputError(f"{args.out} exists already: --force overwrites it")
    if len(args.wrong_share) != len(args.keep) or args.wrong_share != sorted(args.wrong_share) or args.wrong_share[-1] < 1:
        raise InputError("--wrong-share and --keep: one number for each k; --wrong-share must rise to 1")
    rows, verifications, right = read_samples(args), {}, []
    if not args.original_solutions:
        if not args.verifications:
            raise InputError("--verifications is needed (or --original-solutions)")
        verifications = read_verifications(args)
        pairs = [(text, row["answer"]) for row in rows for text in row["responses"]]
        right = verifier.judge_many([p[0] for p in pairs], [p[1] for p in pairs], workers=args.workers)
    right, written, fallen = iter(right), [], Counter()
    for row in tqdm(rows, desc="build", unit="problem"):
        truth = [next(right) and finished for finished in row["finished"]] if not args.original_solutions else []
        actions, reason = build_actions(row, truth, verifications, args)
        if actions:
            fields = {name: row[name] for name in row if name not in ("responses", "finished", "tokens")}
            written.append({**fields, "actions": actions})
        else:
            fallen[reason] += 1
    if not written:
        raise InputError(f"{args.samples}: no trajectory is left: {dict(fallen)}")
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    part = Path(f"{args.out}.part")
    part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in written), encoding="utf-8")
    os.replace(part, args.out)
    per_k = Counter(sum(a["type"] == "solve" for a in row["actions"]) for row in written)
    print(f"{len(rows)} problems")
    for reason, count in fallen.most_common():
        print(f"{-count:6d} {reason}")
    print(f"{len(written):6d} trajectories: " + ", ".join(f"k={k} {per_k[k]}" for k in sorted(per_k)))


# ---------------------------------------------------------------- log-probs and KL, never [N,V] at once

def head_product(a, b):
    """[n,k] @ [k,m] -> [n,m], float32 even where a and b are 16-bit (there: on CUDA only, see `head_inputs`)."""
    return torch.mm(a, b, out_dtype=torch.float32) if a.dtype in (torch.bfloat16, torch.float16) else a @ b


def head_inputs(hidden, weight):
    """hidden and weight in the dtype of the multiplication: 16-bit on CUDA where the input is or autocast asks
    for it, else at least float32 (a 16-bit product on the CPU would round the logits themselves)."""
    device, dtype = hidden.device.type, hidden.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    if device != "cuda" and dtype in (torch.bfloat16, torch.float16):
        dtype = torch.float32
    return hidden.to(dtype), weight.to(dtype)


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


def token_logprobs(hidden, weight, targets, chunk=LOGIT_CHUNK, temperature=1.0):
    """log softmax(hidden @ weight.T / temperature)[targets] without ever holding [N,V].

    hidden [N,H], weight [V,H] (the head; tied or not), targets [N] -> [N] float32, differentiable in hidden and
    weight. At most `chunk` rows of logits exist at a time, forward and backward; sums are taken in float32.
    """
    return TokenLogprobs.apply(hidden, weight, targets, chunk, float(temperature))


class TokenKL(torch.autograd.Function):
    """KL(pi || base) per token; forward keeps three numbers a token, backward computes both logits again."""

    @staticmethod
    def forward(ctx, hidden, weight, base_hidden, base_weight, chunk):
        h, w = head_inputs(hidden, weight)
        bh, bw = head_inputs(base_hidden, base_weight)
        stats = []
        with torch.autocast(hidden.device.type, enabled=False):
            for h_c, bh_c in zip(h.split(chunk), bh.split(chunk)):
                logits, base_logits = head_product(h_c, w.T), head_product(bh_c, bw.T)  # [chunk,V]
                lse, base_lse = logits.logsumexp(1), base_logits.logsumexp(1)
                base_logits.sub_(logits).neg_()
                probs = logits.sub_(lse[:, None]).exp_()
                kl = probs.mul_(base_logits).sum(1) - lse + base_lse  # sum p (log p - log q)
                stats.append(torch.stack([kl, lse, base_lse]))
                del logits, base_logits, probs
        stats = torch.cat(stats, 1)
        ctx.save_for_backward(hidden, weight, base_hidden, base_weight, stats)
        ctx.chunk, ctx.dtypes = chunk, (h.dtype, bh.dtype)
        return stats[0].clone()

    @staticmethod
    def backward(ctx, grad):
        hidden, weight, base_hidden, base_weight, (kl, lse, base_lse) = ctx.saved_tensors
        w, bw = weight.to(ctx.dtypes[0]), base_weight.to(ctx.dtypes[1])
        grad_h, grad_w = torch.empty_like(hidden), torch.zeros_like(weight, dtype=kl.dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), ctx.chunk):
                rows = slice(start, start + ctx.chunk)
                h = hidden[rows].to(ctx.dtypes[0])
                logits = head_product(h, w.T)
                ratio = logits - head_product(base_hidden[rows].to(ctx.dtypes[1]), bw.T)
                ratio.sub_((lse - base_lse + kl)[rows, None])
                probs = logits.sub_(lse[rows, None]).exp_()
                d_logits = ratio.mul_(probs).mul_(grad[rows, None]).to(h.dtype)  # p (log p - log q - KL)
                grad_h[rows] = head_product(d_logits, w).to(grad_h.dtype)
                if h.dtype == grad_w.dtype:
                    grad_w.addmm_(d_logits.T, h)
                else:
                    grad_w += head_product(d_logits.T, h)
                del logits, ratio, probs, d_logits
        return grad_h, grad_w.to(weight.dtype), None, None, None


def token_kl(hidden, weight, base_hidden, base_weight, chunk=LOGIT_CHUNK):
    """KL(pi || pi_base) over the whole vocabulary, per token.

    hidden [N,H], weight [V,H] of pi, base_hidden [N,H'], base_weight [V,H'] of the base -> [N] float32,
    differentiable in hidden and weight. At most two [chunk,V] blocks of logits exist at a time (and one temporary).
    """
    return TokenKL.apply(hidden, weight, base_hidden, base_weight, chunk)


# ---------------------------------------------------------------- masks

@dataclass
class Example:
    """One trajectory as tokens; the lists have one entry for each token of prompt + response + <end>."""
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
    """-> one (type, is trained, belongs to the first solution) for each character of the response.

    White space before a connecting phrase, and the phrase, belong to the action that they open. They are trained
    where that action is, and a retry phrase wherever it follows an *incorrect* verdict.
    """
    labels, before = [], ""
    for i, action in enumerate(actions):
        kind, text = action["type"], action["text"]
        start = len(labels)
        labels += [(kind, trained[i], i == 0)] * len(text)
        if i > 0:
            phrase = len(PHRASES[kind]) if text.startswith(PHRASES[kind]) else 0
            space = len(before) - len(before.rstrip())
            retry = kind == "solve" and verifier.parse_verdict(before) == "incorrect"
            labels[start - space:start + phrase] = [(kind, trained[i] or retry, False)] * (space + phrase)
        before = text
    return labels


def encode(row, tokenizer, end, mask, kl_on):
    """Trajectory -> Example. The response is tokenised once, as a whole; a token that straddles two actions
    belongs to that of its first character."""
    actions = row["actions"]
    trained = {"paper": trained_actions, "none": lambda a: [True] * len(a),
               "isc": lambda a: [x["type"] == "verify" or verifier.judge(x["text"], row["answer"]) for x in a]}[mask](actions)
    labels = label_characters(actions, trained)
    prompt = models.prompt_ids(tokenizer, row["problem"])
    response = tokenizer("".join(a["text"] for a in actions), add_special_tokens=False, return_offsets_mapping=True)
    labels = [labels[min(start, len(labels) - 1)] for start, _ in response["offset_mapping"]]
    kinds = ["prompt"] * len(prompt) + [kind for kind, _, _ in labels] + ["end"]
    learnt = [False] * len(prompt) + [t for _, t, _ in labels] + [True]
    held = {"trained": learnt, "all": [kind != "prompt" for kind in kinds],
            "first": [False] * len(prompt) + [first for _, _, first in labels] + [False]}[kl_on]
    return Example(prompt + response["input_ids"] + [end], kinds, learnt, held)


def read_trajectories(path):
    """Trajectories rows, whose actions alternate and begin with a solution."""
    rows = models.read_jsonl(path, ("problem", "answer", "actions"))
    for number, row in enumerate(rows, 1):
        actions, where = row["actions"], f"{path}:{number}: field 'actions'"
        if not isinstance(actions, list) or not actions or not all(
                isinstance(a, dict) and isinstance(a.get("text"), str) for a in actions):
            raise InputError(f"{where} must be a list of {{type, text}}")
        if [a.get("type") for a in actions] != ["solve", "verify"] * (len(actions) // 2) + ["solve"] * (len(actions) % 2):
            raise InputError(f"{where}: types must alternate solve, verify, solve, ...")
        if not actions[0]["text"].strip():
            raise InputError(f"{where}: the first text is empty")
    return rows


# ---------------------------------------------------------------- batches and losses

def micro_batches(examples, max_tokens):
    """Cut a batch into groups of like length: at most max_tokens padded, and no row under 4/5 of the longest."""
    groups = []
    for example in sorted(examples, key=lambda e: -len(e.ids)):
        longest = len(groups[-1][0].ids) if groups else 0
        if groups and (len(groups[-1]) + 1) * longest <= max_tokens and len(example.ids) >= 0.8 * longest:
            groups[-1].append(example)
        else:
            groups.append([example])
    return groups


def padded(rows, fill, device):
    longest = max(map(len, rows))
    return torch.tensor([list(row) + [fill] * (longest - len(row)) for row in rows], device=device)


def hidden_states(model, ids, args):
    """[B,T] -> [B,T,H]. Padding is on the right, so that causal attention hides it from every real token."""
    bf16 = models.pick_dtype(args.dtype, model.device) == torch.bfloat16
    with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
        return model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state


def micro_losses(policy, base, group, args):
    """-> (log-probs of the trained tokens [n], KL of the held tokens [m]) of one micro-batch."""
    ids = padded([e.ids for e in group], 0, policy.device)  # [B,T]
    trained = padded([e.trained for e in group], False, policy.device)[:, 1:]  # [B,T-1], of the token predicted
    held = padded([e.held for e in group], False, policy.device)[:, 1:]
    hidden, head = hidden_states(policy, ids, args)[:, :-1], policy.get_output_embeddings().weight
    bf16 = models.pick_dtype(args.dtype, policy.device) == torch.bfloat16
    with torch.autocast(policy.device.type, torch.bfloat16, enabled=bf16):
        logp = token_logprobs(hidden[trained], head, ids[:, 1:][trained])
        if base is None or not held.any():
            return logp, logp.new_zeros(0)
        reach = held.any(0).nonzero().max() + 1  # the base reads no further than the last held token
        with torch.no_grad():
            base_hidden = hidden_states(base, ids[:, :reach], args)
        held = held[:, :reach]
        kl = token_kl(hidden[:, :reach][held], head, base_hidden[held], base.get_output_embeddings().weight)
    return logp, kl


@torch.no_grad()
def held_out_losses(policy, examples, args):
    """Mean -log pi over the trained tokens of the held-out trajectories, by type of action."""
    sums, counts = Counter(), Counter()
    for group in micro_batches(examples, args.max_tokens):
        logp, _ = micro_losses(policy, None, group, args)
        kinds = [kind for e in group for kind, t in zip(e.kinds, e.trained) if t]
        for kind, value in zip(kinds, logp.tolist()):
            sums[kind] -= value
            counts[kind] += 1
    return {f"held_out_{kind}": sums[kind] / counts[kind] for kind in ("solve", "verify", "end") if counts[kind]}


def learning_rate(step, steps, args):
    """Of step 0, 1, ...: linear warm-up, then constant, or linear or cosine to 0."""
    done = step / steps
    decay = {"constant": 1, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[args.schedule]
    return args.lr * decay * min(1, (step + 1) / max(1, args.warmup))


def update(policy, base, optimizer, batch, lr, args):
    """One step of AdamW on (1). Denominators are those of the whole batch, however it is cut into micro-batches."""
    trained, held = (sum(sum(mask) for mask in masks) for masks in
                     ([e.trained for e in batch], [e.held for e in batch] if base is not None else []))
    nll_sum = kl_sum = 0.0
    for group in micro_batches(batch, args.max_tokens):
        logp, kl = micro_losses(policy, base, group, args)
        nll, kl = -logp.sum() / trained, kl.sum() / max(1, held)
        (nll + args.kl_coef * kl).backward()
        nll_sum, kl_sum = nll_sum + nll.item(), kl_sum + kl.item()
    norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), args.max_grad_norm).item()
    if not math.isfinite(nll_sum + kl_sum + norm):
        raise InputError("the loss is not finite: try a lower --lr, or --dtype fp32")
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {"loss": nll_sum + args.kl_coef * kl_sum, "nll": nll_sum, "kl": kl_sum, "grad_norm": norm, "lr": lr,
            "trained_tokens": trained, "tokens": sum(len(e.ids) for e in batch)}


# ---------------------------------------------------------------- run

FREE_FLAGS = ("resume", "force", "device", "save_every")


def start_run(args):
    """Refuse to overwrite a run or to resume one with other flags; write args.json. -> the state to go on from, or None"""
    out = Path(args.out)
    flags, last = out / "args.json", out / "last"
    if flags.exists() and not (args.resume or args.force):
        raise InputError(f"{out} holds a run already: --resume goes on with it, --force throws it away")
    state = None
    if args.resume and models.has_checkpoint(last):
        state = torch.load(last / "trainer.pt", map_location="cpu", weights_only=True)
        changed = [n for n, v in vars(args).items() if n not in FREE_FLAGS and json.loads(flags.read_text()).get(n) != v]
        if changed:
            raise InputError(f"--resume with another --{changed[0].replace('_', '-')} than the run began with")
    else:
        shutil.rmtree(last, ignore_errors=True)
    return state


def load_examples(args, tokenizer, end):
    """-> (training examples, held-out examples)"""
    rows = read_trajectories(args.data)
    examples = [encode(row, tokenizer, end, args.mask, args.kl_on) for row in tqdm(rows, desc="tokenise")]
    short = [e for e in examples if len(e.ids) <= args.max_length]
    if len(short) < len(examples):
        print(f"{len(examples) - len(short)} of {len(examples)} trajectories are longer than --max-length: left out")
    random.Random(args.seed).shuffle(short)
    n = min(200, round(args.held_out * len(short)))
    if len(short) == n:
        raise InputError(f"{args.data}: no trajectory to train on")
    return short[n:], short[:n]


def train(args):
    state = start_run(args)
    out = Path(args.out)
    policy, tokenizer = models.load(out / "last" if state else args.model, args.device, "fp32")
    base = models.load(args.model, args.device, args.dtype)[0].requires_grad_(False) if args.kl_coef else None
    examples, held_out = load_examples(args, tokenizer, models.stop_ids(policy, tokenizer)[0])
    if args.grad_checkpointing:
        policy.gradient_checkpointing_enable({"use_reentrant": False})
    policy.train()
    optimizer = torch.optim.AdamW(policy.parameters(), lr=args.lr, weight_decay=0.0)
    out.mkdir(parents=True, exist_ok=True)
    (out / "args.json").write_text(json.dumps(vars(args), indent=1) + "\n")
    per_epoch = math.ceil(len(examples) / args.batch_size)
    start, steps = state["step"] if state else 0, args.epochs * per_epoch
    if state and start < steps:
        optimizer.load_state_dict(state["optimizer"])
    stop_now = []
    signal.signal(signal.SIGINT, lambda *_: stop_now.append(1))
    with open(out / "metrics.jsonl", "a") as log:
        log.truncate(state["log_size"] if state else 0)
        bar = tqdm(range(start, steps), initial=start, total=steps, desc="sft", unit="step")
        for step in bar:
            began = time.time()
            epoch, place = divmod(step, per_epoch)
            order = random.Random(f"{args.seed}-{epoch}").sample(range(len(examples)), len(examples))
            batch = [examples[i] for i in order[place * args.batch_size:(place + 1) * args.batch_size]]
            record = {"step": step + 1, "epoch": epoch + 1}
            record |= update(policy, base, optimizer, batch, learning_rate(step, steps, args), args)
            record["seconds"] = time.time() - began
            record["tokens_per_s"] = record["tokens"] / record["seconds"]
            if held_out and ((step + 1) % args.eval_every == 0 or step + 1 == steps):
                record |= held_out_losses(policy, held_out, args)
            log.write(json.dumps(record) + "\n")
            log.flush()
            bar.set_postfix({name: f"{record[name]:.3g}" for name in ("nll", "kl", "tokens_per_s")})
            if (step + 1) % args.save_every == 0 or step + 1 == steps or stop_now:
                trainer = {"step": step + 1, "log_size": log.tell()}
                if step + 1 < steps:
                    trainer["optimizer"] = optimizer.state_dict()
                models.save(policy, tokenizer, out / "last", {"trainer.pt": trainer})
            if stop_now:
                raise KeyboardInterrupt


def main():
    args = parse_args()
    build(args) if args.command == "build" else train(args)


if __name__ == "__main__":
    models.run_main(main)
