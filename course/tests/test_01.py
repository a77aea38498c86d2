"""Assignment 1, public tests: cutting a response into actions, reading a verdict."""
import pytest
from check import fail, same, student

WAIT, AGAIN = "Wait, let me recheck my solution.", "Let me try again."
RIGHT, WRONG = "Therefore, the answer is correct.", "Therefore, the answer is incorrect."
FOUR = f"\\boxed{{1}}\n\n{WAIT}\n\n7. {WRONG}\n\n{AGAIN}\n\n\\boxed{{2}}\n\n{WAIT}\n\n8. {RIGHT}"


def cut(text):
    """What parse_actions gives, as [(type, text)]."""
    found = student("verifier").parse_actions(text)
    if not isinstance(found, list) or not all(type(a).__name__ == "Action" for a in found):
        fail(f"parse_actions gives a list of Action objects (verifier.Action); yours: {str(found)[:200]}")
    return [(a.type, a.text) for a in found]


@pytest.mark.assignment(1, points=1)
def test_a_plain_solution():
    """a response without phrases is one solve action"""
    same(cut("so \\boxed{5}"), [("solve", "so \\boxed{5}")], "parse_actions('so \\boxed{5}')")


@pytest.mark.assignment(1, points=2)
def test_types_alternate():
    """the types of two rounds"""
    types = [kind for kind, _ in cut(FOUR)]
    same(types, ["solve", "verify", "solve", "verify"], "types of the actions of two whole rounds", [
        (["solve", "verify"], "Only the first round was cut: after a verification, 'Let me try again.' opens "
            "a solve."),
        (["verify", "solve", "verify"], "The text before the first phrase is the first solution.")])


@pytest.mark.assignment(1, points=2)
def test_texts_join_to_the_response():
    """the texts of the actions, one after the other, are the response"""
    parts = [text for _, text in cut(FOUR)]
    if "".join(parts) == "".join(FOUR.split()) or [p.strip() for p in parts] == parts:
        fail("White space was stripped: the texts of the actions, joined, must be the response, character by "
             f"character. Yours: {parts}")
    if WAIT not in "".join(parts):
        fail("The connecting phrases are lost: a phrase belongs to the action that it opens.")
    same("".join(parts), FOUR, "the joined texts")


@pytest.mark.assignment(1, points=1)
def test_plain_verdicts():
    """Parser(v) of the two plain conclusions"""
    parse = student("verifier").parse_verdict
    same([parse(f"7*8=56. {RIGHT}"), parse(f"7*8=55. {WRONG}")], ["correct", "incorrect"], "two verdicts", [
        (["incorrect", "correct"], "Correct and incorrect are swapped."), ([True, False],
            "A verdict is a text: "
         "'correct' or 'incorrect', or None.")])
