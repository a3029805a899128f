//! Loads, stores, atomic operations, variables, calls and branches.

mod common;

use common::*;
use virtual_cuda::api::{context::*, memory::*, module::*};

/// `%rd2`, `%rd3`: the thread's element of four bytes in the input and in the output.
const ELEMENT: &str = "mul.wide.u32 %rd4, %r0, 4;\nadd.s64 %rd2, %rd0, %rd4;\nadd.s64 %rd3, %rd1, %rd4;\n";

fn with(body: &str) -> String {
    format!("{ELEMENT}{body}")
}

#[test]
fn loads_and_stores() {
    let gpu = Gpu::new();
    let data: Vec<u32> = (0..8).map(|x| 0x8182_8384 + x).collect();
    let out = gpu.body(
        &data,
        16,
        1,
        "ld.global.v4.b32 {%r1, %r2, %r3, %r4}, [%rd0];
         ld.global.nc.L1::evict_last.v2.b32 {%r5, %r6}, [%rd0+16];
         st.global.v4.b32 [%rd1], {%r4, %r3, %r2, %r1};
         st.global.v2.b32 [%rd1+16], {%r6, %r5};
         ld.global.s8 %r7, [%rd0];
         ld.global.u8 %r8, [%rd0+1];
         ld.global.s16 %r9, [%rd0];
         ld.volatile.global.b16 %rs1, [%rd0+2];
         st.global.b16 [%rd1+36], %rs1;
         st.global.b16 [%rd1+38], 7;
         st.global.u32 [%rd1+24], %r7;
         st.global.u32 [%rd1+28], %r8;
         st.global.u32 [%rd1+32], %r9;
         ld.global.s32 %rd5, [%rd0];
         st.global.b64 [%rd1+40], %rd5;
         st.global.b8 [%rd1+48], %r8;
         ld.f32 %f1, [%rd0+4];
         st.f32 [%rd1+52], %f1;
         ld.acquire.gpu.global.u32 %r10, [%rd0+8];
         st.release.sys.global.u32 [%rd1+56], %r10;",
    );
    let wanted = [
        0x8182_8387,
        0x8182_8386,
        0x8182_8385,
        0x8182_8384,
        0x8182_8389,
        0x8182_8388,
        0xFFFF_FF84,
        0x83,
        0xFFFF_8384,
        0x0007_8182,
        0x8182_8384,
        0xFFFF_FFFF,
        0xDEAD_BE83,
        0x8182_8385,
        0x8182_8386,
        0xDEAD_BEEF,
    ];
    assert_eq!(out, wanted, "{out:x?}");
}

#[test]
fn shared_memory_and_barriers() {
    let text = with(
        ".shared .align 16 .b8 tile[256];
         mov.b64 %rd5, tile;
         add.s64 %rd6, %rd5, %rd4;
         ld.global.u32 %r1, [%rd2];
         st.shared.u32 [%rd6], %r1;
         bar.sync 0;
         sub.u32 %r2, 63, %r0;
         mul.wide.u32 %rd7, %r2, 4;
         cvta.shared.u64 %rd8, %rd5;
         add.s64 %rd8, %rd8, %rd7;
         ld.u32 %r3, [%rd8];
         ld.shared.u32 %r4, [tile+4];
         mov.b32 %r5, tile;
         ld.shared.u32 %r6, [%r5+8];
         add.u32 %r3, %r3, %r4;
         add.u32 %r3, %r3, %r6;
         st.global.u32 [%rd3], %r3;",
    );
    let input: Vec<u32> = (100..164).collect();
    let wanted: Vec<u32> = (0..64).map(|x| 163 - x + 101 + 102).collect();
    for options in [
        Options::default(),
        Options { apart: true, ..Options::default() },
        Options { order: Order::Random(9), apart: true, ..Options::default() },
    ] {
        let gpu = Gpu::with(options);
        assert_eq!(gpu_body(&gpu, &input, &text), wanted);
    }
}

