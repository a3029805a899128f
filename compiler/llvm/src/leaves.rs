//! Steps of rules over many leaves of any length, as entries for an NVIDIA GPU: one for each of [`Launches`], whatever the number of leaves.
//!
//! All take the same parameters, in this order: the table; its words a column; the leaves; memory that they share; memory that each has; partial results; folds; elements of a part; parts; whether folds
//! begin with these leaves. The table has, in columns, the lengths of the leaves, the number of the first part of each (and after the last one that of all), and the addresses of arrays. No leaf is empty.
//! The first launch of a step takes besides: counts of steps made (f32) and how many they are; a float that says, if it is not zero, that the step is not made; of each hyperparameter its bits, and the address of an
//! f64 that is taken instead, if that is not null.

mod fold;

use crate::Error;
use crate::emit::Emit;
use crate::entry::{Entries, Parameter};
use crate::gpu::{self, Role};
use crate::host::Facts;
use crate::ins::{Ins, IntCC, Opcode, T, V};
use crate::machine::Machine;
use crate::simt::{Launch as Extents, shape};
use crate::unit;
use inkwell::context::Context;
use inkwell::llvm_sys::LLVMLinkage;
use optc_abi::DType;
use optc_abi::plan::{Status, status};
use optc_abi::tensor::ALIGN;
use optc_ir::kernel::Kernel;
use optc_ir::launches::{Do, Finish, Launch, Launches, Spot, When};
use std::cell::Cell;
use std::mem::offset_of;

/// Threads of a block.
const THREADS: i64 = 256;
/// Threads of a block of which one works.
const FEW: i64 = 32;
/// Words that an entry of words writes at most.
const WORDS: usize = 256;
/// Words that it writes at a time.
const GRAIN: usize = 8;
/// Numbers that a thread combines in the second round of a fold.
const BUNCH: i64 = 16;

/// What an entry's blocks are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeafForm {
    /// One block, which takes the further parameters of a first launch.
    Begin,
    /// One block.
    Once,
    /// A thread for each leaf; any number of blocks.
    Threads,
    /// A block for each leaf; any number of blocks.
    Blocks,
    /// A block for each part; any number of blocks.
    Parts,
}

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafEntry {
    /// Its name.
    pub name: String,
    /// The entry for addresses that are multiples of their elements' size alone; that of this name is for multiples of 64.
    pub narrow: Option<String>,
    /// What its blocks are for.
    pub form: LeafForm,
    /// Threads of a block.
    pub threads: i64,
}

/// Steps of rules.
#[derive(Clone, Debug, Default)]
pub struct LeafSteps {
    /// The module, as text the driver compiles.
    pub text: String,
    /// Of each rule its rounds, each with its entries in order.
    pub rules: Vec<Vec<Vec<LeafEntry>>>,
    /// An entry that writes words, with the parameters: where to, a multiple of 8; how many; the words. One thread does it.
    pub words: String,
    /// How many words it takes.
    pub word_count: usize,
}

/// Steps of rules, each with the beginning of its entries' names, for an NVIDIA GPU by LLVM's name for it (`sm_80`).
///
/// # Errors
/// If LLVM does not know the GPU; a kernel that is none for parts of leaves.
pub fn leaf_steps(rules: &[(String, Launches)], words: &str, gpu: &str) -> Result<LeafSteps, Error> {
    let (triple, machine) = unit::nvptx(gpu)?;
    let context = Context::create();
    let module = unit::module(&context, "steps", &triple, &machine);
    // SAFETY: context and module outlive the builder, which ends before the passes run.
    let ins = unsafe { Ins::new(context.raw(), module.as_mut_ptr()) };
    let mut d = Entries::new(Emit { i: ins, machine: Machine::Nvptx }, Vec::new(), true);
    let mut made = LeafSteps { words: words.to_string(), word_count: WORDS, ..LeafSteps::default() };
    for (name, rule) in rules {
        let mut rounds = Vec::new();
        for (number, round) in rule.rounds.iter().enumerate() {
            let mut entries = Vec::new();
            for (k, launch) in round.iter().enumerate() {
                let (next, entry) = Rule { rule, name: format!("{name}_{number}_{k}"), functions: Cell::new(0) }.entry(d, launch)?;
                d = next;
                entries.push(entry);
            }
            rounds.push(entries);
        }
        made.rules.push(rounds);
    }
    drop(writes_words(d, words));
    unit::optimize(&module, &machine)?;
    made.text = String::from_utf8_lossy(unit::machine_code(&module, &machine, true)?.as_slice()).into_owned();
    Ok(made)
}

