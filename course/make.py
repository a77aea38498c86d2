"""Make a folder to hand out: the project without history, some functions blank, handouts, public tests.

    python course/make.py --out FOLDER                        all assignments
    python course/make.py --out FOLDER --assignments 2 6 9    these only; all else works
    python course/make.py --out FOLDER --teacher              nothing blank, with answers to the questions

The body of every function of an assignment becomes `raise NotImplementedError("assignment 6: ...")` in every
file that holds a copy; signature and docstring stay. The folder holds no hidden test and no solution.
"""
import argparse
import shutil
import sys
from pathlib import Path

from catalogue import ASSIGNMENTS, COURSE, GRADED, NEEDS, ROOT, blank, places, sources

ANSWERS = "\n## Answers\n"      # in a handout: from here on for teachers only
EXTRA = ("run.sh", "requirements.txt", "requirements-dev.txt", "LICENSE", "toy_base")
PYTEST = """[pytest]
testpaths = assignments
addopts = -q --tb=short
markers =
    assignment(number, points): the assignment that a test belongs to, and what it is worth
"""
TEST_HEADER = """#!/usr/bin/env bash
# Set up .venv and run the public tests. Arguments go to pytest:
#   bash test.sh                           all of them
#   bash test.sh {first}    those of one assignment
"""
README = """# S²R, written by you

A working implementation of S²R (arXiv 2502.12853), a language model that checks and corrects itself, except
that some functions are blank. Write them, one assignment after the other; then `bash run.sh` teaches the toy
model, on a laptop CPU, to check its answers.

    bash test.sh                                        set up .venv, then all public tests (a few seconds)
    bash test.sh {first}                 the tests of one assignment
    .venv/bin/python assignments/curve.py rl_outcome    20 training steps in a world of ten tokens, seconds
    bash run.sh --fast                                  the whole pipeline, a smoke run
    bash run.sh                                         the same in full (10 minutes on two cores)

| # | handout | write |
| --- | --- | --- |
{rows}
{gaps}
The last three commands run through several assignments and stop at the first function that is still blank
(`assignment N: write ...`). Come back when these are written:

{needs}

The public tests are a first look. A green line says that the most typical mistakes are not there, and no
more: check the worked number of the handout and every sentence of its Interface yourself. The grader does,
in further tests; so it does with the copies of a function in other files.

Rules. A function that stands in several files must be the same in all of them: write it once, then copy it.
Helpers of your own are welcome in the same file. Files not named above are the same for all, and yours are
not looked at. The grader imports your files, so keep them importable. A test may use 4 seconds; what you
print there is thrown away. Where a docstring or a comment names README, EXPERIMENTS or tests/, it means the
project that this folder was made from; they are not needed here.
"""


def handout(number, teacher):
    """The page of an assignment; without its answers for students."""
    name = f"{number:02d}-{ASSIGNMENTS[number].name}.md"
    text = (COURSE / "assignments" / name).read_text(encoding="utf-8")
    return text if teacher else text.partition(ANSWERS)[0].rstrip() + "\n"


def table(numbers, files):
    """The rows of the student's README."""
    rows = []
    for n in numbers:
        title = handout(n, False).splitlines()[0].lstrip("# ").partition(". ")[2]
        where = "; ".join(f"`{file}`: {', '.join(f'`{name}`' for name in names)}"
                          for file, names in places(n, files).items()) or "a report"
        rows.append(f"| {n} | [{title}](assignments/{n:02d}-{ASSIGNMENTS[n].name}.md) | {where} |")
    return "\n".join(rows)


def ranges(numbers):
    """[2, 3, 4, 8] -> '2-4, 8'"""
    parts = []
    for n in numbers:
        if parts and parts[-1][1] == n - 1:
            parts[-1][1] = n
        else:
            parts.append([n, n])
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in parts)


def needs(numbers):
    """What a command needs of the assignments of this edition, a line each."""
    lines = []
    for command, wanted in NEEDS.items():
        mine = ranges([n for n in wanted if n in numbers])
        lines.append(f"- `{command}`: {f'assignments {mine}' if mine else 'none, it works at once'}")
    return "\n".join(lines)


def student_readme(numbers, files, first):
    """README.md of the folder; `first` is the example of a test file."""
    missing = ranges([n for n in ASSIGNMENTS if n not in numbers])
    gaps = f"\nAssignments {missing} are not in this edition; their functions are there.\n" if missing else ""
    return README.format(rows=table(numbers, files), needs=needs(numbers), gaps=gaps, first=first)


def make(out, numbers, teacher=False):
    """Write the folder."""
    files, out = sources(), Path(out)
    written = files if teacher else blank(files, numbers)
    first = f"assignments/test_{next((n for n in numbers if n in GRADED), 1):02d}.py"
    commands = (ROOT / "test.sh").read_text(encoding="utf-8").partition("if [ $# -gt 0 ]")[0]
    commands = commands[commands.index("set -euo"):] + 'exec .venv/bin/python -m pytest "$@"\n'
    pages = {"README.md": student_readme(numbers, files, first), "pytest.ini": PYTEST,
             "test.sh": TEST_HEADER.format(first=first) + commands,
             ".gitignore": ".venv/\n__pycache__/\n.pytest_cache/\nruns/\nresults/\n"}
    for n in numbers:
        pages[f"assignments/{n:02d}-{ASSIGNMENTS[n].name}.md"] = handout(n, teacher)
        if n in GRADED:
            name = f"test_{n:02d}.py"
            pages[f"assignments/{name}"] = (COURSE / "tests" / name).read_text(encoding="utf-8")
    for path in (*(COURSE / "tests" / name for name in ("check.py", "conftest.py", "curve.py")),
        ROOT / "tests" / "chain.py"):
        pages[f"assignments/{path.name}"] = path.read_text(encoding="utf-8")
    (out / "assignments").mkdir(parents=True)
    for name, text in {**written, **pages}.items():
        (out / name).write_text(text, encoding="utf-8")
    for name in EXTRA:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, out / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, out / name)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="folder to make; must not exist or be empty")
    parser.add_argument("--assignments", type=int, nargs="+", choices=list(ASSIGNMENTS), metavar="N",
                        default=list(ASSIGNMENTS), help="1 to 14 (all)")
    parser.add_argument("--teacher", action="store_true", help="with solutions and answers")
    args = parser.parse_args()
    out = Path(args.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        print(f"error: --out {out} is there already and not an empty folder", file=sys.stderr)
        raise SystemExit(2)
    make(out, sorted(set(args.assignments)), args.teacher)
    print(f"{out}: {len(set(args.assignments))} assignments{', with solutions' if args.teacher else ''}")


if __name__ == "__main__":
    main()
