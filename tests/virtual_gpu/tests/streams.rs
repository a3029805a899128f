//! Streams are as late as they may be, graphs replay what was recorded, and mistakes get their codes.

mod common;

use common::*;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU32, Ordering};
use virtual_cuda::api::{context::*, event::*, graph::*, launch::*, memory::*, module::*, stream::*};

/// `out[i] = in[i] + 1` for the threads of one block.
const ADD_ONE: &str = "
    mul.wide.u32 %rd2, %r0, 4;
    add.s64 %rd3, %rd0, %rd2;
    add.s64 %rd4, %rd1, %rd2;
    ld.global.u32 %r1, [%rd3];
    add.u32 %r2, %r1, 1;
    st.global.u32 [%rd4], %r2;";

struct Pinned(*mut u32);

impl Pinned {
    fn new(n: usize) -> Pinned {
        let mut p = NULL;
        unsafe { assert_eq!(cuMemHostAlloc(&mut p, 4 * n, 0), 0) };
        Pinned(p.cast())
    }
    fn set(&self, i: usize, x: u32) {
        unsafe { self.0.add(i).write_volatile(x) }
    }
    fn get(&self, i: usize) -> u32 {
        unsafe { self.0.add(i).read_volatile() }
    }
}

fn event() -> *mut c_void {
    let mut e = NULL;
    unsafe { assert_eq!(cuEventCreate(&mut e, 2), 0) };
    e
}

fn add_one(gpu: &Gpu) -> Kernel {
    gpu.kernel(gpu.load(&text(ADD_ONE)), "k")
}

#[test]
fn nothing_is_done_before_somebody_waits() {
    let gpu = Gpu::new();
    let (s, k) = (gpu.stream(), add_one(&gpu));
    let (a, b) = (gpu.alloc(128), gpu.alloc(128));
    let host = Pinned::new(64);
    (0..32).for_each(|i| host.set(i, 1));
    assert_eq!(cuMemcpyHtoDAsync_v2(a, host.0.cast(), 128, s), 0);
    assert_eq!(gpu.launch(k, 1, 32, 0, s, &[Arg::U64(a), Arg::U64(b)]), 0);
    assert_eq!(cuMemcpyDtoHAsync_v2(host.0.wrapping_add(32).cast(), b, 128, s), 0);
    // A buffer that is used again too early is seen by the copy.
    host.set(3, 70);
    assert_eq!(host.get(32), u32::MAX);
    assert_eq!(cuStreamSynchronize(s), 0);
    assert_eq!((host.get(32), host.get(35)), (2, 71));
}

#[test]
fn eager_devices_do_it_at_once() {
    let gpu = Gpu::with(Options { order: Order::Eager, ..Options::default() });
    let (s, k) = (gpu.stream(), add_one(&gpu));
    let (a, b) = (gpu.upload(&[1u32; 32]), gpu.alloc(128));
    let host = Pinned::new(32);
    assert_eq!(gpu.launch(k, 1, 32, 0, s, &[Arg::U64(a), Arg::U64(b)]), 0);
    assert_eq!(cuMemcpyDtoHAsync_v2(host.0.cast(), b, 128, s), 0);
    assert_eq!(host.get(0), 2);
}

#[test]
fn pageable_memory_is_taken_when_the_copy_is_asked_for() {
    let gpu = Gpu::new();
    let s = gpu.stream();
    let a = gpu.alloc(4);
    let mut x = 5u32;
    assert_eq!(cuMemcpyHtoDAsync_v2(a, (&raw const x).cast(), 4, s), 0);
    x += 1;
    let mut y = x;
    // Back into pageable memory the call waits for the stream.
    assert_eq!(cuMemcpyDtoHAsync_v2((&raw mut y).cast(), a, 4, s), 0);
    assert_eq!((x, y), (6, 5));
}

