#!/usr/bin/env bash
# The slow tests: learning curves and long parity runs. They are not part of `make test`.
# Usage: scripts/run_slow.sh [pytest options]      PYTHON names the interpreter; without it the checkout's .venv is used, else `python`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ -z "${PYTHON:-}" ]]; then
    PYTHON=python
    [[ -x .venv/bin/python ]] && PYTHON=.venv/bin/python
fi
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec "$PYTHON" -m pytest -m "slow and not gpu and not browser and not cluster" --durations=20 "$@"
