"""Mean and standard deviation over seeds of the reports that run.sh leaves behind, as a Markdown table.

    for seed in 0 1 2; do SEED=$seed bash run.sh; done
    python seeds.py results/seed*/report.json

The last column is the gain in final accuracy over BI, with the standard error of its mean over the seeds.
Reads report.json files of evaluate.py. Writes to the terminal only.
"""
import json
import statistics
import sys
from pathlib import Path

import model

COLUMNS = {"first_accuracy": "first", "final_accuracy": "final", "VA": "VA", "ER": "ER", "CP": "CP",
           "ICR": "ICR", "CIR": "CIR", "trials": "trials", "finished": "finished"}


def mean_sd(values: list) -> str:
    """'52.3 ± 1.1' for two or more numbers, '–' where one of them is undefined.

    >>> mean_sd([1.0, 2.0, 3.0]), mean_sd([1.0, None])
    ('2.0 ± 1.0', '–')
    """
    if None in values:
        return "–"
    mean = statistics.mean(values)
    return f"{mean:.1f} ± {statistics.stdev(values):.1f}" if len(values) > 1 else f"{mean:.1f}"


def table(reports: list[dict], baseline: str = "BI") -> str:
    """Markdown: one line a model, mean ± standard deviation over the reports, percent but for trials."""
    levels = sorted({key for r in reports for m in r["models"].values() for key in m
                     if key.startswith("level_") and key.endswith("_accuracy")})
    names = {**COLUMNS, **{key: f"L{key.split('_')[1]}" for key in levels}}
    lines = ["| model | " + " | ".join(names.values()) + f" | final − {baseline} |",
             "| --- |" + " --- |" * (len(names) + 1)]
    for name in reports[0]["models"]:
        cells = []
        for key in names:
            scale = 1 if key == "trials" else 100
            values = [r["models"][name].get(key, {}).get("value") for r in reports]
            cells.append(mean_sd([v if v is None else scale * v for v in values]))
        final = [[100 * r["models"][m]["final_accuracy"]["value"] for r in reports] for m in (name, baseline)]
        gains = [a - b for a, b in zip(*final)]
        error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else float("nan")
        cells.append("" if name == baseline else f"{statistics.mean(gains):+.1f} (s.e. {error:.1f})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def read_report(path: str) -> dict:
    """A report.json of evaluate.py; InputError where it is none."""
    try:
        report = json.loads(Path(path).read_text())
        report["models"], report["problems"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise model.InputError(f"{path}: not a report.json of evaluate.py ({error})") from None
    return report


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        raise model.InputError("usage: python seeds.py results/seed*/report.json")
    reports = [read_report(path) for path in sys.argv[1:]]
    if len({tuple(r["models"]) for r in reports}) > 1:
        raise model.InputError("the reports compare different models")
    print(f"{len(reports)} seeds, {reports[0]['problems']} problems each, mean ± standard deviation, percent")
    print(table(reports))


if __name__ == "__main__":
    model.run_main(main)
