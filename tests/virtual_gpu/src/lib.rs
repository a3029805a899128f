//! A virtual GPU for tests: the part of CUDA's driver interface that the device runtime calls, over an interpreter of PTX, so that the very text that
//! goes to a GPU is read and executed, and streams, events, graphs, copies and launches run on machines without one.
//!
//! Built as `libvirtual_cuda.so`. A program that loads the driver when it runs finds it if a folder in `LD_LIBRARY_PATH` has it under the name
//! `libcuda.so` (and `libcuda.so.1`); a build of the tests leaves it in `target/debug/deps`. Nothing of CUDA's is in it or needed by it.
//!
//! # As late, and as strict, as a GPU may be
//! - **Work is queued.** Launches, copies, sets, host functions and graphs are done when something waits for them (a synchronization, a copy that waits,
//!   a query, which does one piece), and then only what that depends on: earlier work of the same stream, events that it waited for, the null stream for
//!   streams that are not `NON_BLOCKING`. So a missing synchronization or a buffer that is used again too early gives wrong results in every run.
//!   `OPTC_VGPU_ORDER` says `lazy` (that, the default), `eager` (at once) or `random:SEED` (some of it, some time; blocks, warps and nodes of graphs in
//!   any order).
//! - **Copies** from memory that may be paged take it when they are asked for, those from page-locked memory when they are made. A copy into memory that
//!   may be paged waits for its stream.
//! - **Memory** begins as 0xFF (no number, an index out of range). Device addresses are no addresses of the host; every allocation has 256 GiB of them to
//!   itself, begins at a multiple of 256 bytes that is none of 512, and what lies beside it or has been freed is no memory. Each access of a kernel is
//!   checked: `ILLEGAL_ADDRESS`, `MISALIGNED_ADDRESS`, which every later call of the context answers too, and a message that names kernel, block, thread
//!   and line of PTX. Memory of `cuMemAllocAsync` is there from the point in its stream where it was asked for to that where it is freed.
//! - **Captures** record what streams are asked for, with the events that join them, and are spoiled by what CUDA forbids meanwhile. Nodes of a graph run
//!   in an order that their edges allow, not that of the recording.
//! - **Handles** are numbers that are no addresses; those of something else, of another context, or of what has been destroyed are `INVALID_HANDLE` or
//!   `INVALID_CONTEXT`.
//!
//! # Kernels
//! Texts for `sm_50` to `sm_130` up to PTX 9.3 are read wholly when a module is loaded; an instruction, modifier, type or operand that is not known is an
//! error of the load with its line. Instructions run for the lanes of a warp that stand at the same place, together; `OPTC_VGPU_LANES=apart` lets each
//! lane run by itself from one meeting of its warp to the next, as if no two ran in step. Barriers, shuffles, votes, `ldmatrix` and `mma` need all their
//! lanes; threads that wait for others that never come are a fault (a GPU would hang). `cp.async` copies when the thread waits for it, and not before.
//! Blocks run in parallel on `OPTC_VGPU_THREADS` threads (default: all), a cooperative launch by turns.
//!
//! Arithmetic is exact to the bit where PTX says so: rounding, flushing, NaN (one only in f32 and shorter), conversions, `fma`. What PTX calls
//! approximate is the exact value rounded; sums of `mma` are those of the exact products in f64 by rising index, then the addend, rounded once (f64:
//! fused steps by rising index).
//!
//! `OPTC_VGPU_CHECK=races` watches the blocks of each launch: a word that one block writes and another one reads or writes, without anything atomic
//! before it, is a fault, and so is a load through `ld.global.nc` of what the same launch has written (accesses of less than four bytes are not watched;
//! it takes eight bytes for each four of an allocation that is touched, and time).
//!
//! # Products of matrices
//! The same file is the library of matrix products for programs that find it as `libcublasLt.so`: products of f32, f64, f16 and bf16 with transposes,
//! batches, `alpha` and `beta`, queued in streams and recorded in graphs like kernels. It has one way of doing them, which leaves its workspace spoiled.
//!
//! # Sums over devices
//! It is also the library of sums over devices (NCCL) for programs that find it as `libnccl.so.2`: communicators of all devices of a process, groups, sums
//! and largest values of all types, in streams and recorded in graphs. A sum is made when the streams of all devices have come to it, in the order of the
//! ranks, each addition rounded to the type; a program that waits for one to which not all of its devices come is told so (a GPU would hang).
//!
//! # What it does not model
//! Time (events have the host's), caches, the memory's weak order between threads and blocks (fences do nothing), races within a block (the emulator of
//! the LLVM back end finds them), register pressure and occupancy by registers. No textures, surfaces, managed memory, clusters, `wgmma`, bulk copies,
//! dynamic parallelism, linked modules or machine code.
//!
//! # Settings
//! `OPTC_VGPU_ORDER`, `OPTC_VGPU_LANES`, `OPTC_VGPU_THREADS`, `OPTC_VGPU_CHECK` as above; `OPTC_VGPU_DEVICES` (1), `OPTC_VGPU_SM` (90),
//! `OPTC_VGPU_MEMORY` in bytes (8 GiB). `OPTC_VGPU_LOG=FILE` writes JSON at exit: launches by kernel, kernels and nodes of graphs, copies by direction,
//! calls that wait and how often they had something to wait for, host functions, allocations, the peak of device memory, instructions of warps, faults.

// Names and the meaning of parameters are CUDA's.
#![allow(non_snake_case, clippy::missing_safety_doc, clippy::not_unsafe_ptr_arg_deref)]

#[allow(missing_docs)]
pub mod api;
#[allow(missing_docs)]
pub mod device;
#[allow(missing_docs)]
pub mod exec;
pub mod lower;
#[allow(missing_docs)]
pub mod options;
#[allow(missing_docs)]
pub mod ptx;
