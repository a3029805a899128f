#!/usr/bin/env bash
# Runs all cases of tests/cases/run on every back end of an optc, and on a GPU where there is one, and prints a table: tests/matrix.sh [OPTC] [BACKEND...]
set -euo pipefail
cd "$(dirname "$0")/.."
optc=${1:-target/release/optc}
shift || true
backends=("$@")
if ((${#backends[@]} == 0)); then backends=(cranelift llvm simt interpreter cuda); fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
for backend in "${backends[@]}"; do
  # Runs write checkpoints and logs beside the specs.
  cp -r tests/cases/run "$work/$backend"
  log=$work/$backend.log
  status=0
  where=(--backend "$backend")
  if [[ $backend == cuda ]]; then
    where=(--device cuda)
    # Arrays in files are for the processor: what is refused there is no case here.
    rm "$work/cuda/offloading.opt" "$work/cuda/swapping.opt"
  fi
  OPTC_CACHE=$work/cache "$optc" --color never "${where[@]}" test "$work/$backend" --quiet >"$log" 2>&1 || status=$?
  if grep -q 'error\[R0136\]' "$log"; then
    printf '%-12s not in this build\n' "$backend"
    continue
  fi
  if grep -q 'error\[R0138\]' "$log"; then
    printf '%-12s there is no GPU\n' "$backend"
    continue
  fi
  printf '%-12s %s\n' "$backend" "$(tail -1 "$log")"
  if ((status != 0)); then
    failed=1
    sed 's/^/    /' <(grep -E '^(FAIL|error|skipped)' "$log")
  fi
done
exit $failed
