"""Nothing is made for the toy world only: every stage on GSM8K and MATH files, Qwen2, Llama, fp32, bf16.

The checkpoints are tiny and random. SFT makes them learn a few trajectories by heart, so that what follows
sees text with actions in it, not noise. Scripts are executed as `python SCRIPT ...` would, in this process:
an interpreter that imports torch for each of 4 x 9 commands takes minutes.
"""
import json
import runpy
import signal
import sys

import pytest
import torch

import verifier

GSM8K = [("A hen lays 16 eggs. 7 are eaten. How many are sold?", "16 - 7 = <<16-7=9>>9 eggs.\n#### 9"),
         ("Ann saves $500 a month. How much in a year?", "12 * 500 = $<<12*500=6000>>6,000.\n#### 6,000"),
         ("Half of a rope is 45 m. How long is it?", "2 * 45 = <<2*45=90>>90 m.\n#### 90"),
         ("A day has 24 hours. How many have 3 days?", "3 * 24 = <<3*24=72>>72 hours.\n#### 72")]
MATH = [("Add $\\frac{1}{2} + \\frac{1}{3}.$", "$\\frac{3 + 2}{6} = \\boxed{\\frac{5}{6}}.$", 2, "Algebra"),
        ("Factor $x^2 - 1.$", "It is $\\boxed{(x - 1)(x + 1)}.$", 1, "Algebra"),
        ("What is the sum of the angles of a triangle?", "It is $\\boxed{180^\\circ}.$", 1, "Geometry"),
        ("Where does $y = x$ meet $x = 3$?", "At $\\boxed{(3, 3)}.$", 3, "Precalculus")]
EPOCHS = 26                      # of one step each
WRONG = ("-17", "\\frac{1}{97}", "1001")        # right for none of these problems


def first_rows(repo, name, longest=130):
    """The first four short problems of a public data set beside the repository, or None."""
    path = repo.parent / "shared" / "data" / name
    if not path.exists():
        return None
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [r for r in rows if len(r.get("problem", r.get("question"))) <= longest][:4]


@pytest.fixture
def data(request, repo, tmp_path):
    """A problem file in the format of the original data set."""
    if request.param == "gsm8k":
        rows = first_rows(repo, "gsm8k_test.jsonl") or [{"question": q, "answer": a} for q, a in GSM8K]
        assert all(set(row) == {"question", "answer"} and "####" in row["answer"] for row in rows)
    else:                                       # the original has no field `answer`, and levels are "Level 3"
        names = ("problem", "solution", "level", "subject")
        rows = first_rows(repo, "math500.jsonl") or [dict(zip(names, row)) for row in MATH]
        rows = [{"problem": r["problem"], "level": f"Level {r['level']}", "type": r["subject"],
                 "solution": r["solution"]} for r in rows]
    return write(tmp_path / f"{request.param}.jsonl", rows)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def script(repo, monkeypatch):
    """script("sample.py", "--model", ...): execute that file as the main program with these arguments."""
    handler = signal.getsignal(signal.SIGINT)

    def run(name, *argv):
        monkeypatch.setattr(sys, "argv", [name, *map(str, argv)])
        runpy.run_path(str(repo / name), run_name="__main__")

    yield run
    signal.signal(signal.SIGINT, handler)       # the training stages put their own in its place


def hand_made(rows):
    """A sampler's file and a teacher's file written by hand: 0, 1, 2 and 2 of 3 samples are wrong."""
    samples, checks = [], []
    for row, n_wrong in zip(rows, (0, 1, 2, 2)):
        answers = list(WRONG[:n_wrong]) + [row["answer"]] * (3 - n_wrong)
        texts = [f"We find that the answer is \\boxed{{{answer}}}." for answer in answers]
        samples.append({**row, "responses": texts, "finished": [True] * 3, "tokens": [9] * 3})
        for answer in dict.fromkeys(answers):
            verdict = "correct" if answer == row["answer"] else "incorrect"
            checks.append({"id": row["id"], "answer": answer, "kind": "confirmative",
                           "verification": f"Put {answer} back in.\nTherefore, the answer is {verdict}."})
    return samples, checks


