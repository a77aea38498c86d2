#!/usr/bin/env bash
# The whole of S²R on a laptop: base model -> behaviour initialisation -> RL, on the toy world. One block a stage.
#   bash run.sh            the full run (results/seed0)        SEED=1 bash run.sh   another seed
#   bash run.sh --fast     a short smoke run (results/fast0): it shows the machinery, it learns next to nothing
#   bash run.sh --no-rl    the full run up to behaviour initialisation (its report: results/bi-seed0)
#   bash run.sh --long     300 RL steps instead of 60, from the same start (results/long-seed0)
# Run it again after an interruption: finished stages are skipped, the others resume. To change a flag, remove
# the folder of the stage and of those after it (or runs/seed0 as a whole) first.
set -euo pipefail
cd "$(dirname "$0")"
[ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
.venv/bin/python -m pip install -q --disable-pip-version-check -r requirements-dev.txt
# One thread a process; the stages that can be cut in two run as two processes, side by side.
export OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT            # no stage outlives this script
python=.venv/bin/python SEED=${SEED:-0}

R=runs/seed$SEED results=results/seed$SEED
train=8000 val=200 test=1000 lr=2e-4 epochs=1 steps=60 evals=30 rl_lr=1e-4 long= names=
case "$*" in
  "") ;;
  --no-rl) names="base bi" results=results/bi-seed$SEED ;;
  --long) results=results/long-seed$SEED steps=300 evals=100 rl_lr=2e-4 long=-long ;;
  --fast) R=runs/fast$SEED results=results/fast$SEED train=300 val=40 test=100 lr=5e-4 epochs=8 steps=4 evals=4 ;;
  *) echo "error: usage: [SEED=N] bash run.sh [--fast | --no-rl | --long]" >&2; exit 2 ;;
esac
names=${names:-base bi orl$long prl$long}
[[ $SEED =~ ^[0-9]+$ ]] || { echo "error: SEED=$SEED: a whole number from 0 on" >&2; exit 2; }
started=$SECONDS
stage() { printf '\n== %s  (%d min %02d s)\n' "$1" $(((SECONDS - started) / 60)) $(((SECONDS - started) % 60)); }
once() { [ -e "$1" ] || "${@:2}"; }                      # once FILE COMMAND: skip what is already there

stage "The world: problems, and a tiny base model that solves by a leap and does not check (toy.py)"
once $R/toy/train.jsonl $python toy.py --out $R/toy --seed $SEED \
  --train-problems $train --val-problems $val --test-problems $test --force

stage "Stage 0a: 5 answers to every training problem at T = 0.7 (paper 2.2, App. C.1)"
$python sample.py --model $R/toy/base --data $R/toy/train.jsonl --out $R/base-train.jsonl \
  --num-samples 5 --temperature 0.7 --max-new-tokens 20 --seed $SEED --resume

stage "Stage 0b: the teacher's checks of these answers; those that state the truth are kept"
once $R/checks.jsonl $python toy.py --verify $R/base-train.jsonl --out $R/checks.jsonl

# --keep: a share of each k, here all; the paper's numbers are the defaults
stage "Stage 0c: trial-and-error trajectories: k-1 wrong answers with their checks, then a right one"
once $R/trajectories.jsonl $python sft.py build --samples $R/base-train.jsonl --verifications $R/checks.jsonl \
  --keep 1 1 1 1 --seed $SEED --out $R/trajectories.jsonl

# --kl-on first: hold the first solution, masked or not, near the base, so that the skill to solve stays
stage "Stage 1: behaviour initialisation (equation 1)"
$python sft.py train --model $R/toy/base --data $R/trajectories.jsonl --out $R/bi \
  --lr $lr --schedule linear --epochs $epochs --kl-coef 0.3 --kl-on first --seed $SEED --resume

if [ "$names" != "base bi" ]; then
stage "Stage 2: outcome-level RLOO (equations 2, 3) and process-level group RL (4-6), side by side"
# Problems that the base got wrong twice of five times or more often. One update a rollout: the ratio is 1 and
# nothing is clipped. Validation problems draw the curve and pick best/. ORL writes its progress to orl.log.
rl=(--model $R/bi/last --data $R/toy/train.jsonl --samples $R/base-train.jsonl --min-acc 0 --max-acc 0.7
    --eval-data $R/toy/val.jsonl --steps $steps --eval-every $evals --prompts-per-step 32 --num-samples 8
    --updates-per-rollout 1 --lr $rl_lr --schedule linear --warmup 3 --beta 0.05
    --temperature 0.5 --max-new-tokens 300 --max-tokens 4096 --seed $SEED --resume)
$python rl_outcome.py "${rl[@]}" --out $R/orl$long > $R/orl$long.log 2>&1 & orl=$!
$python rl_process.py "${rl[@]}" --out $R/prl$long --baseline level --average batch
wait $orl || { tail -n 3 $R/orl$long.log >&2; exit 1; }
fi

stage "Greedy responses of the models to the test problems: looked at once, here"
for name in $names; do
  model=$R/$name/last; [ $name = base ] && model=$R/toy/base
  $python sample.py --model $model --data $R/toy/test.jsonl --out $R/test-$name.jsonl --max-new-tokens 480 --resume
done

stage "The paper's metrics, with intervals (App. E)"
files=(base=$R/test-base.jsonl BI=$R/test-bi.jsonl --against BI)
if [ "$names" != "base bi" ]; then
  files+=(ORL=$R/test-orl$long.jsonl PRL=$R/test-prl$long.jsonl)
  files+=(--metrics ORL=$R/orl$long/metrics.jsonl --metrics PRL=$R/prl$long/metrics.jsonl)
fi
$python evaluate.py "${files[@]}" --out $results --force

stage "One problem, every model"
$python - $(for name in $names; do echo $R/test-$name.jsonl; done) <<'PY'
import json, sys
files = {path: [json.loads(line) for line in open(path)] for path in sys.argv[1:]}
tries = [row["responses"][0].count("Let me try again.") for row in files[sys.argv[2]]]
place = min(range(len(tries)), key=lambda i: (abs(tries[i] - 2), i))        # where BI needs about three attempts
for path, rows in files.items():
    print(f"--- {path}\n{rows[place]['problem']}  (answer {rows[place]['answer']})\n{rows[place]['responses'][0]}\n")
PY
echo "For comparison, the paper's accuracies with Qwen2.5-Math-7B on MATH500: base 51.0, BI 81.6, ORL 84.4, PRL 83.4."
stage "Done: open $results/report.html"
