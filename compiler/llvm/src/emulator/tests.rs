//! Kernels written by hand, right ones and wrong ones.

use super::*;

const ORDERS: [Order; 5] = [Order::Forward, Order::Reverse, Order::Random(1), Order::Random(2), Order::Random(77)];

fn with(order: Order) -> Options {
    Options { order, check: true, first_only: false }
}

/// Arrays and numbers of a kernel.
#[repr(C)]
struct Arrays {
    input: *const f32,
    output: *mut f32,
    n: usize,
}

fn run(options: Options, kernel: Thread, arrays: &Arrays, threads: i32, blocks: i32, shared_bytes: i64) -> Vec<Fault> {
    // SAFETY: the kernels of this file take `Arrays` and stay within them.
    unsafe { launch(options, kernel, (&raw const *arrays).cast(), threads, blocks, shared_bytes) }
}

/// Runs a kernel on as many elements as it has outputs, in every order.
fn faults(kernel: Thread, outputs: usize, threads: i32, blocks: i32, shared_bytes: i64) -> Vec<Vec<Fault>> {
    let input: Vec<f32> = (0..outputs).map(|k| k as f32).collect();
    let mut output = vec![0.0f32; outputs];
    let arrays = Arrays { input: input.as_ptr(), output: output.as_mut_ptr(), n: outputs };
    ORDERS.map(|order| run(with(order), kernel, &arrays, threads, blocks, shared_bytes)).into()
}

fn kinds(faults: &[Fault]) -> Vec<FaultKind> {
    faults.iter().map(|f| f.kind).collect()
}

/// The faults of each order have all of these kinds and no others.
fn all_of(kind: FaultKind, faults: &[Vec<Fault>]) {
    for faults in faults {
        assert!(!faults.is_empty() && faults.iter().all(|f| f.kind == kind), "{kind:?} in {faults:?}");
    }
}

unsafe fn arrays<'a>(args: *const Args) -> &'a Arrays {
    unsafe { &*args.cast::<Arrays>() }
}
unsafe fn load(at: *const f32) -> f32 {
    optc_simt_read(at.cast(), 4);
    unsafe { at.read_unaligned() }
}
unsafe fn store(at: *mut f32, value: f32) {
    optc_simt_write(at.cast(), 4);
    unsafe { at.write_unaligned(value) };
}
fn shared() -> *mut f32 {
    optc_simt_shared().cast()
}
fn me() -> usize {
    optc_simt_thread() as usize
}
fn sum_of_warp(mut x: f32) -> f32 {
    for mask in [16, 8, 4, 2, 1] {
        x += f32::from_bits(optc_simt_shuffle(x.to_bits() as i32, mask) as u32);
    }
    x
}

#[test]
fn threads_and_blocks_are_numbered() {
    extern "C" fn kernel(args: *const Args) {
        let (a, t, b) = (unsafe { arrays(args) }, me(), optc_simt_block() as usize);
        assert_eq!(optc_simt_blocks(), 5);
        assert_eq!(optc_simt_shared() as usize % 128, 0);
        unsafe { store(a.output.add(b * 48 + t), (b * 1000 + t) as f32) };
    }
    for order in ORDERS {
        let mut output = vec![-1.0f32; 5 * 48];
        let arrays = Arrays { input: std::ptr::null(), output: output.as_mut_ptr(), n: 0 };
        assert_eq!(run(with(order), kernel, &arrays, 48, 5, 64), []);
        let wanted: Vec<f32> = (0..5).flat_map(|b| (0..48).map(move |t| (b * 1000 + t) as f32)).collect();
        assert_eq!(output, wanted);
    }
}

#[test]
fn every_element_of_a_grid_stride_loop_once() {
    extern "C" fn kernel(args: *const Args) {
        let a = unsafe { arrays(args) };
        let mut k = optc_simt_block() as usize * 256 + me();
        while k < a.n {
            unsafe { store(a.output.add(k), load(a.output.add(k)) + 2.0 * load(a.input.add(k))) };
            k += optc_simt_blocks() as usize * 256;
        }
    }
    let n = 100_003;
    let input: Vec<f32> = (0..n).map(|k| k as f32).collect();
    for order in ORDERS {
        let mut output = vec![1.0f32; n];
        let arrays = Arrays { input: input.as_ptr(), output: output.as_mut_ptr(), n };
        assert_eq!(run(with(order), kernel, &arrays, 256, 7, 0), []);
        assert!(output.iter().enumerate().all(|(k, &x)| x == 1.0 + 2.0 * k as f32));
    }
}