#[test]
fn streams_are_ordered_by_events_alone() {
    let gpu = Gpu::new();
    let (s, t, k, e) = (gpu.stream(), gpu.stream(), add_one(&gpu), event());
    let (a, b, c) = (gpu.upload(&[1u32; 32]), gpu.upload(&[0u32; 32]), gpu.upload(&[0u32; 32]));
    let args = |x, y| [Arg::U64(x), Arg::U64(y)];
    // Without an event the second stream runs alone when it is waited for.
    assert_eq!(gpu.launch(k, 1, 32, 0, s, &args(a, b)), 0);
    assert_eq!(gpu.launch(k, 1, 32, 0, t, &args(b, c)), 0);
    assert_eq!(cuStreamSynchronize(t), 0);
    // The copy is one of the null stream, for which these do not wait either.
    assert_eq!(gpu.download::<u32>(c, 1), [1]);
    assert_eq!(gpu.download::<u32>(b, 1), [0]);
    assert_eq!(cuEventRecord(e, s), 0);
    assert_eq!(cuStreamWaitEvent(t, e, 0), 0);
    assert_eq!(gpu.launch(k, 1, 32, 0, t, &args(b, c)), 0);
    assert_eq!(cuStreamSynchronize(t), 0);
    assert_eq!(gpu.download::<u32>(c, 1), [3]);
    assert_eq!((cuEventQuery(e), cuEventSynchronize(e)), (0, 0));
}

#[test]
fn queries_come_to_an_end() {
    let gpu = Gpu::new();
    let (s, k, e) = (gpu.stream(), add_one(&gpu), event());
    let (a, b) = (gpu.upload(&[1u32; 32]), gpu.alloc(128));
    for _ in 0..3 {
        assert_eq!(gpu.launch(k, 1, 32, 0, s, &[Arg::U64(a), Arg::U64(b)]), 0);
    }
    assert_eq!(cuEventRecord(e, s), 0);
    let asked = (0..100).position(|_| cuEventQuery(e) == 0).unwrap();
    assert!(asked >= 3, "{asked}");
    assert_eq!(cuStreamQuery(s), 0);
    assert_eq!(gpu.download::<u32>(b, 1), [2]);
}

#[test]
fn the_null_stream_and_blocking_streams_wait_for_each_other() {
    let gpu = Gpu::new();
    let k = add_one(&gpu);
    let mut s = NULL;
    unsafe { assert_eq!(cuStreamCreate(&mut s, 0), 0) };
    let (a, b) = (gpu.upload(&[1u32; 32]), gpu.upload(&[0u32; 32]));
    assert_eq!(gpu.launch(k, 1, 32, 0, s, &[Arg::U64(a), Arg::U64(b)]), 0);
    assert_eq!(gpu.download::<u32>(b, 1), [2]);
    // A stream that is destroyed still does its work.
    assert_eq!(gpu.launch(k, 1, 32, 0, s, &[Arg::U64(b), Arg::U64(a)]), 0);
    assert_eq!(cuStreamDestroy_v2(s), 0);
    assert_eq!(gpu.download::<u32>(a, 1), [3]);
    assert_eq!(cuStreamSynchronize(s), 400);
}

static CALLS: AtomicU32 = AtomicU32::new(0);

unsafe extern "C" fn count(data: *mut c_void) {
    CALLS.fetch_add(data as u32, Ordering::SeqCst);
    // The driver may not be called from here.
    assert_eq!(cuCtxSynchronize(), 800);
}

#[test]
fn host_functions_run_in_their_stream() {
    let gpu = Gpu::new();
    let s = gpu.stream();
    CALLS.store(0, Ordering::SeqCst);
    assert_eq!(cuLaunchHostFunc(s, Some(count), 7 as *mut c_void), 0);
    assert_eq!(CALLS.load(Ordering::SeqCst), 0);
    assert_eq!(cuStreamSynchronize(s), 0);
    assert_eq!(CALLS.load(Ordering::SeqCst), 7);
}

fn captured(s: *mut c_void) -> Result<*mut c_void, i32> {
    let mut graph = NULL;
    match unsafe { cuStreamEndCapture(s, &mut graph) } {
        0 => Ok(graph),
        code => Err(code),
    }
}

