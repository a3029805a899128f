//! Small kernels that every plan may need, written by hand: they do not depend on the compiler.

use optc_abi::DType;
use optc_abi::plan::{Status, WRITTEN_ORIGIN, status};
use std::mem::offset_of;

/// Forgets what an earlier run has reported of watched outputs. Parameter: the status.
pub(crate) const BEGIN: &str = "optc_begin";
/// Copies bytes unless the run has failed. Parameters: to, from, how many, the status.
pub(crate) const COPY: &str = "optc_copy";
/// Opens one of two branches. Parameters: the flag that chooses, the status, and those of the branch that is taken where it is true and of the other one.
pub(crate) const GATE: &str = "optc_gate";
/// After a branch: what went wrong in it has gone wrong. Parameters: the branch's status, the status.
pub(crate) const JOIN: &str = "optc_join";
/// Says in a word whether the run has failed. Parameters: the status, the word.
pub(crate) const RAISE: &str = "optc_raise";
/// Fails the run if the word says that one has. Parameters: the word, the status.
pub(crate) const ADOPT: &str = "optc_adopt";
/// The code of a branch that is not taken.
pub(crate) const NOT_TAKEN: i32 = -1;
/// Threads of a block of [`COPY`].
pub(crate) const COPY_THREADS: u32 = 256;

/// The kernel that reports a value that is not finite. Parameters: its address, the status.
pub(crate) fn guard(dtype: DType) -> Option<&'static str> {
    GUARDS.iter().find(|g| g.0 == dtype).map(|g| g.1)
}

/// Type, name, bytes from the value's start to the word with its exponent, the load of that word, and the exponent's bits.
const GUARDS: [(DType, &str, usize, &str, u32); 4] = [
    (DType::F32, "optc_guard_f32", 0, "u32", 0x7F80_0000),
    (DType::F64, "optc_guard_f64", 4, "u32", 0x7FF0_0000),
    (DType::BF16, "optc_guard_bf16", 0, "u16", 0x7F80),
    (DType::F16, "optc_guard_f16", 0, "u16", 0x7C00),
];

/// Registers of all kernels here.
const REGISTERS: &str = "    .reg .pred %p<4>;\n    .reg .b16 %h<4>;\n    .reg .b32 %r<12>;\n    .reg .b64 %rd<12>;\n";

/// Leaves the kernel if the status at `%rd1` is that of a run that has failed.
fn leave_if_failed() -> String {
    let (code, origin) = (offset_of!(Status, code), offset_of!(Status, origin));
    format!(
        "    ld.global.u32 %r1, [%rd1+{code}];\n    ld.global.u32 %r2, [%rd1+{origin}];\n    setp.ne.u32 %p1, %r1, {};\n    \
         setp.ne.and.u32 %p1, %r2, {WRITTEN_ORIGIN}, %p1;\n    @%p1 ret;\n",
        status::OK
    )
}

/// Parameter `n` of `entry` as an address of global memory in register `to`.
fn address(entry: &str, n: usize, to: &str) -> String {
    format!("    ld.param.u64 {to}, [{entry}_{n}];\n    cvta.to.global.u64 {to}, {to};\n")
}

fn entry(name: &str, parameters: usize, body: &str) -> String {
    let list: Vec<String> = (0..parameters).map(|n| format!("    .param .u64 {name}_{n}")).collect();
    format!(".visible .entry {name}(\n{}\n)\n{{\n{REGISTERS}{body}    ret;\n}}\n", list.join(",\n"))
}

