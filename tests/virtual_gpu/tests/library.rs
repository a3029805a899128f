//! The library as programs find it: by the names of its functions, in a process of its own.

mod common;

use common::*;
use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};
use virtual_cuda::api::{attribute::attribute, context::*, module::*, stream::*};
use virtual_cuda::api::{cuGetProcAddress, cuGetProcAddress_v2};
use virtual_cuda::options::read;

#[test]
fn functions_are_found_by_name() {
    let gpu = Gpu::new();
    for name in [c"cuMemAlloc", c"cuInit", c"cuGraphInstantiate", c"cuStreamGetCaptureInfo", c"cuLaunchKernelEx", c"cuMemcpyHtoDAsync"] {
        let mut f = NULL;
        unsafe { assert_eq!(cuGetProcAddress(name.as_ptr(), &mut f, 12000, 0), 0, "{name:?}") };
        assert!(!f.is_null());
    }
    let (mut f, mut status) = (NULL, 0);
    unsafe { assert_eq!(cuGetProcAddress_v2(c"cuTexRefCreate".as_ptr(), &mut f, 12000, 0, &mut status), 500) };
    assert_eq!((f, status), (NULL, 1));
    drop(gpu);
}

#[test]
fn devices_say_what_they_are() {
    let gpu = Gpu::with(Options { devices: 2, capability: 80, ..Options::default() });
    let mut n = 0;
    let mut value = |number: i32| {
        unsafe { assert_eq!(cuDeviceGetAttribute(&mut n, number, 1), 0) };
        n
    };
    assert_eq!((value(75), value(76), value(10), value(1), value(97)), (8, 0, 32, 1024, 163 << 10));
    unsafe { assert_eq!(cuDeviceGetAttribute(&mut n, 5000, 0), 1) };
    unsafe { assert_eq!(cuDeviceGetAttribute(&mut n, 1, 2), 101) };
    assert_eq!(attribute(97, 90), Some(227 << 10));
    let mut name = [1i8; 32];
    unsafe { assert_eq!(cuDeviceGetName(name.as_mut_ptr().cast(), 12, 0), 0) };
    assert_eq!(name[..12].iter().map(|c| *c as u8 as char).collect::<String>(), "Virtual GPU\0");
    let mut text = std::ptr::null();
    unsafe { assert_eq!(cuGetErrorName(700, &mut text), 0) };
    assert_eq!(unsafe { std::ffi::CStr::from_ptr(text) }, c"CUDA_ERROR_ILLEGAL_ADDRESS");
    unsafe { assert_eq!(cuGetErrorString(12345, &mut text), 1) };
    let module = gpu.load(&text_of_maximum());
    let kernel = gpu.kernel(module, "k");
    let mut found = 0;
    unsafe { assert_eq!(cuFuncGetAttribute(&mut found, 0, kernel.0), 0) };
    assert_eq!(found, 64);
    unsafe { assert_eq!(cuOccupancyMaxActiveBlocksPerMultiprocessor(&mut found, kernel.0, 64, 0), 0) };
    assert_eq!(found, 32);
    let b = gpu.alloc(4);
    assert_eq!(gpu.launch(kernel, 1, 128, 0, NULL, &[Arg::U64(b), Arg::U64(b)]), 1);
    assert_eq!(gpu.launch(kernel, 1, 64, 0, NULL, &[Arg::U64(b), Arg::U64(b)]), 0);
    assert_eq!(cuCtxSynchronize(), 0);
}

fn text_of_maximum() -> String {
    text("").replace("pb)\n{", "pb)\n.maxntid 64\n{")
}

#[test]
fn settings_are_checked() {
    let with = |name: &'static str, value: &'static str| read(move |n| (n == name).then(|| value.to_string()));
    assert_eq!(with("OPTC_VGPU_ORDER", "random:12").unwrap().order, Order::Random(12));
    assert_eq!(with("OPTC_VGPU_ORDER", "eager").unwrap().order, Order::Eager);
    assert_eq!(with("OPTC_VGPU_MEMORY", "4096").unwrap().memory, 4096);
    assert!(with("OPTC_VGPU_LANES", "apart").unwrap().apart);
    let wrong: BTreeMap<&str, &str> = [
        ("OPTC_VGPU_ORDER", "soon"),
        ("OPTC_VGPU_LANES", "x"),
        ("OPTC_VGPU_THREADS", "0"),
        ("OPTC_VGPU_DEVICES", "99"),
        ("OPTC_VGPU_SM", "9"),
    ]
    .into();
    for (name, value) in wrong {
        let words = with(name, value).unwrap_err();
        assert!(words.contains(name) && words.contains(value), "{words}");
    }
}

