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
# All tests in two processes, one core each: these, which train or wait for long runs, and the others.
long=(tests/test_pipeline.py tests/test_course.py)
others=()
for file in tests/test_*.py; do [[ " ${long[*]} " == *" $file "* ]] || others+=("$file"); done
log=$(mktemp)
trap 'kill -- -$beside 2>/dev/null || true; rm -f "$log"' EXIT
set -m                                                     # a process group, which can be killed
.venv/bin/python -m pytest "${long[@]}" > "$log" 2>&1 & beside=$!
set +m
code=0
.venv/bin/python -m pytest "${others[@]}" || code=$?
wait $beside || code=$?
cat "$log"
exit $code
