"""model.py: loading, pad and stop tokens, prompts, problem files, atomic checkpoints, user errors."""
import argparse
import json
from pathlib import Path

import datasets
import pytest
import torch

import model as M
from conftest import tiny_llama_tokenizer, tiny_qwen2_tokenizer


def write(path, *rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


# ---- loading

def test_load_gives_an_eval_model_on_the_cpu_in_fp32(tiny_qwen2):
    model, tokenizer = M.load(tiny_qwen2, device="cpu")
    assert not model.training and model.dtype == torch.float32 and model.device.type == "cpu"
    assert tokenizer.pad_token == "<|endoftext|>"
    assert M.stop_ids(model, tokenizer)[0] != tokenizer.pad_token_id
    assert M.load(tiny_qwen2, device="cpu", dtype="bf16")[0].dtype == torch.bfloat16


def test_saved_tokenizers_come_back_unchanged(tiny_qwen2, tiny_llama):
    text = "Wait, let me recheck my solution.\n\nLet me try again. \\boxed{80} é  二"
    for path, built in ((tiny_qwen2, tiny_qwen2_tokenizer()), (tiny_llama, tiny_llama_tokenizer())):
        loaded = M.load(path)[1]
        assert loaded(text).input_ids == built(text).input_ids
        assert loaded.decode(loaded(text, add_special_tokens=False).input_ids) == text


def test_dropout_is_off_in_every_family(tmp_path):
    """GPT-2 has dropout modules, Qwen-like models a rate that the attention function reads."""
    from transformers import GPT2Config, GPT2LMHeadModel, Qwen2Config, Qwen2ForCausalLM
    gpt = GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=16, n_layer=2, n_head=2, n_positions=64))
    qwen = Qwen2ForCausalLM(Qwen2Config(vocab_size=300, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                                        num_attention_heads=2, num_key_value_heads=2, attention_dropout=0.5))
    for i, net in enumerate((gpt, qwen)):
        net.save_pretrained(tmp_path / str(i))
        tiny_llama_tokenizer().save_pretrained(tmp_path / str(i))
        loaded = M.load(str(tmp_path / str(i)), "cpu")[0].train()
        ids, first = torch.arange(3, 20)[None], None
        for _ in range(3):
            logits = loaded(ids).logits
            assert first is None or torch.equal(first, logits)
            first = logits


def test_broken_checkpoints_are_one_line(tmp_path, tiny_qwen2):
    import shutil
    from safetensors.torch import load_file, save_file

    def changed(name, change):
        folder = tmp_path / name
        shutil.copytree(tiny_qwen2, folder)
        change(folder)
        with pytest.raises(M.InputError) as error:
            M.load(str(folder), "cpu")
        assert "\n" not in str(error.value) and name in str(error.value)
        return str(error.value)

    def without(folder, **new):
        tensors = load_file(folder / "model.safetensors")
        tensors.pop("model.layers.1.mlp.up_proj.weight")
        save_file({**tensors, **new}, folder / "model.safetensors", metadata={"format": "pt"})

    def with_nan(folder):
        tensors = load_file(folder / "model.safetensors")
        tensors["model.norm.weight"][0] = float("nan")
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    def deeper(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3, "layer_types": None}))

    def shallower(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1, "layer_types": None}))

    def wider(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 40}))

    assert "model.layers.1.mlp.up_proj.weight" in changed("lacking", without)
    assert "model.layers.2" in changed("deeper", deeper)
    assert "model.layers.1" in changed("shallower", shallower)
    assert "nan" in changed("nan", with_nan)
    changed("wider", wider)
    changed("truncated", lambda folder: (folder / "model.safetensors").write_bytes(b"\x10"))
    changed("config", lambda folder: (folder / "config.json").write_text("{"))
    changed("tokenizer", lambda folder: (folder / "tokenizer.json").write_text("{}"))


