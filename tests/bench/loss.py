"""Memory and time of the chunked loss, forward + backward, against the naive formula and PyTorch's own.

    python tests/bench/loss.py                       # CPU: hidden 896, vocabulary 151,936, 4,096 tokens, fp32
    python tests/bench/loss.py --tokens 1024         # quicker
    python tests/bench/loss.py --device cuda --dtype bf16 --tokens 16384

Each method runs in a process of its own, so that its peak memory is its own. "extra" is the peak above inputs
and their gradients (which every method returns). CPU seconds stand beside wall seconds, for a busy machine.
`linear_cross_entropy` makes one mean, not a log-prob per token: it does less.
"""
import argparse
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import torch

import sft

NAMES = {"naive": "log_softmax + gather", "token_logprobs": "sft.token_logprobs",
         "linear_cross_entropy": "F.linear_cross_entropy (plain)",
         "linear_cross_entropy_chunked": "F.linear_cross_entropy (chunked)",
         "naive_kl": "log_softmax twice, KL", "sum_kl": "sft.sum_kl"}


def resident():
    """Bytes of this process in memory now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


class Peak(threading.Thread):
    """Highest resident size, looked at every 5 ms."""
    def __init__(self):
        super().__init__(daemon=True)
        self.highest, self.done = resident(), False

    def run(self):
        while not self.done:
            self.highest = max(self.highest, resident())
            time.sleep(0.005)


def loss_of(method, hidden, weight, targets, base_hidden, base_weight, chunk):
    if method == "naive":
        return torch.log_softmax((hidden @ weight.T).float(), -1).gather(1, targets[:, None]).mean()
    if method == "token_logprobs":
        return sft.token_logprobs(hidden, weight, targets, chunk).mean()
    if method == "linear_cross_entropy":
        return torch.nn.functional.linear_cross_entropy(hidden, weight, targets)
    if method == "linear_cross_entropy_chunked":
        return torch.nn.functional.linear_cross_entropy(
            hidden, weight, targets, options=torch.nn.LinearCrossEntropyOptions())
    if method == "naive_kl":
        logp = torch.log_softmax((hidden @ weight.T).float(), -1)
        logq = torch.log_softmax((base_hidden @ base_weight.T).float(), -1)
        return torch.nn.functional.kl_div(logq, logp, reduction="sum", log_target=True) / len(hidden)
    return sft.sum_kl(hidden, weight, base_hidden, base_weight) / len(hidden)


def measure(method, args):
    device, dtype = torch.device(args.device), {"fp32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
    torch.manual_seed(0)
    hidden = torch.randn(args.tokens, args.hidden, device=device, dtype=dtype).requires_grad_()
    weight = torch.empty(args.vocab, args.hidden, device=device, dtype=dtype).normal_(std=0.02)
    weight.requires_grad_()
    targets = torch.randint(args.vocab, (args.tokens,), device=device)
    base = ()
    if method.endswith("kl"):
        base = ((hidden + 0.1).detach(), weight.detach().clone())
    floor = (hidden.numel() + weight.numel()) * hidden.element_size()  # the two gradients
    runs = []
    for _ in range(args.repeats if device.type == "cpu" else args.repeats + 2):
        hidden.grad = weight.grad = None
        if device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            start = torch.cuda.memory_allocated()
        else:
            start, peak = resident(), Peak()
            peak.start()
        wall, cpu = time.perf_counter(), time.process_time()
        loss = loss_of(method, hidden, weight, targets, *(base or (None, None)), args.chunk)
        loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
            highest = torch.cuda.max_memory_allocated()
        else:
            peak.done = True
            highest = peak.highest
        runs.append({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu,
                     "extra": highest - start - floor})
    runs = runs[2:] if device.type == "cuda" else runs
    best = {key: min(run[key] for run in runs) for key in ("wall", "cpu")}
    return {**best, "extra": max(run["extra"] for run in runs), "loss": loss.item(),
            "grad": weight.grad.float().norm().item()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--hidden", type=int, default=896)
    parser.add_argument("--vocab", type=int, default=151936)
    parser.add_argument("--chunk", type=int, default=256, help="of token_logprobs")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--methods", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.child:
        print(json.dumps(measure(args.methods[0], args)))
        return
    row = args.vocab * 4 / 2**30
    print(f"{args.tokens} tokens, hidden {args.hidden}, vocabulary {args.vocab}, "
          f"{args.dtype} on {args.device}, torch {torch.__version__}, {args.threads} thread(s)\n"
          f"[tokens,V] in float32: {args.tokens * row:.2f} GiB; a chunk: {args.chunk * row:.2f} GiB")
    print(f"{'method':33s} {'extra GiB':>9s} {'ratio':>6s} {'wall s':>8s} {'ratio':>6s} {'cpu s':>8s} "
          f"{'ratio':>6s} {'loss':>9s} {'grad norm':>9s}", flush=True)
    reference = {}
    for method in args.methods:
        flags = [f"--{name}={getattr(args, name)}" for name in
                 ("tokens", "hidden", "vocab", "chunk", "device", "dtype", "repeats", "threads")]
        done = subprocess.run([sys.executable, __file__, "--child", *flags, "--methods", method],
                              capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["killed"])[-1]
            print(f"{NAMES[method]:33s} failed: {reason[:90]}", flush=True)
            continue
        r = json.loads(done.stdout.splitlines()[-1])
        base = reference.setdefault("kl" if method.endswith("kl") else "logprobs", r)
        print(f"{NAMES[method]:33s} {r['extra'] / 2**30:9.2f} {r['extra'] / base['extra']:6.3f} "
              f"{r['wall']:8.3f} {r['wall'] / base['wall']:6.2f} "
              f"{r['cpu']:8.3f} {r['cpu'] / base['cpu']:6.2f} "
              f"{r['loss']:9.5f} {r['grad']:9.5f}", flush=True)


if __name__ == "__main__":
    main()