/// The loop of a copy in pieces: `load` and `store` one piece of `bytes` bytes, from `%rd2` to `%rd3`.
fn pieces(label: &str, bytes: usize, load: &str, store: &str) -> String {
    format!(
        "{label}:\n    shr.u64 %rd6, %rd4, {shift};\n    mov.u64 %rd7, %rd5;\n{label}_next:\n    setp.ge.u64 %p2, %rd7, %rd6;\n    @%p2 ret;\n    \
         shl.b64 %rd8, %rd7, {shift};\n    add.u64 %rd9, %rd2, %rd8;\n    add.u64 %rd10, %rd3, %rd8;\n    {load}\n    {store}\n    \
         add.u64 %rd7, %rd7, %rd11;\n    bra.uni {label}_next;\n",
        shift = bytes.trailing_zeros()
    )
}

/// Both branches are as the whole run, but for the one that is not taken, and both are closed where the run has failed.
fn gate() -> String {
    let (code, origin) = (offset_of!(Status, code), offset_of!(Status, origin));
    format!(
        "{}{}{}{}    ld.global.u32 %r1, [%rd1+{code}];\n    ld.global.u32 %r2, [%rd1+{origin}];\n    setp.ne.u32 %p1, %r1, {ok};\n    setp.ne.and.u32 %p1, %r2, {WRITTEN_ORIGIN}, %p1;\n    \
         ld.global.u8 %h1, [%rd2];\n    cvt.u32.u16 %r3, %h1;\n    setp.ne.u32 %p2, %r3, 0;\n    selp.b32 %r4, {ok}, {NOT_TAKEN}, %p2;\n    selp.b32 %r5, {NOT_TAKEN}, {ok}, %p2;\n    \
         selp.b32 %r4, %r1, %r4, %p1;\n    selp.b32 %r5, %r1, %r5, %p1;\n    st.global.u32 [%rd3+{code}], %r4;\n    st.global.u32 [%rd4+{code}], %r5;\n    mov.u32 %r6, -1;\n    \
         st.global.u32 [%rd3+{origin}], %r6;\n    st.global.u32 [%rd4+{origin}], %r6;\n",
        address(GATE, 1, "%rd1"),
        address(GATE, 0, "%rd2"),
        address(GATE, 2, "%rd3"),
        address(GATE, 3, "%rd4"),
        ok = status::OK
    )
}

fn join() -> String {
    let words: String = (0..size_of::<Status>() / 8)
        .map(|k| format!("    ld.global.u64 %rd4, [%rd2+{at}];\n    st.global.u64 [%rd1+{at}], %rd4;\n", at = 8 * k))
        .collect();
    format!(
        "{}{}{}    ld.global.u32 %r3, [%rd2+{code}];\n    setp.eq.u32 %p2, %r3, {};\n    @%p2 ret;\n    setp.eq.s32 %p2, %r3, {NOT_TAKEN};\n    @%p2 ret;\n{words}",
        address(JOIN, 1, "%rd1"),
        leave_if_failed(),
        address(JOIN, 0, "%rd2"),
        status::OK,
        code = offset_of!(Status, code)
    )
}

fn raise() -> String {
    let (code, origin) = (offset_of!(Status, code), offset_of!(Status, origin));
    format!(
        "{}{}    ld.global.u32 %r1, [%rd1+{code}];\n    ld.global.u32 %r2, [%rd1+{origin}];\n    setp.ne.u32 %p1, %r1, {};\n    \
         setp.ne.and.u32 %p1, %r2, {WRITTEN_ORIGIN}, %p1;\n    selp.b32 %r3, 1, 0, %p1;\n    st.global.u32 [%rd2], %r3;\n",
        address(RAISE, 0, "%rd1"),
        address(RAISE, 1, "%rd2"),
        status::OK
    )
}

fn adopt() -> String {
    let (code, origin) = (offset_of!(Status, code), offset_of!(Status, origin));
    format!(
        "{}{}{}    ld.global.u32 %r3, [%rd2];\n    setp.eq.u32 %p2, %r3, 0;\n    @%p2 ret;\n    mov.u32 %r4, {};\n    \
         st.global.u32 [%rd1+{code}], %r4;\n    mov.u32 %r4, -1;\n    st.global.u32 [%rd1+{origin}], %r4;\n",
        address(ADOPT, 1, "%rd1"),
        leave_if_failed(),
        address(ADOPT, 0, "%rd2"),
        status::PEER
    )
}

