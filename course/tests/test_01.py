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


@pytest.mark.assignment(1, points=3)
def test_where_the_cut_is():
    """a phrase belongs to the action that it opens"""
    texts = [text for _, text in cut(f"5. {WAIT} No. {AGAIN} 6.")]
    same(texts, ["5. ", f"{WAIT} No. ", f"{AGAIN} 6."], "texts of '5. Wait, ... No. Let me try again. 6.'", [
        ([f"5. {WAIT}", f" No. {AGAIN}", " 6."], "Off by one phrase: you cut behind the phrase; it opens an "
            "action "
         "and belongs to it, so the cut is at its first character."),
        (["5.", f" {WAIT} No.", f" {AGAIN} 6."], "The white space before a phrase stays with the action "
            "before."),
        (["5. ", " No. ", " 6."], "The connecting phrases are lost."),
        (["5.", f"{WAIT} No.", f"{AGAIN} 6."], "White space was stripped.")])


@pytest.mark.assignment(1, points=1)
def test_plain_verdicts():
    """Parser(v) of the two plain conclusions"""
    parse = student("verifier").parse_verdict
    same([parse(f"7*8=56. {RIGHT}"), parse(f"7*8=55. {WRONG}")], ["correct", "incorrect"], "two verdicts", [
        (["correct", "correct"], "Both are 'correct': the word 'incorrect' contains the word 'correct', so "
            "compare the whole conclusion."),
        (["incorrect", "incorrect"], "Both are 'incorrect': compare the whole conclusion, 'is correct'; "
            "findall gives the words of the conclusion alone."),
        (["incorrect", "correct"], "Correct and incorrect are swapped."),
        ([True, False], "A verdict is a text: 'correct' or 'incorrect', or None.")])
