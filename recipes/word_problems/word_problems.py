r"""Grade-school word problems with equations: problem files, worked solutions and the teacher.

    python recipes/word_problems/word_problems.py --train train.csv --svamp dev.csv --out FOLDER
    python recipes/word_problems/word_problems.py --verify SAMPLES --kind confirmative --out FILE

Reads  CSV files of github.com/arkilpatel/SVAMP (MIT): Question, Numbers, Equation, Answer, as in
       "Ann has number0 pens , buys number1 . How many now ?", "3.0 2.0", "+ number0 number1", 5.0
Writes OUT/{base, train, val, test, svamp}.jsonl: problem, answer, level (operations +
       distractors), subject (source), solution `3 + 2 = 5. \boxed{5}`; equation, numbers for the
       teacher; or checks for sft.py build: {id, problem, answer, kind, verification}.

Kept are problems of at most two operations whose equation gives the stated, whole, non-negative
answer. A problem's side is a hash of its words without the numbers: it never changes, and no text
stands on two sides. 1 of 10 goes to val and to test each, 5 to base (SFT of the base model), 3 to
train (stage 0 and RL: problems that the base has not learnt by heart). Base and train also get
--variants of each problem, with other numbers, and base --drills of a dozen sums each: four of
five wrong answers of a small model without them are slips such as 63 - 48 = 11. No text of SVAMP
is on another side.

Map: equations - problems - the teacher - main.
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

OPERATIONS = {"+": Fraction.__add__, "-": Fraction.__sub__, "*": Fraction.__mul__,
              "/": Fraction.__truediv__}
INVERSE = {"+": "-", "-": "+", "*": "/", "/": "*"}
SIDES = ("test", "val", *["base"] * 5, *["train"] * 3)


def parse_args(argv=None):
    parser = models.Parser(__doc__)
    add = parser.add_argument
    add("--train", help="CSV of MAWPS and ASDiv-A: data/mawps-asdiv-a_svamp/train.csv")
    add("--svamp", help="CSV of SVAMP, out of domain, never trained on: dev.csv beside it")
    add("--variants", type=number(int, 0), default=3, help="of every problem to learn from (3)")
    add("--drills", type=number(int, 0), default=1800, help="for base: a dozen sums each (1800)")
    add("--verify", metavar="SAMPLES", help="samples file: check its whole-number answers")
    add("--kind", choices=("confirmative", "problem-solving"), default="confirmative")
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


def exact(text):
    """A number as a fraction. 1e999999999 would never be done: ValueError."""
    if "e" in text.lower():
        raise ValueError(f"{text!r} has an exponent")
    return Fraction(text)


def written(x):
    """A number as it is written: a decimal, or a fraction where that has no end.

    >>> written(Fraction(3)), written(Fraction(1, 4)), written(Fraction(1, 3))
    ('3', '0.25', '1/3')
    """
    decimal = Decimal(x.numerator) / Decimal(x.denominator)
    return f"{decimal:f}" if Fraction(decimal) == x else str(x)


def statement(x, sign, y, result):
    """Three numbers, the last as text -> a sentence such as "7 - (-2) = 9."."""
    return f"{written(x)} {sign} {f'({written(y)})' if y < 0 else written(y)} = {result}."


def work_out(tree, numbers):
    """-> (value, the statements that lead there); numberK is the K-th number, all else a constant.

    >>> work_out(read_equation("- number0 * number1 number2"), ["25000", "1500", "8"])
    (Fraction(13000, 1), ['1500 * 8 = 12000.', '25000 - 12000 = 13000.'])
    """
    if isinstance(tree, str):
        return exact(numbers[int(tree[6:])] if tree.startswith("number") else tree), []
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
    """The text with its numbers, without the spaces that the data set has before signs.

    >>> filled("Ann 's number0 pens cost $ number1 .", ["3", "0.5"])
    "Ann's 3 pens cost $0.5."
    """
    text = re.sub(r"number(\d+)", lambda match: numbers[int(match[1])], question)
    return re.sub(r"(?<=\$) | (?=[.,?!;:%]|'s\b|n't\b)", "", text)


def problem(name, subject, question, equation, numbers, answer=None):
    """A row of a problem file; None where its answer is not whole, negative or not the stated one,
    or where it takes more than two operations."""
    tree = read_equation(equation)
    try:
        value, steps = work_out(tree, numbers)
    except ZeroDivisionError:
        return None
    if value.denominator > 1 or value < 0 or len(steps) > 2 or answer not in (None, value):
        return None
    used = {leaf for _, leaf in leaves(tree) if leaf.startswith("number")}
    return {"id": name, "problem": filled(question, numbers), "answer": str(value),
            "level": len(steps) + len(numbers) - len(used), "subject": subject,
            "solution": " ".join([*steps, f"\\boxed{{{value}}}"]),
            "equation": equation, "numbers": numbers}


def variants(question, row, count):
    """The problem with other numbers, between half and twice the old ones; 0 and 1 stay.

    Every step stays whole and non-negative, as in most of the problems that people wrote.
    """
    old, found = row["numbers"], []
    for copy in range(count if all(n.isdigit() for n in old) and "=" in row["solution"] else 0):
        rng = random.Random(f"{row['id']} {copy}")
        for _ in range(300):                      # until the divisions come out even
            numbers = [n if int(n) < 2 else str(rng.randint(max(2, int(n) // 2), 2 * int(n)))
                       for n in old]
            new = problem(f"{row['id']}~{copy + 1}", row["subject"], question, row["equation"],
                          numbers)
            if new and numbers != old and not re.search(r"-\d|\d[./]\d", new["solution"]):
                found.append(new)
                break
    return found


def drill(place):
    """A dozen sums to work out, twice as many "-" as of another sign: the hardest for the model.

    >>> drill(0)["problem"][:26], drill(0)["solution"][:25]
    ('Work out: 5 * 4, 60 / 10, ', '5 * 4 = 20. 60 / 10 = 6. ')
    """
    rng, sums, steps = random.Random(f"drill {place}"), [], []
    for sign in rng.choices("+--*/", k=12):
        if sign in "+-":
            x, y = (Fraction(rng.randint(1, rng.choice((20, 99, 99, 500)))) for _ in "xy")
        else:
            x, y = (Fraction(rng.randint(2, most)) for most in (rng.choice((12, 12, 30, 99)), 12))
        if sign in "-/":                          # (x + y) - y and x * y / y: whole, not negative
            x = OPERATIONS[INVERSE[sign]](x, y)
        z = OPERATIONS[sign](x, y)
        sums.append(f"{x} {sign} {y}")
        steps.append(statement(x, sign, y, z))
    return {"id": f"drill-{place}", "problem": f"Work out: {', '.join(sums)}.", "answer": str(z),
            "level": 1, "subject": "drill", "solution": " ".join([*steps, f"\\boxed{{{z}}}"])}


def side_of(question):
    """Where a problem belongs: a hash of its letters.

    >>> side_of("Ann 's number0 pens .") == side_of("ann's number0 pens.")
    True
    """
    words = re.sub(r"\W|_", "", question).lower()
    return SIDES[int(hashlib.sha256(words.encode()).hexdigest(), 16) % len(SIDES)]


def read_csv(path, subject):
    """-> [(question, row of a problem file)], those that are kept."""
    with models.refusing(path):
        rows, found = list(csv.DictReader(Path(path).read_text("utf-8-sig").splitlines())), []
    for place, row in enumerate(rows, 2):
        with models.refusing(f"{path}:{place}: no problem of this data set"):
            numbers = [n.rstrip("0").rstrip(".") if "." in n else n
                       for n in row["Numbers"].split()]
            kept = problem(f"{Path(path).stem}-{place}", subject, row["Question"], row["Equation"],
                           numbers, exact(row["Answer"]))
        found += [(row["Question"], kept)] if kept else []
    print(f"{path}: kept {len(found)} of {len(rows)} (whole answer, at most two operations)")
    return found


def convert(args):
    """Two CSV files -> five problem files, each shuffled; a text that repeats is left out."""
    sides, seen = {side: [] for side in (*SIDES, "svamp")}, set()
    rows = [("svamp", question, row) for question, row in read_csv(args.svamp, "SVAMP")]
    rows += [(side_of(question), question, row)
             for question, row in read_csv(args.train, "MAWPS, ASDiv-A")]
    for side, question, row in rows:
        count = args.variants if side in ("base", "train") else 0
        for one in [row, *variants(question, row, count)]:
            text = re.sub(r"\W", "", one["problem"]).lower()
            sides[side] += [] if text in seen else [one]
            seen.add(text)
    sides["base"] += map(drill, range(args.drills))
    for side in sides:
        models.check_output(Path(args.out, f"{side}.jsonl"), args.force, args.train, args.svamp)
    for side, rows in sides.items():
        path = Path(args.out, f"{side}.jsonl")
        random.Random(side).shuffle(rows)
        models.write_jsonl(path, rows)
        print(f"{path}: {len(rows)} problems, {sum('~' in row['id'] for row in rows)} variants")


# ---------------------------------------------------------------- the teacher

def undo(tree, path, result, numbers):
    """Work back from `result`, a value of the tree, to the leaf at `path`: what should it be?

    -> sentences, or None where that is impossible (a division by 0) or not in whole numbers.

    >>> undo(("-", "number0", "number1"), (1,), Fraction(41), ["76", "25"])
    ['41 + 25 = 66.', 'It should be 76.']
    >>> undo(("*", ("+", "number0", "number1"), "number2"), (1, 1), Fraction(38), ["5", "3", "5"])
    ['38 / 5 = 7 remainder 3.', 'It should leave no remainder.']
    """
    sentences = []
    for turn in path:
        sign, (known, steps) = tree[0], work_out(tree[3 - turn], numbers)
        swap = turn == 2 and sign in "-/"         # x - y = r: y = x - r, while x = r + y
        x, sign, y = (known, sign, result) if swap else (result, INVERSE[sign], known)
        tree = tree[turn]
        goal = work_out(tree, numbers)[0]
        if any(n.denominator > 1 for n in (x, y, goal)) or sign == "/" and y == 0:
            return None
        result, sentences = OPERATIONS[sign](x, y), sentences + steps
        if result.denominator > 1:
            rest = f"{int(result)} remainder {x - y * int(result)}"
            end = f"be {goal}." if isinstance(tree, str) else "leave no remainder."
            return [*sentences, statement(x, sign, y, rest), "It should " + end]
        sentences.append(statement(x, sign, y, result))
    return [*sentences, f"It should be {goal}."] if path else None


def confirmative(row, answer):
    """Work back from the answer to a number of the problem, without solving; None: no way.

    The deepest number, so that as a rule nothing of the solution is repeated; rather none that the
    equation holds twice (it would be needed on the way); a constant only if all else fails.

    >>> row = {"equation": "- number0 number1", "numbers": ["76", "25"], "answer": "51"}
    >>> confirmative(row, 51)
    '51 + 25 = 76. It should be 76. Therefore, the answer is correct.'
    """
    tree = read_equation(row["equation"])
    ways, names = leaves(tree), [leaf for _, leaf in leaves(tree)]
    ways.sort(key=lambda way: (not way[1].startswith("number"), names.count(way[1]), -len(way[0])))
    tried = (undo(tree, path, Fraction(answer), row["numbers"]) for path, _ in ways)
    sentences = next(filter(None, tried), None)
    return sentences and conclude(sentences, answer == int(row["answer"]))


def problem_solving(row, answer):
    """Solve again and compare: the other kind of check in the paper's Table 6.

    >>> row = {"equation": "- number0 number1", "numbers": ["76", "25"], "answer": "51"}
    >>> problem_solving(row, 41)
    '76 - 25 = 51. I had 41. Therefore, the answer is incorrect.'
    """
    steps = work_out(read_equation(row["equation"]), row["numbers"])[1]
    return conclude([*steps, f"I had {answer}."], answer == int(row["answer"]))


def conclude(sentences, right):
    """Sentences and a verdict -> the text of a check."""
    verdict = "correct" if right else "incorrect"
    return " ".join([*sentences, f"Therefore, the answer is {verdict}."])


def teach(args):
    """Samples -> one check for every problem and whole-number answer."""
    models.check_output(args.out, args.force, args.verify)
    rows, write = [], {"confirmative": confirmative, "problem-solving": problem_solving}[args.kind]
    for row in models.read_problems(args.verify, samples=True):
        for answer in dict.fromkeys(map(verifier.extract_boxed, row["responses"])):
            whole = re.fullmatch(r"-?\d{1,12}", (answer or "").strip())
            where = f"{args.verify}: problem {row['id'][:80]!r}"
            with models.refusing(f"{where}: 'equation' or 'numbers'"):
                check = whole and write(row, int(answer))
            if check:
                rows.append({"id": row["id"], "problem": row["problem"], "answer": answer,
                             "kind": args.kind, "verification": check})
    models.write_jsonl(args.out, rows)
    refuted = sum(verifier.parse_verdict(row["verification"]) == "incorrect" for row in rows)
    print(f"{args.out}: {len(rows)} checks, {refuted} of them refute the answer")


def main():
    args = parse_args()
    teach(args) if args.verify else convert(args)


if __name__ == "__main__":
    models.run_main(main)
