"""Evaluation (S²R appendix E, figures 3 and 4): every claim of the method as a number with its error bar.

Metrics, over all responses to the test set; s_j is the j-th solution, v_j the verification after it:
  first_accuracy, final_accuracy    share of responses whose first / last solution is right: P, F
  VA  (7)   share of verifications whose verdict is the truth; no verdict never is
  ER  (8)   among verifications of wrong solutions, the share that says "incorrect"
  CP  (9)   among verifications that say "correct", the share whose solution is right
  ICR (10)  P(last right | first wrong)      CIR (11)  P(last wrong | first right)
  CL, CS    P(last right | first right), P(last right | first wrong), of arXiv 2412.19513
  RSS       (F - P²) / (1 - (1 - P)² - P²), our reading of that paper: of two independent attempts the worst
            critic is right only if both are, the best if either is. 0 worst, 1/2 no gain, 1 best, unclipped
  trials, tokens, finished          solutions and tokens a response; share that ended by itself
  no_verdict, repeats               verifications without a verdict; retries that repeat an earlier answer
  right_to_wrong, ...               transition table, first solution to last, shares of all responses
  cut_after_j_accuracy, cut_after_j_tokens   had and paid if every response is cut after its j-th solution
  avg@K, pass@k, maj@k, distinct_answers     with K > 1 responses a problem; maj@k is the mean over disjoint
            groups of k, votes counted by equivalence class; no answer, no vote; a tie shares the point

95 % intervals. Shares: Wilson, n over the design effect (clustered over binomial variance, where above 1), as
responses to one problem depend on each other. All else: percentile bootstrap over problems, paired for
differences; the two-sided p is below 0.05 where that interval excludes 0. Undefined is `–`, never 0.
Run:   python evaluate.py base=base.jsonl PRL=prl.jsonl --metrics PRL=runs/prl/metrics.jsonl --out runs/report
Reads  samples files; finished and tokens may be absent; `id`, else the text, says which problem it is.
Writes a summary to the terminal, OUT/report.json, OUT/report.md, OUT/report.html (pictures need matplotlib).
Map:   load, align, score · counts, estimates, metrics, differences · tables · pictures · page · main.
Departures: a solution cut off by the token limit is judged by its boxed answer like any other (training gives
it -1). Tokens up to the end of a solution are estimated from its share of the response's characters.
"""
import argparse
import base64
import html
import io
import json
import math
import os
from collections import Counter
from dataclasses import dataclass
from itertools import combinations, zip_longest
from pathlib import Path

import numpy as np

from model import InputError, read_jsonl, run_main
from verifier import check_gold, extract_boxed, judge_many, parse_actions, parse_verdict

VERDICTS = ("incorrect", "correct")  # by V_golden
CELLS = {f"{a}_to_{b}": (a == "right", b == "right") for a in ("right", "wrong") for b in ("right", "wrong")}
SUMMARY = ("first_accuracy", "final_accuracy", "VA", "ER", "CP", "ICR", "CIR", "trials", "finished")
CURVES = ("eval_accuracy", "reward", "VA", "ICR", "kl", "tokens")  # of metrics.jsonl


def parse_args():
    p = argparse.ArgumentParser(description="Compare models by their samples files (S2R appendix E).")
    p.add_argument("models", nargs="+", metavar="NAME=SAMPLES", help="samples files, the baseline first")
    p.add_argument("--out", required=True, help="folder for report.json, report.md, report.html")
    p.add_argument("--intersect", action="store_true", help="compare on the problems that all files have")
    p.add_argument("--metrics", action="append", default=[], metavar="NAME=FILE", help="its metrics.jsonl")
    p.add_argument("--bootstrap", type=int, default=2000, help="resamples of the problems")
    p.add_argument("--seed", type=int, default=0, help="of the bootstrap and of the choice of trajectories")
    p.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that judge")
    p.add_argument("--force", action="store_true", help="overwrite an earlier report")
    return p.parse_args()


@dataclass
class Scored:
    """One response, judged."""
    id: str
    level: str | None
    tokens: int | None
    finished: bool | None
    right: list      # of each solution: V_golden(s_j)
    answers: list    # of each solution: class of its answer; True right, else its first spelling, None none
    spent: list      # of each solution: tokens up to its end
    verdicts: list   # of each verification: (Parser(v_j), V_golden(s_j))


