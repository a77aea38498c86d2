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
base=100000 problems=2000 stored=600 val=128 tests=100000 longest=256     # how many; tokens of a response
bi_epochs=2 steps=22 prompts=32 batches=16 least=0.1 most=0.9 most_offline=0.7
case "${1:-}" in
  "") ;;
  --fast) run=fast-$run base=400 problems=100 stored=32 val=16 tests=16 longest=128
    bi_epochs=6 steps=2 prompts=4 batches=2 least=0 most=1 most_offline=1 ;;
  *) echo "error: usage: [MODEL=M] [DATA=FOLDER] [SEED=N] bash $0 [--fast]" >&2; exit 2 ;;
esac
# For a model of 1 B parameters or more divide the learning rates by ten.
BASE_LR=${BASE_LR:-2e-4} BI_LR=${BI_LR:-1e-4} RL_LR=${RL_LR:-2e-5}
EPOCHS=${EPOCHS:-2} BI_EPOCHS=${BI_EPOCHS:-$bi_epochs} STEPS=${STEPS:-$steps}
DTYPE=${DTYPE:-bf16} TOKENS=${TOKENS:-4096}                # padded tokens in a micro-batch: memory
OUT=${OUT:-.}
R=$OUT/runs/$run results=$OUT/results/$run
if [ -z "${PY:-}" ]; then
  source setup.sh
  setup_venv requirements.txt requirements-plots.txt
  PY=.venv/bin/python
fi
mkdir -p "$R"
export PYTHONUNBUFFERED=1
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
once "$R/val.jsonl" words --train "$DATA/train.csv" --svamp "$DATA/dev.csv" --out "$R/data" --force
head -n $base "$R/data/base.jsonl" > "$R/base-problems.jsonl"
head -n $val "$R/data/val.jsonl" > "$R/val.jsonl"

stage "Stage -1: learn to answer as '3 + 2 = 5. \\boxed{5}': the base, and Table 2's baseline  (35 min)"
once "$R/base.jsonl" $PY sft.py build --original-solutions --samples "$R/base-problems.jsonl" \
  --out "$R/base.jsonl"
train --model "$MODEL" --data "$R/base.jsonl" --out "$R/base" --kl-coef 0 --lr $BASE_LR --epochs $EPOCHS

stage "Stage 0: 5 answers at T = 0.7, two kinds of check for each, trajectories  (15 min)"
sample --model "$R/base/last" --data "$R/data/train.jsonl" --limit $problems --num-samples 5 \
  --temperature 0.7 --max-new-tokens 80 --out "$R/base-train.jsonl"
for kind in confirmative problem-solving; do
  once "$R/checks-$kind.jsonl" words --verify "$R/base-train.jsonl" --kind $kind --out "$R/checks-$kind.jsonl"
  once "$R/$kind.jsonl" $PY sft.py build --samples "$R/base-train.jsonl" --kind $kind --seed $SEED \
    --verifications "$R/checks-$kind.jsonl" --keep 0.5 0.8 0.8 0.8 --out "$R/$kind.jsonl"
done
# Table 2: the same problems and settings, without checks
once "$R/original.jsonl" $PY sft.py build --original-solutions --samples "$R/confirmative.jsonl" \
  --out "$R/original.jsonl"

stage "Stage 1: behaviour initialisation with either kind of check  (25 min)"
bi() { train --model "$R/base/last" --lr $BI_LR --epochs $BI_EPOCHS --kl-coef 0.1 --kl-on first "$@"; }
confirmative() { bi --data "$R/confirmative.jsonl" --out "$R/bi"; }
problem_solving() { bi --data "$R/problem-solving.jsonl" --out "$R/bi-solving"; }
beside problem_solving confirmative

stage "Responses of BI for offline RL; beside it original solutions (Table 2) and tests  (40 min)"
responses() { sample --model "$R/bi/last" --data "$R/data/train.jsonl" --limit $stored --num-samples 4 \
  --temperature 0.7 --max-new-tokens $longest --out "$R/bi-train.jsonl"; greedy bi; }
others() { bi --data "$R/original.jsonl" --out "$R/original"; greedy original base bi-solving; }
beside others responses

stage "Stage 2: outcome-level RLOO and process-level group RL  (90 min)"
# Problems that the base got right 1 to 4 times of 5. One pass: about as many as the steps ask for.
rl=(--model "$R/bi/last" --dtype $DTYPE --max-tokens $TOKENS --lr $RL_LR --schedule linear --warmup 2
    --temperature 0.7 --max-new-tokens $longest --min-acc $least --seed $SEED --resume)
online=("${rl[@]}" --data "$R/data/train.jsonl" --samples "$R/base-train.jsonl" --max-acc $most
        --eval-data "$R/val.jsonl" --eval-every $((STEPS / 2)) --save-every 4 --show-every 4
        --steps $STEPS --prompts-per-step $prompts --num-samples 4
        --updates-per-rollout 2 --ratio sum --beta 0.02)
outcome() { $PY rl_outcome.py "${online[@]}" --out "$R/orl"; }
process() { $PY rl_process.py "${online[@]}" --out "$R/prl" --baseline level --average batch; }
beside outcome process

stage "Offline process-level RL; beside it tests  (35 min)"
stored() {
  $PY rl_process.py "${rl[@]}" --offline "$R/bi-train.jsonl" --max-acc $most_offline --steps $batches \
    --prompts-per-step 16 --num-samples 4 --updates-per-rollout 1 --ratio sum --beta 0.1 --out "$R/offline"
  greedy offline
}
rest() { greedy orl prl; }
beside rest stored

for set in test svamp; do
  stage "Reports on $set: all models against BI; Table 2; Table 6"
  report() { $PY evaluate.py "${@:2}" --out "$results/$set-$1" --force; }
  of() { echo "$1=$R/$set-$2.jsonl"; }
  report all "$(of BI bi)" "$(of base base)" "$(of ORL orl)" "$(of PRL prl)" "$(of PRL-offline offline)" \
    --metrics ORL="$R/orl/metrics.jsonl" --metrics PRL="$R/prl/metrics.jsonl"
  report table2 "$(of original original)" "$(of base base)" "$(of BI bi)"
  report table6 "$(of problem-solving bi-solving)" "$(of confirmative bi)"
done
stage "Done: open $results/{test,svamp}-all/report.html"
