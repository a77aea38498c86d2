"""How long evaluate.py takes on a MATH-500-sized file: 500 problems x 16 responses of one to four solutions.

Run:  python tests/bench/judging.py [--problems 500] [--samples 16] [--all]
The gold answers are those of ../shared/data/math500.jsonl where that is there, else made from SHAPES. A
response is about 2,000 characters; right answers come in several spellings, wrong ones from a handful that
each problem favours. Prints wall and CPU time of each part, the number of solutions and of comparisons that were
made for them, and (--all) what judging every solution by itself costs in the same run.
"""
import argparse
import json
import random
import resource
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import evaluate  # noqa: E402
import verifier  # noqa: E402
from verifier import SOLVE_PHRASE, VERIFY_PHRASE, judge, parse_actions  # noqa: E402

SHAPES = ["{a}", "\\frac{{{a}}}{{{b}}}", "{a}\\sqrt{{{b}}}", "({a}, {b})", "{a}x^2 + {b}x - 1", "[{a}, {b})",
          "\\begin{{pmatrix}} {a} \\\\ {b} \\end{{pmatrix}}", "{a}\\pi", "{a}, {b}", "-\\frac{{{a}}}{{{b}}}"]
FILLER = "We rewrite the left side as $a^2 + 2ab + b^2 = (a + b)^2$ and compare both sides term by term. "


def gold_answers(rng, number):
    path = ROOT.parent / "shared" / "data" / "math500.jsonl"
    if path.exists():
        golds = [str(json.loads(line)["answer"]) for line in path.open(encoding="utf-8")]
    else:
        golds = [rng.choice(SHAPES).format(a=rng.randint(2, 99), b=rng.randint(2, 99)) for _ in range(number)]
    return [golds[i % len(golds)] for i in range(number)]


def answers_of(rng, gold):
    """Spellings of the right answer, and the wrong answers that this problem attracts."""
    right = [gold, gold.replace("\\frac", "\\dfrac"), f" {gold} "]
    wrong = [gold + "+1", "2" + gold, f"-{gold}", str(rng.randint(0, 50)),
             f"\\frac{{{rng.randint(1, 9)}}}{{7}}",
             rng.choice(SHAPES).format(a=rng.randint(2, 9), b=rng.randint(2, 9))]
    return right, rng.sample(wrong, 5)


def samples(number, k, seed=0):
    rng, rows = random.Random(seed), []
    for i, gold in enumerate(gold_answers(rng, number)):
        right, wrong = answers_of(rng, gold)
        ability, texts = rng.betavariate(1.5, 1), []
        for _ in range(k):
            text = ""
            for trial in range(4):
                ok = rng.random() < ability
                answer = rng.choice(right) if ok else wrong[min(int(rng.expovariate(0.7)), len(wrong) - 1)]
                says = ok == (rng.random() < 0.8)
                text += f"{SOLVE_PHRASE * (trial > 0)}{FILLER * 6}\n\nIt is $\\boxed{{{answer}}}$.\n\n"
                text += f"{VERIFY_PHRASE}\n\n{FILLER * 5}Therefore, the answer is "
                text += "correct." if says else "incorrect."
                if says:
                    break
                text += "\n\n"
            texts.append(text)
        rows.append({"id": str(i), "problem": f"Problem {i}", "answer": gold, "level": 1 + i % 5,
                     "responses": texts, "finished": [True] * k, "tokens": [len(t) // 4 for t in texts]})
    return rows


def cpu():
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def timed(label, call):
    wall, used = time.perf_counter(), cpu()
    result = call()
    wall, used = time.perf_counter() - wall, cpu() - used
    print(f"{label:44s} {wall:7.2f} s wall {used:7.2f} s CPU", flush=True)
    return result, wall, used


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--problems", type=int, default=500)
    p.add_argument("--samples", type=int, default=16)
    p.add_argument("--all", action="store_true", help="also judge every solution by itself, for the ratio")
    args = p.parse_args()
    rows = samples(args.problems, args.samples)
    solves = [(a.text, row["answer"]) for row in rows for text in row["responses"]
              for a in parse_actions(text) if a.type == "solve"]
    compared, real = [], verifier.is_equivalent
    verifier.is_equivalent = lambda *pair: compared.append(pair) or real(*pair)
    scored, first, used = timed("score (judge, answer classes)", lambda: evaluate.score(rows))
    verifier.is_equivalent = real
    m, second, _ = timed("metrics with intervals, 2,000 resamples", lambda: evaluate.metrics(scored))
    _, third, _ = timed("differences, as to a second model", lambda: evaluate.differences(scored, scored))
    total = first + second + third
    print(f"{len(rows)} x {args.samples} responses, {len(solves)} solutions, {len(compared)} comparisons with gold "
          f"and other answers: {total:.1f} s")
    print("final_accuracy", evaluate.cell("final_accuracy", m["final_accuracy"]))
    if args.all:
        every, _, alone = timed("every solution by itself", lambda: [judge(*pair) for pair in solves])
        same = every == [right for r in scored for right in r.right]
        print(f"its CPU time over score's, which also finds the classes: {alone / used:.1f}; "
              f"same verdicts: {same}")


if __name__ == "__main__":
    main()
