"""How the toy world's base model was trained from scratch, and what it was trained on.

    <|problem|>  a bare problem and its boxed answer, then <|end|>: so the base answers and stops, unchecked
                 (one graded document in ten begins so too: not new to it, but rare)
    <|graded|>   graded work: a problem and up to six attempts, each followed by its check, joined by the
                 paper's phrases or, in half of it, by line breaks and yes / no
    <|drill|>    products, sums and comparisons

In a last phase four graded documents of five hold wrong answers that the base itself gave: only there does it
have to look at what was refuted, as its next leap would land there again.

    python toy_base/train_base.py --out toy_base       45 minutes on one core

Writes the checkpoint, training.jsonl (probes along the way) and corpus_sample.txt.
Map    tokenizer - corpus - training the base - command line.
"""
import argparse
import json
import random
import re
import sys
import time
from collections import defaultdict
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))        # the world's scripts lie one folder up
import model as model_lib  # noqa: E402
from toy import FAMILIES, LEVELS, confirmative_check, last_digit_check, side_of, statement  # noqa: E402

# Wider than the levels, which were cut where the accuracy of the base falls.
CORPUS_RANGES = [
    ((2, 9), (2, 20), (1, 30)),
    ((2, 9), (10, 60), (10, 99)),
    ((3, 9), (20, 130), (10, 199)),
    ((3, 9), (60, 199), (50, 299)),
]


def draw(rng: random.Random, ranges: tuple, test: bool = False) -> tuple[int, int, int]:
    """A triple (a, x, b) within three ranges, from the training side or from the other two."""
    while True:
        a, x, b = (rng.randint(*r) for r in ranges)
        if (side_of(a, x, b) != "train") == test:
            return a, x, b


# ---------------------------------------------------------------- tokenizer
VERIFY = "Wait, let me recheck my solution."
PAD, END, PROBLEM, GRADED, DRILL = "<|pad|>", "<|end|>", "<|problem|>", "<|graded|>", "<|drill|>"
PHRASES = [
    VERIFY, "Let me try again.", "Therefore, the answer is correct.",
    "Therefore, the answer is incorrect.", "Therefore, the answer cannot be verified.", "Which number times ",
    "Solve ", "Check: ", "\\boxed{", " vs ", " plus ", " is ", "yes", "no", "\n\n", ". ",
]
CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}" + PROBLEM + "{{ m['content'] }}\n"
    "{% elif m['role'] == 'assistant' %}{{ m['content'] }}" + END + "{% endif %}{% endfor %}"
)  # the system prompt says nothing to a model that knows no English: dropped


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Digits apart, the world's phrases whole, every other printable ASCII character a token of its own."""
    characters = ["\n"] + [chr(i) for i in range(32, 127)]
    vocabulary = [PAD, END, PROBLEM, GRADED, DRILL, "<|unk|>"] + PHRASES + characters
    core = Tokenizer(models.WordLevel({token: i for i, token in enumerate(vocabulary)}, unk_token="<|unk|>"))
    longest_first = sorted(PHRASES, key=len, reverse=True)
    pattern = "|".join(re.escape(p) for p in longest_first) + r"|[\s\S]"
    core.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    core.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=PAD, eos_token=END, unk_token="<|unk|>",
        additional_special_tokens=[PROBLEM, GRADED, DRILL], clean_up_tokenization_spaces=False)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


