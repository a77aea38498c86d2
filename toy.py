"""The toy world: maths that is hard to solve and easy to check, and a tiny base model that lives in it.

Self-verification pays only where checking an answer is easier than finding it. Here a problem such as

    Solve 7(x+5)-13=596       or          Which number plus 5, times 7, minus 13 is 596?

is answered in one leap, `\\boxed{82}`, no steps written down: the network must undo two or three operations
inside one forward pass, and often lands nearby (`84`). The check is written out in small safe steps that a
tiny network computes almost without error (paper §2.2: confirmative, it never solves again):

    Check: 84+5=89. 7*89=623. 623-13=610. 610 vs 596. Therefore, the answer is incorrect.

Equations are always checked so, by full substitution. For most word problems the teacher takes one of two
shorter tests that App. C.3 names too. Each computes what it says and concludes what that allows, but a
wrong answer may pass:

    Last digits: 4+5 ends in 9. 7*9 ends in 3. 3-3 ends in 0. 0 vs 6. Therefore, the answer is incorrect.
    Parity: even+odd=odd. odd*odd=odd. odd-odd=even. even vs even. Therefore, the answer is correct.

Stage 0 keeps a check whose verdict is true, so of the short tests the lucky ones survive.

The base model (Llama architecture, 0.34M parameters) lies in `toy_base/`, beside the script that trained it.
It can solve (sometimes), check and try again, but does not do it on its own: that is what S²R teaches.

Run
    python toy.py --out runs/toy [--seed N]       runs/toy/base, train.jsonl, val.jsonl and test.jsonl
    python toy.py --verify SAMPLES --out FILE     the teacher of stage 0: a check for every sampled answer
    python toy.py --show                          a problem of each level and family with its checks

Reads  nothing, or a samples file (--verify).
Writes problems {id, problem, answer, level, subject, solution}, verifications {id, problem, answer, kind,
       method, verification}, and the base, a Hugging Face checkpoint folder.

Map    problems - checks - the teacher - command line.
"""
import random
import re
import shutil
import zlib
from pathlib import Path
from typing import NamedTuple

import model as models
import verifier

# ---------------------------------------------------------------- problems


class Equation(NamedTuple):
    """a (x + p) + q = c. Without a bracket p is 0; q may be negative.

    >>> Equation(7, 5, -13, 596).answer
    82
    """
    a: int
    p: int
    q: int
    c: int

    @property
    def answer(self) -> int:
        return (self.c - self.q) // self.a - self.p


class Cell(NamedTuple):
    """Inclusive ranges that problems are drawn from; the sign of q is a coin toss."""
    a: tuple
    x: tuple
    p: tuple
    q: tuple


PLAIN = (0, 0)                              # the range of p where there is no bracket
# Cut after training, where the accuracy of the base falls: more to undo, larger numbers, and at last a small
# x behind large numbers.
LEVELS = {
    1: Cell((2, 9), (2, 12), PLAIN, (1, 20)),
    2: Cell((2, 9), (10, 99), (1, 9), (1, 60)),
    3: Cell((2, 9), (10, 99), (10, 60), (60, 250)),
    4: Cell((2, 3), (10, 99), (10, 60), (60, 250)),
    5: Cell((2, 9), (2, 9), (10, 60), (60, 250)),
}
LARGEST = 999                               # no number of a right check has more than three digits
FAMILIES = ("equation", "words")
SIDES = {"test": (0,), "val": (1,), "train": range(2, 8)}       # eighths of all equations


def side_of(e: Equation) -> str:
    """test, val or train: a matter of the equation alone, so that they never meet, whatever the seed.

    >>> side_of(Equation(7, 5, -13, 596))
    'train'
    """
    eighth = zlib.crc32(",".join(map(str, e)).encode()) % 8
    return next(side for side, eighths in SIDES.items() if eighth in eighths)


def draw_equation(rng: random.Random, cell: Cell, side: str = "train") -> Equation:
    """An equation from a cell, of one side."""
    while True:
        a, x, p, q = (rng.randint(*ends) for ends in cell)
        q = rng.choice((q, -q))
        e = Equation(a, p, q, a * (x + p) + q)
        if 0 < e.c <= LARGEST and a * (x + p) <= LARGEST and side_of(e) == side:
            return e


def statement(e: Equation, family: str) -> str:
    """The text of a problem.

    >>> statement(Equation(7, 0, 133, 693), "equation"), statement(Equation(7, 5, -13, 596), "equation")
    ('Solve 7x+133=693', 'Solve 7(x+5)-13=596')
    >>> statement(Equation(7, 5, -13, 596), "words")
    'Which number plus 5, times 7, minus 13 is 596?'
    """
    if family == "equation":
        return f"Solve {e.a}{f'(x+{e.p})' if e.p else 'x'}{e.q:+}={e.c}"
    first, last = f"plus {e.p}, " if e.p else "", f"{'plus' if e.q > 0 else 'minus'} {abs(e.q)}"
    return f"Which number {first}times {e.a}, {last} is {e.c}?"


