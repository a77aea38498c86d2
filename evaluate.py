"""Evaluation (S²R appendix E, figures 3 and 4): every claim of the method as a number with its error bar.

  first_accuracy, final_accuracy    share whose first (P) or last (F) boxed answer is right, finished or not
  VA (7)    verification accuracy: share of verdicts that are the truth; no verdict never is
  ER (8)    error recall: among verifications of wrong solutions, the share that says "incorrect"
  CP (9)    correct precision: among verifications that say "correct", the share whose solution is right
  ICR (10), CIR (11)   incorrect to correct, P(last right | first wrong), and back; CS = ICR, CL = 1 - CIR
  RSS       (F - P²) / 2P(1 - P), after arXiv 2412.19513: 0 worst critic of two attempts, 1/2 no gain, 1 best
  trials, tokens, finished          solutions and tokens a response; share that ended by itself
  no_verdict, repeats               verifications without a verdict; retries that repeat an earlier answer
  right_to_wrong, ...               transition table, first solution to last, shares of all responses
  cut_after_j_accuracy, cut_after_j_tokens   had and paid (by characters) if cut after the j-th solution
  pass@k, maj@k, distinct_answers   with several responses a problem; maj@k is the mean over disjoint groups
            of k, votes counted by equivalence class; no answer, no vote; a tie shares the point
  level=3 VA, subject=age VA, ...   on a part of the problems, where the field has 2 to 12 values
95 % intervals. Shares: Wilson, n over the design effect. All else: percentile bootstrap over problems, paired
for differences; the two-sided p is below 0.05 where that interval excludes 0. Undefined is `–`, never 0.
Run:   python evaluate.py base=base.jsonl PRL=prl.jsonl --metrics PRL=runs/prl/metrics.jsonl --out runs/report
       python evaluate.py --seeds results/seed*/report.json --out results/mean
Reads  samples files; finished and tokens may be absent; `id`, else the place, says which problem it is.
Writes a summary to the terminal; OUT/report.json, report.md, report.html and (with matplotlib) report.png.
Map:   read_aligned, score - counts, metrics, differences - tables, picture, page - over_seeds, compare.
"""
import base64
import json
import math
from collections import Counter
from dataclasses import dataclass
from html import escape
from io import BytesIO
from pathlib import Path

import numpy as np

import model as models
import verifier

SUMMARY = "first_accuracy final_accuracy VA ER CP ICR CIR repeats trials finished".split()
MAIN = "final_accuracy first_accuracy VA ICR repeats trials".split()     # also on parts, and as differences
CELLS = {"right_to_right": (True, True), "right_to_wrong": (True, False),
         "wrong_to_right": (False, True), "wrong_to_wrong": (False, False)}
CURVES = "eval_accuracy reward VA ICR kl tokens".split()     # of metrics.jsonl


def parse_args():
    p = models.Parser(__doc__)
    p.add_argument("files", nargs="+", metavar="NAME=SAMPLES", help="or, with --seeds, report.json files")
    p.add_argument("--seeds", action="store_true", help="mean and deviation over reports")
    p.add_argument("--out", required=True, help="folder for report.html, report.md, report.json, report.png")
    p.add_argument("--against", metavar="NAME", help="whom the others are compared with (default: the first)")
    p.add_argument("--intersect", action="store_true", help="compare on the problems that all files have")
    p.add_argument("--metrics", action="append", default=[], metavar="NAME=FILE", help="its metrics.jsonl")
    p.add_argument("--bootstrap", type=models.number(int, 1, 10_000), default=2000, help="resamples")
    p.add_argument("--force", action="store_true", help="overwrite an earlier report")
    return p.parse_intermixed_args()                # flags may stand between the files


@dataclass
class Scored:
    """One response, judged."""
    row: dict        # its problem
    text: str
    tokens: int | None
    finished: bool | None
    right: list      # of each solution: V_golden(s_j)
    answers: list    # of each solution: class of its answer; True right, else its first spelling, None none
    spent: list      # of each solution: tokens up to its end
    verdicts: list   # of each verification: (Parser(v_j), V_golden(s_j))


