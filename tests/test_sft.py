"""Stage 0 on hand-written samples, the mask token by token, the loss against the plain formula, resume."""
import json
import os
import signal
from types import SimpleNamespace

import pytest
import torch

import model as models
import sft

WAIT, RETRY = "Wait, let me recheck my solution.", "Let me try again."
YES, NO = "Therefore, the answer is correct.", "Therefore, the answer is incorrect."

# A three-attempt trajectory. «...» marks by hand what (1) trains: v1, the first retry phrase, v2, s3, v3.
MARKED = [
    ("solve", "First 7*82=574, so \\boxed{82}.\n\n"),
    ("verify", "«Wait, let me recheck my solution.\n\n"
               "574+133=707. Therefore, the answer is incorrect.\n\n"),
    ("solve", "Let me try again.\n\n»The answer is \\boxed{81}«\n\n"),
    ("verify", "Wait, let me recheck my solution.\n\n"
               "7*81 … Therefore, the answer cannot be verified. \n\n"),
    ("solve", "Let me try again.\n\n560/7 = \\boxed{80}.\n\n"),
    ("verify", "Wait, let me recheck my solution.\n\n"
               "7*80=560 — fine. Therefore, the answer is correct.»"),
]


def strip_marks(text):
    return text.replace("«", "").replace("»", "")


ACTIONS = [{"type": kind, "text": strip_marks(text)} for kind, text in MARKED]
ROW = {"problem": "Solve 7x+133=693", "answer": "80", "actions": ACTIONS}


def marks():
    """For each character of the response: is it between the marks?"""
    found, inside = [], False
    for c in "".join(text for _, text in MARKED):
        if c in "«»":
            inside = c == "«"
        else:
            found.append(inside)
    return found


def encoded(path, row=ROW, **flags):
    model, tokenizer = models.load(path, "cpu", "fp32")
    args = SimpleNamespace(**{"no_mask": False, "kl_on": "trained", **flags})
    end = models.stop_ids(model, tokenizer)[0]
    return sft.to_example(row, tokenizer, end, args), tokenizer, end


# ---------------------------------------------------------------- the mask

@pytest.mark.parametrize("name", ["tiny_qwen2", "tiny_llama"])
def test_mask_token_by_token(name, request):
    example, tokenizer, end = encoded(request.getfixturevalue(name))
    text = "".join(a["text"] for a in ACTIONS)
    coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    prompt = models.prompt_ids(tokenizer, ROW["problem"])
    n = len(prompt)
    assert example.ids == prompt + coded.input_ids + [end]
    assert not any(example.trained[:n]) and example.trained[-1] and example.kinds[-1] == "end"
    assert len(example.trained) == len(example.ids) == len(example.kinds) == len(example.held)
    by_hand = marks()
    for (start, stop), trained in zip(coded.offset_mapping, example.trained[n:]):
        assert trained == by_hand[start], text[start:stop]
    # the tokenizer does merge across a boundary here: the full stop of s1 with the line breaks before "Wait"
    pieces = [text[start:stop] for start, stop in coded.offset_mapping]
    straddling = pieces.index(".\n\n")
    assert pieces[straddling + 1].startswith("W") and not example.trained[n + straddling]
    # the masked s2 and its edges, every token written out: (text, is trained)
    at = pieces.index("The") - 1
    expected = STRETCH[name]
    assert list(zip(pieces, example.trained[n:]))[at:at + len(expected)] == expected


STRETCH = {
    "tiny_qwen2": [(".\n\n", True), ("The", False), (" answer", False), (" is", False), (" \\", False),
                   ("boxed", False), ("{", False), ("8", False), ("1", False), ("}", False), ("\n", True),
                   ("\n", True), ("Wa", True), ("it", True)],
    "tiny_llama": [(".\n\n", True), ("The", False), (" answer", False), (" is", False), (" \\boxed{", False),
                   ("8", False), ("1", False), ("}", False), ("\n\n", True), ("Wa", True), ("it", True)],
}


def test_kinds_and_held_tokens(tiny_qwen2):
    def held_text(kl_on):
        example, tokenizer, _ = encoded(tiny_qwen2, kl_on=kl_on)
        return tokenizer.decode([i for i, h in zip(example.ids, example.held) if h]), example
    text, example = held_text("first")
    assert text == "First 7*82=574, so \\boxed{82}.\n\n" and not any(
        h and t for h, t in zip(example.held, example.trained))
    text, example = held_text("trained")
    assert example.held == example.trained
    text, example = held_text("all")
    assert text == "".join(a["text"] for a in ACTIONS) + "<|im_end|>"
    order = [k for i, k in enumerate(example.kinds) if i == 0 or k != example.kinds[i - 1]]
    assert order == ["prompt", "solve", "verify", "solve", "verify", "solve", "verify", "end"]


