"""Assignment 5, public tests: temperature and inverse-CDF sampling."""
import pytest
import torch
from check import fail, same, student

LOGITS = torch.tensor([1.0, 2.0, 1.0]).log()    # probabilities 1/4, 1/2, 1/4: the CDF is .25, .75, 1


def choose(uniforms, temperature=1.0, logits=LOGITS):
    """choose for rows of the same logits."""
    got = student("rl_outcome").choose(logits.expand(len(uniforms), -1), torch.tensor(uniforms,
        dtype=torch.float64),
                                       temperature)
    if getattr(got, "shape", None) != (len(uniforms),) or got.dtype != torch.long:
        fail(f"choose gives one token id a row, an int64 tensor [{len(uniforms)}]; yours: {got!r}"[:300])
    return got


@pytest.mark.assignment(5, points=2)
def test_greedy():
    """temperature 0 is the most likely token"""
    same(choose([0.1, 0.9], 0), [1, 1], "choose at T = 0", [([0, 2], "At T = 0 nothing is drawn: the largest "
        "logit wins.")])


@pytest.mark.assignment(5, points=3)
def test_inverse_cdf():
    """the first token whose cumulative probability is above u"""
    got = choose([0.0, 0.2, 0.3, 0.7, 0.8])
    same(got, [0, 0, 1, 1, 2], "u = 0, .2, .3, .7, .8 on the CDF .25, .75, 1", [
        ([1, 1, 2, 2, 2], "Off by one: the index of the first cumulative sum above u is the token itself."),
        ([1, 1, 2, 2, 3], "Off by one: the index of the first cumulative sum above u is the token itself."),
        ([0, 0, 0, 0, 1], "Off by one: you take the last cumulative sum below u, not the first above it."),
        ([2, 2, 1, 1, 0], "You invert 1 - CDF: the sum runs from token 0 on."),
        ([1, 1, 0, 0, 2], "The tokens were sorted by probability: the CDF runs over the ids in their order."),
        ([1] * 5, "This is greedy: the uniforms are not used.")])