/// The entry that writes words.
fn writes_words(mut d: Entries, name: &str) -> Entries {
    let parameters: Vec<Parameter> = [Parameter::Address].into_iter().chain(vec![Parameter::Number; 1 + WORDS]).collect();
    let all = d.open(name, &parameters, Extents { threads: FEW, units: 1, pieces: 1, shared: 0 });
    let others = d.e.i.icmp(IntCC::LLVMIntNE, d.e.special("tid.x"), d.e.i.i32(0));
    d.e.leave_if(others);
    for (n, &word) in all[2..].iter().enumerate() {
        if n % GRAIN == 0 {
            let done = d.e.i.icmp(IntCC::LLVMIntSLE, all[1], d.e.i.i64(n as i64));
            d.e.leave_if(done);
        }
        let at = d.e.i.element(d.e.i.int_type(64), all[0], d.e.i.i64(n as i64));
        d.e.put(word, at, 8);
    }
    d.close()
}

/// The parameters of an entry.
#[derive(Clone, Copy)]
struct Given {
    table: V,
    rows: V,
    count: V,
    shared: V,
    own: V,
    partials: V,
    folds: V,
    chunk: V,
    parts: V,
    first: V,
}

impl Given {
    const PARAMETERS: [Parameter; 10] = {
        use Parameter::{Address, Number};
        [Address, Number, Number, Address, Address, Address, Address, Number, Number, Number]
    };

    fn new(p: &[V]) -> Given {
        Given {
            table: p[0],
            rows: p[1],
            count: p[2],
            shared: p[3],
            own: p[4],
            partials: p[5],
            folds: p[6],
            chunk: p[7],
            parts: p[8],
            first: p[9],
        }
    }
}

/// A leaf, or a part of it.
#[derive(Clone, Copy)]
struct Leaf {
    number: V,
    /// The first element.
    begin: V,
    /// The number of the part among all.
    part: V,
}

/// A kernel as a function, and what it is called with besides its buffers.
struct Item {
    function: V,
    ty: T,
    sizes: usize,
    shared: i64,
}

impl Emit {
    fn put(&self, x: V, at: V, align: u32) {
        self.noted_write(at, self.i.bytes(self.i.type_of(x)));
        self.i.store(x, at, align);
    }
    fn get(&self, ty: T, at: V, align: u32) -> V {
        self.noted_read(at, self.i.bytes(ty));
        self.i.load(ty, at, align)
    }
    /// The byte so far from an address.
    fn beyond(&self, base: V, bytes: V) -> V {
        self.i.element(self.i.int_type(8), base, bytes)
    }
    /// Number of the thread, as i64.
    fn thread(&self) -> V {
        self.i.cast(Opcode::LLVMZExt, self.special("tid.x"), self.i.int_type(64))
    }
    fn is_first(&self, n: V) -> V {
        self.i.icmp(IntCC::LLVMIntEQ, n, self.i.i64(0))
    }
    fn is_given(&self, address: V) -> V {
        self.i.icmp(IntCC::LLVMIntNE, address, self.i.null(self.i.type_of(address)))
    }
    fn truth(&self, byte: V) -> V {
        self.i.icmp(IntCC::LLVMIntNE, byte, self.i.int(self.i.int_type(8), 0))
    }
}

/// A rule, and the name of the entry under construction.
struct Rule<'r> {
    rule: &'r Launches,
    name: String,
    /// Functions that it calls.
    functions: Cell<usize>,
}