def test_trained_actions():
    def of(types):
        return sft.trained_actions([{"type": {"s": "solve", "v": "verify"}[t]} for t in types])
    assert of("svsvsv") == [False, True, False, True, True, True]
    assert of("sv") == [True, True] and of("s") == [True] and of("svs") == [False, True, True]
    assert sft.trained_actions([sft.verifier.Action("solve", "1", 0, 1)]) == [True] and of("") == []


@pytest.mark.parametrize("verdict, trained", [(NO, True), ("Therefore, the answer cannot be verified.", True),
                                              (YES, False), ("Hm.", False)])
def test_retry_phrase_is_trained_after_a_refutation_only(verdict, trained):
    actions = [{"type": "solve", "text": "1\n"}, {"type": "verify", "text": f"{WAIT} {verdict}\n\n"},
               {"type": "solve", "text": f"{RETRY} 2\n"}, {"type": "verify", "text": f"{WAIT} {NO} "},
               {"type": "solve", "text": f"{RETRY} 3"}]
    labels = sft.label_characters(actions, sft.trained_actions(actions))
    text = "".join(a["text"] for a in actions)
    assert len(labels) == len(text)
    kept = "".join(c for c, (_, learn, _) in zip(text, labels) if learn)
    space = "\n\n" if trained else ""
    assert kept == f"\n{WAIT} {verdict}{space}{RETRY if trained else ''}\n{WAIT} {NO} {RETRY} 3"
    assert "".join(c for c, (_, _, first) in zip(text, labels) if first) == "1"


def test_other_masks(tiny_qwen2):
    # a right first solution that is doubted: (1) masks it all the same
    doubted = [{"type": "solve", "text": "\\boxed{80}\n\n"}, {"type": "verify", "text": f"{WAIT} {NO}\n\n"},
               {"type": "solve", "text": f"{RETRY} \\boxed{{80}}"}]
    row = {**ROW, "actions": doubted}
    plain, none = (encoded(tiny_qwen2, row, **f)[0] for f in ({}, {"no_mask": True}))
    n = plain.kinds.index("solve")
    first = plain.kinds.index("verify") - n
    assert not any(plain.trained[n:n + first]) and all(none.trained[n:])
    plain, none = (encoded(tiny_qwen2, **f)[0] for f in ({}, {"no_mask": True}))
    assert none.trained == [k != "prompt" for k in none.kinds] != plain.trained


# ---------------------------------------------------------------- the loss

def toy_examples(path, n=6):
    """n trajectories of different lengths, as Examples."""
    rows = []
    for i in range(n):
        actions = sft.join_actions([("\\boxed{%d}" % j, f"Check {j}. {NO}") for j in range(i % 3)]
                                   + [("so it is \\boxed{9}" + " indeed" * i, f"Check. {YES}")])
        rows.append({"problem": f"Solve {i}x=9", "answer": "9", "actions": actions})
    return [encoded(path, row, kl_on="first")[0] for row in rows]


def plain_loss(policy, base, examples, coef):
    """Equation (1) with every logit in memory, one trajectory at a time."""
    nll, kl = [], []
    for e in examples:
        ids = torch.tensor([e.ids])
        logp = policy(ids).logits[0, :-1].log_softmax(-1)
        logq = base(ids).logits[0, :-1].log_softmax(-1).detach()
        trained, held = torch.tensor(e.trained[1:]), torch.tensor(e.held[1:])
        nll.append(-logp[trained, ids[0, 1:][trained]])
        kl.append((logp.exp() * (logp - logq)).sum(-1)[held])
    return torch.cat(nll).mean() + coef * torch.cat(kl).mean()


@pytest.mark.parametrize("max_tokens", [1, 300, 10**6])
@pytest.mark.parametrize("name", ["tiny_qwen2", "tiny_llama"])
def test_gradient_equals_the_plain_formula(name, max_tokens, request, monkeypatch):
    path = request.getfixturevalue(name)
    policy, base = (models.load(path, "cpu", "fp32")[0] for _ in range(2))
    with torch.no_grad():
        for p in policy.parameters():
            p.mul_(1.1)
    examples = toy_examples(path)
    loss = plain_loss(policy, base, examples, 0.3)
    want = torch.autograd.grad(loss, list(policy.parameters()))
    got = []
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.0)
    monkeypatch.setattr(optimizer, "step", lambda: got.extend(p.grad.clone() for p in policy.parameters()))
    args = SimpleNamespace(kl_coef=0.3, max_tokens=max_tokens, max_grad_norm=1e9, grad_checkpointing=False)
    record = sft.update(policy, base, optimizer, examples, 0.0, args)
    assert record["loss"] == pytest.approx(loss.item(), rel=1e-5) and record["kl"] > 0
    assert record["trained_tokens"] == sum(sum(e.trained) for e in examples)
    for a, b in zip(got, want):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5 * b.abs().max().item() + 1e-7)


