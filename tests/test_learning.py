"""What the method claims, read from real runs on the toy world: bash run.sh, then bash test.sh -m slow.

Every results/seed*/report.json counts; the paired differences to BI are pooled over the seeds.
"""
import json
from statistics import mean

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def reports(repo):
    found = [json.loads(path.read_text()) for path in sorted(repo.glob("results/seed*/report.json"))]
    if not found:
        pytest.skip("no results/seed*/report.json: run `bash run.sh` first")
    assert all(report["against"] == "BI" for report in found)
    return found


def over_seeds(reports, model, metric):
    return mean(report["models"][model][metric]["value"] for report in reports)


@pytest.mark.parametrize("model, sign", [("base", -1), ("ORL", 1), ("PRL", 1)])
def test_final_accuracy_differs_from_bi_by_more_than_two_standard_errors(reports, model, sign):
    """base < BI, ORL > BI, PRL > BI."""
    gains = [report["differences"][model]["final_accuracy"] for report in reports]
    errors = [(gain["high"] - gain["low"]) / (2 * 1.96) for gain in gains]
    gain, error = mean(gain["value"] for gain in gains), sum(e * e for e in errors) ** 0.5 / len(errors)
    assert sign * gain > 2 * error > 0, f"{model} - BI: {100 * gain:+.1f}, standard error {100 * error:.1f}"


@pytest.mark.parametrize("model", ["BI", "ORL", "PRL"])
def test_behaviour(reports, model):
    """It checks rightly, stops by itself, mends more than it spoils, and tries more at harder ones."""
    assert over_seeds(reports, model, "VA") >= (0.80 if model == "BI" else 0.95)     # BI trusts lucky checks
    assert over_seeds(reports, model, "finished") >= 0.97
    assert over_seeds(reports, model, "ICR") > over_seeds(reports, model, "CIR")
    trials = [over_seeds(reports, model, f"level={level} trials") for level in range(1, 6)]
    assert trials[1:] == sorted(trials[1:]) and trials[4] > trials[0] + 0.1, trials     # 1 and 2 are as easy