fn gpu_body(gpu: &Gpu, input: &[u32], body: &str) -> Vec<u32> {
    gpu.body(input, input.len(), input.len() as u32, body)
}

#[test]
fn a_barrier_that_is_missing_shows() {
    // Warps run one after the other to where they wait: without a barrier the second one's words are not there.
    let gpu = Gpu::new();
    let text = with(
        ".shared .align 4 .b8 tile[256];
         mov.b64 %rd5, tile;
         add.s64 %rd6, %rd5, %rd4;
         st.shared.u32 [%rd6], %r0;
         ld.shared.u32 %r3, [tile+252];
         st.global.u32 [%rd3], %r3;",
    );
    let out = gpu_body(&gpu, &[0; 64], &text);
    assert_eq!((out[0], out[63]), (u32::MAX, 63));
}

#[test]
fn dynamic_shared_memory() {
    let gpu = Gpu::new();
    let text = text(&with(
        "mov.u32 %r1, %dynamic_smem_size;
             mov.b64 %rd5, dynamic;
             add.s64 %rd6, %rd5, %rd4;
             st.shared.u32 [%rd6], %r1;
             ld.shared.u32 %r2, [%rd6];
             st.global.u32 [%rd3], %r2;",
    ))
    .replace(".visible .entry", ".extern .shared .align 16 .b8 dynamic[];\n.visible .entry");
    let kernel = gpu.kernel(gpu.load(&text), "k");
    let b = gpu.alloc(128);
    let args = [Arg::U64(b), Arg::U64(b)];
    assert_eq!(gpu.launch(kernel, 1, 32, 128, NULL, &args), 0);
    assert_eq!(gpu.download::<u32>(b, 32), [128; 32]);
    assert_eq!(gpu.launch(kernel, 1, 32, 124, NULL, &args), 0);
    assert_eq!(cuCtxSynchronize(), 700);
}

#[test]
fn variables_of_a_module() {
    let gpu = Gpu::new();
    let text = text(
        &with(
            "mov.b64 %rd5, table;
             add.s64 %rd5, %rd5, %rd4;
             ld.global.u32 %r1, [%rd5];
             ld.const.f32 %f1, [scale];
             cvt.rn.f32.u32 %f2, %r1;
             mul.rn.f32 %f2, %f2, %f1;
             cvt.rzi.u32.f32 %r2, %f2;
             ld.global.u64 %rd6, [where];
             ld.u32 %r3, [%rd6];
             add.u32 %r2, %r2, %r3;
             st.global.u32 [%rd3], %r2;",
        ),
    )
    .replace(
        ".visible .entry",
        ".global .align 4 .u32 table[4] = {1, 2, 3, 0x10};\n.const .align 4 .f32 scale = 0f40000000;\n.global .align 8 .u64 where = generic(table)+8;\n\
         .visible .global .align 8 .b8 plain[12];\n.visible .entry",
    );
    let module = gpu.load(&text);
    let kernel = gpu.kernel(module, "k");
    let b = gpu.alloc(16);
    gpu.run(kernel, 1, 4, &[Arg::U64(b), Arg::U64(b)]);
    assert_eq!(gpu.download::<u32>(b, 4), [5, 7, 9, 35]);
    let (mut at, mut bytes) = (0, 0);
    unsafe { assert_eq!(cuModuleGetGlobal_v2(&mut at, &mut bytes, module, c"plain".as_ptr()), 0) };
    assert_eq!((bytes, gpu.download::<u8>(at, 12)), (12, vec![0; 12]));
    unsafe { assert_eq!(cuModuleGetGlobal_v2(&mut at, &mut bytes, module, c"table".as_ptr()), 0) };
    assert_eq!(cuMemsetD32_v2(at, 1, 4), 0);
    gpu.run(kernel, 1, 4, &[Arg::U64(b), Arg::U64(b)]);
    assert_eq!(gpu.download::<u32>(b, 4), [3; 4]);
}