def test_held_out_losses_by_type(tiny_qwen2):
    policy = models.load(tiny_qwen2, "cpu", "fp32")[0]
    examples = toy_examples(tiny_qwen2)
    found = sft.held_out_losses(policy, examples, SimpleNamespace(max_tokens=400, dtype="fp32"))
    sums = {}
    for e in examples:
        logp = policy(torch.tensor([e.ids])).logits[0].log_softmax(-1)
        for i in range(1, len(e.ids)):
            if e.trained[i]:
                sums.setdefault(e.kinds[i], []).append(-logp[i - 1, e.ids[i]].item())
    assert set(sums) == {"solve", "verify", "end"} and len(sums["end"]) == len(examples)
    assert found == {f"held_out_{k}": pytest.approx(sum(v) / len(v), rel=1e-4) for k, v in sums.items()}


def test_micro_batches():
    examples = [sft.Example([0] * n, [], [], []) for n in (10, 100, 95, 30, 90, 29, 9, 70)]
    groups = sft.micro_batches(examples, 250)
    assert [[len(e) for e in g] for g in groups] == [[9, 10, 29, 30], [70, 90], [95, 100]]
    assert sft.micro_batches(examples[:1], 1) == [examples[:1]]  # longer than the budget: alone


def test_learning_rate():
    args = SimpleNamespace(lr=1.0, warmup=4, schedule="linear")
    assert [models.learning_rate(s, 10, args) for s in (0, 3, 5, 9)] == pytest.approx([0.25, 0.7, 0.5, 0.1])
    args.schedule = "cosine"
    assert [models.learning_rate(s, 10, args) for s in (5, 10)] == pytest.approx([0.5, 0.0])
    args.schedule, args.warmup = "constant", 0
    assert [models.learning_rate(s, 10, args) for s in (0, 9)] == [1.0, 1.0]


# ---------------------------------------------------------------- stage 0

def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def sample(name, answer, answers, finished=None, **more):
    responses = [f"I get \\boxed{{{a}}}" if a is not None else "no idea" for a in answers]
    return {"id": name, "problem": f"problem {name}", "answer": answer, "responses": responses,
            "finished": finished or [True] * len(answers), "tokens": [5] * len(answers), **more}


def check(name, answer, verdict, **more):
    return {"id": name, "answer": answer, "verification": f"Look at {answer}. {verdict}", **more}


def run(command, *argv):
    """sft.py COMMAND in this process: a subprocess each would take minutes."""
    args, handler = sft.parse_args([command, *map(str, argv)]), signal.getsignal(signal.SIGINT)
    try:
        (sft.build if command == "build" else sft.train)(args)
    finally:
        signal.signal(signal.SIGINT, handler)


@pytest.fixture
def built(tmp_path, capsys):
    def build(samples, checks, *flags):
        files = write(tmp_path / "samples.jsonl", samples), write(tmp_path / "checks.jsonl", checks)
        run("build", "--samples", files[0], "--verifications", files[1], "--out", tmp_path / "out.jsonl",
            "--keep", 1, 1, 1, 1, "--force", *flags)
        rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        return {row["id"]: row for row in rows}, capsys.readouterr().out
    return build


def answers_of(row):
    return [sft.verifier.extract_boxed(a["text"]) for a in row["actions"] if a["type"] == "solve"]


def test_build(built):
    samples = [
        sample("easy", "5", ["5"] * 5, level=2),
        sample("one", "5", ["5", "5", "5", "5", "6"]),
        sample("same", "1/2", ["1/2", "2", "2.0", "4/2", "\\frac12"]),          # one distinct wrong answer
        sample("three", "5", ["6", "7", "8", "5", "5"]),                       # k = 3: two of the three
        sample("hard", "5", ["6", "7", "8", "9", "5"]),                        # k = 4: three of the four
        sample("never", "5", ["6"] * 5),
        sample("cut", "5", ["5", "6", "6", "6", "6"], [False] + [True] * 4),   # the right one is unfinished
        sample("doubted", "5", ["5"] * 5),                                     # its only check is wrong
        sample("fooled", "5", ["5", "5", "5", "5", "6"]),                      # the check of 6 says correct
        sample("phrase", "5", ["5"] * 5),                                      # a phrase inside the check
        sample("mute", "5", ["5", "5", "5", "5", None]),                # nothing to refute
    ]
    checks = [check(s["id"], a, YES if a in ("5", "1/2") else NO) for s in samples
              for a in ("5", "6", "7", "8", "9", "2", "1/2")]
    replaced = ("doubted", "5"), ("fooled", "6"), ("phrase", "5")
    checks = [c for c in checks if (c["id"], c["answer"]) not in replaced]
    checks += [check("doubted", "5", NO), check("fooled", "6", YES), check("fooled", "6", "Who knows?"),
               check("phrase", "5", f"So. {RETRY} {YES}")]
    rows, report = built(samples, checks)
    assert {n: len(answers_of(r)) for n, r in rows.items()} == {
        "easy": 1, "one": 2, "same": 2, "three": 3, "hard": 4, "fooled": 1, "mute": 1}
    assert rows["one"]["actions"] == [
        {"type": "solve", "text": "I get \\boxed{6}\n\n"},
        {"type": "verify", "text": f"{WAIT}\n\nLook at 6. {NO}\n\n"},
        {"type": "solve", "text": f"{RETRY}\n\nI get \\boxed{{5}}\n\n"},
        {"type": "verify", "text": f"{WAIT}\n\nLook at 5. {YES}"}]
    assert rows["easy"]["level"] == 2 and "responses" not in rows["easy"] and "tokens" not in rows["easy"]
    for row in rows.values():
        *wrong, last = answers_of(row)
        assert last == row["answer"] and len(set(wrong)) == len(wrong) and row["answer"] not in wrong
        text = "".join(a["text"] for a in row["actions"])
        assert [(a.type, a.text) for a in sft.verifier.parse_actions(text)] == [
            (a["type"], a["text"]) for a in row["actions"]]
        verdicts = [sft.verifier.parse_verdict(a["text"]) for a in row["actions"] if a["type"] == "verify"]
        assert verdicts == ["incorrect"] * len(wrong) + ["correct"]
    for line in ("11 problems", "7 trajectories", "2 fell out: no right sample",
                 "1 fell out: no check that confirms a right sample",
                 "1 fell out: a connecting phrase inside a solution or a check",
                 "k=1 3, k=2 2, k=3 1, k=4 1"):
        assert line in report, report
    again, _ = built(samples, checks)
    other, _ = built(samples, checks, "--max-chars", 300)
    assert again == rows and "hard" not in other


