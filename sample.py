"""Sampling: K responses per problem, one JSON line per problem (S2R section 2.2 and appendix E).

    python sample.py --model runs/toy/base --data runs/toy/test.jsonl --out runs/x.jsonl
    python sample.py --model Qwen/Qwen2.5-Math-1.5B --data HuggingFaceH4/MATH-500 --split test --out x.jsonl
    ... --num-samples 5 --temperature 0.7        stage 0 of the paper: five solutions a problem
    ... --data runs/x.jsonl --verify             checks of the answers in a samples file, for sft.py build

Reads   problems (model.read_problems), or with --verify a samples file.
Writes  samples: the problem's fields + responses [str], finished [bool], tokens [int] (stop token included);
        with --verify: id, problem, answer (the one that was checked), verification, kind, finished.
        A problem's line is on the disk as soon as it is complete. FILE.args.json keeps the flags.
Another engine can do the work: recipes/vllm/batch.py.

How it is fast. Rows sit in the slots of one preallocated KV cache, each from position 0 on with a length of
its own. A finished row leaves at once: the last row moves into its slot, so the live rows are 0..n-1. Waiting
prompts enter when an eighth of the slots is free. A prompt is prefilled once for its K slots; its last token
is fed again, so that every token is chosen in one place: decode -> choose. On CUDA this step is a graph, one
per (rows, length) bucket; the capture itself is unmeasured.

A sample depends on (seed, problem, sample index), not on its batch: it has random numbers of its own. A model
is right or refused: before any work a few tokens, decoded from cached keys and values, are compared with a
forward without a cache.

Map: flags - requests - cache, prefill, decode, choose - queue - output
"""
import json
import time
from collections import defaultdict, deque, namedtuple
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm
from transformers import Cache, DynamicCache

import model as models
import verifier
from model import InputError, number

VERIFY_SYSTEM = (
    "You check your own answer to a maths problem. Do not solve the problem again step by step. Test the "
    "answer by other means: put it back into the conditions, reason backwards from it, check bounds, units, "
    "parity or special cases. Write it as a short check of your own earlier work. End with exactly one of: "
    "Therefore, the answer is correct. / Therefore, the answer is incorrect. / Therefore, the answer cannot "
    "be verified.")
# The flags that change no line of the output file: --resume takes other ones.
FREE_FLAGS = {"out", "limit", "batch_size", "batch_tokens", "device", "resume", "force"}
PREFILL_TOKENS = 16384      # prompt tokens in one prefill forward, about
VIEW_STEP = 256             # CUDA graphs are captured for lengths in steps of this
TOKEN, LENGTH, DRAWN = range(3)             # columns of `state` [slots, 3]: what a row's next step needs
Row = namedtuple("Row", "prompt sample tokens")     # a response in the making: two indices and its ids so far
# A prompt that wants K responses. key: the problem's id, with --verify id and answer; row: fields to write.
Request = namedtuple("Request", "key row system user gold")


def parse_args(argv=None):
    parser = models.Parser(description=__doc__)
    add = parser.add_argument
    add("--model", required=True, help="folder or hub name")
    add("--data", required=True, help="JSONL/JSON file, or `datasets` folder or NAME[:CONFIG]")
    add("--split", help="split of a data set")
    add("--out", required=True, help="samples file to write")
    add("--limit", type=number(int, 1), help="only the first N problems")
    add("--skip-ungradable", action="store_true", help="leave out problems whose answer cannot be graded")
    # sampling
    add("--num-samples", type=number(int, 1, 10**6), default=1, help="K (paper: 5 in stage 0)")
    add("--temperature", type=number(float, 0), help="default: 0 (greedy) if K = 1, else the paper's 0.7")
    add("--max-new-tokens", type=number(int, 1, 10**9), default=8000, help="paper: 8000")
    add("--seed", type=number(int, 0), default=0)
    add("--verify", action="store_true", help="check the distinct answers of a samples file")
    # machine
    add("--batch-size", type=number(int, 1), default=256, help="most rows at a time")
    add("--batch-tokens", type=number(int, 1), default=262144, help="KV cache, rows x longest row, in tokens")
    add("--device", default="auto", help="auto, cpu, cuda; mps is not tested")
    add("--dtype", default="auto", choices=("auto", "bf16", "fp32"), help="auto: bf16 on CUDA, else fp32")
    add("--resume", action="store_true", help="continue an interrupted run")
    add("--force", action="store_true", help="overwrite --out")
    args = parser.parse_args(argv)
    if args.temperature is None:
        args.temperature = 0.0 if args.num_samples == 1 else 0.7
    if args.temperature < 1e-3 and (args.temperature or args.num_samples > 1):       # 1e-300: logits of inf
        raise InputError("--temperature: from 0.001, or 0 for one sample: more would be the same response")
    return args


