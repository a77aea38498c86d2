"""Load a model, render a prompt, read problems, save a checkpoint: the four things that every stage needs.

    model, tokenizer = load("Qwen/Qwen2.5-Math-1.5B")          # or a folder, such as toy/base
    ids = prompt_ids(tokenizer, "Solve 7x+133=693")
    rows = read_problems("test.jsonl")                          # or ("HuggingFaceH4/MATH-500", "test")
    save(model, tokenizer, "runs/sft", extra={"trainer.pt": state})

Nothing here samples, trains or judges. Every `main` of this project runs through `run_main`, which turns bad
input into one line `error: FILE:LINE: field 'x' ...` and exit status 2.

Map: errors - device and dtype - load, pad token, stop tokens - prompt - reading files - saving.
"""
import json
import math
import os
import re
import shutil
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

transformers_logging.disable_progress_bar()      # the bars that a user should see are the stages' own

SYSTEM_PROMPT = "Please reason step by step, and put your final answer within \\boxed{}."

# Tokens that end a turn or a document in the open model families. A model may emit any of them, whatever its
# tokenizer calls `eos_token`: Qwen2.5 base models end turns with <|im_end|>, documents with <|endoftext|>.
END_TOKENS = ("<|im_end|>", "<|eot_id|>", "<|endoftext|>", "<|end_of_text|>", "<end_of_turn>", "<|end|>",
              "</s>")
# Tokens that text never contains, so that they may serve as padding.
SPARE_TOKENS = ("<pad>", "[PAD]", "<|pad|>", "<|finetune_right_pad_id|>", "<|reserved_special_token_0|>",
                "<|fim_pad|>", "<unk>", "[UNK]")


class InputError(Exception):
    """A mistake of the user's: shown as one line, without a traceback."""


