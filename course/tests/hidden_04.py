"""Assignment 4, hidden tests."""
import pytest
import torch
from check import fail, same, student
from test_03 import inputs
from test_04 import P, Q, kl


def two_models(n=40, v=50):
    hidden, weight, _ = inputs(n, 6, v)
    gen = torch.Generator().manual_seed(1)
    return hidden, weight, torch.randn(n, 4, generator=gen), torch.randn(v, 4, generator=gen)


def plain(hidden, weight, base_hidden, base_weight):
    """The naive formula."""
    logp, logq = ((h @ w.T).log_softmax(1) for h, w in ((hidden, weight), (base_hidden, base_weight)))
    return (logp.exp() * (logp - logq)).sum()


@pytest.mark.assignment(4, points=2)
def test_sum_over_tokens():
    """the sum over tokens, not the mean"""
    one = (P * (P / Q).log()).sum().item()
    same(kl(10), 10 * one, "sum_kl of 10 equal tokens", [
        (one, "The mean over tokens: sum_kl gives the sum, the caller divides by the tokens of the "
            "whole batch."),
        (-10 * one, "The sign: KL is never negative."),
        (10 * (Q * (Q / P).log()).sum().item(), "The wrong way round: this is KL(pi_base || pi).")])


@pytest.mark.assignment(4, points=2)
def test_chunks():
    """the chunk size changes nothing, also where it does not divide N"""
    models = two_models()
    want = plain(*models).item()
    for chunk in (1, 7, 40, 64):
        got = student("sft").sum_kl(*models, chunk)
        same(got, want, f"sum_kl of 40 tokens in chunks of {chunk}", [
            (want / 40, "The mean over tokens instead of their sum.")], tol=1e-3)


@pytest.mark.assignment(4, points=3)
def test_gradient():
    """the gradient in hidden and in weight"""
    models = two_models()
    want = torch.autograd.grad(plain(*models), models[:2])
    got = student("sft").sum_kl(*models, 16)
    if not got.requires_grad:
        fail("The result carries no gradient.")
    try:
        mine = torch.autograd.grad(got, models[:2])
    except RuntimeError as error:
        fail(f"The gradient must flow into hidden and weight: {str(error)[:200]}")
    logp, logq = ((h @ w.T).log_softmax(1) for h, w in (models[:2], models[2:]))
    no_p = torch.autograd.grad((logp.exp().detach() * (logp - logq)).sum(), models[0], retain_graph=True)[0]
    no_log = torch.autograd.grad((logp.exp() * (logp - logq).detach()).sum(), models[0])[0]
    if mine[0].abs().max() < 1e-4:
        fail("The gradient is 0: p was detached. The expected gradient of log p is 0, so the whole signal of "
            "the KL "
             "flows through p.")
    same(mine[0], want[0], "the gradient in hidden", [
        (no_p, "p is detached: the gradient must flow through p too."),
        (no_log, "log p - log q is detached: the number is right, and so is the gradient only for "
            "sum p = 1."),
        (-want[0], "The gradient has the wrong sign.")], tol=1e-3)
    same(mine[1], want[1], "the gradient in weight", tol=1e-3)


@pytest.mark.assignment(4, points=2)
def test_a_base_of_another_width():
    """hidden [N, H] and base_hidden [N, H'] may differ in width"""
    same(kl(3), 3 * (P * (P / Q).log()).sum().item(), "sum_kl, both of width 1")
    wide = torch.ones(2, 5) / 5
    got = student("sft").sum_kl(torch.ones(2, 1), P.log()[:, None], wide, Q.log()[:, None].expand(3, 5))
    same(got, 2 * (P * (P / Q).log()).sum().item(), "sum_kl with a base of width 5")


@pytest.mark.assignment(4, points=1)
def test_improbable_tokens():
    """a token that neither model gives any probability"""
    far = torch.tensor([[0.0], [-200.0]])
    got = student("sft").sum_kl(torch.ones(1, 1), far, torch.ones(1, 1), far)
    if not torch.isfinite(got):
        fail("Not a number where p is 0: use log_softmax, not the log of a softmax.")
    same(got, 0.0, "KL of two equal models, one of whose tokens has probability 0")
