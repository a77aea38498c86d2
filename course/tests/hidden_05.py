"""Assignment 5, hidden tests."""
import pytest
import torch
from check import copies, fail, same, student
from test_05 import LOGITS, choose


@pytest.mark.assignment(5, points=2)
def test_temperature():
    """the temperature divides the logits"""
    uniforms = [0.16, 0.2, 0.27, 0.72, 0.8, 0.84]
    got = choose(uniforms, 0.5)                 # probabilities 1/6, 4/6, 1/6: the CDF is .1667, .8333, 1
    same(got, [0, 1, 1, 1, 1, 2], "u = .16, .2, .27, .72, .8, .84 at T = 1/2, where the CDF is .1667, "
        ".8333, 1", [
        (choose_like([0.25, 0.75], uniforms), "The temperature is not used."),
        (choose_like([0.2929, 0.7071], uniforms), "You multiply by the temperature; it divides.")])


def choose_like(cdf, uniforms):
    """Tokens of these uniforms on a CDF, for the expected mistakes."""
    return [sum(u >= c for c in cdf) for u in uniforms]


@pytest.mark.assignment(5, points=2)
def test_edges():
    """a uniform that meets the CDF; one just below 1"""
    same(choose([0.25, 0.75], 1.0), [1, 2], "u = .25 and .75 exactly on the CDF .25, .75, 1", [
        ([0, 1], "u is in [0, 1): a token is drawn where cdf[i-1] <= u < cdf[i], so u = .25 is the "
            "second token "
         "(searchsorted has a flag for it).")])
    logits = torch.tensor([0.0, 0.0, -200.0])
    got = choose([1 - 2 ** -53], 1.0, logits)
    if got[0] > 2:
        fail("Token id V was drawn for a uniform just below 1: the cumulative sum may end a little below 1.")
    if choose([0.0], 1.0, torch.tensor([-300.0, 0.0]))[0] == 0:
        fail("u = 0 drew a token of probability 0: search for the first sum that is greater than u, "
            "not equal.")


@pytest.mark.assignment(5, points=2)
def test_large_vocabulary():
    """rare tokens of a large vocabulary can be drawn"""
    logits = torch.full((60_000,), -18.0)
    logits[0] = 0.0
    p = 1 / (1 + 59_999 * torch.tensor(-18.0, dtype=torch.float64).exp())
    uniforms = [(p + (1 - p) * (k + 0.5) / 59_999).item() for k in range(30_000, 30_200)]     # one in each token
    got = choose(uniforms, 1.0, logits).tolist()
    if len(set(got)) < 150 or abs(got[100] - 30_101) > 600:
        fail(f"200 neighbouring rare tokens were aimed at, and {len(set(got))} different ones were drawn. The CDF is "
             "float32, where each of them adds less than a rounding error. Sum in float64 (the type of the uniforms).")


@pytest.mark.assignment(5, points=2)
def test_frequencies():
    """40,000 draws follow the softmax"""
    logits = torch.tensor([0.0, 1.0, -1.0, 0.5, -3.0])
    gen = torch.Generator().manual_seed(0)
    uniforms = torch.rand(40_000, generator=gen, dtype=torch.float64)
    got = torch.bincount(student("rl_outcome").choose(logits.expand(40_000, 5), uniforms, 0.7), minlength=5)
    expected = 40_000 * (logits / 0.7).softmax(-1)
    if ((got - expected) ** 2 / expected).sum() > 18.5:
        fail(f"The draws do not follow softmax(logits / T).\n  yours:    {got.tolist()}\n  expected: about "
             f"{expected.round().long().tolist()}")


@pytest.mark.assignment(5, points=2)
def test_rows_and_copies():
    """every row has its own logits and uniform; the copies are the same"""
    logits = torch.stack([LOGITS, LOGITS.flip(0) * 0, torch.tensor([9.0, 0.0, 0.0])])
    uniforms = torch.tensor([0.3, 0.9, 0.5], dtype=torch.float64)
    copies("choose", ("rl_outcome", "rl_process", "sample"), lambda f: f(logits, uniforms, 1.0), [1, 2, 0])
