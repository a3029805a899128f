//! Element types, tensors, plans and the calling convention of kernels: the only meeting point of compiler and runtime.
