"""Assignment 4, public tests: KL over the whole vocabulary."""
import pytest
import torch
from check import same, shape, student

P, Q = torch.tensor([1 / 8, 2 / 8, 5 / 8]), torch.tensor([1 / 2, 1 / 4, 1 / 4])


def kl(n=1, chunk=128):
    """sum_kl of n tokens with pi = P, pi_base = Q."""
    ones = torch.ones(n, 1)
    return student("sft").sum_kl(ones, P.log()[:, None], ones, Q.log()[:, None], chunk)


@pytest.mark.assignment(4, points=2)
def test_equal_models():
    """KL of a model to itself is 0, as one number"""
    ones, weight = torch.ones(5, 1), P.log()[:, None]
    got = student("sft").sum_kl(ones, weight, ones, weight)
    shape(got, [], "sum_kl of 5 tokens")
    same(got, 0.0, "the KL of a model to itself", [(5.0, "This is sum of p, not of p log(p/q).")])


@pytest.mark.assignment(4, points=3)
def test_by_hand():
    """p = (1/8, 2/8, 5/8) against q = (1/2, 1/4, 1/4)"""
    want = (P * (P / Q).log()).sum().item()
    same(kl(), want, "KL(pi || pi_base) = sum of p log(p/q)", [
        ((Q * (Q / P).log()).sum().item(), "The wrong way round: this is KL(pi_base || pi), weighted "
            "with q."),
        (-want, "The sign: KL is never negative."), (want / 3, "You take the mean over the vocabulary: it "
            "is a sum."),
        ((P / Q).log().sum().item(), "The terms are not weighted with p."),
        (-(P * P.log()).sum().item(), "This is the entropy of pi; pi_base does not occur in it."),
        (-(P * Q.log()).sum().item(), "This is the cross-entropy: the term p log p is missing.")])