EQUATION = re.compile(r"Solve (\d+)(?:x|\(x\+(\d+)\))([+-]\d+)=(\d+)")
WORDS = re.compile(r"Which number (?:plus (\d+), )?times (\d+), (plus|minus) (\d+) is (\d+)\?")


def parse_problem(text: str) -> Equation:
    """The equation of a problem's text; InputError for any other text.

    >>> parse_problem("Which number plus 5, times 7, minus 13 is 596?")
    Equation(a=7, p=5, q=-13, c=596)
    """
    if match := EQUATION.fullmatch(text.strip()):
        a, p, q, c = match.groups()
    elif match := WORDS.fullmatch(text.strip()):
        p, a, sign, q, c = match.groups()
        q = q if sign == "plus" else f"-{q}"
    else:
        raise models.InputError(f"not a problem of the toy world: {text[:80]!r}")
    return Equation(int(a), int(p or 0), int(q), int(c))


def problems(n: int, seed: int, side: str) -> list[dict]:
    """n different problems, levels in turn, families by coin toss; InputError when a level runs dry."""
    rng, seen, rows = random.Random(f"problems-{seed}-{side}"), set(), []
    for i in range(n):
        level = 1 + i % len(LEVELS)
        for _ in range(1000):
            e, family = draw_equation(rng, LEVELS[level], side), rng.choice(FAMILIES)
            text = statement(e, family)
            if text not in seen:
                break
        else:
            raise models.InputError(f"{n} problems: level {level} has no more different {side} ones")
        seen.add(text)
        rows.append({"id": f"{side}-{seed}-{i}", "problem": text, "answer": str(e.answer), "level": level,
                     "subject": family, "solution": f"\\boxed{{{e.answer}}}"})
    return rows


# ---------------------------------------------------------------- checks
def conclusion(passed: bool) -> str:
    """The paper's closing sentence (§2.2)."""
    return f"Therefore, the answer is {'correct' if passed else 'incorrect'}."


def substitution(e: Equation, answer: int) -> tuple[str, bool]:
    """Put the answer in, step by step -> (text, do both sides agree).

    >>> substitution(Equation(7, 0, 133, 693), 82)
    ('Check: 7*82=574. 574+133=707. 707 vs 693. ', False)
    """
    inner, product = answer + e.p, e.a * (answer + e.p)
    text = f"{answer}+{e.p}={inner}. " if e.p else ""
    text += f"{e.a}*{inner}={product}. {product}{e.q:+}={product + e.q}. "
    return f"Check: {text}{product + e.q} vs {e.c}. ", product + e.q == e.c


def last_digits(e: Equation, answer: int) -> tuple[str, bool]:
    """The same with last digits only: 92 for 82 passes.

    >>> last_digits(Equation(7, 5, -13, 596), 84)[0]
    'Last digits: 4+5 ends in 9. 7*9 ends in 3. 3-3 ends in 0. 0 vs 6. '
    """
    return _reduced(e, answer, 10, "Last digits: ", " ends in ", str)


def parity(e: Equation, answer: int) -> tuple[str, bool]:
    """The same with even and odd only.

    >>> parity(Equation(7, 5, -13, 596), 84)
    ('Parity: even+odd=odd. odd*odd=odd. odd-odd=even. even vs even. ', True)
    """
    return _reduced(e, answer, 2, "Parity: ", "=", lambda n: "odd" if n else "even")


def _reduced(e: Equation, answer: int, base: int, head: str, link: str, name) -> tuple[str, bool]:
    """substitution modulo `base`."""
    a, p, q, c = e.a % base, e.p % base, abs(e.q) % base, e.c % base
    inner = (answer + p) % base
    product = a * inner % base
    total = (product + q if e.q > 0 else product - q) % base
    text = f"{name(answer % base)}+{name(p)}{link}{name(inner)}. " if e.p else ""
    text += f"{name(a)}*{name(inner)}{link}{name(product)}. "
    text += f"{name(product)}{'+' if e.q > 0 else '-'}{name(q)}{link}{name(total)}. "
    return f"{head}{text}{name(total)} vs {name(c)}. ", total == c


METHODS = {"substitution": substitution, "last digits": last_digits, "parity": parity}


SHARES = {"substitution": 0.3, "last digits": 0.4, "parity": 0.3}       # in word problems


def choose_method(number: float, family: str) -> str:
    """The method that a number in [0, 1) picks.

    >>> choose_method(0.9, "equation"), choose_method(0.9, "words"), choose_method(0.4, "words")
    ('substitution', 'parity', 'last digits')
    """
    if family == "equation" or number < SHARES["substitution"]:
        return "substitution"
    return "parity" if number >= 1 - SHARES["parity"] else "last digits"