#[test]
fn atomic_operations() {
    for hosts in [1, 4] {
        let gpu = Gpu::with(Options { hosts, ..Options::default() });
        let text = text(
            ".shared .align 4 .b32 count;
             atom.global.add.u32 %r1, [%rd1], 1;
             red.global.add.f32 [%rd1+4], 0f3F000000;
             atom.global.max.s32 %r2, [%rd1+8], %r0;
             atom.relaxed.sys.global.cas.b32 %r3, [%rd1+12], 5, 7;
             atom.global.exch.b64 %rd5, [%rd1+16], 99;
             red.relaxed.gpu.global.or.b32 [%rd1+24], 4;
             atom.global.inc.u32 %r4, [%rd1+28], 9;
             red.global.add.f64 [%rd1+32], 0d3FF0000000000000;
             atom.global.min.u64 %rd6, [%rd1+40], 3;
             atom.add.noftz.f16x2 %r5, [%rd1+48], %r6;
             setp.ne.u32 %p1, %r0, 0;
             @%p1 bra wait;
             st.shared.u32 [count], 0;
             wait:
             bar.sync 0;
             atom.shared.add.u32 %r7, [count], 1;
             bar.sync 0;
             ld.shared.u32 %r8, [count];
             st.global.u32 [%rd1+52], %r8;",
        )
        .replace("mov.u32 %r0", "mov.b32 %r6, 0x3C004000;\nmov.u32 %r0");
        let kernel = gpu.kernel(gpu.load(&text), "k");
        let mut start = [0u32; 16];
        start[3] = 5;
        (start[10], start[11]) = (u32::MAX, u32::MAX);
        let b = gpu.upload(&start);
        gpu.run(kernel, 10, 64, &[Arg::U64(b), Arg::U64(b)]);
        let out = gpu.download::<u32>(b, 16);
        assert_eq!(out[0], 640);
        assert_eq!(f32::from_bits(out[1]), 320.0);
        assert_eq!((out[2], out[3], out[4], out[5], out[6], out[7]), (63, 7, 99, 0, 4, 0));
        assert_eq!(f64::from_bits(u64::from(out[8]) | u64::from(out[9]) << 32), 640.0);
        // Halves: 640 times 1 and, up to where they end to be exact, 2.
        assert_eq!((out[10], out[12], out[13]), (3, 0x6100_6500, 64));
    }
}

#[test]
fn branches_loops_and_predicates() {
    let text = with(
        "mov.u32 %r1, 0;
         mov.u32 %r2, 0;
         setp.eq.u32 %p1, %r0, 3;
         @%p1 bra $done;
         $loop:
         add.u32 %r1, %r1, %r2;
         add.u32 %r2, %r2, 1;
         setp.le.u32 %p2, %r2, %r0;
         @%p2 bra $loop;
         @!%p2 add.u32 %r1, %r1, 1000;
         $done:
         and.b32 %r3, %r0, 3;
         $list: .branchtargets $a, $b, $c, $a;
         brx.idx %r3, $list;
         $a: add.u32 %r1, %r1, 10000;
         bra.uni $end;
         $b: add.u32 %r1, %r1, 20000;
         bra.uni $end;
         $c: add.u32 %r1, %r1, 30000;
         $end:
         st.global.u32 [%rd3], %r1;
         setp.gt.u32 %p3, %r0, 20;
         @%p3 ret;
         st.global.u32 [%rd2], %r1;
         exit;",
    );
    for options in [Options::default(), Options { apart: true, ..Options::default() }] {
        let gpu = Gpu::with(options);
        let out = gpu_body(&gpu, &[0; 32], &text);
        for t in 0..32u32 {
            let sum = if t == 3 { 0 } else { t * (t + 1) / 2 + 1000 };
            assert_eq!(out[t as usize], sum + [10000, 20000, 30000, 10000][t as usize & 3], "thread {t}");
        }
    }
}

