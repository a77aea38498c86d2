"""What a CUDA GPU makes of this project: are its numbers right, how fast is it, what fits into its memory.

    python -m pytest tests                              # every test, now with the GPU visible
    python tests/bench/gpu.py all | tee gpu.md          # everything below as Markdown, about an hour
    python tests/bench/gpu.py sampling --models 1.5B --batches 64 --new-tokens 512          # or in pieces
    python tests/bench/gpu.py all --device cpu --tiny   # tries this script out, on toy sizes

Models have the shapes of Qwen2.5-0.5B, Qwen2.5-Math-1.5B and Qwen2.5-7B and random weights: nothing is
downloaded. --work keeps their checkpoints (1, 3 and 15 GB) for the next call. What does not fit says so.

correctness  the comparisons of tests/test_cuda.py as figures, larger and also in bf16
sampling     tokens/s of sample.generate and of transformers' generate with its two caches
loss         time and memory of the chunked losses and of other formulas
step         seconds, tokens/s and memory of a step of rl_outcome and rl_process
memory       the longest rows, and how many of them, that fit a smaller card: the allocator is capped
"""
import argparse
import gc
import json
import resource
import runpy
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import torch
import transformers
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2Tokenizer, StoppingCriteriaList

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "bench")]
import loss as losses  # noqa: E402
import test_cuda as check  # noqa: E402

import model as models  # noqa: E402
import rl_outcome  # noqa: E402
import rl_process  # noqa: E402
import sample  # noqa: E402

Shape = namedtuple("Shape", "hidden layers heads kv_heads intermediate vocab tied")
SHAPES = {"0.5B": Shape(896, 24, 14, 2, 4864, 151936, True),        # Qwen2.5-0.5B
          "1.5B": Shape(1536, 28, 12, 2, 8960, 151936, True),       # Qwen2.5-1.5B, Qwen2.5-Math-1.5B
          "7B": Shape(3584, 28, 28, 4, 18944, 152064, False),       # Qwen2.5-7B, Qwen2.5-Math-7B
          "tiny": Shape(64, 2, 4, 2, 128, 600, True)}
GIB = 2 ** 30


# ---------------------------------------------------------------- models, tables, costs

def build_model(name, device, dtype, **more):
    """A random model. Its context is long for every shape, which costs nothing."""
    s = SHAPES[name]
    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=s.hidden, num_hidden_layers=s.layers, num_attention_heads=s.heads, vocab_size=s.vocab,
        num_key_value_heads=s.kv_heads, intermediate_size=s.intermediate, tie_word_embeddings=s.tied,
        max_position_embeddings=32768, bos_token_id=None, eos_token_id=None, **more)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def checkpoint(name, args):
    """Folder with a random model and a tokenizer to match: 256 bytes, made-up words, two ends."""
    folder = Path(args.work) / name
    if not models.has_checkpoint(folder):
        words = [f"Ġw{i}" for i in range(SHAPES[name].vocab - 256 - 2)]
        vocab = {t: i for i, t in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()) + words)}
        tokenizer = Qwen2Tokenizer(vocab=vocab, merges=[], unk_token=None, pad_token="<|pad|>")
        assert len(tokenizer) == SHAPES[name].vocab
        models.save(build_model(name, args.device, torch.bfloat16), tokenizer, folder)
    return str(folder)


def table(title, *columns):
    print(f"\n### {title}\n")
    row(*columns)
    row(*["---"] * len(columns))


def row(*cells):
    text = [f"{c:.3g}" if isinstance(c, float) and c < 100 else f"{c:.0f}" if isinstance(c, float) else
            "–" if c is None else str(c) for c in cells]
    print("| " + " | ".join(text) + " |", flush=True)


def ratio(a, b):
    return a / b if a is not None and b else None


def attempt(call, *args):
    """call(*args); None, and a line on stderr, if it fails: one size must not end a long measurement."""
    try:
        return call(*args)
    except (RuntimeError, AttributeError) as error:      # out of memory; a function that an older torch lacks
        print(f"failed: {str(error).splitlines()[0][:150]}", file=sys.stderr)
    finally:
        gc.collect()
        torch.cuda.empty_cache()                            # does nothing where no GPU was used


def timed(call, device, repeats=1):
    """-> (result, seconds of one call)"""
    wait = torch.cuda.synchronize if device == "cuda" else int
    wait()
    start = time.perf_counter()
    result = [call() for _ in range(repeats)][-1]
    wait()
    return result, (time.perf_counter() - start) / repeats


