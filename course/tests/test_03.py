"""Assignment 3, public tests: log-probs of the targets, never [N, V]."""
import pytest
import torch
from check import copies, fail, same, shape, student

FILES = ("sft", "rl_outcome", "rl_process")
WEIGHT = torch.tensor([[1.0], [2.0], [5.0]]).log()      # one hidden unit at 1: p = 1/8, 2/8, 5/8
ONES, TARGETS = torch.ones(3, 1), torch.tensor([0, 1, 2])


def inputs(n=40, h=6, v=50, dtype=torch.float32):
    """hidden [N, H], weight [V, H], targets [N]"""
    gen = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(n, h, generator=gen).to(dtype), torch.randn(v, h, generator=gen).to(dtype)
    return hidden.requires_grad_(), weight.requires_grad_(), torch.randint(v, (n,), generator=gen)


@pytest.mark.assignment(3, points=2)
def test_by_hand():
    """probabilities 1/8, 2/8, 5/8"""
    got = student("sft").token_logprobs(ONES, WEIGHT, TARGETS)
    want = torch.tensor([1 / 8, 2 / 8, 5 / 8]).log()
    same(got, want, "token_logprobs where the probabilities are 1/8, 2/8, 5/8", [
        (-want, "The sign: these are log-probs, which are negative, not losses."),
        (want.exp(), "These are probabilities; their logarithm is wanted."),
        (want.sum(), "One number a token is wanted, not their sum."), (want.mean(), "One number a token, not "
            "their mean."),
        (torch.tensor([0.0, 2.0, 5.0]).log(), "These are logits: the log of the softmax is wanted.")])


@pytest.mark.assignment(3, points=1)
def test_shape_and_type():
    """[N] float32 for N that no chunk divides"""
    hidden, weight, targets = inputs(10)
    shape(student("sft").token_logprobs(hidden, weight, targets, chunk=4), [10], "token_logprobs of 10 "
        "tokens, chunk 4",
          torch.float32)


@pytest.mark.assignment(3, points=1)
def test_copies():
    """the same function in sft, rl_outcome and rl_process"""
    want = torch.tensor([1 / 8, 2 / 8, 5 / 8]).log()
    copies("token_logprobs", FILES, lambda f: f(ONES, WEIGHT, TARGETS), want)