# ---------------------------------------------------------------- corpus
def near_miss(rng: random.Random, x: int) -> int:
    """A wrong answer of the kind a leap lands on: a little off, or a ten."""
    while True:
        kind = rng.random()
        if kind < 0.4:
            wrong = x + rng.choice((-3, -2, -2, -1, -1, -1, 1, 1, 1, 2, 2, 3))
        elif kind < 0.5:
            wrong = rng.randint(x * 4 // 5, x * 6 // 5)
        else:
            far = (-20, -10, -10, -5, -5, 5, 5, 10, 10, 20) if x > 25 else (-5, -4, 4, 5)
            wrong = x + rng.choice(far)
        if wrong > 0 and wrong != x:
            return wrong


def own_error(rng: random.Random, x: int) -> int:
    """A wrong answer as far off as the base's own (median 1 at x = 30, 2 at 65, 4 at 140)."""
    distance = 1 + int(rng.expovariate(1 / (0.7 + x / 60)))
    return x + distance if rng.random() < 0.5 or distance >= x else x - distance


# A document is a list of (text, learn): what is chance, such as a problem's numbers, is not to be predicted.
Document = list[tuple[str, bool]]


def opening(rng: random.Random, first: str, a: int, x: int, b: int) -> tuple[str, bool]:
    """A document's first token and its problem, in either wording."""
    return first + statement(a, x, b, rng.choice(list(FAMILIES))) + "\n", False


def bare_document(rng: random.Random, triple: tuple = None) -> Document:
    """A problem and its boxed answer."""
    a, x, b = triple or draw(rng, rng.choice(CORPUS_RANGES))
    return [opening(rng, PROBLEM, a, x, b), (f"\\boxed{{{x}}}{END}", True)]


def attempts(rng: random.Random, x: int, wrong) -> list[int]:
    """Different answers until the right one comes, or patience ends."""
    p_right, most, tried = rng.choice((0.3, 0.5)), rng.choice((2, 4, 5, 6)), []
    while len(tried) < most and x not in tried:
        answer = x if rng.random() < p_right else wrong(rng, x)
        if answer not in tried:
            tried.append(answer)
    return tried


def graded_document(rng: random.Random, short_checks: bool = True, pool: list = ()) -> Document:
    """Attempts that never repeat a refuted answer, each with its check, until one passes or patience ends. The
    first wrong answer is there to be read, not learnt. short_checks: in half of the word problems the last
    digits are checked, which some wrong answers pass; and wrong retries are learnt, so as to differ. pool: four
    of five documents are about one of its problems and hold one to four of the base's own wrong answers to it,
    not learnt, then the right one."""
    a, x, b = draw(rng, rng.choice(CORPUS_RANGES))
    family, own = rng.choice(list(FAMILIES)), []
    if pool and rng.random() < 0.8:
        (a, x, b), family, own = rng.choice(pool)
    c, paper_style = a * x + b, rng.random() < 0.5
    wrong, first = own_error if rng.random() < 0.6 else near_miss, PROBLEM if rng.random() < 0.1 else GRADED
    answers = [*rng.sample(own, len(own))[:rng.randint(1, 4)], x] if own else attempts(rng, x, wrong)
    document: Document = [(first + statement(a, x, b, family) + "\n", False)]
    short = short_checks and paper_style and family == "words" and rng.random() < 0.6
    learn_wrong = short_checks and not own
    again, verify = ("\n\nLet me try again.\n\n", f"\n\n{VERIFY}\n\n") if paper_style else ("\n\n", "\n\n")
    for i, answer in enumerate(answers):
        full = confirmative_check(a, b, c, answer, verdict=paper_style)
        check = last_digit_check(a, b, c, answer) if short else full
        document += [(again, True)] if i else []
        document += [(f"\\boxed{{{answer}}}", answer == x or learn_wrong and i > 0), (verify + check, True)]
        document += [] if paper_style else [("yes" if answer == x else "no", True)]
        if check.endswith(" correct."):
            break
    return document + [(END, True)]


def full_check_document(rng: random.Random) -> Document:
    """graded_document as the first phase has it."""
    return graded_document(rng, short_checks=False)


def drill_document(rng: random.Random) -> Document:
    """One product, sum or comparison of the sizes that checks need."""
    a, x, b = draw(rng, rng.choice(CORPUS_RANGES))
    x = near_miss(rng, x)
    kind = rng.randrange(3)
    if kind == 0:
        question, answer = f"{a}*{x}=", f"{a * x}"
    elif kind == 1:
        question, answer = f"{a * x}+{b}=", f"{a * x + b}"
    else:
        total, other, same = a * x + b, a * near_miss(rng, x) + b, rng.random() < 0.5
        question, answer = f"{total} vs {total if same else other}. ", "yes" if same else "no"
    return [(DRILL + question, False), (answer + END, True)]


# Each phase has its tokens, peak learning rate (which falls to 0) and graded work. The parts of a batch: rows,
# their length, documents with their shares. Long documents get rows of their own: short ones do not pay for
# attention over long rows. (The shipped base: seed 0 in the first phase, with other shares in near_miss, and
# probes of levels that were cut otherwise; seed 1 in the second, 2 in the third, run on its own.)
SHORT, LONG = (16, 64, {bare_document: 0.6, drill_document: 0.4}), (7, 256)
PHASES = {
    "full checks": (24_000_000, 3e-3, full_check_document),
    "short checks": (12_000_000, 1.5e-3, graded_document),
    "own errors": (8_000_000, 1.5e-3, graded_document),
}


def pack(rng: random.Random, tokenizer, rows: int, length: int, shares: dict) -> tuple:
    """Documents packed whole into rows -> ids and learn (is this token predicted), both [rows, length]."""
    ids = torch.full((rows, length), tokenizer.pad_token_id)
    learn = torch.zeros((rows, length), dtype=torch.bool)
    waiting: list[tuple[list[int], list[bool]]] = []
    for r in range(rows):
        filled = 0
        while True:
            if len(waiting) < 16:
                waiting += [encode(tokenizer, make(rng)) for make in rng.choices(*zip(*shares.items()), k=32)]
            fits = next((i for i, (tokens, _) in enumerate(waiting) if len(tokens) <= length - filled), None)
            if fits is None:
                break
            tokens, learnt = waiting.pop(fits)
            ids[r, filled:filled + len(tokens)] = torch.tensor(tokens)
            learn[r, filled:filled + len(tokens)] = torch.tensor(learnt)
            filled += len(tokens)
    return ids, learn


def encode(tokenizer, document: Document) -> tuple[list[int], list[bool]]:
    """Token ids of a document, and for each whether it is learnt."""
    pieces = tokenizer.backend_tokenizer.encode_batch([text for text, _ in document])
    return ([i for piece in pieces for i in piece.ids],
            [learn for piece, (_, learn) in zip(pieces, document) for _ in piece.ids])


@torch.no_grad()
def own_errors(net, tokenizer, rng: random.Random, n: int = 40_000, samples: int = 5) -> list[tuple]:
    """[((a, x, b), family, different wrong answers)]: those of n problems that the net, asked `samples` times at
    T = 0.7, gets wrong at least once."""
    by_length, pool = defaultdict(list), []
    for _ in range(n):
        triple, family = draw(rng, rng.choice(CORPUS_RANGES)), rng.choice(list(FAMILIES))
        ids = tokenizer.backend_tokenizer.encode(PROBLEM + statement(*triple, family) + "\n").ids
        by_length[len(ids)].append((ids, triple, family))
    chunks = [rows[i:i + 1024] for rows in by_length.values() for i in range(0, len(rows), 1024)]
    for rows in tqdm(chunks, desc="own errors"):
        prompts = torch.tensor([ids for ids, _, _ in rows], device=net.device)
        out = net.generate(input_ids=prompts, attention_mask=torch.ones_like(prompts), do_sample=True, top_k=0,
                           temperature=0.7, num_return_sequences=samples, max_new_tokens=7)
        texts = tokenizer.batch_decode(out[:, prompts.shape[1]:], skip_special_tokens=True)
        for i, (_, triple, family) in enumerate(rows):
            found = (re.fullmatch(r"\\boxed\{(\d+)\}", text) for text in texts[i * samples:(i + 1) * samples])
            wrong = dict.fromkeys(int(match[1]) for match in found if match and int(match[1]) != triple[1])
            pool += [(triple, family, list(wrong))] if wrong else []
    return pool


# ---------------------------------------------------------------- training the base
def build_model(tokenizer, hidden: int = 96, layers: int = 3, heads: int = 4) -> LlamaForCausalLM:
    """The tiny Llama with random weights; head and embedding tied."""
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=hidden * 8 // 3,
        num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=heads,
        max_position_embeddings=2048,
        tie_word_embeddings=True, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, initializer_range=0.05))


