"""Assignment 11, public tests: pass@k and Wilson's interval."""
import numpy as np
import pytest
from check import same, student


UNDER_ROOT = "Under the root stands z^2 / 4n^2, that is z * z / (4 * n * n): both the 4 and n squared divide."
CENTRE = "The centre is p + z^2 / 2n, that is p + z * z / (2 * n): the 2 and the n divide, z is squared."


@pytest.mark.assignment(11, points=2)
def test_pass_at_one():
    """k = 1 is the share of right samples; none right, all right; the worked number"""
    f = student("evaluate").pass_at_k
    same([f(4, 1, 1), f(10, 5, 1), f(6, 0, 3), f(6, 6, 3)], [.25, .5, 0., 1.], "pass_at_k(4, 1, 1), (10, 5, "
        "1), (6, 0, 3), (6, 6, 3)",
         [([.75, .5, 1., 0.], "This is the chance that all are wrong; 1 minus it is wanted.")])
    same(f(4, 1, 2), .5, "pass_at_k(4, 1, 2)", [
        (1 - .75 ** 2, "1 - (1 - c/n)^k is biased: it draws with replacement, though the k are different "
            "samples."), (.25, "This is c / n: k is not used.")])


@pytest.mark.assignment(11, points=3)
def test_one_response_a_problem():
    """8 of 10 problems right: Wilson's interval is .490 to .943"""
    tally = np.array([[1, 1]] * 8 + [[0, 1]] * 2, float)
    same(student("evaluate").wilson(tally), [0.4902, 0.9433], "wilson of 8 right of 10", [
        ([.8 - .2479, .8 + .2479], "This is p +- z sqrt(p(1-p)/n), which reaches beyond 1 for high p: "
            "Wilson's interval is "
         "centred elsewhere."),
        ([.8 - .2479, 1.0], "This is p +- z sqrt(p(1-p)/n), clamped: Wilson's interval is centred "
            "elsewhere."),
        ([0.9433, 0.4902], "The order is low, high."),
        ([0.6786, 1.3059], "The division by 1 + z^2/n is missing."),
        ([0.6786, 1.0], "The division by 1 + z^2/n is missing."),
        ([0.2428, 1.1907], UNDER_ROOT), ([0.2428, 1.0], UNDER_ROOT),
        ([0.0708, 1.3627], UNDER_ROOT), ([0.0708, 1.0], UNDER_ROOT),
        ([0.451, 0.9824], UNDER_ROOT), ([-13.1611, 14.5945], UNDER_ROOT), ([0.0, 1.0], UNDER_ROOT),
        ([14.228, 14.6812], CENTRE), ([1.0, 1.0], CENTRE), ([0.6289, 1.0821], CENTRE),
        ([0.6289, 1.0], CENTRE),
        ([0.4222, 0.8754], CENTRE), ([0.3514, 0.8046], CENTRE),
        ([0.5376, 0.8959], "Under the root z^2 / 4n^2 is missing."),
        ([0.6594, 0.8918], "z = 1 is not 95 %: use the argument z.")], tol=2e-3)