def read_aligned(files, intersect=False):
    """{name: samples file} -> {name: [row]}, the same problems in the same order for every model."""
    found = {name: {(row["id"], row["problem"], row["answer"]): row
                    for row in models.read_problems(path, samples=True)} for name, path in files.items()}
    base, first = next(iter(found.items()))
    common = [key for key in first if all(key in rows for rows in found.values())]
    for name, rows in found.items():
        odd = set(first) ^ set(rows)
        if odd and not (intersect and common):
            raise models.InputError(f"{base} and {name} have different problems (id, text, answer), like "
                                    f"{min(odd)[0][:60]!r}; --intersect compares the {len(common)} of all")
        if not all(n is None or 0 <= n < 10**9 for row in rows.values() for n in row["tokens"]):
            raise models.InputError(f"{files[name]}: field 'tokens' holds what is no number of tokens")
    return {name: [rows[key] for key in common] for name, rows in found.items()}


def score(rows):
    """Samples rows -> list of Scored, one a response, in order. What a problem repeats is judged once."""
    scored = []
    for row in rows:
        classes = {None: None, "": None}    # answer -> True if right, else the first that states the same
        for text, tokens, finished in zip(row["responses"], row["tokens"], row["finished"]):
            r = Scored(row, text, tokens, finished, [], [], [], [])
            for action in verifier.parse_actions(text):
                if action.type == "verify":
                    r.verdicts.append((verifier.parse_verdict(action.text), r.right[-1]))
                    continue
                answer = verifier.extract_boxed(action.text)
                if answer not in classes:
                    same = (a for a in classes if a and a == classes[a] and verifier.is_equivalent(answer, a))
                    classes[answer] = verifier.is_equivalent(answer, row["answer"]) or next(same, answer)
                r.answers.append(classes[answer])
                r.right.append(classes[answer] is True)
                r.spent.append(tokens and tokens * action.end / max(1, len(text)))
            scored.append(r)
    return scored


def pass_at_k(n, c, k):
    """Unbiased P(one of k is right) where c of n are, k <= n: 1 - C(n-c, k) / C(n, k). (4, 1, 2) -> 1/2."""
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def majority(votes):
    """Answer classes -> the vote's point: [True, True, "7", None] -> 1, [True, "7"] -> 1/2, [None] -> 0."""
    tally = Counter(v for v in votes if v is not None)
    best = [v for v, c in tally.items() if c == max(tally.values())]
    return (True in best) / max(1, len(best))


def counts(group, fewest_samples, most_trials):
    """Scored responses to one problem -> {metric: (numerator, denominator)}. The limits are all problems'."""
    def share(values):
        values = [v for v in values if v is not None]
        return sum(values), len(values)
    ends = [(r.right[0], r.right[-1]) for r in group]
    checks = [check for r in group for check in r.verdicts]
    mended, kept = share(b for a, b in ends if not a), share(b for a, b in ends if a)
    out = {
        "first_accuracy": share(a for a, _ in ends), "final_accuracy": share(b for _, b in ends),
        "VA": share(verdict == ("correct" if right else "incorrect") for verdict, right in checks),
        "ER": share(verdict == "incorrect" for verdict, right in checks if not right),
        "CP": share(right for verdict, right in checks if verdict == "correct"),
        "ICR": mended, "CIR": (kept[1] - kept[0], kept[1]), "CL": kept, "CS": mended,
        "trials": share(len(r.right) for r in group), "tokens": share(r.tokens for r in group),
        "finished": share(r.finished for r in group), "no_verdict": share(v is None for v, _ in checks),
        "repeats": share(a is not None and a in r.answers[:j]
                         for r in group for j, a in enumerate(r.answers) if j > 0),
        **{name: share(pair == cell for pair in ends) for name, cell in CELLS.items()}}
    for j in range(1, most_trials + 1):
        out[f"cut_after_{j}_accuracy"] = share(r.right[:j][-1] for r in group)
        out[f"cut_after_{j}_tokens"] = share(r.spent[j - 1] if j <= len(r.spent) else r.tokens for r in group)
    if fewest_samples > 1:
        n, right, votes = len(group), sum(b for _, b in ends), [r.answers[-1] for r in group]
        for k in sorted({2 ** i for i in range(fewest_samples.bit_length())} | {fewest_samples}):
            out[f"pass@{k}"] = pass_at_k(n, right, k), 1
            if k > 1:
                points = [majority(votes[i:i + k]) for i in range(0, n - k + 1, k)]
                out[f"maj@{k}"] = sum(points) / len(points), 1
        out["distinct_answers"] = len(set(votes) - {None}), 1
    return out


