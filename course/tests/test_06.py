"""Assignment 6, public tests: the leave-one-out baseline and the advantage."""
import pytest
import torch
from check import copies, fail, same, shape, student

R = torch.tensor([[1., 1., -1., -1.], [1., -1., -1., -1.]])
THIRD = 1 / 3


@pytest.mark.assignment(6, points=2)
def test_a_group_of_equal_rewards():
    """where all samples earn the same, so does the baseline"""
    got = student("rl_outcome").leave_one_out(torch.tensor([[1., 1., 1., 1.], [-1., -1., -1., -1.]]))
    shape(got, [2, 4], "leave_one_out of [2, 4] rewards")
    want = [[1.] * 4, [-1.] * 4]
    same(got, want, "the baseline of four equal rewards", [
        ([[-1.] * 4, [1.] * 4], "The sign of the baseline is turned round."),
        ([[.75] * 4, [-.75] * 4], "The sum of the others is divided by M; there are M - 1 of them."),
        ([[0.] * 4] * 2, "The mean over the wrong axis, or over all problems: the baseline of a problem is "
            "made of its own "
         "samples (axis 1)."),
        ([[4 * THIRD] * 4, [-4 * THIRD] * 4], "The sum of all M samples is divided by M - 1.")])


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
        (R.sum(0) - R, "The wrong axis: problems are rows, samples of a problem are columns.")])


@pytest.mark.assignment(6, points=2)
def test_advantage():
    """R - b without a KL term"""
    got = student("rl_outcome").advantage(torch.tensor([1., -1.]), torch.tensor([-.5, .5]), torch.zeros(2),
        0.1)
    same(got, [1.5, -1.5], "advantage([1, -1], [-.5, .5], [0, 0], 0.1)", [
        ([-1.5, 1.5], "The sign: a reward above the baseline has a positive advantage."),
        ([.5, -.5], "The baseline is added: it is subtracted.")])
