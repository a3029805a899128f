//! Which instruction set a processor has, found out by the object file itself.

/// Machine code (x86-64, System V) of a function without arguments that returns 2 on a processor and system with AVX2 and FMA, else 1.
///
/// CPUID leaf 1: FMA (ecx 12), OSXSAVE (27), AVX (28); XCR0: the system keeps 128- and 256-bit registers (bits 1, 2); CPUID leaf 7: AVX2 (ebx 5). CPUID overwrites rbx, which belongs to the caller.
pub(super) const LEVEL: &[u8] = &[
    0x53, // push rbx
    0xb8, 0x01, 0x00, 0x00, 0x00, // mov eax, 1
    0x31, 0xc9, // xor ecx, ecx
    0x0f, 0xa2, // cpuid
    0x81, 0xe1, 0x00, 0x10, 0x00, 0x18, // and ecx, 1 << 12 | 1 << 27 | 1 << 28
    0x81, 0xf9, 0x00, 0x10, 0x00, 0x18, // cmp ecx, the same
    0x75, 0x22, // jne plain
    0x31, 0xc9, // xor ecx, ecx
    0x0f, 0x01, 0xd0, // xgetbv
    0x83, 0xe0, 0x06, // and eax, 6
    0x83, 0xf8, 0x06, // cmp eax, 6
    0x75, 0x15, // jne plain
    0xb8, 0x07, 0x00, 0x00, 0x00, // mov eax, 7
    0x31, 0xc9, // xor ecx, ecx
    0x0f, 0xa2, // cpuid
    0xf6, 0xc3, 0x20, // test bl, 1 << 5
    0x74, 0x07, // je plain
    0xb8, 0x02, 0x00, 0x00, 0x00, // mov eax, 2
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
        assert_eq!(level(), if crate::wide::available() { 2 } else { 1 });
    }
}
