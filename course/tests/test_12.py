"""Assignment 12, public tests: the rewards R_a and R_o."""
import pytest
from check import same, student

SOLVE = {"r": "\\boxed{5}", "w": "\\boxed{6}", "n": "no answer"}
VERIFY = {"C": "Therefore, the answer is correct.", "I": "Therefore, the answer is incorrect.", "N": "Hm."}


def actions(spec):
    """'wIrC' -> a wrong solution, found incorrect, a right one, found correct; gold answer 5."""
    verifier = student("verifier")
    kinds = [("solve", SOLVE[x]) if x in SOLVE else ("verify", VERIFY[x]) for x in spec]
    return [verifier.Action(kind, text, 0, len(text)) for kind, text in kinds]


def process(spec, finished=True):
    """R_a of the actions."""
    return student("verifier").action_rewards(actions(spec), "5", finished)


def outcome(spec, finished=True):
    """R_o of the response."""
    return student("verifier").outcome_reward(actions(spec), "5", finished)


def stub_verdict():
    """Parser(v) for these tests, so that assignment 1 is not needed."""
    student("verifier").parse_verdict = lambda text: {VERIFY["C"]: "correct",
    VERIFY["I"]: "incorrect"}.get(text)


@pytest.mark.assignment(12, points=2)
def test_solutions_and_true_verdicts():
    """right and wrong solutions, verdicts that are the truth"""
    stub_verdict()
    same([process("rC"), process("wI")], [[1, 1], [-1, 1]], "R_a of 'right, correct' and 'wrong, incorrect'",
        [
        ([[1, 1], [-1, -1]], "A verification that finds an error is right: its reward is +1. You reward the "
            "word 'correct'."),
        ([[1, 1], [0, 1]], "A wrong action earns -1, not 0."), ([[-1, -1], [1, -1]], "+1 and -1 are "
            "swapped."),
        ([[True, True], [False, True]], "Rewards are the numbers +1 and -1."),
        ([[1, -1], [-1, 1]], "You compare the verdict with something else than the solution before it.")])


@pytest.mark.assignment(12, points=2)
def test_outcome():
    """R_o of a finished response of one round"""
    same([outcome("rC"), outcome("wC")], [1, -1], "R_o of a right and of a wrong solution", [
        ([1, 0], "A wrong response earns -1, not 0."), ([-1, 1], "+1 and -1 are swapped.")])