def measure_limits(args):
    """What the device reaches, not its data sheet: bytes/s of a copy, FLOP/s of a large product."""
    big, side = (GIB, 8192) if args.device == "cuda" else (GIB // 16, 512)
    a = torch.zeros(big, dtype=torch.uint8, device=args.device)
    b, m = a.clone(), torch.randn(side, side).to(args.device, args.dtype)
    for _ in range(2):                                      # the first round warms up
        copy, product = (timed(f, args.device, 20)[1] for f in (lambda: b.copy_(a), lambda: m @ m))
    args.bandwidth, args.flops = 2 * big / copy, 2 * side ** 3 / product
    print(torch.cuda.get_device_name() if args.device == "cuda" else "CPU", f"torch {torch.__version__}",
          f"transformers {transformers.__version__}", f"a copy moves {args.bandwidth / 1e9:.0f} GB/s",
          f"a {side}-wide {str(args.dtype)[6:]} product makes {args.flops / 1e12:.3g} TFLOP/s", sep=", ")


def multiplied(s):
    """Weights that a token is multiplied with: all but biases, norms and the input embedding."""
    kv = s.hidden // s.heads * s.kv_heads
    return s.layers * (2 * s.hidden * (s.hidden + kv) + 3 * s.hidden * s.intermediate) + s.vocab * s.hidden


def forward_flops(s, length):
    """Of one token in rows of this length: 2 per weight, and 4 per layer, feature and position looked at."""
    return 2 * multiplied(s) + 4 * s.layers * s.hidden * length / 2


def decode_limit(s, batch, prompt, new, bandwidth):
    """Tokens/s if each decoding step did nothing but read bf16 weights and the live keys and values once."""
    kv_bytes = 2 * 2 * s.layers * s.hidden // s.heads * s.kv_heads              # of one token
    return batch * bandwidth / (2 * multiplied(s) + batch * kv_bytes * (prompt + new / 2))


# ---------------------------------------------------------------- the sections

def correctness(args):
    table("Greedy decoding, 64 prompts", "dtype", "against", "responses that differ", "largest gap of logits")
    for dtype in (torch.float32, torch.bfloat16):
        model = build_model("tiny" if args.tiny else "0.5B", args.device, dtype, initializer_range=0.1)
        prompts = check.random_prompts(64, model.config.vocab_size, 4, 60)
        work = model, prompts, 12 if args.tiny else 200, []
        mine = check.greedy(*work)
        for name, other in (("without graph", check.greedy(*work, graph=False)),
                            ("generate", check.greedy_reference(*work))):
            row(str(dtype)[6:], name, *check.differences(model, prompts, mine, other))
    table("Losses against float64", "dtype", "loss", "largest error of a value", "relative, of gradients")
    for dtype in (torch.float32, torch.bfloat16):
        sizes = (64, 64, 600) if args.tiny else (64, 896, 151936)
        for name, errors in check.loss_errors(args.device, dtype, *sizes).items():
            row(str(dtype)[6:], name, *errors)
    table(f"RL updates in float32, CPU and {args.device}", "stage", "CPU losses", "difference", "of norms")
    for stage in (rl_outcome, rl_process):
        cpu, other = (check.rl_updates(stage, f"{args.work}/check", d) for d in ("cpu", args.device))
        gaps = [max(abs(a - b) for a, b in zip(x, y)) for x, y in zip(zip(*cpu), zip(*other))]
        row(stage.__name__, ", ".join(f"{value:.6f}" for value, _ in cpu), *gaps)


def sample_ours(model, prompts, new_tokens):
    keys = [[i] for i in range(len(prompts))]
    found = sample.generate(model, prompts, keys, [], new_tokens, len(prompts), 2 ** 20, temperature=1.0)
    return sum(len(ids) for _, _, ids, _ in found)


def sample_theirs(model, prompts, new_tokens, cache, steps=None):
    """`steps` ends early: a warm-up with the shapes of the real run, for which a static cache is compiled."""
    def enough(ids, scores, **_):
        return torch.full((len(ids),), ids.shape[1] >= len(prompts[0]) + steps, device=ids.device)

    ids = torch.tensor(prompts, device=model.device)
    return model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=1.0, top_k=0,
        top_p=1.0, max_new_tokens=new_tokens, eos_token_id=None, pad_token_id=0, cache_implementation=cache,
        stopping_criteria=StoppingCriteriaList([enough] if steps else [])).numel() - ids.numel()


