"""Assignment 1, hidden tests."""
import pytest
from check import fail, same, student
from test_01 import AGAIN, FOUR, RIGHT, WAIT, WRONG, cut


@pytest.mark.assignment(1, points=3)
def test_transition_rule():
    """a phrase that the transition rule does not allow is plain text"""
    types = [kind for kind, _ in cut(f"5. {WAIT} Hm. {WAIT} {WRONG}")]
    same(types, ["solve", "verify"], "types of 'solution, Wait, Wait, verdict'", [
        (["solve", "verify", "verify"], "You cut at every phrase: inside a verification a second 'Wait, ...' "
            "is plain "
         "text, for a verify is followed by a solve."),
        (["solve", "verify", "solve"], "You cut at every phrase and let the types alternate: the second "
            "'Wait' opens "
         "nothing.")])
    types = [kind for kind, _ in cut(f"5. {AGAIN} 6. {WAIT} {RIGHT}")]
    same(types, ["solve", "verify"], "types of 'solution, Let me try again, solution, Wait, verdict'", [
        (["solve", "solve", "verify"], "You cut at every phrase: inside a solution 'Let me try again.' is "
            "plain text."),
        (["solve", "verify", "solve"], "You cut at every phrase and let the types alternate: 'Let me try "
            "again.' inside "
         "a solution opens nothing.")])
    types = [kind for kind, _ in cut(f"5. {WAIT} {RIGHT} {AGAIN} 6.")]
    same(types, ["solve", "verify", "solve"], "types where the model goes on after 'correct'", [
        (["solve", "verify"], "A retry after the verdict 'correct' does open a solve: the model did go on.")])


@pytest.mark.assignment(1, points=2)
def test_spans():
    """the cuts of two rounds; start and end are places in the response"""
    actions, phrases = student("verifier").parse_actions(FOUR), (WAIT, AGAIN, WAIT)
    for a, phrase in zip(actions[1:], phrases):
        if not a.text.startswith(phrase):
            fail(f"A phrase belongs to the action that it opens: the cut is at its first character. Yours "
                 f"begins with {a.text[:40]!r}, not with {phrase!r}.")
    for a in actions:
        if FOUR[a.start:a.end] != a.text:
            fail(f"start and end of an action are its span in the response: response[{a.start}:{a.end}] is "
                 f"{FOUR[a.start:a.end]!r}, but its text is {a.text!r}.")
    spans = [(a.start, a.end) for a in actions]
    cuts = [0, FOUR.index(WAIT), FOUR.index(AGAIN), FOUR.rindex(WAIT), len(FOUR)]
    same(spans, list(zip(cuts, cuts[1:])), "(start, end) of the actions of two whole rounds", [
        (list(zip(cuts, [end - 1 for end in cuts[1:]])), "Off by one: `end` is exclusive, the place "
            "where the next action begins."),
        (list(zip(cuts, [*cuts[1:4], len(FOUR) + 1])), "Off by one: the last action ends at len(text)."),
        (list(zip(cuts, [*cuts[1:4], len(FOUR) - 1])), "Off by one: the last action ends at len(text).")])


@pytest.mark.assignment(1, points=2)
def test_phrases_that_open_nothing():
    """quoted phrases, phrases with nothing before them, the empty response"""
    for quote in ('"', "'", "`", "\u201c", "\u00ab", "{"):
        text = f"He says {quote}{WAIT} and stops."
        same([kind for kind, _ in cut(text)], ["solve"], f"types of {text!r}", [(["solve", "verify"],
            "A phrase right behind an opening quotation mark (QUOTES) is only cited: it opens nothing.")])
    same([kind for kind, _ in cut(f"{WAIT} {RIGHT}")], ["solve"], "a phrase that no solution stands before", [
        (["solve", "verify"], "There is no solution before this phrase, only the empty text: it opens "
            "nothing."),
        (["verify"], "A response begins with a solve, whatever it says.")])
    same(cut(""), [("solve", "")], "the empty response", [([], "The empty response is one empty solve "
        "action.")])


@pytest.mark.assignment(1, points=2)
def test_the_last_conclusion_wins():
    """two conclusions in a verification"""
    parse = student("verifier").parse_verdict
    same(parse(f"{RIGHT} No, 7*9 is 63. {WRONG}"), "incorrect", "verdict of '... correct. ... incorrect.'", [
        ("correct", "You take the first conclusion: the last one wins.")])
    same(parse(f"{WRONG} I misread it. {RIGHT}"), "correct", "verdict of '... incorrect. ... correct.'", [
        ("incorrect", "The last conclusion wins, here it is 'correct'.")])


@pytest.mark.assignment(1, points=2)
def test_no_verdict():
    """text without a conclusion; an answer that cannot be verified"""
    parse = student("verifier").parse_verdict
    same(parse("Hence, the  answer\nIS Correct."), "correct", "verdict of 'Hence, the  answer<newline>IS "
        "Correct.'", [("incorrect", "Capitals and white space do not matter: VERDICT finds the words as they "
        "stand, so bring them into one form before you compare.")])
    same(parse("7*8=56, hm."), None, "verdict of a text without a conclusion", [
        ("incorrect", "No verdict is None, not 'incorrect': it agrees with nothing."),
        ("correct", "No verdict is None, not 'correct'.")])
    same(parse("Therefore, the answer cannot be verified."), "incorrect", "verdict of '... cannot be "
        "verified.'", [
        (None, "'cannot be verified' is a conclusion: it counts as incorrect.")])
    same(parse("Therefore, the answer is not correct."), "incorrect", "verdict of '... is not correct.'", [
        ("correct", "'is not correct' contains the word correct, but says the opposite."),
        (None, "'is not correct' is a conclusion: incorrect.")])
