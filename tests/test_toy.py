"""The toy world: problems, checks, teacher, tokenizer, corpus, and the shipped base."""
import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import model
import toy
import verifier
from toy import Equation

sys.path.insert(0, str(Path(toy.__file__).parent / "toy_base"))
import train_base  # noqa: E402

SAMPLE = ("Solve 7(x+5)-13=596\n\\boxed{84}\n\nWait, let me recheck my solution.\n\nCheck: 84+5=89. 7*89=623. "
          "623-13=610. 610 vs 596. Therefore, the answer is incorrect.\n\nLet me try again.\n\n\\boxed{82}")


@pytest.fixture(scope="module")
def shipped():
    if not model.has_checkpoint(toy.SHIPPED):
        pytest.fail("toy_base/ is missing")
    net = AutoModelForCausalLM.from_pretrained(toy.SHIPPED)
    return net, AutoTokenizer.from_pretrained(toy.SHIPPED)


# ---------------------------------------------------------------- problems
def test_problems_are_right_levelled_and_disjoint():
    equations = {}
    for side in toy.SIDES:
        rows = toy.problems(500, 0, side)
        assert [r["level"] for r in rows[:6]] == [1, 2, 3, 4, 5, 1]
        assert len({r["id"] for r in rows}) == len({r["problem"] for r in rows}) == 500
        assert {r["subject"] for r in rows} == set(toy.FAMILIES)
        for r in rows:
            e, x = toy.parse_problem(r["problem"]), int(r["answer"])
            assert e.a * (x + e.p) + e.q == e.c and 0 < e.c <= toy.LARGEST and x > 0
            assert verifier.judge(r["solution"], r["answer"]) and r["problem"] == toy.statement(e, r["subject"])
        equations[side] = {toy.parse_problem(r["problem"]) for r in rows}
    assert not set.intersection(*equations.values())
    assert not equations["train"] & equations["test"] and not equations["train"] & equations["val"]


def test_the_sides_never_meet_whatever_the_seed():
    for seed in range(3):
        for side in toy.SIDES:
            assert all(toy.side_of(toy.parse_problem(r["problem"])) == side
                       for r in toy.problems(200, seed, side))
    assert toy.problems(50, 1, "test") == toy.problems(50, 1, "test") != toy.problems(50, 2, "test")


def test_a_level_that_runs_dry_is_an_error():
    with pytest.raises(model.InputError, match="level 1"):
        toy.problems(30_000, 0, "test")


@pytest.mark.parametrize("text", ["What is 2+2?", "Solve x+3=5", "Solve 7x+133=693 now", "Which number is 3?"])
def test_other_problems_are_refused(text):
    with pytest.raises(model.InputError, match="not a problem of the toy world"):
        toy.parse_problem(text)


# ---------------------------------------------------------------- checks
def equations(n):
    rng = random.Random(0)
    return [toy.draw_equation(rng, cell) for cell in toy.LEVELS.values() for _ in range(n)]


def test_full_checks_are_never_wrong():
    for e in equations(100):
        for answer in {e.answer + d for d in (-10, -2, -1, 0, 1, 2, 5, 10)}:
            truth = "correct" if answer == e.answer else "incorrect"
            assert verifier.parse_verdict(toy.confirmative_check(e, answer)) == truth
            assert verifier.parse_verdict(toy.problem_solving_check(e, answer)) == truth


@pytest.mark.parametrize("method, base", [("last digits", 10), ("parity", 2)])
def test_short_checks_say_what_they_compute(method, base):
    """They pass whatever agrees modulo 10, or 2: the right answer always, some wrong ones too."""
    passed = Counter()
    for e in equations(100):
        for answer in range(max(1, e.answer - 10), e.answer + 11):
            says = verifier.parse_verdict(toy.confirmative_check(e, answer, method))
            left = e.a * (answer + e.p) + e.q
            assert (says == "correct") == ((left - e.c) % base == 0)
            assert says == "correct" or answer != e.answer
            passed[says, answer == e.answer] += 1
    assert passed["correct", False] > 0 and passed["incorrect", False] > 0


@pytest.mark.parametrize("method", toy.METHODS)
def test_every_line_of_a_check_is_true(method):
    """Read the text alone, without the code that wrote it."""
    names = {"odd": "1", "even": "0"}
    for e in equations(40):
        text, _ = toy.METHODS[method](e, max(1, e.answer + 3))
        for line in text.partition(": ")[2].split(". "):
            left, sign, right = line.partition(" ends in " if method == "last digits" else "=")
            if sign:
                for word, digit in names.items():
                    left, right = left.replace(word, digit), right.replace(word, digit)
                value = eval(left)
                assert value % {"parity": 2, "last digits": 10}.get(method, 10**9) == int(right) % 10**9


