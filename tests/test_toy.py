"""The toy world: problems, teacher, tokenizer, corpus, and the shipped base."""
import json
import random
import re
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import model
import toy
import verifier

sys.path.insert(0, str(toy.SHIPPED))
import train_base  # noqa: E402

SAMPLE = ("Solve 7x+133=693\n\\boxed{82}\n\nWait, let me recheck my solution.\n\nCheck: 7*82=574. 574+133=707. "
          "707 vs 693. Therefore, the answer is incorrect.\n\nLet me try again.\n\n\\boxed{80}")


@pytest.fixture(scope="module")
def shipped():
    if not model.has_checkpoint(toy.SHIPPED):
        pytest.fail("toy_base/ is missing")
    net = AutoModelForCausalLM.from_pretrained(toy.SHIPPED)
    return net, AutoTokenizer.from_pretrained(toy.SHIPPED)


def test_problems_are_right_levelled_and_disjoint():
    triples = []
    for side in toy.SIDES:
        rows = toy.problems(500, 0, side)
        assert [r["level"] for r in rows[:6]] == [1, 2, 3, 4, 5, 1]
        assert len({r["id"] for r in rows}) == len({r["problem"] for r in rows}) == 500
        assert {r["subject"] for r in rows} == set(toy.FAMILIES)
        triples.append(set())
        for r in rows:
            a, b, c = toy.parse_problem(r["problem"])
            assert a * int(r["answer"]) + b == c
            assert verifier.judge(r["solution"], r["answer"])
            triples[-1].add((a, b, c))
    assert not triples[0] & triples[1] and not triples[0] & triples[2] and not triples[1] & triples[2]