def tallies(scored):
    """Scored responses -> {metric: [P, 2]}, numerator and denominator of each of the P problems.
    Every metric but RSS is Σ numerator / Σ denominator, so to resample it is to weight these rows."""
    groups = {}
    for r in scored:
        groups.setdefault(r.row["id"], []).append(r)
    samples, trials = min(map(len, groups.values())), min(8, max(len(r.right) for r in scored))
    table = [counts(group, samples, trials) for group in groups.values()]
    tally = {name: np.array([row[name] for row in table], float) for name in table[0]}
    for field, kind in (("level", int), ("subject", str)):
        values = [group[0].row.get(field) for group in groups.values()]
        found = sorted({v for v in values if isinstance(v, kind)})
        for value in found if 2 <= len(found) <= 12 else []:
            inside = np.array([[v == value] for v in values])    # [P, 1]
            tally |= {f"{field}={value} {name}": tally[name] * inside for name in MAIN}
    return tally


def estimates(tally, bootstrap):
    """{metric: [P, 2]} -> {metric: [1 + B]}: the value, then its B resamples; nan where undefined.
    Every call draws the same problems, which is what pairs two models. One problem has no resamples."""
    n = len(tally["trials"])
    drawn = np.random.default_rng(0).multinomial(n, [1 / n] * n, bootstrap if n > 1 else 0)
    weights = np.concatenate([np.ones((1, n)), drawn])           # how often each problem counts: [1 + B, P]
    sums = weights @ np.concatenate(list(tally.values()), axis=1)    # [1 + B, 2 * metrics]
    with np.errstate(divide="ignore", invalid="ignore"):
        out = {name: sums[:, 2 * i] / sums[:, 2 * i + 1] for i, name in enumerate(tally)}
        p, f = out["first_accuracy"], out["final_accuracy"]
        out["RSS"] = np.where((p > 0) & (p < 1), (f - p * p) / (2 * p * (1 - p)), np.nan)
    return out


def wilson(tally, z=1.959964):
    """[P, 2], hits and n (one n > 0) -> 95 % interval of Σ hits / Σ n; n: number of problems where 0 or 1."""
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


def metrics(rows, bootstrap=2000):
    """Scored responses -> {metric: {value, numerator, denominator, low, high}}; undefined is None."""
    tally, out = tallies(rows), {}
    p, f = (tally[name][:, 0].sum() / len(rows) for name in ("first_accuracy", "final_accuracy"))
    for name, draws in estimates(tally, bootstrap).items():
        top, bottom = (f - p * p, 2 * p * (1 - p)) if name == "RSS" else tally[name].sum(0)
        value, low, high, _ = interval(draws)
        rate = name.startswith(("pass@", "maj@"))    # a mean of rates, no share of so many responses
        if bottom and scale(name) == 100 and (not rate or value in (0, 1)):    # there no resample differs
            low, high = wilson(tally[name])
        out[name] = dict(value=value, numerator=float(top), denominator=float(bottom), low=low, high=high)
    return out


def differences(rows, base, bootstrap=2000):
    """Scored responses of two models to the same problems -> {metric: {value, low, high, p}}, rows - base."""
    mine, other = (estimates(tallies(r), bootstrap) for r in (rows, base))
    return {name: dict(zip(("value", "low", "high", "p"), interval(draws - other[name])))
            for name, draws in mine.items() if name in other}