#[test]
fn functions() {
    let gpu = Gpu::new();
    let functions = "
.func (.param .b32 result) fibonacci(.param .b32 n)
{
.reg .pred %p<2>;
.reg .b32 %r<8>;
ld.param.u32 %r1, [n];
setp.lt.u32 %p1, %r1, 2;
@%p1 bra small;
sub.u32 %r2, %r1, 1;
{
.param .b32 a;
.param .b32 r;
st.param.b32 [a], %r2;
call.uni (r), fibonacci, (a);
ld.param.b32 %r3, [r];
}
sub.u32 %r2, %r1, 2;
{
.param .b32 a;
.param .b32 r;
st.param.b32 [a], %r2;
call.uni (r), fibonacci, (a);
ld.param.b32 %r4, [r];
}
add.u32 %r1, %r3, %r4;
small:
st.param.b32 [result], %r1;
ret;
}
.func (.reg .b32 out) twice(.reg .b32 in)
{
add.u32 out, in, in;
ret;
}
.func fill(.param .b64 where, .param .align 4 .b8 what[12])
{
.local .align 4 .b8 depot[16];
.reg .b64 %rd<8>;
.reg .b32 %r<4>;
mov.b64 %rd1, depot;
cvta.local.u64 %rd2, %rd1;
ld.param.u32 %r1, [what+8];
st.u32 [%rd2+4], %r1;
ld.local.u32 %r2, [depot+4];
ld.param.u64 %rd3, [where];
st.u32 [%rd3], %r2;
ret;
}
.visible .entry";
    let text = text(&with(
        "{
         .param .b32 a;
         .param .b32 r;
         st.param.b32 [a], %r0;
         call.uni (r), fibonacci, (a);
         ld.param.b32 %r1, [r];
         }
         call (%r2), twice, (%r1);
         mov.b64 %rd5, twice;
         proto: .callprototype (.reg .b32 _) _ (.reg .b32 _);
         call (%r2), %rd5, (%r2), proto;
         {
         .param .b64 where;
         .param .align 4 .b8 what[12];
         st.param.b64 [where], %rd3;
         st.param.b32 [what+8], %r2;
         call.uni fill, (where, what);
         }",
    ))
    .replace(".visible .entry", functions);
    let kernel = gpu.kernel(gpu.load(&text), "k");
    let b = gpu.alloc(48);
    gpu.run(kernel, 1, 12, &[Arg::U64(b), Arg::U64(b)]);
    assert_eq!(gpu.download::<u32>(b, 12), [0, 4, 4, 8, 12, 20, 32, 52, 84, 136, 220, 356]);
}

#[test]
fn local_memory_and_special_registers() {
    let gpu = Gpu::new();
    let text = with(
        ".local .align 8 .b8 depot[64];
         mov.b64 %rd5, depot;
         and.b32 %r1, %r0, 15;
         mul.wide.u32 %rd6, %r1, 4;
         add.s64 %rd6, %rd5, %rd6;
         mov.u32 %r2, %laneid;
         st.local.u32 [%rd6], %r2;
         bar.warp.sync -1;
         ld.local.u32 %r3, [%rd6];
         mov.u32 %r4, %warpid;
         mov.u32 %r5, %lanemask_lt;
         popc.b32 %r5, %r5;
         mov.u32 %r6, %ntid.x;
         mov.u32 %r7, %nctaid.y;
         mad.lo.u32 %r3, %r4, 100, %r3;
         mad.lo.u32 %r3, %r5, 1000, %r3;
         mad.lo.u32 %r3, %r6, 100000, %r3;
         mad.lo.u32 %r3, %r7, 100000000, %r3;
         st.global.u32 [%rd3], %r3;",
    );
    let out = gpu_body(&gpu, &[0; 64], &text);
    for t in 0..64u32 {
        assert_eq!(out[t as usize], 106_400_000 + t % 32 * 1001 + t / 32 * 100);
    }
}