def test_stop_ids_start_with_the_templates_end_of_turn(tiny_qwen2, tiny_llama):
    model, tokenizer = M.load(tiny_qwen2)
    turn, text = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert M.stop_ids(model, tokenizer) == [turn, text]
    tokenizer.eos_token = "<|endoftext|>"                   # as in the Qwen2.5 base models
    model.generation_config.eos_token_id = [text, 7]
    assert M.stop_ids(model, tokenizer) == [turn, text, 7]
    assert M.stop_ids(*M.load(tiny_llama)) == [2]


def test_plain_text_behind_the_answer_ends_no_response(tiny_qwen2):
    """A word that the template writes there is in every text; of two markers the first is `<end>`."""
    model, tokenizer = M.load(tiny_qwen2)
    turn, text = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} Next{% endfor %}"
    assert M.stop_ids(model, tokenizer) == [turn, text]
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}<|endoftext|><|im_end|>{% endfor %}"
    assert M.stop_ids(model, tokenizer) == [text, turn]


def test_prompts_render_the_template_or_plain_text(tiny_qwen2, tiny_llama):
    tokenizer = M.load(tiny_qwen2)[1]
    assert tokenizer.decode(M.prompt_ids(tokenizer, "1+1?")) == (
        f"<|im_start|>system\n{M.SYSTEM_PROMPT}<|im_end|>\n<|im_start|>user\n1+1?<|im_end|>\n"
        "<|im_start|>assistant\n")
    tokenizer = M.load(tiny_llama)[1]
    ids = M.prompt_ids(tokenizer, "1+1?")
    assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.bos_token_id) == 1
    assert tokenizer.decode(ids[1:]) == f"{M.SYSTEM_PROMPT}\n\n1+1?\n\n"


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "no-such/model-name"])
def test_a_name_that_leads_nowhere_is_one_line(name):
    with pytest.raises(M.InputError) as error:
        M.load(name)
    assert name in str(error.value) and "\n" not in str(error.value)


def test_device_and_dtype(tiny_llama):
    assert M.load(tiny_llama, "cpu", "bf16")[0].dtype == torch.bfloat16
    for device in ("gpu7", "cuda:9", "nonsense"):
        with pytest.raises(M.InputError, match=f"--device {device}"):
            M.load(tiny_llama, device)


def test_a_template_that_refuses_a_system_turn_gets_it_in_the_user_turn(tiny_qwen2):
    tokenizer = M.load_tokenizer(tiny_qwen2)
    tokenizer.chat_template = ("{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
                               "{% for m in messages %}[{{ m['content'] }}]{% endfor %}")
    assert M.prompt_text(tokenizer, "1+1?") == f"[{M.SYSTEM_PROMPT}\n\n1+1?]"
    tokenizer.chat_template = "{{ raise_exception('never\never') }}"
    with pytest.raises(M.InputError, match="chat template fails"):
        M.prompt_text(tokenizer, "1+1?")


def test_flags_are_numbers_in_a_range():
    parser = M.Parser("words")
    parser.add_argument("--n", type=M.number(int, 1))
    parser.add_argument("--x", type=M.number(float, 0, 1))
    assert parser.parse_args(["--n", "3", "--x", "0.5"]) == parser.parse_args(["--n=3", "--x=0.50"])
    for flags in (["--n", "0"], ["--n", "1.5"], ["--n", "-1"], ["--x", "nan"], ["--x", "inf"], ["--x", "1.01"],
                  ["--x", "a"], ["--n", "9" * 5000], ["--m", "1"], ["--n"]):
        with pytest.raises(M.InputError) as error:
            parser.parse_args(flags)
        assert "--" in str(error.value) and "\n" not in str(error.value)


# ---- problem files