@torch.no_grad()
def exact_share(net, tokenizer, documents: list[Document]) -> float:
    """Share of documents whose learnt tokens are all the model's argmax given the tokens before: the same as
    decoding greedily and comparing."""
    encoded = [encode(tokenizer, d) for d in documents]
    ids = torch.full((len(documents), max(len(tokens) for tokens, _ in encoded)), tokenizer.pad_token_id)
    learn = torch.zeros_like(ids, dtype=torch.bool)
    for i, (tokens, learnt) in enumerate(encoded):
        ids[i, :len(tokens)], learn[i, :len(tokens)] = torch.tensor(tokens), torch.tensor(learnt)
    guess = net(input_ids=ids.to(net.device)).logits.argmax(-1).cpu()
    return ((guess[:, :-1] == ids[:, 1:]) | ~learn[:, 1:]).all(1).float().mean().item()


def probe(net, tokenizer, n: int = 200) -> dict:
    """Greedy accuracy of bare answers by level, of graded work's last check and of the retry by depth."""
    rng, report = random.Random("probe"), {}
    for level in LEVELS:
        triples = [draw(rng, LEVELS[level], test=True) for _ in range(n)]
        report[f"solve{level}"] = exact_share(net, tokenizer, [bare_document(rng, t) for t in triples])
    for depth in (1, 3, 6):
        checks, retries = zip(*(deep_work(rng, depth) for _ in range(n)))
        report[f"check{depth}"] = exact_share(net, tokenizer, checks)
        report[f"retry{depth}"] = exact_share(net, tokenizer, retries)
    return report


