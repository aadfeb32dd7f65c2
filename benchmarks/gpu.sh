#!/usr/bin/env bash
# All that is to be known on a machine with a GPU, in at most eight minutes: one JSON line for each part, and the tests
# marked gpu. On a machine without one each line says "skipped". PYTHON names the interpreter.
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python}
status=0
for part in equal learner pretrain; do
    timeout 180 "$PYTHON" benchmarks/gpu.py "$part" | tail -n 1 || status=1
done
"$PYTHON" -m pytest -q -m gpu tests || status=1
exit $status
