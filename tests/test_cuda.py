"""What only a CUDA GPU can show, against the CPU and against `generate`; and, on the CPU, the script that
measures it, tests/bench/gpu.py, which prints the same comparisons for larger models."""
from pathlib import Path

import pytest
import torch
from chain import flags, save_chain, save_problems

import model as models
import rl_outcome
import rl_process
import sample
import sft

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
STOP = list(range(40, 60))              # a random model meets one of these within tens of tokens
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def random_prompts(count, vocab, low, high):
    draw = torch.Generator().manual_seed(1)
    lengths = torch.randint(low, high + 1, (count,), generator=draw).tolist()
    return [torch.randint(vocab, (n,), generator=draw).tolist() for n in lengths]


def greedy(model, prompts, new_tokens, stop, graph=True):
    """Greedy responses of sample.generate in 32 slots; on CUDA from its graphs, or from plain calls."""
    make_step = sample.make_step
    if not graph:
        sample.make_step = lambda *a: make_step(*a[:3])             # without `record`
    try:
        found = sample.generate(model, prompts, [[0]] * len(prompts), stop, new_tokens, 32)
        return [ids for _, ids in sorted((i, ids) for i, _, ids, _ in found)]
    finally:
        sample.make_step = make_step


def greedy_reference(model, prompts, new_tokens, stop):
    """The same of transformers' generate, all prompts in one left-padded batch."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    rows = model.generate(input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=new_tokens,
                          eos_token_id=stop or None, pad_token_id=0)[:, longest:].tolist()
    return [r[:next((n for n, token in enumerate(r, 1) if token in stop), len(r))] for r in rows]


@torch.no_grad()
def differences(model, prompts, a, b):
    """-> (responses that differ, largest gap between the two tokens' logits where two part ways)"""
    gaps = []
    for prompt, x, y in zip(prompts, a, b):
        if x != y:
            n = next(i for i, (s, t) in enumerate(zip(x, y)) if s != t)
            logits = model(input_ids=torch.tensor([prompt + x[:n]], device=model.device)).logits[0, -1]
            gaps.append((logits[x[n]] - logits[y[n]]).abs().item())
    return len(gaps), max(gaps, default=0.0)


def loss_errors(device, dtype, n, hidden, vocab):
    """-> {name: (largest error of a value, relative error of the gradients)}, against float64 on the CPU."""
    draw = torch.Generator().manual_seed(0)
    scales = [(n, 1.0), (vocab, 0.05)] * 2                  # hidden, head; the base model's
    exact = [(torch.randn(rows, hidden, generator=draw) * std).to(dtype).double() for rows, std in scales]
    h, w = exact[0].requires_grad_(), exact[1].requires_grad_()
    targets = torch.randint(vocab, (n,), generator=draw)
    logp, logq = (h @ w.T).log_softmax(1), (exact[2] @ exact[3].T).log_softmax(1)
    want = {"log-probs": logp.gather(1, targets[:, None])[:, 0], "KL": (logp.exp() * (logp - logq)).sum() / n}
    mine = [x.detach().to(device, dtype) for x in exact]
    a, b = mine[0].requires_grad_(), mine[1].requires_grad_()
    got = {"log-probs": sft.token_logprobs(a, b, targets.to(device), 16),
           "KL": sft.sum_kl(a, b, *mine[2:], 16) / n}
    errors = {}
    for name in want:
        value = (want[name] - got[name].cpu()).abs().max().item()
        pairs = zip(torch.autograd.grad(want[name].sum(), (h, w), retain_graph=True),
                    torch.autograd.grad(got[name].sum(), (a, b), retain_graph=True))
        errors[name] = value, max(((x - y.cpu().double()).norm() / x.norm()).item() for x, y in pairs)
    return errors


def rl_updates(stage, folder, device):
    """-> [(loss, gradient norm)] of two float32 updates on rollouts that were made on the CPU."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    path, data = save_chain(Path(folder) / "chain"), save_problems(Path(folder) / "problems.jsonl")
    args = stage.parse_args(flags(path, data, "unused", "--device", device, "--dtype", "fp32"))
    (policy, tokenizer), reference = models.load(path, "cpu", "fp32"), models.load(path, "cpu", "fp32")[0]
    reference.lm_head.weight.data *= 0.9
    problems = models.read_problems(data)
    rollouts = stage.sample_trajectories(policy, tokenizer, problems, 4, args.temperature, args, 1)
    policy.to(device)
    optimizer = models.make_optimizer(policy, args.lr)
    batches = [rollouts[::2], rollouts[1::2]]
    stage.set_logprobs(policy, reference, batches, args)
    table = [stage.start_baseline(problems, args, None)] if stage is rl_process else []
    stage.set_advantages(rollouts, *table, args)
    found = [stage.update(policy, optimizer, batch, 1e-2, args) for batch in batches]
    return [(u["loss"], u["norm"]) for u in found]


# ---------------------------------------------------------------- tests

@needs_cuda
@pytest.mark.parametrize("name", ["tiny_qwen2", "tiny_llama"])
def test_greedy_with_graph_without_and_generate(name, request):
    model = models.load(request.getfixturevalue(name), "cuda", "fp32")[0]
    prompts = random_prompts(100, 380, 3, 40)
    mine = greedy(model, prompts, 60, STOP)
    assert len(mine) == 100 and len(set(map(len, mine))) > 5
    for other in (greedy(model, prompts, 60, STOP, graph=False), greedy_reference(model, prompts, 60, STOP)):
        count, gap = differences(model, prompts, mine, other)
        assert count <= 2 and gap < 1e-3            # a difference may only be a tie


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
@pytest.mark.parametrize("dtype, most", [("fp32", 1e-5), ("bf16", 5e-3)])
def test_losses_against_float64(device, dtype, most):
    for value, gradient in loss_errors(device, DTYPES[dtype], 40, 64, 3000).values():
        assert value < 1e-4 and gradient < most


@needs_cuda
@pytest.mark.parametrize("stage", [rl_outcome, rl_process])
def test_rl_step_is_that_of_the_cpu(stage, tmp_path):
    cpu, cuda = (rl_updates(stage, tmp_path / device, device) for device in ("cpu", "cuda"))
    assert abs(cpu[1][0]) > 1e-3                    # the second update's ratios are not 1
    for a, b in zip(cpu, cuda):
        assert b == pytest.approx(a, abs=1e-4)


@needs_cuda
@pytest.mark.parametrize("offload", ["none", "both"])
@pytest.mark.parametrize("script", ["rl_outcome.py", "rl_process.py"])
def test_rl_runs_in_bf16(script, offload, tmp_path, run_script):
    path, data = save_chain(tmp_path / "chain"), save_problems(tmp_path / "problems.jsonl")
    done = run_script(script, *flags(path, data, "run", "--device", "cuda", "--offload", offload,
                                     "--grad-checkpointing"))
    assert done.returncode == 0, done.stderr
    rows = models.read_jsonl(tmp_path / "run/metrics.jsonl")
    assert len(rows) == 5 and not any(r.get("skipped") for r in rows)


@needs_cuda
@pytest.mark.parametrize("offload", ["none", "optimizer"])
def test_sft_runs_in_bf16(offload, tmp_path, tiny_qwen2, run_script):
    actions = sft.join_actions([("\\boxed{6}", "Therefore, the answer is incorrect."),
                                ("\\boxed{5}", "Therefore, the answer is correct.")])
    row = {"problem": "Solve x=5", "answer": "5", "actions": actions}
    models.write_jsonl(tmp_path / "data.jsonl", [row] * 40)
    done = run_script("sft.py", "train", "--model", tiny_qwen2, "--data", "data.jsonl", "--out", "run",
                      "--batch-size", "4", "--lr", "3e-3", "--device", "cuda", "--offload", offload,
                      "--grad-checkpointing")
    assert done.returncode == 0, done.stderr
    rows = models.read_jsonl(tmp_path / "run/metrics.jsonl")
    assert rows[-1]["nll"] < rows[0]["nll"] - 1


@pytest.mark.parametrize("tables", [
    {"correctness": {"Greedy": 4, "Losses": 4, "RL updates": 2}, "sampling": {"Sampling": 1},
     "loss": {"Loss,": 6}},
    pytest.param({"step": {"RL step": 4}, "memory": {"What fits": 4}}, marks=pytest.mark.slow)])
def test_the_script_that_measures(tables, run_script, tmp_path):
    """Every section on toy sizes on the CPU: all tables have their rows, and no cell of ours is empty."""
    done = run_script("tests/bench/gpu.py", *tables, "--device", "cpu", "--tiny", "--work", tmp_path / "work",
                      timeout=3600)
    assert done.returncode == 0, done.stderr[-2000:]
    parts = [part.splitlines() for part in done.stdout.split("\n### ")[1:]]
    wanted = [item for section in tables.values() for item in section.items()]
    for (title, *lines), (start, count) in zip(parts, wanted, strict=True):
        rows = [line.split(" | ") for line in lines if line.startswith("|")][2:]
        assert title.startswith(start) and len(rows) == count, (title, lines)
        assert start == "Loss," or not any("–" in cell for cells in rows for cell in cells[:5]), lines
    assert "failed" not in done.stdout
