"""What the method claims, read from a real run on the toy world: bash run.sh, then bash test.sh -m slow.

Every results/seed*/report.json counts; the differences are paired, from the samples files that it names, and
pooled over the seeds.
"""
import json
from statistics import mean

import pytest

import evaluate

pytestmark = pytest.mark.slow
TRAINED = ("BI", "ORL", "PRL")


@pytest.fixture(scope="module")
def reports(repo):
    found = [json.loads(path.read_text()) for path in sorted(repo.glob("results/seed*/report.json"))]
    if not found:
        pytest.skip("no results/seed*/report.json: run `bash run.sh` first (about half an hour)")
    return found


@pytest.fixture(scope="module")
def scored(repo, reports):
    """[{model: its scored responses}] of each seed."""
    if not all((repo / path).exists() for report in reports for path in report["files"].values()):
        pytest.skip("the samples files of results/seed* are gone: run `bash run.sh` again")
    rows = [evaluate.align({n: evaluate.load(repo / p) for n, p in r["files"].items()}) for r in reports]
    return [{name: evaluate.score(r) for name, r in models.items()} for models in rows]


def over_seeds(reports, model, metric):
    return mean(report["models"][model][metric]["value"] for report in reports)


@pytest.mark.parametrize("better, worse", [("BI", "base"), ("ORL", "BI"), ("PRL", "BI")])
def test_final_accuracy_rises_by_more_than_two_standard_errors(scored, better, worse):
    gains = [evaluate.differences(s[better], s[worse])["final_accuracy"] for s in scored]
    errors = [(g["high"] - g["low"]) / (2 * 1.96) for g in gains]
    gain, error = mean(g["value"] for g in gains), sum(e * e for e in errors) ** 0.5 / len(errors)
    assert gain > 2 * error > 0, f"{better} - {worse}: {100 * gain:+.1f}, standard error {100 * error:.1f}"


@pytest.mark.parametrize("model", TRAINED)
def test_behaviour(reports, model):
    """It checks rightly, stops by itself, mends more first answers than it spoils, and tries harder at harder ones."""
    assert over_seeds(reports, model, "VA") >= 0.90
    assert over_seeds(reports, model, "finished") >= 0.97
    assert over_seeds(reports, model, "ICR") > over_seeds(reports, model, "CIR")
    trials = [over_seeds(reports, model, f"level_{level}_trials") for level in range(1, 6)]
    assert trials == sorted(trials) and trials[4] > trials[0] + 0.1, trials