def sampling(args):
    table(f"Sampling, prompt {args.prompt}, prefill and graph capture included", "model", "batch", "new",
          "tokens/s", "of the limit", "generate, dynamic cache", "ours x", "generate, static cache", "ours x")
    for name in args.models or ("0.5B", "1.5B", "7B"):
        model = build_model(name, args.device, args.dtype)
        for batch, new in [(b, n) for n in args.new_tokens for b in args.batches]:
            prompts = check.random_prompts(batch, model.config.vocab_size, args.prompt, args.prompt)
            speeds = []
            for call, warm_up, flags in ((sample_ours, (8,), (new,)),
                                         (sample_theirs, (new, None, 4), (new, None)),
                                         (sample_theirs, (new, "static", 4), (new, "static"))):
                attempt(call, model, prompts, *warm_up)
                found = attempt(timed, lambda: call(model, prompts, *flags), args.device)
                speeds.append(found and found[0] / found[1])
            limit = decode_limit(SHAPES[name], batch, args.prompt, new, args.bandwidth)
            ours, *others = speeds
            row(name, batch, new, ours, ratio(ours, limit), *(x for s in others for x in (s, ratio(ours, s))))
            torch.compiler.reset()                          # frees what the compiled graphs hold
            model.__dict__.pop("_compiled_call", None)
        del model
        gc.collect()


def loss(args):
    """Useful FLOPs: 2 per token and weight in the forward, 4 in the backward."""
    table(f"Loss, forward + backward, {args.loss_tokens} tokens", "shape", "method", "extra GiB", "of naive",
          "ms", "of naive", "share of the product's FLOP/s")
    for name in args.models or ("0.5B", "1.5B", "7B"):
        s, naive = SHAPES[name], {}
        sizes = argparse.Namespace(device=args.device, tokens=args.loss_tokens, hidden=s.hidden, repeats=3,
                                   dtype="fp32" if args.tiny else "bf16", vocab=s.vocab, chunk=256)
        for method, label in losses.NAMES.items():
            r = attempt(losses.measure, method, sizes) or {"extra": None, "wall": None}
            base = naive.setdefault(method.endswith("kl"), r)
            least = 6 * args.loss_tokens * s.hidden * s.vocab / args.flops                      # seconds
            row(f"{s.hidden} x {s.vocab}", label, ratio(r["extra"], GIB), ratio(r["extra"], base["extra"]),
                ratio(r["wall"], 1e-3), ratio(r["wall"], base["wall"]), ratio(least, r["wall"]))


def capped(gib, script, *flags):
    """Runs in a process of its own: a stage on an allocator of `gib` GiB (0: all), without checkpoints."""
    if float(gib) and torch.cuda.is_available():
        share = float(gib) * GIB / torch.cuda.mem_get_info()[1]
        torch.cuda.set_per_process_memory_fraction(min(1.0, share))
    models.save = lambda *_: None                           # else tens of GB go to the disk
    sys.argv = [script, *flags]
    runpy.run_path(str(ROOT / script), run_name="__main__")
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    device = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else host
    print(json.dumps({"device_gib": device / GIB, "host_gib": host / GIB}))


def run_stage(script, folder, rows, flags, args, gib=0):
    """-> (metrics of its steps after the first, memory); None if it failed, as where memory ran out."""
    out, data = Path(args.work) / "run", Path(args.work) / "data.jsonl"
    torch.cuda.empty_cache()                                # this process needs none for now
    shutil.rmtree(out, ignore_errors=True)
    models.write_jsonl(data, rows)
    command = [sys.executable, __file__, "capped", gib, *script.split(), "--model", folder, "--data", data,
               "--out", out, "--device", args.device, "--grad-checkpointing", *flags.split()]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:                                     # -9: killed, as a rule for the host's memory
        reason = (done.stderr.strip().splitlines() or [""])[-1][:300]
        return print(f"{script} {flags}: status {done.returncode}: {reason}", file=sys.stderr)
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [r for r in metrics if r["step"] > 1], json.loads(done.stdout.splitlines()[-1])


def step(args):
    """Model FLOPs: one forward of the new tokens in the rollout, two of all tokens for log-probs, three in
    the updates (a backward is two); recomputing does not count. MFU: their share of the product's FLOP/s."""
    prompts, m, new = args.step_sizes
    table(f"RL step: {prompts} prompts x {m} x {new} tokens, 4 updates", "stage", "model", "offload",
          "rollout s", "log-probs s", "update s", "rollout tokens/s", "of the limit", "update tokens/s",
          "MFU log-probs", "MFU update", "MFU step", "device GiB", "host GiB")
    rows = [{"problem": f"Solve x={i}", "answer": "4"} for i in range(10, 10 + prompts)]
    for name in args.models or ("1.5B",):
        folder = checkpoint(name, args)
        prompt = len(models.prompt_ids(models.load_tokenizer(folder), "Solve x=10"))
        for script, offload in [(s, o) for o in ("none", "both") for s in ("rl_outcome.py", "rl_process.py")]:
            found = run_stage(script, folder, rows, f"--prompts-per-step {prompts} --num-samples {m} "
                              f"--steps 3 --max-new-tokens {new} --offload {offload}", args)
            if not found:
                row(script, name, offload, "failed")
                continue
            fields = [f"seconds_{x}" for x in ("rollout", "logprobs", "update")]
            fields += ["rollout_tokens_per_s", "update_tokens_per_s", "tokens"]
            *clock, speed, trained, length = (sum(r[f] for r in found[0]) / len(found[0]) for f in fields)
            forward = prompts * m * forward_flops(SHAPES[name], prompt + length)
            work = [forward * n for n in (length, 2 * (prompt + length), 3 * (prompt + length))]
            limit = decode_limit(SHAPES[name], prompts * m, prompt, length, args.bandwidth)
            mfu = [w / t / args.flops for w, t in [*zip(work, clock), (sum(work), sum(clock))]]
            row(script, name, offload, *clock, speed, speed / limit, trained, *mfu[1:],
                *found[1].values())


