r"""Grade-school word problems with their equations: problem files, worked solutions, and the teacher.

    python recipes/word_problems/word_problems.py --train train.csv --svamp dev.csv --out runs/words/data
    python recipes/word_problems/word_problems.py --verify SAMPLES --kind confirmative --out checks.jsonl

Reads  CSV files of github.com/arkilpatel/SVAMP (MIT licence), columns Question, Numbers, Equation, Answer:
       "Ann has number0 pens and buys number1 . How many has she ?", "3.0 2.0", "+ number0 number1", 5.0
Writes OUT/{base, train, val, test, svamp}.jsonl: problem, answer, level (operations + distracting numbers),
       subject (the source), solution `3 + 2 = 5. \boxed{5}`, and equation and numbers, for the teacher;
       or the checks of a samples file, for sft.py build: {id, problem, answer, kind, verification}.

Kept are problems of at most two operations whose equation gives a whole, non-negative answer: the one that
the file states. A problem's side is a hash of its text without the numbers, so that it never changes and no
text stands on two sides: 1 in 10 to val and to test each, 5 in 10 to base (for the SFT that makes the base
model), 3 in 10 to train (stage 0 and RL). Sides base and train also get --variants of each problem: the same
text and equation with other numbers, since 1,200 problems teach a small model too little arithmetic.

The teacher undoes the equation: in the sampled answer's place it works back to a number of the problem.

Map: equations - problems - variants - the teacher - main.
"""
import csv
import hashlib
import random
import re
import sys
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import model as models  # noqa: E402
import verifier  # noqa: E402
from model import InputError, number  # noqa: E402

OPERATIONS = {"+": Fraction.__add__, "-": Fraction.__sub__, "*": Fraction.__mul__, "/": Fraction.__truediv__}
INVERSE = {"+": "-", "-": "+", "*": "/", "/": "*"}
SIDES = ("test", "val", *["base"] * 5, *["train"] * 3)


def parse_args(argv=None):
    parser = models.Parser(__doc__)
    add = parser.add_argument
    add("--train", help="CSV of MAWPS and ASDiv-A: data/mawps-asdiv-a_svamp/train.csv")
    add("--svamp", help="CSV of SVAMP, out of domain, never trained on: dev.csv beside it")
    add("--variants", type=number(int, 0), default=3, help="of every problem to learn from (3)")
    add("--verify", metavar="SAMPLES", help="write a check of every whole-number answer in this file")
    add("--kind", choices=("confirmative", "problem-solving"), default="confirmative", help="of check")
    add("--out", required=True, help="folder to write (with --verify: file)")
    add("--force", action="store_true", help="overwrite")
    args = parser.parse_args(argv)
    if bool(args.verify) == bool(args.train and args.svamp):
        raise InputError("--train and --svamp are needed, or --verify alone")
    return args


# ---------------------------------------------------------------- equations

def read_equation(text):
    """Prefix notation -> a leaf, or (sign, left, right).

    >>> read_equation("- number0 * number1 12.0")
    ('-', 'number0', ('*', 'number1', '12.0'))
    """
    tokens = text.split()

    def term():
        token = tokens.pop(0)
        return (token, term(), term()) if token in OPERATIONS else token

    tree = term()
    if tokens:
        raise ValueError(f"{tokens[0]!r} stands behind the end of {text!r}")
    return tree


def value_of(leaf, numbers):
    """numberK -> the K-th number of the problem; else a constant."""
    return Fraction(numbers[int(leaf[6:])] if leaf.startswith("number") else leaf)


def written(x):
    """A number as it is written: a decimal, or a fraction where that has no end.

    >>> written(Fraction(3)), written(Fraction(1, 4)), written(Fraction(1, 3))
    ('3', '0.25', '1/3')
    """
    decimal = Decimal(x.numerator) / Decimal(x.denominator)
    return f"{decimal:f}" if Fraction(decimal) == x else str(x)


def statement(x, sign, y, result):
    """A sentence: three numbers, the last one as text -> "7 - (-2) = 9."."""
    return f"{written(x)} {sign} {f'({written(y)})' if y < 0 else written(y)} = {result}."


def work_out(tree, numbers):
    """-> (value, the statements that lead there)

    >>> work_out(read_equation("- number0 * number1 number2"), ["25000", "1500", "8"])
    (Fraction(13000, 1), ['1500 * 8 = 12000.', '25000 - 12000 = 13000.'])
    """
    if isinstance(tree, str):
        return value_of(tree, numbers), []
    sign, (x, steps), (y, more) = tree[0], *(work_out(part, numbers) for part in tree[1:])
    z = OPERATIONS[sign](x, y)
    return z, [*steps, *more, statement(x, sign, y, written(z))]


