"""verifier.py and equivalence.py on random texts that look like answers: no exception, a symmetric and reflexive result."""
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from equivalence import clean
from verifier import (action_rewards, check_gold, extract_boxed, is_equivalent, judge, outcome_reward,
                      parse_actions, parse_verdict)

PIECES = st.sampled_from(
    r"""\frac \dfrac \sqrt \sqrt[3] \binom \pi e i x y n \infty \cup \cap \setminus \in \mathbb{R} \pm \cdot
    \times
    \sin \cos \tan \ln \log \log_2 \le \ge \ne < > = + - * / ^ ^2 ^{ _{ _1 { } ( ) [ ] \{ \} | ,
    ; : ! % \% $ \circ
    ^\circ \text{ \text{and} or and cm \mathrm{~m} \left( \right] \begin{pmatrix} \end{pmatrix} & \\ 0 1 2 3
    10 1.5
    .25 1,000 1e3 e^ \overline{3} \boxed{ \lfloor \rfloor \langle \rangle \sum_{k=1}^{5} \ldots yes A (B) é ²
    √ ' \, \!
    """.split()) | st.sampled_from([" ", "\n", "\\ ", "0.\\overline{3}", "\x00", "12345678901234567890"])
LATEX = st.lists(PIECES, max_size=14).map("".join)
EXPRESSIONS = st.recursive(
    st.sampled_from(["1", "2", "0", "x", "y", r"\pi", "e", "i", "0.5", "12"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda t: f"({t[0]}{t[1]}{t[2]})"),
        st.tuples(inner, inner).map(lambda t: rf"\frac{{{t[0]}}}{{{t[1]}}}"),
        inner.map(lambda t: rf"\sqrt{{{t}}}"), inner.map(lambda t: f"{{{t}}}^{{2}}"),
        inner.map(lambda t: rf"\sin({t})"), st.tuples(inner, inner).map(lambda t: f"({t[0]},{t[1]})"),
        st.tuples(inner, inner).map(lambda t: rf"\{{{t[0]},{t[1]}\}}"), inner.map(lambda t: f"x={t}"),
        inner.map(lambda t: rf"|{t}|")), max_leaves=8)
ANSWERS = st.one_of(LATEX, EXPRESSIONS, st.text(max_size=30))
RELAXED = settings(max_examples=200, deadline=2000, suppress_health_check=list(HealthCheck), derandomize=True)


@RELAXED
@given(ANSWERS, ANSWERS)
@example(r"\sqrt1e3 cm", "5")
@example(r"\frac1.", "5")
@example(r"\sec^{-1}(2)", "5")
def test_symmetric_and_silent(a, b):
    forward = is_equivalent(a, b)
    assert forward in (True, False) and is_equivalent(b, a) is forward


@RELAXED
@given(ANSWERS)
def test_reflexive(a):
    assert is_equivalent(a, a) is bool(clean(a))
    assert (check_gold(a) is None) is bool(clean(a))


@RELAXED
@given(EXPRESSIONS)
def test_another_dress_is_the_same_answer(a):
    assert is_equivalent(rf"$\left({a}\right)$".replace(r"\frac", r"\dfrac"), a) or "," in a or "=" in a


@RELAXED
@given(EXPRESSIONS)
def test_one_more_is_another_answer(a):
    assert not is_equivalent(f"{a}+1", a)


@RELAXED
@given(st.lists(st.sampled_from(["Wait, let me recheck my solution.", "Let me try again.", "\n\n", "Wait",
"\\boxed{4}", " ",
                                 "Therefore, the answer is correct.", "\\boxed{", '"', "é", "so"]),
                                 max_size=12).map("".join))
def test_actions_cover_the_text_and_alternate(text):
    actions = parse_actions(text)
    assert "".join(action.text for action in actions) == text
    assert [action.type for action in actions] == (["solve", "verify"] * len(actions))[:len(actions)]
    assert set(action_rewards(actions, "4", True)) <= {1, -1} and outcome_reward(actions, "4", True) in (1,
    -1)
    assert parse_verdict(text) in ("correct", "incorrect", None)
    assert extract_boxed(text) is None or judge(text, "4") in (True, False)
