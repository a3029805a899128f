//! Kernels and plans to machine code through Cranelift.
