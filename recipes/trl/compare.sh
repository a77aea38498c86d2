#!/usr/bin/env bash
# One algorithm, two implementations: rl_outcome.py in one process, TRL's RLOOTrainer in two. Both
# start from the BI checkpoint of run.sh and take the same rewards, sizes, temperature and learning rate
# (those of an earlier run.sh: README.md beside this file).
#   bash run.sh --no-rl && bash recipes/trl/compare.sh
#   SEED=1 STEPS=40 PROMPTS=32 LR=1e-4 LIMIT=500 bash recipes/trl/compare.sh     a seed, a shorter run
# Reads runs/seed0/{toy, bi}. Writes runs/seed0/trl/ and results/trl-seed0. What is finished is not
# run again: remove runs/seed0/trl to change a setting.
set -euo pipefail
cd "$(dirname "$0")/../.."
VENV=${VENV:-recipes/trl/.venv} SEED=${SEED:-0} STEPS=${STEPS:-100} PROMPTS=${PROMPTS:-64} LR=${LR:-5e-5}
LIMIT=${LIMIT:-1000} R=runs/seed$SEED T=runs/seed$SEED/trl
[ -x "$VENV/bin/python" ] || ${PYTHON:-python3} -m venv "$VENV"
python=$VENV/bin/python
$python -c 'import trl' 2>/dev/null || $python -m pip install -q -r recipes/trl/requirements.txt
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1 PYTHONWARNINGS=ignore

rl=(--model $R/bi/last --data $R/toy/train.jsonl --steps $STEPS --seed $SEED
    --prompts-per-step $PROMPTS --num-samples 4 --updates-per-rollout 1 --lr $LR --schedule linear
    --warmup 5 --beta 0.05 --clip 0.2 --temperature 0.7 --max-new-tokens 300)
start=$SECONDS
$python rl_outcome.py "${rl[@]}" --ratio sum --max-tokens 4096 --out $T/ours --resume
echo "rl_outcome.py, 1 process: $((SECONDS - start)) s"
start=$SECONDS
[ -e $T/trl/last/config.json ] ||
  $python -m accelerate.commands.launch --multi_gpu --num_processes 2 \
    recipes/trl/train.py "${rl[@]}" --out $T/trl
echo "TRL, 2 processes: $((SECONDS - start)) s"

# Greedy responses to the test problems, as in run.sh.
files=()
for name in bi base ours trl; do
  case $name in bi) model=$R/bi/last ;; base) model=$R/toy/base ;; *) model=$T/$name/last ;; esac
  $python sample.py --model $model --data $R/toy/test.jsonl --limit $LIMIT --max-new-tokens 480 \
    --out $T/$name.jsonl --resume
  files+=($name=$T/$name.jsonl)
done
$python evaluate.py "${files[@]}" --metrics ours=$T/ours/metrics.jsonl \
  --metrics trl=$T/trl/metrics.jsonl --out results/trl-seed$SEED --force
$python - $T/ours/metrics.jsonl $T/trl/metrics.jsonl <<'END'
import json, sys
for path in sys.argv[1:]:       # of the rollouts: means of the first, second, ... quarter of the steps
    rows = [row for row in map(json.loads, open(path)) if row["step"]]
    parts = [rows[len(rows) * i // 4:len(rows) * (i + 1) // 4] for i in range(4)]
    for name in "reward", "first_accuracy", "VA", "kl", "seconds":
        print(path, name, *(f"{sum(row[name] for row in part) / len(part):.3f}" for part in parts))
END
