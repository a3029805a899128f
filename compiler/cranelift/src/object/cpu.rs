//! Which instruction set a processor has, found out by the object file itself.

/// Machine code (x86-64, System V) of a function without arguments that returns, for a processor and system with AVX-512 (F, DQ, BW, VL, VBMI2), 3, with AVX2 and FMA 2, else 1.
///
/// CPUID leaf 1: FMA (ecx 12), OSXSAVE (27), AVX (28); leaf 7: AVX2 (ebx 5), AVX-512 F (16), DQ (17), BW (30), VL (31), VBMI2 (ecx 6); XCR0: the system keeps 128- and 256-bit
/// registers (bits 1, 2), masks and 512-bit registers (5, 6, 7). CPUID overwrites rbx, which belongs to the caller.
pub(super) const LEVEL: &[u8] = &[
    0x53, // push rbx
    0xb8, 0x01, 0x00, 0x00, 0x00, // mov eax, 1
    0x31, 0xc9, // xor ecx, ecx
    0x0f, 0xa2, // cpuid
    0x81, 0xe1, 0x00, 0x10, 0x00, 0x18, // and ecx, 1 << 12 | 1 << 27 | 1 << 28
    0x81, 0xf9, 0x00, 0x10, 0x00, 0x18, // cmp ecx, the same
    0x75, 0x54, // jne plain
    0xb8, 0x07, 0x00, 0x00, 0x00, // mov eax, 7
    0x31, 0xc9, // xor ecx, ecx
    0x0f, 0xa2, // cpuid
    0x89, 0xde, // mov esi, ebx
    0x89, 0xcf, // mov edi, ecx
    0x31, 0xc9, // xor ecx, ecx
    0x0f, 0x01, 0xd0, // xgetbv
    0x89, 0xc1, // mov ecx, eax
    0x83, 0xe0, 0x06, // and eax, 6
    0x83, 0xf8, 0x06, // cmp eax, 6
    0x75, 0x38, // jne plain
    0x40, 0xf6, 0xc6, 0x20, // test sil, 1 << 5
    0x74, 0x32, // je plain
    0x81, 0xe6, 0x00, 0x00, 0x03, 0xc0, // and esi, 1 << 16 | 1 << 17 | 1 << 30 | 1 << 31
    0x81, 0xfe, 0x00, 0x00, 0x03, 0xc0, // cmp esi, the same
    0x75, 0x1d, // jne half
    0xf7, 0xc7, 0x40, 0x00, 0x00, 0x00, // test edi, 1 << 6
    0x74, 0x15, // je half
    0x81, 0xe1, 0xe6, 0x00, 0x00, 0x00, // and ecx, 0xe6
    0x81, 0xf9, 0xe6, 0x00, 0x00, 0x00, // cmp ecx, the same
    0x75, 0x07, // jne half
    0xb8, 0x03, 0x00, 0x00, 0x00, // mov eax, 3
    0x5b, // pop rbx
    0xc3, // ret
    0xb8, 0x02, 0x00, 0x00, 0x00, // half: mov eax, 2
    0x5b, // pop rbx
    0xc3, // ret
    0xb8, 0x01, 0x00, 0x00, 0x00, // plain: mov eax, 1
    0x5b, // pop rbx
    0xc3, // ret
];

#[cfg(all(test, target_arch = "x86_64", unix))]
mod tests {
    #[test]
    fn the_code_agrees_with_the_standard_library() {
        use cranelift_module::{Linkage, Module};
        let builder = cranelift_jit::JITBuilder::new(cranelift_module::default_libcall_names()).expect("this machine is supported");
        let mut module = cranelift_jit::JITModule::new(builder);
        let id = module.declare_function("level", Linkage::Local, &module.make_signature()).expect("a new name");
        module.define_function_bytes(id, 16, super::LEVEL, &[]).expect("bytes");
        module.finalize_definitions().expect("nothing is open");
        // SAFETY: the bytes are a function of this type.
        let level = unsafe { std::mem::transmute::<*const u8, extern "C" fn() -> i32>(module.get_finalized_function(id)) };
        assert_eq!(level(), crate::wide::widest() as i32 + 1);
    }
}