/// The text of the module.
pub(crate) fn text() -> String {
    let (code, origin) = (offset_of!(Status, code), offset_of!(Status, origin));
    let mut all = String::from(".version 7.0\n.target sm_70\n.address_size 64\n\n");
    let forget = format!(
        "{}    ld.global.u32 %r2, [%rd1+{origin}];\n    setp.ne.u32 %p1, %r2, {WRITTEN_ORIGIN};\n    @%p1 ret;\n    mov.u32 %r3, {};\n    \
         st.global.u32 [%rd1+{code}], %r3;\n    mov.u32 %r3, -1;\n    st.global.u32 [%rd1+{origin}], %r3;\n",
        address(BEGIN, 0, "%rd1"),
        status::OK
    );
    all += &entry(BEGIN, 1, &forget);
    for (_, name, offset, word, exponent) in GUARDS {
        let load = if word == "u16" {
            "    ld.global.u16 %h1, [%rd2];\n    cvt.u32.u16 %r3, %h1;\n".to_string()
        } else {
            format!("    ld.global.u32 %r3, [%rd2+{offset}];\n")
        };
        let body = format!(
            "{}{}{}{load}    and.b32 %r4, %r3, {exponent};\n    setp.ne.u32 %p2, %r4, {exponent};\n    @%p2 ret;\n    mov.u32 %r5, {};\n    \
             st.global.u32 [%rd1+{code}], %r5;\n    mov.u32 %r5, -1;\n    st.global.u32 [%rd1+{origin}], %r5;\n",
            address(name, 1, "%rd1"),
            leave_if_failed(),
            address(name, 0, "%rd2"),
            status::NOT_FINITE
        );
        all += &entry(name, 2, &body);
    }
    all += &entry(GATE, 4, &gate());
    all += &entry(JOIN, 2, &join());
    all += &entry(RAISE, 2, &raise());
    all += &entry(ADOPT, 2, &adopt());
    let head = format!(
        "{}{}{}{}    ld.param.u64 %rd4, [{COPY}_2];\n    mov.u32 %r3, %ctaid.x;\n    mov.u32 %r4, %ntid.x;\n    mov.u32 %r5, %tid.x;\n    mul.wide.u32 %rd5, %r3, %r4;\n    \
         cvt.u64.u32 %rd6, %r5;\n    add.u64 %rd5, %rd5, %rd6;\n    mov.u32 %r6, %nctaid.x;\n    mul.wide.u32 %rd11, %r6, %r4;\n    or.b64 %rd6, %rd2, %rd3;\n    or.b64 %rd6, %rd6, %rd4;\n    \
         cvt.u32.u64 %r7, %rd6;\n    and.b32 %r8, %r7, 15;\n    setp.eq.u32 %p1, %r8, 0;\n    @%p1 bra wide;\n    and.b32 %r8, %r7, 3;\n    setp.eq.u32 %p1, %r8, 0;\n    @%p1 bra words;\n",
        address(COPY, 3, "%rd1"),
        leave_if_failed(),
        address(COPY, 1, "%rd2"),
        address(COPY, 0, "%rd3"),
    );
    let bytes = pieces("bytes", 1, "ld.global.u8 %h1, [%rd9];", "st.global.u8 [%rd10], %h1;");
    let words = pieces("words", 4, "ld.global.b32 %r9, [%rd9];", "st.global.b32 [%rd10], %r9;");
    let wide = pieces("wide", 16, "ld.global.v4.b32 {%r8, %r9, %r10, %r11}, [%rd9];", "st.global.v4.b32 [%rd10], {%r8, %r9, %r10, %r11};");
    all + &entry(COPY, 4, &(head + &bytes + &words + &wide))
}