#[test]
fn graphs_replay_what_two_streams_were_asked_for() {
    let mut orders = Options::default();
    for order in [Order::Lazy, Order::Eager, Order::Random(1), Order::Random(2)] {
        orders.order = order;
        let gpu = Gpu::with(orders.clone());
        let (s, t, k) = (gpu.stream(), gpu.stream(), add_one(&gpu));
        let (fork, join) = (event(), event());
        let all: Vec<u64> = (0..4).map(|_| gpu.upload(&[0u32; 32])).collect();
        let args = |x: usize, y: usize| [Arg::U64(all[x]), Arg::U64(all[y])];
        let host = Pinned::new(32);
        assert_eq!(cuStreamBeginCapture_v2(s, 1), 0);
        assert_eq!(gpu.launch(k, 1, 32, 0, s, &args(0, 1)), 0);
        assert_eq!(cuEventRecord(fork, s), 0);
        assert_eq!(cuStreamWaitEvent(t, fork, 0), 0);
        assert_eq!(gpu.launch(k, 1, 32, 0, t, &args(1, 2)), 0);
        assert_eq!(gpu.launch(k, 1, 32, 0, s, &args(1, 3)), 0);
        assert_eq!(cuEventRecord(join, t), 0);
        assert_eq!(cuStreamWaitEvent(s, join, 0), 0);
        assert_eq!(gpu.launch(k, 1, 32, 0, s, &args(2, 0)), 0);
        assert_eq!(cuMemsetD32Async(all[1], 9, 1, s), 0);
        assert_eq!(cuMemcpyDtoHAsync_v2(host.0.cast(), all[0], 128, s), 0);
        let mut status = 0;
        unsafe { assert_eq!(cuStreamIsCapturing(t, &mut status), 0) };
        assert_eq!(status, 1);
        let graph = captured(s).unwrap();
        let mut n = 0;
        unsafe { assert_eq!(cuGraphGetNodes(graph, std::ptr::null_mut(), &mut n), 0) };
        assert_eq!(n, 6);
        let mut exec = NULL;
        unsafe { assert_eq!(cuGraphInstantiateWithFlags(&mut exec, graph, 0), 0) };
        assert_eq!(cuGraphDestroy(graph), 0);
        for _ in 0..3 {
            assert_eq!(cuGraphLaunch(exec, s), 0);
        }
        assert_eq!(cuGraphExecDestroy(exec), 0);
        assert_eq!(cuStreamSynchronize(s), 0);
        assert_eq!(host.get(0), 9, "{order:?}");
        assert_eq!(gpu.download::<u32>(all[3], 1), [8]);
        let log = counters();
        assert!(log.contains("\"graph_launches\": 3,") && log.contains("\"graph_nodes\": 18,") && log.contains("\"k\": 12"), "{log}");
    }
}

#[test]
fn captures_are_strict() {
    let gpu = Gpu::new();
    let (s, t, k, e) = (gpu.stream(), gpu.stream(), add_one(&gpu), event());
    let a = gpu.upload(&[0u32; 32]);
    let args = [Arg::U64(a), Arg::U64(a)];
    // Waiting for a stream that is recorded spoils the recording.
    assert_eq!(cuStreamBeginCapture_v2(s, 2), 0);
    assert_eq!(cuStreamSynchronize(s), 900);
    assert_eq!(gpu.launch(k, 1, 32, 0, s, &args), 901);
    assert_eq!(captured(s), Err(901));
    // So do calls that are not safe, unless the mode is relaxed.
    for (mode, code) in [(0, 900), (1, 900), (2, 0)] {
        assert_eq!(cuStreamBeginCapture_v2(s, mode), 0);
        let mut at = 0;
        unsafe { assert_eq!(cuMemAlloc_v2(&mut at, 64), code) };
        assert_eq!(captured(s).err(), if code == 0 { None } else { Some(901) });
    }
    // An event from outside, and an event from inside that is asked outside.
    assert_eq!(cuEventRecord(e, t), 0);
    assert_eq!(cuStreamBeginCapture_v2(s, 2), 0);
    assert_eq!(cuStreamWaitEvent(s, e, 0), 905);
    assert_eq!(captured(s), Err(901));
    assert_eq!(cuStreamBeginCapture_v2(s, 2), 0);
    assert_eq!(cuEventRecord(e, s), 0);
    assert_eq!(cuEventSynchronize(e), 907);
    // A stream that takes part and does not come back.
    assert_eq!(cuStreamWaitEvent(t, e, 0), 0);
    assert_eq!(gpu.launch(k, 1, 32, 0, t, &args), 0);
    assert_eq!(captured(t), Err(903));
    assert_eq!(captured(s), Err(901));
    assert_eq!(cuStreamBeginCapture_v2(s, 2), 0);
    assert_eq!(cuEventRecord(e, s), 0);
    assert_eq!(cuStreamWaitEvent(t, e, 0), 0);
    assert_eq!(gpu.launch(k, 1, 32, 0, t, &args), 0);
    assert_eq!(captured(s), Err(904));
    // The null stream is not recorded, nor used while a blocking stream is.
    assert_eq!(cuStreamBeginCapture_v2(NULL, 2), 900);
    let mut blocking = NULL;
    unsafe { assert_eq!(cuStreamCreate(&mut blocking, 0), 0) };
    assert_eq!(cuStreamBeginCapture_v2(blocking, 2), 0);
    assert_eq!(gpu.launch(k, 1, 32, 0, NULL, &args), 906);
    assert_eq!(captured(blocking), Err(901));
    assert_eq!(captured(blocking), Err(401));
}

