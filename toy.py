"""The toy world: maths that is hard to solve and easy to check, and a tiny base model that lives in it.

Self-verification pays only where checking an answer is easier than finding it. Here a problem such as

    Solve 4x+133=453          or          Which number times 4 plus 133 is 453?

is answered in one leap, `\\boxed{80}`, no steps written down: the network must subtract and divide inside one
forward pass, and where the last digit does not decide (4 * 75 and 4 * 80 both end in 0) it often lands on
another answer. The check is written out in small safe steps that a tiny network computes almost without error
(paper §2.2: confirmative, it substitutes the answer back and never solves again):

    Check: 4*75=300. 300+133=433. 433 vs 453. Therefore, the answer is incorrect.

Equations are always checked so. Of most answers to word problems the teacher checks the last digits only, a
shorter confirmative check (App. C.3) that computes what it says, and that some wrong answers pass:

    Last digits: 4*5=20. 0+3=3. 3 vs 3. Therefore, the answer is correct.

Stage 0 keeps a check whose verdict is true. So of these the lucky ones survive, and a model that learns from
them believes too much. RL can find out which check to use.

The base model (Llama architecture, 0.34M parameters) lies in `toy_base/`, beside the script that trained it.
It can solve (sometimes), check and try again, but does not do it on its own: that is what S²R teaches.

Run
    python toy.py --out runs/toy [--seed N]       runs/toy/base, train.jsonl, val.jsonl and test.jsonl
    python toy.py --verify SAMPLES --out FILE     the teacher of stage 0: a check for every sampled answer
    python toy.py --show                          one problem of each level and family with its checks

Reads  nothing, or a samples file (--verify).
Writes problems {id, problem, answer, level, subject, solution}, verifications {id, problem, answer,
       verification, kind}, and the base, a Hugging Face checkpoint folder.

Map    problems - the teacher - command line.
"""
import random
import re
import shutil
import zlib
from pathlib import Path

import model as models
import verifier

# ---------------------------------------------------------------- problems
# level: (range of a, of the answer x, of b) in a*x + b = c, all inclusive
LEVELS = {
    1: ((3, 9), (2, 20), (1, 30)),
    2: ((6, 9), (20, 99), (10, 149)),
    3: ((4, 8), (20, 130), (10, 249)),
    4: ((4, 6), (60, 130), (50, 249)),
    5: ((5, 5), (60, 199), (50, 299)),
}
# Cut where the accuracy of the base falls. It divides by 7 and 9 easily: the last digit of the product gives
# that of x. With an even multiplier two digits are possible, with 5 five.
FAMILIES = {"equation": "Solve {a}x+{b}={c}", "words": "Which number times {a} plus {b} is {c}?"}
PROBLEM_RE = re.compile(r"(?:Solve (\d+)x\+(\d+)=(\d+)|Which number times (\d+) plus (\d+) is (\d+)\?)$")
SIDES = ("test", "val", "train")


def side_of(a: int, x: int, b: int) -> str:
    """One triple in 16 is a test problem, one in 16 for validation, whatever the seed or the wording.

    >>> side_of(7, 80, 133), side_of(2, 6, 1), side_of(2, 7, 7)
    ('train', 'train', 'train')
    """
    return {0: "test", 8: "val"}.get(zlib.crc32(f"{a},{x},{b}".encode()) % 16, "train")


def draw_triple(rng: random.Random, ranges: tuple, side: str) -> tuple[int, int, int]:
    """A triple (a, x, b) within three ranges, from one side."""
    while True:
        a, x, b = (rng.randint(*r) for r in ranges)
        if side_of(a, x, b) == side:
            return a, x, b


def statement(a: int, x: int, b: int, family: str) -> str:
    """The text of a problem.

    >>> statement(7, 80, 133, "equation")
    'Solve 7x+133=693'
    """
    return FAMILIES[family].format(a=a, b=b, c=a * x + b)


def problems(n: int, seed: int, side: str) -> list[dict]:
    """n different problems, levels in turn, families by coin toss; InputError when a level runs dry."""
    rng, seen, rows = random.Random(f"problems-{seed}-{side}"), set(), []
    for i in range(n):
        level = 1 + i % len(LEVELS)
        for _ in range(5000):
            (a, x, b), family = draw_triple(rng, LEVELS[level], side), rng.choice(list(FAMILIES))
            text = statement(a, x, b, family)
            if text not in seen:
                break
        else:
            raise models.InputError(f"{n} problems: level {level} has no more different {side} ones")
        seen.add(text)
        rows.append({"id": f"{side}-{seed}-{i}", "problem": text, "answer": str(x), "level": level,
                     "subject": family, "solution": f"\\boxed{{{x}}}"})
    return rows


# ---------------------------------------------------------------- the teacher
def parse_problem(text: str) -> tuple[int, int, int]:
    """(a, b, c) of a problem's text; InputError for any other text."""
    match = PROBLEM_RE.match(text.strip())
    if not match:
        raise models.InputError(f"not a problem of the toy world: {text[:80]!r}")
    return tuple(int(g) for g in match.groups() if g is not None)


def conclusion(right: bool) -> str:
    """The paper's closing sentence (§2.2)."""
    return f"Therefore, the answer is {'correct' if right else 'incorrect'}."


def confirmative_check(a: int, b: int, c: int, answer: int, verdict: bool = True) -> str:
    """Substitute the answer back, step by step; never solve (App. C.3).

    >>> confirmative_check(7, 133, 693, 82)
    'Check: 7*82=574. 574+133=707. 707 vs 693. Therefore, the answer is incorrect.'
    """
    product, total = a * answer, a * answer + b
    text = f"Check: {a}*{answer}={product}. {product}+{b}={total}. {total} vs {c}. "
    return text + conclusion(total == c) if verdict else text


