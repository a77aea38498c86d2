"""Evaluation (S²R appendix E, figures 3 and 4): every claim of the method as a number with its error bar.

Metrics, over all responses to the test set; s_j is the j-th solution, v_j the verification after it:
  first_accuracy, final_accuracy    share of responses whose first / last solution is right
  VA  (7)   share of verifications whose verdict is the truth; no verdict never is
  ER  (8)   among verifications of wrong solutions, the share that says "incorrect"
  CP  (9)   among verifications that say "correct", the share whose solution is right
  ICR (10)  P(last right | first wrong)      CIR (11)  P(last wrong | first right)
  CL, CS    P(last right | first right), P(last right | first wrong), of arXiv 2412.19513
  RSS       (F - P²) / (1 - (1 - P)² - P²), P first and F final accuracy. The bounds come from P alone: of two
            independent attempts the worst critic is right only if both are, the best if either is. So
            0 worst, 1/2 no gain, 1 best; not clipped. Our reading of that paper's idea.
  trials, tokens, finished          solutions and tokens a response; share that ended by itself
  no_verdict, repeats               verifications without a verdict; retries that repeat an earlier answer
  right_to_wrong, ...               transition table, first solution to last, shares of all responses
  level_N_accuracy, level_N_trials           figure 4
  cut_after_j_accuracy, cut_after_j_tokens   had and paid if every response is cut after its j-th solution
  avg@K, pass@k, maj@k, distinct_answers     with K > 1 responses a problem; maj@k is the mean over disjoint
            groups of k, votes counted by equivalence class; no answer, no vote; a tie shares the point

Error bars, 95 %. Shares: Wilson. Responses to one problem are not independent, so n is divided by the design
effect (clustered over binomial variance) where that is above 1; one response a problem gives plain Wilson.
All else: percentile bootstrap over problems. Differences: paired, both models see the same resampled
problems; the two-sided p is below 0.05 where that interval excludes 0. Undefined is `–` and null, never 0.

Run:   python evaluate.py base=runs/toy/base.jsonl BI=runs/toy/bi.jsonl --out runs/toy/report
       python evaluate.py BI=bi.jsonl PRL=prl.jsonl --metrics PRL=runs/prl/metrics.jsonl --out runs/report
Reads  samples files: the problem's fields, responses; finished and tokens may be absent. `id` (else the text)
       says which problems are the same.
Writes OUT/report.json, OUT/report.md, OUT/report.html (pictures inlined; none without matplotlib).
Map:   load, align, score · counts, tallies, estimates, metrics, differences · table · pictures · page · main.
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
from verifier import action_rewards, check_gold, extract_boxed, judge_many, parse_actions, parse_verdict

VERDICTS = ("incorrect", "correct")  # by V_golden
CELLS = ["right_to_right", "right_to_wrong", "wrong_to_right", "wrong_to_wrong"]  # first solution to last
ORDER = ["first_accuracy", "final_accuracy", "VA", "ER", "CP", "ICR", "CIR", "CL", "CS", "RSS", "trials",
         "tokens", "finished", "no_verdict", "repeats", *CELLS]
SHARES = {*ORDER} - {"RSS", "trials", "tokens"}


def parse_args():
    p = argparse.ArgumentParser(description="Compare models by their samples files (S2R appendix E).")
    p.add_argument("models", nargs="+", metavar="NAME=SAMPLES", help="samples file of each model")
    p.add_argument("--out", required=True, help="folder for report.json, report.md, report.html")
    p.add_argument("--against", metavar="NAME", help="compare the others with this model; default the first")
    p.add_argument("--intersect", action="store_true", help="compare on the problems that all files have")
    p.add_argument("--metrics", action="append", default=[], metavar="NAME=FILE",
                   help="metrics.jsonl of a training run, for its curves; may be repeated")
    p.add_argument("--bootstrap", type=int, default=2000, help="resamples of the problems")
    p.add_argument("--show", type=int, default=24, help="trajectories of each model in the page")
    p.add_argument("--seed", type=int, default=0, help="of the bootstrap and of the choice of trajectories")
    p.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that judge")
    p.add_argument("--force", action="store_true", help="overwrite an earlier report")
    return p.parse_args()


# ---------------------------------------------------------------------------------------------- data

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
    found, rows = read_jsonl(path, ("problem", "answer", "responses")), {}
    lines = [n for n, text in enumerate(Path(path).read_text("utf-8-sig").split("\n"), 1) if text.strip()]
    for line, row in zip(lines if len(lines) == len(found) else range(1, 1 + len(found)), found):
        def need(good, field, what):
            if not good:
                raise InputError(f"{path}:{line}: field '{field}' {what}")
        row["answer"], row["id"] = str(row["answer"]), str(row.get("id", row["problem"]))
        reason, texts = check_gold(row["answer"]), row["responses"]
        need(reason is None, "answer", f"is no usable gold answer: {reason}")
        need(isinstance(texts, list) and texts and all(isinstance(t, str) for t in texts), "responses",
             "is not a list of one or more strings")
        for field, kind in (("finished", bool), ("tokens", int)):
            values = row.setdefault(field, [None] * len(texts))  # other engines may not write them
            need(isinstance(values, list) and len(values) == len(texts) and all(type(v) in (kind, type(None))
                 for v in values), field, f"is not a list of one {kind.__name__} a response")
        need(row["id"] not in rows, "id", f"{row['id'][:60]!r} appears twice")
        rows[row["id"]] = row
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
    boxes = [{} for _ in rows]  # of each problem: answer -> a solution that gives it
    for box, group in zip(boxes, cut):
        for a in (a for actions in group for a in actions if a.type == "solve"):
            box.setdefault(extract_boxed(a.text), a.text)
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


# ------------------------------------------------------------------------------------------- metrics

def pass_at_k(n, c, k):
    """Unbiased P(one of k is right) where c of n are: 1 - C(n-c, k) / C(n, k). (4, 1, 2) -> 1/2."""
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def majority(votes):
    """Answer classes -> the vote's point: [True, True, "7", None] -> 1, [True, "7"] -> 1/2, [None] -> 0."""
    tally = Counter(v for v in votes if v is not None)
    best = [v for v, c in tally.items() if c == max(tally.values())]
    return (True in best) / max(1, len(best))


