"""Stages 0 and 1: build trial-and-error trajectories and learn them (S2R, arXiv 2502.12853, §2.2, App. C.1).

Stage 0 (`build`) joins wrong samples of the model's own, each with a check that refutes it, and a right one
with a check that confirms it: y = (s1, v1, ... sk, vk). The lower a problem's sampled accuracy, the larger k.
Stage 1 (`train`) is supervised fine-tuning with a mask over actions and a KL penalty to the base model:

    (1)  L = -E sum_t delta_mask(a_t) log pi(a_t | x, y_<t)  +  c KL(pi || pi_base)

delta_mask is 1 for every verification, the last solution and <end>, and 0 for the earlier, wrong solutions.

    python sft.py build --samples samples.jsonl --verifications checks.jsonl --out trajectories.jsonl
    python sft.py train --model Qwen/Qwen2.5-Math-1.5B --data trajectories.jsonl --out runs/bi \\
        --grad-checkpointing --offload optimizer
    (for the toy world see run.sh)

Reads  samples {problem, answer, responses, finished}, verifications {id, answer, verification[, kind]}
Writes trajectories {the problem's fields, actions: [{type, text}]}, whose texts concatenate to the response;
       --out/{args.json, metrics.jsonl, last}: last is a Hugging Face folder, with what --resume needs

Chosen on purpose:
- A connecting phrase is trained as part of the action that it opens, with the white space before it (which in
  files and in RL ends the action before): there the policy decides to go on. "Let me try again." is
  trained wherever it follows an *incorrect* verdict, even when the solution behind it is masked; else the
  model learns to refute but not to retry. The paper's code trains only the last one.
- <end> is the stop token, appended and trained. The paper's code cuts it off.
- The loss is the mean over a batch's trained tokens, the KL term the mean over the tokens that --kl-on names.
  The paper takes the trained ones. On the toy world `first` is better: the first solution, masked or not,
  keeps the base's skill, and no term holds the retries to a base that never retried.

Map: flags - stage 0 - log-probs and KL - masks - batches and losses - train.
"""
import math
import random
import time
from collections import Counter
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

import model as models
import verifier
from model import InputError, number

PHRASES = {"solve": verifier.SOLVE_PHRASE, "verify": verifier.VERIFY_PHRASE}


def parse_args(argv=None):
    parser = models.Parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    build_parser = commands.add_parser("build", help="stage 0: samples -> trajectories")
    train_parser = commands.add_parser("train", help="stage 1: masked SFT on trajectories")
    count, share, rate = number(int, 1), number(float, 0, 1), number(float, 0)
    add = build_parser.add_argument
    add("--samples", required=True, help="samples file, K responses per problem (paper: 5 at T = 0.7)")
    add("--verifications", help="file of checks: a teacher's (toy.py --verify) or the model's (sample.py)")
    add("--kind", choices=("confirmative", "problem-solving"), default="confirmative", help="of check")
    add("--wrong-share", type=share, nargs="+", default=[0, 0.2, 0.6, 1],
        help="k-th: the largest share of wrong samples for k rounds (0 0.2 0.6 1)")
    add("--keep", type=share, nargs="+", default=[0.24, 0.5, 0.5, 0.5],
        help="k-th: chance of a problem of k rounds to be drawn (0.24 0.5 0.5 0.5)")
    add("--max-chars", type=count, default=24000, help="longest response (24000)")
    add("--original-solutions", action="store_true", help="Table 2's baseline: `solution`, no verification")
    add("--seed", type=number(int, 0), default=0, help="of the draws")
    add("--out", required=True, help="trajectories file")
    add("--force", action="store_true", help="overwrite --out")

    add = train_parser.add_argument
    add("--model", required=True, help="base model, also pi_base of the KL term (folder or hub name)")
    add("--data", required=True, help="trajectories file")
    add("--out", required=True, help="run folder, the only place written to")
    # algorithm
    add("--no-mask", action="store_true", help="train every action")
    add("--kl-coef", type=rate, default=0.1, help="c, weight of the KL term (0.1); 0 loads no base model")
    add("--kl-on", choices=("trained", "first", "all"), default="trained", help="tokens held near the base")
    add("--epochs", type=count, default=3, help="(3)")
    add("--batch-size", type=count, default=32, help="trajectories per step (32)")
    add("--max-length", type=count, default=8000, help="longest prompt + response, in tokens (8000)")
    # optimizer
    add("--lr", type=rate, default=5e-6, help="learning rate of AdamW (5e-6)")
    add("--schedule", choices=("constant", "linear", "cosine"), default="constant", help="after warm-up")
    add("--warmup", type=number(int, 0), default=5, help="steps of linear warm-up (5)")
    add("--max-grad-norm", type=rate, default=1.0, help="gradient clipping (1)")
    add("--max-tokens", type=count, default=16384, help="padded tokens in a micro-batch (16384)")
    # machine
    add("--device", default="auto", help="auto, cpu, cuda; mps is not tested")
    add("--dtype", choices=("auto", "bf16", "fp32"), default="auto", help="models; the optimizer is fp32")
    add("--offload", choices=("none", "optimizer"), default="none", help="the host keeps fp32 weights, AdamW")
    add("--grad-checkpointing", action="store_true", help="recompute activations in the backward pass")
    # run
    add("--held-out", type=number(float, 0, 0.99), default=0.05, help="for evaluation, at most 200 (0.05)")
    add("--eval-every", type=count, default=50, help="steps between held-out losses (50)")
    add("--save-every", type=count, default=200, help="steps between checkpoints (200)")
    add("--seed", type=number(int, 0), default=0, help="of the split and the order of the data")
    add("--resume", action="store_true", help="go on from --out/last")
    add("--force", action="store_true", help="throw away an earlier run in --out")
    return parser.parse_args(argv)