@pytest.mark.parametrize("row, problem, answer, level", [
    ({"problem": "p", "answer": "5", "level": 3}, "p", "5", 3),
    ({"question": "q", "answer": "2+3=5\n#### 5"}, "q", "5", None),                         # GSM8K
    ({"problem": "p", "solution": "so \\boxed{1}, no: \\boxed{\\frac{1}{2}}.", "level": "Level 4"},
     "p", "\\frac{1}{2}", 4),                                                               # MATH
    ({"problem": "p", "answer": "7", "solution": "\\boxed{8}", "level": "Level ?"}, "p", "7", None),
    ({"question": "q", "final_answer": ["2", "3"]}, "q", "2, 3", None),                     # OlympiadBench
    ({"problem": "p", "answer": 27.0}, "p", "27", None),                                    # AMC23
    ({"problem": "p", "answer": 0.5}, "p", "0.5", None),
    ({"problem": "p", "answer": 0}, "p", "0", None),
])
def test_field_aliases(tmp_path, row, problem, answer, level):
    got, = M.read_problems(write(tmp_path / "a.jsonl", row))
    assert (got["problem"], got["answer"], got["level"], got["id"]) == (problem, answer, level, "0")


def test_other_fields_stay_and_ids_are_strings(tmp_path):
    rows = M.read_problems(write(
        tmp_path / "a.jsonl", {"problem": "p", "answer": "1", "subject": "Algebra", "id": 7}, "",
        {"question": "q", "answer": "w #### 2", "unique_id": "x/1"}))
    assert rows[0]["subject"] == "Algebra" and rows[0]["id"] == "7"
    assert rows[1]["id"] == "x/1" and rows[1]["solution"] == "w #### 2"


def test_every_name_of_an_id_is_taken_and_0_is_one(tmp_path):
    rows = [{**GOOD, "id": 9}, {**GOOD, "idx": 0}, {**GOOD, "index": 8}, {**GOOD, "id": None}]
    assert [r["id"] for r in M.read_problems(write(tmp_path / "a.jsonl", *rows))] == ["9", "0", "8", "3"]


def test_json_list_folder_split_and_limit(tmp_path):
    rows = [{"problem": f"p{i}", "answer": str(i)} for i in range(3)]
    (tmp_path / "test.json").write_text(json.dumps(rows))
    assert [r["answer"] for r in M.read_problems(tmp_path / "test.json")] == ["0", "1", "2"]
    write(tmp_path / "train.jsonl", rows[0])
    assert len(M.read_problems(tmp_path / "test.json", limit=2)) == 2
    (tmp_path / "bad.json").write_text('[{"problem": "p", "answer": "1"},\n 3]')
    with pytest.raises(M.InputError, match="bad.json:2: not a JSON object"):
        M.read_problems(tmp_path / "bad.json")
    (tmp_path / "bad.json").write_text('[{"problem": "p",\n "answer": "1"},\n oops]')
    with pytest.raises(M.InputError, match="bad.json:3: not JSON"):
        M.read_problems(tmp_path / "bad.json")


