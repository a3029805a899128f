//! What threads do together: shuffles, votes, barriers, copies beside the thread, products of matrices.

mod common;

use common::*;

const ELEMENT: &str = "mul.wide.u32 %rd4, %r0, 4;\nadd.s64 %rd2, %rd0, %rd4;\nadd.s64 %rd3, %rd1, %rd4;\n";

fn run(gpu: &Gpu, threads: u32, body: &str) -> Vec<u32> {
    let n = threads as usize;
    gpu.body(&(0..threads).collect::<Vec<u32>>(), n, threads, &format!("{ELEMENT}{body}\nst.global.u32 [%rd3], %r9;"))
}

/// Settings under which all that threads are promised holds.
fn all() -> Vec<Options> {
    let mut all = vec![Options::default(), Options { apart: true, ..Options::default() }];
    all.push(Options { order: Order::Random(3), apart: true, ..Options::default() });
    all
}

#[test]
fn shuffles() {
    for options in all() {
        let gpu = Gpu::with(options);
        let lane = |f: fn(u32) -> u32| (0..32).map(f).collect::<Vec<u32>>();
        assert_eq!(run(&gpu, 32, "shfl.sync.bfly.b32 %r9, %r0, 16, 31, -1;"), lane(|l| l ^ 16));
        assert_eq!(run(&gpu, 32, "shfl.sync.down.b32 %r9, %r0, 3, 31, -1;"), lane(|l| if l < 29 { l + 3 } else { l }));
        assert_eq!(run(&gpu, 32, "shfl.sync.up.b32 %r9, %r0, 3, 0, -1;"), lane(|l| if l >= 3 { l - 3 } else { l }));
        assert_eq!(run(&gpu, 32, "shfl.sync.idx.b32 %r9, %r0, 5, 31, -1;"), lane(|_| 5));
        // In groups of eight lanes.
        assert_eq!(run(&gpu, 32, "shfl.sync.idx.b32 %r9, %r0, 5, 0x181F, -1;"), lane(|l| l / 8 * 8 + 5));
        assert_eq!(run(&gpu, 32, "shfl.sync.down.b32 %r9, %r0, 2, 0x181F, -1;"), lane(|l| if l % 8 < 6 { l + 2 } else { l }));
        let with = "shfl.sync.down.b32 %r1|%p1, %r0, 3, 31, -1;\nselp.u32 %r9, %r1, 1000, %p1;";
        assert_eq!(run(&gpu, 32, with), lane(|l| if l < 29 { l + 3 } else { 1000 }));
        // Sum over a warp by a loop, and half of the lanes alone.
        let sum = "mov.u32 %r9, %r0;\nmov.u32 %r1, 16;\nagain:\nshfl.sync.bfly.b32 %r2, %r9, %r1, 31, -1;\nadd.u32 %r9, %r9, %r2;\nshr.u32 %r1, %r1, 1;\n\
                   setp.ne.u32 %p1, %r1, 0;\n@%p1 bra again;";
        assert_eq!(run(&gpu, 64, sum), (0..64).map(|t| if t < 32 { 496 } else { 1520 }).collect::<Vec<u32>>());
        let half = "mov.u32 %r9, %r0;\nsetp.ge.u32 %p1, %r0, 16;\n@%p1 bra over;\nshfl.sync.bfly.b32 %r9, %r0, 1, 31, 0xFFFF;\nover:";
        assert_eq!(run(&gpu, 32, half), lane(|l| if l < 16 { l ^ 1 } else { l }));
    }
}

#[test]
fn votes_and_others() {
    for options in all() {
        let gpu = Gpu::with(options);
        let p = "setp.lt.u32 %p1, %r0, 5;\n";
        let vote = |text: &str| run(&gpu, 32, &format!("{p}{text}"));
        assert_eq!(vote("vote.sync.ballot.b32 %r9, %p1, -1;"), [31; 32]);
        assert_eq!(vote("vote.sync.any.pred %p2, %p1, -1;\nselp.u32 %r9, 1, 0, %p2;"), [1; 32]);
        assert_eq!(vote("vote.sync.all.pred %p2, %p1, -1;\nselp.u32 %r9, 1, 0, %p2;"), [0; 32]);
        assert_eq!(vote("vote.sync.uni.pred %p2, !%p1, -1;\nselp.u32 %r9, 1, 0, %p2;"), [0; 32]);
        assert_eq!(vote("redux.sync.add.u32 %r9, %r0, -1;"), [496; 32]);
        assert_eq!(vote("redux.sync.max.s32 %r9, %r0, -1;"), [31; 32]);
        let lane = |f: fn(u32) -> u32| (0..32).map(f).collect::<Vec<u32>>();
        assert_eq!(vote("and.b32 %r1, %r0, 1;\nmatch.any.sync.b32 %r9, %r1, -1;"), lane(|l| 0x5555_5555 << (l & 1)));
        assert_eq!(vote("match.all.sync.b32 %r9|%p2, %r0, -1;"), [0; 32]);
        assert_eq!(vote("elect.sync %r1|%p2, -1;\nselp.u32 %r9, 1, 0, %p2;"), lane(|l| u32::from(l == 0)));
    }
    let gpu = Gpu::new();
    let active = "mov.u32 %r9, 0;\nsetp.lt.u32 %p1, %r0, 5;\n@!%p1 bra over;\nactivemask.b32 %r9;\nover:";
    assert_eq!(run(&gpu, 32, active)[..6], [31, 31, 31, 31, 31, 0]);
}