def leaves(tree, path=()):
    """[(path, leaf)]: a path holds 1 for every turn to the left and 2 for every turn to the right.

    >>> leaves(("-", "number0", ("*", "number1", "12.0")))
    [((1,), 'number0'), ((2, 1), 'number1'), ((2, 2), '12.0')]
    """
    if isinstance(tree, str):
        return [(path, tree)]
    return [leaf for side in (1, 2) for leaf in leaves(tree[side], (*path, side))]


# ---------------------------------------------------------------- problems

def filled(question, numbers):
    """The text with its numbers, without the spaces that the tokenizer of the data set left.

    >>> filled("Ann 's number0 pens cost $ number1 .", ["3", "0.5"])
    "Ann's 3 pens cost $0.5."
    """
    text = re.sub(r"number(\d+)", lambda match: numbers[int(match[1])], question)
    return re.sub(r"(?<=\$) | (?=[.,?!;:%]|'s\b|n't\b)", "", text)


def problem(name, subject, question, equation, numbers, answer=None):
    """One row of a problem file, or None: not whole, negative, too long, or not the answer of the file."""
    tree = read_equation(equation)
    found = leaves(tree)
    try:
        value, steps = work_out(tree, numbers)
    except ZeroDivisionError:
        return None
    if value.denominator > 1 or value < 0 or len(found) > 3 or answer not in (None, value):
        return None
    distractors = len(numbers) - len({leaf for _, leaf in found if leaf.startswith("number")})
    return {"id": name, "problem": filled(question, numbers), "answer": str(value), "subject": subject,
            "level": len(steps) + distractors, "solution": " ".join([*steps, f"\\boxed{{{value}}}"]),
            "equation": equation, "numbers": numbers}


def side_of(question):
    """Where a problem belongs: a hash of its words, so that neither numbers nor spelling move it.

    >>> side_of("Ann 's number0 pens .") == side_of("ann's number0 pens.")
    True
    """
    words = re.sub(r"\W|_", "", question).lower()
    return SIDES[int(hashlib.sha256(words.encode()).hexdigest(), 16) % 10]


def read_csv(path, subject):
    """-> [(question, row of a problem file)], those that are kept."""
    rows, found = list(csv.DictReader(Path(path).read_text("utf-8-sig").splitlines())), []
    for place, row in enumerate(rows, 2):
        try:
            numbers = [n.rstrip("0").rstrip(".") if "." in n else n for n in row["Numbers"].split()]
            kept = problem(f"{Path(path).stem}-{place}", subject, row["Question"], row["Equation"], numbers,
                           Fraction(row["Answer"]))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise InputError(f"{path}:{place}: not a problem of this data set: {error!r}") from None
        found += [(row["Question"], kept)] if kept else []
    print(f"{path}: {len(found)} of {len(rows)} problems have a whole answer and at most two operations")
    return found


def convert(args):
    """Two CSV files -> five problem files."""
    sides, seen, repeats = {side: [] for side in (*SIDES, "svamp")}, set(), 0
    for path, subject in ((args.svamp, "SVAMP"), (args.train, "MAWPS, ASDiv-A")):
        for question, row in read_csv(path, subject):
            side = "svamp" if subject == "SVAMP" else side_of(question)
            fresh = [row, *variants(question, row, args.variants if side in ("base", "train") else 0)]
            for one in fresh:
                key = re.sub(r"\W", "", one["problem"]).lower()
                repeats += key in seen
                sides[side] += [] if key in seen else [one]
                seen.add(key)
    print(f"{repeats} repeats left out")
    for side, rows in sides.items():
        random.Random(side).shuffle(rows)
        if rows:
            path = Path(args.out, f"{side}.jsonl")
            models.check_output(path, args.force, args.train, args.svamp)
            models.write_jsonl(path, rows)
            print(f"{path}: {len(rows)} problems, {len({r['id'].split('~')[0] for r in rows})} of them as they came")


# ---------------------------------------------------------------- variants

