"""Assignment 2, hidden tests."""
import pytest
from check import fail, same, student
from test_02 import mask


@pytest.mark.assignment(2, points=2)
def test_three_rounds():
    """three rounds"""
    same(mask(*"svsvsv"), [False, True, False, True, True, True], "the mask of three rounds", [
        ([False, True, True, True, True, True], "Only the last solution is imitated; yours imitates all but "
            "the first."),
        ([True] * 6, "The wrong solutions are imitated."),
        ([True, True, False, True, False, True], "It is the last solution that is imitated, not the first.")])


@pytest.mark.assignment(2, points=2)
def test_a_trajectory_that_ends_with_a_solution():
    """the last solution is not always the last action but one"""
    same(mask(*"svs"), [False, True, True], "the mask of solve, verify, solve", [
        ([False, True, False], "You look for the last solution at a fixed place (the last action but "
            "one, say). "
         "Here a solution is the last action."),
        ([True, True, False], "You look for the last solution at a fixed place; here it is the last "
            "action.")])
    same(mask("s"), [True], "the mask of a single solution", [([False], "A single solution is the last "
        "solution.")])


@pytest.mark.assignment(2, points=1)
def test_no_actions():
    """an empty list; a list without a solution"""
    try:
        same(mask(), [], "the mask of no actions")
        same(mask("v"), [True], "the mask of a verification alone")
    except (ValueError, IndexError, StopIteration) as error:
        fail(f"An empty list, or one without a solution, must not fail: {type(error).__name__}: {error}")


@pytest.mark.assignment(2, points=2)
def test_action_objects():
    """actions may be verifier.Action objects"""
    verifier, sft = student("verifier"), student("sft")
    actions = [verifier.Action(t, "text", 0, 4) for t in ("solve", "verify", "solve", "verify")]
    try:
        got = sft.trained_actions(actions)
    except TypeError as error:
        fail(f"Actions come as dictionaries (from a file) or as Action objects (from parse_actions): {error}")
    same(got, [False, True, True, True], "the mask of four Action objects")
    same([type(x) for x in got], [bool] * 4, "the types in the mask")


@pytest.mark.assignment(2, points=1)
def test_input_is_left_alone():
    """the list of actions is not changed"""
    actions = [{"type": "solve", "text": "a"}, {"type": "verify", "text": "b"}]
    student("sft").trained_actions(actions)
    same(actions, [{"type": "solve", "text": "a"}, {"type": "verify", "text": "b"}], "the actions after "
        "the call")
