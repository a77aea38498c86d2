"""How the base model of the toy world was trained: from scratch, on a corpus of three kinds of document.

    <|problem|>  a bare problem and its boxed answer, then <|end|>: so the base answers and stops, unchecked
    <|graded|>   graded work: a problem and up to six attempts, each followed by its check, joined by the
                 paper's phrases or, in half of them, by line breaks and yes / no. It ends when a check passes
                 (a short test of a word problem may pass a wrong answer) or when patience ends.
    <|drill|>    single steps of checks and of leaps

Attempts differ from the earlier ones. Wrong ones are near misses, or (in the second half of the training) what
the model itself answers; they are read, not learnt. So a retry has to make use of how far off the check was.

    python toy_base/train_base.py --out toy_base [--tokens N] [--seed N]

Writes a Hugging Face checkpoint, training.jsonl (accuracies while it learns) and corpus_sample.txt.

Map    tokenizer - documents - packing - model and optimizer - probe - own errors - training.
"""
import argparse
import json
import random
import re
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import model as models  # noqa: E402
import toy  # noqa: E402
import verifier  # noqa: E402
from toy import Cell, Equation, PLAIN  # noqa: E402

# Wider than the levels, which were cut afterwards.
NARROW = [
    Cell((2, 9), (2, 12), PLAIN, (1, 20)),
    Cell((2, 9), (2, 60), PLAIN, (1, 60)),
    Cell((2, 9), (10, 99), PLAIN, (1, 99)),
    Cell((2, 9), (40, 99), PLAIN, (20, 99)),
    Cell((2, 9), (2, 60), (1, 20), (1, 60)),
    Cell((2, 9), (10, 99), (1, 30), (1, 99)),
]
WIDE = NARROW + [
    Cell((2, 9), (2, 99), PLAIN, (60, 250)),
    Cell((2, 9), (2, 60), (10, 60), (60, 250)),
    Cell((2, 9), (10, 99), (10, 60), (60, 250)),
]


class Corpus(NamedTuple):
    """What the documents of a phase are made from."""
    cells: list                     # ranges of its equations
    difference: bool = False        # do full checks write down how far off the answer is
    pool: list = ()                 # equations with wrong answers of the model's own


# ---------------------------------------------------------------- tokenizer
VERIFY, RETRY = verifier.VERIFY_PHRASE, verifier.SOLVE_PHRASE
PAD, END, PROBLEM, GRADED, DRILL = "<|pad|>", "<|end|>", "<|problem|>", "<|graded|>", "<|drill|>"
PHRASES = [
    VERIFY, RETRY, "Therefore, the answer is correct.", "Therefore, the answer is incorrect.",
    "Therefore, the answer cannot be verified.", "Which number ", "Solve ", "Check: ", "Last digits: ",
    "Parity: ", " ends in ", "even", "odd", "plus ", "minus ", "times ", ", ", "\\boxed{", " vs ", " is ",
    "yes", "no", "\n\n", ". ",
]
CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}" + PROBLEM + "{{ m['content'] }}\n"
    "{% elif m['role'] == 'assistant' %}{{ m['content'] }}" + END + "{% endif %}{% endfor %}"
)  # the system prompt says nothing to a model that knows no English: dropped


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Digits apart, the world's phrases whole, every other printable ASCII character a token of its own."""
    characters = ["\n"] + [chr(i) for i in range(32, 127)]
    vocabulary = [PAD, END, PROBLEM, GRADED, DRILL, "<|unk|>"] + PHRASES + characters
    core = Tokenizer(WordLevel({token: i for i, token in enumerate(vocabulary)}, unk_token="<|unk|>"))
    longest_first = sorted(PHRASES, key=len, reverse=True)
    pattern = "|".join(re.escape(p) for p in longest_first) + r"|[\s\S]"
    core.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    core.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=PAD, eos_token=END, unk_token="<|unk|>",
        additional_special_tokens=[PROBLEM, GRADED, DRILL], clean_up_tokenization_spaces=False)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


# ---------------------------------------------------------------- documents
# A document is a list of (text, learn): what is chance, such as a problem's numbers, is not to be predicted.
Document = list[tuple[str, bool]]


def near_miss(rng: random.Random, x: int) -> int:
    """A wrong answer of the kind that a leap lands on: a little off, ten off, or one digit wrong."""
    while True:
        kind = rng.random()
        if kind < 0.6:
            wrong = x + rng.choice((-1, 1)) * min(1 + int(rng.expovariate(0.7)), 9)
        elif kind < 0.75:
            wrong = x + rng.choice((-20, -10, -10, 10, 10, 20))
        else:
            digits = list(str(x))
            digits[rng.randrange(len(digits))] = str(rng.randrange(10))
            wrong = int("".join(digits))
        if wrong > 0 and wrong != x:
            return wrong