#[test]
fn launches_are_checked() {
    let gpu = Gpu::new();
    let k = add_one(&gpu);
    let a = gpu.alloc(4096);
    let args = [Arg::U64(a), Arg::U64(a)];
    assert_eq!(gpu.launch(k, 1, 1025, 0, NULL, &args), 1);
    assert_eq!(gpu.launch(k, 0, 32, 0, NULL, &args), 1);
    assert_eq!(gpu.launch(k, 1, 32, 50 << 10, NULL, &args), 1);
    assert_eq!(cuFuncSetAttribute(k.0, 8, 100 << 10), 0);
    assert_eq!(gpu.launch(k, 1, 32, 50 << 10, NULL, &args), 0);
    assert_eq!(cuFuncSetAttribute(k.0, 8, 300 << 10), 1);
    assert_eq!(gpu.launch(Kernel(NULL), 1, 32, 0, NULL, &args), 400);
    assert_eq!(unsafe { cuLaunchKernel(k.0, 1, 1, 1, 32, 1, 1, 0, NULL, std::ptr::null(), std::ptr::null()) }, 1);
    // Buffers of arguments must have the size of all parameters.
    let packed = [a, a, a];
    for (bytes, code) in [(16usize, 0), (24, 1), (8, 1)] {
        let extra: [*const c_void; 5] = [
            std::ptr::without_provenance(1),
            packed.as_ptr().cast(),
            std::ptr::without_provenance(2),
            (&raw const bytes).cast(),
            std::ptr::null(),
        ];
        assert_eq!(unsafe { cuLaunchKernel(k.0, 1, 1, 1, 32, 1, 1, 0, NULL, std::ptr::null(), extra.as_ptr()) }, code);
    }
    assert_eq!(cuCtxSynchronize(), 0);
    assert_eq!(cuCtxSetCurrent(NULL), 0);
    assert_eq!(gpu.launch(k, 1, 32, 0, NULL, &args), 201);
}