def test_confirmative_checks_never_show_the_answer():
    """610 vs 596 is all that a refuted 84 learns."""
    e = Equation(7, 5, -13, 596)
    assert all("82" not in toy.confirmative_check(e, 84, method) for method in toy.METHODS)
    assert "82" in toy.problem_solving_check(e, 84)


# ---------------------------------------------------------------- teacher
def test_teacher_substitutes_in_equations_and_seldom_in_word_problems():
    """The method does not depend on whether the answer is right."""
    counts = Counter()
    for row in toy.problems(1000, 0, "train"):
        texts = [f"\\boxed{{{int(row['answer']) + d}}}" for d in range(3)]
        for check in toy.verifications([dict(row, responses=texts)], "confirmative"):
            counts[row["subject"], check["answer"] == row["answer"], check["method"]] += 1
            e = toy.parse_problem(row["problem"])
            assert check["verification"] == toy.confirmative_check(e, int(check["answer"]), check["method"])
    assert {method for family, _, method in counts if family == "equation"} == {"substitution"}
    for right in (False, True):
        total = sum(n for (family, r, _), n in counts.items() if (family, r) == ("words", right))
        for method, share in toy.SHARES.items():
            assert abs(counts["words", right, method] / total - share) < 0.06


# ---------------------------------------------------------------- tokenizer and corpus
def test_tokenizer_round_trip(tmp_path):
    """Saved beside a Llama config, AutoTokenizer gives the same ids and the same text."""
    made = train_base.build_tokenizer()
    model.save(train_base.build_model(made), made, tmp_path / "base")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "base")
    for text in (SAMPLE, train_base.corpus_sample(3), "any (printable) ASCII: ~ `x^2`", " two  spaces "):
        ids = made(text, add_special_tokens=False).input_ids
        assert loaded(text, add_special_tokens=False).input_ids == ids
        assert loaded.decode(ids) == made.decode(ids) == text
    tokens = loaded.convert_ids_to_tokens(loaded(SAMPLE, add_special_tokens=False).input_ids)
    assert tokens[:7] == ["Solve ", "7", "(", "x", "+", "5", ")"]
    assert {"Wait, let me recheck my solution.", "Let me try again.", "\\boxed{", "\n\n"} <= set(tokens)


def whole(document):
    return "".join(text for text, _ in document)


def test_graded_work_never_repeats_and_stops_when_a_check_passes():
    rng, lengths = random.Random(3), Counter()
    for _ in range(500):
        first, _, rest = whole(train_base.graded_document(rng)).partition("\n")
        e = toy.parse_problem(first.removeprefix(train_base.GRADED))
        answers = [verifier.extract_boxed(p) for p in rest.split("\n\n") if "boxed" in p]
        assert len(set(answers)) == len(answers) <= 6
        assert all(int(answer) != e.answer for answer in answers[:-1])
        assert rest.count("is correct.") + rest.count("yes") <= 1
        lengths[len(answers)] += 1
    assert set(lengths) == set(range(1, 7))


def test_graded_work_learns_no_wrong_answer():
    rng = random.Random(4)
    for _ in range(200):
        document = train_base.graded_document(rng)
        e = toy.parse_problem(document[0][0].removeprefix(train_base.GRADED))
        boxes = [(int(verifier.extract_boxed(text)), learn) for text, learn in document if "boxed" in text]
        assert all(learn == (answer == e.answer) for answer, learn in boxes)
        assert not document[0][1] and all(learn for text, learn in document[1:] if "boxed" not in text)


def test_near_misses_are_wrong_and_positive():
    rng = random.Random(0)
    for x in (2, 9, 10, 99, 100, 120):
        assert all(m > 0 and m != x for m in (train_base.near_miss(rng, x) for _ in range(300)))


def test_packing_learns_only_what_follows_the_prompt():
    tokenizer = train_base.build_tokenizer()
    ids, learn = train_base.pack(random.Random(0), tokenizer, *train_base.SHORT)
    assert ids.shape == learn.shape == train_base.SHORT[:2]
    text = tokenizer.decode(ids[0][learn[0]])
    assert "Solve" not in text and text.count(train_base.END) == (ids[0] == tokenizer.eos_token_id).sum() > 1
    assert not learn[ids == tokenizer.pad_token_id].any()