def test_a_folder_of_data_files_is_a_data_set(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write(tmp_path / "data" / "train.jsonl", {"problem": "p", "answer": "1"})
    write(tmp_path / "data" / "test.jsonl", {"problem": "q", "answer": "2"}, {"problem": "r", "answer": "3"})
    assert [r["problem"] for r in M.read_problems(tmp_path / "data", split="test")] == ["q", "r"]
    with pytest.raises(M.InputError, match="--split: train, test"):
        M.read_problems(tmp_path / "data")


GOOD = {"problem": "p", "answer": "1"}


@pytest.mark.parametrize("rows, said", [
    ([GOOD, "{oops"], "a.jsonl:2: not JSON"),
    ([GOOD, "", "[1]"], "a.jsonl:3: not a JSON object"),
    ([GOOD, "[" * 100000], "a.jsonl:2: not JSON"),
    ([{"answer": "1"}], "a.jsonl:1: field 'problem' is missing"),
    ([{"problem": 3, "answer": "1"}], "a.jsonl:1: field 'problem' is not a text"),
    ([{"problem": "p"}], "a.jsonl:1: field 'answer' is missing"),
    ([{"problem": "p", "solution": "no box"}], "a.jsonl:1: field 'answer' is missing"),
    ([{"problem": "p", "answer": ""}], "a.jsonl:1: field 'answer'"),
    ([{"problem": "p", "answer": True}], "a.jsonl:1: field 'answer' is not a text or a number"),
    ([{"problem": "p", "answer": float("inf")}], "a.jsonl:1: field 'answer' is not a text or a number"),
    ([{**GOOD, "id": "a"}, {**GOOD, "id": "a"}], "a.jsonl:2: field 'id' repeats 'a'"),
    ([], "no rows"),
    (['{"problem": "half \\ud83d", "answer": "1"}'], "a.jsonl:1: not JSON"),
    (['{"problem": ' + "9" * 5000 + "}"], "a.jsonl:1: not JSON"),
    ([GOOD, {**GOOD, "id": "b", "answer": ["1", 2]}], "a.jsonl:2: field 'answer' is not a text or a number"),
])
def test_bad_rows_name_file_line_and_field(tmp_path, rows, said):
    with pytest.raises(M.InputError) as error:
        M.read_problems(write(tmp_path / "a.jsonl", *rows))
    assert said in str(error.value)


def test_gold_is_optional_on_request_but_always_checked(tmp_path, capsys):
    path = write(tmp_path / "a.jsonl", {"problem": "p"}, {"problem": "p", "answer": "$ $", "id": "b"}, {**GOOD, "id": "c"})
    with pytest.raises(M.InputError, match=r"a.jsonl:2: field 'answer'"):
        M.read_problems(path, gold=False)
    assert [r["answer"] for r in M.read_problems(path, gold=False, skip=True)] == [None, "1"]
    assert "1 problems skipped" in capsys.readouterr().out
    assert [r["id"] for r in M.read_problems(path, skip=True)] == ["c"]
    with pytest.raises(M.InputError, match="no problems"):
        M.read_problems(write(tmp_path / "b.jsonl", {"problem": "p"}), skip=True)


@pytest.mark.parametrize("change, field", [
    ({"responses": "5"}, "responses"), ({"responses": []}, "responses"), ({"responses": [1]}, "responses"),
    ({"responses": [None]}, "responses"), ({}, "responses"), ({"finished": ["no"]}, "finished"),
    ({"finished": [True, True]}, "finished"), ({"tokens": [1.5]}, "tokens"), ({"tokens": 3}, "tokens"),
])
def test_samples_files_are_checked_field_by_field(tmp_path, change, field):
    row = {**GOOD, **({"responses": ["a"]} if change else {}), **change}
    with pytest.raises(M.InputError, match=f"a.jsonl:3: field '{field}'"):
        M.read_problems(write(tmp_path / "a.jsonl", {**GOOD, "responses": ["a"], "id": "x"}, "", row), samples=True)


def test_samples_of_another_engine_may_lack_finished_and_tokens(tmp_path):
    row, = M.read_problems(write(tmp_path / "a.jsonl", {**GOOD, "responses": ["a", "b"]}), samples=True)
    assert row["finished"] == row["tokens"] == [None, None]


def test_read_jsonl_requires_fields_and_round_trips(tmp_path):
    rows = [{"a": 1, "b": "é"}, {"a": 0, "b": "line\nend"}]
    M.write_jsonl(tmp_path / "new" / "x.jsonl", rows[:1])
    M.write_jsonl(tmp_path / "new" / "x.jsonl", rows[1:], append=True)
    assert [row for _, row in M.read_jsonl(tmp_path / "new" / "x.jsonl", ("a", "b"))] == rows
    with pytest.raises(M.InputError, match=r"x.jsonl:1: field 'c' is missing"):
        M.read_jsonl(tmp_path / "new" / "x.jsonl", ("c",))
    with pytest.raises(M.InputError, match="No such file"):
        M.read_jsonl(tmp_path / "nowhere.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b'{"a": "\xe9"}\n')
    with pytest.raises(M.InputError, match="utf-8"):
        M.read_jsonl(tmp_path / "latin.jsonl")


def test_only_a_line_feed_ends_a_line(tmp_path):
    """JSON may hold U+2028 and U+0085 as they are; str.splitlines would cut there."""
    rows = [{"problem": "a\u2028b\x85c", "answer": "1"}, {"problem": "d", "answer": "2"}]
    M.write_jsonl(tmp_path / "a.jsonl", rows)
    found = M.read_jsonl(tmp_path / "a.jsonl")
    assert found == [(f"{tmp_path}/a.jsonl:{i}", row) for i, row in enumerate(rows, 1)]


def test_datasets_names(monkeypatch):
    table = datasets.Dataset.from_list([{"question": "q", "answer": "#### 4"},
                                        {"question": "r", "answer": "no"}])
    asked = []

    def load_dataset(name, config, split=None):
        asked.append((name, config, split))
        return table if split else datasets.DatasetDict({"train": table, "test": table})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert [r["answer"] for r in M.read_problems("openai/gsm8k:main", "test")] == ["4", "no"]
    assert asked == [("openai/gsm8k", "main", "test")]
    with pytest.raises(M.InputError, match="say which split with --split: train, test"):
        M.read_problems("openai/gsm8k:main")


def test_unknown_source_is_one_line():
    with pytest.raises(M.InputError, match="no such file, and `datasets` cannot load it"):
        M.read_problems("no-such-data-set")


def test_public_data_sets(shared):
    sizes = {"math500": 500, "gsm8k_test": 1319, "aime24": 30, "amc23": 40, "olympiadbench": 675,
             "minerva_math": 272}
    for name, size in sizes.items():
        rows = M.read_problems(shared / "data" / f"{name}.jsonl")
        assert len(rows) == size and all(r["answer"].strip() and "####" not in r["answer"] for r in rows)
    assert sorted({r["level"] for r in M.read_problems(shared / "data" / "math500.jsonl")}) == [1, 2, 3, 4, 5]


# ---- checkpoints

def test_save_and_load_round_trip(tmp_path, tiny_qwen2):
    model, tokenizer = M.load(tiny_qwen2)
    for step in (1, 2):                                     # the second save replaces the first
        M.save(model, tokenizer, tmp_path / "last", {"step": step})
    again, tokens = M.load(tmp_path / "last")
    assert torch.load(tmp_path / "last" / "trainer.pt") == {"step": 2}
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert M.prompt_ids(tokens, "1+1?") == M.prompt_ids(tokenizer, "1+1?")
    assert [p.name for p in tmp_path.iterdir()] == ["last"]


def test_a_save_that_dies_leaves_the_old_checkpoint(tmp_path, tiny_qwen2, monkeypatch):
    model, tokenizer = M.load(tiny_qwen2)
    M.save(model, tokenizer, tmp_path / "last", 1)

    real = M.os.rename
    for deadly in ("write", "first rename", "second rename"):
        calls = []

        def rename(source, target):
            calls.append(source)
            if deadly == ("first rename", "second rename")[len(calls) - 1]:
                raise KeyboardInterrupt
            real(source, target)

        def save(value, path):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(M.os, "rename", rename)
            if deadly == "write":
                patch.setattr(torch, "save", save)
            M.save(model, tokenizer, tmp_path / "last", 2)
        assert (tmp_path / "last").exists() == (deadly != "second rename")
        assert M.has_checkpoint(tmp_path / "last") and torch.load(tmp_path / "last" / "trainer.pt") == 1
    M.save(model, tokenizer, tmp_path / "last", 3)
    assert torch.load(tmp_path / "last" / "trainer.pt") == 3
    assert [p.name for p in tmp_path.iterdir()] == ["last"]


def test_has_checkpoint_is_false_for_nothing_and_for_other_folders(tmp_path):
    (tmp_path / "data").mkdir()
    assert not M.has_checkpoint(tmp_path / "data") and not M.has_checkpoint(tmp_path / "nowhere")


# ---- user errors

@pytest.mark.parametrize("raised, status, said", [
    (M.InputError("a.jsonl:3: field\n x"), 2, "error: a.jsonl:3: field x\n"),
    (PermissionError(13, "Permission denied", "/out"), 2, "error: [Errno 13] Permission denied: '/out'\n"),
    (KeyboardInterrupt(), 130, ""),
])
def test_run_main_turns_user_errors_into_a_line_and_a_status(raised, status, said, capsys):
    def main():
        raise raised

    with pytest.raises(SystemExit) as exit_:
        M.run_main(main)
    assert (exit_.value.code, capsys.readouterr().err) == (status, said)


@pytest.mark.skipif(M.torch.cuda.is_available(), reason="auto means the CUDA GPU here")
def test_auto_means_cuda_where_there_is_one_and_else_the_cpu(tiny_llama, monkeypatch):
    """Apple's mps only where it is asked for: nothing here was ever run on it."""
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    assert M.load(tiny_llama)[0].device.type == "cpu"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    with pytest.raises(M.InputError, match="--device cuda"):        # picked, and not there
        M.load(tiny_llama)


@pytest.mark.parametrize("argument", ["", "bytes\udcff", "two\nlines"])
def test_an_argument_that_can_be_no_good_name_is_refused_before_anything_runs(argument, monkeypatch, capsys):
    """An empty one (of an unset variable: evaluate.py would write to the current folder), or no UTF-8."""
    monkeypatch.setattr("sys.argv", ["evaluate.py", "--out", argument])
    with pytest.raises(SystemExit):
        M.run_main(lambda: pytest.fail("main ran"))
    assert capsys.readouterr().err == "error: an argument is empty, or no printable text\n"


def test_run_main_lets_faults_of_the_program_through():
    with pytest.raises(ZeroDivisionError):
        M.run_main(lambda: 1 / 0)


@pytest.mark.parametrize("change", [{"final_logit_softcapping": 30.0}, {"logit_scale": 0.06}])
def test_check_model_refuses_logits_that_our_losses_do_not_compute(change):
    from transformers import CohereConfig, CohereForCausalLM, Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "head_dim": 8,
             "num_key_value_heads": 1, "vocab_size": 29}
    M.check_model(LlamaForCausalLM(LlamaConfig(**sizes)).eval())
    odd = Gemma2ForCausalLM(Gemma2Config(**sizes, **change)) if "final" in str(change) else CohereForCausalLM(
        CohereConfig(**sizes, **change))
    with pytest.raises(M.InputError, match="hidden @ head.T"):
        M.check_model(odd.eval())


# ---- run folders

def run_args(out, model="/nowhere/model", **more):
    return argparse.Namespace(**{"out": str(out), "model": model, "resume": False, "force": False, "save_every": 2,
                                 "beta": 0.1, "device": "cpu", **more})


def small(tiny):
    model, tokenizer = M.load(tiny, "cpu")
    return model, tokenizer, M.make_optimizer(model, 1e-3)


def go(args, tiny, total=3, stop_at=None):
    """A run that logs its steps -> the Run"""
    run = M.Run(args)
    model, tokenizer, optimizer = small(tiny)
    run.begin()
    for step in run.steps(total):
        run.log({"step": step})
        run.stopped = step == stop_at
        run.save(step, model, tokenizer, optimizer)
    return run


def logged(out):
    return [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_run_saves_where_it_is_due_and_goes_on_from_there(tmp_path, tiny_llama):
    out = tmp_path / "run"
    go(run_args(out), tiny_llama)
    assert logged(out) == [1, 2, 3] and torch.load(out / "last" / "trainer.pt")["step"] == 3
    with pytest.raises(M.InputError, match="holds a run already"):
        go(run_args(out), tiny_llama)
    with pytest.raises(KeyboardInterrupt):
        go(run_args(out, force=True, save_every=10), tiny_llama, 5, stop_at=2)
    assert logged(out) == [1, 2] and torch.load(out / "last" / "trainer.pt")["step"] == 2
    M.write_text(out / "metrics.jsonl", '{"step": 3}\n{"st', append=True)       # what a kill leaves behind
    go(run_args(out, resume=True, save_every=10), tiny_llama, 5)
    assert logged(out) == [1, 2, 3, 4, 5]
    with pytest.raises(M.InputError, match="another --beta"):
        go(run_args(out, resume=True, beta=0.2), tiny_llama)


def test_a_run_takes_no_folder_that_is_not_its_own(tmp_path, tiny_llama):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("x")
    for force in (False, True):
        with pytest.raises(M.InputError, match="not empty"):
            M.Run(run_args(tmp_path / "mine", force=force))
        for model in (tmp_path / "out" / "last", tmp_path / "out"):
            for name in ("model", "data", "offline", "samples", "eval_data"):
                with pytest.raises(M.InputError, match="lies in --out"):
                    M.Run(run_args(tmp_path / "out", **{name: str(model)}, force=force))
        for out in (tmp_path / "file", tmp_path / "file" / "below"):
            with pytest.raises((M.InputError, OSError)):
                M.Run(run_args(out, force=force)).begin()
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work" and (tmp_path / "file").read_text() == "x"


def test_a_broken_run_is_one_line_and_stays_as_it_is(tmp_path, tiny_llama):
    out = tmp_path / "run"
    go(run_args(out), tiny_llama)
    good = {name: (out / name).read_bytes() for name in ("args.json", "last/trainer.pt", "metrics.jsonl")}
    broken = torch.load(out / "last/trainer.pt", weights_only=True)
    for change in ({"weights": []}, {"optimizer": {}}, {"weights": [torch.zeros(3)] * len(broken["weights"])}):
        with pytest.raises(M.InputError, match="trainer.pt is not of this model"):
            M.make_optimizer(small(tiny_llama)[0], 1e-3, state={**broken, **change})
    (out / "last/config.json").rename(tmp_path / "config.json")         # half a checkpoint is no new run
    assert M.Run(run_args(out, resume=True)).state
    (tmp_path / "config.json").rename(out / "last/config.json")
    for name, bad in (("args.json", b""), ("args.json", b"[1]"), ("args.json", b"{"), ("last/trainer.pt", b""),
                      ("last/trainer.pt", good["last/trainer.pt"][:500]), ("last/trainer.pt", b"not a pickle"),
                      ("metrics.jsonl", b""), ("metrics.jsonl", None)):
        (out / name).write_bytes(bad) if bad is not None else (out / name).unlink()
        with pytest.raises(M.InputError) as error:
            M.Run(run_args(out, resume=True))
        assert "--force" in str(error.value) and "\n" not in str(error.value)
        assert bad is None or (out / name).read_bytes() == bad
        (out / name).write_bytes(good[name])
    go(run_args(out, resume=True), tiny_llama, 4)
    assert logged(out) == [1, 2, 3, 4]


def test_two_processes_do_not_share_a_folder(tmp_path, tiny_llama, run_script):
    import subprocess
    import sys
    out = tmp_path / "run"
    go(run_args(out), tiny_llama)
    code = ("import argparse, json, sys; sys.path.insert(0, sys.argv[1]); import model as M\n"
            "M.run_main(lambda: M.Run(argparse.Namespace(**json.loads(sys.argv[2]))).begin())")
    done = subprocess.run([sys.executable, "-c", code, str(Path(M.__file__).parent),
                           json.dumps(vars(run_args(out, resume=True)))], capture_output=True, text=True)
    assert done.returncode == 2 and "another process is writing there" in done.stderr
    M.Run.lock.close()


def test_outputs_never_replace_inputs(tmp_path):
    path = write(tmp_path / "a.jsonl", GOOD)
    for force in (False, True):
        with pytest.raises(M.InputError, match="is the input"):
            M.check_output(str(tmp_path / "x" / ".." / "a.jsonl") if (tmp_path / "x").exists() else path, force, path)
    M.check_output(tmp_path / "new.jsonl", False, path, None)
    M.check_output(write(tmp_path / "b.jsonl", GOOD), True, path)
    with pytest.raises(M.InputError, match="--force"):
        M.check_output(tmp_path / "b.jsonl", False, path)


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    M.write_text(tmp_path / "a.txt", "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(M.os, "replace", full)
        M.write_text(tmp_path / "a.txt", "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.txt", "old")]


def test_a_full_disk_while_saving_is_one_line(tmp_path, tiny_llama, monkeypatch):
    model, tokenizer = M.load(tiny_llama)

    def full(*_):
        raise RuntimeError("PytorchStreamWriter failed writing file: No space left on device")

    M.save(model, tokenizer, tmp_path / "last")
    monkeypatch.setattr(M.torch, "save", full)
    with pytest.raises(M.InputError, match="last: cannot be saved: .*No space left"):
        M.save(model, tokenizer, tmp_path / "last", {"step": 1})
    assert M.has_checkpoint(tmp_path / "last")


def test_a_pipe_that_closes_is_no_error(run_script, tmp_path):
    import subprocess
    import sys
    code = ("import sys; sys.path.insert(0, sys.argv[1]); import model as M\n"
            "M.run_main(lambda: [print('x' * 100) for _ in range(20000)])")
    process = subprocess.Popen([sys.executable, "-c", code, str(Path(M.__file__).parent)], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait() == 0


def test_the_answer_behind_the_last_mark_counts(tmp_path):
    row, = M.read_problems(write(tmp_path / "a.jsonl", {"question": "q", "answer": "2 #### 3\nno: #### 5"}))
    assert row["answer"] == "5"


def test_best_is_written_for_a_better_score_only(tmp_path, tiny_llama, monkeypatch):
    run = M.Run(run_args(tmp_path / "run"))
    run.begin()
    written = []
    monkeypatch.setattr(M, "save", lambda model, tokenizer, folder: written.append(folder.name))
    for score in (None, 0.5, 0.5, 0.4, None, 0.6):
        run.save_best(score, None, None)
    assert written == ["best", "best"] and run.best == 0.6


def test_force_throws_the_best_of_the_old_run_away_and_resume_keeps_it(tmp_path, tiny_llama):
    out = tmp_path / "run"
    go(run_args(out), tiny_llama)
    write(out / "best" / "config.json", {})
    M.Run(run_args(out, resume=True)).begin()
    assert (out / "best" / "config.json").exists()
    M.Run(run_args(out, force=True)).begin()
    assert not (out / "best").exists() and not (out / "last").exists()


def test_a_second_ctrl_c_does_not_wait_for_the_step(tmp_path):
    import signal
    handler = signal.getsignal(signal.SIGINT)
    try:
        run = M.Run(run_args(tmp_path / "run"))
        run.begin()
        signal.raise_signal(signal.SIGINT)
        assert run.stopped
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, handler)


def test_a_step_by_hand():
    """Gradient (3, 4) of norm 5 is clipped to 1; the learning rate is the step's: 0.5 (0.6, 0.8) off."""
    model = torch.nn.Linear(2, 1, bias=False)
    model.weight.data = torch.tensor([[1.0, 2.0]])
    model.weight.grad = torch.tensor([[3.0, 4.0]])
    assert M.optimizer_step(model, torch.optim.SGD(model.parameters(), lr=9.0), 0.5, 1.0) == 5
    assert torch.allclose(model.weight, torch.tensor([[0.7, 1.6]])) and model.weight.grad is None
    model.weight.grad = torch.tensor([[0.3, 0.4]])              # of norm 1/2: not touched
    M.optimizer_step(model, torch.optim.SGD(model.parameters(), lr=9.0), 1.0, 1.0)
    assert torch.allclose(model.weight, torch.tensor([[0.4, 1.2]]))


def test_weights_do_not_decay(tiny_llama):
    model, _, optimizer = small(tiny_llama)
    before = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    M.optimizer_step(model, optimizer, 1.0, 1.0)
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("dtype, on_host", [("fp32", True), ("bf16", False)])
def test_gradients_of_several_backward_passes_add_up_on_the_copies(tiny_llama, dtype, on_host):
    model, _ = M.load(tiny_llama, "cpu", dtype)
    copies = M.make_optimizer(model, 1e-3, on_host).param_groups[0]["params"]
    for factor in (1, 2):
        (factor * model.lm_head.weight.sum()).backward()
    found = [w.grad for w in copies if w.grad is not None]
    assert len(found) == 1 and bool((found[0] == 3).all()) and model.lm_head.weight.grad is None
