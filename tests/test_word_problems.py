"""recipes/word_problems: converter and teacher against values worked out by hand, and the recipe end to end."""
import csv
import doctest
import importlib.util
import json
import os
import random
import re
import runpy
import signal
import subprocess
import sys
from fractions import Fraction

import pytest

import verifier

TEMPLATES = [("Ann has number0 {} and buys number1 . How many has she ?", "+ number0 number1"),
             ("Of number0 {} number1 are sold . How many are left ?", "- number0 number1"),
             ("There are number0 boxes of number1 {} . How many {} are there ?", "* number0 number1"),
             ("number0 {} are shared by number1 friends . How many has each ?", "/ number0 number1"),
             ("Of number0 {} and number1 nuts number2 are eaten . How many are left ?",
              "- + number0 number1 number2")]
THINGS = "pens cups hats eggs keys maps toys figs nets pots bags fans jars kits lids mops".split()


@pytest.fixture(scope="session")
def words(repo):
    """The recipe's script as a module."""
    path = repo / "recipes" / "word_problems" / "word_problems.py"
    spec = importlib.util.spec_from_file_location("word_problems", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_csv(path, rows):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Question", "Numbers", "Equation", "Answer"])
        writer.writerows(rows)


@pytest.fixture(scope="session")
def data(words, tmp_path_factory):
    """A folder with train.csv and dev.csv: small numbers, so that answers are hit by chance."""
    folder, rng = tmp_path_factory.mktemp("data"), random.Random(0)
    rows = []
    for thing in THINGS:
        for question, equation in TEMPLATES:
            a, b = rng.randint(2, 3), rng.randint(1, 2)
            numbers = {"/": [a * b, b], "+": [a, b]}.get(equation[0], [a, b] + [2] * ("number2" in equation))
            value = words.work_out(words.read_equation(equation), list(map(str, numbers)))[0]
            rows.append([question.replace("{}", thing), " ".join(f"{n}.0" for n in numbers), equation, float(value)])
    write_csv(folder / "train.csv", rows)
    other = [[row[0].replace("Ann", "Bob").replace("Of ", "From "), *row[1:]] for row in rows[:8]]
    write_csv(folder / "dev.csv", other)
    return folder


@pytest.fixture
def convert(words, monkeypatch, tmp_path):
    """convert(train rows, dev rows, *flags) -> {side: rows}"""
    def run(train, dev, *flags):
        write_csv(tmp_path / "train.csv", train)
        write_csv(tmp_path / "dev.csv", dev)
        words.convert(words.parse_args(["--train", str(tmp_path / "train.csv"), "--svamp", str(tmp_path / "dev.csv"),
                                        "--out", str(tmp_path / "out"), "--force", *flags]))
        return {p.stem: [json.loads(line) for line in p.read_text().splitlines()]
                for p in (tmp_path / "out").glob("*.jsonl")}
    return run


# ---------------------------------------------------------------- equations and problems

def test_worked_examples(words):
    assert doctest.testmod(words).failed == 0


def test_lines_and_functions_are_short(repo, words):
    folder = repo / "recipes" / "word_problems"
    assert max(map(len, (folder / "word_problems.py").read_text().splitlines())) < 100
    assert max(map(len, (folder / "run.sh").read_text().splitlines())) <= 110


@pytest.mark.parametrize("equation, numbers, value, steps", [
    ("+ number0 number1", "51 25", 76, "51 + 25 = 76."),
    ("- number1 number0", "25 76", 51, "76 - 25 = 51."),
    ("* number0 number1", "84 139", 11676, "84 * 139 = 11676."),
    ("/ number1 number0", "4 28", 7, "28 / 4 = 7."),
    ("- number0 * number1 number2", "25000 1500 8", 13000, "1500 * 8 = 12000. 25000 - 12000 = 13000."),
    ("- - number0 number1 number2", "9 3 2", 4, "9 - 3 = 6. 6 - 2 = 4."),
    ("- number0 - number1 number2", "9 3 2", 8, "3 - 2 = 1. 9 - 1 = 8."),
    ("/ / number0 number1 number2", "24 4 3", 2, "24 / 4 = 6. 6 / 3 = 2."),
    ("/ number0 / number1 number2", "24 4 2", 12, "4 / 2 = 2. 24 / 2 = 12."),
    ("* + number0 number1 - number2 number3", "1 2 9 4", 15, "1 + 2 = 3. 9 - 4 = 5. 3 * 5 = 15."),
    ("- number0 - number1 number2", "7 2 5", 10, "2 - 5 = -3. 7 - (-3) = 10."),
    ("* number0 12.0", "3", 36, "3 * 12 = 36."),
    ("* number0 number1", "0.25 12", 3, "0.25 * 12 = 3."),
    ("* / number0 number1 number2", "7 2 4", 14, "7 / 2 = 3.5. 3.5 * 4 = 14."),
    ("* / number0 number1 number2", "7 12 216", 126, "7 / 12 = 7/12. 7/12 * 216 = 126."),
    ("number0", "5", 5, "")])
def test_equations(words, equation, numbers, value, steps):
    found = words.work_out(words.read_equation(equation), numbers.split())
    assert (found[0], " ".join(found[1])) == (value, steps)


@pytest.mark.parametrize("equation", ["+ number0", "number0 number1", "", "+ number0 number1 number2"])
def test_a_broken_equation_is_an_error(words, equation):
    with pytest.raises((ValueError, IndexError)):
        words.read_equation(equation)


def test_a_problem(words):
    row = words.problem("x", "s", "Of number0 pens , number2 are Ann 's . Of number1 $ number3 ?",
                        "* number1 - number0 number2", ["9", "3", "4", "0.5"], 15)
    assert row["problem"] == "Of 9 pens, 4 are Ann's. Of 3 $0.5?"
    assert row["solution"] == r"9 - 4 = 5. 3 * 5 = 15. \boxed{15}" and row["answer"] == "15"
    assert row["level"] == 2 + 1                # two operations, one number too many
    assert words.problem("x", "s", "", "* number0 number0", ["7", "6"])["level"] == 1 + 1
    assert words.problem("x", "s", "", "* number0 12.0", ["7"])["level"] == 1
    assert words.filled("number1 number10 .", list("abcdefghijk")) == "b k."


@pytest.mark.parametrize("equation, numbers, answer", [
    ("/ number0 number1", "7 2", 3.5), ("- number0 number1", "2 7", -5), ("+ number0 number1", "2 7", 8),
    ("/ number0 number1", "7 0", 0), ("+ + + number0 number1 number2 number3", "1 2 3 4", 10),
    ("+ number0 number1", "0.25 0.5", 0.75)])
def test_what_is_not_kept(words, equation, numbers, answer):
    assert words.problem("x", "s", "q", equation, numbers.split(), Fraction(answer)) is None


def test_sides(convert):
    rows = [[f"Tom has number0 {a}{b} . He buys number1 . How many ?", f"{i + 1}.0 3.0", "+ number0 number1", i + 4.0]
            for i, (a, b) in enumerate((a, b) for a in "abcdefghij" for b in "klmnopqrst")]
    again = [[row[0].lower().replace(" ?", "?"), "40.0 2.0", row[2], 42.0] for row in rows]
    sides = convert(rows + again + rows, [["Sue has number0 . And number1 ?", "5 7", "+ number0 number1", 12.0]],
                    "--variants", "2", "--drills", "3")
    drills = [row for row in sides["base"] if row["subject"] == "drill"]
    assert len(drills) == 3 and not any(row["subject"] == "drill" for row in sides["train"] + sides["val"])
    sides["base"] = [row for row in sides["base"] if row["subject"] != "drill"]
    text = {side: {re.sub(r"\d+", "", row["problem"]).lower() for row in sides[side]} for side in sides}
    assert all(not text[a] & text[b] for a in text for b in text if a < b)
    problems = [row["problem"] for side in sides.values() for row in side]
    assert len(set(problems)) == len(problems)
    assert {side: len(text[side]) for side in sides} == {"test": 10, "val": 7, "base": 51, "train": 32, "svamp": 1}
    fewer = convert(rows[:50], [rows[-1]])                      # a problem stays on its side whatever else is there
    for side in ("test", "val"):
        kept = {r["problem"] for r in sides[side] if int(r["id"][6:]) < 52}
        assert {r["problem"] for r in fewer[side]} == kept


def test_drills_are_true(words):
    signs = []
    for place in range(200):
        row = words.drill(place)
        sums = row["problem"].removeprefix("Work out: ").removesuffix(".").split(", ")
        *steps, box = row["solution"].split(". ")
        assert len(sums) == len(steps) == 12 and box == f"\\boxed{{{row['answer']}}}"
        for asked, step in zip(sums, steps):
            x, sign, y = asked.split()
            value = eval(asked) if sign != "/" else Fraction(int(x), int(y))
            assert value >= 0 and step == f"{asked} = {value}"
            signs.append(sign)
        assert step.endswith(f"= {row['answer']}")
    assert {sign: round(5 * signs.count(sign) / len(signs)) for sign in "+-*/"} == {"+": 1, "-": 2, "*": 1, "/": 1}


def test_numbers_lose_the_zeros_behind_a_point_only(words, tmp_path):
    write_csv(tmp_path / "a.csv", [["number0 number1 ?", "40 10", "+ number0 number1", 50.0],
                                   ["number0 number1 .", "40.0 2.50", "* number0 number1", 100.0],
                                   ["number0 number1 !", "5 5", "- number0 number1", 0.0]])    # an answer
    rows = [row for _, row in words.read_csv(tmp_path / "a.csv", "s")]
    assert [row["numbers"] for row in rows] == [["40", "10"], ["40", "2.5"], ["5", "5"]]
    assert [row["answer"] for row in rows] == ["50", "100", "0"]


def test_a_text_of_svamp_is_on_no_other_side_and_the_order_is_fixed(convert):
    rows = [[f"{word} number0 .", "5.0", "number0", 5.0] for word in THINGS]
    sides = convert(rows, rows[:9], "--drills", "0")
    assert len(sides["svamp"]) == 9 and sum(map(len, sides.values())) == 16     # and no variants
    ids = [row["id"] for row in sides["svamp"]]
    assert ids != sorted(ids) and sides == convert(rows, rows[:9], "--drills", "0")


def test_variants_keep_text_and_equation(words):
    row = words.problem("train-9", "s", "number0 pens number1 cups number2 ?", "/ - number0 number2 number1",
                        ["37", "1", "7"])
    found = words.variants("number0 pens number1 cups number2 ?", row, 20)
    assert len(found) == 20 and len({r["id"] for r in found} | {"train-9"}) == 21
    for new in found:
        a, b, c = map(int, new["numbers"])
        assert 18 <= a <= 74 and b == 1 and 3 <= c <= 14 and new["answer"] == str(a - c)
        assert new["problem"] == f"{a} pens 1 cups {c}?" and new["equation"] == row["equation"]
    hard = words.problem("t", "s", "number0 number1", "/ number0 number1", ["91", "7"])
    for new in words.variants("number0 number1", hard, 20):
        assert re.fullmatch(r"(\d+) / (\d+) = \d+\. \\boxed\{\d+\}", new["solution"])
    assert words.variants("q", {**row, "numbers": ["3.5", "1", "2"]}, 3) == []


def test_bad_csv(words, tmp_path):
    for row in (["5.0", "+ number0", 5.0], ["5.0", "number0", "1/0"], ["1e999999999", "number0", 5.0],
                ["5.0", "+ number0 " * 3000, 5.0]):
        write_csv(tmp_path / "train.csv", [["q number0", *row]])
        with pytest.raises(words.InputError, match=r"train\.csv:2: no problem"):
            words.read_csv(tmp_path / "train.csv", "s")
    (tmp_path / "train.csv").write_bytes(b"Question\n\xff\n")
    with pytest.raises(words.InputError, match=r"train\.csv: 'utf-8'"):
        words.read_csv(tmp_path / "train.csv", "s")


@pytest.mark.parametrize("change", [{}, {"equation": "+", "numbers": []}, {"equation": 5, "numbers": []},
                                    {"equation": "+ number0 number1", "numbers": ["1"]},
                                    {"equation": "number0", "numbers": ["x"]}])
def test_samples_without_a_good_equation_are_refused(repo, run_script, tmp_path, change):
    row = {"id": "a", "problem": "p", "answer": "5", "responses": ["\\boxed{5}"], **change}
    (tmp_path / "s.jsonl").write_text(json.dumps(row) + "\n")
    done = run_script("recipes/word_problems/word_problems.py", "--verify", "s.jsonl", "--out", "o.jsonl",
                      "--kind", "problem-solving")
    assert done.returncode == 2 and done.stderr.startswith("error: s.jsonl: problem 'a': 'equation'"), done.stderr
    assert not (tmp_path / "o.jsonl").exists()


# ---------------------------------------------------------------- the teacher

@pytest.mark.parametrize("equation, numbers, answer, check", [
    ("+ number0 number1", "51 25", 76, "76 - 25 = 51. It should be 51."),
    ("+ number0 number1", "51 25", 20, "20 - 25 = -5. It should be 51."),
    ("- number0 number1", "76 25", 51, "51 + 25 = 76. It should be 76."),
    ("- number1 number0", "25 76", 41, "41 + 25 = 66. It should be 76."),
    ("* number0 number1", "56 9", 504, "504 / 9 = 56. It should be 56."),
    ("* number0 number1", "56 9", 494, "494 / 9 = 54 remainder 8. It should be 56."),
    ("/ number0 number1", "28 4", 7, "7 * 4 = 28. It should be 28."),
    ("/ number0 number1", "28 4", 8, "8 * 4 = 32. It should be 28."),
    ("* number0 12.0", "3", 36, "36 / 12 = 3. It should be 3."),
    ("- 12.0 number0", "3", 9, "12 - 9 = 3. It should be 3."),          # the right operand, as the left is a constant
    ("/ 12.0 number0", "3", 4, "12 / 4 = 3. It should be 3."),
    ("/ 12.0 number0", "3", 5, "12 / 5 = 2 remainder 2. It should be 3."),
    ("* number0 number1", "5 0", 0, "0 / 5 = 0. It should be 0."),       # 0 / 0 would say nothing
    ("- number0 * number1 number2", "25 3 8", 1, "25 - 1 = 24. 24 / 8 = 3. It should be 3."),
    ("- number0 * number1 number2", "25 3 8", 2, "25 - 2 = 23. 23 / 8 = 2 remainder 7. It should be 3."),
    ("* + number0 number1 number2", "5 3 4", 32, "32 / 4 = 8. 8 - 3 = 5. It should be 5."),
    ("* + number0 number1 number2", "5 3 4", 30, "30 / 4 = 7 remainder 2. It should leave no remainder."),
    ("- - number0 number1 number2", "9 3 2", 4, "4 + 2 = 6. 6 + 3 = 9. It should be 9."),
    ("/ number0 + number1 number2", "24 2 4", 4, "24 / 4 = 6. 6 - 4 = 2. It should be 2."),
    ("/ number0 + number1 number2", "24 2 4", 0, "2 + 4 = 6. 0 * 6 = 0. It should be 24."),  # 24 / 0 is nothing
    ("- * number0 number1 number0", "6 3", 12, "12 + 6 = 18. 18 / 6 = 3. It should be 3."),  # number0 stands twice
    ("* number0 + number0 number1", "3 5", 24, "24 / 3 = 8. 8 - 3 = 5. It should be 5."),
    ("* number0 number0", "7", 49, "49 / 7 = 7. It should be 7."),
    ("* number0 number0", "7", 53, "53 / 7 = 7 remainder 4. It should be 7.")])
def test_confirmative_checks(words, equation, numbers, answer, check):
    numbers = numbers.split()
    gold, steps = words.work_out(words.read_equation(equation), numbers)
    verdict = f"Therefore, the answer is {'correct' if answer == gold else 'incorrect'}."
    row = {"equation": equation, "numbers": numbers, "answer": str(gold)}
    assert words.confirmative(row, answer) == f"{check} {verdict}"
    assert words.problem_solving(row, answer) == f"{' '.join(steps)} I had {answer}. {verdict}"


@pytest.mark.parametrize("equation, numbers", [
    ("number0", "5"), ("* number0 number1", "0.25 12"), ("* / number0 number1 number2", "7 12 216"),
    ("* number0 number1", "0 0")])
def test_no_check_where_none_is_whole(words, equation, numbers):
    gold = words.work_out(words.read_equation(equation), numbers.split())[0]
    row = {"equation": equation, "numbers": numbers.split(), "answer": str(gold)}
    assert words.confirmative(row, int(gold)) is None


STATEMENT = re.compile(r"(-?\d+) ([-+*/]) \(?(-?\d+)\)? = (-?\d+)(?: remainder (-?\d+))?\.")


def assert_true(check, right):
    """Every sentence is a true statement, and the verdict follows from them."""
    *sentences, verdict = re.split(r"(?<=\.) ", check)
    verdict = verifier.parse_verdict(verdict)
    values, left = [], None
    for sentence in sentences[:-1]:
        x, sign, y, z, left = STATEMENT.fullmatch(sentence).groups()
        x, y, z, rest = int(x), int(y), int(z), int(left or 0)
        assert {"+": x + y, "-": x - y, "*": x * y, "/": z}[sign] == z
        assert sign != "/" or y and x == y * z + rest and abs(rest) < abs(y) and bool(rest) == (left is not None)
        values.append(z)
    goal = re.search(r"(?:be|had) (-?\d+)\.$", sentences[-1])
    assert goal or left
    assert (not left and goal is not None and values[-1] == int(goal[1])) == right
    assert verdict == ("correct" if right else "incorrect")


def test_verdicts_are_the_truth_on_thousands_of_answers(words):
    rng, counted = random.Random(1), {"None": 0, "remainder": 0, "fine": 0}
    shapes = [f"{a} {x} {y}" for a in "+-*/" for x, y in (("number0", "number1"), ("number1", "number0"))]
    shapes += [f"{a} {b} number0 number1 number2" for a in "+-*/" for b in "+-*/"]
    shapes += [f"{a} number0 {b} number1 number2" for a in "+-*/" for b in "+-*/"]
    shapes += [f"{a} {b} number0 number1 number0" for a in "+-*/" for b in "+-*/"] + ["* number0 12.0"]
    for _ in range(12000):
        equation, numbers = rng.choice(shapes), [str(rng.randint(0, 12)) for _ in range(3)]
        row = words.problem("x", "s", "q", equation, numbers)
        if row is None:
            continue
        gold = int(row["answer"])
        answer = rng.choice([gold, gold + 1, abs(gold - 1), 10 * gold, 0, rng.randint(0, 99), -gold])
        check = words.confirmative(row, answer)
        counted["None" if check is None else "remainder" if "no remainder" in check else "fine"] += 1
        if check:
            assert_true(check, answer == gold)
        again = words.problem_solving(row, answer)
        assert verifier.parse_verdict(again) == ("correct" if answer == gold else "incorrect")
        assert again.startswith(row["solution"].partition("\\boxed")[0] + f"I had {answer}.")
    assert counted["fine"] > 3000 and counted["remainder"] > 100 and counted["None"] < 200


def test_teacher_writes_a_check_for_each_whole_answer(words, tmp_path):
    row = words.problem("p", "s", "number0 and number1", "+ number0 number1", ["2", "3"])
    texts = [r"\boxed{5}", r"\boxed{6}", r"again \boxed{5}", "none", r"\boxed{2.5}", r"\boxed{six}", r"\boxed{-1}"]
    (tmp_path / "samples.jsonl").write_text(json.dumps({**row, "responses": texts, "finished": [True] * 7}))
    for kind in ("confirmative", "problem-solving"):
        out = tmp_path / f"{kind}.jsonl"
        words.teach(words.parse_args(["--verify", str(tmp_path / "samples.jsonl"), "--kind", kind, "--out", str(out)]))
        checks = [json.loads(line) for line in out.read_text().splitlines()]
        assert [c["answer"] for c in checks] == ["5", "6", "-1"] and {c["kind"] for c in checks} == {kind}
        assert [verifier.parse_verdict(c["verification"]) for c in checks] == ["correct", "incorrect", "incorrect"]


# ---------------------------------------------------------------- the recipe

SIZES = {"EPOCHS": "40", "BI_EPOCHS": "60", "BASE_LR": "1e-2", "BI_LR": "1e-2", "RL_LR": "1e-4", "DTYPE": "fp32",
         "DRILLS": "9", "TOKENS": "16384", "OMP_NUM_THREADS": "1"}


def test_stages_0_and_1_on_a_tiny_model(words, repo, data, tiny_qwen2, tmp_path, monkeypatch):
    """Converter, base, samples, both teachers and SFT as the run file calls them, in this process."""
    handler = signal.getsignal(signal.SIGINT)

    def script(name, *argv):
        monkeypatch.setattr(sys, "argv", [name, *map(str, argv)])
        runpy.run_path(str(repo / name), run_name="__main__")

    recipe = "recipes/word_problems/word_problems.py"
    script(recipe, "--train", data / "train.csv", "--svamp", data / "dev.csv", "--out", tmp_path, "--variants", 1,
           "--drills", 9)
    script("sft.py", "build", "--original-solutions", "--samples", tmp_path / "base.jsonl",
           "--out", tmp_path / "o.jsonl")
    script("sft.py", "train", "--model", tiny_qwen2, "--data", tmp_path / "o.jsonl", "--out", tmp_path / "base",
           "--kl-coef", 0, "--epochs", 25, "--batch-size", 16, "--lr", "1e-2", "--schedule", "linear", "--held-out", 0)
    script("sample.py", "--model", tmp_path / "base" / "last", "--data", tmp_path / "train.jsonl", "--num-samples", 5,
           "--temperature", 0.7, "--max-new-tokens", 40, "--out", tmp_path / "samples.jsonl")
    for kind, last in (("confirmative", "It should "), ("problem-solving", "I had ")):
        checks, built = tmp_path / f"checks-{kind}.jsonl", tmp_path / f"{kind}.jsonl"
        script(recipe, "--verify", tmp_path / "samples.jsonl", "--kind", kind, "--out", checks)
        script("sft.py", "build", "--samples", tmp_path / "samples.jsonl", "--verifications", checks, "--kind", kind,
               "--keep", 1, 1, 1, 1, "--out", built)
        rows = [json.loads(line) for line in built.read_text().splitlines()]
        assert len(rows) > 10 and any(len(row["actions"]) > 2 for row in rows)
        for action in (action for row in rows for action in row["actions"] if action["type"] == "verify"):
            assert last in action["text"] and verifier.parse_verdict(action["text"])
    script("sft.py", "train", "--model", tmp_path / "base" / "last", "--data", tmp_path / "confirmative.jsonl",
           "--out", tmp_path / "bi", "--epochs", 1, "--kl-coef", 0.1, "--kl-on", "first", "--held-out", 0)
    signal.signal(signal.SIGINT, handler)
    assert (tmp_path / "bi" / "last" / "config.json").exists()


@pytest.mark.parametrize("flag, folder, message", [("--fats", "data", "usage"), ("--fast", "none", "git clone")])
def test_the_run_file_refuses_in_one_line(repo, data, tmp_path, flag, folder, message):
    env = {**os.environ, "DATA": str(data if folder == "data" else tmp_path), "OUT": str(tmp_path)}
    found = subprocess.run(["bash", "recipes/word_problems/run.sh", flag], cwd=repo, env=env,
                           capture_output=True, text=True)
    assert found.returncode == 2 and message in found.stderr and found.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_whole_recipe(repo, data, tiny_qwen2, tmp_path):
    """run.sh --fast from the CSV files to the reports, and again: the second run makes nothing anew."""
    env = {**os.environ, **SIZES, "MODEL": tiny_qwen2, "DATA": str(data), "OUT": str(tmp_path), "PY": sys.executable,
           "RL_FLAGS": "--temperature 1 --beta 0"}
    command = ["bash", "recipes/word_problems/run.sh", "--fast"]
    subprocess.run(command, cwd=repo, env=env, check=True)
    runs, results = tmp_path / "runs" / "fast-words-qwen2-seed0", tmp_path / "results" / "fast-words-qwen2-seed0"
    for name, models in (("all", 4), ("table2", 3), ("table6", 2), ("offline", 3)):
        for side in ("test", "svamp"):
            report = json.loads((results / f"{side}-{name}" / "report.json").read_text())
            assert len(report["models"]) == models
    for name in ("orl", "prl"):
        flags = json.loads((runs / name / "args.json").read_text())
        assert (flags["temperature"], flags["beta"]) == (1, 0)          # not the file's own 0.7 and 0.05
    times = {path: path.stat().st_mtime_ns for path in runs.glob("*/last/model.safetensors")}
    assert {path.parts[-3] for path in times} == {"base", "bi", "bi-solving", "original", "orl", "prl", "offline"}
    subprocess.run(command, cwd=repo, env=env, check=True)
    assert times == {path: path.stat().st_mtime_ns for path in times}
