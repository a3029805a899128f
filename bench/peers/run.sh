#!/bin/bash
# Usage: VENV=DIR run.sh THREADS SCRIPT.py [ARGS]. THREADS=1 pins to one core (CORE, default 1); 2 leaves both. Rows go to ./results.jsonl (OUT).
set -eu
threads=$1
shift
here=$(cd "$(dirname "$0")" && pwd)
export THREADS=$threads OMP_NUM_THREADS=$threads MKL_NUM_THREADS=$threads OPENBLAS_NUM_THREADS=$threads
export JAX_PLATFORMS=cpu CUDA_VISIBLE_DEVICES= TORCHINDUCTOR_COMPILE_THREADS=1
script=$here/$1
shift
if [ "$threads" = 1 ]; then
  exec taskset -c "${CORE:-1}" "${VENV:?}/bin/python" "$script" "$@"
fi
exec "${VENV:?}/bin/python" "$script" "$@"