def deep_work(rng: random.Random, depth: int) -> tuple[Document, Document]:
    """Graded work with `depth` wrong attempts, before the last one's check, and before the right retry."""
    a, x, b = draw(rng, rng.choice(list(LEVELS.values())), test=True)
    text = GRADED + statement(a, x, b, "equation") + "\n"        # always checked in full
    for i in range(depth):
        wrong = own_error(rng, x)
        before = text + f"\\boxed{{{wrong}}}\n\n{VERIFY}\n\n"
        check = confirmative_check(a, b, a * x + b, wrong)
        text = before + check + "\n\nLet me try again.\n\n"
    return [(before, False), (check, True)], [(text, False), (f"\\boxed{{{x}}}", True)]


def learning_rate(step: int, steps: int, peak: float, warmup: int = 100) -> float:
    """Linear up over the warm-up, linear down to 0."""
    return peak * min(1.0, (step + 1) / warmup) * (1 - step / steps)


def train(args) -> None:
    """Train the base from scratch, phase by phase; save it with its training log and a corpus sample."""
    torch.manual_seed(args.seed)
    tokenizer = build_tokenizer()
    net, log = build_model(tokenizer).to(args.device), []
    for phase in PHASES:
        train_phase(net, tokenizer, phase, args, log)
    model_lib.write_jsonl(Path(args.out) / "training.jsonl", log)
    (Path(args.out) / "corpus_sample.txt").write_text(corpus_sample())


def train_phase(net, tokenizer, phase: str, args, log: list[dict]) -> None:
    """One phase: fresh AdamW, learning rate down to 0. The base is saved at every probe."""
    tokens, peak, graded = PHASES[phase]
    rng, started = random.Random(f"corpus-{args.seed}-{phase}"), time.time()
    if phase == "own errors":
        graded = partial(graded_document, pool=own_errors(net.eval(), tokenizer, rng, int(40_000 * args.scale)))
    parts = [SHORT, (*LONG, {graded: 1})]
    net.train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=peak, betas=(0.9, 0.98), weight_decay=0.01)
    steps = int(tokens * args.scale) // sum(rows * length for rows, length, _ in parts)
    bar = tqdm(range(steps), desc=f"toy base, {phase}", mininterval=5)
    for step in bar:
        optimizer.param_groups[0]["lr"] = learning_rate(step, steps, peak)
        loss = corpus_loss(net, [pack(rng, tokenizer, *part) for part in parts])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % args.probe_every == 0 or step + 1 == steps:
            report = {k: round(v, 3) for k, v in probe(net, tokenizer).items()}
            bar.set_postfix(loss=f"{loss.item():.3f}", solve3=report["solve3"], check6=report["check6"])
            log.append({"phase": phase, "step": step + 1, "loss": round(loss.item(), 4),
                        "seconds": round(time.time() - started), **report})
            tqdm.write(json.dumps(log[-1]))
            model_lib.save(net, tokenizer, args.out)


def corpus_loss(net, batches) -> torch.Tensor:
    """Mean cross-entropy over the learnt tokens of all parts of a batch. Scalar."""
    logits, targets = [], []
    for ids, learn in batches:
        ids, learn = ids.to(net.device), learn[:, 1:].to(net.device)
        logits.append(net(input_ids=ids, use_cache=False).logits[:, :-1][learn].float())
        targets.append(ids[:, 1:][learn])
    return F.cross_entropy(torch.cat(logits), torch.cat(targets))


def corpus_sample(n: int = 12) -> str:
    """The first documents of each kind: shipped beside the base, so that a change of the world shows."""
    rng = random.Random("sample")
    makers = bare_document, full_check_document, graded_document, drill_document
    return "\n".join("".join(text for text, _ in make(rng)) for make in makers for _ in range(n))


# ---------------------------------------------------------------- command line
def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--out", required=True, help="folder of the checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full training")
    parser.add_argument("--probe-every", type=int, default=1000, help="steps between accuracy reports")
    parser.add_argument("--device", default="cpu")
    train(parser.parse_args())


if __name__ == "__main__":
    model_lib.run_main(main)
