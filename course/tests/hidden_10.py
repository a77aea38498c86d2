"""Assignment 10, hidden tests."""
import pytest
import torch
from check import fail, same, student
from test_10 import LOGP, batch


@pytest.mark.assignment(10, points=3)
def test_three_trajectories():
    """tokens of three trajectories, one after the other"""
    found = batch([[0, 0], [0], [0, 1]], [1, 1, 2])
    got = student("rl_process").per_action(LOGP[:5], found, "sum")
    added = "Action 0 of every trajectory was added up: an owner counts the actions of its own trajectory."
    same(got, [3, 3, 4, 5], "sums of 1..5 over actions 0 0 | 0 | 0 1", [
        ([10, 5], added), ([10, 5, 0, 0], added),
        ([1.5, 3, 4, 5], "The mean is taken, though ratio is 'sum'."),
        ([3, 7, 5, 0], "Each trajectory's actions begin behind those of all before it, not only of the one "
            "before.")])


@pytest.mark.assignment(10, points=3)
def test_tokens_of_no_action():
    """an owner of -1 is a token of no action"""
    per_action = student("rl_process").per_action
    got = per_action(LOGP[:3], batch()[2:], "sum")
    same(got, [1, 2], "sums of 1, 2, 3 over actions 0 1 and none", [
        ([1, 5], "Owner -1 means no action; as an index it is the last one."), ([1, 2, 3], "A token of no "
            "action gets no place."),
        ([1, 2, 0], "One place too many.")])
    got = per_action(LOGP, batch(), "mean")
    same(got, [1, 2.5, 4.5, 6.5, 8, 9, 10], "means over the actions of all three trajectories", [
        ([1, 2.5, 4.5, 6.5, 8, 9, 10.5], "Owner -1 means no action; as an index it is the last one."),
        ([1, 5, 9, 13, 8, 9, 10], "The sum is taken, though ratio is 'mean'.")])


@pytest.mark.assignment(10, points=2)
def test_gradient():
    """the gradient reaches every token of an action, and no other"""
    logp = LOGP.clone().requires_grad_()
    got = student("rl_process").per_action(logp, batch(), "sum")
    if not got.requires_grad:
        fail("The gradient is lost: numbers were taken out of the tensor (tolist, item, torch.tensor).")
    got.sum().backward()
    same(logp.grad, [1.] * 10 + [0.], "the gradient of the sum of all actions", [([1.] * 11,
        "The token of no action has a gradient.")])


@pytest.mark.assignment(10, points=3)
def test_weights_by_trajectory():
    """(6): the mean over a trajectory's actions, then over trajectories"""
    found, action_weights = batch(), student("rl_process").action_weights
    want = [1 / 6] * 2 + [1 / 9] * 3 + [1 / 6] * 2
    same(action_weights(found, found, "trajectory"), want, "weights of trajectories of 2, 3, 2 actions", [
        ([1 / 7] * 7, "All actions weigh alike: that is 'batch'. In (6) the actions of a trajectory share "
            "its weight. (Are the two averages swapped?)"),
        ([1 / 2] * 2 + [1 / 3] * 3 + [1 / 2] * 2, "The mean over trajectories is missing: divide by their "
            "number too."),
        ([1 / 3] * 7, "The mean over the actions of a trajectory is missing.")])


@pytest.mark.assignment(10, points=3)
def test_a_part_of_a_batch():
    """the denominator is the whole batch, though only a part is at hand"""
    found, action_weights = batch(), student("rl_process").action_weights
    same(action_weights(found[1:2], found, "trajectory"), [1 / 9] * 3, "weights of the second of three "
        "trajectories", [
        ([1 / 3] * 3, "The denominator is the part: with micro-batches the loss would grow with their "
            "number. Use the batch.")])
    same(action_weights(found[1:2], found, "batch"), [1 / 7] * 3, "the same with average='batch'", [
        ([1 / 3] * 3, "The denominator is the part, or the number of trajectories: count the actions of the "
            "whole batch."),
        ([1 / 9] * 3, "With 'batch' all actions of the batch weigh alike: 1 / their number. (Are the two "
            "averages swapped?)")])
