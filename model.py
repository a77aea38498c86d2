"""What every stage needs and none is about: models, prompts, problem files, run folders, the optimizer.

    model, tokenizer = load("Qwen/Qwen2.5-Math-1.5B")          # or a folder, such as runs/seed0/toy/base
    rows = read_problems("test.jsonl")                          # or ("HuggingFaceH4/MATH-500", "test")
Nothing here samples, trains or judges. Map: flags - load and check - prompts - files - run folder - optimizer
"""
import argparse
import contextlib
import fcntl
import json
import math
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, DynamicCache
from transformers.utils import logging

import verifier

logging.disable_progress_bar()      # the bars that a user should see are the stages' own
logging.set_verbosity_error()       # what matters of these warnings is an InputError here

SYSTEM_PROMPT = "Please reason step by step, and put your final answer within \\boxed{}."
# Tokens that end a turn or a document in the open families: a model may emit any, whatever is called `eos`.
END_TOKENS = "<|im_end|> <|eot_id|> <|endoftext|> <|end_of_text|> <end_of_turn> <|end|> </s>".split()


# ---------------------------------------------------------------- errors and flags
class InputError(Exception):
    """A mistake of the user's: shown as one line, without a traceback."""


@contextlib.contextmanager
def refusing(what):
    """An InputError `what: reason` for whatever broken files or strange models make the libraries raise."""
    try:
        yield
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{what}: {reason}") from None


def run_main(main):
    """Call main(); a user's or the system's error becomes one line and exit status 2, Ctrl-C status 130."""
    sys.stdout.reconfigure(errors="replace")      # a terminal that knows ASCII only gets ? for a minus sign
    try:
        if not all(text and text.isprintable() for text in sys.argv[1:]):
            raise InputError("an argument is empty, or no printable text")
        main()
        sys.stdout.flush()
    except BrokenPipeError:                       # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (InputError, OSError, MemoryError, torch.OutOfMemoryError) as error:
        print("error:", ascii(" ".join(str(error).split()) or type(error).__name__)[1:-1], file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


class Parser(argparse.ArgumentParser):
    """argparse with a file's docstring as help, and one line for a mistake."""
    def __init__(self, description=None, **options):
        raw = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, formatter_class=raw, allow_abbrev=False, **options)

    def error(self, message):
        raise InputError(message)


def number(kind, least, most=math.inf):
    """A `type=` for flags: an int or float in [least, most], never inf or nan."""
    def parse(text):
        value = kind(text)
        if not (least <= value <= most and value < math.inf):
            raise argparse.ArgumentTypeError(f"{text} is not between {least:g} and {most:g}")
        return value
    parse.__name__ = kind.__name__                # argparse says "invalid int value"
    return parse


# ---------------------------------------------------------------- load and check a model
def load(name_or_path, device="auto", dtype="auto"):
    """Folder or hub name -> (model in eval mode, tokenizer); auto: the CUDA GPU if there is one, in bf16.
    Dropout is set to 0: with it the policy would not be one policy, and no run could be repeated."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    with refusing(f"--device {device} (auto, cpu, cuda or mps)"):
        torch.zeros(1, device=device)
    if dtype == "auto":
        dtype = "bf16" if device.startswith("cuda") else "fp32"
    if dtype == "bf16":
        torch.set_float32_matmul_precision("high")           # TF32 on CUDA: bf16 numbers fit in it exactly
    tokenizer, config = load_tokenizer(name_or_path), _pretrained(AutoConfig, name_or_path)
    for part in (config, config.get_text_config()):
        vars(part).update({name: 0.0 for name in vars(part) if re.search("dropout|drop$", name)})
    model, report = _pretrained(AutoModelForCausalLM, name_or_path, config=config, output_loading_info=True,
                                dtype={"bf16": torch.bfloat16, "fp32": torch.float32}[dtype])
    cut = [key for key in report["unexpected_keys"] if "model.layers." in key]     # more than config.json has
    if odd := [*report["missing_keys"], *report["mismatched_keys"], *cut]:
        raise InputError(f"{name_or_path}: not a whole causal language model: {odd[0]} is not in both files")
    if not all(torch.isfinite(p).all() for p in model.parameters()):
        raise InputError(f"{name_or_path}: the weights contain nan or inf")
    return model.to(device).eval(), tokenizer


def _pretrained(kind, name_or_path, **options):
    name = os.path.expanduser(name_or_path)
    has_checkpoint(name)                          # puts back what a killed run had moved aside
    with refusing(f"{name}: no model here, or none that can be loaded"):
        return kind.from_pretrained(name, **options)


def load_tokenizer(name_or_path):
    return _pretrained(AutoTokenizer, name_or_path)


def most_positions(model):
    """Where prompt + response end at the latest, finished or not: at the last position, or where a longer row
    would change what is cached, the rotations of a long rope, or the temperature of Llama 4's attention."""
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    ends = [getattr(config, "max_position_embeddings", None),
            rope.get("rope_type") == "longrope" and rope.get("original_max_position_embeddings"),
            getattr(config, "attn_temperature_tuning", None) and config.floor_scale - 1]
    return min(filter(None, ends), default=sys.maxsize)


