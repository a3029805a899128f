//! Instructions: LLVM's builder with one type of value for scalars and vectors.
//!
//! inkwell has a type for each kind of value, which generated code that is scalar or vector as the case may be would have to take apart and put together all the time.

use inkwell::llvm_sys::LLVMLinkage;
use inkwell::llvm_sys::core::*;
use inkwell::llvm_sys::prelude::*;
use optc_abi::DType;
use std::ffi::CString;

pub(crate) use inkwell::llvm_sys::LLVMIntPredicate as IntCC;
pub(crate) use inkwell::llvm_sys::LLVMOpcode as Opcode;
pub(crate) use inkwell::llvm_sys::LLVMRealPredicate as FloatCC;

/// A value of generated code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct V(pub(crate) LLVMValueRef);
/// A type of generated code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct T(pub(crate) LLVMTypeRef);
/// A basic block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block(LLVMBasicBlockRef);

fn name(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}
const EMPTY: *const std::ffi::c_char = c"".as_ptr();

/// The instructions of one module; they go to the end of the present block.
pub(crate) struct Ins {
    pub(crate) context: LLVMContextRef,
    pub(crate) module: LLVMModuleRef,
    builder: LLVMBuilderRef,
    /// The function under construction and its first block, where room on the stack is made.
    function: LLVMValueRef,
    entry: Option<Block>,
}

impl Drop for Ins {
    fn drop(&mut self) {
        // SAFETY: the builder was made by `new` and is used by nobody else.
        unsafe { LLVMDisposeBuilder(self.builder) }
    }
}

// SAFETY of all blocks below: types, values and blocks come from the methods of one `Ins`, whose context and module live longer than it (see `Unit`).
#[allow(clippy::undocumented_unsafe_blocks)]
impl Ins {
    /// # Safety
    /// Context and module must outlive the result and everything it hands out.
    pub(crate) unsafe fn new(context: LLVMContextRef, module: LLVMModuleRef) -> Ins {
        Ins { context, module, builder: unsafe { LLVMCreateBuilderInContext(context) }, function: std::ptr::null_mut(), entry: None }
    }

    // Types.

    pub(crate) fn int_type(&self, bits: u32) -> T {
        T(unsafe { LLVMIntTypeInContext(self.context, bits) })
    }
    pub(crate) fn pointer(&self, space: u32) -> T {
        T(unsafe { LLVMPointerTypeInContext(self.context, space) })
    }
    pub(crate) fn void(&self) -> T {
        T(unsafe { LLVMVoidTypeInContext(self.context) })
    }
    pub(crate) fn half(&self) -> T {
        T(unsafe { LLVMHalfTypeInContext(self.context) })
    }
    /// The type of a value; bools are single bits.
    pub(crate) fn scalar(&self, dtype: DType) -> T {
        match dtype {
            DType::F64 => T(unsafe { LLVMDoubleTypeInContext(self.context) }),
            DType::F32 | DType::BF16 | DType::F16 => T(unsafe { LLVMFloatTypeInContext(self.context) }),
            DType::I64 => self.int_type(64),
            DType::I32 | DType::U32 => self.int_type(32),
            DType::U8 => self.int_type(8),
            DType::Bool => self.int_type(1),
        }
    }
    pub(crate) fn vector(&self, of: T, lanes: usize) -> T {
        T(unsafe { LLVMVectorType(of.0, lanes as u32) })
    }
    pub(crate) fn array(&self, of: T, len: usize) -> T {
        T(unsafe { LLVMArrayType2(of.0, len as u64) })
    }
    pub(crate) fn function_type(&self, result: T, parameters: &[T]) -> T {
        let mut list: Vec<LLVMTypeRef> = parameters.iter().map(|t| t.0).collect();
        T(unsafe { LLVMFunctionType(result.0, list.as_mut_ptr(), list.len() as u32, 0) })
    }
    pub(crate) fn type_of(&self, x: V) -> T {
        T(unsafe { LLVMTypeOf(x.0) })
    }
    /// `of`, or a vector of it as long as `like`.
    pub(crate) fn like(&self, of: T, like: V) -> T {
        match self.lanes(like) {
            Some(n) => self.vector(of, n),
            None => of,
        }
    }
    /// Number of lanes of a vector.
    pub(crate) fn lanes(&self, x: V) -> Option<usize> {
        use inkwell::llvm_sys::LLVMTypeKind::LLVMVectorTypeKind;
        let ty = self.type_of(x);
        unsafe { (LLVMGetTypeKind(ty.0) == LLVMVectorTypeKind).then(|| LLVMGetVectorSize(ty.0) as usize) }
    }