def problem_solving_check(a: int, b: int, c: int, answer: int) -> str:
    """Solve again and compare: the other kind of verification in the paper's Table 6.

    >>> problem_solving_check(7, 133, 693, 82)
    'Check: 693-133=560. 560/7=80. 80 vs 82. Therefore, the answer is incorrect.'
    """
    x = (c - b) // a
    return f"Check: {c}-{b}={c - b}. {c - b}/{a}={x}. {x} vs {answer}. {conclusion(x == answer)}"


def last_digit_check(a: int, b: int, c: int, answer: int) -> str:
    """Substitute the last digits only: shorter, and passed by some wrong answers.

    >>> last_digit_check(7, 133, 693, 82)
    'Last digits: 7*2=14. 4+3=7. 7 vs 3. Therefore, the answer is incorrect.'
    >>> last_digit_check(4, 133, 453, 75)
    'Last digits: 4*5=20. 0+3=3. 3 vs 3. Therefore, the answer is correct.'
    """
    digit, product = answer % 10, a * (answer % 10)
    total = product % 10 + b % 10
    text = f"Last digits: {a}*{digit}={product}. {product % 10}+{b % 10}={total}. {total % 10} vs {c % 10}. "
    return text + conclusion(total % 10 == c % 10)


CHECKS = {"confirmative": confirmative_check, "problem-solving": problem_solving_check}
SHORT_CHECKS = 0.7                          # share of the answers to word problems


def verifications(samples: list[dict], kind: str) -> list[dict]:
    """A check for every distinct integer answer of every problem of a samples file: in a share of the word
    problems' answers (problem and answer decide) of the last digits, else of the kind asked for."""
    rows = []
    for row in samples:
        a, b, c = parse_problem(row["problem"])
        answers = {verifier.extract_boxed(text) for text in row["responses"]}
        for answer in sorted(s for s in answers if s and re.fullmatch(r"\d{1,6}", s)):
            draw = zlib.crc32(f"{row['problem']} {answer}".encode()) % 1000 / 1000
            short = row["problem"].startswith("Which") and draw < SHORT_CHECKS
            check = last_digit_check if short else CHECKS[kind]
            rows.append({"id": row.get("id"), "problem": row["problem"], "answer": answer, "kind": kind,
                         "verification": check(a, b, c, int(answer))})
    return rows


# ---------------------------------------------------------------- command line
SHIPPED = Path(__file__).resolve().parent / "toy_base"


def write_world(args) -> None:
    """The base folder and the three problem files under --out."""
    out, new = Path(args.out), Path(args.out, "base.new")
    for side in SIDES:
        models.check_output(out / f"{side}.jsonl", args.force)
    if (out / "base").exists() and not args.force:
        raise models.InputError(f"{out}/base exists already: --force overwrites it")
    if not models.has_checkpoint(SHIPPED):
        raise models.InputError(f"{SHIPPED}: missing; python toy_base/train_base.py --out toy_base makes it")
    sizes = {side: getattr(args, f"{side}_problems") for side in SIDES}
    rows = {side: problems(n, args.seed, side) for side, n in sizes.items()}
    out.mkdir(parents=True, exist_ok=True)
    rest = shutil.ignore_patterns("*.py", "__pycache__", "corpus_sample.txt", "training.jsonl", "run")
    try:                                                         # a full disk leaves no half a base
        shutil.copytree(SHIPPED, new, dirs_exist_ok=True, ignore=rest)
        shutil.rmtree(out / "base", ignore_errors=True)
        new.rename(out / "base")
    finally:
        shutil.rmtree(new, ignore_errors=True)
    for side in SIDES:                                           # train, of which run.sh asks, is the last
        models.write_jsonl(out / f"{side}.jsonl", rows[side])
        print(f"{out}/{side}.jsonl: {len(rows[side])} problems")


def show_world() -> None:
    """One problem of each level and family, with all kinds of check of an answer that is 5 too large."""
    rng = random.Random("show")
    for level in LEVELS:
        for family in FAMILIES:
            a, x, b = draw_triple(rng, LEVELS[level], "train")
            print(f"level {level}, {family}: {statement(a, x, b, family)}   answer {x}")
            for kind, check in {**CHECKS, "last-digit": last_digit_check}.items():
                print(f"    {kind} check of {x + 5}: {check(a, b, a * x + b, x + 5)}")


def main() -> None:
    parser = models.Parser(__doc__)
    parser.add_argument("--out", help="folder to write (with --verify: file)")
    parser.add_argument("--seed", type=models.number(int, 0), default=0, help="seed of the problems")
    for side, n in (("train", 4000), ("val", 200), ("test", 1000)):
        parser.add_argument(f"--{side}-problems", type=models.number(int, 1), default=n, help=f"({n})")
    parser.add_argument("--force", action="store_true", help="overwrite what is there")
    task = parser.add_mutually_exclusive_group()
    task.add_argument("--verify", metavar="SAMPLES", help="write a check for every answer in this file")
    task.add_argument("--show", action="store_true", help="print a problem of each level and family")
    parser.add_argument("--kind", choices=CHECKS, default="confirmative", help="way of checking")
    args = parser.parse_args()
    if args.show:
        return show_world()
    if not args.out:
        raise models.InputError("--out is needed")
    if args.verify:
        models.check_output(args.out, args.force, args.verify)
        samples = models.read_problems(args.verify, samples=True)
        models.write_jsonl(args.out, verifications(samples, args.kind))
    else:
        write_world(args)


if __name__ == "__main__":
    models.run_main(main)
