#!/usr/bin/env bash
# Set up .venv and run the tests. Arguments go to pytest:
#   bash test.sh                      all but the slow learning runs
#   bash test.sh -m slow              the learning runs on the toy world
#   bash test.sh tests/test_sft.py    one file
set -euo pipefail
cd "$(dirname "$0")"
[ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
.venv/bin/python -m pip install -q --disable-pip-version-check -r requirements-dev.txt
# One thread a process: the models are tiny, and a second core is better used by a second test process.
export OMP_NUM_THREADS=1
exec .venv/bin/python -m pytest "$@"
