"""Assignment 11, hidden tests."""
import math

import numpy as np
import pytest
from check import fail, same, student


def wilson_of(p, n, z=1.959964):
    """Wilson's interval of a share p of n independent draws."""
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return [(centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)]


@pytest.mark.assignment(11, points=3)
def test_pass_at_k():
    """the unbiased estimate: draws without replacement"""
    f = student("evaluate").pass_at_k
    same([f(4, 1, 2), f(5, 2, 3)], [.5, .9], "pass_at_k(4, 1, 2) and (5, 2, 3)", [
        ([1 - .75 ** 2, 1 - .6 ** 3], "1 - (1 - c/n)^k is biased: it draws with replacement, though the k "
            "are different samples."),
        ([.5, .1], "This is the chance that all are wrong; 1 minus it is wanted."),
        ([.5, .1], "Right and wrong samples are swapped."), ([.25, .4], "This is c / n: k is not used.")])
    same(f(200, 100, 100), 1.0, "pass_at_k(200, 100, 100)")
    same(f(5, 4, 2), 1.0, "pass_at_k(5, 4, 2): there are not two wrong ones")


@pytest.mark.assignment(11, points=3)
def test_many_responses_a_problem():
    """responses to one problem depend on each other: the design effect"""
    tally = np.array([[4, 4]] * 5 + [[0, 4]] * 5,
        float)        # each problem all right or all wrong: 10 draws, not 40
    want = wilson_of(.5, 10)
    same(student("evaluate").wilson(tally), want, "wilson where 5 problems have 4 of 4 right and 5 "
        "have 0 of 4", [
        (wilson_of(.5, 40), "The 40 responses are taken for independent: divide n by the design effect, the "
            "variance between "
         "problems over the binomial variance. Here all responses to a problem agree, so it is 4."),
        (wilson_of(.5, 160), "You multiply n by the design effect: responses that depend on each other say "
            "less, so divide."),
        (wilson_of(.5, 10 / 4), "The design effect is too large by a factor of 4.")], tol=2e-3)


@pytest.mark.assignment(11, points=2)
def test_effect_below_one():
    """responses that differ more than chance do not narrow the interval"""
    tally = np.array([[2, 4]] * 10,
        float)                       # each problem exactly half right: no variance between them
    same(student("evaluate").wilson(tally), wilson_of(.5, 40), "wilson where each of 10 problems has 2 of "
        "4 right", [
        ([.5, .5], "The design effect is 0 here and the interval has no width: take at least 1.")], tol=2e-3)


@pytest.mark.assignment(11, points=2)
def test_all_right():
    """p = 1 or 0: the number of problems counts, not of responses"""
    wilson = student("evaluate").wilson
    try:
        high, low = wilson(np.array([[4., 4.]] * 10)), wilson(np.array([[0., 4.]] * 10))
    except ZeroDivisionError:
        fail("p (1 - p) is 0 where all are right: the design effect cannot be computed there. Take n / "
            "number of problems.")
    same([high, low], [wilson_of(1., 10), wilson_of(0., 10)], "wilson of 10 problems, 4 of 4 and 0 of 4 "
        "right each", [
        ([wilson_of(1., 40), wilson_of(0., 40)], "The 40 responses are taken for independent: at p = 0 and 1 "
            "nothing tells how "
         "they depend on each other, so n is the number of problems.")], tol=2e-3)


@pytest.mark.assignment(11, points=2)
def test_shares_of_different_sizes():
    """problems with different counts; problems with none"""
    tally = np.array([[1, 2], [3, 3], [0, 0], [0, 1], [2, 4]], float)
    p = .6
    effect = sum((h - p * n) ** 2 for h, n in tally) / (10 * p * (1 - p))
    got = student("evaluate").wilson(tally)
    same(got, wilson_of(p, 10 / max(1, effect)), "wilson of 1/2, 3/3, 0/0, 0/1, 2/4", [
        (wilson_of((.5 + 1 + 0 + .5) / 4, 10 / max(1, effect)), "p is the share of all responses, 6 of 10, "
            "not the mean of the "
         "problems' shares.")], tol=2e-3)
    same(student("evaluate").wilson(np.array([[5., 5.], [0., 0.]])), wilson_of(1., 1), "wilson of 5/5 and "
        "0/0: one problem", [
        (wilson_of(1., 2), "A problem without a count is no problem: it is not among the n.")], tol=2e-3)