def load(path):
    """Samples file -> {id: row}. A bad line is an InputError naming file, line and field."""
    rows = {}
    def fault(row):
        row["answer"], row["id"] = str(row["answer"]), str(row.get("id", row["problem"]))
        if reason := check_gold(row["answer"]):
            return f"field 'answer' is no usable gold answer: {reason}"
        n, none = len(row["responses"]) if isinstance(row["responses"], list) else 0, type(None)
        for field, *kinds in (("responses", str), ("finished", bool, none), ("tokens", int, none)):
            values = row.setdefault(field, [None] * n)  # other engines may not write the last two
            if not n or not isinstance(values, list) or len(values) != n or {*map(type, values)} - {*kinds}:
                return f"field '{field}' is not a list of one {kinds[0].__name__} a response"
        if rows.setdefault(row["id"], row) is not row:
            return f"field 'id' {row['id'][:60]!r} appears twice"
    read_jsonl(path, ("problem", "answer", "responses"), fault)
    return rows


def align(models, intersect=False):
    """{name: {id: row}} -> {name: [row]}, the same problems in the same order for every model."""
    base, first = next(iter(models.items()))
    common = [i for i in first if all(i in rows for rows in models.values())]
    for name, rows in models.items():
        odd = set(first) ^ set(rows)
        if odd and (not intersect or not common):
            raise InputError(f"{base} ({len(first)}) and {name} ({len(rows)}) have different problems, like "
                             f"{min(odd)[:60]!r}; --intersect compares the {len(common)} that all have")
        if odd := [i for i in common if rows[i]["answer"] != first[i]["answer"]]:
            raise InputError(f"{base} and {name} differ in field 'answer' of problem {odd[0][:60]!r}")
    return {name: [rows[i] for i in common] for name, rows in models.items()}


def score(rows, workers=1):
    """Samples rows -> list of Scored, one a response, in order. Repeats of an answer are judged once."""
    cut = [[parse_actions(text) for text in row["responses"]] for row in rows]
    boxes = [{extract_boxed(a.text): a.text for actions in group for a in actions if a.type == "solve"}
             for group in cut]  # of each problem: answer -> a solution that gives it
    todo = [(i, answer) for i, box in enumerate(boxes) for answer in box]
    judged = judge_many([boxes[i][a] for i, a in todo], [rows[i]["answer"] for i, _ in todo], workers)
    right = dict(zip(todo, judged))
    wrong = [[a for a in box if a is not None and not right[i, a]] for i, box in enumerate(boxes)]
    pairs = list(dict.fromkeys((b, a) for answers in wrong for a, b in combinations(answers, 2)))
    judged = judge_many([f"\\boxed{{{b}}}" for b, _ in pairs], [a for _, a in pairs], workers)
    same = {pair for pair, ok in zip(pairs, judged) if ok}
    scored = []
    for i, (row, group) in enumerate(zip(rows, cut)):
        level = None if row.get("level") is None else str(row["level"]).removeprefix("Level").strip()
        kinds = {a: next((b for b in wrong[i] if a == b or (a, b) in same), None) for a in boxes[i]}
        for text, actions, tokens, finished in zip(row["responses"], group, row["tokens"], row["finished"]):
            r = Scored(row["id"], level, tokens, finished, [], [], [], [])
            for a in actions:
                if a.type == "verify":
                    r.verdicts.append((parse_verdict(a.text), r.right[-1]))
                    continue
                answer = extract_boxed(a.text)
                r.right.append(right[i, answer])
                r.answers.append(right[i, answer] or kinds[answer])
                r.spent.append((tokens or 0) * a.end / max(1, len(text)))
            scored.append(r)
    return scored


def pass_at_k(n, c, k):
    """Unbiased P(one of k is right) where c of n are: 1 - C(n-c, k) / C(n, k). (4, 1, 2) -> 1/2."""
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def majority(votes):
    """Answer classes -> the vote's point: [True, True, "7", None] -> 1, [True, "7"] -> 1/2, [None] -> 0."""
    tally = Counter(v for v in votes if v is not None)
    best = [v for v, c in tally.items() if c == max(tally.values())]
    return (True in best) / max(1, len(best))