def counts(group, samples, trials):
    """Scored responses to one problem -> {metric: (numerator, denominator)}.

    samples: the fewest responses that any problem has; trials: how far the cut_after metrics go."""
    def share(values):
        values = [v for v in values if v is not None]
        return sum(values), len(values)
    ends = [(r.right[0], r.right[-1]) for r in group]
    checks = [c for r in group for c in r.verdicts]
    fixed, kept = [b for a, b in ends if not a], [b for a, b in ends if a]
    out = {
        "first_accuracy": share(a for a, _ in ends), "final_accuracy": share(b for _, b in ends),
        "VA": share(v == VERDICTS[right] for v, right in checks),
        "ER": share(v == "incorrect" for v, right in checks if not right),
        "CP": share(right for v, right in checks if v == "correct"),
        "ICR": share(fixed), "CIR": share(not b for b in kept), "CL": share(kept), "CS": share(fixed),
        "trials": share(len(r.right) for r in group), "tokens": share(r.tokens for r in group),
        "finished": share(r.finished for r in group), "no_verdict": share(v is None for v, _ in checks),
        "repeats": share(a is not None and a in r.answers[:j] for r in group
                         for j, a in enumerate(r.answers) if j),
    }
    for name, cell in zip(CELLS, [(True, True), (True, False), (False, True), (False, False)]):
        out[name] = share(e == cell for e in ends)
    if group[0].level is not None:
        out[f"level_{group[0].level}_accuracy"] = out["final_accuracy"]
        out[f"level_{group[0].level}_trials"] = out["trials"]
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
    return out


def tallies(scored):
    """Scored responses -> {metric: [P, 2]}, numerator and denominator of each of the P problems.

    Every metric but RSS is Σ numerator / Σ denominator, so to resample it is to weight these rows."""
    groups = {}
    for r in scored:
        groups.setdefault(r.id, []).append(r)
    samples, trials = min(map(len, groups.values())), min(8, max(len(r.right) for r in scored))
    table = [counts(group, samples, trials) for group in groups.values()]
    names = dict.fromkeys(name for row in table for name in row)
    return {name: np.array([row.get(name, (0, 0)) for row in table], float) for name in names}