def test_the_sides_never_meet_whatever_the_seed():
    for seed in range(3):
        for side in toy.SIDES:
            assert all(toy.side_of(a, (c - b) // a, b) == side for a, b, c in
                       (toy.parse_problem(r["problem"]) for r in toy.problems(100, seed, side)))
    assert toy.problems(50, 1, "test") == toy.problems(50, 1, "test") != toy.problems(50, 2, "test")
    counts = [sum(toy.side_of(a, x, b) == side for a in range(2, 10) for x in range(99) for b in range(99))
              for side in toy.SIDES]
    assert [round(100 * n / sum(counts)) for n in counts] == [6, 6, 88]


def test_the_base_was_trained_on_none_of_the_test_problems():
    rng = random.Random(0)
    for _ in range(300):
        a, b, c = toy.parse_problem(train_base.bare_document(rng)[0][0].removeprefix(train_base.PROBLEM).strip())
        assert toy.side_of(a, (c - b) // a, b) == "train"


def test_a_level_that_runs_dry_is_an_error():
    assert len(toy.problems(1000, 0, "test")) == 1000
    with pytest.raises(model.InputError, match="level 1"):
        toy.problems(20_000, 0, "test")


@pytest.mark.parametrize("kind", toy.CHECKS)
def test_the_teacher_is_never_wrong(kind):
    rng = random.Random(0)
    for level in toy.LEVELS:
        for _ in range(50):
            a, x, b = toy.draw_triple(rng, toy.LEVELS[level], "train")
            for answer in (x, train_base.near_miss(rng, x)):
                text = toy.CHECKS[kind](a, b, a * x + b, answer)
                assert verifier.parse_verdict(text) == ("correct" if answer == x else "incorrect")


def test_confirmative_checks_substitute_and_never_show_the_answer():
    """707 vs 693 is all that a refuted 82 learns; 80 appears in no check of 82."""
    text = toy.confirmative_check(7, 133, 693, 82)
    assert text == "Check: 7*82=574. 574+133=707. 707 vs 693. Therefore, the answer is incorrect."
    assert "80" in toy.problem_solving_check(7, 133, 693, 82)


@pytest.mark.parametrize("answer, verdict", [
    (80, "correct"), (75, "correct"), (85, "correct"), (82, "incorrect"), (79, "incorrect"), (180, "correct")])
def test_the_short_check_sees_last_digits_only(answer, verdict):
    """4 x + 133 = 453: whatever differs from 80 by a multiple of 5 passes."""
    assert toy.last_digit_check(7, 138, 691, 79).endswith(" 3+8=11. 1 vs 1. Therefore, the answer is correct.")
    text = toy.last_digit_check(4, 133, 453, answer)
    assert verifier.parse_verdict(text) == verdict
    for left, right in re.findall(r"(\d+[*+]\d+)=(\d+)", text):               # every sum is right
        a, sign, b = re.fullmatch(r"(\d+)([*+])(\d+)", left).groups()
        assert int(right) == (int(a) * int(b) if sign == "*" else int(a) + int(b))


@pytest.mark.parametrize("kind", toy.CHECKS)
def test_short_checks_are_for_word_problems_only(kind):
    """Seven answers in ten; equations always get the check that was asked for."""
    short, words = 0, 0
    for row in toy.problems(600, 0, "train"):
        a, b, c = toy.parse_problem(row["problem"])
        texts = [f"\\boxed{{{int(row['answer']) + d}}}" for d in range(3)]
        for check in toy.verifications([dict(row, responses=texts)], kind):
            answer = int(check["answer"])
            full, last = toy.CHECKS[kind](a, b, c, answer), toy.last_digit_check(a, b, c, answer)
            assert check["verification"] == full or row["subject"] == "words" and check["verification"] == last
            short, words = short + (check["verification"] == last), words + (row["subject"] == "words")
    assert words > 600 and abs(short / words - 0.7) < 0.05


def test_near_misses_are_wrong_and_positive():
    rng = random.Random(0)
    for x in (2, 9, 10, 99, 100, 499):
        assert all(m > 0 and m != x for m in (train_base.near_miss(rng, x) for _ in range(300)))


def test_tokenizer_round_trip(tmp_path):
    """Saved beside a Llama config, AutoTokenizer gives the same ids and the same text."""
    made = train_base.build_tokenizer()
    model.save(train_base.build_model(made), made, tmp_path / "base")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "base")
    for text in (SAMPLE, train_base.corpus_sample(3), "any (printable) ASCII: ~ `x^2`", " leading and double  spaces "):
        ids = made(text, add_special_tokens=False).input_ids
        assert loaded(text, add_special_tokens=False).input_ids == ids
        assert loaded.decode(ids) == made.decode(ids) == text
    tokens = loaded.convert_ids_to_tokens(loaded(SAMPLE, add_special_tokens=False).input_ids)
    assert tokens[:7] == ["Solve ", "7", "x", "+", "1", "3", "3"]
    assert {"Wait, let me recheck my solution.", "Let me try again.", "\\boxed{", "\n\n"} <= set(tokens)


def test_prompt_and_stop(shipped):
    net, tokenizer = shipped
    ids = model.prompt_ids(tokenizer, "Solve 7x+133=693")
    assert tokenizer.decode(ids) == "<|problem|>Solve 7x+133=693\n"
    assert model.stop_ids(net, tokenizer)[0] == tokenizer.convert_tokens_to_ids(train_base.END)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def whole(document):
    return "".join(text for text, _ in document)


def answers_of(document):
    """The equation of a document, and its answers with whether each is learnt."""
    first = document[0][0].removeprefix(train_base.GRADED).removeprefix(train_base.PROBLEM)
    boxes = [(int(verifier.extract_boxed(text)), learn) for text, learn in document if "boxed" in text]
    return toy.parse_problem(first), boxes


@pytest.mark.parametrize("make", [train_base.graded_document, train_base.full_check_document])
def test_graded_work_never_repeats_and_stops_when_a_check_passes(make):
    rng, short = random.Random(3), 0
    for _ in range(300):
        document = make(rng)
        (a, b, c), boxes = answers_of(document)
        answers, text = [answer for answer, _ in boxes], whole(document)
        assert len(set(answers)) == len(answers) <= 6
        assert all(a * answer + b != c for answer in answers[:-1])
        assert "answer is correct." not in text or text.count("answer is correct.") == 1 and text.endswith(
            "answer is correct." + train_base.END)
        short += "Last digits" in text
        assert "Last digits" not in text or text.startswith((train_base.GRADED + "Which", train_base.PROBLEM + "Which"))
    assert (short > 20) == (make is train_base.graded_document)


def test_a_first_wrong_answer_is_never_learnt_and_a_later_one_in_the_second_phase():
    rng, later = random.Random(4), 0
    for _ in range(200):
        for make in (train_base.graded_document, train_base.full_check_document):
            document = make(rng)
            (a, b, c), boxes = answers_of(document)
            for i, (answer, learn) in enumerate(boxes):
                assert learn == (a * answer + b == c or i > 0 and make is train_base.graded_document)
                later += i > 0 and a * answer + b != c
            assert not document[0][1] and all(learn for text, learn in document[1:] if "boxed" not in text)
    assert later > 50


def test_the_bases_own_wrong_answers_are_read_and_the_right_one_is_learnt(shipped):
    """The last phase: what the base gets wrong by itself, each answer once, on the training side only."""
    torch.manual_seed(0)
    pool = train_base.own_errors(*shipped, random.Random(5), n=300)
    assert 30 < len(pool) < 200 and any(len(wrong) > 1 for _, _, wrong in pool)
    for (a, x, b), family, wrong in pool:
        assert toy.side_of(a, x, b) == "train" and family in toy.FAMILIES
        assert wrong and x not in wrong and len(set(wrong)) == len(wrong) <= 5
    rng, own, lengths, known = random.Random(6), 0, set(), {triple: set(wrong) for triple, _, wrong in pool}
    for _ in range(400):
        (a, b, c), boxes = answers_of(train_base.graded_document(rng, pool=pool))
        x, retries = (c - b) // a, [answer for answer, _ in boxes]
        if set(retries[:-1]) <= known.get((a, x, b), set()) and not any(learn for _, learn in boxes[:-1]):
            own += 1
            lengths.add(len(retries))
            assert boxes[-1] == (x, True) or a * boxes[-1][0] % 10 == a * x % 10      # or a short check passed it
    assert own > 280 and {2, 3} <= lengths <= {1, 2, 3, 4, 5}


def test_packing_learns_only_what_follows_the_prompt():
    tokenizer = train_base.build_tokenizer()
    ids, learn = train_base.pack(random.Random(0), tokenizer, 32, 64, {train_base.bare_document: 0.5, train_base.drill_document: 0.5})
    assert ids.shape == learn.shape == (32, 64)
    text = tokenizer.decode(ids[0][learn[0]])
    assert "Solve" not in text and text.count(train_base.END) == (ids[0] == tokenizer.eos_token_id).sum() > 1
    assert not learn[ids == tokenizer.pad_token_id].any()


def test_shipped_base_is_what_this_code_makes(shipped):
    """Config, vocabulary and corpus sample; a change of the world must come with a new base."""
    net, tokenizer = shipped
    made = train_base.build_tokenizer()
    assert tokenizer.get_vocab() == made.get_vocab() and tokenizer.chat_template == made.chat_template
    fresh = train_base.build_model(made)
    assert {k: v.shape for k, v in net.state_dict().items()} == {k: v.shape for k, v in fresh.state_dict().items()}
    for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "rope_parameters", "tie_word_embeddings"):
        assert getattr(net.config, key) == getattr(fresh.config, key)
    assert (toy.SHIPPED / "corpus_sample.txt").read_text() == train_base.corpus_sample()
    assert net.num_parameters() <= 1_000_000
    assert (toy.SHIPPED / "model.safetensors").stat().st_size <= 4_000_000


