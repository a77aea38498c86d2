"""Assignment 3, hidden tests."""
import pytest
import torch
from check import fail, same, student
from test_03 import ONES, WEIGHT, inputs
from torch.utils._python_dispatch import TorchDispatchMode


@pytest.mark.assignment(3, points=2)
def test_temperature():
    """the temperature divides the logits"""
    got = student("sft").token_logprobs(torch.ones(1, 1), WEIGHT, torch.tensor([1]), temperature=0.5)
    same(got, torch.tensor([4 / 30]).log(), "log-prob of the second token at T = 1/2: the weights become "
        "1, 4, 25", [
        (torch.tensor([2 / 8]).log(), "The temperature is not used."),
        (torch.tensor([2 ** .5 / (1 + 2 ** .5 + 5 ** .5)]).log(), "You multiply by the temperature; it "
            "divides the logits."),
        (torch.tensor([2 / 8]).log() / 0.5, "The temperature divides the logits, not the log-probs.")])


def plain(hidden, weight, targets):
    """The naive formula."""
    return (hidden @ weight.T).log_softmax(1).gather(1, targets[:, None])[:, 0]


@pytest.mark.assignment(3, points=3)
def test_gradient():
    """the gradient in hidden and in weight"""
    hidden, weight, targets = inputs()
    up = torch.linspace(-1, 1, len(targets))
    want = torch.autograd.grad((plain(hidden, weight, targets) * up).sum(), (hidden, weight))
    got = student("sft").token_logprobs(hidden, weight, targets, chunk=16)
    if not got.requires_grad:
        fail("The result carries no gradient: something was detached, or computed under no_grad.")
    try:
        mine = torch.autograd.grad((got * up).sum(), (hidden, weight))
    except RuntimeError as error:
        fail(f"The gradient must flow into hidden and into weight: {str(error)[:200]}")
    same(mine[0], want[0], "the gradient in hidden", [(-want[0], "The gradient has the wrong sign.")])
    same(mine[1], want[1], "the gradient in weight", [(-want[1], "The gradient has the wrong sign.")])


class Largest(TorchDispatchMode):
    """Records the largest tensor that any operation makes."""
    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else [out]:
            self.size = max(self.size, x.numel() if isinstance(x, torch.Tensor) else 0)
        return out


@pytest.mark.assignment(3, points=3)
def test_never_the_whole_matrix():
    """no tensor is larger than [chunk, V]"""
    n, h, v, chunk = 64, 4, 100, 8
    hidden, weight, targets = inputs(n, h, v)
    with Largest() as seen:
        student("sft").token_logprobs(hidden, weight, targets, chunk=chunk).sum().backward()
    if seen.size >= n * v:
        fail(f"A tensor of {seen.size} numbers was made: [N, V] = [{n}, {v}] is held at once. At most "
            f"[chunk, V] = "
             f"[{chunk}, {v}] may be.")
    if seen.size > chunk * v:
        fail(f"The largest tensor has {seen.size} numbers; chunk x V is {chunk * v}. Does every chunk have "
            f"`chunk` tokens?")


@pytest.mark.assignment(3, points=3)
def test_what_the_graph_keeps():
    """the logits of a chunk do not wait for the backward pass"""
    n, h, v, chunk = 64, 4, 100, 8
    hidden, weight, targets = inputs(n, h, v)
    kept = {}

    def keep(x):
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes() // x.element_size()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        student("sft").token_logprobs(hidden, weight, targets, chunk=chunk)
    if sum(kept.values()) >= n * v:
        fail(f"Every chunk is small, but the graph keeps {sum(kept.values())} numbers until the backward "
            f"pass, which is "
             f"[N, V] = {n * v} again. torch.utils.checkpoint recomputes a chunk instead.")


@pytest.mark.assignment(3, points=2)
def test_sixteen_bit_inputs():
    """bf16 inputs, float32 log-probs"""
    hidden, weight, targets = inputs(64, 64, 300, torch.bfloat16)
    got = student("sft").token_logprobs(hidden, weight, targets)
    same(str(got.dtype), "torch.float32", "dtype of log-probs of bf16 inputs", [
        ("torch.bfloat16", "The log-probs are bf16: logits must be computed in float32, or ratios of "
            "policies are noise.")])
    exact = plain(hidden.detach().double(), weight.detach().double(), targets)
    if (got - exact).abs().max() > 1e-3:
        fail(f"Off by {(got - exact).abs().max().item():.2g}: the logits were rounded to 16 bits before the "
            f"softmax. "
             "Make hidden and weight float32 first.")


@pytest.mark.assignment(3, points=1)
def test_large_logits():
    """logits of a thousand"""
    got = student("sft").token_logprobs(torch.full((1, 1), 1000.0), torch.tensor([[1.0], [2.0]]),
        torch.tensor([1]))
    same(got, [0.0], "log-prob of the larger of the logits 1000 and 2000", [
        ([float("inf")], "exp of a large logit overflows: use log_softmax, logsumexp or cross_entropy.")])