#[test]
fn barriers_of_a_block() {
    for options in all() {
        let gpu = Gpu::with(options);
        assert_eq!(run(&gpu, 96, "setp.lt.u32 %p1, %r0, 5;\nbarrier.cta.red.popc.aligned.u32 %r9, 0, %p1;"), [5; 96]);
        let red = "setp.lt.u32 %p1, %r0, 5;\nbar.red.and.pred %p2, 1, !%p1;\nbar.red.or.pred %p3, 2, %p1;\nselp.u32 %r9, 1, 0, %p2;\n@%p3 add.u32 %r9, %r9, 10;";
        assert_eq!(run(&gpu, 96, red), [10; 96]);
        // Warps 0 and 1 by themselves; a warp that only arrives.
        let some = "mov.u32 %r9, 1;\nsetp.ge.u32 %p1, %r0, 64;\n@%p1 bra over;\nbar.sync 3, 64;\nover:\nbar.sync 0;";
        assert_eq!(run(&gpu, 96, some), [1; 96]);
        let arrive =
            "mov.u32 %r9, 1;\nsetp.ge.u32 %p1, %r0, 32;\n@%p1 bra other;\nbar.sync 3, 64;\nbra.uni over;\nother:\nbar.arrive 3, 64;\nover:";
        assert_eq!(run(&gpu, 64, arrive), [1; 64]);
        // Not aligned: threads of a warp may come from different places.
        let apart =
            "mov.u32 %r9, 1;\nsetp.ge.u32 %p1, %r0, 16;\n@%p1 bra other;\nbarrier.sync 0;\nbra.uni over;\nother:\nbarrier.sync 0;\nover:";
        assert_eq!(run(&gpu, 64, apart), [1; 64]);
        // Lanes of a warp meet at two places.
        let warp = "mov.u32 %r9, 1;\nsetp.ge.u32 %p1, %r0, 16;\n@%p1 bra other;\nbar.warp.sync -1;\nbra.uni over;\nother:\nbar.warp.sync -1;\nover:";
        assert_eq!(run(&gpu, 32, warp), [1; 32]);
        // The last warp has fewer lanes, and counts as a whole one where the number is given.
        assert_eq!(run(&gpu, 40, "mov.u32 %r9, 1;\nbar.sync 2, 64;"), [1; 40]);
        assert_eq!(run(&gpu, 40, "mov.u32 %r9, 1;\nbar.warp.sync -1;\nbar.sync 0;"), [1; 40]);
    }
}

#[test]
fn threads_that_do_not_come_together_are_a_fault() {
    let bodies = [
        "setp.lt.u32 %p1, %r0, 16;\n@%p1 bra over;\nbar.sync 0;\nover:",
        "setp.lt.u32 %p1, %r0, 32;\n@%p1 bra over;\nbar.sync 0;\nover:",
        "setp.lt.u32 %p1, %r0, 16;\n@%p1 bra other;\nbar.sync 0;\nbra.uni over;\nother:\nbar.sync 0;\nover:",
        "setp.lt.u32 %p1, %r0, 16;\n@%p1 bra over;\nshfl.sync.bfly.b32 %r1, %r0, 1, 31, -1;\nover:",
        "setp.lt.u32 %p1, %r0, 16;\n@%p1 bra other;\nshfl.sync.bfly.b32 %r1, %r0, 1, 31, -1;\nbra.uni over;\nother:\nshfl.sync.bfly.b32 %r1, %r0, 1, 31, -1;\nover:",
        "shfl.sync.bfly.b32 %r1, %r0, 1, 31, 0xFFFF;",
        "setp.ge.u32 %p1, %r0, 16;\n@%p1 bra over;\nshfl.sync.bfly.b32 %r1, %r0, 16, 31, 0xFFFF;\nover:",
        "bar.sync 0, 48;",
        "bar.sync 0, 96;",
        "@!%p1 bar.sync 1, 64;\nsetp.lt.u32 %p1, %r0, 32;\n@%p1 bra over;\nbar.sync 1, 32;\nbar.sync 2, 64;\nover:",
    ];
    for body in bodies {
        for options in all() {
            let gpu = Gpu::with(options);
            assert_eq!(gpu.fails(64, body), 719, "{body}");
        }
    }
    // Lanes that do not exist.
    let gpu = Gpu::new();
    assert_eq!(gpu.fails(40, "shfl.sync.bfly.b32 %r1, %r0, 1, 31, -1;"), 719);
}