# ---------------------------------------------------------------- the shipped base
def test_prompt_and_stop(shipped):
    net, tokenizer = shipped
    ids = model.prompt_ids(tokenizer, "Solve 7x+133=693")
    assert tokenizer.decode(ids) == "<|problem|>Solve 7x+133=693\n"
    assert model.stop_ids(net, tokenizer)[0] == tokenizer.convert_tokens_to_ids(train_base.END)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_shipped_base_is_what_this_code_makes(shipped):
    """Config, vocabulary and corpus sample; a change of the world must come with a new base."""
    net, tokenizer = shipped
    made = train_base.build_tokenizer()
    assert tokenizer.get_vocab() == made.get_vocab() and tokenizer.chat_template == made.chat_template
    fresh = train_base.build_model(made)
    assert {k: v.shape for k, v in net.state_dict().items()} == {k: v.shape for k, v in fresh.state_dict().items()}
    for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "rope_parameters"):
        assert getattr(net.config, key) == getattr(fresh.config, key)
    assert (toy.SHIPPED / "corpus_sample.txt").read_text() == train_base.corpus_sample()
    assert net.num_parameters() <= 1_000_000
    assert (toy.SHIPPED / "model.safetensors").stat().st_size <= 2_000_000


def test_shipped_base_checks_well_and_solves_worse_as_levels_rise(shipped):
    """The measured shape of the world: checks exact six attempts deep, solving falls from level to level."""
    report = train_base.probe(*shipped, n=100)
    exact = [report[name] for name in ("check1", "check3", "check6", "last digits", "parity")]
    assert min(exact) >= 0.95, report
    assert report["level1"] >= 0.9 and report["level5"] <= 0.4
    assert report["level1"] > report["level3"] > report["level5"]


def test_shipped_base_does_not_check_unasked(shipped):
    net, tokenizer = shipped
    ids = torch.tensor([model.prompt_ids(tokenizer, "Solve 3x+4=25")])
    out = net.generate(ids, max_new_tokens=30, do_sample=False)[0, ids.shape[1]:]
    assert tokenizer.decode(out) == "\\boxed{7}<|end|>"


# ---------------------------------------------------------------- command lines
def test_write_world_and_teacher(tmp_path, repo):
    run = lambda *argv: subprocess.run([sys.executable, str(repo / "toy.py"), *map(str, argv)],
                                       capture_output=True, text=True, cwd=tmp_path)
    done = run("--out", "w", "--train-problems", 20, "--val-problems", 5, "--test-problems", 10, "--seed", 3)
    assert done.returncode == 0, done.stderr
    sizes = {side: len((tmp_path / f"w/{side}.jsonl").read_text().splitlines()) for side in toy.SIDES}
    assert sizes == {"train": 20, "val": 5, "test": 10}
    assert model.has_checkpoint(tmp_path / "w/base") and not list((tmp_path / "w/base").glob("*.py"))
    row = json.loads((tmp_path / "w/train.jsonl").read_text().splitlines()[0])
    samples = [dict(row, responses=[row["solution"], "\\boxed{199}", "\\boxed{199}", "\\boxed{x}", "none"])]
    model.write_jsonl(tmp_path / "s.jsonl", samples)
    for kind in toy.KINDS:
        assert run("--verify", "s.jsonl", "--out", "v.jsonl", "--kind", kind).returncode == 0
        checks = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text().splitlines()]
        assert {c["answer"] for c in checks} == {row["answer"], "199"}
        assert all(c["kind"] == kind and c["id"] == row["id"] for c in checks)


@pytest.mark.parametrize("content, word", [
    ('{"problem": "What is 2+2?", "responses": ["4"]}\n', "not a problem of the toy world"),
    ('{"problem": "Solve 3x+4=25"}\n', "responses"),
    ("{\n", "not JSON"),
])
def test_bad_samples_are_one_line(tmp_path, repo, content, word):
    (tmp_path / "bad.jsonl").write_text(content)
    done = subprocess.run([sys.executable, str(repo / "toy.py"), "--verify", "bad.jsonl", "--out", "v.jsonl"],
                          capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert word in done.stderr and not (tmp_path / "v.jsonl").exists()


def test_training_runs_and_lowers_the_loss(tmp_path, repo):
    done = subprocess.run([sys.executable, str(repo / "toy_base/train_base.py"), "--out", "b", "--scale", "0.002",
                           "--probe-every", "10"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    log = [json.loads(line) for line in (tmp_path / "b/training.jsonl").read_text().splitlines()]
    assert {row["phase"] for row in log} == {1, 2} and log[-1]["loss"] < log[0]["loss"]
    torch.manual_seed(0)
    tokenizer = train_base.build_tokenizer()
    batch = [train_base.pack(random.Random(1), tokenizer, *train_base.SHORT)]
    fresh, trained = train_base.build_model(tokenizer), model.load(str(tmp_path / "b"), "cpu")[0]
    with torch.no_grad():
        assert train_base.corpus_loss(trained, batch) < train_base.corpus_loss(fresh, batch) - 0.03