def check_room(model, prompts, max_new_tokens):
    """One rule for sampling and RL: a response ends, unfinished, at the model's last position.
    With max_new_tokens = 0 the prompts are whole texts, which may reach it."""
    longest, most = max(map(len, prompts)), most_positions(model)
    if longest + min(1, max_new_tokens) > most:       # room for one token more
        raise InputError(f"a prompt of {longest} tokens fills the model's {most} positions")
    if not all(prompts) or max(map(max, prompts)) >= len(model.get_input_embeddings().weight):
        raise InputError("a text is empty, or has tokens that the tokenizer knows and the model does not")
    if longest + max_new_tokens > most:
        print(f"note: responses end, unfinished, at position {most}")


@torch.no_grad()
def check_model(model):
    """InputError for a model that the training scripts would score wrongly. Eight tokens decide, not names:
    logits must be hidden @ head.T, tokens to the right change nothing (padded rows have no mask), and a
    left-padded prompt continued through the cache, as in a rollout, gives what a plain row gives."""
    config, head = model.config.get_text_config(), model.get_output_embeddings()
    ids = torch.arange(3, 11, device=model.device)[None] % config.vocab_size
    pad, mask = ids[:, :2], torch.tensor([[0, 0] + [1] * 8], device=model.device)
    places = (mask.cumsum(1) - 1).clamp(min=0)
    with refusing(f"{config.model_type} models do not work here"):      # no head, no keys and values to keep
        plain = model(input_ids=ids, use_cache=False).logits[0].float()
        hidden = model.get_decoder()(input_ids=torch.cat([ids, pad], 1), use_cache=False).last_hidden_state
        own = hidden[0, :8].float() @ head.weight.float().T
        cached = {"cache": DynamicCache(config=model.config), "use_cache": True}
        model(input_ids=torch.cat([pad, ids[:, :7]], 1), attention_mask=mask[:, :9],
              position_ids=places[:, :9], **cached)
        cached["cache"].batch_repeat_interleave(1)                                  # as a rollout does
        last = model(input_ids=ids[:, 7:], attention_mask=mask, position_ids=places[:, 9:], **cached).logits
    close = plain.abs().max() * (1e-4 if model.dtype == torch.float32 else 0.03)
    if not (plain - own).abs().max() <= close or getattr(config, "final_logit_softcapping", None):
        raise InputError(f"{config.model_type}: logits are not hidden @ head.T, as the losses need")
    if not (plain[7] - last[0, -1].float()).abs().max() <= close:
        raise InputError(f"{config.model_type}: the cache gives other logits for a padded row")