    // Constants.

    /// An integer of a type, or of every lane of it.
    pub(crate) fn int(&self, ty: T, n: i64) -> V {
        self.splat_const(ty, |scalar| unsafe { LLVMConstInt(scalar, n as u64, 1) })
    }
    /// A float, which must be one of the type.
    pub(crate) fn float(&self, ty: T, x: f64) -> V {
        self.splat_const(ty, |scalar| unsafe { LLVMConstReal(scalar, x) })
    }
    fn splat_const(&self, ty: T, make: impl Fn(LLVMTypeRef) -> LLVMValueRef) -> V {
        use inkwell::llvm_sys::LLVMTypeKind::LLVMVectorTypeKind;
        unsafe {
            if LLVMGetTypeKind(ty.0) != LLVMVectorTypeKind {
                return V(make(ty.0));
            }
            let mut lanes = vec![make(LLVMGetElementType(ty.0)); LLVMGetVectorSize(ty.0) as usize];
            V(LLVMConstVector(lanes.as_mut_ptr(), lanes.len() as u32))
        }
    }
    pub(crate) fn i64(&self, n: i64) -> V {
        self.int(self.int_type(64), n)
    }
    pub(crate) fn i32(&self, n: i64) -> V {
        self.int(self.int_type(32), n)
    }
    pub(crate) fn bit(&self, b: bool) -> V {
        self.int(self.int_type(1), b.into())
    }
    /// A vector of constants.
    pub(crate) fn lanes_const(&self, of: T, lanes: impl IntoIterator<Item = i64>) -> V {
        let mut all: Vec<LLVMValueRef> = lanes.into_iter().map(|n| unsafe { LLVMConstInt(of.0, n as u64, 1) }).collect();
        V(unsafe { LLVMConstVector(all.as_mut_ptr(), all.len() as u32) })
    }
    /// Whether a value is a constant zero.
    pub(crate) fn is_zero(&self, x: V) -> bool {
        unsafe { LLVMIsConstant(x.0) != 0 && LLVMIsNull(x.0) != 0 }
    }
    pub(crate) fn undefined(&self, ty: T) -> V {
        V(unsafe { LLVMGetPoison(ty.0) })
    }
    pub(crate) fn null(&self, ty: T) -> V {
        V(unsafe { LLVMConstNull(ty.0) })
    }

    // Functions and blocks.

