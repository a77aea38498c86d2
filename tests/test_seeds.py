"""seeds.py: the table over seeds and the picture, from two small written-out reports."""
import json
import subprocess
import sys

import pytest

import seeds


def report(final, first=0.5):
    """A report.json of evaluate.py with base and BI, as far as seeds.py reads it."""
    def of(**numbers):
        return {key: {"value": value} for key, value in numbers.items()}
    levels = {"level_1_trials": 1.0, "level_2_trials": 2.5, "level_1_accuracy": 0.9, "level_2_accuracy": 0.4}
    return {"problems": 10, "models": {
        "BI": of(first_accuracy=first, final_accuracy=final, VA=0.9, ER=0.8, CP=0.7, trials=2.0, **levels),
        "base": of(first_accuracy=first, final_accuracy=first, trials=1.0, **levels)}}


def test_table_by_hand():
    """Finals 70 and 80: mean 75, deviation 7.07; base - BI is -20 and -30, so -25 with a standard error of 5."""
    text = seeds.table([report(0.7), report(0.8)])
    assert "75.0 ± 7.1" in text and "-25.0 (s.e. 5.0)" in text and "90.0 ± 0.0" in text
    base = text.splitlines()[2]
    assert base.startswith("| base") and base.count("–") >= 3, "the base comes first; it has no VA, ER, CP"


@pytest.mark.parametrize("content", ["{", "{}", "[]"])
def test_what_is_no_report_is_one_line(tmp_path, repo, content):
    (tmp_path / "r.json").write_text(content)
    done = subprocess.run([sys.executable, str(repo / "seeds.py"), "r.json"], capture_output=True, text=True,
                          cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_picture(tmp_path, repo):
    pytest.importorskip("matplotlib")
    for i, final in enumerate((0.7, 0.8)):
        (tmp_path / f"{i}.json").write_text(json.dumps(report(final)))
    done = subprocess.run([sys.executable, str(repo / "seeds.py"), "0.json", "1.json", "--picture", "p.png"],
                          capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG" and "2 seeds" in done.stdout
