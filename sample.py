"""Sampling: K responses per problem, one JSON line per problem (S2R section 2.2 and appendix E).

    python sample.py --model runs/toy/base --data runs/toy/test.jsonl --out runs/x.jsonl
    python sample.py --model Qwen/Qwen2.5-Math-1.5B --data HuggingFaceH4/MATH-500 --split test --out x.jsonl
    ... --num-samples 5 --temperature 0.7        stage 0 of the paper: five solutions a problem
    ... --data runs/x.jsonl --verify             checks of the answers in a samples file, for sft.py build

Reads   problems (model.read_problems), or with --verify a samples file.
Writes  samples: the problem's fields + responses [str], finished [bool], tokens [int] (stop token included);
        with --verify: id, problem, answer (the one that was checked), verification, kind.
        A problem's line is on the disk as soon as it is complete; the end puts the lines in input order.
        FILE.args.json keeps the flags; --resume refuses others.
Another engine can do the work: --export-prompts writes the batch format of `vllm run-batch` and OpenAI-like
teachers, plus the rendered `prompt`; --import-responses reads its answers, or {"id", "responses": [str]}.

How it is fast. Rows sit in the slots of one preallocated KV cache, each from position 0 on with a length of
its own. A finished row leaves at once: the last row moves into its slot, so the live rows are 0..n-1. Waiting
prompts enter when an eighth of the slots is free. A prompt is prefilled once for all of its K slots, and one
token short, so that every token, also the first, is sampled in one place: decode -> next_token_probs -> draw.
On CUDA this step is a captured graph, one per (rows, length) bucket. The tests run the same code on the CPU
with a stand-in for the capture; the capture itself is unmeasured.

A sample depends on (seed, problem, sample index), not on its batch: its random numbers are a hash of these
and of the position. Only float noise in the logits can differ between batches.

Map: flags - requests - random numbers, sampling - cache, prefill, decode - queue - other engines - output
"""
import argparse
import hashlib
import json
import time
from collections import deque, namedtuple
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import Cache, DynamicCache

import verifier
from model import (SYSTEM_PROMPT, InputError, load, load_tokenizer, read_jsonl, read_problems, render_ids,
                   render_text, run_main, stop_ids, write_jsonl)

VERIFY_SYSTEM = (
    "You check your own answer to a maths problem. Do not solve the problem again step by step. Test the "
    "answer by other means: put it back into the conditions, reason backwards from it, check bounds, units, "
    "parity or special cases. Write it as a short check of your own earlier work. End with exactly one of: "
    "Therefore, the answer is correct. / Therefore, the answer is incorrect. / "
    "Therefore, the answer cannot be verified.")
# The flags that decide what is in the output file: kept beside it, and the same for --resume.
SETTINGS = ("model", "data", "split", "num_samples", "temperature", "top_p", "top_k", "max_new_tokens",
            "stop", "seed", "verify", "import_responses")
PREFILL_TOKENS = 16384      # padded prompt tokens in one prefill forward
VIEW_STEP = 256             # CUDA graphs are captured for lengths in steps of this
TOKEN, LENGTH, KEY, DRAWN = range(4)        # columns of `state` [slots, 4]: what a row's next step needs
Row = namedtuple("Row", "prompt sample tokens")     # a response in the making: two indices and its ids so far
# A prompt that wants K responses. key: the problem's id, with --verify id and answer; row: fields to write.
Request = namedtuple("Request", "key row system user gold")