def counts(group, samples, trials):
    """Scored responses to one problem -> {metric: (numerator, denominator)}, cut_after up to `trials`.

    samples: the fewest responses that any problem has."""
    def share(values):
        values = [v for v in values if v is not None]
        return sum(values), len(values)
    ends = [(r.right[0], r.right[-1]) for r in group]
    checks = [c for r in group for c in r.verdicts]
    mended, kept = share(b for a, b in ends if not a), share(b for a, b in ends if a)
    out = {
        "first_accuracy": share(a for a, _ in ends), "final_accuracy": share(b for _, b in ends),
        "VA": share(v == VERDICTS[right] for v, right in checks),
        "ER": share(v == "incorrect" for v, right in checks if not right),
        "CP": share(right for v, right in checks if v == "correct"),
        "ICR": mended, "CIR": (kept[1] - kept[0], kept[1]), "CL": kept, "CS": mended, "RSS": (0, 0),
        "trials": share(len(r.right) for r in group), "tokens": share(r.tokens for r in group),
        "finished": share(r.finished for r in group), "no_verdict": share(v is None for v, _ in checks),
        "repeats": share(a is not None and a in r.answers[:j] for r in group
                         for j, a in enumerate(r.answers) if j),
        **{name: share(e == cell for e in ends) for name, cell in CELLS.items()}}
    for j in range(1, trials + 1):
        out[f"cut_after_{j}_accuracy"] = share(r.right[:j][-1] for r in group)
        out[f"cut_after_{j}_tokens"] = share(r.tokens and (r.spent + [r.tokens] * j)[j - 1] for r in group)
    if samples > 1:
        n, right, votes = len(group), sum(b for _, b in ends), [r.answers[-1] for r in group]
        ks = sorted({2 ** i for i in range(samples.bit_length())} | {samples})
        out[f"avg@{samples}"] = sum(b for _, b in ends[:samples]) / samples, 1
        out |= {f"pass@{k}": (pass_at_k(n, right, k), 1) for k in ks}
        out |= {f"maj@{k}": (sum(majority(votes[i * k:i * k + k]) for i in range(n // k)) / (n // k), 1)
                for k in ks[1:]}
        out["distinct_answers"] = len(set(votes) - {None}), 1
    if group[0].level is not None:
        out[f"level_{group[0].level}_accuracy"] = out["final_accuracy"]
        out[f"level_{group[0].level}_trials"] = out["trials"]
    return out


def tallies(scored):
    """Scored responses -> {metric: [P, 2]}, numerator and denominator of each of the P problems.

    Every metric but RSS is Σ numerator / Σ denominator, so to resample it is to weight these rows."""
    groups = {}
    for r in scored:
        groups.setdefault(r.id, []).append(r)
    samples, trials = min(map(len, groups.values())), min(8, max(len(r.right) for r in scored))
    table = [counts(group, samples, trials) for group in groups.values()]
    names = sorted(dict.fromkeys(n for row in table for n in row), key=lambda n: n * n.startswith("level_"))
    return {name: np.array([row.get(name, (0, 0)) for row in table], float) for name in names}


def estimates(tally, bootstrap, seed):
    """{metric: [P, 2]} -> {metric: [1 + B]}: the value, then its B resamples; nan where undefined.

    The same seed draws the same problems, which is what pairs two models. One problem has no resamples."""
    n = len(tally["trials"])
    drawn = np.random.default_rng(seed).multinomial(n, [1 / n] * n, bootstrap) * (1 if n > 1 else np.nan)
    weights = np.concatenate([np.ones((1, n)), drawn])  # [1 + B, P]
    sums = weights @ np.concatenate(list(tally.values()), axis=1)  # [1 + B, 2 * metrics]
    with np.errstate(divide="ignore", invalid="ignore"):
        out = {name: sums[:, 2 * i] / sums[:, 2 * i + 1] for i, name in enumerate(tally)}
        p, f = out["first_accuracy"], out["final_accuracy"]
        out["RSS"] = np.where((p > 0) & (p < 1), (f - p * p) / (2 * p * (1 - p)), np.nan)
    return out


def wilson(tally, z=1.959964):
    """[P, 2] -> 95 % interval of the share Σ hits / Σ n; n is the number of problems where p is 0 or 1."""
    hits, total = tally.T
    n, p, used = total.sum(), hits.sum() / total.sum(), np.count_nonzero(total)
    effect = ((hits - p * total) ** 2).sum() / (n * p * (1 - p)) if 0 < p < 1 else n / used
    n /= max(1, effect)
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return [min(1.0, max(0.0, float(end / (1 + z * z / n)))) for end in (centre - half, centre + half)]


def scale(name):
    """Shares and rates are shown in percent, RSS and means of counts as they are."""
    return 1 if name.endswith(("RSS", "trials", "tokens", "distinct_answers")) else 100


def interval(draws):
    """[1 + B], a value and its resamples -> value, low, high (95 %, percentiles), two-sided p of being 0."""
    value, draws = None if np.isnan(draws[0]) else float(draws[0]), draws[1:][~np.isnan(draws[1:])]
    if not len(draws):
        return value, None, None, None
    tail = 1 + min(np.count_nonzero(draws <= 0), np.count_nonzero(draws >= 0))
    return value, *np.percentile(draws, [2.5, 97.5]).tolist(), min(1.0, 2 * tail / (1 + len(draws)))


def metrics(rows, bootstrap=2000, seed=0):
    """Scored responses -> {metric: {value, numerator, denominator, low, high}}; undefined is None."""
    tally, out = tallies(rows), {}
    p, f = (tally[name][:, 0].sum() / len(rows) for name in ("first_accuracy", "final_accuracy"))
    for name, draws in estimates(tally, bootstrap, seed).items():
        top, bottom = (f - p * p, 2 * p * (1 - p)) if name == "RSS" else tally[name].sum(0)
        value, low, high, _ = interval(draws)
        if bottom and scale(name) == 100 and ("@" not in name or value in (0, 1)):
            low, high = wilson(tally[name])  # rates with @ where the bootstrap has no width
        out[name] = dict(value=value, numerator=float(top), denominator=float(bottom), low=low, high=high)
    return out


def differences(rows, base, bootstrap=2000, seed=0):
    """Scored responses of two models to the same problems -> {metric: {value, low, high, p}}, rows - base."""
    mine, other = (estimates(tallies(r), bootstrap, seed) for r in (rows, base))
    return {name: dict(zip(("value", "low", "high", "p"), interval(draws - other[name])))
            for name, draws in mine.items() if name in other}


def cell(name, m, short=False):
    """A metric as value [low, high] counts, a difference as value [low, high] p; undefined is –."""
    if m is None or m["value"] is None:
        return "–"
    form = "+z" * ("p" in m) + (".1f" if scale(name) == 100 else ".2f")
    out = format(scale(name) * m["value"], form)
    if m["low"] is not None and not (short and name not in SUMMARY[:2]):
        out += " [" + ", ".join(format(scale(name) * m[end], form) for end in ("low", "high")) + "]"
    if "p" in m:
        return out + ("" if m["p"] is None else " p<0.001" if m["p"] < 0.001 else f" p={m['p']:.3f}")
    return out if short or name == "RSS" else out + f" {m['numerator']:.7g}/{m['denominator']:.7g}"


def tables(report):
    """The report -> [(title, rows of cells)]: the short ones of the terminal, then those with all numbers."""
    def grid(columns, names, short=False):
        return [["", *columns], *([title, *(cell(n, c.get(n), short) for c in columns.values())]
                                  for n, title in names.items())]
    models, gains = report["models"], report["differences"]
    every = {n: n.replace("_", " ") for m in models.values() for n in m}
    brief = {n: n.removesuffix("_accuracy").replace("level_", "L") for n in every
             if (n in SUMMARY or n.startswith("level_") and n.endswith("accuracy"))
             and any(cell(n, m.get(n)) != "–" for m in models.values())}
    picked = {n: every[n] for n in ("final_accuracy", "first_accuracy", "VA")
              if any(cell(n, m.get(n)) != "–" for m in gains.values())}
    title = f"difference to {report['against']}, paired: [95 % interval] p"
    out = [(f"{report['problems']} problems: percent [95 % interval]", [*zip(*grid(models, brief, True))]),
           (title, [*zip(*grid(gains, picked))]),
           ("all metrics: percent or mean [95 % interval] counts", grid(models, every)),
           (title, grid(gains, every))]
    return out if gains else out[::2]


def markdown(tables):
    """Tables of cells -> aligned Markdown, which also reads well on a terminal."""
    out = ""
    for title, rows in tables:
        widths = [max(map(len, column)) for column in zip(*rows)]
        rows = [rows[0], ["-" * w for w in widths], *rows[1:]]
        lines = ("| " + " | ".join(c.ljust(w) for c, w in zip(row, widths)) + " |" for row in rows)
        out += "\n".join([title, "", *lines, "", ""])
    return out


def bars(ax, labels, models, colours):
    """{label: metric} as a group of bars each, in it one for each model, with its interval."""
    for i, (model, m) in enumerate(models.items()):
        y, low, high = np.array([m.get(name, [np.nan] * 3) for name in labels.values()]).reshape(-1, 3).T
        at = np.arange(len(labels)) + (i + 0.5) * 0.8 / len(models) - 0.4
        ax.bar(at, y, 0.74 / len(models), yerr=np.abs([y - low, high - y]), color=colours[model], label=model,
               error_kw={"lw": 1, "capsize": 2, "ecolor": "#444"})
    ax.set_xticks(range(len(labels)), labels)


def lines(ax, points, data, colours):
    """A line through points(numbers) = [(x, y)] of each model or run; many points pale, their mean strong."""
    for name, numbers in data.items():
        x, y = np.array(points(numbers), float).reshape(-1, 2).T
        near = len(y) // 20
        mean = [y[max(0, t - near):t + near + 1].mean() for t in range(len(y))]
        ax.plot(x, y, color=colours[name], alpha=0.25, lw=0.8)
        ax.plot(x, mean, "-" if near else "-o", markersize=3, color=colours[name], label=name)


def pictures(report, runs):
    """The report, {run: rows of its metrics.jsonl} -> [(caption, PNG in base64)]."""
    try:
        import matplotlib
    except ImportError:
        print("matplotlib is not installed: the report has no pictures")
        return []
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    models = {model: {name: scale(name) * np.array([m["value"], m["low"], m["high"]], float)
                      for name, m in found.items()} for model, found in report["models"].items()}
    colours, out = {name: f"C{i}" for i, name in enumerate(dict.fromkeys([*models, *runs]))}, []
    levels = sorted({n[6:-9] for m in models.values() for n in m if n[:6] + n[-8:] == "level_accuracy"})
    plt.rcParams.update({"axes.grid": True, "axes.grid.axis": "y", "grid.alpha": 0.3, "axes.axisbelow": True,
                         "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10})
    for caption, data, panels in (
            ("Figures 3 and 4 of the paper; accuracy if responses are cut after 1, 2, … solutions", models, [
                (bars, "accuracy, %", {"first": "first_accuracy", "final": "final_accuracy"}),
                (bars, "verification, %", {n: n for n in ("VA", "ER", "CP")}),
                (bars, "correction, %", {"wrong to right": "ICR", "right to wrong": "CIR"}),
                (bars, "final accuracy per level, %", {x: f"level_{x}_accuracy" for x in levels}),
                (bars, "trials per level", {x: f"level_{x}_trials" for x in levels}),
                (lines, "accuracy, %, over tokens a response",
                 lambda m: [(m[n[:-8] + "tokens"][0], m[n][0]) for n in m if "cut" in n and "acc" in n])]),
            ("Training, over the step: each step pale, running mean strong", runs, [
                (lines, key.replace("_", " "), lambda rows, key=key: [
                    (row["step"], row[key]) for row in rows if isinstance(row.get(key), (int, float))])
                for key in CURVES])):
        fig, axes = plt.subplots(2, 3, figsize=(9.8, 5.4), layout="constrained")
        for ax, (draw, title, what) in zip(axes.flat, panels):
            draw(ax, what, data, colours)
            ax.set_title(title)
        fig.legend(*ax.get_legend_handles_labels(), loc="outside right center", frameon=False)
        buffer = io.BytesIO()
        fig.savefig(buffer, format="png", dpi=120)
        out.append((caption, base64.b64encode(buffer.getvalue()).decode()))
    return out if runs else out[:1]


PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>S²R report</title><style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2rem auto; padding: 0 1rem }
h2 { font-size: 1.15rem; margin-top: 2.2rem } img { max-width: 100% } .wide { overflow-x: auto }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; white-space: nowrap }
td { padding: .1rem 1rem .1rem 0; border-bottom: 1px solid #eee } tr:first-child { font-weight: 600 }
details { border: 1px solid #ddd; border-radius: 6px; padding: .4rem .8rem; margin: .4rem 0 }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .2rem 0 } figure { margin: 1.5rem 0 }
.action { border-left: 4px solid; padding: .2rem .7rem; margin: .4rem 0; font-size: 12px }
.good { border-color: #2a9d5c; background: #edf8f1 } .bad { border-color: #d1495b; background: #fcf0f1 }
</style>"""


def trajectory(row, text, scored):
    """One response as HTML: the problem, then each action coloured by its reward."""
    ended = "unfinished · " * (scored.finished is False)
    title = f"{len(scored.right)} solutions · {ended}{row['problem'][:90]}"
    out = (f"<details><summary>{html.escape(title)}</summary><pre>{html.escape(row['problem'])}</pre>"
           f"<p>gold: {html.escape(row['answer'])}</p>")
    actions = parse_actions(text)
    good = [x for pair in zip_longest(scored.right, (v == VERDICTS[right] for v, right in scored.verdicts))
            for x in pair][:len(actions)]  # the rewards of §2.3.2, without judging again
    good[-1] &= scored.finished is not False
    for a, reward in zip(actions, good):
        out += (f'<div class="action {"good" if reward else "bad"}">{a.type} {"+1" if reward else "-1"}'
                f"<pre>{html.escape(a.text.strip())}</pre></div>")
    return out + "</details>"


def page(report, images, rows, scored):
    """The report as HTML, with up to six trajectories of each model in each cell of the transition table."""
    parts = [PAGE, f"<h1>S²R report: {html.escape(', '.join(report['models']))}</h1>"]
    parts += [f'<figure><img alt="" src="data:image/png;base64,{png}"><figcaption>{caption}</figure>'
              for caption, png in images] or ["<p>matplotlib is not installed: no pictures.</p>"]
    for title, cells in tables(report):
        body = "".join("<tr>" + "".join(f"<td>{html.escape(c)}" for c in row) for row in cells)
        parts.append(f"<h2>{html.escape(title)}</h2><div class=wide><table>{body}</table></div>")
    for name in rows:
        parts.append(f"<h2>Trajectories of {html.escape(name)}, first solution to last</h2>")
        flat = [(row, text) for row in rows[name] for text in row["responses"]]  # the order of `scored`
        order = np.random.default_rng(report["seed"]).permutation(len(flat))
        for title, ends in CELLS.items():
            members = [i for i in order if (scored[name][i].right[0], scored[name][i].right[-1]) == ends]
            parts += [f"<details><summary>{title.replace('_', ' ')}: {len(members)} of {len(flat)}</summary>",
                      *(trajectory(*flat[i], scored[name][i]) for i in members[:6]), "</details>"]
    parts += ["<h2>What the numbers mean</h2><pre>", html.escape(__doc__.split("Run:")[0]), "</pre></html>"]
    return "\n".join(parts) + "\n"


def named(pairs):
    """["NAME=FILE"] -> {NAME: FILE}."""
    out = {}
    for pair in pairs:
        name, _, path = pair.partition("=")
        if not name or not path or name in out:
            raise InputError(f"{pair!r} is not NAME=FILE with a name of its own")
        out[name] = path
    return out


def main():
    args = parse_args()
    files, out = named(args.models), Path(args.out)
    if args.bootstrap < 1:
        raise InputError(f"--bootstrap {args.bootstrap}: at least 1")
    if (out / "report.json").exists() and not args.force:
        raise InputError(f"{out} holds a report already; --force overwrites it")
    runs = {name: read_jsonl(path, ("step",)) for name, path in named(args.metrics).items()}
    base, rows = next(iter(files)), align({name: load(path) for name, path in files.items()}, args.intersect)
    scored = {name: score(r, args.workers) for name, r in rows.items()}
    draws = {"bootstrap": args.bootstrap, "seed": args.seed}
    report = {"files": files, "problems": len(rows[base]), **draws, "against": base,
              "models": {name: metrics(s, **draws) for name, s in scored.items()},
              "differences": {name: differences(s, scored[base], **draws)
                              for name, s in scored.items() if name != base}}
    found, images = tables(report), pictures(report, runs)
    written = {"report.json": json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
               "report.md": markdown(found), "report.html": page(report, images, rows, scored)}
    out.mkdir(parents=True, exist_ok=True)
    for name, text in written.items():
        (out / f"{name}.tmp").write_text(text, "utf-8", "replace")  # a lone surrogate becomes "?"
        (out / f"{name}.tmp").replace(out / name)
    print(f"{markdown(found[:len(found) // 2])}wrote {', '.join(written)} to {out}")


if __name__ == "__main__":
    run_main(main)
