"""Assignment 12, hidden tests."""
import pytest
from check import fail, same, student
from test_12 import outcome, process, stub_verdict


@pytest.mark.assignment(12, points=3)
def test_false_verdicts():
    """verdicts that are not the truth; no verdict"""
    stub_verdict()
    same([process("rI"), process("wC")], [[1, -1], [-1, -1]], "R_a of 'right, incorrect' and 'wrong, "
        "correct'", [
        ([[1, -1], [-1, 1]], "You reward the word 'correct': a verification is right if its verdict is "
            "the truth."),
        ([[1, 1], [-1, 1]], "Every verification is rewarded."), ([[1, 0], [0, 0]], "A wrong action earns "
            "-1, not 0."),
        ([[1, 1], [-1, -1]], "A verification gets its solution's reward, whatever it says.")])
    same([process("rN"), process("wN")], [[1, -1], [-1, -1]], "R_a of verifications without a verdict", [
        ([[1, -1], [-1, 1]], "No verdict is taken for 'incorrect': it agrees with nothing, so -1."),
        ([[1, 1], [-1, -1]], "No verdict is taken for 'correct': it agrees with nothing, so -1."),
        ([[1, 0], [-1, 0]], "No verdict earns -1, not 0."), ([[1, -1], [0, 0]], "A wrong action earns "
            "-1, not 0.")])


@pytest.mark.assignment(12, points=3)
def test_each_check_judges_the_solution_before_it():
    """two rounds"""
    stub_verdict()
    same([process("wIrC"), process("rIwC")], [[-1, 1, 1, 1], [1, -1, -1, -1]], "R_a of two rounds", [
        ([[-1, -1, 1, 1], [1, 1, -1, -1]], "The first check is compared with the last solution: it judges "
            "the one before it."),
        ([[-1, 1, 1, -1], [1, -1, -1, 1]], "The second check is compared with the first solution: it judges "
            "the one before it."),
        ([[-1, -1, 1, 1], [1, -1, -1, 1]], "You reward the word 'correct': a verification is right if its "
            "verdict is the truth.")])
    same(process("nI"), [-1, 1], "R_a of a solution without an answer, found incorrect")


@pytest.mark.assignment(12, points=2)
def test_unfinished():
    """the last action of an unfinished response, and its R_o"""
    stub_verdict()
    same(process("wIr", False), [-1, 1, -1], "R_a of 'wrong, incorrect, right', cut off", [
        ([-1, 1, 1], "The last action of an unfinished response earns -1, whatever it says."),
        ([-1, -1, -1], "Only the last action of an unfinished response is punished.")])
    same(outcome("wIr", False), -1, "R_o of an unfinished response whose last solution is right", [
        (1, "An unfinished response earns R_o = -1.")])


@pytest.mark.assignment(12, points=2)
def test_the_last_solution_decides():
    """R_o is that of the last solution"""
    same([outcome("wIrC"), outcome("rIwC")], [1, -1], "R_o of 'wrong, then right' and 'right, then wrong'", [
        ([-1, 1], "You look at the first solution: the last one decides."),
        ([1, 1], "One right solution among several is not enough: the last one decides."),
        ([-1, -1], "All solutions must be right with yours: the last one decides.")])
    same(outcome("rI"), 1, "R_o of a right last solution that the model rejects", [
        (-1, "R_o does not ask what the verification says.")])


@pytest.mark.assignment(12, points=1)
def test_no_actions():
    """an empty list of actions"""
    verifier = student("verifier")
    try:
        got = [verifier.action_rewards([], "5", True), verifier.action_rewards([], "5", False),
               verifier.outcome_reward([], "5", True)]
    except (IndexError, ValueError, TypeError) as error:
        fail(f"An empty list of actions must not fail: {type(error).__name__}: {error}")
    same(got, [[], [], -1], "R_a, R_a unfinished and R_o of no actions")