#[test]
fn a_thread_may_wait_for_another_of_its_warp() {
    // Lane 31 sets what the others turn around for.
    let gpu = Gpu::new();
    let text = "mov.u32 %r9, 1;\nsetp.eq.u32 %p1, %r0, 31;\n@%p1 bra set;\nagain:\nld.volatile.global.u32 %r2, [%rd0];\nsetp.ne.u32 %p2, %r2, 77;\n@%p2 bra again;\nbra.uni over;\n\
                set:\nst.volatile.global.u32 [%rd0], 77;\nover:";
    assert_eq!(run(&gpu, 64, text), [1; 64]);
}

#[test]
fn copies_beside_the_thread_come_when_it_waits() {
    let gpu = Gpu::new();
    let copy = |wait: &str| {
        format!(
            ".shared .align 16 .b8 tile[1024];\nmov.b64 %rd5, tile;\nmul.wide.u32 %rd6, %r0, 16;\nadd.s64 %rd7, %rd5, %rd6;\nshl.b64 %rd8, %rd4, 1;\n\
             cp.async.ca.shared.global [%rd7], [%rd2], 4;\ncp.async.commit_group;\n\
             mov.b64 %rd9, %rd0;\ncp.async.cg.shared.global [%rd7], [%rd9], 16, 4;\ncp.async.commit_group;\n{wait}\nld.shared.u32 %r9, [%rd7];\nld.shared.u32 %r8, [%rd7+4];"
        )
    };
    // Nothing yet; the first group; both.
    assert_eq!(run(&gpu, 32, &copy("")), [u32::MAX; 32]);
    assert_eq!(run(&gpu, 32, &copy("cp.async.wait_group 2;")), [u32::MAX; 32]);
    assert_eq!(run(&gpu, 32, &copy("cp.async.wait_group 1;")), (0..32).collect::<Vec<u32>>());
    assert_eq!(run(&gpu, 32, &copy("cp.async.wait_group 0;")), [0; 32]);
    // Beyond the bytes that are read stand zeros.
    assert_eq!(run(&gpu, 32, &(copy("cp.async.wait_all;") + "\nmov.u32 %r9, %r8;")), [0; 32]);
    assert_eq!(gpu.fails(32, "cp.async.wait_all;"), 0);
    let wrong = ".shared .align 16 .b8 tile[64];\nmov.b64 %rd5, tile;\ncp.async.cg.shared.global [%rd5], [%rd0+8], 16;";
    assert_eq!(gpu.fails(1, wrong), 716);
}

#[test]
fn cooperative_blocks_run_at_the_same_time() {
    use virtual_cuda::api::{context::*, launch::*};
    let gpu = Gpu::new();
    // Every block waits until all have counted themselves.
    let text = text(
        "atom.global.add.u32 %r1, [%rd1], 1;\nmov.u32 %r2, %nctaid.x;\nagain:\nld.volatile.global.u32 %r3, [%rd1];\nsetp.lt.u32 %p1, %r3, %r2;\n@%p1 bra again;",
    );
    let kernel = gpu.kernel(gpu.load(&text), "k");
    let b = gpu.upload(&[0u32]);
    let list = [(&raw const b).cast(), (&raw const b).cast()];
    assert_eq!(unsafe { cuLaunchCooperativeKernel(kernel.0, 8, 1, 1, 1, 1, 1, 0, NULL, list.as_ptr()) }, 0);
    assert_eq!(cuCtxSynchronize(), 0);
    assert_eq!(gpu.download::<u32>(b, 1), [8]);
    assert_eq!(unsafe { cuLaunchCooperativeKernel(kernel.0, 100_000, 1, 1, 1, 1, 1, 0, NULL, list.as_ptr()) }, 720);
}
