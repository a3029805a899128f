//! Modules: texts that have been read, their kernels and variables.

use super::code::{Answer, Code};
use super::memory::host_of;
use super::state::Held;
use crate::exec::program::Program;
use crate::lower::{Symbols, lower};
use crate::ptx::{self, Init, Space};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// A module that is loaded.
pub struct Module {
    pub device: usize,
    pub alive: Arc<AtomicBool>,
    pub text: Arc<str>,
    pub kernels: HashMap<String, Arc<Program>>,
    /// Addresses and bytes of variables.
    pub variables: HashMap<String, (u64, u64)>,
    /// Handles of functions that have been asked for.
    pub functions: HashMap<String, u64>,
}

/// A kernel as it is launched.
pub struct Function {
    pub device: usize,
    pub module: u64,
    pub program: Arc<Program>,
    /// Dynamic shared memory that has been asked for.
    pub dynamic: usize,
}

/// Why a module cannot be loaded.
pub struct Refused {
    pub code: Code,
    pub words: String,
}

/// Reads a text and makes its variables on a device.
pub fn load(state: &mut Held, device: usize, text: &str, capability: u32) -> Result<Module, Refused> {
    let refuse = |e: ptx::Error| Refused { code: Code::INVALID_PTX, words: format!("ptxas application ptx input, {e}") };
    let module = ptx::parse(text).map_err(refuse)?;
    let digits: String = module.target.chars().filter(|c| c.is_ascii_digit()).collect();
    let target: u32 = digits.parse().unwrap_or(0);
    if target > capability {
        let words = format!("the text is for {}, the device is sm_{capability}", module.target);
        return Err(Refused { code: Code::NO_BINARY_FOR_GPU, words });
    }
    let own = module.target.ends_with('a') || module.target.ends_with('f');
    if own && target != capability {
        return Err(Refused {
            code: Code::NO_BINARY_FOR_GPU,
            words: format!("the text is for {} alone, the device is sm_{capability}", module.target),
        });
    }
    if module.version > (9, 3) {
        let words = format!("PTX {}.{} is newer than the driver", module.version.0, module.version.1);
        return Err(Refused { code: Code::UNSUPPORTED_PTX_VERSION, words });
    }
    let mut symbols = Symbols::new();
    let mut variables = HashMap::new();
    let memory = |code: Code| Refused { code, words: "no memory for the variables of the module".to_string() };
    for variable in module.variables.iter().filter(|v| matches!(v.space, Space::Global | Space::Const)) {
        let len = variable.bytes().max(1) as u64;
        let address = state.heap.allocate(device, len, true).map_err(memory)?;
        state.devices[device].used += len;
        symbols.insert(variable.name.clone(), address);
        variables.insert(variable.name.clone(), (address, len));
    }
    let unload = |state: &mut Held, variables: &HashMap<String, (u64, u64)>| {
        for (address, len) in variables.values() {
            state.devices[device].used -= len;
            if let Some(remains) = state.heap.free(*address) {
                state.remains.push(remains);
            }
        }
    };
    let mut kernels = HashMap::new();
    for function in module.functions.iter().filter(|f| f.entry && f.body.is_some()) {
        match lower(&module, function, &symbols) {
            Ok(program) => drop(kernels.insert(function.name.clone(), Arc::new(program))),
            Err(error) => {
                unload(state, &variables);
                return Err(refuse(error));
            }
        }
    }
    for variable in module.variables.iter().filter(|v| symbols.contains_key(&v.name)) {
        if let Err(error) = initialize(variable, &symbols) {
            unload(state, &variables);
            return Err(refuse(error));
        }
    }
    Ok(Module { device, alive: Arc::new(AtomicBool::new(true)), text: text.into(), kernels, variables, functions: HashMap::new() })
}

/// What a variable begins with: zeros where the text says nothing.
fn initialize(variable: &ptx::Variable, symbols: &Symbols) -> Result<(), ptx::Error> {
    let (address, size) = (symbols[&variable.name], variable.ty.bytes());
    let fail = |words: String| ptx::Error { line: variable.line, words };
    let Some(at) = host_of(address, variable.bytes() as u64, u64::MAX) else { return Ok(()) };
    // SAFETY: the variable's own memory.
    unsafe { std::ptr::write_bytes(at, 0, variable.bytes()) };
    if variable.init.len() * size > variable.bytes() {
        return Err(fail(format!("`{}` has more initial values than elements", variable.name)));
    }
    for (n, init) in variable.init.iter().enumerate() {
        let bits = match init {
            Init::Bits(bits) => *bits,
            Init::Address { name, offset, .. } => match symbols.get(name) {
                Some(at) => at.wrapping_add_signed(*offset),
                None => return Err(fail(format!("the address of `{name}` is not known"))),
            },
        };
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(bits.to_le_bytes().as_ptr(), at.add(n * size), size) };
    }
    Ok(())
}

/// The kernel of a launch's function handle.
pub fn function(state: &Held, handle: u64, device: usize) -> Answer<&Function> {
    let function = state.functions.get(&handle).ok_or(Code::INVALID_HANDLE)?;
    if function.device != device {
        return Err(Code::INVALID_CONTEXT);
    }
    Ok(function)
}
