"""Assignment 6, public tests: the leave-one-out baseline and the advantage."""
import pytest
import torch
from check import copies, fail, same, shape, student

R = torch.tensor([[1., 1., -1., -1.], [1., -1., -1., -1.]])
THIRD = 1 / 3
PARENTHESIS = "A parenthesis is missing: first the sum of all minus the own, then divided by (M - 1)."


@pytest.mark.assignment(6, points=2)
def test_a_group_of_equal_rewards():
    """where all samples earn the same, so does the baseline"""
    rewards = torch.tensor([[1.] * 4, [1.] * 4, [-1.] * 4])
    got = student("rl_outcome").leave_one_out(rewards)
    shape(got, [3, 4], "leave_one_out of [3, 4] rewards")
    own = "The wrong axis: the baseline of a problem is made of its own samples. Problems are rows, samples " \
          "of a problem are columns, so sum over axis 1."
    same(got, rewards, "the baseline where each problem's four rewards are equal: 1, 1, -1", [
        (rewards.mean(0).expand(3, 4), own),
        ((rewards.sum(0) - rewards) / 2, own),
        ((rewards.sum(0) - rewards) / 3, own),
        (rewards.mean().expand(3, 4), "The problems are mixed: give sum or mean an axis."),
        ((rewards.sum() - rewards) / 11, "The problems are mixed: give sum or mean an axis."),
        ((rewards.sum() - rewards) / 3, "The problems are mixed: give sum or mean an axis."),
        (-rewards, "The sign of the baseline is turned round."),
        (.75 * rewards, "The sum of the others is divided by M; there are M - 1 of them."),
        (4 * rewards - rewards / 3, PARENTHESIS), (.75 * rewards - 1, PARENTHESIS),
        (4 * THIRD * rewards, "The sum of all M samples is divided by M - 1."),
        (3 * rewards, "This is the sum of the others: divide by M - 1.")])


@pytest.mark.assignment(6, points=3)
def test_leave_one_out():
    """rewards 1 1 -1 -1 and 1 -1 -1 -1"""
    want = [[-THIRD, -THIRD, THIRD, THIRD], [-1, -THIRD, -THIRD, -THIRD]]
    same(student("rl_outcome").leave_one_out(R), want, "leave_one_out([[1, 1, -1, -1], [1, -1, -1, -1]])", [
        (R.mean(1, keepdim=True).expand(2, 4), "Your baseline contains the sample's own reward: the mean is "
            "over the other "
         "M - 1 samples of the problem."),
        (R.mean(1, keepdim=True), "Your baseline contains the sample's own reward, and it lacks a number for "
            "each sample."),
        ((R.sum(1, keepdim=True) - R) / 4, "The sum of the others is divided by M; there are M - 1 of them."),
        (R.sum(1, keepdim=True).expand(2, 4) / 3, "Your baseline contains the sample's own reward."),
        (R - torch.tensor(want), "This is the advantage R - b; the baseline b alone is wanted."),
        (-torch.tensor(want), "The sign of the baseline is turned round."),
        ((R.sum() - R) / 7, "The problems are mixed: the baseline is made of samples of the same problem."),
        (R.sum(1, keepdim=True) - R / 3, PARENTHESIS),
        ((R.sum(1, keepdim=True) - R) / 4 - 1, PARENTHESIS),
        (R.sum(0) - R, "The wrong axis: problems are rows, samples of a problem are columns."),
        ((R.sum(0) - R) / 3, "The wrong axis: problems are rows, samples of a problem are columns.")])


@pytest.mark.assignment(6, points=2)
def test_advantage():
    """R - b without a KL term, and the worked number with one"""
    got = student("rl_outcome").advantage(torch.tensor([1., -1.]), torch.tensor([-.5, .5]), torch.zeros(2),
        0.1)
    same(got, [1.5, -1.5], "advantage([1, -1], [-.5, .5], [0, 0], 0.1)", [
        ([-1.5, 1.5], "The sign: a reward above the baseline has a positive advantage."),
        ([.5, -.5], "The baseline is added: it is subtracted.")])
    got = student("rl_outcome").advantage(torch.tensor([1.]), torch.tensor([-.5]), torch.tensor([2.]), 0.1)
    same(got, [1.3], "advantage([1], [-.5], [2], 0.1), the worked number", [
        ([1.5], "The KL term is missing."), ([1.7], "The sign of the KL term: it is subtracted."),
        ([-.5], "The KL term is not weighted with beta.")])