# ---------------------------------------------------------------- stage 0: trajectories
def read_verifications(path, kind):
    """-> {(problem id or text, answer): [verification, ...]} of the kind asked for."""
    found = {}
    for where, row in models.read_jsonl(path, ("answer", "verification")):
        if {type(row["answer"]), type(row["verification"]), type(row.get("problem") or "")} != {str}:
            raise InputError(f"{where}: fields 'answer', 'verification' and 'problem' must be texts")
        if row.get("id") is None and row.get("problem") is None:
            raise InputError(f"{where}: field 'id' or 'problem' is needed")
        if row.get("kind") in (None, kind):
            for key in (str(row.get("id")), row.get("problem")):
                found.setdefault((key, row["answer"].strip()), []).append(row["verification"].strip())
    return found


def rounds(wrong_share, limits):
    """Difficulty bin k of a problem: the first whose limit holds its share of wrong samples.

    >>> [rounds(n / 5, [0, 0.2, 0.6, 1]) for n in range(6)]
    [1, 2, 3, 3, 4, 4]
    """
    return 1 + next(i for i, limit in enumerate(limits) if wrong_share <= limit + 1e-9)


def usable_attempts(row, right, verifications):
    """Finished samples that have a check which agrees with the truth; of the wrong, one for each answer.
    right: does each sample count as right. -> (right [(solution, check)], wrong [(solution, check)])"""
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
        if not isinstance(row.get("solution"), str) or not row["solution"].strip():
            raise InputError(f"{args.samples}: problem {row['id'][:80]!r}: field 'solution' is missing")
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
    models.check_output(args.out, args.force, args.samples, args.verifications)
    limits = args.wrong_share
    if len(limits) != len(args.keep) or limits != sorted(limits) or limits[-1] < 1:
        raise InputError("--wrong-share and --keep: one number for each k, and --wrong-share must rise to 1")
    if not (args.verifications or args.original_solutions):
        raise InputError("--verifications is needed (or --original-solutions)")
    rows = models.read_problems(args.samples, samples=not args.original_solutions)
    verifications = {} if args.original_solutions else read_verifications(args.verifications, args.kind)
    written, fallen, lengths = [], Counter(), Counter()
    for row in tqdm(rows, desc="build", unit="problem", mininterval=1):
        right = [bool(finished) and verifier.judge(text, row["answer"])
                 for text, finished in zip(row.get("responses", []), row.get("finished", []))]
        actions, reason = build_actions(row, right, verifications, args)
        fallen[reason] += 1
        if actions:
            fields = {name: row[name] for name in row if name not in ("responses", "finished", "tokens")}
            written.append({**fields, "actions": actions})
            lengths[sum(a["type"] == "solve" for a in actions)] += 1
    if not written:
        raise InputError(f"{args.samples}: no trajectory is left; {dict(fallen)}")
    models.write_jsonl(args.out, written)
    print(f"{len(rows):6d} problems")
    for reason, n in fallen.most_common():
        print(f"{n:6d} {'fell out: ' + reason if reason else 'trajectories'}")
    print("       rounds: " + ", ".join(f"k={k} {lengths[k]}" for k in sorted(lengths)))


# ---------------------------------------------------------------- log-probs and KL, never [N, V] at once
# Same in rl_outcome, rl_process
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


