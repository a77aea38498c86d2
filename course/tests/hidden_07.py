"""Assignment 7, hidden tests."""
import pytest
import torch
from check import copies, fail, same
from test_07 import loss, mistakes


@pytest.mark.assignment(7, points=3)
def test_inside_and_outside():
    """good and bad responses, inside of the clip range and outside"""
    ratio, advantage = [1.4, 1.1, 0.6, 1.4, 0.9, 0.6], [1.0, 1.0, 1.0, -1.0, -1.0, -1.0]
    value, _ = loss(ratio, advantage)
    same(value, [-1.2, -1.1, -0.6, 1.4, 0.9, 0.8], "clipped_loss at r = 1.4, 1.1, .6 with A = 1, then "
        "r = 1.4, .9, .6 with A = -1", mistakes(ratio, advantage))


@pytest.mark.assignment(7, points=3)
def test_gradient():
    """the gradient is -r A where nothing is clipped and 0 where the clip decides"""
    value, logp = loss([1.5, 0.5, 1.5, 0.5, 1.0], [2.0, 2.0, -2.0, -2.0, 2.0])
    if not value.requires_grad:
        fail("The loss carries no gradient: the ratio was detached.")
    value.sum().backward()
    same(logp.grad, [0.0, -1.0, 3.0, 0.0, -2.0], "the gradient at (r, A) = (1.5, 2), (.5, 2), (1.5, -2), "
        "(.5, -2), (1, 2)", [
        ([-3.0, -1.0, 3.0, 1.0, -2.0], "Nothing is clipped."), ([0.0, 0.0, 0.0, 0.0, -2.0],
            "The clipped term alone: outside "
         "of the range nothing is learnt, not even where a step would make things right again."),
        ([0.0, -1.0, 3.0, 1.0, -2.0], "The clip acts only from above."),
        ([-3.0, 0.0, 0.0, 1.0, -2.0], "The maximum of the two terms: the gradient vanishes where it is "
            "needed."),
        ([0.0, 1.0, -3.0, 0.0, 2.0], "The sign: a step must make a good response likelier.")])


@pytest.mark.assignment(7, points=2)
def test_old_policy():
    """the ratio is new over old, for any old log-prob"""
    logp, old = torch.tensor([-1.0, -5.0]), torch.tensor([-1.1, -4.9])
    want = -torch.exp(logp - old) * torch.tensor([1.0, 1.0])
    copies("clipped_loss", ("rl_outcome",), lambda f: f(logp, old, torch.ones(2), 0.2), want)


@pytest.mark.assignment(7, points=2)
def test_copies():
    """another eps; rl_process.clipped_loss is the same function"""
    call = lambda f: f(torch.tensor([2.0, 0.4, 2.0]).log(), torch.zeros(3), torch.tensor([1.0, -1.0, -1.0]),
        0.5)
    copies("clipped_loss", ("rl_outcome", "rl_process"), call, [-1.5, 0.5, 2.0])