/// A sum of a block's elements: warps by shuffles, then the warps' sums by the first warp.
extern "C" fn block_sum(args: *const Args) {
    unsafe {
        let (a, t, b) = (arrays(args), me(), optc_simt_block() as usize);
        let warp = sum_of_warp(load(a.input.add(b * 256 + t)));
        if t % 32 == 0 {
            store(shared().add(t / 32), warp);
        }
        optc_simt_barrier();
        if t < 32 {
            let all = sum_of_warp(if t < 8 { load(shared().add(t)) } else { 0.0 });
            if t == 0 {
                store(a.output.add(b), all);
            }
        }
    }
}

#[test]
fn a_block_adds_up_by_shuffles() {
    let input: Vec<f32> = (0..3 * 256).map(|k| (k % 97) as f32).collect();
    for order in ORDERS {
        let mut output = [0.0f32; 3];
        let arrays = Arrays { input: input.as_ptr(), output: output.as_mut_ptr(), n: 3 };
        assert_eq!(run(with(order), block_sum, &arrays, 256, 3, 32), []);
        let wanted: Vec<f32> = input.chunks(256).map(|c| c.iter().sum()).collect();
        assert_eq!(output[..], wanted);
    }
}

#[test]
fn a_missing_barrier_is_a_race() {
    extern "C" fn right(args: *const Args) {
        shift(args, true);
    }
    extern "C" fn wrong(args: *const Args) {
        shift(args, false);
    }
    /// Each thread reads what its neighbour has written.
    fn shift(args: *const Args, barrier: bool) {
        unsafe {
            let (a, t) = (arrays(args), me());
            store(shared().add(t), load(a.input.add(t)));
            if barrier {
                optc_simt_barrier();
            }
            store(a.output.add(t), load(shared().add((t + 1) % 64)));
        }
    }
    assert!(faults(right, 64, 64, 1, 256).iter().all(Vec::is_empty));
    for faults in faults(wrong, 64, 64, 1, 256) {
        assert!(faults.iter().any(|f| f.kind == FaultKind::Race && f.space == Some(Space::Shared)), "{faults:?}");
    }
    // Forward, the neighbour has not even written when a thread reads, and then writes what has been read.
    let forward = &faults(wrong, 64, 64, 1, 256)[0];
    assert!(forward.contains(&Fault {
        kind: FaultKind::Race,
        block: 0,
        threads: vec![(0, 1), (0, 0)],
        space: Some(Space::Shared),
        offset: 4,
        words: "thread 1 of block 0 writes 4 bytes at offset 4 of shared memory, which thread 0 of its warp reads, with no barrier, shuffle or synchronization of the warp between".to_string(),
    }));
    assert_eq!(
        forward[0].to_string(),
        "uninitialized shared memory: thread 0 of block 0 reads 4 bytes at offset 4 of shared memory; no thread of the block has written the byte at offset 4"
    );
}

#[test]
fn two_writes_race_and_bytes_of_a_word_do_not() {
    extern "C" fn same(_: *const Args) {
        unsafe { store(shared(), 1.0) };
    }
    extern "C" fn bytes(_: *const Args) {
        let at = unsafe { optc_simt_shared().add(me()) };
        optc_simt_write(at, 1);
        unsafe { at.write(me() as u8) };
    }
    extern "C" fn halves_overlap(_: *const Args) {
        let at = unsafe { optc_simt_shared().add(me()) };
        optc_simt_write(at, 2);
    }
    all_of(FaultKind::Race, &faults(same, 1, 33, 1, 4));
    assert!(faults(bytes, 1, 64, 2, 64).iter().all(Vec::is_empty));
    all_of(FaultKind::Race, &faults(halves_overlap, 1, 64, 1, 65));
}