def sum_kl(hidden, weight, base_hidden, base_weight, chunk=128):
    """Sum over tokens of KL(pi || pi_base) over the whole vocabulary, made chunk by chunk as above:
    hidden [N, H], weight [V, H], base_hidden [N, H'], base_weight [V, H'] -> one float32 number."""
    wide = torch.promote_types(hidden.dtype, torch.float32)
    weight, base_weight = weight.to(wide), base_weight.to(wide)

    def kl(h, base_h):
        logp = (h.to(wide) @ weight.T).log_softmax(1)                                             # [chunk, V]
        base_logp = (base_h.to(wide) @ base_weight.T).log_softmax(1)
        return (logp.exp() * (logp - base_logp)).sum()

    parts = [checkpoint(kl, h, base_h, use_reentrant=False, preserve_rng_state=False)
             for h, base_h in zip(hidden.split(chunk), base_hidden.split(chunk))]
    return torch.stack(parts).sum()


# ---------------------------------------------------------------- masks
@dataclass
class Example:
    """One trajectory as tokens: prompt + response + <end>, and one entry for each token in every list."""
    ids: list[int]
    kinds: list[str]     # "prompt", "solve", "verify" or "end"
    trained: list[bool]  # counts in (1)
    held: list[bool]     # counts in the KL term

    def __len__(self):
        return len(self.ids)


def trained_actions(actions):
    """delta_mask of (1) for each action, a list of bool: every verification, and the last solution.

    actions: dictionaries with a "type", as in a trajectories file, or verifier.Action objects; perhaps none.

    >>> trained_actions([{"type": t} for t in ("solve", "verify", "solve", "verify")])
    [False, True, True, True]
    """
    types = [a["type"] if isinstance(a, dict) else a.type for a in actions]
    last = max((i for i, t in enumerate(types) if t == "solve"), default=None)
    return [t == "verify" or i == last for i, t in enumerate(types)]


def label_characters(actions, trained):
    """-> (type, is trained, is of the first solution) for each character of the response. A phrase, and the
    white space before it, is trained with its action; a retry phrase also after any *incorrect* verdict."""
    labels, before = [], ""
    for i, (action, learn) in enumerate(zip(actions, trained)):
        kind, text, start = action["type"], action["text"], len(labels)
        labels += [(kind, learn, i == 0)] * len(text)
        if i > 0:
            stop = start + (len(PHRASES[kind]) if text.startswith(PHRASES[kind]) else 0)
            start -= len(before) - len(before.rstrip())         # back to where the white space begins
            learn = learn or (kind == "solve" and verifier.parse_verdict(before) == "incorrect")
            labels[start:stop] = [(kind, learn, False)] * (stop - start)
        before = text
    return labels


def to_example(row, tokenizer, end, args):
    """Trajectory -> Example. A token that straddles two actions belongs to that of its first character."""
    actions = row["actions"]
    learn = [True] * len(actions) if args.no_mask else trained_actions(actions)
    labels = label_characters(actions, learn)
    prompt = models.prompt_ids(tokenizer, row["problem"])
    text = "".join(a["text"] for a in actions)
    response = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    tokens = [labels[min(start, len(labels) - 1)] for start, _ in response["offset_mapping"]]
    tokens = [("prompt", False, False)] * len(prompt) + tokens + [("end", True, False)]
    kinds, trained, first = map(list, zip(*tokens))
    held = {"trained": trained, "first": first, "all": [kind != "prompt" for kind in kinds]}[args.kl_on]
    return Example(prompt + response["input_ids"] + [end], kinds, trained, held)


def load_examples(policy, tokenizer, args):
    """-> (training examples, held-out examples)"""
    examples, end = [], models.stop_ids(policy, tokenizer)[0]
    rows = models.read_jsonl(args.data, ("problem", "answer", "actions"))
    for where, row in tqdm(rows, desc="tokenise", unit="row", mininterval=1):
        actions = row["actions"]
        if not all(isinstance(row[field], str) for field in ("problem", "answer")):
            raise InputError(f"{where}: fields 'problem' and 'answer' must be texts")
        if not isinstance(actions, list) or not actions or not all(isinstance(a, dict) for a in actions):
            raise InputError(f"{where}: field 'actions' must be a list of {{type, text}}")
        if any(a.get("type") != ("solve", "verify")[i % 2] for i, a in enumerate(actions)):
            raise InputError(f"{where}: field 'actions': the types must go solve, verify, solve, ...")
        if not all(isinstance(a.get("text"), str) and a["text"].strip() for a in actions):
            raise InputError(f"{where}: field 'actions': every action needs a text")
        examples.append(to_example(row, tokenizer, end, args))
    longest = min(args.max_length, models.most_positions(policy))
    short = [e for e in examples if len(e) <= longest]
    random.Random(args.seed).shuffle(short)
    n = min(200, round(args.held_out * len(short)))
    print(f"{len(short) - n} trajectories, {n} more held out, {len(rows) - len(short)} over {longest} tokens")
    if len(short) == n:
        raise InputError(f"{args.data}: no trajectory to train on")
    models.check_room(policy, [e.ids for e in short], 0)
    return short[n:], short[:n]