def load_requests(args):
    """The problems, or with --verify the distinct boxed answers of a samples file, as requests."""
    rows = models.read_problems(args.data, args.split, args.limit, gold=False, skip=args.skip_ungradable,
                                samples=args.verify)
    if not args.verify:
        return [Request(r["id"], r, models.SYSTEM_PROMPT, r["problem"], r["answer"]) for r in rows]
    requests = []
    for r in rows:
        for answer in filter(None, dict.fromkeys(map(verifier.extract_boxed, r["responses"]))):
            user = f"Problem:\n{r['problem']}\n\nYour earlier answer: {answer}\n\nCheck this answer."
            row = {"id": r["id"], "problem": r["problem"], "answer": answer}
            requests.append(Request(f"{r['id']}\t{answer}", row, VERIFY_SYSTEM, user, None))
    if not requests:
        raise InputError(f"{args.data}: no boxed answers to check")
    return requests


class SlotCache(Cache):
    """Keys and values, last token, lengths and random numbers of the rows of a batch, each in its own slot.
    Before each forward: row i will write at position length[i], and attention sees positions [0, view)."""
    def __init__(self, model, slots, capacity, most_draws=1):
        self.layers, self.capacity = [], capacity       # the base class's own storage stays empty
        one, example = torch.zeros(1, 1, dtype=torch.long, device=model.device), DynamicCache()
        model.get_decoder()(input_ids=one, cache=example, use_cache=True)       # shows the shapes
        with models.refusing(f"no memory for {slots} x {capacity} tokens, lower --batch-tokens"):
            self.stores = [[x.new_zeros(slots, x.shape[1], capacity, x.shape[3])        # for every layer two
                            for x in (layer.keys, layer.values)] for layer in example.layers]
        self.state = one.new_zeros(slots, 3)            # columns TOKEN, LENGTH, DRAWN
        dtype = torch.float32 if model.device.type == "mps" else torch.float64
        self.uniforms = torch.zeros(slots, most_draws, dtype=dtype, device=model.device)

    def update(self, keys, values, layer_idx, *args, **kwargs):
        """For every attention layer: two [n, kv heads, 1, head dim] -> two [n, kv heads, view, head dim]."""
        row = torch.arange(len(self.length), device=self.length.device)
        for store, new in zip(self.stores[layer_idx], (keys, values)):
            store[row, :, self.length] = new[:, :, 0]
        return tuple(store[:len(row), :, :self.view] for store in self.stores[layer_idx])


def prefill(model, cache, prompts, first):
    """Put keys and values of the prompts into the slots from `first` on; equal prompts are computed once."""
    unique = list(dict.fromkeys(map(tuple, prompts)))
    which = [unique.index(tuple(ids)) for ids in prompts]
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in unique], batch_first=True)
    fresh = DynamicCache()          # without the config: its sliding layers would drop what lies behind
    model.get_decoder()(input_ids=padded.to(model.device), cache=fresh, use_cache=True)
    for stores, layer in zip(cache.stores, fresh.layers):
        for store, new in zip(stores, (layer.keys, layer.values)):
            store[first:first + len(which), :, :padded.shape[1]] = new[which]