def run_main(main):
    """Call main(); a user error becomes one line on stderr and exit status 2, Ctrl-C exit status 130."""
    try:
        main()
    except (InputError, PermissionError, IsADirectoryError, NotADirectoryError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def pick_device(name="auto"):
    """cuda, then mps, then cpu; or the device that was named."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"--device {name}: this machine has no usable CUDA GPU")
    try:
        return torch.device(name)
    except RuntimeError:
        raise InputError(f"--device {name}: not a device; use auto, cpu, cuda or mps") from None


def pick_dtype(name, device):
    """auto: bf16 on CUDA, fp32 elsewhere."""
    known = {"auto": torch.bfloat16 if device.type == "cuda" else torch.float32,
             "bf16": torch.bfloat16, "fp32": torch.float32}
    if name not in known:
        raise InputError(f"--dtype {name}: use auto, bf16 or fp32")
    return known[name]


def load(name_or_path, device="auto", dtype="auto"):
    """Folder or hub name -> (model in eval mode, tokenizer with a pad token that is not the end token)."""
    device = pick_device(device)
    dtype = pick_dtype(dtype, device)
    tokenizer = load_tokenizer(name_or_path)
    model = _pretrained(AutoModelForCausalLM, name_or_path, dtype=dtype)
    fix_pad_token(model, tokenizer)
    return model.to(device).eval(), tokenizer


def check_head(model):
    """InputError for a model whose logits are more than hidden @ head.T: our losses compute just that."""
    config, head = model.config, model.get_output_embeddings()
    extras = {"final_logit_softcapping": None, "logit_scale": 1, "logits_scaling": 1}
    odd = [name for name, plain in extras.items() if getattr(config, name, None) not in (None, plain)]
    odd += ["a bias in the head"] if getattr(head, "bias", None) is not None else []
    if odd:
        raise InputError(f"{config.model_type} models have {odd[0]}: the losses here know plain heads only")


def load_tokenizer(name_or_path):
    """The tokenizer alone, as it lies on the disk or on the hub."""
    return _pretrained(AutoTokenizer, name_or_path)


def _pretrained(kind, name_or_path, **options):
    """kind.from_pretrained, with one clear line where the name leads nowhere."""
    name = os.path.expanduser(name_or_path)
    is_path = name.startswith((".", "/")) or name.count("/") > 1 or Path(name).exists()
    if is_path and not has_checkpoint(name):
        raise InputError(f"{name}: no model here (a folder with config.json is needed)")
    try:
        return kind.from_pretrained(name, **options)
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: cannot be loaded: {str(error).splitlines()[0]}") from None


def fix_pad_token(model, tokenizer):
    """Give the tokenizer a pad token that is not the end token.

    Padding with the end token invites masks that also hide the real end, so that it is never trained. A token
    that text never contains is taken first, then an unused row of the embedding, and only then is it resized.
    """
    end = stop_ids(model, tokenizer)[0]
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id != end:
        return
    rows, vocab = model.get_input_embeddings().weight.shape[0], tokenizer.get_vocab()
    spare = [t for t in SPARE_TOKENS if t in vocab and vocab[t] not in (end, None) and vocab[t] < rows]
    spare += [t for t in END_TOKENS if t in vocab and vocab[t] != end]
    tokenizer.pad_token = spare[0] if spare else "<pad>"     # a new name takes the next free id
    if tokenizer.pad_token_id is None or tokenizer.pad_token not in tokenizer.get_vocab():
        tokenizer.add_special_tokens({"pad_token": "<pad>"})
    if tokenizer.pad_token_id >= rows:
        model.resize_token_embeddings(tokenizer.pad_token_id + 1)


def stop_ids(model, tokenizer):
    """Every token that ends a response; the first is the one that training appends as `<end>`.

    That first one is what the chat template writes after an assistant turn, else the tokenizer's eos token.
    """
    vocab = tokenizer.get_vocab()
    found = [vocab.get(_template_end(tokenizer)), tokenizer.eos_token_id]
    listed = model.generation_config.eos_token_id if model.generation_config else None
    found += listed if isinstance(listed, list) else [listed]
    found += [vocab.get(t) for t in END_TOKENS]
    found = [i for i in dict.fromkeys(found) if i is not None]
    if not found:
        raise InputError("the tokenizer has no end token: set eos_token in its tokenizer_config.json")
    return found


def _template_end(tokenizer):
    """The special token that the chat template writes right after an assistant turn, or None."""
    if not tokenizer.chat_template:
        return None
    turns = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "@answer@"}]
    try:
        after = tokenizer.apply_chat_template(turns, tokenize=False).partition("@answer@")[2].strip()
    except Exception:           # a template may be any program; the eos token is the fallback
        return None
    specials = sorted(tokenizer.get_added_vocab(), key=len, reverse=True)
    return next((t for t in specials if after.startswith(t)), None)


def prompt_ids(tokenizer, problem):
    """Token ids of system + user turn + start of the answer; plain text where there is no chat template."""
    return render_ids(tokenizer, SYSTEM_PROMPT, problem)


def render_text(tokenizer, system, user):
    """The prompt as text: the paper's system prompt (App. C), then the problem."""
    if not tokenizer.chat_template:
        return f"{system}\n\n{user}\n\n"
    turns = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


def render_ids(tokenizer, system, user):
    """The prompt as token ids. A template writes its own beginning-of-sequence token; plain text gets it."""
    plain = not tokenizer.chat_template
    return tokenizer(render_text(tokenizer, system, user), add_special_tokens=plain).input_ids


def read_jsonl(path, required=(), fault=None):
    """JSONL (or a .json list) -> list of dicts with the required fields; errors name file, line and field.

    fault(row) -> None, or what is wrong with the row.
    """
    rows = []
    for where, row in _rows(Path(path)):
        if not isinstance(row, dict):
            raise InputError(f"{where}: not a JSON object")
        for field in required:
            if row.get(field) is None:
                raise InputError(f"{where}: field '{field}' is missing")
        if wrong := fault and fault(row):
            raise InputError(f"{where}: {wrong}")
        rows.append(row)
    if not rows:
        raise InputError(f"{path}: no rows")
    return rows


def _rows(path):
    """Yield ("FILE:LINE", parsed row); an item of a .json list counts as its line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text") from None
    whole = path.suffix == ".json" and text.lstrip().startswith("[")
    try:
        lines = json.loads(text) if whole else text.split("\n")
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: not JSON ({error.msg})") from None
    for number, line in enumerate(lines, 1):
        where = f"{path}:{number}"
        if whole:
            yield where, line
        elif line.strip():
            try:
                yield where, json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                raise InputError(f"{where}: not JSON ({getattr(error, 'msg', 'nested too deep')})") from None


def write_jsonl(path, rows, append=False):
    """Write JSON lines and force them to the disk. A whole file is replaced at once: a kill keeps the old."""
    path = Path(path)
    target = path if append else path.with_name(path.name + ".tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(target, "a" if append else "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    fsync(target)
    if not append:
        os.rename(target, path)


def read_problems(source, split=None, limit=None, gold=True, check=None):
    """Problems from a JSONL/JSON file, a folder, or a `datasets` name (NAME or NAME:CONFIG).

    Every row comes back with id (str), problem, answer (str), level (int or None) and whatever else it had.
    Other spellings are taken: question, final_answer, GSM8K's `#### 18`, MATH's solution with a \\boxed
    answer, "Level 3". With gold=False a row may lack an answer (None). check(answer) -> None, or the reason
    why that answer cannot be graded: pass verifier.check_gold.
    """
    path, rows, seen = Path(source).expanduser(), [], {}
    if path.is_dir():
        path = _file_in_folder(path, split)
    if path.is_file() or path.suffix in (".json", ".jsonl"):
        pairs = _rows(path)
    else:
        pairs = _hub_rows(str(source), split)
    for number, (where, row) in enumerate(pairs):
        if limit is not None and number >= limit:
            break
        row = _problem(where, row, number, gold)
        reason = check(row["answer"]) if check and row["answer"] is not None else None
        if reason:
            raise InputError(f"{where}: field 'answer' {row['answer']!r}: {reason}")
        if row["id"] in seen:
            raise InputError(f"{where}: field 'id' repeats {row['id']!r} of {seen[row['id']]}")
        seen[row["id"]] = where
        rows.append(row)
    if not rows:
        raise InputError(f"{source}: no problems")
    return rows


def _problem(where, row, number, gold):
    """One raw row -> one problem with the field names of this project."""
    if not isinstance(row, dict):
        raise InputError(f"{where}: not a JSON object")
    field = "problem" if "problem" in row or "question" not in row else "question"
    problem = row.get(field)
    if not isinstance(problem, str) or not problem.strip():
        raise InputError(f"{where}: field 'problem' is {'missing' if problem is None else 'not a text'}")
    answer = row.get("answer", row.get("final_answer"))
    extra = {}
    if isinstance(answer, str) and "####" in answer:                    # GSM8K: worked solution, then answer
        extra["solution"], answer = answer, answer.rpartition("####")[2]
    if answer is None and isinstance(row.get("solution"), str):         # MATH: the box in the solution
        answer = _last_box(row["solution"])
    if isinstance(answer, list) and answer and all(isinstance(a, str) for a in answer):
        answer = ", ".join(answer)
    if isinstance(answer, (int, float)) and not isinstance(answer, bool) and math.isfinite(answer):
        answer = str(int(answer)) if answer == int(answer) else str(answer)
    if answer is None and gold:
        raise InputError(f"{where}: field 'answer' is missing (and no 'solution' with a \\boxed answer)")
    if answer is not None and (not isinstance(answer, str) or not answer.strip()):
        raise InputError(f"{where}: field 'answer' is {'not a text or a number' if answer else 'empty'}")
    level = re.search(r"\d+", str(row.get("level")))
    name = next((row[k] for k in ("id", "unique_id", "idx", "index") if row.get(k) is not None), number)
    return {**extra, **row, "id": str(name), "problem": problem, "answer": answer and answer.strip(),
            "level": int(level.group()) if level else None}


def _last_box(text):
    """Content of the last \\boxed{...}, braces balanced, or None."""
    start = text.rfind("\\boxed{")
    depth = 0
    for i in range(start + 6, len(text) if start >= 0 else 0):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[start + 7:i]
    return None


def _file_in_folder(folder, split):
    """FOLDER/SPLIT.jsonl, or the only data file of the folder."""
    files = sorted(f for f in folder.iterdir() if f.suffix in (".json", ".jsonl"))
    chosen = [f for f in files if f.stem == split] if split else files
    if len(chosen) != 1:
        names = ", ".join(f.name for f in files) or "none"
        raise InputError(f"{folder}: which file? (here: {names}) name one, or its stem with --split")
    return chosen[0]


def _hub_rows(source, split):
    """Rows of a `datasets` data set; its row number stands for the line."""
    import datasets             # slow to import, and needed by this branch only
    name, _, config = source.partition(":")
    try:
        data = datasets.load_dataset(name, config or None, split=split)
    except Exception as error:  # network, unknown name, unknown split: all are for the user to mend
        raise InputError(f"{source}: no such file, and `datasets` cannot load it: {error}") from None
    if isinstance(data, dict):
        if len(data) != 1:
            raise InputError(f"{source}: say which split with --split: {', '.join(data)}")
        data = next(iter(data.values()))
    return ((f"{source}:{number}", row) for number, row in enumerate(data, 1))


def has_checkpoint(folder):
    """True where a whole checkpoint lies. Puts FOLDER.old back if `save` died between its two renames."""
    folder = Path(folder)
    old = folder.with_name(folder.name + ".old")
    if not folder.exists() and (old / "config.json").exists():
        os.rename(old, folder)
    return (folder / "config.json").exists()


def save(model, tokenizer, folder, extra=None):
    """Write a Hugging Face checkpoint folder; a kill leaves the old one or the new one, never a mixture.

    `extra` maps a file name to an object for torch.save, such as {"trainer.pt": {"optimizer": ...}}.
    """
    folder = Path(folder)
    new, old = (folder.with_name(folder.name + end) for end in (".new", ".old"))
    has_checkpoint(folder)
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir(parents=True)
    model.save_pretrained(new)
    tokenizer.save_pretrained(new)
    for name, value in (extra or {}).items():
        torch.save(value, new / name)
    for path in [*new.rglob("*"), new]:
        fsync(path)
    if folder.exists():
        os.rename(folder, old)
    os.rename(new, folder)
    fsync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def fsync(path):
    """Force a file's, or a folder's, content to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
