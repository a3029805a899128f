#!/usr/bin/env bash
# Installs what the full test-suite needs on a bare Debian and passes it: format, lints, tests, examples.
set -euo pipefail
cd "$(dirname "$0")"

step() { printf '\n== %s (%ss)\n' "$1" "$SECONDS"; }

step "tools"
if ! command -v cargo >/dev/null; then
  echo "test.sh needs Rust (rustup.rs); the version is in Cargo.toml under rust-version" >&2
  exit 1
fi
if ! command -v cc >/dev/null; then
  apt-get update -qq && apt-get install -y -qq --no-install-recommends gcc libc6-dev
fi
if ! cargo nextest --version >/dev/null 2>&1; then
  cargo install --locked cargo-nextest
fi

step "format"
cargo fmt --all --check

step "lints"
cargo clippy --workspace --all-targets --locked -- -D warnings

step "tests"
cargo nextest run --workspace --locked
cargo test --doc --workspace --locked --quiet

step "specs"
cargo build --release --locked
optc=./target/release/optc
if [[ -n ${CARGO_TARGET_DIR:-} ]]; then optc=$CARGO_TARGET_DIR/release/optc; fi
"$optc" fmt --check examples stdlib bench/specs
"$optc" check examples stdlib bench/specs
step "parity with JAX and Optax"
"$optc" test tests/parity --quiet
for spec in examples/*.opt; do
  step "$spec"
  "$optc" test "$spec"
done
step "all passed"