#[test]
fn synchronization_of_a_warp_orders_the_warp_alone() {
    /// Each thread reads what the thread at a distance of `far` has written, after a synchronization of its warp.
    fn exchange(far: usize, shuffle: bool) {
        unsafe {
            let t = me();
            store(shared().add(t), t as f32);
            if shuffle {
                assert_eq!(optc_simt_shuffle(t as i32, 5), t as i32 ^ 5);
            } else {
                optc_simt_warp_sync();
            }
            let got = load(shared().add(t ^ far));
            assert!(got == (t ^ far) as f32 || far >= 32);
        }
    }
    extern "C" fn within(_: *const Args) {
        exchange(7, false);
    }
    extern "C" fn within_by_shuffle(_: *const Args) {
        exchange(31, true);
    }
    extern "C" fn across(_: *const Args) {
        exchange(32, false);
    }
    assert!(faults(within, 1, 64, 2, 256).iter().all(Vec::is_empty));
    assert!(faults(within_by_shuffle, 1, 64, 2, 256).iter().all(Vec::is_empty));
    for faults in faults(across, 1, 64, 1, 256) {
        assert!(faults.iter().any(|f| f.kind == FaultKind::Race), "{faults:?}");
    }
}

#[test]
fn reads_of_many_then_a_write_is_a_race_with_one_of_them() {
    /// All read a word that is written first, then thread `writer` writes it.
    fn read_then_write(writer: usize, ordered: bool) {
        unsafe {
            if me() == 40 {
                store(shared(), 1.0);
            }
            optc_simt_barrier();
            load(shared());
            optc_simt_warp_sync();
            if me() < 32 {
                load(shared());
            }
            if ordered {
                optc_simt_barrier();
            }
            if me() == writer {
                store(shared(), 2.0);
            }
        }
    }
    extern "C" fn first(_: *const Args) {
        read_then_write(0, false);
    }
    extern "C" fn last(_: *const Args) {
        read_then_write(63, false);
    }
    extern "C" fn ordered(_: *const Args) {
        read_then_write(13, true);
    }
    all_of(FaultKind::Race, &faults(first, 1, 64, 1, 4));
    all_of(FaultKind::Race, &faults(last, 1, 64, 1, 4));
    assert!(faults(ordered, 1, 64, 1, 4).iter().all(Vec::is_empty));
}

#[test]
fn blocks_race_in_global_memory() {
    /// A sum over blocks without atomics, each step of it in one thread of its block.
    extern "C" fn sum(args: *const Args) {
        if me() == 3 {
            let a = unsafe { arrays(args) };
            unsafe { store(a.output, load(a.output) + 1.0) };
        }
    }
    /// Blocks read what one of them writes.
    extern "C" fn read(args: *const Args) {
        let a = unsafe { arrays(args) };
        if optc_simt_block() == 2 {
            unsafe { store(a.output.add(me()), 1.0) };
        } else {
            unsafe { load(a.output.add(me())) };
        }
    }
    all_of(FaultKind::Race, &faults(sum, 1, 32, 3, 0));
    all_of(FaultKind::Race, &faults(read, 32, 32, 4, 0));
    let forward = &faults(sum, 1, 32, 2, 0)[0];
    assert_eq!(forward.len(), 1);
    assert_eq!(forward[0].threads, [(1, 3), (0, 3)]);
    assert!(forward[0].words.ends_with("which thread 3 of block 0 writes; nothing orders two blocks"), "{}", forward[0].words);
}

#[test]
fn launches_are_ordered() {
    extern "C" fn add(args: *const Args) {
        let (a, t) = (unsafe { arrays(args) }, me());
        unsafe { store(a.output.add(t ^ 1), load(a.output.add(t ^ 1)) + 1.0) };
    }
    let mut output = vec![0.0f32; 32];
    let arrays = Arrays { input: std::ptr::null(), output: output.as_mut_ptr(), n: 32 };
    for _ in 0..4 {
        assert_eq!(run(with(Order::Forward), add, &arrays, 32, 1, 0), []);
    }
    assert_eq!(output, [4.0; 32]);
}