def test_rounds_forgive_the_rounding_of_a_share():
    assert 1 - 7 / 10 > 0.3 and sft.rounds(1 - 7 / 10, [0, 0.3, 1]) == 2


def build_args(**more):
    return SimpleNamespace(**{"seed": 0, "original_solutions": False, "wrong_share": [0, 0.2, 0.6, 1],
                              "keep": [1] * 4, "max_chars": 24000, **more})


def test_attempts_are_drawn_with_the_seed():
    """k = 3 of 6, 7, 8 wrong and two texts right: two wrong ones in either order, and either right one."""
    row = sample("p", "5", ["6", "7", "8", "5", "5"])
    row["responses"][4] = "So \\boxed{5}"
    checks = {("p", a): [f"Look. {YES if a == '5' else NO}"] for a in "5678"}
    drawn = []
    for seed in range(40):
        actions, _ = sft.build_actions(row, [False] * 3 + [True] * 2, checks, build_args(seed=seed))
        drawn.append((answers_of({"actions": actions})[:2], "So" in actions[-2]["text"]))
    assert len({tuple(wrong) for wrong, _ in drawn}) == 6 and {last for _, last in drawn} == {True, False}


def test_a_response_may_have_max_chars_characters():
    row, checks = sample("p", "5", ["5"] * 5), {("p", "5"): [f"Look. {YES}"]}
    actions, _ = sft.build_actions(row, [True] * 5, checks, build_args())
    size = sum(len(a["text"]) for a in actions)
    assert sft.build_actions(row, [True] * 5, checks, build_args(max_chars=size)) == (actions, None)
    assert sft.build_actions(row, [True] * 5, checks, build_args(max_chars=size - 1)) == (
        None, "too long (--max-chars)")


def test_white_space_around_samples_and_checks_is_dropped(built):
    row = sample("p", "5", ["5", "5", "5", "5", "6"])
    row["responses"] = [f"\n{text} \n\n\n" for text in row["responses"]]
    rows, _ = built([row], [check("p", "6", NO + "\n "), check("p", " 5 ", YES + "\n\n")])
    assert [a["text"] for a in rows["p"]["actions"]] == [
        "I get \\boxed{6}\n\n", f"{WAIT}\n\nLook at 6. {NO}\n\n", f"{RETRY}\n\nI get \\boxed{{5}}\n\n",
        f"{WAIT}\n\nLook at  5 . {YES}"]


def test_build_draws_by_difficulty(built):
    samples = [sample(f"{wrong}-{i}", "5", ["5"] * (5 - wrong) + ["6", "7", "8", "9"][:wrong])
               for wrong in range(5) for i in range(80)]
    checks = [check(s["id"], a, YES if a == "5" else NO) for s in samples for a in "56789"]
    rows, report = built(samples, checks, "--keep", 0.24, 0.5, 0.5, 0.5)
    kept = [sum(name.startswith(f"{w}-") for name in rows) for w in range(5)]
    assert 8 <= kept[0] <= 32 and all(25 <= k <= 55 for k in kept[1:]), kept  # binomial, four sigma
    assert f"{400 - sum(kept)} fell out: not drawn (--keep)" in report
    assert {w: {len(answers_of(r)) for n, r in rows.items() if n[0] == w} for w in "01234"} == {
        "0": {1}, "1": {2}, "2": {3}, "3": {3}, "4": {4}}