#[test]
fn calls_come_in_order() {
    let gpu = Gpu::new();
    // Before `cuInit`, with no context, and with one that is no more.
    restart(Options::default());
    let mut s = NULL;
    unsafe { assert_eq!(cuStreamCreate(&mut s, 0), 3) };
    assert_eq!((cuInit(1), cuInit(0)), (1, 0));
    unsafe { assert_eq!(cuStreamCreate(&mut s, 0), 201) };
    let mut context = NULL;
    unsafe { assert_eq!(cuDevicePrimaryCtxRetain(&mut context, 0), 0) };
    assert_eq!(cuCtxPushCurrent_v2(context), 0);
    unsafe { assert_eq!(cuStreamCreate(&mut s, 0), 0) };
    assert_eq!(cuDevicePrimaryCtxRelease_v2(0), 0);
    unsafe { assert_eq!(cuStreamCreate(&mut s, 0), 709) };
    let mut popped = NULL;
    unsafe { assert_eq!((cuCtxPopCurrent_v2(&mut popped), cuCtxPopCurrent_v2(&mut popped)), (0, 201)) };
    assert_eq!(popped, context);
    assert_eq!(cuCtxSetCurrent(16 as *mut c_void), 201);
    let (mut flags, mut active): (u32, c_int) = (9, 9);
    unsafe { assert_eq!(cuDevicePrimaryCtxGetState(0, &mut flags, &mut active), 0) };
    assert_eq!((flags, active), (0, 0));
    restart(Options { devices: 0, ..Options::default() });
    assert_eq!(cuInit(0), 100);
    drop(gpu);
}

unsafe extern "C" {
    fn dlopen(name: *const std::ffi::c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const std::ffi::c_char) -> *mut c_void;
}

/// Run by the test below in a process of its own.
#[test]
#[ignore = "part of another test"]
fn alone() {
    let Some(path) = std::env::var_os("OPTC_VGPU_TEST_LIBRARY") else { return };
    let path = std::ffi::CString::new(path.into_encoded_bytes()).unwrap();
    let library = unsafe { dlopen(path.as_ptr(), 2) };
    assert!(!library.is_null());
    let find = |name: &std::ffi::CStr| {
        let f = unsafe { dlsym(library, name.as_ptr()) };
        assert!(!f.is_null(), "{name:?}");
        f
    };
    type Init = extern "C" fn(u32) -> i32;
    type Retain = extern "C" fn(*mut *mut c_void, c_int) -> i32;
    type Set = extern "C" fn(*mut c_void) -> i32;
    type Alloc = extern "C" fn(*mut u64, usize) -> i32;
    type Memset = extern "C" fn(u64, u32, usize) -> i32;
    type Back = extern "C" fn(*mut c_void, u64, usize) -> i32;
    let (mut context, mut at, mut x) = (NULL, 0, 0u32);
    unsafe {
        assert_eq!(std::mem::transmute::<*mut c_void, Init>(find(c"cuInit"))(0), 0);
        assert_eq!(std::mem::transmute::<*mut c_void, Retain>(find(c"cuDevicePrimaryCtxRetain"))(&mut context, 0), 0);
        assert_eq!(std::mem::transmute::<*mut c_void, Set>(find(c"cuCtxSetCurrent"))(context), 0);
        assert_eq!(std::mem::transmute::<*mut c_void, Alloc>(find(c"cuMemAlloc_v2"))(&mut at, 4), 0);
        assert_eq!(std::mem::transmute::<*mut c_void, Memset>(find(c"cuMemsetD32_v2"))(at, 77, 1), 0);
        assert_eq!(std::mem::transmute::<*mut c_void, Back>(find(c"cuMemcpyDtoH_v2"))((&raw mut x).cast(), at, 4), 0);
    }
    assert_eq!(x, 77);
}

#[test]
fn the_library_is_loaded_by_name_and_writes_its_counters_at_exit() {
    let me = std::env::current_exe().unwrap();
    let folder = me.parent().unwrap();
    let library = [folder.join("libvirtual_cuda.so"), folder.join("../libvirtual_cuda.so")]
        .into_iter()
        .find(|p| p.exists())
        .expect("it is built with the tests");
    let log = std::env::temp_dir().join(format!("optc-virtual-gpu-{}.json", std::process::id()));
    let status = std::process::Command::new(&me)
        .args(["--exact", "alone", "--ignored"])
        .env("OPTC_VGPU_TEST_LIBRARY", &library)
        .env("OPTC_VGPU_LOG", &log)
        .output()
        .unwrap();
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stdout));
    let text = std::fs::read_to_string(&log).unwrap();
    std::fs::remove_file(&log).unwrap();
    assert!(text.contains("\"device_to_host\": {\"count\": 1, \"bytes\": 4}"), "{text}");
    assert!(text.contains("\"cuMemcpyDtoH\": {\"calls\": 1, \"blocked\": 0}") || text.contains("\"blocked\": 1"), "{text}");
    assert!(text.contains("\"peak_bytes\": 4,"), "{text}");
}