#[test]
fn a_stack_is_its_threads_own() {
    extern "C" fn kernel(_: *const Args) {
        let mut own = [0.0f32; 4];
        for k in 0..4 {
            unsafe { store(own.as_mut_ptr().add(k), me() as f32) };
        }
        if me() >= 32 {
            optc_simt_warp_sync();
        }
        assert!((0..4).all(|k| unsafe { load(own.as_ptr().add(k)) } == me() as f32));
    }
    assert!(faults(kernel, 1, 64, 3, 0).iter().all(Vec::is_empty));
}

#[test]
fn each_block_begins_with_poison() {
    extern "C" fn read_first(args: *const Args) {
        unsafe {
            let value = shared().add(me()).read();
            assert!(value.is_nan());
            if optc_simt_block() == 1 {
                load(shared().add(me()));
            }
            store(shared().add(me()), 1.0);
            let a = arrays(args);
            store(a.output.add(optc_simt_block() as usize * 32 + me()), 1.0);
        }
    }
    let found = faults(read_first, 96, 32, 3, 128);
    all_of(FaultKind::Uninitialized, &found);
    assert!(found[0].iter().all(|f| f.block == 1) && found[0].len() == 16);
}

#[test]
fn shared_memory_has_bounds() {
    extern "C" fn beyond(_: *const Args) {
        if me() == 1 {
            unsafe { store(shared().add(8), 1.0) };
        }
    }
    extern "C" fn across_the_end(_: *const Args) {
        if me() == 1 {
            unsafe { store(shared().cast::<u8>().add(30).cast(), 1.0) };
        }
    }
    extern "C" fn before(_: *const Args) {
        if me() == 1 {
            unsafe { load(shared().sub(3)) };
        }
    }
    for (kernel, offset) in [(beyond as Thread, 32), (across_the_end, 30), (before, -12)] {
        let found = faults(kernel, 1, 32, 2, 32);
        all_of(FaultKind::OutOfBounds, &found);
        assert_eq!((found[0].len(), found[0][0].offset, &found[0][0].threads[..]), (2, offset, &[(0, 1)][..]));
        // Bounds are looked at without the other checks too.
        let arrays = Arrays { input: std::ptr::null(), output: std::ptr::null_mut(), n: 0 };
        let unchecked = Options { check: false, ..with(Order::Forward) };
        assert_eq!(kinds(&run(unchecked, kernel, &arrays, 32, 1, 32)), [FaultKind::OutOfBounds]);
    }
}

#[test]
fn barriers_are_for_all() {
    extern "C" fn in_a_branch(_: *const Args) {
        if me() < 40 {
            optc_simt_barrier();
        }
    }
    extern "C" fn one_ends(_: *const Args) {
        optc_simt_barrier();
        if me() == 5 {
            return;
        }
        optc_simt_barrier();
    }
    let found = faults(in_a_branch, 1, 64, 1, 0);
    all_of(FaultKind::BarrierDivergence, &found);
    assert_eq!(found[0][0].words, "in block 0 threads 0-39 wait at a barrier, threads 40-63 have ended");
    assert_eq!(found[0][0].threads.len(), 40);
    let found = faults(one_ends, 1, 64, 3, 0);
    all_of(FaultKind::BarrierDivergence, &found);
    assert_eq!(found[0].len(), 1, "the launch is over: {:?}", found[0]);
    assert_eq!(found[0][0].words, "in block 0 threads 0-4, 6-63 wait at a barrier, thread 5 has ended");
}

#[test]
fn warps_stay_together() {
    extern "C" fn some_shuffle(_: *const Args) {
        if me() != 33 {
            optc_simt_shuffle(1, 1);
        }
        optc_simt_barrier();
    }
    extern "C" fn two_shuffles(_: *const Args) {
        optc_simt_shuffle(1, if me() < 32 { 2 } else { me() as i32 % 2 });
    }
    extern "C" fn two_kinds(_: *const Args) {
        if me() == 3 {
            optc_simt_warp_sync();
        } else {
            optc_simt_shuffle(1, 2);
        }
    }
    let found = faults(some_shuffle, 1, 64, 1, 0);
    all_of(FaultKind::WarpDivergence, &found);
    assert_eq!(found[0][0].words, "in block 0 threads 0-31, 33 wait at a barrier, threads 32, 34-63 wait at a shuffle with mask 1");
    all_of(FaultKind::WarpDivergence, &faults(two_shuffles, 1, 64, 1, 0));
    let found = faults(two_kinds, 1, 32, 1, 0);
    all_of(FaultKind::WarpDivergence, &found);
    assert_eq!(
        found[0][0].words,
        "in block 0 threads 0-2, 4-31 wait at a shuffle with mask 2, thread 3 waits at a synchronization of its warp"
    );
}

