"""The course kit: blank hand-ins earn 0, the reference everything, mistakes are named, the grader holds."""
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

COURSE = Path(__file__).resolve().parent.parent / "course"
sys.path[:0] = [str(COURSE), str(COURSE / "tests")]
sys.dont_write_bytecode = True      # course/ stays as it is

import catalogue  # noqa: E402
import grade  # noqa: E402
import make  # noqa: E402
import reference  # noqa: E402
from mistakes import MISTAKES, wrong_files  # noqa: E402

FILES = catalogue.sources()
BLANK = catalogue.blank(FILES, catalogue.GRADED)


def hand_in(number, files):
    return {file: files[file] for file in catalogue.places(number, FILES)}


def points(tests):
    return sum(t["points"] for t in tests if t["ok"]), sum(t["points"] for t in tests)


def messages(tests):
    return "\n".join(t["message"] for t in tests if not t["ok"])


def test_blank_is_0_and_the_reference_is_all():
    jobs = [(n, hand_in(n, files)) for files in (FILES, BLANK) for n in catalogue.GRADED]
    results = grade.run(jobs)
    for (number, _), tests in zip(jobs[:12], results[:12]):
        assert points(tests)[0] == points(tests)[1] >= 10, (number, messages(tests))
        assert any(t["public"] for t in tests) and any(not t["public"] for t in tests)
    for (number, _), tests in zip(jobs[12:], results[12:]):
        assert points(tests)[0] == 0 and f"assignment {number}: write" in messages(tests)


@pytest.mark.slow
def test_every_mistake_is_named():
    check_mistakes(MISTAKES)


def test_some_mistakes_are_named():
    """One an assignment; all of them are in the slow test."""
    check_mistakes({n: [rows[n % len(rows)]] for n, rows in MISTAKES.items()})


def check_mistakes(mistakes):
    todo = [(n, m) for n in mistakes for m in mistakes[n]]
    jobs = [(n, hand_in(n, wrong_files(n, m, FILES, BLANK, reference.changed))) for n, m in todo]
    wrong = []
    for (number, mistake), tests in zip(todo, grade.run(jobs)):
        got, most = points(tests)
        if not 0 < got < most or mistake[2] not in messages(tests):
            wrong.append(f"{number}, {mistake[0]}: {got} of {most}, wanted {mistake[2]!r}\n{messages(tests)}")
    assert not wrong, "\n\n".join(wrong)


def test_four_mistakes_an_assignment():
    assert sorted(MISTAKES) == catalogue.GRADED and min(map(len, MISTAKES.values())) >= 4


# ---------------------------------------------------------------- hand-ins that do not play by the rules

REFERENCE = FILES["sft.py"]
ATTACKS = {
    "leaves at import": "import os; os._exit(0)",
    "exits at import": "import sys; sys.exit(0)",
    "loops at import": "while True: pass",
    "sleeps at import": "import time; time.sleep(1000)",
    "prints without end": "while True: print('ok ' * 10000)",
    "takes all memory": "x = bytearray(1 << 40)",
    "forges a report": "import os\nfor fd in range(3, 60):\n    try: os.write(fd, b'{\"ok\": true}\\n' "
        "* 50)\n"
                       "    except OSError: pass\nos._exit(0)",
    "kills the runner": "import os; os.kill(os.getppid(), 9)",
    "patches the comparison": "import builtins, gc, types\nfor f in gc.get_objects():\n"
                              "    if isinstance(f, types.FunctionType) and f.__name__ in ('same', 'fail', "
                                  "'close'):\n"
                              "        f.__code__ = (lambda *a, **k: True).__code__\n",
    "leaves a process behind": "import os, time\nif os.fork() == 0:\n    os.setsid()\n    "
    "time.sleep(1000)\nos._exit(0)",
    "is no Python": "def trained_actions(actions:\n",
}


def test_attacks_earn_nothing_and_the_grader_goes_on():
    jobs = [(2, {"sft.py": code + "\n" + BLANK["sft.py"]}) for code in ATTACKS.values()] + [(2,
        {"sft.py": REFERENCE})]
    results = grade.run(jobs, seconds=1.0)
    for name, tests in zip(ATTACKS, results):
        assert points(tests)[0] == 0 and points(tests)[1] == 13, name
        assert all(t["message"] and len(t["message"]) < 4000 for t in tests), name
    assert points(results[-1])[0] == 13, messages(results[-1])
    assert "endless loop" in messages(results[2]) and "endless loop" in messages(results[3])
    assert "SyntaxError" in messages(results[-2]) and "MemoryError" in messages(results[5])
    assert "tampered" in messages(results[8]) or "assignment 2: write" in messages(results[8])