def cell(name, m, short=False):
    """A metric as value [low, high] counts, a difference as value [low, high] p; undefined is –."""
    if m is None or m["value"] is None:
        return "–"
    if "text" in m:     # over seeds
        return m["text"]
    form = ("+z" if "p" in m else "") + (".1f" if scale(name) == 100 else ".2f")
    out = format(scale(name) * m["value"], form)
    if m["low"] is not None and (not short or name in ("first_accuracy", "final_accuracy")):
        out += f" [{scale(name) * m['low']:{form}}, {scale(name) * m['high']:{form}}]"
    if "p" in m:
        return out + ("" if m["p"] is None else " p<0.001" if m["p"] < 0.001 else f" p={m['p']:.3f}")
    return out if short or name == "RSS" else out + f" {m['numerator']:.7g}/{m['denominator']:.7g}"


def tables(report):
    """The report -> [(title, lists of cells)]: summary, differences, all metrics."""
    def grid(data, names):
        rows = ([n.replace("_", " "), *(cell(n, m.get(n)) for m in data.values())] for n in names)
        return [["", *data], *rows]
    found, gains, base = report["models"], report["differences"], report["against"]
    every = sorted(dict.fromkeys(n for m in found.values() for n in m), key=lambda name: "=" in name)
    titles = {name: name.removesuffix("_accuracy") for name in SUMMARY}
    titles |= {f"level={x} final_accuracy": f"L{x}" for x in report["levels"]} | {"gain": f"final − {base}"}
    rows = {model: {**m, "gain": gains.get(model, {}).get("final_accuracy")} for model, m in found.items()}
    shown = [n for n in titles if any(cell(n, m.get(n)) != "–" for m in rows.values())]
    summary = [["", *(titles[n] for n in shown)]]
    summary += [[model, *(cell(n, m.get(n), short=True) for n in shown)] for model, m in rows.items()]
    main = MAIN + [n for n in every if n.startswith("subject=")]
    out = [(f"{report['problems']} problems, percent or mean {report['shown']}", summary),
           (f"difference to {base}, paired", grid(gains, main)), ("all metrics", grid(found, every))]
    return out if gains else [out[0], out[2]]


def markdown(tables):
    """Tables of cells -> aligned Markdown, which also reads well on a terminal."""
    out = ""
    for title, rows in tables:
        rows = [[" ".join(c.split()).replace("|", "\\|") for c in row] for row in rows]
        widths = [max(map(len, column)) for column in zip(*rows)]
        rows.insert(1, ["-" * w for w in widths])
        lines = ("| " + " | ".join(c.ljust(w) for c, w in zip(row, widths)) + " |" for row in rows)
        out += "\n".join([title, "", *lines, "", ""])
    return out


def bars(ax, data, colours, labels):
    """{label: metric} as groups of bars, one for each model; data: {model: {metric: [value, low, high]}}."""
    for i, (model, m) in enumerate(data.items()):
        y, low, high = np.array([m.get(name, [np.nan] * 3) for name in labels.values()]).reshape(-1, 3).T
        at = np.arange(len(labels)) + (i + 0.5) * 0.8 / len(data) - 0.4
        ax.bar(at, y, 0.74 / len(data), yerr=np.abs([y - low, high - y]), color=colours[model], ecolor="#444")
    ax.set_xticks(range(len(labels)), labels)


def lines(ax, data, colours):
    """{name: [(x, y)]} as lines: the points pale, their running mean strong."""
    for name, points in data.items():
        x, y = np.array(points).reshape(-1, 2).T
        near = len(y) // 20
        mean = [y[max(0, t - near):t + near + 1].mean() for t in range(len(y))]
        ax.plot(x, y, ".", color=colours[name], alpha=0.25)
        ax.plot(x, mean, "-" if near else "-o", markersize=3, color=colours[name])


def read_curves(path):
    """metrics.jsonl -> {key: [(step, value)]}."""
    rows = [row for _, row in models.read_jsonl(path, ("step",))]
    try:
        return {k: [(int(r["step"]), float(r[k])) for r in rows if r.get(k) is not None] for k in CURVES}
    except (ValueError, TypeError, OverflowError):
        raise models.InputError(f"{path}: a step or one of {', '.join(CURVES)} is not a number") from None