def parse_args():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True, help="folder or hub name")
    p.add_argument("--data", required=True, help="JSONL/JSON file, folder, or `datasets` NAME[:CONFIG]")
    p.add_argument("--split", help="split of a data set, or file stem in a folder")
    p.add_argument("--out", help="samples file to write (not needed with --export-prompts)")
    p.add_argument("--limit", type=int, help="only the first N problems")
    # sampling
    p.add_argument("--num-samples", type=int, default=1, help="K (paper: 5 in stage 0)")
    p.add_argument("--temperature", type=float, help="default: 0 (greedy) if K = 1, else the paper's 0.7")
    p.add_argument("--top-p", type=float, default=1.0)
    p.add_argument("--top-k", type=int, default=0, help="0 = off")
    p.add_argument("--max-new-tokens", type=int, default=8000, help="paper: 8000")
    p.add_argument("--stop", action="append", default=[], metavar="TEXT", help="stop before this text")
    p.add_argument("--seed", type=int, default=0)
    # what is asked, and by whom it is answered
    p.add_argument("--verify", action="store_true", help="check the distinct answers of a samples file")
    p.add_argument("--export-prompts", metavar="FILE", help="write the prompts for another engine and stop")
    p.add_argument("--import-responses", metavar="FILE", help="take another engine's responses")
    # machine
    p.add_argument("--batch-size", type=int, default=256, help="most rows at a time")
    p.add_argument("--batch-tokens", type=int, default=262144, help="KV cache, rows x longest row, in tokens")
    p.add_argument("--device", default="auto", help="auto, cuda, mps or cpu")
    p.add_argument("--dtype", default="auto", help="auto, bf16 or fp32")
    p.add_argument("--resume", action="store_true", help="continue an interrupted run")
    p.add_argument("--force", action="store_true", help="overwrite --out")
    args = p.parse_args()
    if args.temperature is None:
        args.temperature = 0.0 if args.num_samples == 1 else 0.7
    counts = {args.num_samples, args.max_new_tokens, args.batch_size, args.batch_tokens, args.limit} - {None}
    if min(counts) < 1 or min(args.temperature, args.top_k) < 0 or not 0 < args.top_p <= 1:
        raise InputError("counts start at 1, --temperature and --top-k at 0, and --top-p lies in (0, 1]")
    if args.num_samples > 1 and args.temperature == 0:
        raise InputError("--num-samples above 1 with --temperature 0 gives the same response every time")
    if not args.out and not args.export_prompts:
        raise InputError("--out is needed")
    return args


def load_requests(args):
    """The problems, or with --verify the distinct boxed answers of a samples file, as requests."""
    rows = read_problems(args.data, args.split, args.limit, gold=False, check=verifier.check_gold)
    if not args.verify:
        return [Request(r["id"], r, SYSTEM_PROMPT, r["problem"], r["answer"]) for r in rows]
    requests = []
    for r in rows:
        if not isinstance(r.get("responses"), list):
            raise InputError(f"{args.data}: {r['id']}: field 'responses' is missing; --verify reads samples")
        for answer in filter(None, dict.fromkeys(map(verifier.extract_boxed, r["responses"]))):
            user = f"Problem:\n{r['problem']}\n\nYour earlier answer: {answer}\n\nCheck this answer."
            row = {"id": r["id"], "problem": r["problem"], "answer": answer}
            requests.append(Request(row_key(row, args), row, VERIFY_SYSTEM, user, None))
    return requests


def row_key(row, args):
    """The request that an output line belongs to."""
    return f"{row['id']}\t{row['answer']}" if args.verify else str(row["id"])