    /// Begins a function; `attributes` are names of enum attributes or `name=text`.
    pub(crate) fn begin(&mut self, text: &str, ty: T, linkage: LLVMLinkage, attributes: &[(String, String)]) -> V {
        let text = name(text);
        unsafe {
            let function = LLVMAddFunction(self.module, text.as_ptr(), ty.0);
            LLVMSetLinkage(function, linkage);
            self.function = function;
        }
        for (key, value) in attributes {
            self.text_attribute(V(self.function), key, value);
        }
        let entry = self.block();
        self.entry = Some(entry);
        self.go_to(entry);
        V(self.function)
    }
    pub(crate) fn text_attribute(&self, function: V, key: &str, value: &str) {
        let (k, v) = (name(key), name(value));
        unsafe {
            let a = LLVMCreateStringAttribute(self.context, k.as_ptr(), key.len() as u32, v.as_ptr(), value.len() as u32);
            LLVMAddAttributeAtIndex(function.0, u32::MAX, a);
        }
    }
    pub(crate) fn convention(&self, function: V, number: u32) {
        unsafe { LLVMSetFunctionCallConv(function.0, number) }
    }
    /// Adds an attribute of LLVM's own to a function (index `u32::MAX`), its result (0) or a parameter (from 1).
    pub(crate) fn attribute(&self, function: V, index: u32, key: &str, value: u64) {
        unsafe {
            let kind = LLVMGetEnumAttributeKindForName(key.as_ptr().cast(), key.len());
            assert!(kind != 0, "compiler bug: LLVM knows no attribute {key}");
            LLVMAddAttributeAtIndex(function.0, index, LLVMCreateEnumAttribute(self.context, kind, value));
        }
    }
    pub(crate) fn parameter(&self, i: usize) -> V {
        V(unsafe { LLVMGetParam(self.function, i as u32) })
    }
    /// A function of another module, declared at first use.
    pub(crate) fn declared(&self, text: &str, ty: T) -> V {
        let c = name(text);
        unsafe {
            let known = LLVMGetNamedFunction(self.module, c.as_ptr());
            V(if known.is_null() { LLVMAddFunction(self.module, c.as_ptr(), ty.0) } else { known })
        }
    }
    pub(crate) fn block(&self) -> Block {
        Block(unsafe { LLVMAppendBasicBlockInContext(self.context, self.function, EMPTY) })
    }
    pub(crate) fn go_to(&self, block: Block) {
        unsafe { LLVMPositionBuilderAtEnd(self.builder, block.0) }
    }
    pub(crate) fn here(&self) -> Block {
        Block(unsafe { LLVMGetInsertBlock(self.builder) })
    }
    pub(crate) fn jump(&self, to: Block) {
        unsafe { LLVMBuildBr(self.builder, to.0) };
    }
    pub(crate) fn branch(&self, condition: V, then: Block, otherwise: Block) {
        unsafe { LLVMBuildCondBr(self.builder, condition.0, then.0, otherwise.0) };
    }
    /// Says that the second way of the branch just made is seldom taken.
    pub(crate) fn branch_seldom(&self, condition: V, seldom: Block, otherwise: Block) {
        unsafe {
            let branch = LLVMBuildCondBr(self.builder, condition.0, seldom.0, otherwise.0);
            let text = "branch_weights";
            let word = |n: u64| LLVMValueAsMetadata(LLVMConstInt(LLVMInt32TypeInContext(self.context), n, 0));
            let mut list = [LLVMMDStringInContext2(self.context, text.as_ptr().cast(), text.len()), word(1), word(1 << 20)];
            let node = LLVMMDNodeInContext2(self.context, list.as_mut_ptr(), list.len());
            let kind = LLVMGetMDKindIDInContext(self.context, "prof".as_ptr().cast(), 4);
            LLVMSetMetadata(branch, kind, LLVMMetadataAsValue(self.context, node));
        }
    }
    pub(crate) fn ret(&self) {
        unsafe { LLVMBuildRetVoid(self.builder) };
    }
    /// A value that depends on where control comes from; [`Ins::comes`] says what it is.
    pub(crate) fn phi(&self, ty: T) -> V {
        V(unsafe { LLVMBuildPhi(self.builder, ty.0, EMPTY) })
    }
    pub(crate) fn comes(&self, phi: V, value: V, from: Block) {
        let (mut value, mut from) = (value.0, from.0);
        unsafe { LLVMAddIncoming(phi.0, &mut value, &mut from, 1) };
    }

    // Memory.