def test_build_kinds_and_problem_keys(built):
    samples = [sample("p", "5", ["5", "5", "5", "5", "6"])]
    checks = [{"problem": "problem p", "answer": a, "kind": kind, "verification": f"{kind} {a}. {v}"}
              for a, v in (("5", YES), ("6", NO)) for kind in ("problem-solving", "confirmative")]
    rows, _ = built(samples, checks)
    assert "confirmative 6" in rows["p"]["actions"][1]["text"]
    rows, _ = built(samples, checks, "--kind", "problem-solving")
    assert "problem-solving 6" in rows["p"]["actions"][1]["text"]


def test_build_from_original_solutions(tmp_path):
    row = {"id": "t", "problem": "Solve 7x+133=693", "answer": "80", "solution": "Just \\boxed{80}"}
    samples = write(tmp_path / "problems.jsonl", [row])
    run("build", "--samples", samples, "--original-solutions", "--out", tmp_path / "b.jsonl")
    actions = json.loads((tmp_path / "b.jsonl").read_text())["actions"]
    assert actions == [{"type": "solve", "text": "Just \\boxed{80}"}]


@pytest.mark.parametrize("change, message", [
    ({"answer": ""}, "samples.jsonl:2: field 'answer'"),
    ({"responses": "5"}, "samples.jsonl:2: field 'responses'"),
    ({"finished": [True]}, "samples.jsonl:2: field 'finished'"),
    ({"problem": None}, "samples.jsonl:2: field 'problem' is missing"),
    ({"id": "a"}, "samples.jsonl:2: field 'id' repeats"),
])
def test_build_refuses_bad_samples(tmp_path, change, message):
    rows = [sample("a", "5", ["5"] * 5), sample("b", "5", ["5"] * 5) | change]
    samples = write(tmp_path / "samples.jsonl", rows)
    checks = write(tmp_path / "checks.jsonl", [check("a", "5", YES)])
    with pytest.raises(models.InputError) as error:
        run("build", "--samples", samples, "--verifications", checks, "--out", tmp_path / "out.jsonl")
    assert message in str(error.value) and not list(tmp_path.glob("out*"))


def test_an_error_is_one_line(run_script, tmp_path):
    samples = write(tmp_path / "samples.jsonl", [sample("a", "5", ["5"] * 5), sample("b", "", ["5"] * 5)])
    write(tmp_path / "checks.jsonl", [check("a", "5", YES)])
    done = run_script("sft.py", "build", "--samples", samples, "--verifications", "checks.jsonl", "--out", "out.jsonl")
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: ") and "samples.jsonl:2: field 'answer'" in done.stderr


