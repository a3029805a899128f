//! Element types, tensors, plans and the calling convention of kernels: the only meeting point of compiler and runtime.

pub mod attention;
pub mod conv;
pub mod device;
pub mod dtype;
pub mod extent;
pub mod library;
pub mod number;
pub mod offload;
pub mod pages;
pub mod philox;
pub mod plan;
pub mod tensor;

pub use dtype::DType;
pub use tensor::Tensor;