def estimates(tally, bootstrap, seed):
    """{metric: [P, 2]} -> {metric: [1 + B]}: the value, then its B resamples; nan where undefined.

    The same seed draws the same problems, which is what pairs two models."""
    problems = len(tally["trials"])
    drawn = np.random.default_rng(seed).multinomial(problems, [1 / problems] * problems, bootstrap)
    weights = np.concatenate([np.ones((1, problems)), drawn])  # [1 + B, P]
    sums = weights @ np.concatenate(list(tally.values()), axis=1)  # [1 + B, 2 * metrics]
    with np.errstate(divide="ignore", invalid="ignore"):
        out = {name: sums[:, 2 * i] / sums[:, 2 * i + 1] for i, name in enumerate(tally)}
        p, f = out["first_accuracy"], out["final_accuracy"]
        out["RSS"] = np.where((p > 0) & (p < 1), (f - p * p) / (2 * p * (1 - p)), np.nan)
    def place(name):  # the fixed metrics as listed, then those of j and k as they came, then the levels
        return ORDER.index(name) if name in ORDER else 99, name if name.startswith("level_") else ""
    return {name: out[name] for name in sorted(out, key=place)}


def wilson(tally, z=1.959964):
    """[P, 2] -> 95 % interval of the share Σ hits / Σ n. Plain Wilson where no problem has n above 1.

    The effective size is n over the design effect; where all or none are hits, the number of problems."""
    hits, total = tally.T
    n, p, used = total.sum(), hits.sum() / total.sum(), np.count_nonzero(total)
    effect = ((hits - p * total) ** 2).sum() / (n * p * (1 - p)) if 0 < p < 1 else n / used
    n /= max(1, effect)
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return [min(1.0, max(0.0, float(end / (1 + z * z / n)))) for end in (centre - half, centre + half)]


def is_share(name):
    """Whether a metric is a share of counted things, not a mean."""
    return name in SHARES or name.endswith("_accuracy")


def interval(draws):
    """[B] resamples, nan where undefined -> the 95 % percentile interval, and the two-sided p of being 0."""
    draws = draws[~np.isnan(draws)]
    low, high = np.percentile(draws, [2.5, 97.5]).tolist() if len(draws) else (None, None)
    tail = 1 + min(np.count_nonzero(draws <= 0), np.count_nonzero(draws >= 0))
    return low, high, min(1.0, 2 * tail / (1 + len(draws)))


def metrics(rows, bootstrap=2000, seed=0):
    """Scored responses -> {metric: {value, numerator, denominator, low, high}}; undefined is None."""
    tally, out = tallies(rows), {}
    p, f = (tally[name][:, 0].sum() / len(rows) for name in ("first_accuracy", "final_accuracy"))
    for name, draws in estimates(tally, bootstrap, seed).items():
        top, bottom = (f - p * p, 2 * p * (1 - p)) if name == "RSS" else tally[name].sum(0).tolist()
        value, low, high = float(draws[0]), None, None
        if is_share(name):
            top = int(top)
        if bottom and (is_share(name) or "@" in name and value in (0, 1)):  # all 0 bootstrap to no width
            low, high = wilson(tally[name])
        elif not math.isnan(value) and len(tally["trials"]) > 1:
            low, high, _ = interval(draws[1:])
        out[name] = {"value": None if math.isnan(value) else value, "numerator": top,
                     "denominator": bottom if name == "RSS" else int(bottom), "low": low, "high": high}
    return out


def differences(rows, base, bootstrap=2000, seed=0):
    """Scored responses of two models to the same problems -> {metric: {value, low, high, p}}, rows - base."""
    draws, draws_base = (estimates(tallies(r), bootstrap, seed) for r in (rows, base))
    out, one = {}, len({r.id for r in rows}) == 1
    for name in (n for n in draws if n in draws_base):
        d = draws[name] - draws_base[name]  # [1 + B]
        low, high, p = (None,) * 3 if one or math.isnan(d[0]) else interval(d[1:])
        out[name] = {"value": None if math.isnan(d[0]) else float(d[0]), "low": low, "high": high, "p": p}
    return out


# ------------------------------------------------------------------------------------------- output

