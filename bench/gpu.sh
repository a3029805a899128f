#!/usr/bin/env bash
# Everything that is to be seen on a GPU, in one go: bench/gpu.sh [OPTC] [OUT]
#
# Builds and installs nothing: OPTC is an executable of a build with the feature `llvm` (default target/release/optc), which needs the driver and the C library (docs/gpu.md). Writes OUT/gpu.json and
# OUT/gpu.md (default out/gpu): every case of tests/cases/run (but those of tests/cases/not_on_gpu.txt) and the digits example on the GPU, then optimizer steps, training steps, attention and the optimizers for torch beside torch's, if python3 has one that sees the GPU,
# and, where there are several GPUs, training steps that these share out (NCCL has to be installed).
# The optimizers for torch are looked for in OUT/optimizers, or EXPORTS, and made beforehand where there is a linker: optc build --optimizer adamw --emit torch -o OUT/optimizers, and lion.
# Exit status 1 if a case fails.
# PARAMETERS (default 1000000000), TURNS (3), CASES (all; names with commas between), SECONDS_EACH (2), ONLY (cases,steps,training,attention,scaling,exports), GPUS (what nvidia-smi counts) and PYTHON (python3) may be given in the environment.
set -euo pipefail
cd "$(dirname "$0")/.."
optc=${1:-target/release/optc}
out=${2:-out/gpu}
mkdir -p "$out"
exec "${PYTHON:-python3}" bench/gpu.py --optc "$optc" --out "$out" --parameters "${PARAMETERS:-1000000000}" --turns "${TURNS:-3}" \
  --seconds "${SECONDS_EACH:-2}" --only "${ONLY:-cases,steps,training,attention,scaling,exports}" ${GPUS:+--gpus "$GPUS"} ${CASES:+--cases "$CASES"} --exports "${EXPORTS:-$out/optimizers}"
