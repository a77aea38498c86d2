"""evaluate.py: every metric on twelve hand-written responses, error bars, the report, bad input."""
import base64
import html
import itertools
import json
import math
import re
import sys

import numpy as np
import pytest

import evaluate
from model import run_main
from verifier import SOLVE_PHRASE, VERIFY_PHRASE, action_rewards, parse_actions

C, I, U, N = "is correct", "is incorrect", "cannot be verified", None


def response(*parts):
    """answer, verdict, answer, ... -> a trajectory; answer None: no box, verdict N: no conclusion."""
    texts = []
    for j, part in enumerate(parts):
        if j % 2 == 0:
            body = "So it is unclear." if part is None else f"Thus $x$ = \\boxed{{{part}}}."
            texts.append(body if j == 0 else f"{SOLVE_PHRASE}\n\n{body}")
        else:
            end = "I am not sure." if part is None else f"Therefore, the answer {part}."
            texts.append(f"{VERIFY_PHRASE}\n\nPut it back in. {end}")
    return "\n\n".join(texts)


TWELVE = [  # first -> last, all gold answers are 10
    response(10, C),                    # right to right
    response(10, C),                    # right to right
    response(10, I, 10, C),             # right to right, refuted a right one, repeats it
    response(10, I, 11, C),             # right to wrong
    response(10),                       # right to right, no verification
    response(11, I, 10, C),             # wrong to right
    response(11, I, 12, I, 10, C),      # wrong to right
    response(11, C),                    # wrong to wrong
    response(11, I, 11, I, 12),         # wrong to wrong, one repeat; unfinished
    response(11, N),                    # wrong to wrong, no verdict
    response(None, I, 10, U),           # wrong to right, then doubted
    "",                                 # wrong to wrong: one empty solution
]