# ---------------------------------------------------------------- prompts
def stop_ids(model, tokenizer):
    """Every token that ends a response; model: None, or one that may know of more. The first is the one that
    training appends as `<end>`: what the template writes after an assistant turn, else the eos token."""
    turns = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "@answer@"}]
    try:
        after = tokenizer.apply_chat_template(turns, tokenize=False).partition("@answer@")[2].strip()
    except Exception:                             # no template, or one that fails
        after = ""
    first = tokenizer(after, add_special_tokens=False).input_ids[:1]
    listed = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    found = [i for i in first if i in tokenizer.added_tokens_decoder] + [tokenizer.eos_token_id]
    found += listed if isinstance(listed, list) else [listed]
    found += [tokenizer.get_vocab().get(token) for token in END_TOKENS]
    found = [i for i in dict.fromkeys(found) if isinstance(i, int)]
    if not found:
        raise InputError("the tokenizer has no end token: set eos_token in its tokenizer_config.json")
    return found


def prompt_ids(tokenizer, problem, system=SYSTEM_PROMPT):
    """Prompt as token ids. A template writes its own beginning-of-sequence token; plain text gets it here."""
    text = prompt_text(tokenizer, problem, system)
    return tokenizer(text, add_special_tokens=not tokenizer.chat_template).input_ids


def prompt_text(tokenizer, problem, system=SYSTEM_PROMPT):
    """The turns and the start of the answer (App. C); plain text where there is no template."""
    if not tokenizer.chat_template:
        return f"{system}\n\n{problem}\n\n"
    found = turns(tokenizer, problem, system)
    with refusing("the chat template fails"):
        return tokenizer.apply_chat_template(found, tokenize=False, add_generation_prompt=True)


def turns(tokenizer, problem, system=SYSTEM_PROMPT):
    """System and user turn, or where the template refuses the first (Gemma, Mistral) one with both texts."""
    found = [{"role": "system", "content": system}, {"role": "user", "content": problem}]
    try:
        tokenizer.apply_chat_template(found, tokenize=False)
    except Exception:                             # a template may be any program
        found = [{"role": "user", "content": f"{system}\n\n{problem}"}]
    return found