impl Rule<'_> {
    fn entry(&self, d: Entries, launch: &Launch) -> Result<(Entries, LeafEntry), Error> {
        let entry = |form, threads| LeafEntry { name: self.name.clone(), narrow: None, form, threads };
        match launch {
            Launch::Begin(does) => Ok((self.begin(d, does)?, entry(LeafForm::Begin, THREADS))),
            Launch::Once(does) => Ok((self.once(d, does)?, entry(LeafForm::Once, FEW))),
            Launch::Fold(folded) => Ok((self.fold(d, folded), entry(LeafForm::Once, THREADS))),
            Launch::Leaves { finish, does } => {
                let form = if finish.is_empty() { LeafForm::Threads } else { LeafForm::Blocks };
                Ok((self.leaves(d, finish, does)?, entry(form, THREADS)))
            }
            Launch::Pass { kernel, spots, when } => {
                let narrow = format!("{}_narrow", self.name);
                let d = self.pass(d, &self.name, *kernel, spots, when, true)?;
                let d = self.pass(d, &narrow, *kernel, spots, when, false)?;
                Ok((d, LeafEntry { narrow: Some(narrow), ..entry(LeafForm::Parts, THREADS) }))
            }
            Launch::Copy { from, to, size, when } => Ok((self.copy(d, [*from, *to], *size, when), entry(LeafForm::Parts, THREADS))),
        }
    }

    /// A kernel as a function that the entry to come calls. `alone`: by one thread, among others that touch the same memory.
    fn item(&self, mut d: Entries, kernel: usize, spots: &[Spot], alone: bool, wide: bool) -> Result<(Entries, Item), Error> {
        let number = self.functions.replace(self.functions.get() + 1);
        let kernel: &Kernel = &self.rule.kernels[kernel];
        let same = |s: &Spot| spots.iter().filter(|other| *other == s).count() > 1;
        let align = |(spot, size): (&Spot, u32)| if matches!(spot, Spot::Array(_, 1..)) && wide { ALIGN as u32 } else { size };
        let sizes = kernel.buffers.iter().map(|b| b.dtype.size() as u32);
        let facts = Facts {
            aliased: spots.iter().map(|s| alone || same(s)).collect(),
            aligned: spots.iter().zip(sizes).map(align).collect(),
            places: spots.iter().map(|s| if alone { None } else { spots.iter().position(|other| other == s) }).collect(),
        };
        let extents = shape(kernel, &facts).launch;
        if extents.pieces != 1 || extents.threads != if alone { 1 } else { THREADS } {
            return Err(Error::new(format!("compiler bug: a kernel for {} threads in a step over leaves", extents.threads)));
        }
        let ty = crate::body::function_type(&d.e, kernel, d.e.address());
        let name = format!("{}.{number}", self.name);
        let function = d.e.i.begin(&name, ty, LLVMLinkage::LLVMInternalLinkage, &d.attributes);
        d.e.i.attribute(function, u32::MAX, "alwaysinline", 0);
        let shared = (extents.shared > 0).then(|| d.e.block_memory(&name, extents.shared));
        d.e = gpu::threads(d.e, kernel, &facts, function, shared, Role::Item);
        Ok((d, Item { function, ty, sizes: kernel.sizes, shared: extents.shared }))
    }

    /// The kernels that one thread runs, in the order in which [`Rule::does`] comes to them.
    fn items(&self, mut d: Entries, does: &[Do]) -> Result<(Entries, Vec<Item>), Error> {
        let mut all = Vec::new();
        for one in does {
            match one {
                Do::Kernel { kernel, spots } => {
                    let (next, item) = self.item(d, *kernel, spots, true, false)?;
                    d = next;
                    all.push(item);
                }
                Do::Cond { then, otherwise, .. } => {
                    for side in [then, otherwise] {
                        let (next, items) = self.items(d, side)?;
                        d = next;
                        all.extend(items);
                    }
                }
                Do::Copy { .. } | Do::Length(_) => {}
            }
        }
        Ok((d, all))
    }

    fn open(&self, d: &mut Entries, name: &str, threads: i64, more: &[Parameter]) -> (Given, Vec<V>) {
        let parameters: Vec<Parameter> = Given::PARAMETERS.iter().chain(more).copied().collect();
        let all = d.open(name, &parameters, Extents { threads, units: 1, pieces: 1, shared: 0 });
        let more = all[Given::PARAMETERS.len()..].to_vec();
        (Given::new(&all), more)
    }

    /// A word of the table, which no launch but that of words changes.
    fn word(&self, e: &Emit, ty: T, g: Given, column: i64, row: V) -> V {
        let at = e.i.add(e.i.mul(e.i.i64(column), g.rows), row);
        let x = e.get(ty, e.i.element(e.i.int_type(64), g.table, at), 8);
        e.i.invariant(x);
        x
    }

    fn address(&self, e: &Emit, g: Given, leaf: Leaf, spot: Spot) -> V {
        let i = &e.i;
        match spot {
            Spot::Array(k, size) => {
                let start = self.word(e, e.address(), g, 2 + k as i64, leaf.number);
                if size == 0 { start } else { e.beyond(start, i.mul(leaf.begin, i.i64(size))) }
            }
            Spot::Shared(at) => e.beyond(g.shared, i.i64(at)),
            Spot::Own(at) => e.beyond(g.own, i.add(i.mul(leaf.number, i.i64(self.rule.own)), i.i64(at))),
            Spot::Partial(k) => {
                let before = e.beyond(g.partials, i.mul(g.parts, i.i64(8 * k as i64)));
                e.beyond(before, i.mul(leaf.part, i.i64(self.rule.partials[k])))
            }
            Spot::Fold(k) => e.beyond(g.folds, i.i64(8 * k as i64)),
        }
    }

    /// The first leaf, as that of launches of one thread.
    fn first(&self, e: &Emit) -> Leaf {
        let zero = e.i.i64(0);
        Leaf { number: zero, begin: zero, part: zero }
    }

    fn call(&self, e: &Emit, item: &Item, buffers: Vec<V>, size: V, status: V) {
        let mut all = buffers;
        all.extend([size, e.i.i64(1)].into_iter().take(item.sizes));
        all.extend([e.i.i64(0), e.i.i64(1), status]);
        e.i.call(item.function, item.ty, &all);
    }

    /// What one thread does.
    fn does(&self, e: &mut Emit, g: Given, leaf: Leaf, does: &[Do], items: &mut std::slice::Iter<'_, Item>) {
        for one in does {
            match one {
                Do::Kernel { spots, .. } => {
                    let item = items.next().unwrap_or_else(|| panic!("compiler bug: a kernel that was not made"));
                    let buffers = spots.iter().map(|s| self.address(e, g, leaf, *s)).collect();
                    self.call(e, item, buffers, e.i.i64(1), g.shared);
                }
                Do::Copy { from, to, bytes } => {
                    let (from, to) = (self.address(e, g, leaf, *from), self.address(e, g, leaf, *to));
                    for k in 0..*bytes as i64 {
                        let at = e.i.i64(k);
                        let x = e.get(e.i.int_type(8), e.beyond(from, at), 1);
                        e.put(x, e.beyond(to, at), 1);
                    }
                }
                Do::Length(to) => {
                    let n = self.word(e, e.i.int_type(64), g, 0, leaf.number);
                    let n = e.i.cast(Opcode::LLVMSIToFP, n, e.i.scalar(DType::F64));
                    let to = self.address(e, g, leaf, *to);
                    e.put(n, to, 8);
                }
                Do::Cond { pred, then, otherwise } => {
                    let at = self.address(e, g, leaf, *pred);
                    let holds = e.truth(e.get(e.i.int_type(8), at, 1));
                    let (yes, no, after) = (e.i.block(), e.i.block(), e.i.block());
                    e.i.branch(holds, yes, no);
                    for (block, side) in [(yes, then), (no, otherwise)] {
                        e.i.go_to(block);
                        self.does(e, g, leaf, side, items);
                        e.i.jump(after);
                    }
                    e.i.go_to(after);
                }
            }
        }
    }

    fn begin(&self, d: Entries, does: &[Do]) -> Result<Entries, Error> {
        let (mut d, items) = self.items(d, does)?;
        let mut more = vec![Parameter::Address, Parameter::Number, Parameter::Address];
        more.extend([Parameter::Number, Parameter::Address].repeat(self.rule.hyper.len()));
        let (g, more) = self.open(&mut d, &self.name, THREADS, &more);
        let e = &mut d.e;
        let (word, long, float) = (e.i.int_type(32), e.i.int_type(64), e.i.scalar(DType::F32));
        let (steps, counted, found) = (more[0], more[1], more[2]);
        let skip = e.i.stack(word, 4);
        e.i.store(e.i.i32(0), skip, 4);
        let told = e.is_given(found);
        e.when(told, |e| {
            let x = e.get(float, found, 4);
            let stop = e.i.fcmp(crate::ins::FloatCC::LLVMRealUNE, x, e.i.float(float, 0.0));
            e.i.store(e.i.cast(Opcode::LLVMZExt, stop, word), skip, 4);
        });
        let thread = e.thread();
        let leads = e.is_first(thread);
        e.when(leads, |e| {
            let at = |e: &Emit, bytes: i64| e.beyond(g.shared, e.i.i64(bytes));
            let field = |offset: usize| offset as i64;
            let stop = e.i.icmp(IntCC::LLVMIntNE, e.i.load(word, skip, 4), e.i.i32(0));
            // Any fault that is none of written numbers stops what comes after it.
            let code = e.i.select(stop, e.i.i32(status::NOT_FINITE.into()), e.i.i32(status::OK.into()));
            e.put(code, at(e, field(offset_of!(Status, code))), 4);
            e.put(e.i.i32(0), at(e, field(offset_of!(Status, origin))), 4);
            for (k, &place) in self.rule.hyper.iter().enumerate() {
                let (bits, address) = (more[3 + 2 * k], more[4 + 2 * k]);
                let to = at(e, place);
                e.put(bits, to, 8);
                let told = e.is_given(address);
                e.when(told, |e| {
                    let x = e.get(long, address, 8);
                    e.put(x, to, 8);
                });
            }
            let counter = at(e, self.rule.counter);
            e.put(e.i.i32(0), counter, 4);
            let told = e.is_given(steps);
            e.when(told, |e| {
                let x = e.get(float, steps, 4);
                e.put(e.i.cast(Opcode::LLVMFPToSI, x, word), counter, 4);
            });
            for (place, bytes) in &self.rule.constants {
                for (k, &byte) in bytes.iter().enumerate() {
                    let to = at(e, place + k as i64);
                    e.put(e.i.int(e.i.int_type(8), byte.into()), to, 1);
                }
            }
            // Where there is no leaf, there is no first one either.
            let some = e.i.icmp(IntCC::LLVMIntSGT, g.count, e.i.i64(0));
            e.when(some, |e| {
                let leaf = self.first(e);
                self.does(e, g, leaf, does, &mut items.iter());
            });
        });
        // The first count has been read.
        e.block_barrier();
        let stop = e.i.icmp(IntCC::LLVMIntNE, e.i.load(word, skip, 4), e.i.i32(0));
        e.leave_if(stop);
        let none = e.i.icmp(IntCC::LLVMIntEQ, steps, e.i.null(e.i.type_of(steps)));
        e.leave_if(none);
        let step = e.i.i64(THREADS);
        e.looped(thread, counted, step, |e, k| {
            let at = e.i.element(float, steps, k);
            let x = e.get(float, at, 4);
            e.put(e.i.op2(Opcode::LLVMFAdd, x, e.i.float(float, 1.0)), at, 4);
        });
        Ok(d.close())
    }

    fn once(&self, d: Entries, does: &[Do]) -> Result<Entries, Error> {
        let (mut d, items) = self.items(d, does)?;
        let (g, _) = self.open(&mut d, &self.name, FEW, &[]);
        d.e.unless_stopped(g.shared, None);
        let thread = d.e.thread();
        let leads = d.e.is_first(thread);
        d.e.when(leads, |e| {
            let leaf = self.first(e);
            self.does(e, g, leaf, does, &mut items.iter());
        });
        Ok(d.close())
    }

    fn leaves(&self, mut d: Entries, finish: &[Finish], does: &[Do]) -> Result<Entries, Error> {
        let mut finishing = Vec::new();
        for f in finish {
            let (next, item) = self.item(d, f.kernel, &[Spot::Partial(f.partial), f.to], false, false)?;
            d = next;
            finishing.push(item);
        }
        let (next, items) = self.items(d, does)?;
        d = next;
        let (g, _) = self.open(&mut d, &self.name, THREADS, &[]);
        let e = &mut d.e;
        e.unless_stopped(g.shared, None);
        let (thread, block, blocks) = (e.thread(), e.block_index(), e.block_count());
        let leaf_of = |e: &Emit, number: V| Leaf { number, begin: e.i.i64(0), part: self.word(e, e.i.int_type(64), g, 1, number) };
        if finish.is_empty() {
            let size = e.i.i64(THREADS);
            let first = e.i.add(e.i.mul(block, size), thread);
            let step = e.i.mul(blocks, size);
            e.looped(first, g.count, step, |e, number| {
                let leaf = leaf_of(e, number);
                self.does(e, g, leaf, does, &mut items.iter());
            });
            return Ok(d.close());
        }
        let leads = e.is_first(thread);
        e.looped(block, g.count, blocks, |e, number| {
            let leaf = leaf_of(e, number);
            let after = self.word(e, e.i.int_type(64), g, 1, e.i.add(number, e.i.i64(1)));
            let parts = e.i.op2(Opcode::LLVMSub, after, leaf.part);
            for (f, item) in finish.iter().zip(&finishing) {
                let buffers = vec![self.address(e, g, leaf, Spot::Partial(f.partial)), self.address(e, g, leaf, f.to)];
                self.call(e, item, buffers, parts, g.shared);
                if item.shared > 0 {
                    // Shared memory is that of the next one.
                    e.block_barrier();
                }
            }
            // One thread has stored the results, and reads them.
            e.when(leads, |e| self.does(e, g, leaf, does, &mut items.iter()));
        });
        Ok(d.close())
    }

    /// The part of a leaf with this number among all, and how many elements it has.
    fn part(&self, e: &mut Emit, g: Given, part: V) -> (Leaf, V) {
        let i = &e.i;
        let long = i.int_type(64);
        // The last leaf that begins no later.
        let (head, body, done) = (i.block(), i.block(), i.block());
        let before = i.here();
        i.jump(head);
        i.go_to(head);
        let (low, high) = (i.phi(long), i.phi(long));
        i.comes(low, i.i64(0), before);
        i.comes(high, g.count, before);
        let more = i.icmp(IntCC::LLVMIntSGT, i.op2(Opcode::LLVMSub, high, low), i.i64(1));
        i.branch(more, body, done);
        i.go_to(body);
        let middle = i.op2(Opcode::LLVMLShr, i.add(low, high), i.i64(1));
        let begins = self.word(e, long, g, 1, middle);
        let i = &e.i;
        let fits = i.icmp(IntCC::LLVMIntSLE, begins, part);
        let (l, h) = (i.select(fits, middle, low), i.select(fits, high, middle));
        i.comes(low, l, i.here());
        i.comes(high, h, i.here());
        i.jump(head);
        i.go_to(done);
        let first = self.word(e, long, g, 1, low);
        let n = self.word(e, long, g, 0, low);
        let i = &e.i;
        let begin = i.mul(i.op2(Opcode::LLVMSub, part, first), g.chunk);
        let left = i.op2(Opcode::LLVMSub, n, begin);
        let whole = i.icmp(IntCC::LLVMIntSGT, left, g.chunk);
        (Leaf { number: low, begin, part }, i.select(whole, g.chunk, left))
    }

    /// Something for each part of the leaves for which conditions hold.
    fn parts(&self, e: &mut Emit, g: Given, when: &[When], each: impl Fn(&mut Emit, Leaf, V)) {
        e.unless_stopped(g.shared, None);
        let (block, blocks) = (e.block_index(), e.block_count());
        e.looped(block, g.parts, blocks, |e, number| {
            let (leaf, n) = self.part(e, g, number);
            let mut holds = e.i.bit(true);
            for &(pred, value) in when {
                let at = self.address(e, g, leaf, pred);
                let truth = e.truth(e.get(e.i.int_type(8), at, 1));
                let fits = e.i.icmp(IntCC::LLVMIntEQ, truth, e.i.bit(value));
                holds = e.i.and(holds, fits);
            }
            e.when(holds, |e| each(e, leaf, n));
        });
    }

    fn pass(&self, d: Entries, name: &str, kernel: usize, spots: &[Spot], when: &[When], wide: bool) -> Result<Entries, Error> {
        let (mut d, item) = self.item(d, kernel, spots, false, wide)?;
        let (g, _) = self.open(&mut d, name, THREADS, &[]);
        self.parts(&mut d.e, g, when, |e, leaf, n| {
            let buffers = spots.iter().map(|s| self.address(e, g, leaf, *s)).collect();
            self.call(e, &item, buffers, n, g.shared);
            if item.shared > 0 {
                // Shared memory is the next part's.
                e.block_barrier();
            }
        });
        Ok(d.close())
    }

    fn copy(&self, mut d: Entries, [from, to]: [usize; 2], size: i64, when: &[When]) -> Entries {
        let (g, _) = self.open(&mut d, &self.name, THREADS, &[]);
        self.parts(&mut d.e, g, when, |e, leaf, n| {
            let ty = e.i.int_type(8 * size as u32);
            let [from, to] = [from, to].map(|k| self.address(e, g, leaf, Spot::Array(k, size)));
            let (thread, step) = (e.thread(), e.i.i64(THREADS));
            e.looped(thread, n, step, |e, k| {
                let x = e.get(ty, e.i.element(ty, from, k), size as u32);
                e.put(x, e.i.element(ty, to, k), size as u32);
            });
        });
        d.close()
    }
}