def opening(first: str, e: Equation, family: str) -> tuple[str, bool]:
    """A document's first token and its problem."""
    return first + toy.statement(e, family) + "\n", False


def bare_document(rng: random.Random, corpus: Corpus) -> Document:
    """A problem and its boxed answer."""
    e = toy.draw_equation(rng, rng.choice(corpus.cells))
    return solved(e, rng.choice(toy.FAMILIES))


def solved(e: Equation, family: str) -> Document:
    """The bare document of an equation."""
    return [opening(PROBLEM, e, family), (f"\\boxed{{{e.answer}}}{END}", True)]


def written_difference(check: str) -> str:
    """A full substitution that also writes down how far off it is.

    >>> written_difference("Check: 7*82=574. 574+133=707. 707 vs 693. ")
    'Check: 7*82=574. 574+133=707. 707-693=14. '
    """
    found = re.search(r"(-?\d+) vs (\d+)\. $", check) if check.startswith("Check") else None
    if not found:
        return check
    left, right = map(int, found.groups())
    return f"{check[:found.start()]}{left}-{right}={left - right}. "


def graded_document(rng: random.Random, corpus: Corpus) -> Document:
    """Different attempts, each with its check, until one passes or patience ends; seven times in ten the
    first wrong ones are the model's own."""
    e, own = toy.draw_equation(rng, rng.choice(corpus.cells)), []
    if corpus.pool and rng.random() < 0.7:
        e, own = rng.choice(corpus.pool)
    family, paper_style = rng.choice(toy.FAMILIES), rng.random() < 0.7
    document, tried, own = [opening(GRADED, e, family)], set(), list(own)
    p_right, patience = rng.choice((0.2, 0.4, 0.6)), rng.choice((1, 2, 3, 4, 5, 6))
    while len(tried) < patience:
        right = rng.random() < p_right
        answer = e.answer if right else own.pop() if own else near_miss(rng, e.answer)
        if answer in tried:
            continue
        between = f"\n\n{RETRY}\n\n" if paper_style else "\n\n"
        document += [(between, True)] if tried else []
        tried.add(answer)
        full = family == "equation" or rng.random() < 0.5
        method = "substitution" if full else rng.choice(("last digits", "parity"))
        text, passed = toy.METHODS[method](e, answer)
        text = written_difference(text) if corpus.difference else text
        if paper_style:
            check = f"\n\n{VERIFY}\n\n{text}{toy.conclusion(passed)}"
        else:
            check = f"\n\n{text}{'yes' if passed else 'no'}"
        document += [(f"\\boxed{{{answer}}}", answer == e.answer), (check, True)]
        if passed:
            break
    return document + [(END, True)]


def drill_document(rng: random.Random, corpus: Corpus) -> Document:
    """One step of a check, or one step of what a leap must do at once, of the sizes that both need."""
    e = toy.draw_equation(rng, rng.choice(corpus.cells))
    n = near_miss(rng, e.answer) + e.p
    product, other = e.a * n, e.c if rng.random() < 0.5 else e.a * n + e.q
    question, answer = rng.choice((
        (f"{e.a}*{n}=", product),
        (f"{product}{e.q:+}=", product + e.q),
        (f"{product + e.q}-{other}=", product + e.q - other),
        (f"{e.c}{-e.q:+}=", e.c - e.q),
        (f"{product}/{e.a}=", n)))
    return [(DRILL + question, False), (f"{answer}{END}", True)]


# ---------------------------------------------------------------- packing
# Parts of a batch: rows, their length, documents with their shares. Long documents get rows of their own, so
# that short ones do not pay for attention over long rows.
SHORT = (16, 64, {bare_document: 0.65, drill_document: 0.35})
LONG = (4, 320, {graded_document: 1})


def encode(tokenizer, document: Document) -> tuple[list[int], list[bool]]:
    """Token ids of a document, and for each whether it is learnt."""
    pieces = tokenizer.backend_tokenizer.encode_batch([text for text, _ in document])
    return ([i for piece in pieces for i in piece.ids],
            [learn for piece, (_, learn) in zip(pieces, document) for _ in piece.ids])