def stream_key(seed, *name):
    """Seed, problem, sample index -> 63-bit integer that names this sample's own stream of random numbers."""
    digest = hashlib.blake2b(json.dumps([seed, *name]).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def uniforms(key, drawn):
    """[n] int64 stream keys, [n] int64 numbers drawn so far -> [n] uniforms in [0, 1).

    A counter-based generator: the splitmix64 hash of key and counter, so no state is kept and rows may move
    between slots and batches. int64 products wrap around, which is what the hash wants.
    """
    def shift(z, bits):         # >> on int64 copies the sign bit; the hash needs zeros
        return (z >> bits) & ((1 << (64 - bits)) - 1)

    z = key + (drawn + 1) * -0x61C8864680B583EB                     # the golden ratio's 64 bits, as int64
    z = (z ^ shift(z, 30)) * -0x40A7B892E31B1A47
    z = (z ^ shift(z, 27)) * -0x6B2FB644ECCEEE15
    z = z ^ shift(z, 31)
    bits, float_type = (24, torch.float32) if key.device.type == "mps" else (32, torch.float64)
    return shift(z, 64 - bits).to(float_type) * 2.0 ** -bits


def next_token_probs(logits, temperature, top_k=0, top_p=1.0):
    """[n, V] logits -> [n, V] probabilities: softmax(logits / T), then top k, then the nucleus of mass top_p.

    >>> next_token_probs(torch.tensor([[0.5, 0.3, 0.2]]).log(), 1.0, top_p=0.7)
    tensor([[0.6250, 0.3750, 0.0000]])
    """
    probs = (logits.float() / temperature).softmax(-1)
    if top_k:
        kth = probs.topk(min(top_k, probs.shape[-1])).values[:, -1:]
        probs = probs.where(probs >= kth, 0)
    if top_p < 1:
        ordered, order = probs.sort(dim=-1, descending=True, stable=True)
        before = ordered.cumsum(-1) - ordered                       # mass of the tokens ahead of this one
        ordered = ordered.where(before < top_p * ordered.sum(-1, keepdim=True), 0)
        probs = torch.zeros_like(probs).scatter(-1, order, ordered)
    return probs / probs.sum(-1, keepdim=True)


def draw(probs, uniform):
    """Inverse CDF: [n, V] probabilities, [n] uniforms -> [n] token ids."""
    cdf = probs.to(uniform.dtype).cumsum(-1)
    token = torch.searchsorted(cdf, uniform[:, None] * cdf[:, -1:], right=True)
    return token.squeeze(-1).clamp_(max=probs.shape[-1] - 1)


class SlotCache(Cache):
    """Keys and values, [layers, 2, slots, kv heads, capacity, head dim]; every row of the batch has a slot.

    Before each forward: row i will write at position length[i], and attention sees positions [0, view).
    """
    def __init__(self, model, slots, capacity):
        c = model.config
        head_dim = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
        self.store = torch.zeros(c.num_hidden_layers, 2, slots, c.num_key_value_heads, capacity, head_dim,
                                 dtype=model.dtype, device=model.device)
        self.layers = []        # the base class's own storage stays empty

    def update(self, keys, values, layer_idx, *args, **kwargs):
        """For every attention layer: two [n, kv heads, 1, head dim] -> two [n, kv heads, view, head dim]."""
        row = torch.arange(len(self.length), device=self.length.device)
        for store, new in zip(self.store[layer_idx], (keys, values)):
            store[row, :, self.length] = new[:, :, 0]
        return tuple(self.store[layer_idx, :, :len(row), :, :self.view])


def prefill(model, cache, prompts, which, first):
    """Put keys and values of prompt[:-1] into the cache; slot first + j takes those of prompts[which[j]]."""
    longest = max(len(ids) for ids in prompts) - 1
    if longest == 0:
        return
    padded = torch.zeros(len(prompts), longest, dtype=torch.long)   # on the right, where no token looks
    for row, ids in zip(padded, prompts):
        row[:len(ids) - 1] = torch.tensor(ids[:-1])
    fresh = DynamicCache()
    model.get_decoder()(input_ids=padded.to(model.device), past_key_values=fresh, use_cache=True)
    for store, layer in zip(cache.store[:, :, first:first + len(which), :, :longest], fresh.layers):
        store[0], store[1] = layer.keys[which], layer.values[which]


def decode(model, cache, token, length, view):
    """Feed rows 0..n-1 one token each, [n] at positions [n] `length` -> [n, V] logits of the next token."""
    cache.length, cache.view = length, view
    hidden = torch.arange(view, device=length.device) > length[:, None]                     # [n, view]
    mask = torch.where(hidden, torch.finfo(model.dtype).min, 0.0).to(model.dtype)[:, None, None]
    return model(input_ids=token[:, None], position_ids=length[:, None], attention_mask=mask,
                 past_key_values=cache, use_cache=True).logits[:, -1]


def make_step(model, cache, state, temperature, top_k, top_p, record=None):
    """-> step(n, view): one token for rows 0..n-1, left in state[:n, TOKEN]; with `record`, from graphs."""
    def step(n, view):
        live = state[:n]
        logits = decode(model, cache, live[:, TOKEN], live[:, LENGTH], view)
        if temperature == 0:
            token = logits.argmax(-1)
        else:
            probs = next_token_probs(logits, temperature, top_k, top_p)
            token = draw(probs, uniforms(live[:, KEY], live[:, DRAWN]))
        live[:, TOKEN] = token
        live[:, LENGTH] += 1
        live[:, DRAWN] += 1

    graphs, slots, capacity = {}, len(state), cache.store.shape[4]

    def replay(n, view):
        unit = max(1, slots // 8)
        rows, view = min(slots, -(-n // unit) * unit), min(capacity, -(-view // VIEW_STEP) * VIEW_STEP)
        state[n:rows, LENGTH] = 0                           # idle rows write to the start of their own slot
        if (rows, view) not in graphs:
            pool = next(iter(graphs.values())).pool() if graphs else None       # one memory pool for all
            graphs[rows, view] = record(lambda: step(rows, view), state, pool)
        graphs[rows, view].replay()

    return replay if record else step


def capture(run, state, pool):
    """Record run() as a CUDA graph; the rehearsal that CUDA asks for leaves no trace in the state."""
    before, side, graph = state.clone(), torch.cuda.Stream(), torch.cuda.CUDAGraph()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    state.copy_(before)
    with torch.cuda.graph(graph, pool=pool):                # records without running
        run()
    return graph


def plan(lengths, max_new_tokens, batch_size, batch_tokens, max_positions):
    """Prompt lengths -> (most new tokens per prompt; 0: does not fit), slots, capacity of a slot."""
    longest = min(batch_tokens, max_positions)
    limits = [max(0, min(max_new_tokens, longest - n)) for n in lengths]
    capacity = max((n + m for n, m in zip(lengths, limits) if m), default=1)
    return limits, max(1, min(batch_size, batch_tokens // capacity)), capacity


@torch.inference_mode()
def generate(model, prompts, keys, stop, max_new_tokens, batch_size=256, batch_tokens=262144,
             temperature=0.0, top_k=0, top_p=1.0, stop_at=None):
    """Continuous batching. Yields (prompt index, sample index, token ids, finished) as each response ends.

    prompts: token ids; keys: per prompt the stream keys of its K samples; stop: ids that end a response (kept
    as its last token); stop_at(ids) -> True ends one at a text. A prompt that does not fit gives ([], False).
    """
    limits, slots, capacity = plan(list(map(len, prompts)), max_new_tokens, batch_size, batch_tokens,
                                   getattr(model.config, "max_position_embeddings", batch_tokens))
    yield from ((i, k, [], False) for i in range(len(prompts)) if not limits[i] for k in range(len(keys[i])))
    cache = SlotCache(model, slots, capacity)
    state = torch.zeros(slots, 4, dtype=torch.long, device=model.device)
    step = make_step(model, cache, state, temperature, top_k, top_p,
                     capture if model.device.type == "cuda" else None)
    rows = []                   # rows[i] is the response in slot i
    waiting = deque([Row(i, k, []) for k in range(first, min(first + slots, len(keys[i])))]
                    for i in range(len(prompts)) if limits[i] for first in range(0, len(keys[i]), slots))
    while waiting or rows:
        if waiting and (not rows or slots - len(rows) >= max(len(waiting[0]), slots // 8)):
            admit(model, cache, state, prompts, keys, waiting, rows)
        view = max(len(prompts[row.prompt]) + len(row.tokens) for row in rows)
        step(len(rows), view)
        ended = []
        for slot, (row, token) in enumerate(zip(rows, state[:len(rows), TOKEN].tolist())):
            row.tokens.append(token)
            finished = token in stop or bool(stop_at and stop_at(row.tokens))
            if finished or len(row.tokens) == limits[row.prompt]:
                ended.append(slot)
                yield row.prompt, row.sample, row.tokens, finished
        close_gaps(cache, state, rows, ended, view)


def admit(model, cache, state, prompts, keys, waiting, rows):
    """Move waiting groups (the K rows of a prompt) into free slots, with one prefill for all of them."""
    chosen, which, first, longest = [], [], len(rows), 0
    while waiting and len(rows) + len(waiting[0]) <= len(state):
        ids = prompts[waiting[0][0].prompt]
        longest = max(longest, len(ids))
        if chosen and longest * (len(chosen) + 1) > PREFILL_TOKENS:
            break
        which += [len(chosen)] * len(waiting[0])
        chosen.append(ids)
        rows += waiting.popleft()
    prefill(model, cache, chosen, which, first)
    state[first:len(rows)] = torch.tensor(          # columns TOKEN, LENGTH, KEY, DRAWN
        [[prompts[i][-1], len(prompts[i]) - 1, keys[i][k], 0] for i, k, _ in rows[first:]])


def close_gaps(cache, state, rows, ended, view):
    """Move the last rows into the slots of the ended ones, so that the live rows are 0..n-1 again."""
    n = len(rows) - len(ended)
    targets = [slot for slot in ended if slot < n]
    sources = sorted(set(range(n, len(rows))) - set(ended))
    for source, target in zip(sources, targets):
        rows[target] = rows[source]
        cache.store[:, :, target, :, :view] = cache.store[:, :, source, :, :view]
    if targets:
        state[targets] = state[sources]
    del rows[n:]


def sample(model, tokenizer, requests, args):
    """Yield (request, K texts, K finished, K token counts) as each request is complete."""
    prompts = [render_ids(tokenizer, r.system, r.user) for r in requests]
    keys = [[stream_key(args.seed, r.key, r.user, k) for k in range(args.num_samples)] for r in requests]
    tail = max((len(text.encode()) for text in args.stop), default=0) + 8       # a token is at least a byte

    def stop_at(ids):
        return any(text in tokenizer.decode(ids[-tail:]) for text in args.stop)

    done = {}
    for i, k, ids, finished in generate(
            model, prompts, keys, stop_ids(model, tokenizer), args.max_new_tokens, args.batch_size,
            args.batch_tokens, args.temperature, args.top_k, args.top_p, stop_at if args.stop else None):
        if not ids and k == 0:
            tqdm.write(f"{requests[i].key}: a prompt of {len(prompts[i])} tokens does not fit: unfinished")
        mine = done.setdefault(i, [None] * args.num_samples)
        mine[k] = (response_text(tokenizer, ids, args.stop), finished, len(ids))
        if None not in mine:
            yield requests[i], *map(list, zip(*done.pop(i)))


def response_text(tokenizer, ids, stops=()):
    """Token ids -> text without special tokens, cut before the first stop text."""
    text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text[:min((text.find(s) for s in stops if s in text), default=len(text))]


def export_prompts(tokenizer, requests, args):
    """One request a line: custom_id, method, url, body of the batch format, and the rendered prompt."""
    flags = {"model": args.model, "n": args.num_samples, "temperature": args.temperature, "top_p": args.top_p,
             "max_tokens": args.max_new_tokens, "seed": args.seed, "stop": args.stop or None}
    url = "/v1/chat/completions" if tokenizer.chat_template else "/v1/completions"
    lines = []
    for r in requests:
        turns = [{"role": "system", "content": r.system}, {"role": "user", "content": r.user}]
        prompt = render_text(tokenizer, r.system, r.user)
        body = {**flags, **({"messages": turns} if tokenizer.chat_template else {"prompt": prompt})}
        lines.append({"custom_id": r.key, "method": "POST", "url": url, "body": body, "prompt": prompt})
    write_jsonl(args.export_prompts, lines)
    print(f"{len(lines)} prompts in {args.export_prompts}")


def imported(tokenizer, requests, args):
    """Another engine's answers, as the list of what `sample` would yield."""
    path, answers = args.import_responses, {}
    for number, row in enumerate(read_jsonl(path), 1):
        try:
            if isinstance(row.get("response"), dict):               # a line of a batch output file
                choices = row["response"]["body"]["choices"]
                texts = [c["message"]["content"] if "message" in c else c["text"] for c in choices]
                ends = [c["finish_reason"] == "stop" for c in choices]
            else:
                texts = row["responses"] if "responses" in row else [row["response"]]
                ends = row.get("finished") or [True] * len(texts)
            mine = answers.setdefault(str(row["custom_id"] if "custom_id" in row else row["id"]), [])
            mine += [(t, bool(f), len(tokenizer(t).input_ids)) for t, f in zip(texts, ends, strict=True)]
        except (KeyError, TypeError, ValueError):
            raise InputError(f"{path}:{number}: field 'custom_id' or 'response' is malformed") from None
    for r in requests:
        if len(answers.get(r.key, [])) < args.num_samples:
            raise InputError(f"{path}: field 'custom_id' {r.key!r}: fewer than {args.num_samples} responses")
    return [(r, *map(list, zip(*answers[r.key][:args.num_samples]))) for r in requests]


def earlier_rows(args, requests):
    """-> {request key: its rows} that an interrupted run left in --out, half-written requests left out."""
    out, kept, done, known = Path(args.out), Path(args.out + ".args.json"), {}, {r.key for r in requests}
    if args.force or not out.exists():
        return done
    if not args.resume:
        raise InputError(f"{out}: exists; --resume continues it, --force starts it again")
    flags = json.loads(kept.read_text()) if kept.exists() else {}
    for name in SETTINGS:
        if name in flags and flags[name] != getattr(args, name):
            raise InputError(f"{out}: was begun with {name} {flags[name]!r}, not {getattr(args, name)!r}")
    whole = out.read_bytes().rpartition(b"\n")[0].decode()     # what follows the last newline is half a line
    for number, line in enumerate(whole.split("\n") if whole else [], 1):
        try:
            row = json.loads(line)
            key = row_key(row, args)
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{out}:{number}: not a line of this run") from None
        if key not in known:
            raise InputError(f"{out}:{number}: field 'id' {row['id']!r} is not in {args.data}")
        done.setdefault(key, []).append(row)
    return {key: rows for key, rows in done.items() if len(rows) == (args.num_samples if args.verify else 1)}


def write_results(args, requests, results, done):
    """Append each request's rows as it completes, then put the file in input order."""
    start, made, right, judged = time.time(), 0, 0, 0
    write_jsonl(args.out + ".args.json", [{name: getattr(args, name) for name in SETTINGS}])
    write_jsonl(args.out, [row for rows in done.values() for row in rows])
    with tqdm(total=len(requests), initial=len(done), mininterval=1) as bar:
        for request, texts, finished, tokens in results:
            rows = [{"responses": texts, "finished": finished, "tokens": tokens}]
            if args.verify:
                rows = [{"verification": text, "kind": "confirmative", "finished": end} for text, end
                        in zip(texts, finished)]
            done[request.key] = [{**request.row, **row} for row in rows]
            write_jsonl(args.out, done[request.key], append=True)
            made += sum(tokens)
            shown = {"tokens/s": round(made / (time.time() - start))}
            if request.gold is not None:
                judged += len(texts)
                right += sum(verifier.judge(text, request.gold) for text in texts)
                shown["accuracy"] = f"{right / judged:.3f}"
            bar.set_postfix(shown, refresh=False)
            bar.update()
    write_jsonl(args.out, [row for r in requests for row in done[r.key]])


def main():
    args = parse_args()
    requests = load_requests(args)
    if args.export_prompts:
        return export_prompts(load_tokenizer(args.model), requests, args)
    done = earlier_rows(args, requests)
    todo = [r for r in requests if r.key not in done]
    if args.import_responses:
        results = imported(load_tokenizer(args.model), todo, args)
    else:
        results = sample(*load(args.model, args.device, args.dtype), todo, args) if todo else []
    write_results(args, requests, results, done)


if __name__ == "__main__":
    run_main(main)
