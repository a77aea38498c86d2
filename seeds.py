"""Mean and standard deviation over seeds of the reports that run.sh leaves behind, as a Markdown table.

    for seed in 0 1 2; do SEED=$seed bash run.sh; done
    python seeds.py results/seed*/report.json [--picture FILE.png]

The last column is the gain in final accuracy over BI, with the standard error of its mean over the seeds.
Reads report.json files of evaluate.py. Writes the table to the terminal, and the picture (with matplotlib).
"""
import argparse
import json
import statistics
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
    for name in in_order(reports):
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


def picture(reports: list[dict], path: str) -> None:
    """Accuracy, verification and trials per level of every model: mean ± deviation over reports."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    levels = sorted({key[6:-7] for key in reports[0]["models"]["BI"] if key[:6] + key[-6:] == "level_trials"})
    panels = [("accuracy, %", {"first answer": "first_accuracy", "final answer": "final_accuracy"}, 100),
              ("verification, %", {"VA": "VA", "ER": "ER", "CP": "CP"}, 100),
              ("answers per problem, by level", {x: f"level_{x}_trials" for x in levels}, 1)]
    fig, axes = plt.subplots(1, 3, figsize=(9.8, 2.8), layout="constrained")
    for ax, (title, keys, scale) in zip(axes, panels):
        for i, name in enumerate(in_order(reports)):
            values = [[scale * r["models"][name][key]["value"] for r in reports] for key in keys.values()
                      if defined(reports, name, key)]
            at = [x + (i - 1.5) * 0.2 for x in range(len(values))]
            errors = [statistics.stdev(v) if len(v) > 1 else 0 for v in values]
            ax.bar(at, [statistics.mean(v) for v in values], 0.18, yerr=errors, label=name, color=f"C{i}")
        ax.set(title=title, ylim=(0, 104) if scale == 100 else None)
        ax.set_xticks(range(len(keys)), keys)
    axes[2].legend(fontsize=8, frameon=False)
    fig.savefig(path, dpi=120)


def in_order(reports: list[dict]) -> list[str]:
    """The models, the base first: evaluate.py puts the one first that the others are compared with."""
    return sorted(reports[0]["models"], key=lambda name: name != "base")


def defined(reports: list[dict], name: str, key: str) -> bool:
    """Is this metric defined in every report? The base verifies nothing."""
    return all(r["models"][name].get(key, {}).get("value") is not None for r in reports)


def read_report(path: str) -> dict:
    """A report.json of evaluate.py; InputError where it is none."""
    try:
        report = json.loads(Path(path).read_text())
        report["models"], report["problems"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise model.InputError(f"{path}: not a report.json of evaluate.py ({error})") from None
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reports", nargs="+", help="report.json files")
    parser.add_argument("--picture", help="PNG to write")
    args = parser.parse_args()
    reports = [read_report(path) for path in args.reports]
    if len({tuple(r["models"]) for r in reports}) > 1:
        raise model.InputError("the reports compare different models")
    print(f"{len(reports)} seeds, {reports[0]['problems']} problems each, mean ± standard deviation, percent")
    print(table(reports))
    if args.picture:
        picture(reports, args.picture)


if __name__ == "__main__":
    model.run_main(main)
