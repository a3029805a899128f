//! What a GPU runs for a plan, on the emulator and assembled.
#![cfg(feature = "llvm")]

#[path = "device/adamw.rs"]
mod adamw;
#[path = "device/attention.rs"]
mod attention;
#[path = "device/calls.rs"]
mod calls;
#[path = "device/common.rs"]
mod common;
#[path = "device/convolutions.rs"]
mod convolutions;
#[path = "device/gpu.rs"]
mod gpu;
#[path = "device/products.rs"]
mod products;
#[path = "device/transposes.rs"]
mod transposes;