def rows(texts=TWELVE, samples=1, **fields):
    """Samples rows: `samples` texts to each problem, level 1 for the first half and 2 for the rest."""
    out = []
    for i in range(len(texts) // samples):
        mine = texts[i * samples:(i + 1) * samples]
        out.append({"id": f"p{i}", "problem": f"Problem {i}", "answer": "10",
                    "level": 1 + 2 * i * samples // len(texts), "responses": mine,
                    "finished": [t != TWELVE[8] for t in mine],
                    "tokens": [10 * (i + 1)] * samples, **fields})
    return out


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def run(monkeypatch, capsys):
    """run("base=a.jsonl", ...) -> (exit status, stdout, stderr) of the script, here, without pictures."""
    draw = evaluate.pictures

    def call(*argv, pictures=False):
        monkeypatch.setattr(evaluate, "pictures", draw if pictures else lambda *_: [])
        fast = ["evaluate.py", "--workers", "0", "--bootstrap", "200"]
        monkeypatch.setattr(sys, "argv", fast + [str(a) for a in argv])
        status = 0
        try:
            run_main(evaluate.main)
        except SystemExit as stop:
            status = stop.code
        return (status, *capsys.readouterr())
    return call


# --------------------------------------------------------------------------- the numbers, worked out by hand

BY_HAND = {
    "first_accuracy": (5, 12), "final_accuracy": (7, 12),   # last right: 1 2 3 5 6 7 11
    "VA": (11, 17),         # right verdicts per response: 1 1 1 0 - 2 3 0 2 0 1 -
    "ER": (6, 9),           # checks of wrong solutions in 4 6 7 7 8 9 9 10 11, refuted in 6 7 7 9 9 11
    "CP": (5, 7),           # "correct" in 1 2 3 4 6 7 8, true in all but 4 and 8
    "ICR": (3, 7), "CIR": (1, 5), "CL": (4, 5), "CS": (3, 7),
    "trials": (20, 12), "tokens": (780, 12), "finished": (11, 12), "no_verdict": (1, 17),
    "repeats": (2, 8),      # retries in 3 4 6 7 7 9 9 11; 3 and the first one of 9 repeat
    "right_to_right": (4, 12), "right_to_wrong": (1, 12),
    "wrong_to_right": (3, 12), "wrong_to_wrong": (4, 12),
    "level_1_accuracy": (5, 6), "level_2_accuracy": (2, 6),
    "level_1_trials": (9, 6), "level_2_trials": (11, 6),
    "cut_after_1_accuracy": (5, 12), "cut_after_2_accuracy": (6, 12), "cut_after_3_accuracy": (7, 12),
}


def test_every_metric_by_hand():
    m = evaluate.metrics(evaluate.score(rows()))
    for name, (top, bottom) in BY_HAND.items():
        assert (m[name]["numerator"], m[name]["denominator"]) == (top, bottom), name
        assert m[name]["value"] == pytest.approx(top / bottom), name
        assert m[name]["low"] <= m[name]["value"] <= m[name]["high"], name
    # P = 5/12, F = 7/12: (7/12 - 25/144) / (2 * 5/12 * 7/12) = (59/144) / (70/144)
    assert m["RSS"]["value"] == pytest.approx(59 / 70)
    assert set(m) == set(BY_HAND) | {"RSS"} | {f"cut_after_{j}_tokens" for j in (1, 2, 3)}


def test_no_gain_is_half_and_the_bounds_are_nought_and_one():
    def rss(first, last, n=100):
        one = [response(10 if i < first else 11, I, 10 if i < last else 11, C) for i in range(n)]
        return evaluate.metrics(evaluate.score(rows(one)), 10)["RSS"]["value"]
    assert rss(40, 40) == pytest.approx(0.5)
    assert rss(40, 16) == pytest.approx(0)       # 0.4² right
    assert rss(40, 64) == pytest.approx(1)       # 1 - 0.6² right
    assert rss(100, 90) is None and rss(0, 0) is None


def test_tokens_up_to_a_cut():
    text = response(11, I, 10, C)
    m = evaluate.metrics(evaluate.score(rows([text, response(10)])))
    first, _, second, _ = parse_actions(text)
    both = (10 * first.end / len(text) + 20) / 2    # tokens are 10 and 20; the second is one solution
    assert m["cut_after_1_tokens"]["value"] == pytest.approx(both)
    assert m["cut_after_2_tokens"]["value"] == pytest.approx((10 * second.end / len(text) + 20) / 2)


def test_undefined_is_none_and_a_dash_never_nought():
    m = evaluate.metrics(evaluate.score(rows([response(10), response(10)], level=None, tokens=[None])))
    for name in ("VA", "ER", "CP", "ICR", "CS", "RSS", "no_verdict", "repeats", "tokens"):
        assert m[name]["value"] is m[name]["low"] is m[name]["high"] is None, name
        assert evaluate.cell(name, m[name]).startswith("–"), name
    assert m["CIR"]["value"] == 0 and evaluate.cell("CIR", m["CIR"]).startswith("0.0 [0.0, ")
    assert not any(name.startswith("level_") for name in m)


def test_fields_that_other_engines_leave_out(tmp_path):
    bare = [{"problem": r["problem"], "answer": 10, "responses": r["responses"]} for r in rows()]
    m = evaluate.metrics(evaluate.score(list(evaluate.load(write(tmp_path / "a.jsonl", bare)).values())))
    assert m["final_accuracy"]["numerator"] == 7
    assert m["tokens"]["value"] is m["finished"]["value"] is None


def test_level_is_read_as_math_writes_it():
    assert evaluate.score(rows([response(10)], level="Level 3"))[0].level == "3"


# -------------------------------------------------------------------------------------- several responses

def test_pass_at_k_is_the_mean_over_all_subsets():
    for n, c in itertools.product(range(1, 8), range(8)):
        for k in range(1, n + 1):
            if c <= n:
                subsets = list(itertools.combinations([True] * c + [False] * (n - c), k))
                assert evaluate.pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_majority():
    assert evaluate.majority([True, "7", "7"]) == 0
    assert evaluate.majority([True, "7", None, None, None]) == 0.5    # no answer does not vote
    assert evaluate.majority([True, True, "7"]) == 1
    assert evaluate.majority([None]) == 0


def test_several_responses_by_hand():
    texts = [*map(response, ["10", "10.0", "7", "7"]),          # a tie of right and 7
             *map(response, ["0.5", "\\frac{1}{2}", "10", None])]  # two spellings of one wrong answer win
    scored = evaluate.score(rows(texts, samples=4))
    m = evaluate.metrics(scored)
    assert scored[4].answers == scored[5].answers and scored[7].answers == [None]
    assert m["avg@4"]["value"] == pytest.approx((2 / 4 + 1 / 4) / 2)
    assert m["pass@1"]["value"] == m["avg@4"]["value"]
    assert m["pass@2"]["value"] == pytest.approx((5 / 6 + 1 / 2) / 2)
    assert m["pass@4"]["value"] == 1
    assert m["maj@2"]["value"] == pytest.approx(((1 + 0) / 2 + (0 + 1) / 2) / 2)
    assert m["maj@4"]["value"] == pytest.approx((1 / 2 + 0) / 2)
    assert m["distinct_answers"]["value"] == 2
    assert "maj@1" not in m


def test_repeated_answers_are_judged_once(monkeypatch):
    seen, judge_many = [], evaluate.judge_many
    monkeypatch.setattr(evaluate, "judge_many",
                        lambda texts, *rest: seen.append(len(texts)) or judge_many(texts, *rest))
    evaluate.score(rows([response(11, I, a, C) for a in (11, 10, 12, 12)] * 4, samples=16))
    assert seen == [3, 1]       # 10, 11, 12 against the gold answer; 12 against 11


# --------------------------------------------------------------------------------------------- error bars

def test_wilson_of_single_responses():
    m = evaluate.metrics(evaluate.score(rows()))["final_accuracy"]
    assert (m["low"], m["high"]) == pytest.approx((0.3195, 0.8067), abs=1e-4)   # 7 of 12, from a table


def test_wilson_with_a_design_effect_by_hand():
    # Σ (hits - p n)² = 1460/289 over the problems, n p (1 - p) = 1122/289: the 17 checks count as 17 / 1.301
    p, n = 11 / 17, 17 / (1460 / 1122)
    m = evaluate.metrics(evaluate.score(rows()))["VA"]
    for end in (m["low"], m["high"]):     # Wilson's ends solve (p - x)² = z² x (1 - x) / n
        assert (p - end) ** 2 == pytest.approx(1.959964 ** 2 * end * (1 - end) / n)


def test_copies_of_a_response_add_no_certainty():
    one = evaluate.metrics(evaluate.score(rows()))
    four = evaluate.metrics(evaluate.score(rows([t for t in TWELVE for _ in range(4)], samples=4)))
    for name in ("first_accuracy", "final_accuracy", "VA", "ICR", "CIR", "wrong_to_right", "trials"):
        for end in ("low", "high"):
            assert four[name][end] == pytest.approx(one[name][end]), name
    sure = evaluate.metrics(evaluate.score(rows([response(10)] * 40, samples=4)))["final_accuracy"]
    plain = evaluate.metrics(evaluate.score(rows([response(10)] * 10)))["final_accuracy"]
    assert (sure["low"], sure["high"]) == (plain["low"], plain["high"])


def draw(rng, n, first, gain, loss):
    """n responses: first right with `first`, wrong ones mended with `gain`, right ones spoilt with `loss`."""
    out = []
    for _ in range(n):
        right = rng.random() < first
        then = rng.random() < (1 - loss if right else gain)
        out.append(response(10 if right else 11, I, 10 if then else 12, C))
    return out


def test_bootstrap_interval_is_the_normal_one_for_a_mean():
    texts = [response(*[11, I] * (i % 4), 10, C) for i in range(400)]    # trials 1 2 3 4
    m = evaluate.metrics(evaluate.score(rows(texts)))["trials"]
    half = 1.96 * math.sqrt(1.25 / 400)
    assert (m["low"], m["high"]) == pytest.approx((2.5 - half, 2.5 + half), abs=0.02)


def test_difference_is_paired():
    rng = np.random.default_rng(0)
    a = evaluate.score(rows(draw(rng, 300, 0.5, 0, 0)))
    b = [evaluate.Scored(**{**r.__dict__, "right": [True, True] if i % 10 == 0 else r.right})
         for i, r in enumerate(a)]       # one answer in ten made right, all others the same
    d = evaluate.differences(b, a)["final_accuracy"]
    gains = np.array([y.right[-1] - x.right[-1] for x, y in zip(a, b)], float)
    half = 1.96 * gains.std() / math.sqrt(300)      # unpaired it would be four times as wide
    assert d["value"] == pytest.approx(gains.mean())
    assert (d["low"], d["high"]) == pytest.approx((gains.mean() - half, gains.mean() + half), abs=0.006)
    assert d["p"] < 0.005
    same = evaluate.differences(a, a)["final_accuracy"]
    assert (same["value"], same["low"], same["high"], same["p"]) == (0, 0, 0, 1)


def test_p_values_are_fair_when_nothing_differs():
    rng, low = np.random.default_rng(1), 0
    scored = {right: evaluate.score(rows([response(10 if right else 11, C)]))[0] for right in (True, False)}

    def model():
        return [evaluate.Scored(**{**scored[bool(rng.random() < 0.6)].__dict__, "id": str(i)})
                for i in range(80)]
    for _ in range(100):
        low += evaluate.differences(model(), model(), bootstrap=200)["final_accuracy"]["p"] < 0.05
    assert 1 <= low <= 14       # 5 expected; a binomial count is outside with p < 0.01


# ------------------------------------------------------------------------------------------------ the report

def test_report(tmp_path, run, monkeypatch):
    nasty = "<script>alert('x')</script> & \ud800"
    base, other = rows(), rows([response(10, C)] * 6 + TWELVE[6:])
    base[0]["problem"] = other[0]["problem"] = nasty
    base[0]["responses"][0] += nasty
    write(tmp_path / "base.jsonl", base)
    write(tmp_path / "b.jsonl", other[::-1])     # the order of the lines does not matter
    steps = [{"step": i, "kl": 1 / (i + 1), "VA": None, "note": "text", "reward": i} for i in range(30)]
    write(tmp_path / "metrics.jsonl", steps)
    monkeypatch.chdir(tmp_path)
    status, out, err = run("base=base.jsonl", "<BI>=b.jsonl", "--out", "report", "--metrics",
                           "<BI>=metrics.jsonl", pictures=True)
    assert (status, err) == (0, "")
    report = json.loads((tmp_path / "report" / "report.json").read_text("utf-8"))
    assert report["models"]["base"] == evaluate.metrics(evaluate.score(base), 200)
    assert report["models"]["<BI>"]["final_accuracy"]["numerator"] == 8
    assert report["differences"]["<BI>"]["final_accuracy"]["value"] == pytest.approx(1 / 12)
    assert list(report["differences"]) == ["<BI>"] and report["against"] == "base"

    text = (tmp_path / "report" / "report.html").read_text("utf-8")
    assert "<script" not in text and html.escape(nasty[:-1]) in text and "&lt;BI&gt;" in text
    assert not re.search(r"(src|href)=.?(?!data:)\w+:", text)       # nothing is fetched
    pictures = re.findall(r"data:image/png;base64,([^\"]+)", text)
    assert len(pictures) == 2 and all(base64.b64decode(p).startswith(b"\x89PNG") for p in pictures)
    assert text.count("<details>") == text.count("</details>") == 2 * (4 + 12)
    written = sorted(p.name for p in (tmp_path / "report").iterdir())
    assert written == ["report.html", "report.json", "report.md"]


def test_the_terminal_is_short_and_the_file_has_all(tmp_path, run):
    write(tmp_path / "a.jsonl", rows())
    write(tmp_path / "b.jsonl", rows([response(10, C)] * 6 + TWELVE[6:]))
    status, out, err = run(f"a={tmp_path}/a.jsonl", f"b={tmp_path}/b.jsonl", "--out", tmp_path / "r")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) < 20 and max(map(len, lines)) < 150
    cells = [[c.strip() for c in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    columns = "first final VA ER CP ICR CIR trials finished L1 L2".split()
    assert cells[0] == ["", *columns]
    # 7 of 12 by Wilson; ... ; 20 trials in 12 responses; levels 5 of 6, 2 of 6
    assert cells[2] == ["a", "41.7 [19.3, 68.0]", "58.3 [32.0, 80.7]", "64.7", "66.7", "71.4", "42.9", "20.0",
                        "1.67", "91.7", "83.3", "33.3"]
    assert cells[4] == ["", "final accuracy", "first accuracy", "VA"] and cells[6][0] == "b"
    assert re.fullmatch(r"\+8\.3 \[[+-]\d+\.\d, \+\d+\.\d\] p=\d\.\d{3}", cells[6][1])
    tables = [t.splitlines() for t in out.split("\n\n") if t.startswith("|")]
    assert [len({len(line) for line in table}) for table in tables] == [1, 1]       # aligned
    assert lines[-1] == f"wrote report.json, report.md, report.html to {tmp_path}/r"
    whole = (tmp_path / "r" / "report.md").read_text()
    assert all("\n".join(table) in whole for table in tables)
    assert "| 64.7 [" in whole and "11/17" in whole and "| cut after 2 tokens" in whole


def test_columns_that_are_undefined_are_left_out(tmp_path, run):
    write(tmp_path / "a.jsonl", rows([response(10), response(11)], level=None, finished=[None]))
    status, out, err = run(f"a={tmp_path}/a.jsonl", "--out", tmp_path / "r")
    header = [c.strip() for c in out.splitlines()[2].split("|")[1:-1]]
    assert header == ["", "first", "final", "ICR", "CIR", "trials"] and "difference" not in out


def test_page_shows_the_rewards_of_the_verifier():
    sample = rows()
    for row, r in zip(sample, evaluate.score(sample)):
        text = evaluate.trajectory(row, row["responses"][0], r)
        shown = [int(x) for x in re.findall(r'class="action \w+">\w+ ([+-]1)', text)]
        assert shown == action_rewards(parse_actions(row["responses"][0]), "10", row["finished"][0])
        assert [c == "good" for c in re.findall(r'"action (\w+)"', text)] == [x > 0 for x in shown]


def test_without_matplotlib(tmp_path, run_script, monkeypatch):
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "matplotlib.py").write_text("raise ImportError('hidden by the test')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "none"))
    write(tmp_path / "a.jsonl", rows())
    done = run_script("evaluate.py", "a=a.jsonl", "--out", "r")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("matplotlib is not installed") == 1
    text = (tmp_path / "r" / "report.html").read_text("utf-8")
    assert "no pictures" in text and "<img" not in text and "11/17" in text


def test_a_single_problem_has_no_bootstrap(tmp_path, run):
    write(tmp_path / "a.jsonl", rows([response(10, C)]))
    status, out, err = run(f"a={tmp_path}/a.jsonl", f"b={tmp_path}/a.jsonl", "--out", tmp_path / "r")
    assert (status, err) == (0, "")
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    assert report["models"]["a"]["trials"] == {"value": 1, "numerator": 1, "denominator": 1,
                                               "low": None, "high": None}
    assert report["differences"]["b"]["VA"] == {"value": 0, "low": None, "high": None, "p": None}


def test_intersect(tmp_path, run):
    write(tmp_path / "a.jsonl", rows())
    write(tmp_path / "b.jsonl", rows()[2:] + [{**rows()[0], "id": "new"}])
    names = f"a={tmp_path}/a.jsonl", f"b={tmp_path}/b.jsonl", f"c={tmp_path}/a.jsonl", "--out", tmp_path / "r"
    status, _, err = run(*names)
    assert status == 2 and err.startswith("error: a (12) and b (11) have different problems, like ")
    assert "--intersect compares the 10 that all have" in err and not (tmp_path / "r").exists()
    assert run(*names, "--intersect")[0] == 0
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    assert report["problems"] == 10 and list(report["differences"]) == ["b", "c"]
    assert report["models"]["a"] == report["models"]["b"]
    assert run(*names, "--intersect")[0] == 2       # a report is there, and --force overwrites it
    assert run(f"a={tmp_path}/a.jsonl", "--out", tmp_path / "r", "--force")[0] == 0
    assert json.loads((tmp_path / "r" / "report.json").read_text())["problems"] == 12


# ------------------------------------------------------------------------------------------------- bad input

GOOD = json.dumps(rows()[0])


@pytest.mark.parametrize("change, line, field", [
    ({"answer": None}, 3, "answer"), ({"answer": " "}, 3, "answer"), ({"problem": None}, 3, "problem"),
    ({"responses": []}, 3, "responses"), ({"responses": "text"}, 3, "responses"),
    ({"responses": 7}, 3, "responses"),
    ({"responses": [1]}, 3, "responses"),
    ({"finished": [True, True]}, 3, "finished"), ({"finished": ["yes"]}, 3, "finished"),
    ({"tokens": 7}, 3, "tokens"), ({"tokens": ["7"]}, 3, "tokens"), ({"id": "p0"}, 3, "id"),
])
def test_bad_line(tmp_path, run, change, line, field):
    path = tmp_path / "a.jsonl"     # the blank line counts
    path.write_text(GOOD + "\n\n" + json.dumps({**rows()[1], **change}) + "\n")
    status, out, err = run(f"a={path}", "--out", tmp_path / "r")
    assert status == 2 and out == "" and err.count("\n") == 1
    assert err.startswith(f"error: {path}:{line}: field '{field}' ")
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("argv, message", [
    (["a.jsonl"], "not NAME=FILE"), (["=a.jsonl"], "not NAME=FILE"),
    (["a=a.jsonl", "a=a.jsonl"], "name of its own"), (["a=absent.jsonl"], "absent.jsonl"),
    (["a=empty.jsonl"], "empty.jsonl"), (["a=broken.jsonl"], "broken.jsonl:2"),
    (["a=a.jsonl", "b=other.jsonl"], "differ in field 'answer' of problem 'p3'"),
    (["a=a.jsonl", "b=apart.jsonl", "--intersect"], "compares the 0"),
    (["a=a.jsonl", "--metrics", "a=absent.jsonl"], "absent.jsonl"),
    (["a=a.jsonl", "--metrics", "a=text.jsonl"], "text.jsonl:1: field 'step'"),
    (["a=a.jsonl", "--bootstrap", "0"], "--bootstrap"),
])
def test_bad_call(tmp_path, run, monkeypatch, argv, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.jsonl", rows())
    write(tmp_path / "other.jsonl", [{**r, "answer": "11" if r["id"] == "p3" else "10"} for r in rows()])
    write(tmp_path / "apart.jsonl", [{**r, "id": "x" + r["id"]} for r in rows()])
    write(tmp_path / "text.jsonl", [{"note": "no step"}])
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "broken.jsonl").write_text(GOOD + "\n{\n")
    status, out, err = run("--out", "r", *argv)
    assert status == 2 and err.startswith("error: ") and err.count("\n") == 1 and message in err
    assert not (tmp_path / "r").exists()
