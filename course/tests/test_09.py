"""Assignment 9, public tests: reward contexts and their baseline."""
import pytest
from check import fail, same, student


@pytest.mark.assignment(9, points=2)
def test_contexts():
    """the context of an action is the rewards of all earlier ones"""
    got = student("rl_process").reward_contexts([-1, 1, 1])
    same(got, [(), (-1,), (-1, 1)], "reward_contexts([-1, 1, 1])", [
        ([(-1,), (-1, 1), (-1, 1, 1)], "Off by one: an action's own reward is not part of its context, or it "
            "would be "
         "compared with actions of the same reward only."),
        ([[], [-1], [-1, 1]], "A context is a tuple: a list cannot be the key of a table."),
        ([(1, 1), (1,), ()], "These are the rewards of later actions: the context is what came before."),
        ([(), (-1,), (1,)], "Only the last reward: all earlier actions are the context.")])


@pytest.mark.assignment(9, points=3)
def test_mean():
    """the mean reward of a context"""
    table = student("rl_process").ContextBaseline(least=1)
    table.update([(), (1,)], [1, -1])
    table.update([(), (-1,)], [-1, 1])
    table.update([(), (1,)], [1, 1])
    same([table.mean(c) for c in ((), (1,), (-1,))], [1 / 3, 0.0, 1.0], "means of (): 1 -1 1, of (1,): -1 1, "
        "of (-1,): 1", [
        ([1 / 3, 0.0, 0.0], "Off by one: a context met once has the mean 0, though least = 1: from "
            "`least` actions on, not above, the mean counts (>=)."),
        ([1.0, 1.0, 0.0], "Only the last trajectory counts: the table is kept over all updates."),
        ([0.0] * 3, "All means are 0: does the count grow by 1 with every action?"),
        ([1.0, 0.0, 1.0], "These are sums: divide by how many actions were counted in the context "
            "(does that count grow with every action?)."),
        ([1.0, 1.0, 1.0], "Only the last reward of a context is kept."),
        ([1 / 6, 0.0, 1 / 6], "The denominator: the actions of this context, not of all."),
        ([1 / 3] * 3, "There is one mean for all contexts: each has its own.")])