# ---------------------------------------------------------------- batches and losses
# Same in rl_outcome, rl_process
def micro_batches(batch, max_tokens):
    """Split items with a length into lists of like length, each of at most max_tokens when padded."""
    parts = []
    for item in sorted(batch, key=len):
        if not parts or (len(parts[-1]) + 1) * len(item) > max_tokens:
            parts.append([])
        parts[-1].append(item)
    return parts


def padded(rows, device):
    """Lists -> [B,T], zeros on the right, where causal attention never looks: no attention mask is needed."""
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True).to(device)


def micro_losses(policy, base, part):
    """-> (log-probs of the trained tokens [n], summed KL of the held tokens)"""
    ids = padded([e.ids for e in part], policy.device)  # [B,T]
    trained = padded([e.trained[1:] for e in part], policy.device)  # [B,T-1], of the token that is predicted
    held = padded([e.held[1:] for e in part], policy.device)
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


def update(policy, base, optimizer, batch, lr, args):
    """One step on (1). The denominators are those of the whole batch, however it is cut up."""
    trained, held = sum(sum(e.trained) for e in batch), max(1, sum(sum(e.held) for e in batch))
    nll = kl = 0.0
    policy.train(args.grad_checkpointing)                   # transformers checkpoints in training mode only
    for part in micro_batches(batch, args.max_tokens):
        logp, kl_sum = micro_losses(policy, base, part)
        loss = args.kl_coef * kl_sum / held - logp.sum() / trained
        loss.backward()
        nll, kl = nll - logp.sum().item() / trained, kl + kl_sum.item() / held
    policy.eval()
    norm = models.optimizer_step(policy, optimizer, lr, args.max_grad_norm)
    if not math.isfinite(nll + kl + norm):
        raise InputError("the loss is not finite: try a lower --lr, or --dtype fp32")
    return {"loss": nll + args.kl_coef * kl, "nll": nll, "kl": kl, "grad_norm": norm,
            "trained_tokens": trained, "tokens": sum(map(len, batch))}


@torch.no_grad()
def held_out_losses(policy, examples, args):
    """Mean -log pi over the trained tokens of the held-out trajectories, by type of action."""
    sums, counts = Counter(), Counter()
    for part in micro_batches(examples, args.max_tokens):
        values = micro_losses(policy, None, part)[0].tolist()
        for kind, value in zip([k for e in part for k, t in zip(e.kinds, e.trained) if t], values):
            sums[kind] -= value
            counts[kind] += 1
    return {f"held_out_{kind}": sums[kind] / counts[kind] for kind in sorted(counts)}


# ---------------------------------------------------------------- train
def train(args):
    run = models.Run(args, ["max_tokens"])
    policy, tokenizer = models.load(run.last if run.state else args.model, args.device, args.dtype)
    models.check_model(policy)
    base = models.load(args.model, args.device, args.dtype)[0].requires_grad_(False) if args.kl_coef else None
    examples, held_out = load_examples(policy, tokenizer, args)
    optimizer = models.make_optimizer(policy, args.lr, args.offload == "optimizer", run.state)
    if args.grad_checkpointing:
        policy.activation_checkpointing_enable({"use_reentrant": False})
    per_epoch = math.ceil(len(examples) / args.batch_size)
    steps = args.epochs * per_epoch
    run.begin()
    for step in run.steps(steps):
        began, (epoch, place) = time.time(), divmod(step - 1, per_epoch)
        order = random.Random(f"{args.seed}-{epoch}").sample(range(len(examples)), len(examples))
        batch = [examples[i] for i in order[place * args.batch_size:(place + 1) * args.batch_size]]
        lr = models.learning_rate(step - 1, steps, args)
        row = {"step": step, "epoch": epoch + 1, "lr": lr, **update(policy, base, optimizer, batch, lr, args)}
        row["seconds"] = time.time() - began
        row["tokens_per_s"] = row["tokens"] / row["seconds"]
        if held_out and (step % args.eval_every == 0 or step == steps):
            row |= held_out_losses(policy, held_out, args)
        run.log(row, shown=("nll", "kl", "tokens_per_s"))
        run.save(step, policy, tokenizer, optimizer)


def main():
    args = parse_args()
    {"build": build, "train": train}[args.command](args)


if __name__ == "__main__":
    models.run_main(main)
