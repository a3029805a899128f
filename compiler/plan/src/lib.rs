//! From graph to fused kernels to an execution plan with static memory.
