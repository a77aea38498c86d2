"""The chunked log-probs and the chunked KL against autograd on the naive formulas."""
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import sft


def inputs(n=7, h=5, v=11, dtype=torch.float64, seed=0):
    gen = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n, h, generator=gen, dtype=torch.float64)
    weight = torch.randn(v, h, generator=gen, dtype=torch.float64)
    targets = torch.randint(v, (n,), generator=gen)
    targets[1] = targets[0]  # a token that occurs twice: its rows of the gradient add up
    return hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), targets


def naive_logprobs(hidden, weight, targets, temperature=1.0):
    return torch.log_softmax(hidden @ weight.T / temperature, -1).gather(1, targets[:, None])[:, 0]


def naive_kl(hidden, weight, base_hidden, base_weight):
    logp, logq = (torch.log_softmax(h @ w.T, -1) for h, w in ((hidden, weight), (base_hidden, base_weight)))
    return torch.nn.functional.kl_div(logq, logp, reduction="sum", log_target=True)


def test_a_number_by_hand():
    # logits (ln 1, ln 2, ln 5): p = 1/8, 2/8, 5/8
    weight = torch.log(torch.tensor([[1.0], [2.0], [5.0]]))
    logp = sft.token_logprobs(torch.ones(3, 1), weight, torch.tensor([0, 1, 2]), chunk=2)
    torch.testing.assert_close(logp.exp(), torch.tensor([0.125, 0.25, 0.625]))
    # at T = 1/2 the weights are squared: 1, 4, 25 of 30
    logp = sft.token_logprobs(torch.ones(1, 1), weight, torch.tensor([1]), temperature=0.5)
    torch.testing.assert_close(logp.exp(), torch.tensor([4 / 30]))
    # KL((1/8, 2/8, 5/8) || uniform) = sum p ln(3 p)
    p = torch.tensor([0.125, 0.25, 0.625])
    kl = sft.sum_kl(torch.ones(2, 1), weight, torch.ones(2, 1), torch.zeros(3, 1))
    torch.testing.assert_close(kl, 2 * (p * (3 * p).log()).sum())


@pytest.mark.parametrize("chunk", [1, 3, 7, 256])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_gradcheck(chunk, temperature):
    hidden, weight, targets = inputs()
    assert torch.autograd.gradcheck(
        lambda h, w: sft.token_logprobs(h, w, targets, chunk, temperature), (hidden, weight))


@pytest.mark.parametrize("chunk", [1, 3, 7, 256])
def test_kl_gradcheck(chunk):
    hidden, weight, _ = inputs()
    base = [x.detach() for x in inputs(h=4, seed=1)[:2]]  # a base of another width
    assert torch.autograd.gradcheck(lambda h, w: 0.3 * sft.sum_kl(h, w, *base, chunk), (hidden, weight))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_float32_equals_autograd(temperature):
    hidden, weight, targets = inputs(100, 32, 500, torch.float32)
    upstream = torch.randn(100, generator=torch.Generator().manual_seed(2))
    want = naive_logprobs(hidden, weight, targets, temperature)
    want_grads = torch.autograd.grad((want * upstream).sum(), (hidden, weight))
    got = sft.token_logprobs(hidden, weight, targets, 16, temperature)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    got_grads = torch.autograd.grad((got * upstream).sum(), (hidden, weight))
    torch.testing.assert_close(got_grads, want_grads, rtol=1e-4, atol=1e-5)


def test_kl_float32_equals_autograd():
    hidden, weight, _ = inputs(100, 32, 500, torch.float32)
    base_hidden, base_weight, _ = (x.detach() for x in inputs(100, 32, 500, torch.float32, seed=1))
    want = naive_kl(hidden, weight, base_hidden, base_weight)
    got = sft.sum_kl(hidden, weight, base_hidden, base_weight, 16)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-4)
    want_grads, got_grads = (torch.autograd.grad(x, (hidden, weight)) for x in (want, got))
    torch.testing.assert_close(got_grads, want_grads, rtol=1e-4, atol=1e-4)
    same = sft.sum_kl(hidden, weight, hidden.detach(), weight.detach())
    assert abs(same.item()) < 1e-4


def test_bf16_logits_are_not_rounded():
    hidden, weight, targets = inputs(64, 64, 300, torch.bfloat16)
    exact_in = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    exact = naive_logprobs(*exact_in, targets)
    got, rounded = sft.token_logprobs(hidden, weight, targets, 16), naive_logprobs(hidden, weight, targets)
    assert got.dtype == torch.float32
    assert (got - exact).abs().max() < 1e-4
    assert (rounded - exact).abs().max() > 1e-2  # what the naive formula loses: the test above can fail
    got.sum().backward()
    exact.sum().backward()
    for mine, reference in zip((hidden, weight), exact_in):
        assert mine.grad.dtype == torch.bfloat16
        error = (mine.grad.double() - reference.grad).norm() / reference.grad.norm()
        assert error < 5e-3, error


def test_weight_gradient_is_summed_in_float32():
    # 2,048 equal gradients: a bf16 sum stops growing after 256 of them
    n = 2048
    hidden, weight = torch.ones(n, 1).bfloat16(), torch.zeros(2, 1).bfloat16()
    weight.requires_grad_()  # p = 1/2, so d logp / d w = +-1/2
    logp = sft.token_logprobs(hidden, weight, torch.zeros(n, dtype=torch.long), chunk=1)
    logp.mean().backward()
    torch.testing.assert_close(weight.grad.float(), torch.tensor([[0.5], [-0.5]]), rtol=5e-3, atol=0)


def test_tied_head():
    gen = torch.Generator().manual_seed(0)
    table = torch.randn(20, 6, generator=gen, dtype=torch.float64).requires_grad_()
    ids = torch.randint(20, (9,), generator=gen)
    grads = []
    for logprobs in (naive_logprobs, lambda h, w, t: sft.token_logprobs(h, w, t, 4)):
        loss = logprobs(table[ids[:-1]].tanh(), table, ids[1:]).sum()
        grads += torch.autograd.grad(loss, table)
    torch.testing.assert_close(grads[1], grads[0])


def test_no_tokens():
    hidden, weight, targets = inputs(dtype=torch.float32)
    total = sft.token_logprobs(hidden[:0], weight, targets[:0]).sum()
    total = total + sft.sum_kl(hidden[:0], weight, hidden[:0].detach(), weight.detach())
    total.backward()
    assert total == 0 and not weight.grad.any()


class Largest(TorchDispatchMode):
    """Records the largest tensor that any operation makes."""
    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else [out]:
            self.size = max(self.size, x.numel() if isinstance(x, torch.Tensor) else 0)
        return out


@pytest.mark.parametrize("name", ["logprobs", "kl"])
def test_never_more_than_a_chunk(name):
    n, h, v, chunk = 64, 4, 100, 8
    hidden, weight, targets = inputs(n, h, v, torch.float32)
    with Largest() as seen:
        if name == "logprobs":
            sft.token_logprobs(hidden, weight, targets, chunk, 0.7).sum().backward()
        else:
            sft.sum_kl(hidden, weight, hidden.detach() + 1, weight.detach(), chunk).backward()
    assert seen.size == chunk * v
    with Largest() as seen:
        naive_logprobs(hidden, weight, targets).sum().backward()
    assert seen.size == n * v
