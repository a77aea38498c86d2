"""evaluate.py: every metric on twelve hand-written responses, error bars, the report, bad input."""
import base64
import html
import itertools
import json
import math
import re
import sys

import numpy as np
import pytest

import evaluate
import verifier
from model import run_main
from verifier import SOLVE_PHRASE, VERIFY_PHRASE, action_rewards, parse_actions

C, I, U, N = "is correct", "is incorrect", "cannot be verified", None


def response(*parts):
    """answer, verdict, answer, ... -> a trajectory; answer None: no box, verdict N: no conclusion."""
    texts = []
    for j, part in enumerate(parts):
        if j % 2 == 0:
            body = "So it is unclear." if part is None else f"Thus $x$ = \\boxed{{{part}}}."
            texts.append(body if j == 0 else f"{SOLVE_PHRASE}\n\n{body}")
        else:
            end = "I am not sure." if part is None else f"Therefore, the answer {part}."
            texts.append(f"{VERIFY_PHRASE}\n\nPut it back in. {end}")
    return "\n\n".join(texts)


TWELVE = [  # first -> last, all gold answers are 10
    response(10, C),                    # right to right
    response(10, C),                    # right to right
    response(10, I, 10, C),             # right to right, refuted a right one, repeats it
    response(10, I, 11, C),             # right to wrong
    response(10),                       # right to right, no verification
    response(11, I, 10, C),             # wrong to right
    response(11, I, 12, I, 10, C),      # wrong to right
    response(11, C),                    # wrong to wrong
    response(11, I, 11, I, 12),         # wrong to wrong, one repeat; unfinished
    response(11, N),                    # wrong to wrong, no verdict
    response(None, I, 10, U),           # wrong to right, then doubted
    "",                                 # wrong to wrong: one empty solution
]


