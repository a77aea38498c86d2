"""Assignment 10, public tests: log-probs of actions and their weights."""
import pytest
import torch
from check import fail, same, shape, student

# tokens of three trajectories and the action of each; the last token of the third is in no action
OWNERS, ACTIONS = [[0, 1, 1], [0, 0, 1, 1, 2], [0, 1, -1]], [2, 3, 2]
LOGP = torch.arange(1.0, 12.0)


def batch(owners=OWNERS, actions=ACTIONS):
    """Trajectories with these owners and as many rewards as actions."""
    T = student("rl_process").Trajectory
    return [T({}, [1], [5] * len(o), True, owner=o, rewards=[1] * n) for o, n in zip(owners, actions)]


@pytest.mark.assignment(10, points=3)
def test_one_trajectory():
    """sum and mean over the tokens of each action"""
    per_action = student("rl_process").per_action
    got = per_action(LOGP[:5], batch()[1:2], "sum")
    shape(got, [3], "per_action of a trajectory of 3 actions")
    same(got, [3, 7, 5], "sums of log-probs 1..5 over actions 0 0 1 1 2", [
        ([1.5, 3.5, 5], "The mean is taken, though ratio is 'sum'."), ([1, 3, 5], "Only the first token of "
            "each action is kept."),
        ([2, 4, 5], "Only the last token of each action is kept: index_add adds up, an assignment "
            "overwrites.")])
    same(per_action(LOGP[:5], batch()[1:2], "mean"), [1.5, 3.5, 5], "means of log-probs 1..5 over actions 0 "
        "0 1 1 2", [
        ([3, 7, 5], "The sum is taken, though ratio is 'mean'."), ([1, 7 / 3, 5 / 3], "The denominator: the "
            "tokens of the action, "
         "not the number of actions."), ([.6, 1.4, 1], "The denominator: the tokens of the action, not of "
         "the trajectory.")])


@pytest.mark.assignment(10, points=3)
def test_two_trajectories():
    """the worked number: tokens of two trajectories, one after the other"""
    got = student("rl_process").per_action(LOGP[:8], batch()[:2], "sum")
    same(got, [1, 5, 9, 13, 8], "sums of 1..8 over actions 0 1 1 | 0 0 1 1 2", [
        ([10, 18, 8], "Action 0 of every trajectory was added up: the actions of the second begin behind "
            "those of the first."),
        ([10, 18, 8, 0, 0], "Action 0 of every trajectory was added up: the actions of the second begin "
            "behind those of the first."),
        ([1, 2.5, 4.5, 6.5, 8], "The mean is taken, though ratio is 'sum'.")])


@pytest.mark.assignment(10, points=2)
def test_weights_of_a_whole_batch():
    """a trajectory of one action beside one of three"""
    found, action_weights = batch([[0], [0, 1, 2]], [1, 3]), student("rl_process").action_weights
    got = action_weights(found, found, "trajectory")
    shape(got, [4], "action_weights of 4 actions", torch.float32)
    same(got, [1 / 2] + [1 / 6] * 3, "weights of trajectories of 1 and 3 actions, average 'trajectory'", [
        ([1 / 4] * 4, "All actions weigh alike: that is 'batch'. Are the two averages swapped?"),
        ([1.] + [1 / 3] * 3, "The mean over trajectories is missing: divide by their number too."),
        ([1 / 2] * 4, "The mean over the actions of a trajectory is missing."),
        ([1.] * 4, "These weights do not sum to 1: the mean over actions and trajectories is missing.")])
    same(action_weights(found, found, "batch"), [1 / 4] * 4, "the same with average 'batch'", [
        ([1 / 2] + [1 / 6] * 3, "With 'batch' all actions weigh alike. Are the two averages swapped?"),
        ([1 / 2] * 4, "With 'batch' divide by the number of actions, not of trajectories.")])
