"""Stage 0 and 1 of S2R (paper section 2.2): work in progress, the loss first."""
import torch

LOGIT_CHUNK = 256  # tokens whose logits are held at once: 256 x 151,936 x 4 bytes = 156 MB


def head_product(a, b):
    """[n,k] @ [k,m] -> [n,m], float32 even where a and b are 16-bit (there: on CUDA only, see `head_inputs`)."""
    return torch.mm(a, b, out_dtype=torch.float32) if a.dtype in (torch.bfloat16, torch.float16) else a @ b


def head_inputs(hidden, weight):
    """hidden and weight in the dtype of the multiplication: 16-bit on CUDA where the input is or autocast asks
    for it, else at least float32 (a 16-bit product on the CPU would round the logits themselves)."""
    device, dtype = hidden.device.type, hidden.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    if device != "cuda" and dtype in (torch.bfloat16, torch.float16):
        dtype = torch.float32
    return hidden.to(dtype), weight.to(dtype)


class TokenLogprobs(torch.autograd.Function):
    """Forward keeps one number a token, the logsumexp; backward computes each chunk's logits again from it."""

    @staticmethod
    def forward(ctx, hidden, weight, targets, chunk, temperature):
        h, w = head_inputs(hidden, weight)
        picked, lse = [], []
        with torch.autocast(hidden.device.type, enabled=False):
            for h_c, t_c in zip(h.split(chunk), targets.split(chunk)):
                logits = head_product(h_c, w.T)  # [chunk,V]
                if temperature != 1:
                    logits.div_(temperature)
                top = logits.amax(1, keepdim=True)
                picked.append(logits.gather(1, t_c[:, None])[:, 0])
                lse.append(top[:, 0] + logits.sub_(top).exp_().sum(1).log())
                del logits  # before the next chunk's are made
        lse = torch.cat(lse)
        ctx.save_for_backward(hidden, weight, targets, lse)
        ctx.chunk, ctx.temperature, ctx.dtype = chunk, temperature, h.dtype
        return torch.cat(picked) - lse

    @staticmethod
    def backward(ctx, grad):
        hidden, weight, targets, lse = ctx.saved_tensors
        need_h, need_w = ctx.needs_input_grad[:2]
        w = weight.to(ctx.dtype)
        grad = grad / ctx.temperature  # d logp_i / d logits_i = (onehot - softmax) / T
        grad_h = torch.empty_like(hidden) if need_h else None
        grad_w = torch.zeros_like(weight, dtype=lse.dtype) if need_w else None
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), ctx.chunk):
                rows = slice(start, start + ctx.chunk)
                h, g = hidden[rows].to(ctx.dtype), grad[rows, None]
                probs = head_product(h, w.T)
                if ctx.temperature != 1:
                    probs.div_(ctx.temperature)
                probs = probs.sub_(lse[rows, None]).exp_().to(ctx.dtype)  # [chunk,V]
                if need_h:
                    grad_h[rows] = g * (w[targets[rows]] - head_product(probs, w))
                if need_w and h.dtype == grad_w.dtype:
                    grad_w.addmm_(probs.T, h * g, alpha=-1)
                elif need_w:
                    grad_w -= head_product(probs.T, (h * g).to(ctx.dtype))
                del probs
        if need_w:
            grad_w.index_add_(0, targets, hidden.to(grad_w.dtype) * grad[:, None])
            grad_w = grad_w.to(weight.dtype)
        return grad_h, grad_w, None, None, None


def token_logprobs(hidden, weight, targets, chunk=LOGIT_CHUNK, temperature=1.0):
    """log softmax(hidden @ weight.T / temperature)[targets] without ever holding [N,V].

    hidden [N,H], weight [V,H] (the head; tied or not), targets [N] -> [N] float32, differentiable in hidden and
    weight. At most `chunk` rows of logits exist at a time, forward and backward; sums are taken in float32.
    """
    return TokenLogprobs.apply(hidden, weight, targets, chunk, float(temperature))
