#!/usr/bin/env bash
# The whole method on a pretrained model and grade-school word problems. See README.md beside this file.
#   DATA=SVAMP/data/mawps-asdiv-a_svamp MODEL=HuggingFaceTB/SmolLM2-135M-Instruct \
#     bash recipes/word_problems/run.sh [--fast]                 SEED=1 for another seed
# Run it again after an interruption: what is there is skipped, the rest goes on. To change a setting remove
# the folder of the stage and of those after it. The minutes are a budget for two CPU cores (README.md).
set -euo pipefail
cd "$(dirname "$0")/../.."
MODEL=${MODEL:-HuggingFaceTB/SmolLM2-135M-Instruct} SEED=${SEED:-0}
DATA=${DATA:-SVAMP/data/mawps-asdiv-a_svamp}
[ -e "$DATA/train.csv" ] || {
  echo "error: no $DATA/train.csv: git clone https://github.com/arkilpatel/SVAMP, or set DATA" >&2; exit 2; }
run=words-$(basename "$MODEL")-seed$SEED
problems=1000 stored=256 val=64 tests=300 longest=200 rollout=160 epochs=1 steps=34 prompts=16 batches=8
base=4800 again=400 least=0.1 most=0.9 most_offline=0.7      # how many problems, steps and so on
case "${1:-}" in
  "") ;;
  --fast) run=fast-$run base=400 again=40 problems=100 stored=32 val=16 tests=16 longest=128 rollout=128
    epochs=3 steps=2 prompts=4 batches=2 least=0 most=1 most_offline=1 ;;
  *) echo "error: usage: [MODEL=M] [DATA=FOLDER] [SEED=N] bash $0 [--fast]" >&2; exit 2 ;;
esac
# For a model of 1 B parameters or more divide the learning rates by ten.
BASE_LR=${BASE_LR:-2e-4} BI_LR=${BI_LR:-1e-4} RL_LR=${RL_LR:-2e-5}
EPOCHS=${EPOCHS:-$epochs} BI_EPOCHS=${BI_EPOCHS:-2} STEPS=${STEPS:-$steps}
DRILLS=${DRILLS:-1800}                                     # a dozen sums each, for the base
DTYPE=${DTYPE:-bf16} TOKENS=${TOKENS:-2048}                # padded tokens in a micro-batch: memory
OUT=${OUT:-.}
R=$OUT/runs/$run results=$OUT/results/$run
PY=${PY:-.venv/bin/python}
if [ "$PY" = .venv/bin/python ]; then
  [ -x $PY ] || "${PYTHON:-python3}" -m venv .venv
  $PY -m pip install -q --disable-pip-version-check -r requirements-dev.txt
fi
mkdir -p "$R"
# A thread that waits gives its core away: without this two busy processes slow each other down many times.
export PYTHONUNBUFFERED=1 OMP_WAIT_POLICY=passive
threads=${OMP_NUM_THREADS:-2}
other=
trap '[ -z "$other" ] || kill -- -$other 2>/dev/null || true' EXIT          # no stage outlives this script

stage() { printf '\n== %s  (%d min)\n' "$1" $((SECONDS / 60)); }
once() { [ -e "$1" ] || "${@:2}"; }                        # once FILE COMMAND: skip what is already there
words() { $PY recipes/word_problems/word_problems.py "$@"; }
sample() { $PY sample.py --dtype $DTYPE --batch-size 128 --seed $SEED --resume "$@"; }
train() { $PY sft.py train --dtype $DTYPE --max-tokens $TOKENS --batch-size 16 --schedule linear \
  --eval-every 200 --seed $SEED --resume "$@"; }
greedy() {                                                 # greedy NAME ...: answers to both test sets
  local name set
  for name; do for set in test svamp; do
    sample --model "$R/$name/last" --data "$R/data/$set.jsonl" --limit $tests --max-new-tokens $longest \
      --out "$R/$set-$name.jsonl"
  done; done
}
beside() {                             # beside A B: two functions at a time, each on one core; A has a log
  export OMP_NUM_THREADS=1
  set -m; "$1" > "$R/$1.log" 2>&1 & other=$!; set +m       # a process group of its own, which can be killed
  "$2"
  wait $other || { tail -n 3 "$R/$1.log" >&2; exit 1; }
  other=
  export OMP_NUM_THREADS=$threads
}
export OMP_NUM_THREADS=$threads

stage "Problems"
once "$R/val.jsonl" words --train "$DATA/train.csv" --svamp "$DATA/dev.csv" --out "$R/data" --force \
  --drills $DRILLS
head -n $base "$R/data/base.jsonl" > "$R/base-problems.jsonl"
head -n $val "$R/data/val.jsonl" > "$R/val.jsonl"

stage "Stage -1: learn to answer as '3 + 2 = 5. \\boxed{5}': the base, and Table 2's baseline"
once "$R/base.jsonl" $PY sft.py build --original-solutions --samples "$R/base-problems.jsonl" \
  --out "$R/base.jsonl"