#[test]
fn partial_warps_synchronize_but_do_not_shuffle() {
    extern "C" fn sync(_: *const Args) {
        optc_simt_warp_sync();
    }
    extern "C" fn shuffle(_: *const Args) {
        if me() >= 32 {
            optc_simt_shuffle(1, 1);
        }
    }
    assert!(faults(sync, 1, 40, 1, 0).iter().all(Vec::is_empty));
    let found = faults(shuffle, 1, 40, 1, 0);
    all_of(FaultKind::PartialWarp, &found);
    assert_eq!(found[0][0].words, "the last warp of block 0 has 8 threads of 32 and shuffles");
}

#[test]
fn a_hidden_dependence_shows_in_another_order() {
    /// A warp that believes its lanes run in step, without accesses that are announced.
    extern "C" fn kernel(args: *const Args) {
        let (a, t) = (unsafe { arrays(args) }, me());
        unsafe { *a.output.add(t) = if t == 0 { 1.0 } else { *a.output.add(t - 1) + 1.0 } };
    }
    let results: Vec<Vec<f32>> = [Order::Forward, Order::Reverse, Order::Random(3), Order::Random(4), Order::Random(3)]
        .map(|order| {
            let mut output = vec![0.0f32; 32];
            let arrays = Arrays { input: std::ptr::null(), output: output.as_mut_ptr(), n: 32 };
            assert_eq!(run(with(order), kernel, &arrays, 32, 1, 0), []);
            output
        })
        .into();
    assert_eq!(results[0][31], 32.0);
    assert_eq!(results[1][31], 1.0);
    assert!(results[2] != results[0] && results[2] != results[1] && results[2] != results[3]);
    assert_eq!(results[2], results[4], "a seed is an order");
}

#[test]
fn host_threads_launch_at_once() {
    let input: Vec<f32> = (0..4 * 256).map(|k| (k % 31) as f32).collect();
    let wanted: Vec<f32> = input.chunks(256).map(|c| c.iter().sum()).collect();
    std::thread::scope(|scope| {
        for host in 0..4 {
            let (input, wanted) = (&input, &wanted);
            scope.spawn(move || {
                for round in 0..20 {
                    let mut output = vec![0.0f32; 4];
                    let arrays = Arrays { input: input.as_ptr(), output: output.as_mut_ptr(), n: 4 };
                    assert_eq!(run(with(Order::Random(host * 100 + round)), block_sum, &arrays, 256, 4, 32), []);
                    assert_eq!(&output, wanted);
                }
            });
        }
    });
}

#[test]
fn impossible_launches_are_refused() {
    extern "C" fn kernel(_: *const Args) {
        unreachable!("nothing is launched");
    }
    for (threads, blocks, bytes) in [(0, 1, 0), (1025, 1, 0), (32, 0, 0), (32, 1, -1), (32, 1, 1 << 20)] {
        let arrays = Arrays { input: std::ptr::null(), output: std::ptr::null_mut(), n: 0 };
        assert_eq!(kinds(&run(with(Order::Forward), kernel, &arrays, threads, blocks, bytes)), [FaultKind::Launch]);
    }
}

#[test]
fn checks_can_be_switched_off() {
    extern "C" fn kernel(_: *const Args) {
        unsafe { store(shared(), load(shared())) };
    }
    let arrays = Arrays { input: std::ptr::null(), output: std::ptr::null_mut(), n: 0 };
    assert_eq!(run(Options { check: false, ..with(Order::Forward) }, kernel, &arrays, 64, 2, 4), []);
    assert!(!run(with(Order::Forward), kernel, &arrays, 64, 2, 4).is_empty());
}

