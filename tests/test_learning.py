"""What the method claims, read from real runs on the toy world: bash run.sh, then bash test.sh -m slow.

Counted anew from the responses in runs/seed*/test-*.jsonl; the paired differences are pooled over the seeds.
"""
import json
from statistics import mean

import pytest

import verifier

pytestmark = pytest.mark.slow
NAMES = ("base", "bi", "orl", "prl")


def read(path):
    """One record a problem: what its greedy response did."""
    records = []
    for row in map(json.loads, path.read_text().splitlines()):
        actions = verifier.parse_actions(row["responses"][0])
        answers = [verifier.extract_boxed(a.text) for a in actions if a.type == "solve"]
        right = [verifier.judge(a.text, row["answer"]) for a in actions if a.type == "solve"]
        says = [verifier.parse_verdict(a.text) for a in actions if a.type == "verify"]
        records.append({
            "id": row["id"], "level": row["level"], "subject": row["subject"], "trials": len(right),
            "first": bool(right and right[0]), "final": bool(right and right[-1]),
            "finished": row["finished"][0], "checks": len(says),
            "true_checks": sum((v == "correct") == r for v, r in zip(says, right) if v),
            "repeats": sum(answer in answers[:i] for i, answer in enumerate(answers))})
    return records


@pytest.fixture(scope="module")
def runs(repo):
    """A dict of records for every seed that has all four files."""
    found = []
    for folder in sorted(repo.glob("runs/seed*")):
        paths = {name: folder / f"test-{name}.jsonl" for name in NAMES}
        if all(path.exists() for path in paths.values()):
            found.append({name: read(path) for name, path in paths.items()})
            assert len({tuple(r["id"] for r in records) for records in found[-1].values()}) == 1
    if not found:
        pytest.skip("no runs/seed*/test-*.jsonl: run `bash run.sh` first")
    return found


def gain(runs, name, reference, what, subject=None):
    """Mean paired difference over problems and seeds, and its standard error, in points."""
    d = [100 * (a[what] - b[what]) for run in runs for a, b in zip(run[name], run[reference])
         if subject in (None, a["subject"])]
    centre = mean(d)
    return centre, (sum((x - centre) ** 2 for x in d) / len(d) ** 2) ** 0.5


def share(runs, name, top, below):
    """Sum of one count over the sum of another, over all problems and seeds."""
    records = [r for run in runs for r in run[name]]
    return sum(r[top] for r in records) / sum(below(r) for r in records)


def test_behaviour_initialisation_gains(runs):
    """BI - base: eight points in the end, with the first answer as it was."""
    assert gain(runs, "bi", "base", "final")[0] >= 8
    assert abs(gain(runs, "bi", "base", "first")[0]) <= 1.5


@pytest.mark.parametrize("name", ["orl", "prl"])
@pytest.mark.parametrize("subject", [None, "equation"])
def test_rl_gains_also_where_every_check_was_a_full_substitution(runs, name, subject):
    points, error = gain(runs, name, "bi", "final", subject)
    assert points >= 3 and points > 2 * error, f"{name} - BI: {points:+.1f}, standard error {error:.1f}"


@pytest.mark.parametrize("name", ["orl", "prl"])
def test_rl_mends_more_repeats_less_and_keeps_the_first_answer(runs, name):
    mended = {n: mean(r["final"] for run in runs for r in run[n] if not r["first"]) for n in ("bi", name)}
    assert mended[name] > mended["bi"]
    repeats = {n: share(runs, n, "repeats", lambda r: r["trials"] - 1) for n in ("bi", name)}
    assert repeats["bi"] - repeats[name] >= 0.10, repeats
    assert abs(gain(runs, name, "bi", "first")[0]) <= 1.5


def test_process_rl_verifies_better_than_outcome_rl(runs):
    """The paper's Figure 3."""
    accuracy = {n: share(runs, n, "true_checks", lambda r: r["checks"]) for n in ("bi", "orl", "prl")}
    assert accuracy["prl"] > accuracy["orl"] and accuracy["prl"] > accuracy["bi"], accuracy


@pytest.mark.parametrize("name", ["bi", "orl", "prl"])
def test_trials_rise_with_the_level(runs, name):
    trials = [mean(r["trials"] for run in runs for r in run[name] if r["level"] == level) for level in range(1, 6)]
    assert trials == sorted(trials) and trials[4] > trials[0] + 0.3, trials
