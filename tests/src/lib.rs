//! Test harness: run-pass and compile-fail cases, snapshots and the tidy test.