def masks(config, length, view, dtype):
    """What each row's token at [n] `length` sees: [n, 1, 1, view] of 0 or lowest, or that by layer type."""
    key, query = torch.arange(view, device=length.device), length[:, None]
    window, chunk = getattr(config, "sliding_window", None), getattr(config, "attention_chunk_size", None)
    seen = {"full_attention": key <= query}
    if chunk:
        seen["chunked_attention"] = (key <= query) & (key // chunk == query // chunk)
    if window:
        seen["sliding_attention"] = (key <= query) & (key > query - window)
    found = {kind: torch.where(see, 0.0, torch.finfo(dtype).min).to(dtype)[:, None, None]
             for kind, see in seen.items()}
    return found if getattr(config, "layer_types", None) else list(found.values())[-1]


def decode(model, cache, token, length, view):
    """Feed rows 0..n-1 one token each, [n] at positions [n] `length` -> [n, V] logits of the next token."""
    cache.length, cache.view = length, view
    mask = masks(model.config.get_text_config(), length, view, model.dtype)
    return model(input_ids=token[:, None], position_ids=length[:, None], attention_mask=mask,
                 cache=cache, use_cache=True).logits[:, -1].float()


@torch.inference_mode()
def check_decoding(model):
    """InputError unless prefill and decode give the logits of a forward without a cache, on rows of ordinary
    tokens which cross every attention window: one of more than 256 tokens is 3 wide meanwhile."""
    config = model.config.get_text_config()
    windows = {name: size for name, size in vars(config).items()
               if type(size) is int and ("window" in name or "attention_chunk" in name)}
    vars(config).update({name: 3 for name, size in windows.items() if size > 256})
    with models.refusing(f"{config.model_type}: sampling needs plain keys and values"):
        end = 12 + max((size for size in windows.values() if size <= 256), default=0)
        ids = (1000 + 101 * torch.arange(2 * end, device=model.device)).view(2, end) % config.vocab_size
        plain = model(input_ids=ids, use_cache=False).logits                                # [2, end, V]
        cache, rows, off = SlotCache(model, 2, end), torch.arange(2), []
        prefill(model, cache, [ids[0, :-3].tolist(), ids[1, :4].tolist()], 0)
        for step in range(4):
            length = torch.tensor([end - 4, 3], device=model.device) + step
            logits = decode(model, cache, ids[rows, length], length, end - 3 + step)
            off.append((logits - plain[rows, length]).abs().max() / plain.abs().max())
        if not torch.stack(off).max() <= (1e-3 if model.dtype == torch.float32 else 0.1):   # bf16 rounds: 4 %
            raise ValueError(f"with these the logits are off by {max(off):.1%} of the largest")
    vars(config).update(windows)            # after a refusal nobody needs the model


def has_fixed_rope(config):
    """False where rotations depend on the longest row: a CUDA graph would keep those of its capture."""
    rope = str(getattr(config.get_text_config(), "rope_parameters", None))
    return "dynamic" not in rope and "longrope" not in rope


# Same in rl_outcome, rl_process
def choose(logits, uniforms, temperature):
    """Next token of every row, greedy at T = 0, else by inverting the CDF: [B, V], [B] in [0, 1) -> [B]. The
    CDF is float64: in float32 most tokens of a large vocabulary would be rounded away and never drawn."""
    if temperature == 0:
        return logits.argmax(-1)
    cdf = (logits / temperature).softmax(-1).to(uniforms.dtype).cumsum(-1)
    token = torch.searchsorted(cdf, uniforms[:, None] * cdf[:, -1:], right=True)[:, 0]
    return token.clamp_(max=logits.shape[1] - 1)


def make_step(model, cache, temperature, record=None):
    """-> step(n, view): one token for rows 0..n-1, left in state[:n, TOKEN]; with `record`, from graphs."""
    def step(n, view):
        live = cache.state[:n]
        logits = decode(model, cache, live[:, TOKEN], live[:, LENGTH], view)
        uniforms = cache.uniforms[:n].gather(1, live[:, DRAWN:])[:, 0]
        live[:, TOKEN] = choose(logits, uniforms, temperature)
        live[:, LENGTH:] += 1

    graphs, slots = {}, len(cache.state)

    def replay(n, view):
        unit = max(1, slots // 8)
        rows, view = min(slots, -(-n // unit) * unit), min(cache.capacity, -(-view // VIEW_STEP) * VIEW_STEP)
        cache.state[n:rows, LENGTH:] = 0                    # idle rows write to the start of their own slot
        if (rows, view) not in graphs:
            pool = next(iter(graphs.values())).pool() if graphs else None       # one memory pool for all
            graphs[rows, view] = record(lambda: step(rows, view), cache.state, pool)
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


@torch.inference_mode()
def generate(model, prompts, seeds, stop, max_new_tokens, batch_size=256, batch_tokens=262144, temperature=0):
    """Continuous batching. Yields (prompt index, sample index, token ids, finished) as each response ends.
    prompts: token ids; seeds: for each prompt those of its K samples; stop: ids that end a response."""
    longest, most = max(map(len, prompts)), models.most_positions(model)
    models.check_room(model, prompts, max_new_tokens)
    capacity = min(longest + max_new_tokens, most)
    slots = max(1, min(batch_size, batch_tokens // capacity))
    cache = SlotCache(model, slots, capacity, min(max_new_tokens, capacity))
    record = capture if model.device.type == "cuda" and has_fixed_rope(model.config) else None
    step = make_step(model, cache, temperature, record)
    rows = []                   # rows[i] is the response in slot i
    waiting = deque([Row(i, k, []) for k in range(first, min(first + slots, len(seeds[i])))]
                    for i in range(len(prompts)) for first in range(0, len(seeds[i]), slots))
    while waiting or rows:
        if waiting and (not rows or slots - len(rows) >= max(len(waiting[0]), slots // 8)):
            admit(model, cache, prompts, seeds, waiting, rows)
        lengths = [len(prompts[row.prompt]) + len(row.tokens) for row in rows]
        step(len(rows), max(lengths))
        ended = []
        for slot, (row, token) in enumerate(zip(rows, cache.state[:len(rows), TOKEN].tolist())):
            row.tokens.append(token)
            if token in stop or len(row.tokens) == max_new_tokens or lengths[slot] + 1 == most:
                ended.append(slot)
                yield row.prompt, row.sample, row.tokens, token in stop
        close_gaps(cache, rows, ended)


def admit(model, cache, prompts, seeds, waiting, rows):
    """Move waiting groups (the K rows of a prompt) into free slots, with one prefill for all of them."""
    first, tokens = len(rows), 0
    while waiting and len(rows) + len(waiting[0]) <= len(cache.state) and tokens < PREFILL_TOKENS:
        tokens += len(prompts[waiting[0][0].prompt])
        rows += waiting.popleft()
    prefill(model, cache, [prompts[row.prompt] for row in rows[first:]], first)
    new = slice(first, len(rows))
    cache.state[new] = torch.tensor([[prompts[i][-1], len(prompts[i]) - 1, 0] for i, _, _ in rows[new]])
    draws = [np.random.default_rng(seeds[i][k]).random(cache.uniforms.shape[1]) for i, k, _ in rows[new]]
    cache.uniforms[new] = torch.from_numpy(np.stack(draws)).to(cache.uniforms)


def close_gaps(cache, rows, ended):
    """Move the last rows into the slots of the ended ones, so that the live rows are 0..n-1 again."""
    n = len(rows) - len(ended)
    sources = [slot for slot in range(n, len(rows)) if slot not in ended]
    for source, target in zip(sources, ended):              # `ended` goes up: those below n come first
        rows[target] = rows[source]
        for store in (cache.state, cache.uniforms, *sum(cache.stores, [])):
            store[target] = store[source]
    del rows[n:]


def sample(model, tokenizer, requests, args):
    """Yield (request, K texts, K finished, K token counts) as each request is complete."""
    prompts = [models.prompt_ids(tokenizer, r.user, r.system) for r in requests]
    seeds = [[[args.seed, k, *f"{r.key}\n{r.user}".encode()] for k in range(args.num_samples)]
             for r in requests]
    done = {}
    responses = generate(model, prompts, seeds, models.stop_ids(model, tokenizer), args.max_new_tokens,
                         args.batch_size, args.batch_tokens, args.temperature)
    for i, k, ids, finished in responses:
        text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        text = text.encode(errors="replace").decode()       # half a surrogate pair cannot be written
        mine = done.setdefault(i, [None] * args.num_samples)
        mine[k] = (text, finished, len(ids))
        if None not in mine:
            yield requests[i], *map(list, zip(*done.pop(i)))


def earlier_rows(args, flags, requests):
    """{request key: its rows} that an interrupted run left in --out, half-written requests left out."""
    known, done = {(r.row["id"], r.row["answer"]): r for r in requests}, defaultdict(list)
    out, per = Path(args.out), args.num_samples if args.verify else 1
    if args.force or not out.exists() or not out.stat().st_size:
        return {}
    if not args.resume:
        raise InputError(f"{out} exists already: --resume continues it, --force starts it again")
    where = f"{out}.args.json"
    try:
        old = json.loads(Path(where).read_text(encoding="utf-8"))
        if changed := [name for name in flags if old[name] != flags[name]]:
            raise InputError(f"{out} was begun with {changed[0]} {old[changed[0]]!r}")
        for place, line in enumerate(out.read_bytes().split(b"\n")[:-1], 1):    # half a line may follow
            where, row = f"{out}:{place}", json.loads(line)
            request = known[row["id"], row["answer"]]
            texts = [row["verification"]] * args.num_samples if args.verify else row["responses"] + []
            if [*map(type, texts)] != [str] * args.num_samples or row["problem"] != request.row["problem"]:
                raise ValueError
            done[request.key].append(row)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{where}: missing, broken or not of this run; --force starts again") from None
    return {key: rows for key, rows in done.items() if len(rows) == per}


def write_results(args, flags, requests, results, done):
    """Append each request's rows as it completes, then put the file in input order."""
    start, made, right, judged = time.time(), 0, 0, 0
    bar = tqdm(results, total=len(requests), initial=len(done), mininterval=1)
    for request, texts, finished, tokens in bar:
        if not made:                                # only here: a start that fails leaves no file
            models.write_jsonl(args.out + ".args.json", [flags])
            models.write_jsonl(args.out, [row for rows in done.values() for row in rows])
        rows = [{"responses": texts, "finished": finished, "tokens": tokens}]
        if args.verify:
            rows = [{"verification": text, "kind": "confirmative", "finished": end}
                    for text, end in zip(texts, finished)]
        done[request.key] = [{**request.row, **row} for row in rows]
        models.write_jsonl(args.out, done[request.key], append=True)
        made += sum(tokens)
        shown = {"tokens/s": round(made / (time.time() - start))}
        if request.gold is not None:                # accuracy: the last solution is right, finished or not
            rewards = [verifier.outcome_reward(verifier.parse_actions(t), request.gold, True) for t in texts]
            right, judged = right + sum(r > 0 for r in rewards), judged + len(rewards)
            shown["accuracy"] = f"{right / judged:.3f}"
        bar.set_postfix(shown, refresh=False)
    models.write_jsonl(args.out, [row for r in requests for row in done[r.key]])


def main():
    args = parse_args()
    requests = load_requests(args)
    models.check_output(args.out, True, args.data, *Path(args.model).glob("*"))
    flags = {name: value for name, value in vars(args).items() if name not in FREE_FLAGS}
    done = earlier_rows(args, flags, requests)
    todo, results = [r for r in requests if r.key not in done], []
    if todo:
        model, tokenizer = models.load(args.model, args.device, args.dtype)
        check_decoding(model)
        results = sample(model, tokenizer, todo, args)
    write_results(args, flags, requests, results, done)


if __name__ == "__main__":
    models.run_main(main)