def variants(question, row, count):
    """The problem with other numbers, between half and twice the old ones; 0 and 1 stay, for "1 book is".

    Every step must stay whole and non-negative, as in most of the problems that people wrote.
    """
    tree, old, found = read_equation(row["equation"]), row["numbers"], []
    if not all(n.isdigit() for n in old) or row["level"] == 0:
        return []
    for copy in range(count):
        rng = random.Random(f"{row['id']} {copy}")
        for _ in range(300):
            numbers = [n if int(n) < 2 else str(rng.randint(max(2, int(n) // 2), 2 * int(n))) for n in old]
            new = problem(f"{row['id']}~{copy + 1}", row["subject"], question, row["equation"], numbers)
            if new and numbers != old and not re.search(r"-\d|\d\.\d", new["solution"]):
                found.append(new)
                break
    return found


# ---------------------------------------------------------------- the teacher

def undo(tree, path, result, numbers):
    """Work back from `result`, a value of the whole tree, to the leaf at `path`, and say what it should be.

    -> sentences, or None where that is impossible (a division by 0) or not in whole numbers.

    >>> undo(("-", "number0", "number1"), (1,), Fraction(41), ["76", "25"])
    ['41 + 25 = 66.', 'It should be 76.']
    >>> undo(("*", ("+", "number0", "number1"), "number2"), (1, 1), Fraction(38), ["5", "3", "5"])
    ['38 / 5 = 7 remainder 3.', 'It should leave no remainder.']
    """
    sentences = []
    for turn in path:
        sign, (known, steps) = tree[0], work_out(tree[3 - turn], numbers)
        x, sign, y = (known, sign, result) if turn == 2 and sign in "-/" else (result, INVERSE[sign], known)
        tree = tree[turn]
        goal = work_out(tree, numbers)[0]
        if any(n.denominator > 1 for n in (x, y, goal)) or sign == "/" and y == 0:
            return None
        result, sentences = OPERATIONS[sign](x, y), sentences + steps
        if result.denominator > 1:
            quotient = int(result)
            sentences.append(statement(x, sign, y, f"{quotient} remainder {x - y * quotient}"))
            return sentences + [f"It should be {goal}." if isinstance(tree, str) else "It should leave no remainder."]
        sentences.append(statement(x, sign, y, result))
    return sentences + [f"It should be {goal}."] if path else None


def confirmative(row, answer):
    """Work back from the answer to a number of the problem, without solving; None: there is no such way.

    The deepest number, so that as a rule nothing of the solution is repeated; rather none that the equation
    holds twice (it would be needed on the way), and a constant of the equation only if all else fails.

    >>> row = {"equation": "- number0 number1", "numbers": ["76", "25"], "answer": "51"}
    >>> confirmative(row, 51)
    '51 + 25 = 76. It should be 76. Therefore, the answer is correct.'
    """
    tree = read_equation(row["equation"])
    names = [leaf for _, leaf in leaves(tree)]
    ways = sorted(leaves(tree), key=lambda way: (not way[1].startswith("number"), names.count(way[1]), -len(way[0]), way[0]))
    tried = (undo(tree, path, Fraction(answer), row["numbers"]) for path, _ in ways)
    sentences = next(filter(None, tried), None)
    return sentences and conclude(sentences, answer == int(row["answer"]))


def problem_solving(row, answer):
    """Solve again and compare: the other kind of check in the paper's Table 6.

    >>> problem_solving({"equation": "- number0 number1", "numbers": ["76", "25"], "answer": "51"}, 41)
    '76 - 25 = 51. I had 41. Therefore, the answer is incorrect.'
    """
    steps = work_out(read_equation(row["equation"]), row["numbers"])[1]
    return conclude([*steps, f"I had {answer}."], answer == int(row["answer"]))


def conclude(steps, right):
    return " ".join([*steps, f"Therefore, the answer is {'correct' if right else 'incorrect'}."])


def teach(args):
    """Samples -> one check for every problem and whole-number answer."""
    models.check_output(args.out, args.force, args.verify)
    rows, write = [], {"confirmative": confirmative, "problem-solving": problem_solving}[args.kind]
    for row in models.read_problems(args.verify, samples=True):
        for answer in dict.fromkeys(map(verifier.extract_boxed, row["responses"])):
            if re.fullmatch(r"-?\d{1,12}", (answer or "").strip()):
                check = write(row, int(answer))
                rows += [{"id": row["id"], "problem": row["problem"], "answer": answer, "kind": args.kind,
                          "verification": check}] if check else []
    models.write_jsonl(args.out, rows)
    print(f"{args.out}: {len(rows)} checks, {sum('incorrect' in row['verification'] for row in rows)} refute")


def main():
    args = parse_args()
    teach(args) if args.verify else convert(args)


if __name__ == "__main__":
    models.run_main(main)