# Four of the eight combinations: every two of model, format and dtype meet once.
@pytest.mark.parametrize("family, data, dtype", [
    ("tiny_qwen2", "gsm8k", "fp32"), ("tiny_qwen2", "math", "bf16"), ("tiny_llama", "gsm8k", "bf16"),
    ("tiny_llama", "math", "fp32")], indirect=["data"])
def test_every_stage_takes_real_input(family, dtype, data, script, tmp_path, request):
    model, kind = request.getfixturevalue(family), ("--dtype", dtype)
    script("sample.py", "--model", model, "--data", data, "--out", tmp_path / "base.jsonl",
           "--num-samples", 3, "--max-new-tokens", 12, *kind)
    sampled = read(tmp_path / "base.jsonl")
    assert len(sampled) == 4 and all(len(row["responses"]) == 3 for row in sampled)
    assert all(1 <= count <= 12 for row in sampled for count in row["tokens"])
    assert all(verifier.check_gold(row["answer"]) is None and row["solution"] for row in sampled)
    assert all(row["level"] in ((None,) if "gsm8k" in data.name else range(1, 6)) for row in sampled)

    samples, checks = hand_made(sampled)
    built = tmp_path / "trajectories.jsonl"
    script("sft.py", "build", "--samples", write(tmp_path / "samples.jsonl", samples), "--keep", 1, 1, 1, 1,
           "--verifications", write(tmp_path / "checks.jsonl", checks), "--out", built)
    trajectories = read(built)
    assert [len(row["actions"]) for row in trajectories] == [2, 4, 6, 6]        # k = 1, 2, 3, 3

    script("sft.py", "train", "--model", model, "--data", built, "--out", tmp_path / "bi", "--epochs", EPOCHS,
           "--lr", "2e-2", "--schedule", "linear", "--kl-coef", 0.01, "--no-mask", "--held-out", 0, *kind)
    losses = [row["nll"] for row in read(tmp_path / "bi" / "metrics.jsonl")]
    assert losses[-1] < 0.2 < 2 < losses[0]

    rl = ("--model", tmp_path / "bi" / "last", "--data", data, "--samples", tmp_path / "samples.jsonl",
          "--eval-data", data, "--max-acc", 0.9, "--steps", 2, "--prompts-per-step", 3, "--num-samples", 4,
          "--temperature", 1, "--updates-per-rollout", 2, "--max-new-tokens", 200, "--lr", "1e-3",
          "--warmup", 0, *kind)
    for name in ("outcome", "process"):
        script(f"rl_{name}.py", *rl, "--out", tmp_path / name)
        log = read(tmp_path / name / "metrics.jsonl")
        assert [row["step"] for row in log] == [0, 1, 2] and log[0]["eval_finished"] == 1
        assert log[1]["trials"] > 1 and log[1]["VA"] is not None
        assert log[1]["grad_norm"] + log[2]["grad_norm"] > 0
        assert not any(row["skipped"] for row in log[1:])
        assert not same_weights(tmp_path / name / "last", tmp_path / "bi" / "last")

    for name in ("bi", "outcome", "process"):
        script("sample.py", "--model", tmp_path / name / "last", "--data", data, "--max-new-tokens", 200,
               "--out", tmp_path / f"{name}.jsonl", *kind)
    learnt = [row["responses"][0] for row in read(tmp_path / "bi.jsonl")]
    assert learnt == ["".join(a["text"] for a in row["actions"]) for row in trajectories]

    script("evaluate.py", f"base={tmp_path}/samples.jsonl", *(f"{n}={tmp_path}/{n}.jsonl" for n in
           ("bi", "outcome", "process")), "--out", tmp_path / "report", "--bootstrap", 50)
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    bi = report["models"]["bi"]
    assert report["problems"] == 4 and bi["final_accuracy"]["value"] == 1 and bi["VA"]["denominator"] == 9
    assert bi["first_accuracy"]["numerator"] == 1 and bi["trials"]["value"] == 9 / 4
    levels = {row["level"] for row in sampled} - {None}
    assert any(name.startswith("level=") for name in bi) == (len(levels) > 1)


def same_weights(a, b):
    from transformers import AutoModelForCausalLM
    a, b = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (a, b))
    return all(torch.equal(a[name].float(), b[name].float()) for name in b)