# For stage 1: drills that the base has not seen. Without them it forgets its sums while it learns to check.
tail -n +$((base + 1)) "$R/data/base.jsonl" | { grep '"id": "drill' || true; } | sed "$((again + 1)),\$d" \
  > "$R/drill-problems.jsonl"
[ -s "$R/drill-problems.jsonl" ] || : > "$R/drills.jsonl"  # DRILLS=0
once "$R/drills.jsonl" $PY sft.py build --original-solutions --samples "$R/drill-problems.jsonl" \
  --out "$R/drills.jsonl"
train --model "$MODEL" --data "$R/base.jsonl" --out "$R/base" --kl-coef 0 --lr $BASE_LR --epochs $EPOCHS

stage "Stage 0: 5 answers at T = 0.7, two kinds of check for each, trajectories"
sample --model "$R/base/last" --data "$R/data/train.jsonl" --limit $problems --num-samples 5 \
  --temperature 0.7 --max-new-tokens 80 --out "$R/base-train.jsonl"
for kind in confirmative problem-solving; do
  once "$R/checks-$kind.jsonl" words --verify "$R/base-train.jsonl" --kind $kind --out "$R/checks-$kind.jsonl"
  once "$R/$kind.jsonl" $PY sft.py build --samples "$R/base-train.jsonl" --kind $kind --seed $SEED \
    --verifications "$R/checks-$kind.jsonl" --keep 1 0.5 0.5 0.5 --out "$R/$kind.jsonl"
done
# Table 2: the same problems and settings, without checks
once "$R/original.jsonl" $PY sft.py build --original-solutions --samples "$R/confirmative.jsonl" \
  --out "$R/original.jsonl"

stage "Stage 1: behaviour initialisation, the teacher's checks undo the equation"
bi() {                                                     # bi TRAJECTORIES FOLDER
  cat "$R/$1.jsonl" "$R/drills.jsonl" > "$R/$1-drills.jsonl"
  train --model "$R/base/last" --lr $BI_LR --epochs $BI_EPOCHS --kl-coef 0.1 --kl-on first \
    --data "$R/$1-drills.jsonl" --out "$R/$2"
}
bi confirmative bi

stage "Stage 2: outcome-level RLOO and process-level group RL, side by side"
# Problems that the base got right 1 to 4 times of 5. One pass: about as many as the steps ask for.
rl=(--model "$R/bi/last" --dtype $DTYPE --max-tokens $TOKENS --lr $RL_LR --schedule linear --warmup 3
    --temperature 0.7 --min-acc $least --seed $SEED --resume)
online=("${rl[@]}" --data "$R/data/train.jsonl" --samples "$R/base-train.jsonl" --max-acc $most
        --eval-data "$R/val.jsonl" --eval-every $((STEPS / 2)) --save-every 4
        --steps $STEPS --prompts-per-step $prompts --num-samples 4
        --max-new-tokens $rollout --updates-per-rollout 1 --beta 0.05 ${RL_FLAGS:-})     # the last one counts
outcome() { $PY rl_outcome.py "${online[@]}" --out "$R/orl"; }
process() { $PY rl_process.py "${online[@]}" --out "$R/prl" --baseline level --average batch; }
beside outcome process

stage "Tests of all four"
before() { greedy base bi orl; }
after() { greedy prl; }
beside before after
report() {                                                 # report test|svamp NAME ROW=MODEL ...
  local set=$1 out=$results/$1-$2 row rows=(); shift 2
  for row; do rows+=("${row%%=*}=$R/$set-${row#*=}.jsonl"); done
  $PY evaluate.py "${rows[@]}" --out "$out" --force
}
for set in test svamp; do report $set all BI=bi base=base ORL=orl PRL=prl; done

stage "Table 6: problem-solving checks instead; beside it Table 2: original solutions; and offline PRL"
solving() { bi problem-solving bi-solving; greedy bi-solving; }
rest() {
  bi original original
  greedy original
  sample --model "$R/bi/last" --data "$R/data/train.jsonl" --limit $stored --num-samples 4 \
    --temperature 0.7 --max-new-tokens $longest --out "$R/bi-train.jsonl"
  $PY rl_process.py "${rl[@]}" --offline "$R/bi-train.jsonl" --max-acc $most_offline --steps $batches \
    --prompts-per-step 16 --num-samples 4 --max-new-tokens $longest \
    --updates-per-rollout 1 --ratio sum --beta 0.1 --out "$R/offline"
  greedy offline
}
beside solving rest
for set in test svamp; do
  report $set table2 original=original base=base BI=bi
  report $set table6 problem-solving=bi-solving confirmative=bi
  report $set offline BI=bi PRL=prl offline=offline
done
stage "Done: open $results/{test,svamp}-all/report.html"
