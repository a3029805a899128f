#!/usr/bin/env bash
# Installs what the full test-suite needs on a bare Debian and passes it: format, lints, tests, examples.
set -euo pipefail
cd "$(dirname "$0")"

# The version of Rust the workspace is written for. Newer compilers bring new lints, so there warnings are shown and are no errors.
rust=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)

# Where everything is built once, nothing is kept for the next build, nor for debuggers.
if [[ -n ${CI:-} ]]; then export CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=0; fi

step() { printf '\n== %s (%ss)\n' "$1" "$SECONDS"; }

step "tools"
as_root() { if [[ $EUID -eq 0 ]]; then "$@"; else sudo "$@"; fi; }
debian() { as_root apt-get update -qq && as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"; }
if ! command -v cc >/dev/null; then
  debian gcc libc6-dev
fi
if ! command -v cargo >/dev/null; then
  command -v curl >/dev/null || debian curl ca-certificates
  curl --proto '=https' --tlsv1.2 -sSf https://static.rust-lang.org/rustup/rustup-init.sh | sh -s -- -y --profile minimal --default-toolchain "$rust" --component rustfmt --component clippy
  source "$HOME/.cargo/env"
fi
cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
cargo clippy --version >/dev/null 2>&1 || rustup component add clippy
if ! cargo nextest --version >/dev/null 2>&1; then
  # The released binary where it can be had; compiling it takes minutes.
  prebuilt() { [[ $(uname -sm) == "Linux x86_64" ]] && curl -LsSf --max-time 120 https://get.nexte.st/0.9.143/linux | tar -xzf - -C "${CARGO_HOME:-$HOME/.cargo}/bin"; }
  prebuilt || cargo install --locked cargo-nextest --version 0.9.143
fi

# LLVM 22, with which the suite runs where it can be had: in Debian 12's security updates, and wherever LLVM_SYS_221_PREFIX points.
llvm=()
if [[ -z ${LLVM_SYS_221_PREFIX:-} ]]; then export LLVM_SYS_221_PREFIX=/usr/lib/llvm-22; fi
if [[ ! -x $LLVM_SYS_221_PREFIX/bin/llvm-config ]] && command -v apt-get >/dev/null; then
  debian g++ llvm-22-dev libpolly-22-dev libffi-dev zlib1g-dev libzstd-dev libxml2-dev binutils || true
fi
if [[ -x $LLVM_SYS_221_PREFIX/bin/llvm-config ]]; then
  llvm=(--features llvm)
else
  echo "SKIPPED: the back ends llvm and simt: there is no LLVM 22 in $LLVM_SYS_221_PREFIX, and no package llvm-22-dev"
fi

# Open MPI and libclang, with which searches of several processes are built and tested where they can be had.
mpi() { command -v mpicc >/dev/null && command -v mpirun >/dev/null && [[ -n ${LIBCLANG_PATH:-} || -n $(find /usr/lib -name 'libclang[.-][s0-9]*' -print -quit) ]]; }
if ! mpi && command -v apt-get >/dev/null; then debian libopenmpi-dev openmpi-bin libclang-dev || true; fi
features=("${llvm[@]}")
if mpi; then
  features=(--features "mpi${llvm[*]:+,llvm}")
else
  echo "SKIPPED: searches of several processes: there is no Open MPI with its headers, or no libclang"
fi

# Packages of Python come while the compiler works. NVIDIA's assembler takes the code for GPUs on any machine; tests of JAX, Optax and torch are skipped where these cannot be had, those of torch too
# where there is no room for its 6 GB.
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
python=$target/python/bin/python
if ! python3 -c 'import venv, ensurepip' 2>/dev/null; then debian python3 python3-venv; fi
mkdir -p "$target"
assembler=
if ((${#llvm[@]})) && [[ -z ${OPTC_PTXAS:-} ]] && ! command -v ptxas >/dev/null; then assembler=nvidia-cuda-nvcc==13.5.37; fi
packages() {
  python3 -m venv "$target/python"
  local pip=("$python" -m pip install --quiet)
  "${pip[@]}" "$(grep ^numpy bench/peers/requirements.txt)"
  if [[ -n $assembler ]]; then "${pip[@]}" "$assembler" || true; fi
  touch "$target/python/assembler-asked"
  "${pip[@]}" $(grep -e ^jax -e ^optax bench/peers/requirements.txt) || true
  if (($(df --output=avail -BG "$target" | tail -1 | tr -dc 0-9) >= 12)); then "${pip[@]}" "$(grep ^torch bench/peers/requirements-torch.txt)" || true; fi
}
rm -f "$target/python/assembler-asked"
packages >"$target/python-packages.log" 2>&1 &
packages=$!
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT

step "format"
cargo fmt --all --check

step "lints"
deny=()
if [[ $(rustc --version) == "rustc $rust."* ]]; then deny=(-- -D warnings); fi
cargo clippy --workspace --all-targets --locked "${features[@]}" "${deny[@]}"
# As most people build it: without LLVM and MPI.
cargo clippy --locked -p optc -p optc-python "${deny[@]}"

if [[ -n $assembler ]]; then
  while [[ ! -e $target/python/assembler-asked ]] && kill -0 "$packages" 2>/dev/null; do sleep 1; done
  # That of the package asked for: torch's triton brings an older one.
  ptxas=$(find "$target/python" -path '*/nvidia/*/bin/ptxas' -not -path '*/triton/*' -type f -print -quit)
  if [[ -n $ptxas ]]; then
    chmod +x "$ptxas"
    export OPTC_PTXAS=$ptxas
  fi
fi

step "tests"
# Compiled kernels are not taken from earlier runs.
export OPTC_CACHE=off
cargo nextest run --workspace --locked "${features[@]}" --no-fail-fast
# Tests for which something is missing pass, and say what.
grep -o 'skipped: [^<]*' target/nextest/default/junit.xml | sort | uniq -c | sed 's/^ *\([0-9]*\) skipped: /SKIPPED: \1 tests: /' || true
if ((${#llvm[@]})) && ! { command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q '^GPU '; }; then
  echo "SKIPPED: bench/gpu.sh, tests/matrix.sh on a GPU: there is none; the tests have run its code on the emulator, as PTX on the virtual GPU, and through the assembler"
fi
cargo test --doc --workspace --locked "${features[@]}" --quiet

step "specs"
# With the build that the tests have left: it checks its own arithmetic, and a second one would take as long as all specs do.
cargo build --workspace --locked "${features[@]}"
optc=$target/debug/optc
"$optc" fmt --check examples stdlib bench/specs
"$optc" check examples stdlib bench/specs
step "python, beside the specs"
if ! wait "$packages"; then
  cat "$target/python-packages.log"
  exit 1
fi
in_python() {
  export OPTC_LIBRARY=$target/debug/liboptc_python.so
  # Optimizers for torch on the virtual GPU, which the tests above have built.
  if ((${#llvm[@]})); then export OPTC_LLVM=$target/debug/optc OPTC_VIRTUAL_GPU=$target/debug/deps/libvirtual_cuda.so; fi
  OPTC=$(realpath "$optc") PYTHONPATH=python "$python" -m unittest discover -s python/tests -t python
  "$python" -m pip install --quiet .
  cd "$target" && "$python" -c 'import optc; assert optc.compile("fn f(x: float) = 2 * x").f(2.0) == 4'
}
in_python >"$target/python-tests.log" 2>&1 &
python_tests=$!
step "parity with JAX and Optax"
"$optc" test tests/parity --quiet
# These check how long steps take, so nothing else may run meanwhile.
timed=(examples/systems/04-fuyou-nvme-out-of-core/fuyou.opt)
for spec in examples/*.opt examples/systems/*/*.opt; do
  if [[ $spec == "${timed[*]}" ]]; then continue; fi
  step "$spec"
  "$optc" test "$spec"
done
step "python"
passed=0
wait "$python_tests" || passed=$?
cat "$target/python-tests.log"
if ((passed)); then exit 1; fi
for spec in "${timed[@]}"; do
  step "$spec"
  "$optc" test "$spec"
done
step "all passed${llvm[*]:+, with LLVM}"