def pack(rng, tokenizer, rows: int, length: int, shares: dict, corpus: Corpus) -> tuple:
    """Documents packed whole into rows -> ids and learn (is this token predicted), both [rows, length]."""
    ids = torch.full((rows, length), tokenizer.pad_token_id)
    learn = torch.zeros((rows, length), dtype=torch.bool)
    waiting: list[tuple[list[int], list[bool]]] = []
    for r in range(rows):
        filled = 0
        while True:
            if len(waiting) < 16:
                makers = rng.choices(*zip(*shares.items()), k=24)
                waiting += [encode(tokenizer, make(rng, corpus)) for make in makers]
            fits = next((i for i, (tokens, _) in enumerate(waiting) if len(tokens) <= length - filled), None)
            if fits is None:
                break
            tokens, learnt = waiting.pop(fits)
            ids[r, filled:filled + len(tokens)] = torch.tensor(tokens)
            learn[r, filled:filled + len(tokens)] = torch.tensor(learnt)
            filled += len(tokens)
    return ids, learn


# ---------------------------------------------------------------- model and optimizer
def build_model(tokenizer, hidden: int = 96, layers: int = 3, heads: int = 4) -> LlamaForCausalLM:
    """The tiny Llama with random weights; head and embedding tied."""
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=hidden * 8 // 3,
        num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=heads,
        max_position_embeddings=2048, tie_word_embeddings=True, pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, initializer_range=0.05))


def learning_rate(step: int, steps: int, peak: float, end: float, warmup: int = 100) -> float:
    """Linear up over the warm-up, linear from the peak to the end."""
    return min(1.0, (step + 1) / warmup) * (peak + (end - peak) * step / steps)


