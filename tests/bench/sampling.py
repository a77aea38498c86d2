"""Tokens/s of sample.generate against transformers' model.generate: same model, same prompts, same run.

    python tests/bench/sampling.py                   # toy-sized Llama on the CPU, batch 64 and 256
    python tests/bench/sampling.py --cuda            # Qwen2.5-0.5B and 1.5B shapes, random weights, bf16

Both sides draw at temperature 1 from the same random model, whose end token has a probability of about 1/80
at every step, so lengths are skewed as in real sampling (geometric, cut at --max-new-tokens). Only tokens up
to and with the end token count. `generate` gets its prompts in fixed batches, left padded. "waves" is prompts
over batch: with 1 nothing waits, the gain is only that finished rows leave. Rounds alternate, medians are shown.
On the CPU one thread is used and CPU time is counted, so that other work on the machine blurs no ratio.
With --cuda no token ends a response (512 new tokens each), and the last column is the share of the memory
limit: bytes of the weights plus the live cache, read once a step, over the bandwidth of a copy on the device.
"""
import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import sample  # noqa: E402

EOS = 1


def toy_model(end_probability):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=104, hidden_size=96, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=512, bos_token_id=0, eos_token_id=EOS)).eval()
    bias = torch.zeros(104)         # other logits are near 0, so the end token's odds are exp(bias) to 103
    bias[EOS] = torch.tensor(103 * end_probability / (1 - end_probability)).log()
    model.lm_head.bias = torch.nn.Parameter(bias)
    return model


def qwen_model(hidden, layers, heads, kv_heads, intermediate):
    torch.manual_seed(0)
    config = Qwen2Config(vocab_size=151936, hidden_size=hidden, intermediate_size=intermediate,
                         num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads,
                         max_position_embeddings=4096, tie_word_embeddings=True, eos_token_id=None,
                         bos_token_id=0)
    with torch.device("cuda"):
        return Qwen2ForCausalLM(config).to(torch.bfloat16).eval()


def ours(model, prompts, batch, new_tokens, stop):
    keys = [[i] for i in range(len(prompts))]
    found = sample.generate(model, prompts, keys, stop, new_tokens, batch, 2 ** 20, temperature=1.0)
    return sum(len(ids) for _, _, ids, _ in found)


def theirs(model, prompts, batch, new_tokens, stop):
    count = 0
    for first in range(0, len(prompts), batch):
        part = prompts[first:first + batch]
        longest = max(map(len, part))
        ids = torch.tensor([[0] * (longest - len(p)) + p for p in part], device=model.device)
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in part], device=model.device)
        out = model.generate(input_ids=ids, attention_mask=mask, do_sample=True, temperature=1.0, top_k=0,
                             top_p=1.0, max_new_tokens=new_tokens, eos_token_id=stop or None, pad_token_id=0)
        out = out[:, longest:]
        ended = torch.isin(out, torch.tensor(stop or [-1], device=out.device)).long().cumsum(1)
        count += int((ended == 0).sum() + (ended.max(1).values > 0).sum())
    return count


def speed(function, *args):
    clock = time.perf_counter if args[0].device.type == "cuda" else time.process_time
    start = clock()
    tokens = function(*args)            # ends with the tokens on the host, so the GPU is done too
    return tokens / (clock() - start)


def compare(model, prompts, batch, new_tokens, stop, rounds):
    """-> median tokens/s of (ours, theirs)."""
    for function in (ours, theirs):             # warm up; on CUDA this also captures the graphs once
        function(model, prompts[:batch], batch, min(new_tokens, 16), stop)
    work = model, prompts, batch, new_tokens, stop
    pairs = [(speed(ours, *work), speed(theirs, *work)) for _ in range(rounds)]
    return [statistics.median(side) for side in zip(*pairs)]


def random_prompts(count, vocab, low, high):
    g = torch.Generator().manual_seed(1)
    lengths = torch.randint(low, high, (count,), generator=g).tolist()
    return [torch.randint(2, vocab, (n,), generator=g).tolist() for n in lengths]


def cpu(args):
    model = toy_model(args.end_probability)
    print("batch waves  ours tok/s  generate tok/s  ratio")
    for batch in (64, 256):
        for waves in (1, 4):
            prompts = random_prompts(batch * waves, 104, 8, 24)
            mine, other = compare(model, prompts, batch, args.max_new_tokens, [EOS], args.rounds)
            print(f"{batch:5} {waves:5} {mine:11.0f} {other:15.0f} {mine / other:6.2f}", flush=True)


def copy_bandwidth():
    """Bytes/s of reading and writing 1 GiB on the device."""
    a = torch.empty(2 ** 30, dtype=torch.uint8, device="cuda")
    b = torch.empty_like(a)
    b.copy_(a)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(20):
        b.copy_(a)
    torch.cuda.synchronize()
    return 20 * 2 * 2 ** 30 / (time.perf_counter() - start)


def cuda(args):
    bandwidth, batch, new_tokens = copy_bandwidth(), 64, 512
    print(f"{torch.cuda.get_device_name()}, copy bandwidth {bandwidth / 1e9:.0f} GB/s")
    print("model  batch  ours tok/s  generate tok/s  ratio  share of bandwidth limit")
    for name, shape in {"0.5B": (896, 24, 14, 2, 4864), "1.5B": (1536, 28, 12, 2, 8960)}.items():
        model = qwen_model(*shape)
        prompts = random_prompts(batch, 150000, 64, 192)
        mine, other = compare(model, prompts, batch, new_tokens, [], args.rounds)
        hidden, layers, heads, kv_heads, _ = shape
        weights = 2 * sum(p.numel() for p in model.parameters())
        live = batch * (128 + new_tokens / 2) * layers * 2 * kv_heads * (hidden // heads) * 2
        limit = batch * bandwidth / (weights + live)
        print(f"{name:5} {batch:6} {mine:11.0f} {other:15.0f} {mine / other:6.2f} {mine / limit:6.2f}",
              flush=True)
        del model


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--cuda", action="store_true")
    p.add_argument("--max-new-tokens", type=int, default=230)
    p.add_argument("--end-probability", type=float, default=1 / 80)
    p.add_argument("--rounds", type=int, default=3)
    args = p.parse_args()
    torch.set_num_threads(1)
    (cuda if args.cuda else cpu)(args)
