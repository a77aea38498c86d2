"""Assignment 2, public tests: which actions are imitated."""
import pytest
from check import fail, same, student


def mask(*types):
    """trained_actions of a trajectory with these types, s and v."""
    names = {"s": "solve", "v": "verify"}
    got = student("sft").trained_actions([{"type": names[t], "text": t} for t in types])
    if not isinstance(got, list):
        fail(f"trained_actions gives a list of bool, one for each action; yours is {got!r}")
    return got


@pytest.mark.assignment(2, points=2)
def test_one_round():
    """solve, verify: both are imitated"""
    same(mask(*"sv"), [True, True], "the mask of solve, verify", [
        ([False, True], "The last solution is masked: it is the right one and must be imitated."),
        ([True, False], "The verification is masked: every verification is imitated.")])


@pytest.mark.assignment(2, points=3)
def test_two_rounds():
    """a wrong solution is not imitated, its check is"""
    same(mask(*"svsv"), [False, True, True, True], "the mask of solve, verify, solve, verify", [
        ([True, True, True, True], "The first, wrong solution is imitated."),
        ([False, True, False, True], "The last solution is masked."),
        ([True, True, False, True], "It is the last solution that is imitated, not the first."),
        ([False, False, True, True], "The check of the wrong solution is masked: every verification is "
            "imitated.")])