def test_a_folder_cannot_change_its_grading(tmp_path):
    """Tests, plugins, links, other files and an old results.json in the folder: none of them is used."""
    folder, outside = tmp_path / "student", tmp_path / "outside.txt"
    make.make(folder, [2, 6])
    outside.write_text("keep me")
    spoil = "import pathlib\npathlib.Path(r'{}').write_text('spoilt')\n".format(outside)
    for name in ("conftest.py", "sitecustomize.py", "pytest.py", "torch.py", "check.py", "model.py",
        "assignments/conftest.py",
                 "assignments/test_02.py", "runner.py", "catalogue.py"):
        (folder / name).write_text(spoil)
    (folder / "results.json").symlink_to(outside)
    (folder / "rl_process.py").unlink()
    (folder / "rl_process.py").symlink_to(COURSE.parent / "rl_process.py")
    text = (folder / "rl_outcome.py").read_text()
    body = "return (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1)"
    (folder / "rl_outcome.py").write_text(catalogue.replace_body(text, "leave_one_out", body))
    run = subprocess.run([sys.executable, str(COURSE / "grade.py"), ".", "--assignments", "2", "6"],
        cwd=folder,
                         capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert run.returncode == 0, run.stderr
    assert outside.read_text() == "keep me" and not (folder / "results.json").is_symlink()
    results = json.loads((folder / "results.json").read_text())
    assert set(results["tests"][0]) == {"name", "score", "max_score", "output"}
    assert results["score"] == sum(t["score"] for t in results["tests"])
    assert {t["score"] for t in results["tests"] if t["name"].startswith("2.")} == {0}
    six = {t["name"].split(": ", 1)[1]: t for t in results["tests"] if t["name"].startswith("6.")}
    assert six["rewards 1 1 -1 -1 and 1 -1 -1 -1 (public)"]["score"] == 3
    assert any("rl_process.py: cannot be read" in t["output"] for t in six.values())
    assert "total" in run.stdout


# ---------------------------------------------------------------- student folders

def test_a_student_folder_holds_no_solution(tmp_path):
    make.make(tmp_path / "all", list(catalogue.ASSIGNMENTS))
    written = {p: p.read_text(encoding="utf-8") for p in (tmp_path / "all").rglob("*")
               if p.suffix in (".py", ".md", ".txt", ".ini", ".sh")}
    assert not [p for p in (tmp_path / "all").rglob("*") if "hidden" in p.name or p.name in (".git",
        "mistakes.py", "course")]
    assert not any("## Answers" in text for text in written.values())
    for number in catalogue.GRADED:
        for file, names in catalogue.places(number, FILES).items():
            compile((tmp_path / "all" / file).read_text(), file, "exec")
            for name in names:
                node = catalogue.definitions(FILES[file])[name]
                lines = FILES[file].split("\n")[node.body[-1].lineno - 1:node.end_lineno]
                last = lines[-1].strip()
                found = [p.name for p, text in written.items() if len(last) > 40 and last in text]
                assert not found, f"the last line of {file}'s {name} stands in {found}"


def test_only_the_chosen_functions_are_blank_with_docstrings_kept(tmp_path):
    make.make(tmp_path / "some", [6, 9])
    for file, text in FILES.items():
        mine = (tmp_path / "some" / file).read_text()
        assert mine.count("NotImplementedError(\"assignment 6") == {"rl_outcome.py": 2,
            "rl_process.py": 1}.get(file, 0)
        assert (mine == text) == (file not in ("rl_outcome.py", "rl_process.py"))
    text = (tmp_path / "some" / "rl_process.py").read_text()
    assert text.count("assignment 9") == 7 and ">>> reward_contexts([-1, 1, 1])" in text
    assert sorted(p.name for p in (tmp_path / "some" / "assignments").glob("test_*")) == ["test_06.py",
        "test_09.py"]
    for name in ("toy_base/config.json", "run.sh", "assignments/chain.py", "assignments/curve.py"):
        assert (tmp_path / "some" / name).exists()


def test_the_folder_speaks_of_what_it_holds(tmp_path):
    """README and test.sh of an edition: files that are there, gaps in the numbers, what a command needs."""
    make.make(tmp_path / "s", [1, 6, 7, 9, 10, 11])
    readme, script = ((tmp_path / "s" / name).read_text() for name in ("README.md", "test.sh"))
    for name in re.findall(r"[\w/-]+\.(?:py|sh|md)\b", readme + script):
        assert any((tmp_path / "s" / folder / name).exists() for folder in ("", "assignments")), name
    assert "slow" not in script and "tests/test_" not in script and script.rstrip().endswith('pytest "$@"')
    assert "Assignments 2-5, 8, 12-14 are not in this edition" in readme and "first look" in readme
    assert "`curve.py rl_process`: assignments 1, 6-7, 9-10\n" in readme
    assert "`curve.py sft`: none" in readme
    make.make(tmp_path / "all", list(catalogue.ASSIGNMENTS))
    assert "not in this edition" not in (tmp_path / "all" / "README.md").read_text()


@pytest.mark.slow
def test_a_command_needs_what_the_catalogue_says(tmp_path):
    """curve.py works where all else is blank, and names the assignment where one that it needs is."""
    for command, wanted in catalogue.NEEDS.items():
        if not command.startswith("curve.py"):
            continue
        others = [n for n in catalogue.GRADED if n not in wanted]
        for i, numbers in enumerate((others, wanted[-1:])):
            folder = tmp_path / f"{command.split()[1]}{i}"
            make.make(folder, numbers)
            argv = [sys.executable, str(folder / "assignments" / "curve.py"), command.split()[1]]
            run = subprocess.run(argv + ["--steps", "1"] * (command != "curve.py sft"), capture_output=True,
                text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
            if i == 0:
                assert run.returncode == 0, (command, run.stderr[-1000:])
            else:
                assert run.returncode == 1 and "come back then" in run.stderr, (command, run.stderr[-1000:])
                assert f"\nassignment {wanted[-1]}: write" in f"\n{run.stderr}", run.stderr


def test_bodies_of_any_form():
    text = ('def f(x): return 1\n\n\n@g\ndef h(x,\n      y):\n    """Doc.\n\n    >>> 1\n    """\n'
            '    # how\n    return 2\n\n\ndef k():\n    # how\n    return 3\n')
    for name in "fhk":
        text = catalogue.replace_body(text, name, "raise NotImplementedError")
    assert text == ('def f(x):\n    raise NotImplementedError\n\n\n@g\ndef h(x,\n      y):\n    """Doc.\n\n  '
        '  >>> 1\n    """\n'
                    '    raise NotImplementedError\n\n\ndef k():\n    raise NotImplementedError\n')


def test_handouts_are_whole():
    for n, a in catalogue.ASSIGNMENTS.items():
        text = make.handout(n, True)
        assert text.startswith(f"# Assignment {n}. ") and text != make.handout(n, False)
        for part in ("The idea", "Interface", "A worked number", "Hints", "What you should see",
            "In the paper", "Questions", "Answers"):
            assert f"\n## {part}" in text, (n, part)
        for function in a.functions:
            assert f"`{function.split('.')[1]}" in text, (n, function)
        mine = make.handout(n, False)
        assert len(mine.splitlines()) <= 75
        assert "reference run" not in mine.lower(), f"{n}: a student has no reference runs"
        for command in re.findall(r"[^`\s]* assignments/curve.py", mine.replace("\n", " ")):
            assert command.startswith(".venv/bin/python "), f"{n}: {command}: this Python has no torch"
        if n in catalogue.GRADED:
            assert "come back then" in " ".join(mine.split()), f"{n}: curve.py needs other assignments"


@pytest.mark.slow
def test_the_public_tests_pass_in_the_teachers_folder(tmp_path):
    make.make(tmp_path / "t", list(catalogue.ASSIGNMENTS), teacher=True)
    run = subprocess.run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider"], cwd=tmp_path / "t",
        capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-3000:]
    assert "## Answers" in (tmp_path / "t" / "assignments" / "06-baseline.md").read_text()