#[test]
fn memory_is_checked() {
    let gpu = Gpu::with(Options { memory: 1 << 20, ..Options::default() });
    let mut at = 0;
    unsafe {
        assert_eq!(cuMemAlloc_v2(&mut at, 2 << 20), 2);
        assert_eq!(cuMemAlloc_v2(&mut at, 0), 1);
        assert_eq!(cuMemAlloc_v2(&mut at, 1 << 20), 0);
        let mut more = 0;
        assert_eq!(cuMemAlloc_v2(&mut more, 1), 2);
        let (mut free, mut total) = (1, 0);
        assert_eq!(cuMemGetInfo_v2(&mut free, &mut total), 0);
        assert_eq!((free, total), (0, 1 << 20));
    }
    // Fresh memory is no number, addresses promise 256 bytes and are none of the host.
    assert!(gpu.download::<f32>(at, 4).iter().all(|x| x.is_nan()));
    assert!(at % 256 == 0 && at % 512 != 0 && at > 1 << 57);
    let mut x = [0u8; 8];
    assert_eq!(cuMemcpyDtoH_v2(x.as_mut_ptr().cast(), at + (1 << 20) - 4, 8), 1);
    assert_eq!(cuMemcpyHtoD_v2(x.as_mut_ptr() as u64, x.as_ptr().cast(), 8), 1);
    assert_eq!(cuMemFree_v2(at + 256), 1);
    assert_eq!((cuMemFree_v2(at), cuMemFree_v2(at)), (0, 1));
    assert_eq!(cuMemcpyDtoH_v2(x.as_mut_ptr().cast(), at, 8), 1);
    // A stream that gives memory back before it takes new has enough of it.
    let s = gpu.stream();
    for _ in 0..4 {
        unsafe { assert_eq!(cuMemAllocAsync(&mut at, 600 << 10, s), 0) };
        assert_eq!(cuMemFreeAsync(at, s), 0);
    }
    // Memory of a stream is there when the stream comes to it, and goes with it.
    unsafe { assert_eq!(cuMemAllocAsync(&mut at, 64, s), 0) };
    assert_eq!(cuMemsetD8Async(at, 3, 64, s), 0);
    assert_eq!(cuMemFreeAsync(at, s), 0);
    assert_eq!(cuStreamSynchronize(s), 0);
    assert_eq!(cuMemcpyDtoH_v2(x.as_mut_ptr().cast(), at, 8), 1);
}

#[test]
fn faults_stay() {
    let gpu = Gpu::new();
    let k = add_one(&gpu);
    let a = gpu.alloc(64);
    // 32 threads, 16 elements.
    assert_eq!(gpu.launch(k, 1, 32, 0, NULL, &[Arg::U64(a), Arg::U64(a)]), 0);
    assert_eq!(cuCtxSynchronize(), 700);
    let mut at = 0;
    unsafe { assert_eq!(cuMemAlloc_v2(&mut at, 4), 700) };
    assert_eq!(cuStreamQuery(NULL), 700);
    assert_eq!(cuDevicePrimaryCtxReset_v2(0), 0);
    unsafe { assert_eq!(cuMemAlloc_v2(&mut at, 4), 0) };
    // Memory that is freed after the launch was asked for is waited for; memory freed before is not there.
    let k = add_one(&gpu);
    let (a, b) = (gpu.alloc(128), gpu.alloc(128));
    assert_eq!(gpu.launch(k, 1, 32, 0, NULL, &[Arg::U64(a), Arg::U64(b)]), 0);
    assert_eq!((cuMemFree_v2(a), cuCtxSynchronize()), (0, 0));
    assert_eq!(gpu.launch(k, 1, 32, 0, NULL, &[Arg::U64(a), Arg::U64(b)]), 0);
    assert_eq!(cuCtxSynchronize(), 700);
}

#[test]
fn several_devices_have_their_own_memory() {
    let gpu = Gpu::with(Options { devices: 2, ..Options::default() });
    let (mut first, mut second) = (NULL, NULL);
    unsafe {
        assert_eq!(cuCtxGetCurrent(&mut first), 0);
        assert_eq!(cuDevicePrimaryCtxRetain(&mut second, 1), 0);
    }
    let (k, s, a) = (add_one(&gpu), gpu.stream(), gpu.upload(&[4u32; 32]));
    assert_eq!(cuCtxSetCurrent(second), 0);
    let (own, t) = (add_one(&gpu), gpu.stream());
    let b = gpu.upload(&[0u32; 32]);
    let args = [Arg::U64(a), Arg::U64(b)];
    // A stream and a function belong to their context.
    assert_eq!(gpu.launch(k, 1, 32, 0, t, &args), 201);
    assert_eq!(gpu.launch(own, 1, 32, 0, s, &args), 201);
    assert_eq!(cuCtxEnablePeerAccess(first, 0), 0);
    assert_eq!(cuCtxEnablePeerAccess(first, 0), 704);
    assert_eq!(gpu.launch(own, 1, 32, 0, t, &args), 0);
    assert_eq!(cuMemcpyPeerAsync(a, first, b, second, 128, t), 0);
    assert_eq!(cuStreamSynchronize(t), 0);
    assert_eq!(gpu.download::<u32>(a, 1), [5]);
    assert_eq!(cuCtxDisablePeerAccess(first), 0);
    assert_eq!(gpu.launch(own, 1, 32, 0, t, &args), 0);
    assert_eq!(cuStreamSynchronize(t), 700);
    // The other device goes on.
    assert_eq!(cuCtxSetCurrent(first), 0);
    assert_eq!(cuCtxSynchronize(), 0);
}

