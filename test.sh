#!/usr/bin/env bash
# Set up .venv and run the tests. Arguments go to pytest:
#   bash test.sh                      all but the slow learning runs
#   bash test.sh -m slow              the learning runs on the toy world
#   bash test.sh tests/test_sft.py    one file
set -euo pipefail
cd "$(dirname "$0")"
[ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
.venv/bin/python -m pip install -q --disable-pip-version-check -r requirements-dev.txt
# One thread a process: the models are tiny.
export OMP_NUM_THREADS=1
if [ $# -gt 0 ]; then exec .venv/bin/python -m pytest "$@"; fi
# All tests: those of the pipeline, which wait for long runs, beside the others, one core each.
log=$(mktemp)
trap 'kill -- -$pipeline 2>/dev/null || true; rm -f "$log"' EXIT
set -m                                                     # a process group, which can be killed
.venv/bin/python -m pytest tests/test_pipeline.py > "$log" 2>&1 & pipeline=$!
set +m
code=0
.venv/bin/python -m pytest --ignore tests/test_pipeline.py || code=$?
wait $pipeline || code=$?
cat "$log"
exit $code
