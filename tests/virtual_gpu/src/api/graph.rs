//! Graphs.

use super::launch::{Shape, kernel};
use super::{give, here, offer};
use crate::device::code::{Answer, Code};
use crate::device::collective;
use crate::device::drain::enqueue;
use crate::device::state::{Exec, Held, Kind, Node};
use crate::device::work::Work;
use std::ffi::{c_char, c_int, c_uint, c_ulonglong, c_void};
use std::sync::Arc;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphCreate(graph: *mut *mut c_void, _flags: c_uint) -> i32 {
    here(|state, device| {
        let handle = state.handle(Kind::Graph);
        state.graphs.insert(handle, (device, Vec::new()));
        // SAFETY: the caller's pointer.
        unsafe { give(graph, handle as *mut c_void) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphDestroy(graph: *mut c_void) -> i32 {
    here(|state, _| state.graphs.remove(&(graph as u64)).map(drop).ok_or(Code::INVALID_HANDLE))
}

fn instantiate(state: &mut Held, exec: *mut *mut c_void, graph: u64) -> Answer {
    let (device, nodes) = state.graphs.get(&graph).cloned().ok_or(Code::INVALID_HANDLE)?;
    let handle = state.handle(Kind::Exec);
    state.execs.insert(handle, Exec { device, nodes: Arc::new(nodes), last: None });
    state.log.graphs_instantiated += 1;
    // SAFETY: the caller's pointer.
    unsafe { give(exec, handle as *mut c_void) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphInstantiateWithFlags(exec: *mut *mut c_void, graph: *mut c_void, _flags: c_ulonglong) -> i32 {
    here(|state, _| instantiate(state, exec, graph as u64))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphInstantiate(
    exec: *mut *mut c_void,
    graph: *mut c_void,
    error: *mut *mut c_void,
    _log: *mut c_char,
    _bytes: usize,
) -> i32 {
    // SAFETY: as above.
    unsafe { offer(error, std::ptr::null_mut()) };
    here(|state, _| instantiate(state, exec, graph as u64))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphInstantiate_v2(
    exec: *mut *mut c_void,
    graph: *mut c_void,
    error: *mut *mut c_void,
    log: *mut c_char,
    bytes: usize,
) -> i32 {
    // SAFETY: as above.
    unsafe { cuGraphInstantiate(exec, graph, error, log, bytes) }
}

fn of(state: &Held, exec: *mut c_void, device: usize) -> Answer<&Exec> {
    let exec = state.execs.get(&(exec as u64)).ok_or(Code::INVALID_HANDLE)?;
    if exec.device == device { Ok(exec) } else { Err(Code::INVALID_CONTEXT) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphUpload(exec: *mut c_void, stream: *mut c_void) -> i32 {
    here(|state, device| {
        let stream = state.stream(stream as u64, device)?;
        of(state, exec, device)?;
        enqueue(state, stream, Work::Nothing, &[]).map(drop)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphLaunch(exec: *mut c_void, stream: *mut c_void) -> i32 {
    here(|state, device| {
        let stream = state.stream(stream as u64, device)?;
        let found = of(state, exec, device)?;
        let (nodes, last) = (found.nodes.clone(), found.last);
        let meets = nodes.iter().any(|n| matches!(n.work, Work::Meet(_)));
        let id = if meets {
            collective::launch(state, stream, &nodes, last.as_slice())?
        } else {
            enqueue(state, stream, Work::Graph(nodes), last.as_slice())?
        };
        if id.is_some() {
            state.log.graph_launches += 1;
        }
        if let Some(found) = state.execs.get_mut(&(exec as u64)) {
            found.last = id.or(found.last);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphExecDestroy(exec: *mut c_void) -> i32 {
    here(|state, _| state.execs.remove(&(exec as u64)).map(drop).ok_or(Code::INVALID_HANDLE))
}

/// The handle of a node: its graph and number.
fn node_handle(graph: u64, node: usize) -> u64 {
    0x6700_0000_0000_0000 | (Kind::Node as u64) << 48 | (graph >> 4 & 0xFFF_FFFF) << 20 | node as u64
}

/// The number of a node among those of its graph, which may be gone.
fn node_number(handle: u64) -> Answer<usize> {
    if handle >> 48 == 0x6700 | Kind::Node as u64 { Ok(handle as usize & 0xF_FFFF) } else { Err(Code::INVALID_HANDLE) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphNodeGetType(node: *mut c_void, kind: *mut c_uint) -> i32 {
    here(|state, _| {
        let n = node_number(node as u64)?;
        let graph = state.graphs.iter().find(|(g, _)| node_handle(**g, n) == node as u64).ok_or(Code::INVALID_HANDLE)?.1;
        let found = match graph.1.get(n).ok_or(Code::INVALID_HANDLE)?.work {
            Work::Kernel(_) | Work::Product(_) => 0,
            Work::Copy { .. } => 1,
            Work::Set { .. } => 2,
            Work::Host { .. } => 3,
            Work::Graph(_) => 4,
            _ => 5,
        };
        // SAFETY: the caller's pointer.
        unsafe { give(kind, found) }
    })
}

/// A kernel's node, as the interface lays it out.
#[repr(C)]
pub struct KernelNode {
    pub function: *mut c_void,
    pub grid: [c_uint; 3],
    pub block: [c_uint; 3],
    pub shared: c_uint,
    pub list: *const *const c_void,
    pub extra: *const *const c_void,
    pub kernel: *mut c_void,
    pub context: *mut c_void,
}

/// Gives a kernel of a graph other parameters.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphExecKernelNodeSetParams_v2(exec: *mut c_void, node: *mut c_void, params: *const KernelNode) -> i32 {
    here(|state, device| {
        let n = node_number(node as u64)?;
        if params.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: the caller's parameters.
        let p = unsafe { &*params };
        let shape = Shape { grid: p.grid, block: p.block, dynamic: p.shared as usize, cooperative: false };
        let new = kernel(state, device, p.function as u64, shape, p.list, p.extra)?;
        of(state, exec, device)?;
        let found = state.execs.get_mut(&(exec as u64)).ok_or(Code::INVALID_HANDLE)?;
        // Launches that are queued keep what they were asked for with.
        let nodes = Arc::make_mut(&mut found.nodes);
        match nodes.get_mut(n) {
            Some(Node { work: work @ Work::Kernel(_), .. }) => *work = Work::Kernel(Arc::new(new)),
            _ => return Err(Code::INVALID_VALUE),
        }
        Ok(())
    })
}

/// Numbers of nodes: all, or those that depend on none.
fn nodes(graph: *mut c_void, list: *mut *mut c_void, count: *mut usize, wanted: impl Fn(&Node) -> bool) -> i32 {
    here(|state, _| {
        let (_, all) = state.graphs.get(&(graph as u64)).ok_or(Code::INVALID_HANDLE)?;
        let found: Vec<usize> = (0..all.len()).filter(|n| wanted(&all[*n])).collect();
        // SAFETY: the caller's pointers; the list has room for as many as the count says.
        unsafe {
            if count.is_null() {
                return Err(Code::INVALID_VALUE);
            }
            if !list.is_null() {
                for (n, node) in found.iter().take(*count).enumerate() {
                    *list.add(n) = node_handle(graph as u64, *node) as *mut c_void;
                }
            }
            *count = if list.is_null() { found.len() } else { found.len().min(*count) };
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphGetNodes(graph: *mut c_void, list: *mut *mut c_void, count: *mut usize) -> i32 {
    nodes(graph, list, count, |_| true)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphGetRootNodes(graph: *mut c_void, list: *mut *mut c_void, count: *mut usize) -> i32 {
    nodes(graph, list, count, |n| n.deps.is_empty())
}

/// What `cuGraphExecUpdate_v2` tells.
#[repr(C)]
pub struct UpdateInfo {
    pub result: c_int,
    pub node: *mut c_void,
    pub from: *mut c_void,
}

/// Whether one graph can take the place of another: the same kinds of nodes and the same order.
fn alike(a: &[Node], b: &[Node]) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|(x, y)| x.deps == y.deps && std::mem::discriminant(&x.work) == std::mem::discriminant(&y.work))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphExecUpdate_v2(exec: *mut c_void, graph: *mut c_void, info: *mut UpdateInfo) -> i32 {
    here(|state, device| {
        of(state, exec, device)?;
        let (_, nodes) = state.graphs.get(&(graph as u64)).cloned().ok_or(Code::INVALID_HANDLE)?;
        let found = state.execs.get_mut(&(exec as u64)).ok_or(Code::INVALID_HANDLE)?;
        let fits = alike(&found.nodes, &nodes);
        // SAFETY: the caller's pointer. 2 says that the topology has changed.
        unsafe { offer(info, UpdateInfo { result: if fits { 0 } else { 2 }, node: std::ptr::null_mut(), from: std::ptr::null_mut() }) };
        if !fits {
            return Err(Code::GRAPH_EXEC_UPDATE_FAILURE);
        }
        found.nodes = Arc::new(nodes);
        Ok(())
    })
}
