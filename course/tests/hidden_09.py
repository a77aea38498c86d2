"""Assignment 9, hidden tests."""
import io

import pytest
from check import fail, same, student


@pytest.mark.assignment(9, points=2)
def test_long_contexts():
    """four actions; no action; the rewards stay as they are"""
    rewards = [-1, 1, -1, 1]
    rl = student("rl_process")
    same(rl.reward_contexts(rewards), [(), (-1,), (-1, 1), (-1, 1, -1)], "reward_contexts([-1, 1, -1, 1])", [
        ([(), (-1,), (1,), (-1,)], "Only the last reward: all earlier actions are the context."),
        ([(-1,), (-1, 1), (-1, 1, -1), (-1, 1, -1, 1)], "Off by one: an action's own reward is not part of "
            "its context."),
        ([[], [-1], [-1, 1], [-1, 1, -1]], "A context is a tuple: a list cannot be the key of a table.")])
    same(rl.reward_contexts([]), [], "reward_contexts([])", [([()], "No actions have no contexts.")])
    same(rewards, [-1, 1, -1, 1], "the rewards after the call")


@pytest.mark.assignment(9, points=2)
def test_too_few():
    """below `least` actions the baseline is 0; from `least` on it counts"""
    table = student("rl_process").ContextBaseline()
    table.update([()] * 9, [1] * 6 + [-1] * 3)
    same(table.mean(()), 0.0, "mean of a context met 9 times, least = 10", [
        (3 / 9, "Below `least` actions the mean is not used: the baseline is 0.")])
    table.update([()], [1])
    same(table.mean(()), 0.4, "mean of a context met 10 times, least = 10", [
        (0.0, "Off by one: from `least` actions on, not above, the mean counts."),
        (0.1, "Only the actions after the tenth are counted: the early ones belong to the mean too."),
        (1.0, "The rewards counted before the mean was used are lost.")])


@pytest.mark.assignment(9, points=1)
def test_an_unknown_context():
    """a context that was never met"""
    table = student("rl_process").ContextBaseline(least=1)
    try:
        same(table.mean((1, 1, 1)), 0.0, "mean of a context never met")
    except (KeyError, ZeroDivisionError) as error:
        fail(f"A context that was never met has the baseline 0; yours raises {type(error).__name__}.")
    same(table.mean((1, 1, 1)), 0.0, "the same, asked again: to ask must not count")


@pytest.mark.assignment(9, points=2)
def test_over_the_run():
    """the mean runs over all batches, each action with the same weight"""
    table = student("rl_process").ContextBaseline(least=1)
    table.update([()] * 3, [1, 1, 1])
    table.update([()], [-1])
    same(table.mean(()), 0.5, "mean of 1 1 1 in one batch and -1 in the next", [
        (0.0, "The mean of the batches' means: each action has the same weight."),
        (-1.0, "Only the last batch counts."),
        (1.0, "Only the first batch counts."),
        (2.0, "This is the sum.")])


@pytest.mark.assignment(9, points=2)
def test_own():
    """own: the mean of the others"""
    table = student("rl_process").ContextBaseline(least=1)
    table.update([(), (), ()], [1, -1, -1])
    same([table.mean((), 1), table.mean((), own=-1), table.mean(())], [-1.0, 0.0, -1 / 3], "means of 1 -1 -1 "
        "without a 1, "
         "without a -1, and of all", [
             ([-1 / 3] * 3, "The mean contains the action's own reward, though `own` names it: leave "
                 "it out."),
             ([-2 / 3, 0.0, -1 / 3], "Without its own reward the sum is divided by the count of all: there "
                 "is one fewer.")])
    table.update([(1,)], [1])
    few = student("rl_process").ContextBaseline(least=3)
    few.update([(), (), ()], [1, -1, -1])
    same([few.mean((), 1), few.mean(())], [0.0, -1 / 3], "least = 3, met 3 times: means without a 1 "
        "and with it", [
        ([-1.0, -1 / 3], "`least` is compared with the count that remains without `own`."),
        ([0.0, 0.0], "Off by one: from `least` actions on, not above, the mean counts."),
        ([-1 / 3] * 2, "The mean contains the action's own reward, though `own` names it: leave it out.")])
    same([table.mean((1,), 1), table.mean((1,))], [0.0, 1.0], "means of a context met once, without it and "
        "with it", [
        ([1.0, 1.0], "The mean contains the action's own reward, though `own` names it: leave it out.")])
    same(table.mean(()), -1 / 3, "the mean of all, asked again: `own` must not change the table")


@pytest.mark.assignment(9, points=3)
def test_checkpoint():
    """state_dict and load_state_dict carry the table through torch.save"""
    import torch
    Table = student("rl_process").ContextBaseline
    table = Table(least=2)
    table.update([(1,), (1,), ("end", 1), (2, (1,))], [1, -1, 1, 1])
    table.update([(1,)], [1])
    file = io.BytesIO()
    torch.save(table.state_dict(), file)
    file.seek(0)
    try:
        state = torch.load(file, weights_only=True)
    except Exception as error:
        fail(f"The state must be of plain dicts, tuples and numbers, so that torch.load(weights_only=True) "
            f"reads it: {str(error)[:120]}")
    other = Table(least=2)
    other.load_state_dict(state)
    same(other.mean((1,)), 1 / 3, "mean after a checkpoint", [(0.0, "The table, or its counts, was lost in "
        "the checkpoint."),
         (1.0, "The counts were lost in the checkpoint: the mean must go on from where it was.")])
    other.update([(1,)], [-1])
    same(other.mean((1,)), 0.0, "mean after a checkpoint and one more action")
    shared = "The state is shared: state_dict gives a copy, load_state_dict keeps a copy."
    same(table.mean((1,)), 1 / 3, "mean of the first table after the second one was updated", [(0.0, shared)])
    third = Table(least=2)
    third.load_state_dict(state)
    same(third.mean((1,)), 1 / 3, "mean of a third table: the second one was updated after it loaded "
        "the same state", [(0.0, shared)])
    state = table.state_dict()
    table.update([(1,)], [-1])
    third.load_state_dict(state)
    same(third.mean((1,)), 1 / 3, "mean from a state of a table that was updated later", [(0.0, shared)])


@pytest.mark.assignment(9, points=2)
def test_report():
    """report names the contexts met most often, with count and mean"""
    table = student("rl_process").ContextBaseline(least=1)
    table.update([()] * 3 + [(-1,)] * 5, [1, 1, -1] + [1] * 5)
    lines = table.report().splitlines()
    if len(lines) != 2 or "(-1,)" not in lines[0] or "5" not in lines[0] or "0.33" not in lines[1]:
        fail(f"report gives a line for each context, the one met most often first, with count and mean. "
            f"Yours:\n{table.report()}")
    if len(table.report(most=1).splitlines()) != 1:
        fail("report(most=1) gives one line.")
    young = student("rl_process").ContextBaseline()
    young.update([()] * 3, [1, 1, -1])
    if "0.33" not in young.report():
        fail(f"report gives the plain mean, also of a context met fewer than `least` times. Yours: "
             f"{young.report()!r}")
