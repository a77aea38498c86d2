"""Assignment 7, public tests: the clipped loss."""
import pytest
import torch
from check import fail, same, shape, student

R0, A0, EPS = [1.5, 0.5, 1.5, 0.5], [2.0, 2.0, -2.0, -2.0], 0.2


def parts(ratio, advantage):
    """r, A and the two terms of the minimum."""
    r, a = torch.tensor(ratio), torch.tensor(advantage)
    return r, a, r * a, r.clamp(1 - EPS, 1 + EPS) * a


def loss(ratio, advantage):
    """clipped_loss of these ratios, with the gradient in logp."""
    logp = torch.tensor(ratio).log().requires_grad_()
    value = student("rl_outcome").clipped_loss(logp, torch.zeros(len(ratio)), torch.tensor(advantage), EPS)
    return value, logp


def mistakes(ratio, advantage):
    """What typical errors give for these numbers."""
    r, a, free, clipped = parts(ratio, advantage)
    above = r.clamp(max=1 + EPS) * a
    return [(torch.minimum(free, clipped), "The sign: a loss is minimized, so it is minus the minimum."),
            (-free, "There is no clip."),
            (-clipped, "This is the clipped term alone: the minimum of r A and clip(r) A is wanted."),
            (-torch.minimum(r, r.clamp(1 - EPS, 1 + EPS)) * a, "You take the minimum of the two ratios, then "
                "multiply: for A < 0 that is the larger term. First both terms, then the minimum."),
            (-torch.maximum(free, clipped), "The maximum of the two terms: the bound must be the pessimistic "
                "one, their minimum."),
            (-torch.minimum(free, above), "The clip acts only from above: 1 - eps is missing."),
            (-above, "The clip acts only from above, and there is no minimum."),
            (-torch.minimum(1 / r * a, (1 / r).clamp(1 - EPS, 1 + EPS) * a), "The ratio is upside down: new "
                "over old."),
            (-torch.minimum(r.log() * a, r.log().clamp(1 - EPS, 1 + EPS) * a), "The ratio is exp of the "
                "difference of log-probs."),
            (-torch.minimum(free, clipped).mean(), "One number for each response is wanted, not their mean.")]


@pytest.mark.assignment(7, points=1)
def test_no_advantage():
    """where A = 0 there is no loss"""
    value, _ = loss([1.5, 1.0, 0.5], [0.0, 0.0, 0.0])
    shape(value, [3], "clipped_loss of 3 responses")
    same(value.abs(), [0.0, 0.0, 0.0], "clipped_loss where the advantage is 0")


@pytest.mark.assignment(7, points=3)
def test_ratio_one():
    """before the first update the ratio is 1, and the loss is -A"""
    value, _ = loss([1.0, 1.0], [2.0, -0.5])
    if hasattr(value, "requires_grad") and not value.requires_grad:
        fail("The loss carries no gradient: the ratio was detached. detach nothing.")
    same(value, [-2.0, 0.5], "clipped_loss at ratio 1, A = 2, -.5", [
        ([2.0, -0.5], "The sign: a loss is minimized, so it is minus the minimum."), ([0.0, 0.0],
            "The ratio is exp of the "
         "difference of log-probs: 1 where they are equal."), (-0.75, "One number for each response is "
         "wanted, not the mean."),
        ([-1.6, 0.4], "Something is clipped though the ratio is 1."), ([-2.4, 0.6], "Something is clipped "
            "though the ratio is 1.")])


@pytest.mark.assignment(7, points=3)
def test_both_branches():
    """the worked table: A > 0 is clipped above 1 + eps, A < 0 below 1 - eps"""
    value, _ = loss(R0, A0)
    shape(value, [4], "clipped_loss of 4 responses")
    same(value, [-2.4, -1.0, 3.0, 1.6], "clipped_loss at (r, A) = (1.5, 2), (.5, 2), (1.5, -2), (.5, -2)",
         mistakes(R0, A0))