#[test]
fn texts_that_are_wrong_are_refused_with_a_reason() {
    let gpu = Gpu::new();
    let refused = |body: &str| gpu.try_load(&text(body)).unwrap_err();
    let (code, words) = refused("frobnicate.u32 %r1, %r2;");
    assert_eq!(code, 218);
    assert!(words.contains("line 15") && words.contains("frobnicate.u32"), "{words}");
    for body in
        ["add.u32 %r1, %rd1, %r2;", "add.bogus.u32 %r1, %r2, %r3;", "bra nowhere;", "mov.u32 %r1, %x1;", "ld.global.u32 %r1, [nothing];"]
    {
        assert_eq!(refused(body).0, 218, "{body}");
    }
    assert_eq!(gpu.try_load(&text("").replace("sm_80", "sm_100")).unwrap_err().0, 209);
    assert_eq!(gpu.try_load(&text("").replace("8.0", "9.9")).unwrap_err().0, 222);
    assert_eq!(gpu.try_load(&text("").replace("sm_80", "sm_90a")).err().map(|e| e.0), None);
    let module = gpu.load(&text(""));
    let mut f = NULL;
    unsafe { assert_eq!(cuModuleGetFunction(&mut f, module, c"other".as_ptr()), 500) };
}

#[test]
fn kernels_of_a_graph_get_other_parameters() {
    let gpu = Gpu::new();
    let (s, k) = (gpu.stream(), add_one(&gpu));
    let (a, b) = (gpu.upload(&[1u32; 32]), gpu.upload(&[10u32; 32]));
    assert_eq!(cuStreamBeginCapture_v2(s, 1), 0);
    assert_eq!(gpu.launch(k, 1, 32, 0, s, &[Arg::U64(a), Arg::U64(a)]), 0);
    let graph = captured(s).unwrap();
    let (mut node, mut n, mut kind, mut exec) = (NULL, 1, 9, NULL);
    unsafe {
        assert_eq!(cuGraphGetNodes(graph, &mut node, &mut n), 0);
        assert_eq!(cuGraphNodeGetType(node, &mut kind), 0);
        assert_eq!(cuGraphInstantiateWithFlags(&mut exec, graph, 0), 0);
    }
    assert_eq!((n, kind), (1, 0));
    // A launch that is queued keeps its own.
    assert_eq!(cuGraphLaunch(exec, s), 0);
    let list = [(&raw const b).cast(), (&raw const b).cast()];
    let (grid, block) = ([1; 3], [32, 1, 1]);
    let params =
        KernelNode { function: k.0, grid, block, shared: 0, list: list.as_ptr(), extra: std::ptr::null(), kernel: NULL, context: NULL };
    unsafe {
        assert_eq!(cuGraphExecKernelNodeSetParams_v2(exec, node, &params), 0);
        assert_eq!(cuGraphExecKernelNodeSetParams_v2(exec, s, &params), 400);
        assert_eq!(cuGraphExecUpdate_v2(exec, graph, std::ptr::null_mut()), 0);
        assert_eq!(cuGraphExecKernelNodeSetParams_v2(exec, node, &params), 0);
    }
    assert_eq!((cuGraphLaunch(exec, s), cuGraphLaunch(exec, s), cuStreamSynchronize(s)), (0, 0, 0));
    assert_eq!((gpu.download::<u32>(a, 1), gpu.download::<u32>(b, 1)), (vec![2], vec![12]));
}