def picture(report, runs, path):
    """Draws figures 3 and 4 of the paper, below them the curves of runs; "$x$" is a name. Returns the PNG."""
    try:
        from matplotlib import figure, patches, rc_context
    except ImportError:
        print("matplotlib is not installed: the report has no picture")
        return None
    found = {model: {name: scale(name) * np.array([m["value"], m["low"], m["high"]], float)
                     for name, m in metrics.items()} for model, metrics in report["models"].items()}
    panels = [("accuracy, %", bars, found, {"first": "first_accuracy", "final": "final_accuracy"}),
              ("verification, %", bars, found, {n: n for n in ("VA", "ER", "CP")}),
              ("trials by level", bars, found, {x: f"level={x} trials" for x in report["levels"]}),
              ("correction, %", bars, found, {"ICR: wrong to right": "ICR", "CIR: back": "CIR"}),
              ("final by level, %", bars, found, {x: f"level={x} final_accuracy" for x in report["levels"]}),
              ("accuracy over tokens, if cut", lines, {model: [
                  (m[f"cut_after_{j}_tokens"][0], m[f"cut_after_{j}_accuracy"][0])
                  for j in range(1, 9) if f"cut_after_{j}_tokens" in m] for model, m in found.items()})]
    panels += [(f"{key.replace('_', ' ')} over the training step", lines, {
        run: curves[key] for run, curves in runs.items()}) for key in CURVES if runs]
    colours = {name: f"C{i}" for i, name in enumerate(dict.fromkeys([*found, *runs]))}
    with rc_context({"axes.grid": True, "axes.axisbelow": True, "grid.alpha": 0.3, "text.parse_math": False}):
        fig = figure.Figure(figsize=(9.8, 0.9 * len(panels)), layout="constrained")
        for ax, (title, draw, data, *labels) in zip(fig.subplots(len(panels) // 3, 3).flat, panels):
            draw(ax, data, colours, *labels)
            ax.set(title=title, ylim=(0, 104) if title.endswith("%") else None)
        fig.legend([patches.Patch(color=c) for c in colours.values()], [name[:30] for name in colours],
                   loc="outside upper center", ncols=6, frameon=False)
        fig.savefig(png := BytesIO(), format="png", dpi=120)
    models.write_text(path, png.getvalue())
    return png.getvalue()


PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>S²R report</title><style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2rem auto; padding: 0 1rem }
h2 { font-size: 1.15rem; margin-top: 2.2rem } img { max-width: 100% } div { overflow-x: auto }
table { border-collapse: collapse; font-size: 13px; white-space: nowrap } tr:first-child { font-weight: 600 }
td { padding: .1rem 1rem .1rem 0; border-bottom: 1px solid #eee } details { margin: .4rem 0; padding: 0 1rem }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .4rem 0; padding: .2rem .7rem; font-size: 12px;
border-left: 4px solid #ccc } .reward1 { border-color: #2a9d5c; background: #edf8f1 }
.reward-1 { border-color: #d1495b; background: #fcf0f1 }</style>"""


def trajectory(r):
    """One response as HTML: the problem, then each action coloured by its reward (§2.3.2)."""
    problem, gold, actions = r.row["problem"], r.row["answer"], verifier.parse_actions(r.text)
    title = f"solutions: {len(r.right)}{', unfinished' if r.finished is False else ''} · {problem[:90]}"
    out = f"<details><summary>{escape(title)}</summary><pre>{escape(problem)}\n\ngold: {escape(gold)}</pre>"
    for a, reward in zip(actions, verifier.action_rewards(actions, gold, r.finished is not False)):
        out += f"<pre class=reward{reward}>{a.type} {reward:+d}\n{escape(a.text.strip())}</pre>"
    return out + "</details>"


def page(report, png, scored):
    """The report as HTML, with up to six trajectories of each cell of each model's transition table."""
    out = [PAGE, f"<h1>S²R report: {escape(', '.join(report['models']))}</h1>",
           f'<img alt="figures 3 and 4" src="data:image/png;base64,{base64.b64encode(png).decode()}">' if png
           else "<p>matplotlib is not installed: no pictures.</p>"]
    for title, cells in tables(report):
        body = "".join("<tr>" + "".join(f"<td>{escape(c)}" for c in row) for row in cells)
        out.append(f"<h2>{escape(title)}</h2><div><table>{body}</table></div>")
    for name, responses in scored.items():
        out.append(f"<h2>Trajectories of {escape(name)}, first solution to last</h2>")
        for title, ends in CELLS.items():
            those = [r for r in responses if (r.right[0], r.right[-1]) == ends]
            out += [f"<details><summary>{title}: {len(those)} of {len(responses)}</summary>",
                    *map(trajectory, those[::max(1, len(those) // 6)][:6]), "</details>"]
    return "\n".join([*out, "<h2>What the numbers mean</h2><pre>", escape(__doc__.split("Run:")[0])])


def over_seeds(paths):
    """report.json of several seeds -> the report of their means, with standard deviation or error."""
    heads, seeds, report = [], [], {"models": {}, "differences": {}}
    for path in paths:
        try:
            r = json.loads(Path(path).read_text("utf-8"))
            heads.append([r["against"], r["problems"], list(r["levels"]), r["shown"], list(r["models"])])
            seeds.append({(kind, model, name): np.array(m["value"], float).item() for kind in report
                          for model, metrics in r[kind].items() for name, m in metrics.items()})
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            raise models.InputError(f"{path}: not a report.json of one seed") from None
    if len(seeds) < 2 or any(head != heads[0] for head in heads):
        raise models.InputError("--seeds needs two reports or more, of the same models and as many problems")
    report |= dict(zip(("against", "problems", "levels"), heads[0]))
    report["shown"] = f"± standard deviation over {len(seeds)} seeds"
    for kind, model, name in seeds[0]:
        values = np.array([seed.get((kind, model, name), np.nan) for seed in seeds])
        mean, error = values.mean(), values.std(ddof=1) / (1 if kind == "models" else len(seeds) ** 0.5)
        k, form = (100, ".1f") if scale(name) == 100 else (1, ".2f")
        text = (f"{k * mean:{form}} ± {k * error:{form}}" if kind == "models"
                else f"{k * mean:+{form}} (s.e. {k * error:{form}})")
        value, low, high = [None] * 3 if np.isnan(error) else [mean, mean - error, mean + error]
        report[kind].setdefault(model, {})[name] = dict(value=value, low=low, high=high, text=text)
    return report


def named(pairs):
    """["NAME=FILE"] -> {NAME: FILE}."""
    out = {}
    for name, _, path in (pair.partition("=") for pair in pairs):
        if not (name and name not in out and Path(path).is_file()):
            raise models.InputError(f"{name}={path}: not NAME=FILE, a name of its own and an existing file")
        out[name] = path
    return out


def compare(files, args):
    """{name: samples file} -> (report, {name: list of Scored})."""
    base = args.against if args.against in files else next(iter(files))
    scored = {name: score(rows) for name, rows in read_aligned(files, args.intersect).items()}
    found = {name: metrics(rows, args.bootstrap) for name, rows in scored.items()}
    gains = {n: differences(rows, scored[base], args.bootstrap) for n, rows in scored.items() if n != base}
    levels = list(dict.fromkeys(name.split()[0][6:] for name in found[base] if name.startswith("level=")))
    return {"files": files, "problems": len({r.row["id"] for r in scored[base]}), "against": base,
            "levels": levels, "shown": f"[95 % interval, B = {args.bootstrap}]", "models": found,
            "differences": gains}, scored


def main():
    args = parse_args()
    out, curves = Path(args.out), named(args.metrics)
    files = dict(enumerate(args.files)) if args.seeds else named(args.files)
    for name in ("report.json", "report.md", "report.html", "report.png"):
        models.check_output(out / name, args.force, *files.values(), *curves.values())
    runs = {name: read_curves(path) for name, path in curves.items()}
    report, scored = (over_seeds(args.files), {}) if args.seeds else compare(files, args)
    if args.against not in (None, report["against"]):
        raise models.InputError(f"--against {args.against}: not a model here, or not what the reports have")
    png, found = picture(report, runs, out / "report.png"), tables(report)
    models.write_text(out / "report.html", page(report, png, scored))
    models.write_text(out / "report.md", markdown(found))
    models.write_text(out / "report.json", json.dumps(report, indent=1, allow_nan=False) + "\n")
    print(f"{markdown(found[:-1])}wrote report.json, report.md, report.html to {out}")


if __name__ == "__main__":
    models.run_main(main)
