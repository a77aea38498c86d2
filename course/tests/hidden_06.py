"""Assignment 6, hidden tests."""
import pytest
import torch
from check import copies, fail, same, student
from test_06 import PARENTHESIS


@pytest.mark.assignment(6, points=3)
def test_kl_term():
    """the KL term lowers the reward of what the reference finds unlikely"""
    rewards, baseline, kl = torch.tensor([1., -1.]), torch.tensor([-.5, .5]), torch.tensor([2., -4.])
    got = student("rl_outcome").advantage(rewards, baseline, kl, 0.1)
    same(got, [1.3, -1.1], "advantage([1, -1], [-.5, .5], [2, -4], 0.1)", [
        ([1.5, -1.5], "The KL term is missing."), ([1.7, -1.9], "The sign of the KL term: it is subtracted, "
            "for moving away "
         "from the reference costs reward."), ([-.5, 2.5], "The KL term is not weighted with beta."),
        ([1.6, -1.4], "You take the mean of the log-ratios: every response has its own."),
        ([1.3, -1.9], "The log-ratio may be negative for a sample; no absolute value, no clamp."),
        ([1.3, -1.5], "The log-ratio may be negative for a sample; no absolute value, no clamp.")])


@pytest.mark.assignment(6, points=3)
def test_no_gradient():
    """an advantage is a number, not a function of the policy"""
    log_ratio = torch.tensor([2., -4.], requires_grad=True)
    got = student("rl_outcome").advantage(torch.tensor([1., -1.]), torch.zeros(2), log_ratio, 0.1)
    if got.requires_grad:
        fail("The gradient flows through the advantage: detach it. As a part of the loss, the KL term would "
            "do nothing on "
             "average, for the expected gradient of log pi is 0.")


@pytest.mark.assignment(6, points=2)
def test_two_samples():
    """M = 2: each is the other's baseline; the rewards stay as they are"""
    rewards = torch.tensor([[1., -1.], [-1., -1.], [0.5, 2.]])
    before = rewards.clone()
    got = student("rl_outcome").leave_one_out(rewards)
    same(rewards, before, "the rewards after the call: they must not be changed")
    same(got, [[-1., 1.], [-1., -1.], [2., 0.5]], "leave_one_out([[1, -1], [-1, -1], [.5, 2]])", [
        (before.mean(1, keepdim=True).expand(3, 2), "Your baseline contains the sample's own reward."),
        (before.flip(1) / 2, "The sum of the others is divided by M; there are M - 1 of them."),
        (-before.flip(1), "The sign of the baseline is turned round."),
        ((before.sum(0) - before) / 2, "The wrong axis: problems are rows, samples are columns.")])


@pytest.mark.assignment(6, points=2)
def test_as_many_problems_as_samples():
    """three problems with three samples: a lost axis shows here"""
    square = torch.tensor([[1.] * 3, [-1.] * 3, [1.] * 3])
    same(student("rl_outcome").leave_one_out(square), square, "leave_one_out of 1 1 1, -1 -1 -1, 1 1 1", [
        ((square.sum(1) - square) / 2, "The sums lost their axis: keepdim=True, else they are laid along the "
            "rows."),
        ((square.sum(0) - square) / 2, "The wrong axis: problems are rows, samples are columns."),
        (3 * square - square / 2, PARENTHESIS), (2 / 3 * square - 1, PARENTHESIS)])


@pytest.mark.assignment(6, points=2)
def test_copies():
    """rl_process.advantage is the same function"""
    copies("advantage", ("rl_outcome", "rl_process"), lambda f: f(torch.tensor([1., -1.]), torch.tensor([-.5,
        .5]),
           torch.tensor([2., -4.]), 0.1), [1.3, -1.1])