    /// Room on the stack, made once per call of the function.
    pub(crate) fn stack(&self, ty: T, align: u32) -> V {
        let here = self.here();
        let entry = self.entry.expect("a function is under construction");
        unsafe {
            let first = LLVMGetFirstInstruction(entry.0);
            if first.is_null() {
                LLVMPositionBuilderAtEnd(self.builder, entry.0);
            } else {
                LLVMPositionBuilderBefore(self.builder, first);
            }
            let slot = LLVMBuildAlloca(self.builder, ty.0, EMPTY);
            LLVMSetAlignment(slot, align);
            self.go_to(here);
            V(slot)
        }
    }
    pub(crate) fn load(&self, ty: T, at: V, align: u32) -> V {
        unsafe {
            let x = LLVMBuildLoad2(self.builder, ty.0, at.0, EMPTY);
            LLVMSetAlignment(x, align);
            V(x)
        }
    }
    pub(crate) fn store(&self, x: V, at: V, align: u32) {
        unsafe {
            let s = LLVMBuildStore(self.builder, x.0, at.0);
            LLVMSetAlignment(s, align);
        }
    }
    /// Says of a load that what it reads never changes.
    pub(crate) fn invariant(&self, load: V) {
        unsafe {
            let text = "invariant.load";
            let kind = LLVMGetMDKindIDInContext(self.context, text.as_ptr().cast(), text.len() as u32);
            let node = LLVMMDNodeInContext2(self.context, std::ptr::null_mut(), 0);
            LLVMSetMetadata(load.0, kind, LLVMMetadataAsValue(self.context, node));
        }
    }
    /// Says of a load that it is to happen, as it stands.
    pub(crate) fn volatile(&self, load: V) {
        unsafe { LLVMSetVolatile(load.0, 1) }
    }
    /// Bytes of a value of a type in memory.
    pub(crate) fn bytes(&self, ty: T) -> i64 {
        use inkwell::llvm_sys::LLVMTypeKind::*;
        unsafe {
            match LLVMGetTypeKind(ty.0) {
                LLVMVectorTypeKind => i64::from(LLVMGetVectorSize(ty.0)) * self.bytes(T(LLVMGetElementType(ty.0))),
                LLVMIntegerTypeKind => i64::from(LLVMGetIntTypeWidth(ty.0).div_ceil(8)),
                LLVMDoubleTypeKind | LLVMPointerTypeKind => 8,
                LLVMHalfTypeKind => 2,
                _ => 4,
            }
        }
    }
    /// Stores `new` where `old` is, at once; gives what was there.
    pub(crate) fn exchange_if(&self, at: V, old: V, new: V) -> V {
        use inkwell::llvm_sys::LLVMAtomicOrdering::LLVMAtomicOrderingMonotonic;
        unsafe {
            let both =
                LLVMBuildAtomicCmpXchg(self.builder, at.0, old.0, new.0, LLVMAtomicOrderingMonotonic, LLVMAtomicOrderingMonotonic, 0);
            V(LLVMBuildExtractValue(self.builder, both, 0, EMPTY))
        }
    }
    /// Memory in an address space whose bytes whoever launches says.
    pub(crate) fn memory_of_launch(&self, text: &str, space: u32, align: u32) -> V {
        let ty = self.array(self.int_type(8), 0);
        let text = name(text);
        unsafe {
            let global = LLVMAddGlobalInAddressSpace(self.module, ty.0, text.as_ptr(), space);
            LLVMSetAlignment(global, align);
            V(global)
        }
    }
    /// A variable of the module in an address space, without a value; `len` bytes. The same where there is one of this name.
    pub(crate) fn memory(&self, text: &str, len: i64, space: u32, align: u32) -> V {
        let ty = self.array(self.int_type(8), len as usize);
        let text = name(text);
        unsafe {
            let known = LLVMGetNamedGlobal(self.module, text.as_ptr());
            if !known.is_null() {
                return V(known);
            }
            let global = LLVMAddGlobalInAddressSpace(self.module, ty.0, text.as_ptr(), space);
            LLVMSetInitializer(global, LLVMGetPoison(ty.0));
            LLVMSetLinkage(global, LLVMLinkage::LLVMInternalLinkage);
            LLVMSetAlignment(global, align);
            V(global)
        }
    }
    /// The address of element `index` (a vector: of many) of an array of `of`.
    pub(crate) fn element(&self, of: T, base: V, index: V) -> V {
        let mut index = index.0;
        V(unsafe { LLVMBuildInBoundsGEP2(self.builder, of.0, base.0, &mut index, 1, EMPTY) })
    }

    // Operations.