#[test]
fn the_environment_is_read_with_care() {
    let set = |order: Option<&str>, check: Option<&str>| {
        settings(|name| if name == "OPTC_SIMT_ORDER" { order } else { check }.map(str::to_string))
    };
    assert_eq!(set(None, None), Ok((Order::Forward, true)));
    assert_eq!(set(Some("reverse"), Some("off")), Ok((Order::Reverse, false)));
    assert_eq!(set(Some("random:17"), Some("on")), Ok((Order::Random(17), true)));
    assert_eq!(
        set(Some("random"), None).unwrap_err(),
        "OPTC_SIMT_ORDER is `random`; it may be forward, reverse or random:SEED, SEED a number"
    );
    assert_eq!(set(None, Some("no")).unwrap_err(), "OPTC_SIMT_CHECK is `no`; it may be on or off");
}

/// Values in vector registers and aligned locals are the thread's own, over every kind of waiting.
#[test]
fn registers_and_frames_survive_waiting() {
    #[repr(align(64))]
    struct Line([f64; 8]);
    fn body(args: *const Args) {
        let (a, t) = (unsafe { arrays(args) }, me());
        let mut line = Line([0.0; 8]);
        assert_eq!((&raw const line) as usize % 64, 0);
        for k in 0..8 {
            line.0[k] = (t * 8 + k) as f64;
        }
        let line = std::hint::black_box(line);
        let start: [f64; 16] = std::array::from_fn(|k| (t + k) as f64 * 0.5);
        let mut sums = start;
        for round in 0..3 {
            optc_simt_barrier();
            let other = optc_simt_shuffle(t as i32, 1 << round);
            optc_simt_warp_sync();
            for (k, s) in sums.iter_mut().enumerate() {
                *s = s.mul_add(1.0, other as f64 + line.0[k % 8]);
            }
        }
        let others: usize = [1, 2, 4].iter().map(|m| t ^ m).sum();
        for k in 0..16 {
            assert_eq!(sums[k], start[k] + others as f64 + 3.0 * (t * 8 + k % 8) as f64);
        }
        unsafe { store(a.output.add(t), 1.0) };
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512vl,fma")]
    fn wide(args: *const Args) {
        body(args);
    }
    extern "C" fn kernel(args: *const Args) {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
            // SAFETY: the processor has what it asks for.
            return unsafe { wide(args) };
        }
        body(args);
    }
    assert!(faults(kernel, 96, 96, 1, 0).iter().all(Vec::is_empty));
}

/// The list of faults and the end of a process: one test, since both are the process's.
#[test]
fn faults_are_collected_or_end_the_process() {
    extern "C" fn racing(_: *const Args) {
        unsafe { store(shared(), 1.0) };
    }
    // SAFETY: the kernel has no arguments.
    let go = || unsafe { optc_simt_launch(racing, std::ptr::null(), 2, 2, 4) };
    if std::env::var_os("OPTC_TEST_SIMT_FAULT").is_some() {
        go();
        unreachable!("the process has ended");
    }
    collect(true);
    go();
    let found = take_faults();
    assert_eq!(kinds(&found), [FaultKind::Race, FaultKind::Race]);
    assert_eq!(found[1].block, 1);
    assert_eq!(take_faults(), []);
    let child = std::process::Command::new(std::env::current_exe().expect("a test has a file"))
        .args(["--exact", "emulator::tests::faults_are_collected_or_end_the_process", "--nocapture"])
        .env("OPTC_TEST_SIMT_FAULT", "1")
        .env("OPTC_SIMT_ORDER", "reverse")
        .output()
        .expect("it runs");
    assert_eq!(child.status.code(), Some(1));
    let words = String::from_utf8_lossy(&child.stderr);
    assert!(
        words.contains(
            "error: the SIMT emulator stopped a kernel: data race\n  thread 0 of block 1 writes 4 bytes at offset 0 of shared memory, which thread 1 of its warp writes too"
        ),
        "{words}"
    );
    assert_eq!(words.matches("error:").count(), 1, "{words}");
}