def cell(name, m):
    """A metric or a difference as text: value [low, high], counts or p; shares and rates in percent."""
    if m is None or m["value"] is None:
        return "–" if m is None or "p" in m else f"– {m['numerator']:g}/{m['denominator']:g}"
    scale, form = (100, ".1f") if is_share(name) or "@" in name else (1, ".2f")
    value, low, high = (None if m[x] is None else format(scale * m[x], "+" * ("p" in m) + form)
                        for x in ("value", "low", "high"))
    text = value if low is None else f"{value} [{low}, {high}]"
    if "p" in m:
        return text if m["p"] is None else f"{text} p<0.001" if m["p"] < 0.001 else f"{text} p={m['p']:.3f}"
    over = f" {m['numerator']}/{m['denominator']}" if is_share(name) else f" n={m['denominator']}"
    return text + over * (name != "RSS")


def tables(report):
    """The report -> [(title, rows of cells)]; the first row is the header."""
    out = [(f"{report['problems']} problems: percent or mean [95 % interval] counts", report["models"]),
           (f"difference to {report['against']}, paired: [95 % interval] p", report["differences"])]
    return [(title, [["", *columns]] + [[n.replace("_", " "), *(cell(n, c.get(n)) for c in columns.values())]
                                        for n in dict.fromkeys(n for c in columns.values() for n in c)])
            for title, columns in out if columns]


def markdown(tables):
    """Tables of cells -> aligned Markdown, which also reads well on a terminal."""
    out = ""
    for title, rows in tables:
        widths = [max(map(len, column)) for column in zip(*rows)]
        out += f"{title}\n\n"
        for row in (rows[0], ["-" * w for w in widths], *rows[1:]):
            out += "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths)) + " |\n"
        out += "\n"
    return out


def defined(pairs, scale=100):
    """[(x, metric or None)] -> x, value, low, high as arrays, without the undefined ones."""
    pairs = [(x, m) for x, m in pairs if x is not None and m and m["low"] is not None]
    at = [(x, *(scale * m[y] for y in ("value", "low", "high"))) for x, m in pairs]
    return np.array(at, float).reshape(-1, 4).T


def bars(ax, models, colours, labels, title, scale=100):
    """Bars with error bars: a group for each metric of labels {metric: label}, in it a bar for each model."""
    width = 0.8 / len(models)
    for i, (name, m) in enumerate(models.items()):
        at = [(x + (i + 0.5) * width - 0.4, m.get(n)) for x, n in enumerate(labels)]
        x, y, low, high = defined(at, scale)
        ax.bar(x, y, width * 0.92, yerr=np.abs([low - y, high - y]), label=name, color=colours[name],
               error_kw={"lw": 1, "capsize": 2, "ecolor": "#444"})
    ax.set_xticks(range(len(labels)), labels.values())
    ax.set_title(title, fontsize=10)


def lines(ax, models, colours, pairs, style, title):
    """A line for each model through pairs(metrics) = [(x, metric or None)], with its interval as a band."""
    for name, m in models.items():
        x, y, low, high = defined(pairs(m))
        ax.plot(x, y, style, color=colours[name], markersize=4, label=name)
        ax.fill_between(x, low, high, color=colours[name], alpha=0.1, lw=0)
    ax.set_title(title, fontsize=10)


def logged(rows):
    """Rows of a metrics.jsonl -> names of the numbers in them."""
    return dict.fromkeys(k for row in rows for k, v in row.items()
                         if isinstance(v, (int, float)) and k != "step")


def training(plt, runs, colours):
    """Training curves: a panel for each number in the metrics files, over the step."""
    keys = list(dict.fromkeys(k for rows in runs.values() for k in logged(rows)))
    high = 1 + (len(keys) - 1) // 4
    fig, axes = plt.subplots(high, 4, figsize=(9.5, 1.8 * high), squeeze=False, layout="constrained")
    for ax, key in zip(axes.flat, keys + [None] * 3):
        ax.set_title(key, fontsize=9)
        ax.tick_params(labelsize=7)
        ax.set_visible(key is not None)
        for name, rows in runs.items():
            at = [(row.get("step", n), row[key]) for n, row in enumerate(rows) if key in logged([row])]
            x, y = np.array(at, float).reshape(-1, 2).T
            near = len(y) // 20
            mean = [y[max(0, t - near):t + near + 1].mean() for t in range(len(y))]
            ax.plot(x, y, color=colours[name], alpha=0.25, lw=0.8)
            ax.plot(x, mean, color=colours[name], label=name)
    return fig