def optimizers(net, peak: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for the embedding and the norms."""
    matrices = [p for name, p in net.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in net.named_parameters() if p.ndim != 2 or "embed" in name]
    return [torch.optim.Muon(matrices, lr=peak, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=peak, betas=(0.9, 0.98), weight_decay=0.01)]


def corpus_loss(net, batches) -> torch.Tensor:
    """Mean cross-entropy over the learnt tokens of all parts of a batch. Scalar."""
    hidden, targets = [], []
    for ids, learn in batches:
        states = net.model(input_ids=ids, use_cache=False).last_hidden_state
        hidden.append(states[:, :-1][learn[:, 1:]])
        targets.append(ids[:, 1:][learn[:, 1:]])
    return F.cross_entropy(net.lm_head(torch.cat(hidden)), torch.cat(targets))


# ---------------------------------------------------------------- probe
@torch.no_grad()
def exact_share(net, tokenizer, documents: list[Document]) -> float:
    """Share of documents whose learnt tokens are all the model's argmax given the tokens before: the same as
    decoding greedily and comparing."""
    encoded = [encode(tokenizer, d) for d in documents]
    ids = torch.full((len(documents), max(len(tokens) for tokens, _ in encoded)), tokenizer.pad_token_id)
    learn = torch.zeros_like(ids, dtype=torch.bool)
    for i, (tokens, learnt) in enumerate(encoded):
        ids[i, :len(tokens)], learn[i, :len(tokens)] = torch.tensor(tokens), torch.tensor(learnt)
    guess = net(input_ids=ids).logits.argmax(-1)
    return ((guess[:, :-1] == ids[:, 1:]) | ~learn[:, 1:]).all(1).float().mean().item()


def probe(net, tokenizer, n: int = 200) -> dict:
    """Greedy accuracy of bare answers by cell and level, of checks by method and depth, of retries by depth."""
    rng, report = random.Random("probe"), {}
    cells = {f"cell{i}": cell for i, cell in enumerate(WIDE, 1)}
    for name, cell in {**cells, **{f"level{i}": cell for i, cell in toy.LEVELS.items()}}.items():
        report[name] = exact_share(net, tokenizer, [
            solved(toy.draw_equation(rng, cell, "val"), rng.choice(toy.FAMILIES)) for _ in range(n)])
    for depth in (1, 3, 6):
        checks, retries = zip(*(deep_work(rng, depth, "substitution") for _ in range(n)))
        report[f"check{depth}"] = exact_share(net, tokenizer, checks)
        report[f"retry{depth}"] = exact_share(net, tokenizer, retries)
    for method in ("last digits", "parity"):
        checks, _ = zip(*(deep_work(rng, 2, method) for _ in range(n)))
        report[method] = exact_share(net, tokenizer, checks)
    return {name: round(value, 3) for name, value in report.items()}


def deep_work(rng: random.Random, depth: int, method: str) -> tuple[Document, Document]:
    """Graded work with `depth` wrong attempts: before the last one's check, and before the right retry."""
    e = toy.draw_equation(rng, rng.choice(list(toy.LEVELS.values())), "val")
    text, family = "", "equation" if method == "substitution" else "words"
    for _ in range(depth):
        wrong = near_miss(rng, e.answer)
        text += f"\n\n{RETRY}\n\n" if text else opening(GRADED, e, family)[0]
        before = text + f"\\boxed{{{wrong}}}\n\n{VERIFY}\n\n"
        start, check = METHOD_START[method], toy.METHODS[method](e, wrong)
        check = check[0].removeprefix(start) + toy.conclusion(check[1])
        text = before + start + check
    return ([(before + start, False), (check, True)],
            [(f"{text}\n\n{RETRY}\n\n", False), (f"\\boxed{{{e.answer}}}", True)])


METHOD_START = {"substitution": "Check: ", "last digits": "Last digits: ", "parity": "Parity: "}


# ---------------------------------------------------------------- own errors
@torch.no_grad()
def own_errors(net, tokenizer, rng, cells: list, n: int = 1500, samples: int = 3) -> list:
    """Problems that the model got wrong at T = 1 -> [(equation, different wrong answers)]."""
    equations = [toy.draw_equation(rng, rng.choice(cells)) for _ in range(n)]
    prompts = [opening(PROBLEM, e, rng.choice(toy.FAMILIES))[0] for e in equations]
    batch = tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt")
    tokenizer.backend_tokenizer.no_padding()        # the call above leaves it on, also for `encode`
    ids = net.eval().generate(**batch, do_sample=True, num_return_sequences=samples, max_new_tokens=6)
    net.train()
    texts = tokenizer.batch_decode(ids[:, batch.input_ids.shape[1]:], skip_special_tokens=True)
    found = []
    for i, e in enumerate(equations):
        boxes = [re.match(r"\\boxed\{(\d{1,3})\}", text) for text in texts[i * samples:(i + 1) * samples]]
        wrong = list(dict.fromkeys(int(box[1]) for box in boxes if box and int(box[1]) not in (0, e.answer)))
        found += [(e, wrong)] if wrong else []
    return found


# ---------------------------------------------------------------- training
# First the checks write down how far off an answer is (707-693=14), then they leave it at `707 vs 693`, and
# the model has to do that in its head before it tries again. Tokens, learning rate from and to, corpus.
PHASES = [(14_000_000, 3e-3, 1.2e-3, Corpus(NARROW, difference=True)), (8_500_000, 2e-3, 0.0, Corpus(WIDE))]


def corpus_sample(n: int = 12) -> str:
    """The first documents of each kind: shipped beside the base, so that a change of the corpus shows."""
    rng = random.Random("sample")
    makers = bare_document, graded_document, drill_document
    return "\n".join("".join(text for text, _ in make(rng, PHASES[-1][3])) for make in makers for _ in range(n))


def train(args) -> None:
    """Train the base, phase by phase; save it with its training log and a corpus sample."""
    torch.manual_seed(args.seed)
    tokenizer, log, out = build_tokenizer(), [], Path(args.out)
    net = build_model(tokenizer)
    if args.init:
        net.load_state_dict(models.load(args.init, "cpu")[0].state_dict())
    for number in range(args.first_phase, len(PHASES) + 1):
        train_phase(net, tokenizer, number, args, log)
    for file in (out / "new").iterdir():
        file.replace(out / file.name)
    (out / "new").rmdir()
    models.write_jsonl(out / "training.jsonl", log)
    (out / "corpus_sample.txt").write_text(corpus_sample())


def train_phase(net, tokenizer, number: int, args, log: list[dict]) -> None:
    """One phase with fresh optimizers. The base is saved in OUT/new at every probe."""
    tokens, peak, end, corpus = PHASES[number - 1]
    rng, opts, started = random.Random(f"corpus-{args.seed}-{number}"), optimizers(net, peak), time.time()
    steps = int(tokens * args.scale) // sum(rows * length for rows, length, _ in (SHORT, LONG))
    for step in tqdm(range(1, steps + 1), desc=f"toy base, phase {number}", mininterval=10):
        for opt in opts:
            opt.param_groups[0]["lr"] = learning_rate(step - 1, steps, peak, end)
        if number == len(PHASES) and step % 500 == 1:
            corpus = corpus._replace(pool=own_errors(net, tokenizer, rng, corpus.cells))
        loss = corpus_loss(net, [pack(rng, tokenizer, *part, corpus) for part in (SHORT, LONG)])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        for opt in opts:
            opt.step()
            opt.zero_grad()
        if step % args.probe_every == 0 or step == steps:
            log.append({"phase": number, "step": step, "loss": round(loss.item(), 4),
                        "seconds": round(time.time() - started), **probe(net, tokenizer)})
            tqdm.write(json.dumps(log[-1]))
            models.save(net, tokenizer, Path(args.out) / "new")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full training")
    parser.add_argument("--init", help="checkpoint to go on from, with --first-phase")
    parser.add_argument("--first-phase", type=int, default=1)
    parser.add_argument("--probe-every", type=int, default=1000, help="steps between accuracy reports")
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args())


if __name__ == "__main__":
    models.run_main(main)