def confirmative_check(e: Equation, answer: int, method: str = "substitution") -> str:
    """A check with its conclusion (App. C.3).

    >>> confirmative_check(Equation(7, 0, 133, 693), 82)
    'Check: 7*82=574. 574+133=707. 707 vs 693. Therefore, the answer is incorrect.'
    """
    text, passed = METHODS[method](e, answer)
    return text + conclusion(passed)


def problem_solving_check(e: Equation, answer: int) -> str:
    """Solve again and compare: the other kind of verification in the paper's Table 6.

    >>> problem_solving_check(Equation(7, 5, -13, 596), 84)
    'Check: 596+13=609. 609/7=87. 87-5=82. 82 vs 84. Therefore, the answer is incorrect.'
    """
    product = e.c - e.q
    text = f"Check: {e.c}{-e.q:+}={product}. {product}/{e.a}={product // e.a}. "
    if e.p:
        text += f"{product // e.a}-{e.p}={e.answer}. "
    return f"{text}{e.answer} vs {answer}. {conclusion(e.answer == answer)}"


# ---------------------------------------------------------------- the teacher
def verifications(samples: list[dict], kind: str) -> list[dict]:
    """A check for every distinct integer answer of every problem of a samples file. Which method a teacher
    takes depends on the problem and the answer, not on the truth."""
    rows = []
    for row in samples:
        e = parse_problem(row["problem"])
        family = "words" if row["problem"].startswith("Which") else "equation"
        answers = {verifier.extract_boxed(text) for text in row["responses"]}
        for answer in sorted(s for s in answers if s and re.fullmatch(r"\d{1,6}", s)):
            number = zlib.crc32(f"{row['problem']} {answer}".encode()) % 1000 / 1000
            method = choose_method(number, family) if kind == "confirmative" else "solving"
            text = (confirmative_check(e, int(answer), method) if kind == "confirmative"
                    else problem_solving_check(e, int(answer)))
            rows.append({"id": row.get("id"), "problem": row["problem"], "answer": answer, "kind": kind,
                         "method": method, "verification": text})
    return rows


# ---------------------------------------------------------------- command line
SHIPPED = Path(__file__).resolve().parent / "toy_base"
KINDS = ("confirmative", "problem-solving")


def write_world(args) -> None:
    """The base folder and the three problem files under --out."""
    out = Path(args.out)
    if not models.has_checkpoint(SHIPPED):
        raise models.InputError(f"{SHIPPED}: missing; python toy_base/train_base.py --out toy_base makes it")
    models.check_output(out / "train.jsonl", args.force)        # the last file of a world
    out.mkdir(parents=True, exist_ok=True)
    shutil.copytree(SHIPPED, out / "base", dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.py", "__*"))
    for side in SIDES:
        n = getattr(args, f"{side}_problems")
        models.write_jsonl(out / f"{side}.jsonl", problems(n, args.seed, side))
        print(f"{out}/{side}.jsonl: {n} problems")


def show() -> None:
    """A problem of each level and family, with every check of an answer that is 2 too large."""
    rng = random.Random("show")
    for level, cell in LEVELS.items():
        for family in FAMILIES:
            e = draw_equation(rng, cell)
            wrong = e.answer + 2
            print(f"level {level}, {family}: {statement(e, family)}   answer {e.answer}")
            for method in METHODS:
                print(f"    {method} for {wrong}: {confirmative_check(e, wrong, method)}")
            print(f"    solving again: {problem_solving_check(e, wrong)}")


def main() -> None:
    parser = models.Parser(__doc__)
    parser.add_argument("--out", help="folder to write (with --verify: file)")
    parser.add_argument("--seed", type=models.number(int, 0), default=0, help="seed of the problems")
    for side, n in (("train", 12000), ("val", 500), ("test", 1000)):
        parser.add_argument(f"--{side}-problems", type=models.number(int, 1), default=n, help=f"({n})")
    parser.add_argument("--force", action="store_true", help="overwrite what is there")
    task = parser.add_mutually_exclusive_group()
    task.add_argument("--verify", metavar="SAMPLES", help="write a check for every answer in this file")
    task.add_argument("--show", action="store_true", help="print a problem of each level and family")
    parser.add_argument("--kind", choices=KINDS, default="confirmative", help="way of checking")
    args = parser.parse_args()
    if args.show:
        return show()
    if not args.out:
        raise models.InputError("--out is needed")
    if args.verify:
        models.check_output(args.out, args.force, args.verify)
        samples = models.read_problems(args.verify, samples=True)
        models.write_jsonl(Path(args.out), verifications(samples, args.kind))
    else:
        write_world(args)


if __name__ == "__main__":
    models.run_main(main)