def largest(values, fits):
    """-> (largest value that fits, what fits gave), or (None, None). Largest first: a failure is quick."""
    return next(((v, found) for v in sorted(values, reverse=True) if (found := fits(v))), (None, None))


def sft_fits(length, folder, offload, card, args):
    """Two steps of two rows of this length, the base model for the KL term beside the policy."""
    actions = [{"type": "solve", "text": "7" * (length - 150) + "\\boxed{5}"}]
    rows = [{"problem": "?", "answer": "5", "actions": actions}] * 4
    flags = f"--max-tokens {length} --max-length {length} --kl-on all --offload {offload} --epochs 1 "
    return run_stage("sft.py train", folder, rows, flags + "--batch-size 2 --held-out 0", args, card - 1)


def rl_fits(length, folder, offload, card, args, count=4):
    """Two steps of one problem. A long prompt and short responses fill a cache of long rows in seconds; the
    update runs through the whole rows all the same."""
    new = min(256, length // 4)
    rows = [{"problem": "7" * (length - new - 100), "answer": "5"}]
    flags = f"--num-samples {count} --rollout-rows {count} --max-new-tokens {new} --max-tokens {length} "
    return run_stage("rl_outcome.py", folder, rows, flags + "--prompts-per-step 1 --updates-per-rollout 1 "
                     f"--steps 2 --offload {offload}", args, card - 1)


def memory(args):
    """A card of N GB leaves about N - 1 GiB to the allocator."""
    table("What fits, with --grad-checkpointing and --max-tokens of one row", "card", "stage", "model",
          "offload", "longest row", "rows in the rollout", "device GiB", "host GiB")
    for name, card in [(n, c) for n in args.models or ("0.5B", "1.5B") for c in args.caps]:
        folder = checkpoint(name, args)
        for fits, offload in ((sft_fits, "none"), (sft_fits, "optimizer"),
                              (rl_fits, "none"), (rl_fits, "both")):
            work, rows = (folder, offload, card, args), None
            size, found = largest(args.lengths, lambda n: fits(n, *work))
            if size and fits is rl_fits:
                rows, found = largest((4, 16, 64), lambda n: found if n == 4 else fits(size, *work, n))
            used = found[1].values() if found else ()
            row(f"{card} GB", fits.__name__[:-5], name, offload, size, rows, *used)


def main():
    if sys.argv[1:2] == ["capped"]:
        return capped(*sys.argv[2:])
    sections = {f.__name__: f for f in (correctness, sampling, loss, step, memory)}
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("section", nargs="+", choices=[*sections, "all"])
    p.add_argument("--models", nargs="+", choices=SHAPES, help="default: those the section is about")
    p.add_argument("--batches", type=int, nargs="+", default=[16, 64, 256], help="in the section sampling")
    p.add_argument("--new-tokens", type=int, nargs="+", default=[512, 2048], help="of the section sampling")
    p.add_argument("--caps", type=int, nargs="+", default=[24, 80], help="GB of the cards, section memory")
    p.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096, 8192], help="of rows, memory")
    p.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    p.add_argument("--tiny", action="store_true", help="toy sizes everywhere")
    p.add_argument("--work", default="runs/gpu", help="folder for checkpoints and runs")
    args = p.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise models.InputError("--device cuda: this machine has no usable CUDA GPU")
    args.dtype = torch.bfloat16 if args.device == "cuda" else torch.float32
    args.prompt, args.loss_tokens, args.step_sizes = 256, 16384, (16, 4, 1024)
    if args.tiny:
        args.models, args.batches, args.new_tokens, args.caps, args.prompt = ["tiny"], [4], [8], [24], 16
        args.loss_tokens, args.step_sizes, args.lengths = 64, (2, 2, 16), [300]
    measure_limits(args)
    for name in sections if "all" in args.section else args.section:
        sections[name](args)


if __name__ == "__main__":
    models.run_main(main)