def rows(texts=TWELVE, samples=1, **fields):
    """Samples rows: `samples` texts to each problem, level 1 for the first half and 2 for the rest."""
    out = []
    for i in range(len(texts) // samples):
        mine = texts[i * samples:(i + 1) * samples]
        out.append({"id": f"p{i}", "problem": f"Problem {i}", "answer": "10",
                    "level": 1 + 2 * i * samples // len(texts), "responses": mine,
                    "finished": [t != TWELVE[8] for t in mine],
                    "tokens": [10 * (i + 1)] * samples, **fields})
    return out


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def run(monkeypatch, capsys):
    """run("base=a.jsonl", ...) -> (exit status, stdout, stderr) of the script, here, without pictures."""
    draw = evaluate.picture

    def call(*argv, picture=False):
        monkeypatch.setattr(evaluate, "picture", draw if picture else lambda *_: None)
        monkeypatch.setattr(sys, "argv", ["evaluate.py", "--bootstrap", "200", *(str(a) for a in argv)])
        status = 0
        try:
            run_main(evaluate.main)
        except SystemExit as stop:
            status = stop.code
        return (status, *capsys.readouterr())
    return call


# --------------------------------------------------------------------------- the numbers, worked out by hand

BY_HAND = {
    "first_accuracy": (5, 12), "final_accuracy": (7, 12),   # last right: 1 2 3 5 6 7 11
    "VA": (11, 17),         # right verdicts per response: 1 1 1 0 - 2 3 0 2 0 1 -
    "ER": (6, 9),           # checks of wrong solutions in 4 6 7 7 8 9 9 10 11, refuted in 6 7 7 9 9 11
    "CP": (5, 7),           # "correct" in 1 2 3 4 6 7 8, true in all but 4 and 8
    "ICR": (3, 7), "CIR": (1, 5), "CL": (4, 5), "CS": (3, 7),
    "trials": (20, 12), "tokens": (780, 12), "finished": (11, 12), "no_verdict": (1, 17),
    "repeats": (2, 8),      # retries in 3 4 6 7 7 9 9 11; 3 and the first one of 9 repeat
    "right_to_right": (4, 12), "right_to_wrong": (1, 12),
    "wrong_to_right": (3, 12), "wrong_to_wrong": (4, 12),
    "level=1 final_accuracy": (5, 6), "level=2 final_accuracy": (2, 6),     # 1 to 6 and 7 to 12
    "level=1 first_accuracy": (5, 6), "level=2 first_accuracy": (0, 6),
    "level=1 trials": (9, 6), "level=2 trials": (11, 6),
    "level=1 VA": (5, 8), "level=2 VA": (6, 9),
    "level=1 ICR": (1, 1), "level=2 ICR": (2, 6),
    "level=1 repeats": (1, 3), "level=2 repeats": (1, 5),
    "cut_after_1_accuracy": (5, 12), "cut_after_2_accuracy": (6, 12), "cut_after_3_accuracy": (7, 12),
}


def test_every_metric_by_hand():
    m = evaluate.metrics(evaluate.score(rows()))
    for name, (top, bottom) in BY_HAND.items():
        assert (m[name]["numerator"], m[name]["denominator"]) == (top, bottom), name
        assert m[name]["value"] == pytest.approx(top / bottom), name
        assert m[name]["low"] <= m[name]["value"] <= m[name]["high"], name
    # P = 5/12, F = 7/12: (7/12 - 25/144) / (2 * 5/12 * 7/12) = (59/144) / (70/144)
    assert m["RSS"]["value"] == pytest.approx(59 / 70)
    assert (m["RSS"]["numerator"], m["RSS"]["denominator"]) == pytest.approx((59 / 144, 70 / 144))
    assert m["RSS"]["low"] < 59 / 70 < m["RSS"]["high"]
    assert set(m) == set(BY_HAND) | {"RSS"} | {f"cut_after_{j}_tokens" for j in (1, 2, 3)}


def test_no_gain_is_half_and_the_bounds_are_nought_and_one():
    def rss(first, last, n=100):
        one = [response(10 if i < first else 11, I, 10 if i < last else 11, C) for i in range(n)]
        return evaluate.metrics(evaluate.score(rows(one)), 10)["RSS"]["value"]
    assert rss(40, 40) == pytest.approx(0.5)
    assert rss(40, 16) == pytest.approx(0)       # 0.4² right
    assert rss(40, 64) == pytest.approx(1)       # 1 - 0.6² right
    assert rss(100, 90) is None and rss(0, 0) is None


def test_tokens_up_to_a_cut():
    text = response(11, I, 10, C)
    m = evaluate.metrics(evaluate.score(rows([text, response(10)])))
    first, _, second, _ = parse_actions(text)
    both = (10 * first.end / len(text) + 20) / 2    # tokens are 10 and 20; the second is one solution
    assert m["cut_after_1_tokens"]["value"] == pytest.approx(both)
    assert m["cut_after_2_tokens"]["value"] == pytest.approx((10 * second.end / len(text) + 20) / 2)


def test_a_response_that_is_not_cut_pays_for_its_last_check_too():
    m = evaluate.metrics(evaluate.score(rows([response(10, C), response(11, I, 10)], level=None)))
    solution, check = parse_actions(response(10, C))
    assert m["cut_after_2_tokens"]["numerator"] == pytest.approx(10 + 20)
    first = parse_actions(response(11, I, 10))[0]
    assert m["cut_after_1_tokens"]["numerator"] == pytest.approx(
        10 * solution.end / check.end + 20 * first.end / len(response(11, I, 10)))


def test_undefined_is_none_and_a_dash_never_nought():
    m = evaluate.metrics(evaluate.score(rows([response(10), response(10)], level=None, tokens=[None])))
    for name in ("VA", "ER", "CP", "ICR", "CS", "RSS", "no_verdict", "repeats", "tokens"):
        assert (m[name]["value"], m[name]["low"], m[name]["high"]) == (None, None, None), name
        assert evaluate.cell(name, m[name]) == "–", name
    assert m["CIR"]["value"] == 0 and evaluate.cell("CIR", m["CIR"]).startswith("0.0 [0.0, ")
    assert not any(name.startswith("level=") for name in m)


def test_fields_that_other_engines_leave_out(tmp_path):
    bare = [{"problem": r["problem"], "answer": 10, "responses": r["responses"]} for r in rows()]
    m = evaluate.metrics(evaluate.score(evaluate.read_aligned({"a": write(tmp_path / "a.jsonl", bare)})["a"]))
    assert m["final_accuracy"]["numerator"] == 7
    assert m["tokens"]["value"] is None and m["finished"]["value"] is None


def test_level_is_read_as_math_writes_it(tmp_path):
    path = write(tmp_path / "a.jsonl", [{**row, "level": f"Level {row['level']}"} for row in rows()])
    assert [row["level"] for row in evaluate.read_aligned({"a": path})["a"]] == [1] * 6 + [2] * 6


def one(*texts, **fields):
    """metrics of one problem with these responses, or of a problem each where fields say samples=1."""
    return evaluate.metrics(evaluate.score(rows(list(texts), **{"samples": len(texts), **fields})), 10)


def pair(m, name):
    return m[name]["numerator"], m[name]["denominator"]


def test_a_verdict_is_about_the_solution_before_it():
    """Wrong, incorrect, right, correct: not about the last solution, nor about the first."""
    m = one(response(11, I, 10, C))
    assert [pair(m, name) for name in ("VA", "ER", "CP")] == [(2, 2), (1, 1), (1, 1)]
    m = one(response(10, C, 11, C))
    assert [pair(m, name) for name in ("VA", "ER", "CP")] == [(1, 2), (0, 1), (1, 2)]


def test_no_verdict_is_neither_correct_nor_incorrect():
    m = one(response(10, N), response(11, N), response(11, U))
    assert [pair(m, name) for name in ("VA", "ER", "CP")] == [(1, 3), (1, 2), (0, 0)]
    assert pair(m, "no_verdict") == (2, 3)      # "cannot be verified" is a verdict: incorrect


@pytest.mark.parametrize("answers, repeats", [
    ((11,), (0, 0)), ((11, 11), (1, 1)), ((10, 10), (1, 1)), ((11, 12, 11), (1, 2)), ((11, 11, 11), (2, 2)),
    (("0.5", "\\frac{1}{2}"), (1, 1)), ((None, None), (0, 1)), (("", ""), (0, 1)), ((11, 10, 12), (0, 2)),
])
def test_repeats(answers, repeats):
    """Retries that give again an answer of the same response, in whatever spelling; no answer repeats nothing."""
    parts = [x for answer in answers for x in (answer, I)]
    assert pair(one(response(*parts)), "repeats") == repeats


def test_answers_of_another_response_are_no_repeats():
    assert pair(one(response(11, I, 12), response(12, I, 11)), "repeats") == (0, 2)


def test_accuracy_counts_unfinished_responses():
    """design.md: the last boxed answer decides; `finished` stands beside it."""
    m = one(response(11, I, 10), response(10), response(11), samples=1, finished=[False])
    assert pair(m, "final_accuracy") == (2, 3) and pair(m, "first_accuracy") == (1, 3)
    assert pair(m, "finished") == (0, 3)


def test_what_is_not_known_is_not_counted():
    texts = [response(10)] * 4
    m = one(*texts, finished=[True, None, False, None], tokens=[0, 10, None, 20])
    assert pair(m, "finished") == (1, 2) and pair(m, "tokens") == (30, 3)
    assert pair(m, "cut_after_1_tokens") == (30, 3)


def test_an_empty_box_is_no_answer():
    r = evaluate.score(rows([response("", I, 10)]))[0]
    assert (r.right, r.answers) == ([False, True], [None, True])


def test_each_problem_has_its_own_answer():
    """The same wording is right for one problem and wrong for the next."""
    sample = [{**row, "answer": gold} for row, gold in zip(rows([response(10), response(10, I, 11)]), ("10", "11"))]
    assert [r.right for r in evaluate.score(sample)] == [[True], [False, True]]


def test_cut_after_at_most_eight_solutions():
    m = one(response(*[11, I] * 9, 10), response(10))
    assert pair(m, "trials") == (11, 2) and "cut_after_9_accuracy" not in m
    assert pair(m, "cut_after_8_accuracy") == (1, 2) and pair(m, "final_accuracy") == (2, 2)


def test_parts_are_the_metrics_of_their_problems_alone():
    """Levels and subjects: the same counts and Wilson intervals as a file with these problems only."""
    sample = [{**row, "subject": ["sums", "ages = a", None][i % 3]} for i, row in enumerate(rows())]
    whole, found = evaluate.metrics(evaluate.score(sample)), []
    for field, values in (("level", (1, 2)), ("subject", ("sums", "ages = a"))):
        for value in values:
            alone = evaluate.metrics(evaluate.score([row for row in sample if row[field] == value]))
            for name in ("first_accuracy", "final_accuracy", "VA", "ICR", "repeats", "trials"):
                m = whole[f"{field}={value} {name}"]
                found.append(f"{field}={value} {name}")
                assert pair(whole, found[-1]) == pair(alone, name) and m["value"] == alone[name]["value"]
                if name != "trials":        # this one is bootstrapped, over other problems
                    assert (m["low"], m["high"]) == pytest.approx((alone[name]["low"], alone[name]["high"]))
    assert sorted(name for name in whole if "=" in name) == sorted(found)


@pytest.mark.parametrize("values, shown", [
    (["a"] * 13, 0), ([*"ab"] * 6, 2), ([*"abcdefghijkl"], 12), ([*"abcdefghijklm"], 0), (["a", None] * 6, 0),
    ([1, 2] * 6, 0), ([["a"], ["b"]] * 6, 0)])
def test_parts_need_two_to_twelve_values(values, shown):
    sample = [{**rows([response(10)], level=None)[0], "id": str(i), "subject": v} for i, v in enumerate(values)]
    m = evaluate.metrics(evaluate.score(sample), 10)
    assert sum(name.endswith(" final_accuracy") for name in m) == shown


# -------------------------------------------------------------------------------------- several responses

def test_pass_at_k_is_the_mean_over_all_subsets():
    for n, c in itertools.product(range(1, 8), range(8)):
        for k in range(1, n + 1):
            if c <= n:
                subsets = list(itertools.combinations([True] * c + [False] * (n - c), k))
                assert evaluate.pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_majority():
    assert evaluate.majority([True, "7", "7"]) == 0
    assert evaluate.majority([True, "7", None, None, None]) == 0.5    # no answer does not vote
    assert evaluate.majority([True, True, "7"]) == 1
    assert evaluate.majority([None]) == 0
    assert evaluate.majority([True, "7", "8"]) == pytest.approx(1 / 3)          # three share the point


def test_several_responses_by_hand():
    texts = [*map(response, ["10", "10.0", "7", "7"]),          # a tie of right and 7
             *map(response, ["0.5", "\\frac{1}{2}", "10", None])]  # two spellings of one wrong answer win
    scored = evaluate.score(rows(texts, samples=4))
    m = evaluate.metrics(scored)
    assert scored[4].answers == scored[5].answers and scored[7].answers == [None]
    assert m["pass@1"]["value"] == pytest.approx((2 / 4 + 1 / 4) / 2)      # the mean accuracy
    assert m["pass@2"]["value"] == pytest.approx((5 / 6 + 1 / 2) / 2)
    assert m["pass@4"]["value"] == 1
    assert m["maj@2"]["value"] == pytest.approx(((1 + 0) / 2 + (0 + 1) / 2) / 2)
    assert m["maj@4"]["value"] == pytest.approx((1 / 2 + 0) / 2)
    assert m["distinct_answers"]["value"] == 2
    assert "maj@1" not in m


def test_five_of_six_responses_make_whole_groups():
    """Problems with 5 and 6 responses: k is 1, 2, 4, 5; maj@2 leaves the fifth out, maj@4 the rest."""
    five, six = (7, 10, 10, 7, 7), (10, 10, 8, 8, 8, 8)
    sample = [*rows([*map(response, five)], samples=5), *rows([*map(response, six)], samples=6, id="other")]
    m = evaluate.metrics(evaluate.score(sample), 10)
    assert [name for name in m if "@" in name] == [f"{x}@{k}" for k in (1, 2, 4, 5) for x in ("pass", "maj")
                                                   if (x, k) != ("maj", 1)]
    assert m["maj@2"]["value"] == pytest.approx(((1 / 2 + 1 / 2) / 2 + (1 + 0 + 0) / 3) / 2)
    assert m["maj@4"]["value"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert m["maj@5"]["value"] == 0      # three 7s of five; three 8s of the first five of six
    assert m["pass@4"]["value"] == pytest.approx((1 + 1 - 1 / 15) / 2)      # the four 8s: one group in fifteen


def test_the_last_answer_of_a_response_votes():
    """First answers right, right, 7; last ones 8, 8, right: one of three passes, and 8 wins."""
    m = one(response(10, I, 8), response(10, I, 8), response(7, I, 10))
    assert m["pass@1"]["value"] == pytest.approx(1 / 3) and m["maj@3"]["value"] == 0
    assert m["distinct_answers"]["value"] == 2


def test_answers_are_judged_once_a_problem(monkeypatch):
    calls, real = [], verifier.is_equivalent
    monkeypatch.setattr(verifier, "is_equivalent", lambda a, b: calls.append((a, b)) or real(a, b))
    evaluate.score(rows([response(11, I, a, C) for a in (11, 10, 12, 12)] * 4, samples=16))
    assert sorted(calls) == [("10", "10"), ("11", "10"), ("12", "10"), ("12", "11")]    # gold; then each other


# --------------------------------------------------------------------------------------------- error bars

def test_wilson_of_single_responses():
    m = evaluate.metrics(evaluate.score(rows()))["final_accuracy"]
    assert (m["low"], m["high"]) == pytest.approx((0.3195, 0.8067), abs=1e-4)   # 7 of 12, from a table


def test_wilson_with_a_design_effect_by_hand():
    # Σ (hits - p n)² = 1460/289 over the problems, n p (1 - p) = 1122/289: the 17 checks count as 17 / 1.301
    p, n = 11 / 17, 17 / (1460 / 1122)
    m = evaluate.metrics(evaluate.score(rows()))["VA"]
    for end in (m["low"], m["high"]):     # Wilson's ends solve (p - x)² = z² x (1 - x) / n
        assert (p - end) ** 2 == pytest.approx(1.959964 ** 2 * end * (1 - end) / n)


def test_a_design_effect_below_one_does_not_count():
    """One right answer of two in every problem: the interval is that of 8 of 16, not that of 8 of infinity."""
    m = evaluate.metrics(evaluate.score(rows([response(10), response(11)] * 8, samples=2)))["final_accuracy"]
    for end in (m["low"], m["high"]):
        assert (0.5 - end) ** 2 == pytest.approx(1.959964 ** 2 * end * (1 - end) / 16)


def test_copies_of_a_response_add_no_certainty():
    one = evaluate.metrics(evaluate.score(rows()))
    four = evaluate.metrics(evaluate.score(rows([t for t in TWELVE for _ in range(4)], samples=4)))
    for name in ("first_accuracy", "final_accuracy", "VA", "ICR", "CIR", "wrong_to_right", "trials", "level=1 VA"):
        for end in ("low", "high"):
            assert four[name][end] == pytest.approx(one[name][end]), name
    sure = evaluate.metrics(evaluate.score(rows([response(10)] * 40, samples=4)))["final_accuracy"]
    plain = evaluate.metrics(evaluate.score(rows([response(10)] * 10)))["final_accuracy"]
    assert (sure["low"], sure["high"]) == (plain["low"], plain["high"])


def test_problems_without_a_check_give_no_certainty():
    """Two problems with four right checks each, two without any: VA is 1 as of two problems."""
    m = evaluate.metrics(evaluate.score(rows([*[response(10, C)] * 8, *[response(10)] * 8], samples=4)))["VA"]
    assert (m["numerator"], m["denominator"]) == (8, 8)
    assert m["low"] == pytest.approx(2 / (2 + 1.959964 ** 2))       # Wilson's lower end of n of n is n / (n + z²)


def draw(rng, n, first, gain, loss):
    """n responses: first right with `first`, wrong ones mended with `gain`, right ones spoilt with `loss`."""
    out = []
    for _ in range(n):
        right = rng.random() < first
        then = rng.random() < (1 - loss if right else gain)
        out.append(response(10 if right else 11, I, 10 if then else 12, C))
    return out


def test_bootstrap_interval_is_the_normal_one_for_a_mean():
    texts = [response(*[11, I] * (i % 4), 10, C) for i in range(400)]    # trials 1 2 3 4
    m = evaluate.metrics(evaluate.score(rows(texts)))["trials"]
    half = 1.96 * math.sqrt(1.25 / 400)
    assert (m["low"], m["high"]) == pytest.approx((2.5 - half, 2.5 + half), abs=0.02)


def test_difference_is_paired():
    rng = np.random.default_rng(0)
    a = evaluate.score(rows(draw(rng, 300, 0.5, 0, 0)))
    b = [evaluate.Scored(**{**r.__dict__, "right": [True, True] if i % 10 == 0 else r.right})
         for i, r in enumerate(a)]       # one answer in ten made right, all others the same
    d = evaluate.differences(b, a)["final_accuracy"]
    gains = np.array([y.right[-1] - x.right[-1] for x, y in zip(a, b)], float)
    half = 1.96 * gains.std() / math.sqrt(300)      # unpaired it would be four times as wide
    assert d["value"] == pytest.approx(gains.mean())
    assert (d["low"], d["high"]) == pytest.approx((gains.mean() - half, gains.mean() + half), abs=0.006)
    assert d["p"] < 0.005
    same = evaluate.differences(a, a)["final_accuracy"]
    assert (same["value"], same["low"], same["high"], same["p"]) == (0, 0, 0, 1)


def test_interval_by_hand():
    """97 resamples 1, 2, ..., 97, one of -1 and an undefined one, around 50: p = 2 (1 + 1) / (1 + 98)."""
    value, low, high, p = evaluate.interval(np.array([50, -1, np.nan, *range(1, 98)], float))
    assert (value, p) == (50, pytest.approx(4 / 99))
    assert (low, high) == pytest.approx((2.425, 94.575))       # at 97 * .025 and 97 * .975
    assert evaluate.interval(np.array([3.0, 0, 0, 0])) == (3, 0, 0, 1)
    assert evaluate.interval(np.array([-3.0, -1, -1, -1]))[3] == pytest.approx(2 / 4)
    assert evaluate.interval(np.array([np.nan, np.nan])) == (None, None, None, None)


def test_a_rate_of_every_problem_has_a_wilson_interval_and_others_a_bootstrap():
    sure = one(*[response(10)] * 8, samples=2)
    assert (sure["pass@2"]["low"], sure["pass@2"]["high"]) == pytest.approx((0.5101, 1), abs=1e-4)    # 4 of 4
    half = one(*[response(10), response(11)] * 4, samples=2)["pass@1"]
    assert (half["value"], half["low"], half["high"]) == (0.5, 0.5, 0.5)     # each problem has one half


def test_differences_by_part_are_paired_too():
    a, b = rows(), rows([response(10, C)] * 6 + TWELVE[6:])
    d = evaluate.differences(evaluate.score(b), evaluate.score(a), 200)
    assert d["level=1 final_accuracy"]["value"] == pytest.approx(1 / 6)
    assert d["level=1 VA"]["value"] == pytest.approx(1 - 5 / 8)
    assert [d["level=2 VA"][key] for key in ("value", "low", "high", "p")] == [0, 0, 0, 1]
    assert d["level=1 ICR"]["value"] is None, "nothing of it is wrong at first any more"


def test_p_values_are_fair_when_nothing_differs():
    rng, low = np.random.default_rng(1), 0
    scored = {right: evaluate.score(rows([response(10 if right else 11, C)]))[0] for right in (True, False)}

    def model():
        return [evaluate.Scored(**{**scored[bool(rng.random() < 0.6)].__dict__, "row": {"id": str(i)}})
                for i in range(80)]
    for _ in range(100):
        low += evaluate.differences(model(), model(), bootstrap=200)["final_accuracy"]["p"] < 0.05
    assert 1 <= low <= 14       # 5 expected; a binomial count is outside with p < 0.01


# ------------------------------------------------------------------------------------------------ the report

def cells_of(markdown):
    return [[c.strip() for c in line.split("|")[1:-1]] for line in markdown.splitlines() if line.startswith("|")]


def test_report(tmp_path, run, monkeypatch):
    nasty = "<script>alert('x')</script> & $x$"
    base, other = rows(), rows([response(10, C)] * 6 + TWELVE[6:])
    base[0]["problem"] = other[0]["problem"] = nasty
    base[0]["responses"][0] += nasty
    write(tmp_path / "base.jsonl", base)
    write(tmp_path / "b.jsonl", other[::-1])     # the order of the lines does not matter
    steps = [{"step": i, "kl": 1 / (i + 1), "VA": None, "note": "text", "reward": i} for i in range(30)]
    write(tmp_path / "metrics.jsonl", steps)
    monkeypatch.chdir(tmp_path)
    status, out, err = run("base=base.jsonl", "<BI>=b.jsonl", "--out", "report", "--metrics",
                           "<BI>=metrics.jsonl", picture=True)
    assert (status, err) == (0, "")
    report = json.loads((tmp_path / "report" / "report.json").read_text("utf-8"))
    assert report["models"]["base"] == evaluate.metrics(evaluate.score(base), 200)
    assert report["models"]["<BI>"]["final_accuracy"]["numerator"] == 8
    assert report["differences"]["<BI>"]["final_accuracy"]["value"] == pytest.approx(1 / 12)
    assert list(report["differences"]) == ["<BI>"] and report["against"] == "base" and report["levels"] == ["1", "2"]

    text = (tmp_path / "report" / "report.html").read_text("utf-8")
    assert "<script" not in text and html.escape(nasty) in text and "&lt;BI&gt;" in text
    assert not re.search(r"(src|href)=.?(?!data:)\w+:", text)       # nothing is fetched
    pictures = re.findall(r"data:image/png;base64,([^\"]+)", text)
    assert len(pictures) == 1 and base64.b64decode(pictures[0]).startswith(b"\x89PNG")
    assert base64.b64decode(pictures[0]) == (tmp_path / "report" / "report.png").read_bytes()
    assert text.count("<details>") == text.count("</details>") == 2 * (4 + 12)
    written = sorted(p.name for p in (tmp_path / "report").iterdir())
    assert written == ["report.html", "report.json", "report.md", "report.png"]

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    assert run("base=base.jsonl", "--out", "other", picture=True)[0] == 2
    assert list((tmp_path / "other").iterdir()) == []               # no half a picture


def test_the_terminal_is_short_and_the_file_has_all(tmp_path, run):
    write(tmp_path / "a.jsonl", rows())
    write(tmp_path / "b.jsonl", rows([response(10, C)] * 6 + TWELVE[6:]))
    status, out, err = run(f"a={tmp_path}/a.jsonl", f"b={tmp_path}/b.jsonl", "--out", tmp_path / "r")
    assert (status, err) == (0, "")
    lines, cells = out.splitlines(), cells_of(out)
    assert len(lines) < 25 and max(map(len, lines)) < 150
    columns = "first final VA ER CP ICR CIR repeats trials finished L1 L2".split()
    assert cells[0] == ["", *columns, "final − a"]
    # 7 of 12 by Wilson; ... ; 20 trials in 12 responses; levels 5 of 6, 2 of 6
    assert cells[2] == ["a", "41.7 [19.3, 68.0]", "58.3 [32.0, 80.7]", "64.7", "66.7", "71.4", "42.9", "20.0",
                        "25.0", "1.67", "91.7", "83.3", "33.3", "–"]
    assert cells[3][0] == "b" and re.fullmatch(r"\+8\.3 p=\d\.\d{3}", cells[3][-1])
    assert cells[4] == ["", "b"] and [row[0] for row in cells[6:]] == [
        "final accuracy", "first accuracy", "VA", "ICR", "repeats", "trials"]
    assert re.fullmatch(r"\+8\.3 \[[+-]\d+\.\d, \+\d+\.\d\] p=\d\.\d{3}", cells[6][1])
    tables = [t.splitlines() for t in out.split("\n\n") if t.startswith("|")]
    assert [len({len(line) for line in table}) for table in tables] == [1, 1]       # aligned
    assert lines[-1] == f"wrote report.json, report.md, report.html to {tmp_path}/r"
    whole = (tmp_path / "r" / "report.md").read_text("utf-8")
    assert all("\n".join(table) in whole for table in tables)
    assert "| 64.7 [" in whole and "11/17" in whole and "| cut after 2 tokens" in whole
    every = [row[0] for row in cells_of(whole)][12:]
    assert [n for n in every if "=" in n] == every[-12:], "parts stand last"


@pytest.mark.parametrize("name, m, short, whole", [
    ("VA", dict(value=.5, low=.25, high=.75, numerator=2.0, denominator=4.0), "50.0", "50.0 [25.0, 75.0] 2/4"),
    ("final_accuracy", dict(value=.5, low=.25, high=.75, numerator=2.0, denominator=4.0), "50.0 [25.0, 75.0]",
     "50.0 [25.0, 75.0] 2/4"),
    ("level=1 trials", dict(value=1.5, low=None, high=None, numerator=6.0, denominator=4.0), "1.50", "1.50 6/4"),
    ("RSS", dict(value=.5, low=.4, high=.6, numerator=.1, denominator=.2), "0.50", "0.50 [0.40, 0.60]"),
    ("VA", dict(value=.05, low=-.01, high=.11, p=.04), "+5.0 p=0.040", "+5.0 [-1.0, +11.0] p=0.040"),
    ("VA", dict(value=-.0001, low=-.01, high=.11, p=.0009), "+0.0 p<0.001", "+0.0 [-1.0, +11.0] p<0.001"),
    ("VA", dict(value=0, low=None, high=None, p=None), "+0.0", "+0.0"),
    ("VA", dict(value=None, low=None, high=None, numerator=0.0, denominator=0.0), "–", "–"), ("VA", None, "–", "–"),
])
def test_cells(name, m, short, whole):
    assert (evaluate.cell(name, m, short=True), evaluate.cell(name, m)) == (short, whole)


def test_subjects_are_compared_on_the_terminal(tmp_path, run):
    for name, texts in (("a", TWELVE), ("b", [response(10, C)] * 6 + TWELVE[6:])):
        write(tmp_path / f"{name}.jsonl", [{**r, "subject": "x | y" if i < 6 else "z"}
                                           for i, r in enumerate(rows(texts))])
    status, out, err = run(f"a={tmp_path}/a.jsonl", f"b={tmp_path}/b.jsonl", "--out", tmp_path / "r")
    found = {row[0]: row[1] for row in cells_of(out.replace("x \\| y", "xy"))[5:]}
    assert found["subject=xy final accuracy"].startswith("+16.7 [")
    assert found["subject=z VA"] == "+0.0 [+0.0, +0.0] p=1.000"
    assert [sum(field in name for name in found) for field in ("subject=", "level=")] == [12, 0]


def test_against(tmp_path, run):
    """The order of the table is that of the command line, whoever is the baseline."""
    for name, texts in (("a", TWELVE), ("b", [response(10, C)] * 6 + TWELVE[6:])):
        write(tmp_path / f"{name}.jsonl", rows(texts))
    names = [f"{name}={tmp_path}/{name}.jsonl" for name in "ab"]
    status, out, err = run(*names, "--against", "b", "--out", tmp_path / "r")
    assert [row[0] for row in cells_of(out)[2:4]] == ["a", "b"] and cells_of(out)[0][-1] == "final − b"
    report = json.loads((tmp_path / "r" / "report.json").read_text("utf-8"))
    assert report["differences"]["a"]["final_accuracy"]["value"] == pytest.approx(-1 / 12)
    status, out, err = run(*names, "--against", "c", "--out", tmp_path / "s")
    assert status == 2 and "--against c" in err and not (tmp_path / "s").exists()


def test_the_report_counts_problems_not_responses(tmp_path, run):
    write(tmp_path / "a.jsonl", rows(samples=4))
    assert run(f"a={tmp_path}/a.jsonl", "--out", tmp_path / "r")[1].startswith("3 problems, ")


def test_the_same_responses_in_another_order_differ_by_nothing(tmp_path, run):
    write(tmp_path / "a.jsonl", rows())
    write(tmp_path / "b.jsonl", rows()[::-1])
    run(f"a={tmp_path}/a.jsonl", f"b={tmp_path}/b.jsonl", "--out", tmp_path / "r")
    found = json.loads((tmp_path / "r" / "report.json").read_text("utf-8"))["differences"]["b"]
    assert all((m["value"], m["low"], m["high"]) == (0, 0, 0) for m in found.values())


def test_columns_that_are_undefined_are_left_out(tmp_path, run):
    write(tmp_path / "a.jsonl", rows([response(10), response(11)], level=None, finished=[None]))
    status, out, err = run(f"a={tmp_path}/a.jsonl", "--out", tmp_path / "r")
    header = [c.strip() for c in out.splitlines()[2].split("|")[1:-1]]
    assert header == ["", "first", "final", "ICR", "CIR", "trials"] and "difference" not in out


def test_page_shows_the_rewards_of_the_verifier():
    for row, r in zip(rows(), evaluate.score(rows())):
        text = evaluate.trajectory(r)
        shown = [int(x) for x in re.findall(r"class=reward-?1>\w+ ([+-]1)", text)]
        assert shown == action_rewards(parse_actions(row["responses"][0]), "10", row["finished"][0])
        assert [int(c) for c in re.findall(r"class=reward(-?1)", text)] == shown
    assert re.findall(r"\w+ [+-]1", evaluate.trajectory(r_of(response(10, I, 11, C)))) == [
        "solve +1", "verify -1", "solve -1", "verify -1"]
    assert "unfinished" in evaluate.trajectory(r_of(TWELVE[8])) and "unfinished" not in text
    assert "verify -1" in evaluate.trajectory(r_of(response(10, C), finished=[False]))
    assert "verify +1" in evaluate.trajectory(r_of(response(10, C), finished=[None]))     # not known: not punished


def r_of(text, **fields):
    return evaluate.score(rows([text], **fields))[0]


def test_page_shows_six_of_each_kind_spread_over_all():
    scored = evaluate.score(rows([response(10)] * 20 + [response(11)] * 6))
    text = evaluate.page({"models": {}, "differences": {}, "against": "a", "levels": [], "problems": 26, "shown": ""},
                         None, {"a": scored})
    assert [i for i in range(26) if f"· Problem {i}<" in text] == [0, 3, 6, 9, 12, 15, *range(20, 26)]
    for title in ("right_to_right: 20 of 26", "right_to_wrong: 0 of 26", "wrong_to_wrong: 6 of 26"):
        assert title in text


class Axes:
    """Stands for matplotlib's: keeps what it is told to draw."""
    def __init__(self):
        self.bars, self.lines = [], []

    def bar(self, at, y, width, yerr, **_):
        self.bars.append((at.tolist(), y.tolist(), yerr.tolist(), width))

    def plot(self, x, y, *_, **__):
        self.lines.append((list(x), list(y)))

    def set_xticks(self, at, labels):
        self.labels = list(labels)


def test_bars_by_hand():
    ax, colours = Axes(), {"a": "C0", "b": "C1"}
    evaluate.bars(ax, {"a": {"VA": [50, 40, 70], "ER": [10, 5, 12]}, "b": {"ER": [20, 20, 21]}}, colours,
                  {"VA": "VA", "recall": "ER"})
    (at, y, errors, width), (then, other, more, _) = ax.bars
    assert ax.labels == ["VA", "recall"] and y == [50, 10] and errors == [[10, 5], [20, 2]]
    assert math.isnan(other[0]) and other[1] == 20 and [row[1] for row in more] == [0, 1]
    assert at == pytest.approx([-0.2, 0.8]) and then == pytest.approx([0.2, 1.2]) and width == pytest.approx(0.37)


def test_running_mean_by_hand():
    ax = Axes()
    evaluate.lines(ax, {"a": [(1, 4), (2, 6)], "b": [(i, 9 * (i == 20)) for i in range(40)]}, {"a": "C0", "b": "C1"})
    assert ax.lines[:2] == [([1, 2], [4, 6])] * 2                       # few points: they are the line
    assert [round(y) for y in ax.lines[3][1]] == [0] * 18 + [2, 2, 2, 2, 2] + [0] * 17     # 9 over 2 + 1 + 2


def test_what_the_picture_draws(tmp_path, monkeypatch):
    """Every panel of the report shows the metric of its label, in percent, with its interval."""
    pytest.importorskip("matplotlib")
    m, drawn, curves = evaluate.metrics(evaluate.score(rows()), 50), {}, []
    monkeypatch.setattr(evaluate, "bars", lambda ax, data, colours, labels: drawn.update(
        {label: data["BI"][name].tolist() for label, name in labels.items()}))
    monkeypatch.setattr(evaluate, "lines", lambda ax, data, colours: curves.append(data))
    runs = {"run": {key: [(1, i)] for i, key in enumerate(evaluate.CURVES)}}
    evaluate.picture({"models": {"BI": m}, "levels": ["1", "2"]}, runs, tmp_path / "p.png")
    names = {"first": "first_accuracy", "final": "final_accuracy", "VA": "VA", "ER": "ER", "CP": "CP",
             "ICR: wrong to right": "ICR", "CIR: back": "CIR", "1": "level=1 final_accuracy",
             "2": "level=2 final_accuracy"}     # of the two panels by level, trials come first
    assert drawn == {label: [pytest.approx(100 * m[name][key]) for key in ("value", "low", "high")]
                     for label, name in names.items()}
    assert curves[0] == {"BI": [(m[f"cut_after_{j}_tokens"]["value"], pytest.approx(
        100 * m[f"cut_after_{j}_accuracy"]["value"])) for j in (1, 2, 3)]}
    assert curves[1:] == [{"run": [(1, i)]} for i in range(6)]


def test_curves_skip_what_a_step_has_not(tmp_path):
    path = write(tmp_path / "m.jsonl", [{"step": 1, "kl": None, "VA": 0.5}, {"step": 2, "kl": 3}])
    found = evaluate.read_curves(path)
    assert (found["kl"], found["VA"], found["reward"]) == ([(2, 3)], [(1, 0.5)], [])


def test_without_matplotlib(tmp_path, run_script, monkeypatch):
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "matplotlib.py").write_text("raise ImportError('hidden by the test')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "none"))
    write(tmp_path / "a.jsonl", rows())
    done = run_script("evaluate.py", "a=a.jsonl", "--out", "r")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("matplotlib is not installed") == 1
    text = (tmp_path / "r" / "report.html").read_text("utf-8")
    assert "no picture" in text and "<img" not in text and "11/17" in text


def test_a_single_problem_has_no_bootstrap(tmp_path, run):
    write(tmp_path / "a.jsonl", rows([response(10, C)]))
    status, out, err = run(f"a={tmp_path}/a.jsonl", f"b={tmp_path}/a.jsonl", "--out", tmp_path / "r")
    assert (status, err) == (0, "")
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    assert report["models"]["a"]["trials"] == {"value": 1, "numerator": 1, "denominator": 1,
                                               "low": None, "high": None}
    assert report["differences"]["b"]["VA"] == {"value": 0, "low": None, "high": None, "p": None}


def test_intersect(tmp_path, run):
    write(tmp_path / "a.jsonl", rows())
    write(tmp_path / "b.jsonl", rows()[2:] + [{**rows()[0], "id": "new"}])
    names = f"a={tmp_path}/a.jsonl", f"b={tmp_path}/b.jsonl", f"c={tmp_path}/a.jsonl", "--out", tmp_path / "r"
    status, _, err = run(*names)
    assert status == 2 and err.startswith("error: a and b have different problems (id, text, answer), like ")
    assert "--intersect compares the 10 of all" in err and not (tmp_path / "r").exists()
    assert run(*names, "--intersect")[0] == 0
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    assert report["problems"] == 10 and list(report["differences"]) == ["b", "c"]
    assert report["models"]["a"] == report["models"]["b"]
    assert run(*names, "--intersect")[0] == 2       # a report is there, and --force overwrites it
    assert run(f"a={tmp_path}/a.jsonl", "--out", tmp_path / "r", "--force")[0] == 0
    assert json.loads((tmp_path / "r" / "report.json").read_text())["problems"] == 12


# ------------------------------------------------------------------------------------------------- bad input

GOOD = json.dumps(rows()[0])


@pytest.mark.parametrize("change, line, field", [
    ({"answer": None}, 3, "answer"), ({"answer": " "}, 3, "answer"), ({"problem": None}, 3, "problem"),
    ({"responses": []}, 3, "responses"), ({"responses": "text"}, 3, "responses"),
    ({"responses": 7}, 3, "responses"),
    ({"responses": [1]}, 3, "responses"),
    ({"finished": [True, True]}, 3, "finished"), ({"finished": ["yes"]}, 3, "finished"),
    ({"tokens": 7}, 3, "tokens"), ({"tokens": ["7"]}, 3, "tokens"), ({"id": "p0"}, 3, "id"),
    ({"responses": [None]}, 3, "responses"), ({"responses": ["a", "b"]}, 3, "finished"),
])
def test_bad_line(tmp_path, run, change, line, field):
    path = tmp_path / "a.jsonl"     # the blank line counts
    path.write_text(GOOD + "\n\n" + json.dumps({**rows()[1], **change}) + "\n")
    status, out, err = run(f"a={path}", "--out", tmp_path / "r")
    assert status == 2 and out == "" and err.count("\n") == 1
    assert err.startswith(f"error: {path}:{line}: field '{field}' ")
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("argv, message", [
    (["a=r"], "not NAME=FILE"), (["a=."], "not NAME=FILE"),
    (["a.jsonl"], "not NAME=FILE"), (["=a.jsonl"], "not NAME=FILE"),
    (["a=a.jsonl", "a=a.jsonl"], "name of its own"), (["a=absent.jsonl"], "absent.jsonl"),
    (["a=empty.jsonl"], "empty.jsonl"), (["a=broken.jsonl"], "broken.jsonl:2"),
    (["a=a.jsonl", "b=other.jsonl"], "different problems (id, text, answer), like 'p3'"),
    (["a=a.jsonl", "b=text_differs.jsonl"], "different problems (id, text, answer), like 'p3'"),
    (["a=a.jsonl", "b=apart.jsonl", "--intersect"], "compares the 0"),
    (["a=a.jsonl", "--metrics", "a=absent.jsonl"], "absent.jsonl"),
    (["a=a.jsonl", "--metrics", "a=text.jsonl"], "text.jsonl:1: field 'step'"),
    (["a=a.jsonl", "--metrics", "a=bad_step.jsonl"], "bad_step.jsonl: "),
    (["a=a.jsonl", "--metrics", "a=nan_step.jsonl"], "nan_step.jsonl: "),
    (["a=a.jsonl", "--metrics", "a=bad_value.jsonl"], "bad_value.jsonl: "),
    (["a=a.jsonl", "--metrics", "a=huge.jsonl"], "huge.jsonl: "),
    (["a=a.jsonl", "--bootstrap", "0"], "--bootstrap"), (["a=a.jsonl", "--bootstrap", "1000000000"], "--bootstrap"),
    (["a=a.jsonl", "--bootstrap", "x"], "--bootstrap"), (["a=tokens.jsonl"], "tokens.jsonl: field 'tokens'"),
    (["a=negative.jsonl"], "negative.jsonl: field 'tokens'"), (["a=surrogate.jsonl"], "surrogate.jsonl:1"),
    (["a=level.jsonl"], "level.jsonl:1"), (["\udc80=a.jsonl"], "no printable text"), (["a\nb=a.jsonl"], "no printable text"),
    ([], "NAME=SAMPLES"), (["a=a.jsonl", "--no-such-flag"], "--no-such-flag"),
])
def test_bad_call(tmp_path, run, monkeypatch, argv, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.jsonl", rows())
    write(tmp_path / "other.jsonl", [{**r, "answer": "11" if r["id"] == "p3" else "10"} for r in rows()])
    write(tmp_path / "apart.jsonl", [{**r, "id": "x" + r["id"]} for r in rows()])
    write(tmp_path / "text_differs.jsonl", [{**r, "problem": r["problem"] + "." * (r["id"] == "p3")} for r in rows()])
    write(tmp_path / "text.jsonl", [{"note": "no step"}])
    write(tmp_path / "bad_step.jsonl", [{"step": "one", "kl": 1}])
    write(tmp_path / "nan_step.jsonl", [{"step": float("nan"), "kl": 1}])
    write(tmp_path / "bad_value.jsonl", [{"step": 1, "kl": [1]}])
    write(tmp_path / "huge.jsonl", [{"step": 1, "tokens": 10 ** 400}])
    write(tmp_path / "tokens.jsonl", [{**r, "tokens": [10 ** 400]} for r in rows()])
    write(tmp_path / "negative.jsonl", [{**r, "tokens": [-1]} for r in rows()])
    (tmp_path / "surrogate.jsonl").write_text(GOOD.replace("Problem", "\\ud800"))
    (tmp_path / "level.jsonl").write_text(GOOD.replace('"level": 1', '"level": ' + "9" * 5000))
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "broken.jsonl").write_text(GOOD + "\n{\n")
    status, out, err = run("--out", "r", *argv)
    assert status == 2 and err.startswith("error: ") and err.count("\n") == 1 and message in err
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("out", ["a.jsonl", "a.jsonl/r", "a.jsonl/r/s", "x" * 300])
def test_out_that_cannot_be_a_folder(tmp_path, run, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.jsonl", rows())
    before = (tmp_path / "a.jsonl").read_text()
    status, printed, err = run("a=a.jsonl", "--out", out)
    assert status == 2 and err.startswith("error: ") and err.count("\n") == 1 and printed == ""
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"] and (tmp_path / "a.jsonl").read_text() == before


def test_the_input_is_never_overwritten(tmp_path, run):
    (tmp_path / "r").mkdir()
    path = write(tmp_path / "r" / "report.json", rows())
    before = path.read_text()
    status, _, err = run(f"a={path}", "--out", tmp_path / "r", "--force")
    assert status == 2 and "is the input" in err and path.read_text() == before
    assert [p.name for p in (tmp_path / "r").iterdir()] == ["report.json"]


def test_odd_names_and_subjects(tmp_path, run, monkeypatch):
    """Names that matplotlib, Markdown or HTML could take for something else."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.jsonl", [{**r, "subject": ["$\\frac", "a|b\n<i>" * 300][i % 2]} for i, r in enumerate(rows())])
    names = ["$x^{", "$\\frac$", "_a|b<i>", "名前", "9" * 400]
    status, out, err = run(*(f"{name}=a.jsonl" for name in names), "--out", "r", picture=True)
    assert status == 0 and "error" not in err
    assert (tmp_path / "r" / "report.png").read_bytes().startswith(b"\x89PNG")
    assert "<i>" not in (tmp_path / "r" / "report.html").read_text("utf-8")
    widths = [{line.count("|") - line.count("\\|") for line in block.splitlines()}
              for block in (tmp_path / "r" / "report.md").read_text("utf-8").split("\n\n") if block.startswith("|")]
    assert len(widths) == 3 and all(len(width) == 1 for width in widths)


# ------------------------------------------------------------------------------------------------ over seeds

FIRST = [response(10, C)] * 8 + [response(11, I, 11, I)] * 2 + [response(11, I, 10, C)] * 2     # BI: 10 of 12
SECOND = [response(10, C)] * 6 + [response(11, C)] * 6                                          # BI: 6 of 12


@pytest.fixture
def reports(tmp_path, run, monkeypatch):
    """Two seeds of base (first solution only), BI and RL (all right); final 10, 6 of 12, first 8, 6 of 12."""
    monkeypatch.chdir(tmp_path)
    for seed, texts in enumerate((FIRST, SECOND)):
        for name, mine in (("base", [t.split(VERIFY_PHRASE)[0] for t in texts]), ("BI", texts),
                           ("RL", [response(10, C)] * 12)):
            mine = [{**row, "subject": "xy"[i % 2]} for i, row in enumerate(rows(mine))]
            write(tmp_path / f"{name}{seed}.jsonl", mine)
        names = [f"{name}={name}{seed}.jsonl" for name in ("base", "BI", "RL")]
        assert run(*names, "--against", "BI", "--out", f"seed{seed}")[0] == 0
    return ["seed0/report.json", "seed1/report.json"]


def test_over_seeds_by_hand(reports, run, tmp_path):
    """BI: 83.3 and 50.0 %, mean 66.7, deviation 23.6; RL − BI is 16.7 and 50, 33.3 with standard error 16.7."""
    status, out, err = run("--seeds", *reports, "--out", "mean", picture=True)
    assert (status, err) == (0, "")
    assert out.startswith("12 problems, percent or mean ± standard deviation over 2 seeds\n")
    cells = cells_of(out)
    table = {row[0]: dict(zip(cells[0], row)) for row in cells[2:5]}
    assert [row[0] for row in cells[2:5]] == ["base", "BI", "RL"]
    assert table["BI"]["final"] == "66.7 ± 23.6" and table["BI"]["first"] == "58.3 ± 11.8"
    assert table["BI"]["final − BI"] == "–" and table["RL"]["final − BI"] == "+33.3 (s.e. 16.7)"
    assert table["base"]["final − BI"] == "-8.3 (s.e. 8.3)"         # 8 - 10 and 6 - 6 of 12
    assert table["base"]["VA"] == "–" and table["RL"]["finished"] == "100.0 ± 0.0"
    assert table["BI"]["trials"] == "1.17 ± 0.24"                   # 16 and 12 of 12
    assert table["BI"]["ICR"] == "25.0 ± 35.4" and table["RL"]["ICR"] == "–"
    gains = {row[0]: row[2] for row in cells[7:]}
    assert cells[5] == ["", "base", "RL"] and gains["final accuracy"] == "+33.3 (s.e. 16.7)"
    assert gains["first accuracy"] == "+41.7 (s.e. 8.3)" and gains["VA"] == "+25.0 (s.e. 25.0)"
    assert gains["trials"] == "-0.17 (s.e. 0.17)"
    assert gains["repeats"] == gains["ICR"] == "–", "undefined in one of the reports"
    assert gains["subject=x final accuracy"] == "+33.3 (s.e. 16.7)"    # problems 0, 2, ...: 5 and 3 of 6
    report = json.loads((tmp_path / "mean" / "report.json").read_text("utf-8"))
    m = report["models"]["BI"]["final_accuracy"]
    assert (m["value"], m["low"], m["high"]) == pytest.approx((2 / 3, 0.4310, 0.9024), abs=1e-4)
    assert report["models"]["base"]["VA"]["value"] is None
    assert (tmp_path / "mean" / "report.png").read_bytes().startswith(b"\x89PNG")
    assert run("--seeds", *reports, "--out", "mean")[0] == 2, "a report is there, and --force overwrites it"
    assert run("--seeds", *reports, "mean/report.json", "--out", "m")[0] == 2, "a mean is no seed"
    assert run("--seeds", *reports, "--against", "BI", "--out", "m")[0] == 0
    status, out, err = run("--seeds", *reports, "--against", "base", "--out", "n")
    assert status == 2 and "--against base" in err and not (tmp_path / "n").exists()


def test_three_seeds_by_hand(reports, run, tmp_path):
    """83.3, 50 and 50 %: mean 61.1, deviation 19.2; gains 16.7, 50 and 50: 38.9, standard error 11.1."""
    (tmp_path / "third.json").write_bytes((tmp_path / reports[1]).read_bytes())
    out = cells_of(run("--seeds", *reports, "third.json", "--out", "mean")[1])
    assert out[3][0] == "BI" and "61.1 ± 19.2" in out[3]
    assert out[4][0] == "RL" and out[4][-1] == "+38.9 (s.e. 11.1)"


def test_over_seeds_without_bi_or_any_other(reports, run):
    for seed in (0, 1):
        assert run(f"a=base{seed}.jsonl", "--out", f"a{seed}")[0] == 0
    status, out, err = run("--seeds", "a0/report.json", "a1/report.json", "--out", "mean", picture=True)
    assert (status, err) == (0, "") and "58.3 ± 11.8" in out and "difference" not in out


@pytest.mark.parametrize("content", [
    "{", "{}", "[]", "5", "null", "[" * 100_000, b"\xff\xfe\x00", {"models": 5}, {"models": {"BI": 5}},
    {"models": {"BI": {"VA": 5}}}, {"models": {"BI": {"VA": {"low": 1}}}}, {"levels": 5}, {"models": {}},
    {"models": {"BI": {"VA": {"value": "text"}}}}, {"models": {"BI": {"VA": {"value": [1, 2]}}}},
    {"models": {"BI": {"VA": {"value": {}}}}}, {"models": {"BI": {"VA": {"value": 10 ** 400}}}}, {"differences": []},
    {"problems": 13}, {"against": "base"}, {"levels": ["1"]},
])
def test_what_is_no_report_is_one_line(reports, run, tmp_path, content):
    if isinstance(content, dict):
        content = json.dumps({**json.loads((tmp_path / reports[0]).read_text("utf-8")), **content})
    (tmp_path / "x.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    status, out, err = run("--seeds", reports[1], "x.json", "--out", "m")
    assert status == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1
    assert "x.json" in err or "of the same models" in err
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("paths", [["seed0/report.json"], ["seed0/report.json", "absent.json"], ["a=a.jsonl"],
                                   ["seed0/report.json", "seed1"], ["seed0/report.json", "base0.jsonl"]])
def test_bad_seeds(reports, run, tmp_path, paths):
    status, out, err = run("--seeds", *paths, "--out", "m")
    assert status == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1
    assert not (tmp_path / "m").exists()


def test_infinite_and_missing_values_are_undefined(reports, run, tmp_path):
    report = json.loads((tmp_path / reports[0]).read_text("utf-8"))
    report["models"]["BI"]["VA"]["value"], report["models"]["BI"]["ER"]["value"] = float("inf"), float("nan")
    del report["models"]["BI"]["CP"]
    (tmp_path / "x.json").write_text(json.dumps(report))
    status, out, _ = run("--seeds", reports[0], "x.json", "--out", "m", picture=True)
    row = dict(zip(*[cells_of(out)[i] for i in (0, 3)]))
    assert status == 0 and (row[""], row["VA"], row["CP"], row["final"]) == ("BI", "–", "–", "83.3 ± 0.0")
    assert "ER" not in row, "undefined everywhere"
