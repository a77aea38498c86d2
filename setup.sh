# Sourced by run.sh and test.sh: make .venv and install the given requirement files into it, once.
setup_venv() {
  local python=${PYTHON:-python3} stamp wanted
  stamp=.venv/.installed-$(printf '%s' "$*" | tr -c 'a-z' '-')
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { echo "error: Python 3.11 or newer is needed (set PYTHON=/path/to/python3)" >&2; exit 2; }
  wanted=$(cat "$@")
  if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then return; fi
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  local file; for file in "$@"; do .venv/bin/python -m pip install -q --disable-pip-version-check -r "$file"; done
  printf '%s\n' "$wanted" > "$stamp"
}