# ---------------------------------------------------------------- files
def read_jsonl(path, required=()):
    """JSON lines, or a JSON list, whose items count as lines -> [("FILE:LINE", row)], fields complete."""
    rows, number = [], 1
    with refusing(path):
        text = Path(path).read_text(encoding="utf-8-sig")
    try:
        lines = map(json.dumps, json.loads(text)) if text.startswith("[") else text.split("\n")
        for number, line in enumerate(lines, 1):
            if line.strip():
                rows.append((f"{path}:{number}", json.loads(line)))
                if "\\u" in line:                 # half of a surrogate pair is no text: this raises
                    json.dumps(rows[-1][1], ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:             # JSON's and Unicode's errors are ValueErrors
        raise InputError(f"{path}:{getattr(error, 'lineno', 1) + number - 1}: not JSON: {error}") from None
    for where, row in rows:
        if not isinstance(row, dict):
            raise InputError(f"{where}: not a JSON object")
        for field in required:
            if row.get(field) is None:
                raise InputError(f"{where}: field '{field}' is missing")
    if not rows:
        raise InputError(f"{path}: no rows")
    return rows


def read_problems(source, split=None, limit=None, gold=True, skip=False, samples=False):
    """Problems from a JSON file, or a `datasets` folder or name (NAME or NAME:CONFIG): rows with id (str),
    problem, answer (str), level (int or None) and what else they had. Known are also question, final_answer,
    GSM8K's `#### 18`, MATH's boxed solution, "Level 3". gold=False: a row may lack an answer (None). skip:
    leave out, and count, what cannot be graded, instead of refusing it. samples: rows of a samples file."""
    is_file = str(source).endswith((".json", ".jsonl")) or Path(source).is_file()
    found, rows, seen = read_jsonl(source) if is_file else _hub_rows(source, split), [], {}
    for place, (where, row) in enumerate(found[:limit]):
        row = _problem(where, row, place)
        if samples:
            _check_samples(where, row)
        reason = verifier.check_gold(row["answer"]) if row["answer"] is not None else gold and "is missing"
        if reason and not skip:
            raise InputError(f"{where}: field 'answer' {reason}")
        if seen.setdefault(row["id"], where) != where:
            raise InputError(f"{where}: field 'id' repeats {row['id'][:80]!r} of {seen[row['id']]}")
        if not reason:
            rows.append(row)
    if len(rows) < len(seen):
        print(f"{source}: {len(seen) - len(rows)} problems skipped, whose answers cannot be graded")
    if not rows:
        raise InputError(f"{source}: no problems")
    return rows


def _problem(where, row, place):
    """One raw row -> one problem with the field names of this project."""
    problem = row.get("problem", row.get("question"))
    answer, solution = row.get("answer"), row.get("solution")
    if not isinstance(problem, str) or not problem.strip():
        raise InputError(f"{where}: field 'problem' is {'missing' if problem is None else 'not a text'}")
    if isinstance(answer, str) and "####" in answer:                    # GSM8K: worked solution, then answer
        solution, answer = answer, answer.rpartition("####")[2]
    answer = row.get("final_answer") if answer is None else answer
    if answer is None and isinstance(solution, str):                    # MATH: the box in the solution
        answer = verifier.extract_boxed(solution)
    if isinstance(answer, list) and answer and all(isinstance(a, str) for a in answer):
        answer = ", ".join(answer)
    if type(answer) in (int, float) and math.isfinite(answer):
        answer = str(int(answer)) if answer == int(answer) else str(answer)
    if not isinstance(answer, str | None):
        raise InputError(f"{where}: field 'answer' is not a text or a number")
    level = re.search(r"\d{1,9}", str(row.get("level")))
    names = [row[key] for key in ("id", "unique_id", "idx", "index") if row.get(key) is not None]
    return {**row, "id": str([*names, place][0]), "problem": problem, "answer": answer and answer.strip(),
            "level": level and int(level.group()), **({"solution": solution} if solution else {})}


def _check_samples(where, row):
    """`responses`, and as many `finished` and `tokens`: None where another engine wrote none."""
    n = len(row["responses"]) if isinstance(row.get("responses"), list) else 0
    for field, kind in (("responses", str), ("finished", bool | None), ("tokens", int | None)):
        values = row.setdefault(field, [None] * n)
        if not n or not isinstance(values, list) or [isinstance(v, kind) for v in values] != [True] * n:
            raise InputError(f"{where}: field '{field}' is not a list of one such value for each response")


def _hub_rows(source, split):
    """[(name:number, row)] of a `datasets` data set: its row number stands for the line."""
    import datasets             # slow to import, and needed by this branch only
    name, _, config = str(source).partition(":")
    with refusing(f"{source}: no such file, and `datasets` cannot load it"):
        data = datasets.load_dataset(name, config or None, split=split)
    if isinstance(data, dict) and len(data) > 1:
        raise InputError(f"{source}: say which split with --split: {', '.join(data)}")
    data = [*data.values()][0] if isinstance(data, dict) else data
    return [(f"{source}:{place}", row) for place, row in enumerate(data, 1)]


def check_output(path, force, *inputs):
    """InputError where `path` may not be written: an input, there and not forced, or as /dev/null no file."""
    path, there = Path(path), Path(path).exists()
    if there and any(os.path.samefile(i, path) for i in inputs if i and os.path.exists(i)):
        raise InputError(f"{path} is the input: write to another file")
    if there and not (force and path.is_file()):
        raise InputError(f"{path} exists already: --force overwrites it, if it is a plain file")


def write_text(path, text, append=False):
    """Write a text, or bytes. A whole file is replaced at once: a kill or a full disk keeps the old one."""
    path = Path(path)
    new = path if append else path.with_name(path.name + ".tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(new, "ab" if append else "wb") as file:
            file.write(text if isinstance(text, bytes) else text.encode())
        os.replace(new, path)                     # of a file by itself: does nothing
    finally:
        if new != path:
            new.unlink(missing_ok=True)


def write_jsonl(path, rows, append=False):
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), append)


