"""The course kit tests itself: blank hand-ins earn 0, the reference everything, mistakes are named; the grader holds."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

COURSE = Path(__file__).resolve().parent.parent / "course"
sys.path[:0] = [str(COURSE), str(COURSE / "tests")]

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
