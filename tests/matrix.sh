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
skipped=()
for backend in "${backends[@]}"; do
  # Runs write checkpoints and logs beside the specs.
  cp -r tests/cases/run "$work/$backend"
  log=$work/$backend.log
  status=0
  where=(--backend "$backend")
  if [[ $backend == cuda ]]; then
    where=(--device cuda)
    # What is refused there is no case here.
    refused=()
    while IFS=: read -r name why; do
      rm "$work/cuda/$name.opt"
      refused+=("cuda, $name.opt:$why")
    done < <(grep -v '^#' tests/cases/not_on_gpu.txt)
  fi
  OPTC_CACHE=$work/cache "$optc" --color never "${where[@]}" test "$work/$backend" --quiet >"$log" 2>&1 || status=$?
  if grep -q 'error\[R0136\]' "$log"; then
    printf '%-12s not in this build\n' "$backend"
    skipped+=("$backend, all files: not in this build")
    continue
  fi
  if grep -q 'error\[R0138\]' "$log"; then
    printf '%-12s there is no GPU\n' "$backend"
    skipped+=("$backend, all files: there is no GPU, or no driver for it")
    continue
  fi
  if [[ $backend == cuda ]]; then skipped+=("${refused[@]}"); fi
  printf '%-12s %s\n' "$backend" "$(tail -1 "$log")"
  if ((status != 0)); then
    failed=1
    sed 's/^/    /' <(grep -E '^(FAIL|error|skipped)' "$log")
  fi
done
if ((${#skipped[@]})); then
  printf 'SKIPPED: %s\n' "${skipped[@]}"
fi
exit $failed