def has_checkpoint(folder):
    """True where a whole checkpoint lies. Puts FOLDER.old back if `save` died between its two renames."""
    folder, old = Path(folder), Path(f"{folder}.old")
    if not folder.exists() and (old / "config.json").exists():
        os.rename(old, folder)
    return (folder / "config.json").exists()


def save(model, tokenizer, folder, trainer=None):
    """Write a Hugging Face checkpoint folder, with trainer.pt. A kill leaves the old one or the new one."""
    new, old = Path(f"{folder}.new"), Path(f"{folder}.old")
    has_checkpoint(folder)
    shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    with refusing(f"{folder}: cannot be saved"):
        model.save_pretrained(new)
        tokenizer.save_pretrained(new)
        if trainer:
            torch.save(trainer, new / "trainer.pt")
    if Path(folder).exists():
        os.rename(folder, old)
    os.rename(new, folder)
    shutil.rmtree(old, ignore_errors=True)


# ---------------------------------------------------------------- run folder
class Run:
    """The folder --out of a training: args.json, its logs, `last` to resume from, perhaps `best`.
    Making a Run only looks and refuses; `begin` writes, once all other input has proved good.
    state: what trainer.pt held, None in a new run. stopped: True after Ctrl-C."""
    def __init__(self, args, free=(), logs=("metrics.jsonl",)):
        """free: flags that --resume may change, besides those that concern no number."""
        self.args, self.folder, self.state, self.stopped = args, Path(args.out), None, False
        self.last, self.logs = self.folder / "last", [self.folder / name for name in logs]
        begun, home = (self.folder / "args.json").exists(), os.path.realpath(self.folder)
        inputs = [vars(args).get(x) or "/" for x in ("model", "data", "offline", "samples", "eval_data")]
        if any(os.path.commonpath([home, os.path.realpath(path)]) == home for path in inputs):
            raise InputError(f"the model or an input lies in --out {args.out}: write to another folder")
        if not begun and self.folder.exists() and any(self.folder.iterdir()):
            raise InputError(f"--out {args.out} is not empty, and no run of this script (no args.json)")
        if begun and args.resume:
            self._resume({"resume", "force", "device", "save_every", *free})
        elif begun and not args.force:
            raise InputError(f"{args.out} holds a run already: --resume goes on, --force throws it away")

    def _resume(self, free):
        """Load the state, see that the logs reach as far, and compare the flags."""
        with refusing(f"{self.folder}: cannot be resumed, --force begins anew"):
            old = json.loads((self.folder / "args.json").read_text(encoding="utf-8"))
            new = vars(self.args)
            others = [name for name in new if name not in free and old.get(name) != new[name]]
            if has_checkpoint(self.last) or self.last.exists():     # weights_only: no pickle of malice
                self.state = torch.load(self.last / "trainer.pt", map_location="cpu", weights_only=True)
                for log, size in zip(self.logs, self.state["sizes"], strict=True):
                    if log.stat().st_size < size:
                        raise ValueError(f"{log.name} is shorter than at the checkpoint")
        if others:
            raise InputError(f"--resume with another --{others[0].replace('_', '-')} than the run began with")

    def begin(self):
        """Lock the folder, write args.json, cut the logs to the checkpoint, mind Ctrl-C. -> steps done"""
        self.folder.mkdir(parents=True, exist_ok=True)
        Run.lock = open(self.logs[0], "a")        # of the class: an earlier run's lock is let go
        try:
            fcntl.flock(Run.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{self.folder}: another process is writing there") from None
        if not self.state:
            shutil.rmtree(self.last, ignore_errors=True)
            shutil.rmtree(self.folder / "best", ignore_errors=True)
        state = self.state or {"step": 0, "best": -math.inf, "sizes": [0] * len(self.logs)}
        write_text(self.folder / "args.json", json.dumps(vars(self.args), indent=1) + "\n")
        for log, size in zip(self.logs, state["sizes"]):
            open(log, "ab").truncate(size)
        signal.signal(signal.SIGINT, self._interrupt)
        self.done, self.best, self.state = state["step"], state["best"], None     # the state's memory is free
        return self.done

    def _interrupt(self, *_):                     # Ctrl-C: finish the step, save, leave; twice: at once
        self.stopped = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def steps(self, total):
        """Yield the steps that are left, the first of a run being 1, under a progress bar."""
        self.total, left = total, range(self.done + 1, total + 1)
        self.bar = tqdm(left, initial=self.done, total=total, unit="step", mininterval=1)
        for step in self.bar:
            yield step
            if self.stopped:
                raise KeyboardInterrupt

    def log(self, row, shown=()):
        """Append a row to metrics.jsonl; `shown` names the numbers for the progress bar."""
        write_text(self.logs[0], json.dumps(row, default=float) + "\n", append=True)
        if shown:
            self.bar.set_postfix({name: f"{row[name]:.3g}" for name in shown}, refresh=False)

    def note(self, text):
        write_text(self.logs[1], text + "\n", append=True)

    def save_best(self, score, model, tokenizer):
        """Write `best` if there is a score and it beats all earlier ones, that of step 0 included."""
        if score is not None and score > self.best:
            self.best = score
            save(model, tokenizer, self.folder / "best")

    def save(self, step, model, tokenizer, optimizer, **more):
        """Write `last` where it is due: every --save-every steps, at the end and after Ctrl-C."""
        if step % self.args.save_every == 0 or step == self.total or self.stopped:
            sizes, weights = [log.stat().st_size for log in self.logs], optimizer.param_groups[0]["params"]
            state = {"step": step, "best": self.best, "sizes": sizes, "weights": weights, **more}
            save(model, tokenizer, self.last, {**state, "optimizer": optimizer.state_dict()})


# ---------------------------------------------------------------- optimizer
def make_optimizer(model, lr, on_host=False, state=None):
    """AdamW on float32 weights, without decay; `state` is that of a Run.
    A bf16 weight would lose an update of 5e-7, so the optimizer then works on float32 copies, on the host if
    asked to. Every gradient moves to its copy as soon as it is complete."""
    weights = list(model.parameters())
    if model.dtype != torch.float32 or on_host:
        copies = {p: p.detach().to("cpu" if on_host else p.device, torch.float32, copy=True) for p in weights}

        def move_gradient(p):
            grad, copy = p.grad.to(copies[p].device, torch.float32), copies[p]
            copy.grad, p.grad = grad if copy.grad is None else copy.grad.add_(grad), None

        for p in weights:
            p.register_post_accumulate_grad_hook(move_gradient)
        weights = list(copies.values())
    optimizer = torch.optim.AdamW(weights, lr=lr, weight_decay=0.0)
    if state:
        with refusing("trainer.pt is not of this model, --force begins anew"):
            optimizer.load_state_dict(state["optimizer"])
            for weight, saved in zip(weights, state["weights"], strict=True):
                weight.data.copy_(saved)
    return optimizer


def optimizer_step(model, optimizer, lr, max_norm):
    """Clip the gradient, step, copy the weights back. -> its norm before clipping; if not finite, no step."""
    weights = optimizer.param_groups[0]["params"]
    norm = torch.nn.utils.clip_grad_norm_(weights, max_norm).item()
    if math.isfinite(norm):
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        with torch.no_grad():
            for p, weight in zip(model.parameters(), weights):
                p.copy_(weight)                   # changes nothing where they are one tensor
    optimizer.zero_grad()
    return norm


def learning_rate(step, steps, args):
    """Of step 0, 1, ...: linear warm-up, then constant, or linear or cosine to 0."""
    done = step / steps
    decay = {"constant": 1, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[args.schedule]
    return args.lr * decay * min(1, (step + 1) / max(1, args.warmup))