def pictures(models, runs):
    """{model: metrics}, {run: rows of its metrics.jsonl} -> [(caption, PNG in base64)]."""
    try:
        import matplotlib
    except ImportError:
        print("matplotlib is not installed: the report has no pictures")
        return []
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    colours = {name: f"C{i}" for i, name in enumerate(dict.fromkeys([*models, *runs]))}
    names, out = dict.fromkeys(n for m in models.values() for n in m), []

    def panels():
        fig, axes = plt.subplots(1, 2, figsize=(9.5, 3), layout="constrained")
        return fig, *axes

    def done(fig, caption):
        for ax in fig.axes:
            ax.grid(axis="y", alpha=0.3)
            ax.set_axisbelow(True)
            ax.spines[["top", "right"]].set_visible(False)
        legend = {name: line for ax in fig.axes for line, name in zip(*ax.get_legend_handles_labels())}
        fig.legend(legend.values(), legend, loc="outside right center", fontsize=9, frameon=False)
        buffer = io.BytesIO()
        fig.savefig(buffer, format="png", dpi=120)
        plt.close(fig)
        out.append((caption, base64.b64encode(buffer.getvalue()).decode()))
    fig, left, right = panels()
    bars(left, models, colours, {n: n for n in ("VA", "ER", "CP")}, "verification, %")
    bars(right, models, colours, {"ICR": "wrong to right", "CIR": "right to wrong"}, "correction, %")
    done(fig, "Verification and correction (the paper's figure 3)")
    if levels := sorted(n.split("_")[1] for n in names if n.startswith("level_") and is_share(n)):
        fig, left, right = panels()
        bars(left, models, colours, {f"level_{x}_accuracy": x for x in levels}, "final accuracy per level, %")
        bars(right, models, colours, {f"level_{x}_trials": x for x in levels}, "trials per level", scale=1)
        done(fig, "Accuracy and trials per level (the paper's figure 4)")
    ks = [int(n[5:]) for n in names if n.startswith("pass@")]
    spent = [(n.replace("accuracy", "tokens"), n) for n in names if n.startswith("cut_") and is_share(n)]
    spent.append(("tokens", "final_accuracy"))
    fig, left, right = panels()
    lines(left, models, colours, lambda m: [(m[x]["value"], m[y]) for x, y in spent if x in m], "o-",
          "accuracy, %, over tokens a response")
    if ks:
        lines(right, models, colours, lambda m: [(k, m.get(f"maj@{k}")) for k in ks], "s:", "")
        lines(right, models, colours, lambda m: [(k, m.get(f"pass@{k}")) for k in ks], "o-",
              "pass@k, maj@k (dotted), %, over k")
    else:
        bars(right, models, colours, {"first_accuracy": "first", "final_accuracy": "last"}, "right, %")
    done(fig, "Accuracy for the tokens spent: each response cut after its 1st, 2nd, … solution, then whole")
    if runs:
        done(training(plt, runs, colours), "Training: each step pale, running mean strong")
    return out


PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>S²R report</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2rem auto; padding: 0 1rem }
h2 { font-size: 1.15rem; margin-top: 2.2rem } .note, figcaption { color: #666; font-size: 13px }
figure { margin: 1rem 0 } img { max-width: 100% } .wide { overflow-x: auto }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; white-space: nowrap }
td { padding: .1rem 1.2rem .1rem 0; border-bottom: 1px solid #eee } tr:first-child { font-weight: 600 }
details { border: 1px solid #ddd; border-radius: 6px; padding: .4rem .8rem; margin: .4rem 0 }
summary { cursor: pointer } pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .2rem 0 }
.action { border-left: 4px solid; padding: .2rem .7rem; margin: .4rem 0; font-size: 12px }
.good { border-color: #2a9d5c; background: #edf8f1 } .bad { border-color: #d1495b; background: #fcf0f1 }
</style>"""


def trajectory(row, text, scored):
    """One response as HTML: the problem, then each action coloured by its reward."""
    facts = [f"level {scored.level}" * (scored.level is not None), f"solutions: {len(scored.right)}",
             f"tokens: {scored.tokens}", "unfinished" * (scored.finished is False), row["problem"][:90]]
    parts = [f"<details><summary>{html.escape(' · '.join(filter(None, facts)))}</summary>",
             f"<pre>{html.escape(row['problem'])}</pre><p class=note>gold: {html.escape(row['answer'])}</p>"]
    actions = parse_actions(text)
    good = [x for pair in zip_longest(scored.right, (v == VERDICTS[right] for v, right in scored.verdicts))
            for x in pair][:len(actions)]  # the rewards of section 6, without judging again
    good[-1] &= scored.finished is not False
    for a, reward in zip(actions, good):
        parts.append(f'<div class="action {"good" if reward else "bad"}">{a.type} {"+1" if reward else "-1"}'
                     f"<pre>{html.escape(a.text.strip())}</pre></div>")
    return "".join([*parts, "</details>"])


def page(report, figures, rows, scored, show):
    """The whole report as HTML; about `show` trajectories a model, evenly over the transition table."""
    parts = [PAGE, f"<h1>S²R report: {html.escape(', '.join(report['models']))}</h1>"]
    parts += ["<p>matplotlib is not installed: no pictures.</p>"] * (not figures)
    for caption, png in figures:
        parts.append(f'<figure><img alt="" src="data:image/png;base64,{png}"><figcaption>{caption}</figure>')
    for title, cells in tables(report):
        parts.append(f"<h2>{html.escape(title)}</h2><div class=wide><table>")
        for row in cells:
            bold = (html.escape(c).partition(" ") for c in row[1:])  # the value, then the rest of the cell
            parts.append(f"<tr><td>{row[0]}" + "".join(f"<td><b>{a}</b> {b}" for a, _, b in bold))
        parts.append("</table></div>")
    for name in rows:
        parts.append(f"<h2>Trajectories of {html.escape(name)}, first solution to last</h2>")
        flat = [(row, text) for row in rows[name] for text in row["responses"]]  # the order of `scored`
        order = np.random.default_rng(report["seed"]).permutation(len(flat))
        for cell in CELLS:
            ends = [word == "right" for word in cell.split("_to_")]
            members = [i for i in order if [scored[name][i].right[j] for j in (0, -1)] == ends]
            parts += [f"<details><summary>{cell.replace('_', ' ')}: {len(members)} of {len(flat)}</summary>",
                      *(trajectory(*flat[i], scored[name][i]) for i in members[:-(-show // 4)]), "</details>"]
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
    against = args.against or next(iter(files))
    if against not in files or args.bootstrap < 1:
        raise InputError(f"--against: no model is named {against!r}" if against not in files else
                         f"--bootstrap {args.bootstrap}: at least 1")
    if (out / "report.json").exists() and not args.force:
        raise InputError(f"{out} holds a report already; --force overwrites it")
    runs = {name: read_jsonl(path) for name, path in named(args.metrics).items()}
    for name, path in named(args.metrics).items():
        if not logged(runs[name]):
            raise InputError(f"{path}: no numbers in it")
    rows = align({name: load(path) for name, path in files.items()}, args.intersect)
    scored = {name: score(r, args.workers) for name, r in rows.items()}
    draws = {"bootstrap": args.bootstrap, "seed": args.seed}
    report = {"files": files, "problems": len(rows[against]), **draws, "against": against,
              "models": {name: metrics(s, **draws) for name, s in scored.items()},
              "differences": {name: differences(s, scored[against], **draws)
                              for name, s in scored.items() if name != against}}
    text = markdown(tables(report))
    print(text)
    written = {"report.json": json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
               "report.md": text,
               "report.html": page(report, pictures(report["models"], runs), rows, scored, args.show)}
    out.mkdir(parents=True, exist_ok=True)
    for name, text in written.items():
        (out / f"{name}.tmp").write_text(text, "utf-8", "replace")  # a lone surrogate becomes "?"
        (out / f"{name}.tmp").replace(out / name)
    print(f"wrote {', '.join(written)} to {out}")


if __name__ == "__main__":
    run_main(main)