    pub(crate) fn op2(&self, op: Opcode, a: V, b: V) -> V {
        V(unsafe { LLVMBuildBinOp(self.builder, op, a.0, b.0, EMPTY) })
    }
    pub(crate) fn add(&self, a: V, b: V) -> V {
        self.op2(Opcode::LLVMAdd, a, b)
    }
    pub(crate) fn mul(&self, a: V, b: V) -> V {
        self.op2(Opcode::LLVMMul, a, b)
    }
    /// A sum and a product of numbers without sign that stay below 2^32, so that constants can be taken out of addresses.
    pub(crate) fn add_up(&self, a: V, b: V) -> V {
        V(unsafe { LLVMBuildNUWAdd(self.builder, a.0, b.0, EMPTY) })
    }
    pub(crate) fn times(&self, a: V, b: V) -> V {
        V(unsafe { LLVMBuildNUWMul(self.builder, a.0, b.0, EMPTY) })
    }
    pub(crate) fn and(&self, a: V, b: V) -> V {
        self.op2(Opcode::LLVMAnd, a, b)
    }
    pub(crate) fn fneg(&self, x: V) -> V {
        V(unsafe { LLVMBuildFNeg(self.builder, x.0, EMPTY) })
    }
    pub(crate) fn icmp(&self, cc: IntCC, a: V, b: V) -> V {
        V(unsafe { LLVMBuildICmp(self.builder, cc, a.0, b.0, EMPTY) })
    }
    pub(crate) fn fcmp(&self, cc: FloatCC, a: V, b: V) -> V {
        V(unsafe { LLVMBuildFCmp(self.builder, cc, a.0, b.0, EMPTY) })
    }
    pub(crate) fn select(&self, condition: V, a: V, b: V) -> V {
        V(unsafe { LLVMBuildSelect(self.builder, condition.0, a.0, b.0, EMPTY) })
    }
    pub(crate) fn cast(&self, op: Opcode, x: V, to: T) -> V {
        if self.type_of(x) == to {
            return x;
        }
        V(unsafe { LLVMBuildCast(self.builder, op, x.0, to.0, EMPTY) })
    }
    pub(crate) fn bits(&self, x: V, to: T) -> V {
        self.cast(Opcode::LLVMBitCast, x, to)
    }
    /// Some value where there is none by LLVM's rules.
    pub(crate) fn freeze(&self, x: V) -> V {
        V(unsafe { LLVMBuildFreeze(self.builder, x.0, EMPTY) })
    }
    pub(crate) fn lane(&self, x: V, lane: V) -> V {
        V(unsafe { LLVMBuildExtractElement(self.builder, x.0, lane.0, EMPTY) })
    }
    pub(crate) fn with_lane(&self, x: V, y: V, lane: V) -> V {
        V(unsafe { LLVMBuildInsertElement(self.builder, x.0, y.0, lane.0, EMPTY) })
    }
    /// Lanes of `a`, then `b`, by number.
    pub(crate) fn shuffle(&self, a: V, b: V, lanes: impl IntoIterator<Item = i64>) -> V {
        let mask = self.lanes_const(self.int_type(32), lanes);
        V(unsafe { LLVMBuildShuffleVector(self.builder, a.0, b.0, mask.0, EMPTY) })
    }
    /// A part of a value that has several.
    pub(crate) fn part(&self, x: V, n: u32) -> V {
        V(unsafe { LLVMBuildExtractValue(self.builder, x.0, n, EMPTY) })
    }
    /// A vector of single values.
    pub(crate) fn gathered(&self, parts: &[V]) -> V {
        let mut out = self.undefined(self.vector(self.type_of(parts[0]), parts.len()));
        for (n, &x) in parts.iter().enumerate() {
            out = self.with_lane(out, x, self.i32(n as i64));
        }
        out
    }
    pub(crate) fn splat(&self, x: V, lanes: usize) -> V {
        let ty = self.type_of(x);
        let vector = self.undefined(self.vector(ty, lanes));
        let one = self.with_lane(vector, x, self.i32(0));
        self.shuffle(one, vector, std::iter::repeat_n(0, lanes))
    }
    pub(crate) fn call(&self, function: V, ty: T, arguments: &[V]) -> V {
        let mut list: Vec<LLVMValueRef> = arguments.iter().map(|x| x.0).collect();
        V(unsafe { LLVMBuildCall2(self.builder, ty.0, function.0, list.as_mut_ptr(), list.len() as u32, EMPTY) })
    }
    /// Says how parameter `index` (from 1) of a call, a pointer or a vector of such, is aligned.
    pub(crate) fn align_call(&self, call: V, index: u32, align: u64) {
        unsafe {
            let key = "align";
            let kind = LLVMGetEnumAttributeKindForName(key.as_ptr().cast(), key.len());
            LLVMAddCallSiteAttribute(call.0, index, LLVMCreateEnumAttribute(self.context, kind, align));
        }
    }
    /// An intrinsic by its name without types; `overloads` are the types it is made for.
    pub(crate) fn intrinsic(&self, text: &str, overloads: &[T], arguments: &[V]) -> V {
        assert!(crate::allowed::intrinsic(text), "compiler bug: intrinsic {text} is not in the list");
        unsafe {
            let id = LLVMLookupIntrinsicID(text.as_ptr().cast(), text.len());
            assert!(id != 0, "compiler bug: LLVM knows no intrinsic {text}");
            let mut types: Vec<LLVMTypeRef> = overloads.iter().map(|t| t.0).collect();
            let function = LLVMGetIntrinsicDeclaration(self.module, id, types.as_mut_ptr(), types.len());
            let ty = LLVMIntrinsicGetType(self.context, id, types.as_mut_ptr(), types.len());
            self.call(V(function), T(ty), arguments)
        }
    }
}