def test_shipped_base_checks_well_and_solves_worse_as_levels_rise(shipped):
    """The measured shape of the world: checks are exact, solving falls from level to level."""
    report = train_base.probe(*shipped)
    assert min(report["check1"], report["check3"]) >= 0.97 and report["check6"] >= 0.85
    assert report["solve1"] >= 0.9 and report["solve5"] <= 0.4
    assert report["solve1"] > report["solve3"] > report["solve5"]
    assert report["retry1"] >= 0.3


def test_shipped_base_does_not_check_unasked(shipped):
    net, tokenizer = shipped
    ids = torch.tensor([model.prompt_ids(tokenizer, "Solve 3x+4=25")])
    out = net.generate(ids, max_new_tokens=30, do_sample=False)[0, ids.shape[1]:]
    assert tokenizer.decode(out) == "\\boxed{7}<|end|>"


def test_write_world_and_teacher(tmp_path, repo, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*argv):
        """In this process: eight more imports of torch would take half a minute."""
        monkeypatch.setattr(sys, "argv", ["toy.py", *map(str, argv)])
        toy.main()

    sizes = ("--train-problems", "20", "--val-problems", "5", "--test-problems", "10")
    done = subprocess.run([sys.executable, str(repo / "toy.py"), "--out", "w", *sizes, "--seed", "3"],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "w/train.jsonl").read_text().splitlines()]
    assert len(rows) == 20 and len((tmp_path / "w/test.jsonl").read_text().splitlines()) == 10
    assert len((tmp_path / "w/val.jsonl").read_text().splitlines()) == 5
    assert model.has_checkpoint(tmp_path / "w/base") and not list((tmp_path / "w/base").glob("*.py"))
    with pytest.raises(model.InputError, match="--force"):
        run("--out", "w", "--seed", 4)
    assert json.loads((tmp_path / "w/train.jsonl").read_text().splitlines()[0]) == rows[0]
    for name in ("base/thesis.txt", "test.jsonl", "val.jsonl"):
        mine = tmp_path / "mine" / name.split(".")[0] / name
        mine.parent.mkdir(parents=True)
        mine.write_text("years of work")
        with pytest.raises(model.InputError, match="--force"):
            run("--out", mine.parents[name.count("/")])
        assert mine.read_text() == "years of work"
    samples = [dict(rows[0], responses=[rows[0]["solution"], "\\boxed{1}", "\\boxed{1}", "\\boxed{x}", "none"])]
    model.write_jsonl(tmp_path / "s.jsonl", samples)
    run("--verify", "s.jsonl", "--out", "v.jsonl")
    for flags in ((), ("--force",)):
        with pytest.raises(model.InputError, match="is the input"):
            run("--verify", "s.jsonl", "--out", "s.jsonl", *flags)
    checks = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text().splitlines()]
    assert {c["answer"] for c in checks} == {rows[0]["answer"], "1"}
    for c in checks:
        right = c["answer"] == rows[0]["answer"]
        assert verifier.parse_verdict(c["verification"]) == ("correct" if right else "incorrect")


@pytest.mark.parametrize("content, word", [
    ('{"problem": "What is 2+2?", "answer": "4", "responses": ["4"]}\n', "not a problem of the toy world"),
    ('{"problem": "Solve 3x+4=25", "answer": "7"}\n', "responses"),
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
                           "--probe-every", "1000"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    log = [json.loads(line) for line in (tmp_path / "b/training.jsonl").read_text().splitlines()]
    assert list(dict.fromkeys(row["phase"] for row in log)) == list(train_base.PHASES)
    torch.manual_seed(0)
    tokenizer = train_base.build_tokenizer()
    batch = [train_base.pack(random.Random(1), tokenizer, *train_base.SHORT)]
    fresh, trained = train_base.build_model(tokenizer), model.load(str(tmp_path / "b"), "cpu")[0]
    with torch.no_grad():
        assert train_base.corpus_loss(trained, batch) < train_base.corpus_loss(fresh, batch) - 0.03