#[test]
fn accesses_are_checked() {
    for (body, code) in [
        ("ld.global.u32 %r1, [%rd0+4096];", 700),
        ("ld.global.u32 %r1, [%rd0+-4];", 700),
        ("st.global.v4.b32 [%rd1+4084], {%r1, %r1, %r1, %r1};", 716),
        ("st.global.v4.b32 [%rd1+8], {%r1, %r1, %r1, %r1};", 716),
        ("ld.global.b64 %rd5, [%rd0+4];", 716),
        ("ld.global.u32 %r1, [0];", 700),
        ("atom.global.add.u32 %r1, [%rd0+4096], 1;", 700),
        (".shared .b8 tile[64];\nmov.b64 %rd5, tile;\nld.shared.u32 %r1, [%rd5+64];", 700),
        (".shared .b8 tile[64];\nmov.b64 %rd5, tile;\nld.u32 %r1, [%rd5];", 700),
        (".local .b8 depot[64];\nmov.b64 %rd5, depot;\nst.local.u32 [%rd5+64], %r1;", 700),
        ("trap;", 719),
        ("setp.gt.u32 %p1, %r0, 100;\n@%p1 trap;", 0),
    ] {
        let gpu = Gpu::new();
        assert_eq!(gpu.fails(32, body), code, "{body}");
    }
}

#[test]
fn page_locked_memory_is_the_device_s_too() {
    let gpu = Gpu::new();
    let mut host = vec![0u32; 64];
    host[..32].fill(5);
    assert_eq!(cuMemHostRegister_v2(host.as_mut_ptr().cast(), 256, 0), 0);
    let at = host.as_ptr() as u64;
    let text = text(&with("ld.global.u32 %r1, [%rd2];\nst.global.u32 [%rd3+128], %r1;"));
    let kernel = gpu.kernel(gpu.load(&text), "k");
    gpu.run(kernel, 1, 32, &[Arg::U64(at), Arg::U64(at)]);
    assert_eq!(host[32..], [5; 32]);
    assert_eq!(cuMemHostUnregister(host.as_mut_ptr().cast()), 0);
    assert_eq!(gpu.launch(kernel, 1, 32, 0, NULL, &[Arg::U64(at), Arg::U64(at)]), 0);
    assert_eq!(cuCtxSynchronize(), 700);
}

#[test]
fn blocks_that_meet_are_noticed_where_asked() {
    let block = "mov.u32 %r5, %ctaid.x;\nmul.wide.u32 %rd5, %r5, 4;\nadd.s64 %rd6, %rd1, %rd5;\n";
    let cases = [
        // Each block its own word, which it reads again.
        ("st.global.u32 [%rd6], %r5;\nld.global.u32 %r6, [%rd6];", 0),
        // All read the same.
        ("ld.global.nc.u32 %r6, [%rd1];", 0),
        // Two write the same, or one what another one reads.
        ("st.global.u32 [%rd1], %r5;", 719),
        ("ld.global.u32 %r6, [%rd1];\nst.global.u32 [%rd6], %r5;", 719),
        ("st.global.u32 [%rd6], %r5;\nld.global.u32 %r6, [%rd1];", 719),
        // Memory that nobody writes is written.
        ("st.global.u32 [%rd6], %r5;\nld.global.nc.u32 %r6, [%rd6];", 719),
        // Atomic operations order blocks.
        ("st.global.u32 [%rd6], %r5;\natom.global.add.u32 %r7, [%rd0], 1;\nld.global.u32 %r6, [%rd1];", 0),
        ("st.volatile.global.u32 [%rd1], %r5;", 0),
    ];
    for (body, code) in cases {
        for (races, code) in [(true, code), (false, 0)] {
            let gpu = Gpu::with(Options { races, ..Options::default() });
            let kernel = gpu.kernel(gpu.load(&text(&format!("{block}{body}"))), "k");
            let (a, b) = (gpu.upload(&[0u32; 64]), gpu.upload(&[0u32; 64]));
            for _ in 0..2 {
                assert_eq!(gpu.launch(kernel, 3, 1, 0, NULL, &[Arg::U64(a), Arg::U64(b)]), 0);
            }
            assert_eq!(cuCtxSynchronize(), code, "{body}");
        }
    }
}