def test_build_refuses_bad_verifications_and_to_overwrite(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    samples = write(tmp_path / "samples.jsonl", [sample("a", "5", ["5"] * 5)])
    good = write(tmp_path / "good.jsonl", [check("a", "5", YES)])
    bad = write(tmp_path / "bad.jsonl", [check("a", "5", YES), {"answer": "5", "verification": YES}])
    listed = write(tmp_path / "listed.jsonl", [check("a", "5", YES, problem=["a"])])
    (tmp_path / "old.jsonl").write_text("old")
    for flags, message in [
            (["--verifications", bad, "--out", "x.jsonl"], "bad.jsonl:2: field 'id' or 'problem' is needed"),
            (["--out", "x.jsonl"], "--verifications is needed"),
            (["--verifications", listed, "--out", "x.jsonl"], "listed.jsonl:1: fields 'answer', 'verification' and"),
            (["--verifications", "nowhere.jsonl", "--out", "x.jsonl"], "No such file or directory: 'nowhere.jsonl'"),
            (["--verifications", good, "--out", good, "--force"], "good.jsonl is the input"),
            (["--verifications", good, "--out", "x.jsonl", "--keep", 1], "--wrong-share and --keep"),
            (["--verifications", good, "--out", "x.jsonl", "--wrong-share", 0, 0.6, 0.2, 1], "rise to 1"),
            (["--verifications", good, "--out", "x.jsonl", "--wrong-share", 0, 0.2, 0.6, 0.9], "rise to 1"),
            (["--original-solutions", "--out", "x.jsonl"], "field 'solution'"),
            (["--verifications", good, "--out", "x.jsonl", "--max-chars", 3], "no trajectory is left"),
            (["--verifications", good, "--out", "old.jsonl"], "old.jsonl exists already")]:
        with pytest.raises(models.InputError) as error:
            run("build", "--samples", samples, *flags)
        assert message in str(error.value)
    assert not (tmp_path / "x.jsonl").exists() and (tmp_path / "old.jsonl").read_text() == "old"


# ---------------------------------------------------------------- runs

def trajectories(tmp_path, n=24):
    rows = []
    for i in range(n):
        attempts = [("\\boxed{%d}" % j, f"{j} is not {i}. {NO}") for j in range(i % 3)]
        actions = sft.join_actions(attempts + [("\\boxed{99}", f"Yes. {YES}")])
        rows.append({"id": str(i), "problem": f"Solve x={i}", "answer": "99", "actions": actions})
    return write(tmp_path / "trajectories.jsonl", rows)


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


TRAIN = ("--batch-size", 4, "--epochs", 2, "--held-out", 0.17, "--eval-every", 4, "--device", "cpu")


def test_train_learns_and_guards_its_folder(tmp_path, tiny_qwen2):
    flags = ("--model", tiny_qwen2, "--data", trajectories(tmp_path), "--out", tmp_path / "run", *TRAIN,
             "--lr", 3e-3, "--schedule", "cosine", "--grad-checkpointing")
    run("train", *flags)
    log = metrics(tmp_path / "run")
    assert [r["step"] for r in log] == list(range(1, 11)) and [r["epoch"] for r in log] == [1] * 5 + [2] * 5
    assert log[0]["kl"] == pytest.approx(0, abs=1e-4) and log[-1]["kl"] > 0.01
    assert log[-1]["nll"] < log[0]["nll"] - 1
    assert log[0]["lr"] == pytest.approx(3e-3 / 5)
    assert [r["step"] for r in log if "held_out_end" in r] == [4, 8, 10]
    assert all(log[-1][f"held_out_{k}"] < log[3][f"held_out_{k}"] for k in ("solve", "verify", "end"))
    model, tokenizer = models.load(tmp_path / "run/last", "cpu", "fp32")
    assert tokenizer.get_vocab() == models.load(tiny_qwen2, "cpu")[1].get_vocab()
    weights = (tmp_path / "run/last/model.safetensors").read_bytes()
    with pytest.raises(models.InputError, match="holds a run already"):
        run("train", *flags)
    with pytest.raises(models.InputError, match="another --kl-coef"):
        run("train", *flags, "--resume", "--kl-coef", 0.2)
    run("train", *flags, "--resume", "--max-tokens", 999)  # memory, not method; finished: nothing to do
    assert metrics(tmp_path / "run") == log
    assert (tmp_path / "run/last/model.safetensors").read_bytes() == weights


def test_an_epoch_visits_every_trajectory_once_in_an_order_of_its_own(tmp_path, tiny_qwen2):
    """Ten trajectories by four: steps of 4, 4 and 2, and as many tokens in either epoch as there are."""
    data = trajectories(tmp_path, 10)
    flags = ("--model", tiny_qwen2, "--data", data, "--batch-size", 4, "--epochs", 2, "--held-out", 0,
             "--lr", 0, "--kl-coef", 0, "--save-every", 99)
    for seed in (0, 1):
        run("train", *flags, "--out", tmp_path / f"run{seed}", "--seed", seed)
    sizes = [len(encoded(tiny_qwen2, json.loads(line))[0]) for line in data.read_text().splitlines()]
    log, other = ([row["tokens"] for row in metrics(tmp_path / f"run{seed}")] for seed in (0, 1))
    assert [r["epoch"] for r in metrics(tmp_path / "run0")] == [1] * 3 + [2] * 3
    assert sum(log[:3]) == sum(log[3:]) == sum(other[:3]) == sum(sizes)
    assert log[:3] != log[3:] and log != other


def test_a_token_that_only_the_tokenizer_has_is_refused(tmp_path, tiny_qwen2):
    model, tokenizer = models.load(tiny_qwen2)
    models.save(model, tokenizer, tmp_path / "good")
    tokenizer.add_tokens("<new>")
    models.save(model, tokenizer, tmp_path / "odd")
    row = {**ROW, "actions": [{"type": "solve", "text": "<new> \\boxed{1}"}]}
    data = write(tmp_path / "t.jsonl", [ROW, row])
    flags = ("--data", data, "--out", tmp_path / "run", "--epochs", 1, "--held-out", 0)
    with pytest.raises(models.InputError, match="a text is empty, or has tokens that the tokenizer knows"):
        run("train", "--model", tmp_path / "odd", *flags)
    assert not (tmp_path / "run").exists()
    run("train", "--model", tmp_path / "good", *flags)


def test_a_text_may_reach_the_last_position(tmp_path, tiny_qwen2):
    model, _ = models.load(tiny_qwen2)
    most = models.most_positions(model)
    models.check_room(model, [[5] * most], 0)
    for length, more in ((most, 1), (most + 1, 0)):
        with pytest.raises(models.InputError, match="fills the model's"):
            models.check_room(model, [[5] * length], more)


def test_the_split_of_the_data(tmp_path, tiny_qwen2):
    """At most 200 are held out, which ones the seed decides; the longest one has just --max-length tokens."""
    policy, tokenizer = models.load(tiny_qwen2)
    longest = max(len(encoded(tiny_qwen2, json.loads(line))[0])
                  for line in trajectories(tmp_path, 12).read_text().splitlines())

    def split(n, **more):
        args = SimpleNamespace(data=trajectories(tmp_path, n), no_mask=False, kl_on="all",
                               **{"max_length": longest, "seed": 0, "held_out": 0.5, **more})
        return [[e.ids for e in part] for part in sft.load_examples(policy, tokenizer, args)]

    train, held = split(12)
    assert len(train) == len(held) == 6 and max(map(len, train + held)) == longest
    assert sorted(held) != sorted(split(12, seed=1)[1]) and split(12) == [train, held]
    assert sum(map(len, split(12, max_length=longest - 1))) < 12
    assert [len(part) for part in split(220, max_length=8000, held_out=0.95)] == [20, 200]


@pytest.mark.parametrize("how, dtype", [("crash", "bf16"), ("crash", "fp32"), ("ctrl-c", "fp32")])
def test_resume_is_exact(how, dtype, tmp_path, tiny_llama, monkeypatch):
    """The whole run keeps its optimizer with the model, the parts on the host: the numbers are the same."""
    flags = ("--model", tiny_llama, "--data", trajectories(tmp_path), *TRAIN, "--lr", 1e-3, "--kl-on", "all",
             "--save-every", 3, "--dtype", dtype)
    run("train", *flags, "--out", tmp_path / "whole")
    flags = (*flags, "--offload", "optimizer")
    update, steps = sft.update, []

    def interrupted(*args):
        steps.append(1)
        if len(steps) == 5 and how == "crash":  # after the checkpoint of step 3: steps 4 and 5 are done again
            raise RuntimeError("power cut")
        if len(steps) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return update(*args)

    monkeypatch.setattr(sft, "update", interrupted)
    with pytest.raises(RuntimeError if how == "crash" else KeyboardInterrupt):
        run("train", *flags, "--out", tmp_path / "parts")
    assert len(metrics(tmp_path / "parts")) == (4 if how == "crash" else 5)
    run("train", *flags, "--out", tmp_path / "parts", "--resume")
    assert len(steps) == (5 + 7 if how == "crash" else 10)
    clock = ("seconds", "tokens_per_s")
    whole, parts = ([{k: v for k, v in r.items() if k not in clock} for r in metrics(tmp_path / name)]
                    for name in ("whole", "parts"))
    assert whole == parts
    weights = [(tmp_path / name / "last/model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert weights[0] == weights[1]


def test_bf16_weights_learn_from_steps_too_small_for_bf16(tmp_path, tiny_llama):
    """A step of 1e-5 is lost on most bf16 weights of 0.3 (steps there are 2e-3), not on the copies."""
    policy = models.load(tiny_llama, "cpu", "bf16")[0]
    first = policy.lm_head.weight.detach().clone()
    args = SimpleNamespace(kl_coef=0, max_tokens=10**6, max_grad_norm=1.0, grad_checkpointing=False)
    optimizer = models.make_optimizer(policy, 1e-5, on_host=True)
    weights = optimizer.param_groups[0]["params"]
    assert policy.dtype == torch.bfloat16 and {w.dtype for w in weights} == {torch.float32}
    examples = toy_examples(tiny_llama)
    for _ in range(20):
        sft.update(policy, None, optimizer, examples, 1e-5, args)
        assert all(p.grad is None for p in policy.parameters())
    head = weights[[name for name, _ in policy.named_parameters()].index("lm_head.weight")]
    assert (head - first).abs().max().item() == pytest.approx(20 * 1e-5, rel=0.2)
    assert torch.equal(policy.lm_head.weight, head.bfloat16())


def test_no_base_model_without_a_kl_term(tmp_path, tiny_qwen2, monkeypatch):
    loaded, load = [], models.load
    monkeypatch.setattr(models, "load", lambda *a: loaded.append(a) or load(*a))
    run("train", "--model", tiny_qwen2, "--data", trajectories(tmp_path), "--out", tmp_path / "run", *TRAIN,
        "--epochs", 1, "--kl-coef", 0)
    assert len(loaded) == 1 and all(r["kl"] == 0 for r in metrics(tmp_path / "run"))


@pytest.mark.parametrize("row, message", [
    ({"actions": []}, "field 'actions'"),
    ({"actions": ["5"]}, "field 'actions' must be a list of {type, text}"),
    ({"actions": [{"type": "verify", "text": "x"}]}, "the types must go solve, verify"),
    ({"actions": [{"type": "solve", "text": "x"}] * 2}, "the types must go solve, verify"),
    ({"actions": [{"type": "solve", "text": "x"}, {"type": "verify"}]}, "every action needs a text"),
    ({"actions": None}, "field 'actions' is missing"),
])
def test_train_refuses_bad_trajectories(tmp_path, tiny_qwen2, row, message):
    good = {"problem": "p", "answer": "5", "actions": [{"type": "solve", "text": "\\boxed{5}"}]}
    data = write(tmp_path / "data.jsonl", [good, {**good, **row}])
    with pytest.raises(models.InputError) as error:
        run("train", "--model", tiny_qwen2, "--data", data, "--out", tmp_path / "run")
    assert "data.jsonl:2: field 'actions'" in str(error.value) and message in str(error.value)
    assert not (tmp_path / "run").exists()


def test_train_refuses_when_nothing_is_left(tmp_path, tiny_qwen2, capsys):
    flags = ("--model", tiny_qwen2, "--data", trajectories(tmp_path, 3), "--out", tmp_path / "run")
    with pytest.raises(models.InputError, match="no trajectory to train on"):
        run("train", *flags, "--max-length", 5)
    assert "3 over 5 tokens" in capsys.readouterr().out


# ---------------------------------------------------------------- faults that once went unnoticed, and their neighbours

def test_wrong_answers_differ_by_value_not_by_spelling(built):
    texts = ["6", "6.0", "12/2", "5", "5"]
    rows, _ = built([sample("p", "5", texts)], [check("p", a, NO if a != "5" else YES) for a in dict.fromkeys(texts)])
    assert [a["type"] for a in rows["p"]["actions"]] == ["solve", "verify"] * 2


def test_unfinished_samples_are_no_attempts(built):
    row = sample("p", "5", ["6", "5", "5", "5", "5"])
    row["finished"][0] = False
    rows, _ = built([row], [check("p", "6", NO), check("p", "5", YES)])
    assert [a["type"] for a in rows["p"]["actions"]] == ["solve", "verify"]
    row = sample("p", "5", ["6", "6", "6", "6", "5"])
    row["finished"][4] = False                                  # the only right one: the problem falls out
    rows, out = built([row, sample("q", "5", ["5"] * 5)], [check(x, a, v) for x in "pq" for a, v in (("6", NO), ("5", YES))])
    assert set(rows) == {"q"} and "no right sample" in out


def test_the_heads_gradient_adds_up_in_float32():
    """2,048 equal rows, one a chunk: in bf16 the sum would stop growing."""
    hidden = torch.full((2048, 4), 0.5, dtype=torch.bfloat16)
    base = torch.full((2048, 4), -0.5, dtype=torch.bfloat16)
    for kind in (torch.bfloat16, torch.float32):
        weight = torch.randn(11, 4, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16).to(kind).requires_grad_()
        kl, = torch.autograd.grad(sft.sum_kl(hidden.to(kind), weight, base.to(kind), weight.detach(), chunk=1), weight)
        nll, = torch.autograd.grad(sft.token_logprobs(hidden.to(kind), weight, torch.full((2048,), 3), chunk=1).sum(), weight)
        if kind == torch.bfloat16:
            found = kl, nll
    for a, b in zip(found, (kl, nll)):
        assert (a.float() - b).abs().max() <= 5e-3 * b.abs().max()


def test_the_kl_term_pulls_towards_the_base(tiny_qwen2):
    """Its sign: a step on the KL term alone lowers KL(pi || pi_base)."""
    policy, base = (models.load(tiny_qwen2, "cpu", "fp32")[0] for _ in range(2))
    with torch.no_grad():
        policy.get_output_embeddings().weight.mul_(2)
    examples = toy_examples(tiny_qwen2)
    for e in examples:
        e.held, e.trained = [k != "prompt" for k in e.kinds], [k == "end" for k in e.kinds]
    optimizer = models.make_optimizer(policy, 1e-3)
    args = SimpleNamespace(kl_coef=1000.0, max_tokens=10**6, max_grad_norm=1.0, grad_checkpointing=False)
    found = [sft.update(policy, base, optimizer, examples, 1e-4, args)["kl"] for _ in range(4)]
    assert found[0] > found[1] > found[3] > 0


def test_trajectories_beyond_the_models_positions_fall_out(tmp_path, tiny_qwen2, monkeypatch, capsys):
    monkeypatch.setattr(models, "most_positions", lambda model: 60)
    with pytest.raises(models.InputError, match="no trajectory to train on"):
        run("train", "--model", tiny_qwen2, "--data", trajectories(tmp_path, 3), "--out", tmp_path / "run")
    assert "3 over 60 tokens" in capsys.readouterr().out


def test_a_loss_that_is_not_finite_stops_the_run(tiny_qwen2):
    policy = models.load(tiny_qwen2, "cpu", "fp32")[0]
    args = SimpleNamespace(kl_coef=0, max_tokens=10**6, max_grad_norm=1.0, grad_checkpointing=False)
    with torch.no_grad():
        policy.get_output_embeddings().weight.fill_(float("nan"))
    with pytest.raises(models.InputError, match="the loss is not finite"):
        sft.update(policy, None, models.make_optimizer(policy, 1e-3), toy_examples(tiny_qwen2, 2), 1e-3, args)
