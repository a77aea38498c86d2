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


@pytest.mark.assignment(10, points=2)
def test_weights_of_one_size():
    """trajectories with as many actions as each other"""
    got = student("rl_process").action_weights(batch([[0, 1]] * 2, [2, 2]), batch([[0, 1]] * 2, [2, 2]),
        "trajectory")
    shape(got, [4], "action_weights of 4 actions")
    same(got, [.25] * 4, "weights of two trajectories of two actions", [
        ([.5] * 4, "The mean over trajectories is missing: divide by their number too."),
        ([1.] * 4, "These weights do not sum to 1: the mean over actions and trajectories is missing.")])
