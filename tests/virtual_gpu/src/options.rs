//! What the environment says.

use std::sync::{Mutex, MutexGuard, OnceLock};

/// When queued work is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As soon as it is queued.
    Eager,
    /// When somebody waits for it.
    Lazy,
    /// By chance, from a seed.
    Random(u64),
}

/// Settings of the devices.
#[derive(Clone, Debug)]
pub struct Options {
    pub order: Order,
    /// Lanes of a warp one by one.
    pub apart: bool,
    /// Whether blocks of a launch are watched for races.
    pub races: bool,
    /// Threads of the host for blocks of a launch.
    pub hosts: usize,
    pub devices: usize,
    /// Compute capability, as 90.
    pub capability: u32,
    /// Bytes of a device.
    pub memory: u64,
    /// File of the counters.
    pub log: Option<String>,
}

impl Default for Options {
    fn default() -> Options {
        Options { order: Order::Lazy, apart: false, races: false, hosts: 1, devices: 1, capability: 90, memory: 8 << 30, log: None }
    }
}

/// Reads the settings; what is wrong with one, in words.
pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Options, String> {
    let mut options = Options::default();
    let number = |name: &str, least: u64, most: u64| match variable(name) {
        None => Ok(None),
        Some(text) => match text.parse::<u64>() {
            Ok(n) if (least..=most).contains(&n) => Ok(Some(n)),
            _ => Err(format!("{name} is `{text}`; it may be a number from {least} to {most}")),
        },
    };
    match variable("OPTC_VGPU_ORDER").as_deref() {
        None | Some("lazy") => {}
        Some("eager") => options.order = Order::Eager,
        Some(text) => match text.strip_prefix("random:").and_then(|s| s.parse().ok()) {
            Some(seed) => options.order = Order::Random(seed),
            None => return Err(format!("OPTC_VGPU_ORDER is `{text}`; it may be eager, lazy or random:SEED, SEED a number")),
        },
    }
    match variable("OPTC_VGPU_LANES").as_deref() {
        None | Some("together") => {}
        Some("apart") => options.apart = true,
        Some(text) => return Err(format!("OPTC_VGPU_LANES is `{text}`; it may be together or apart")),
    }
    match variable("OPTC_VGPU_CHECK").as_deref() {
        None | Some("off") => {}
        Some("races") => options.races = true,
        Some(text) => return Err(format!("OPTC_VGPU_CHECK is `{text}`; it may be races or off")),
    }
    options.hosts = match number("OPTC_VGPU_THREADS", 1, 256)? {
        Some(n) => n as usize,
        None => std::thread::available_parallelism().map_or(1, |n| n.get()),
    };
    if let Some(n) = number("OPTC_VGPU_DEVICES", 0, 16)? {
        options.devices = n as usize;
    }
    if let Some(n) = number("OPTC_VGPU_SM", 50, 130)? {
        options.capability = n as u32;
    }
    if let Some(n) = number("OPTC_VGPU_MEMORY", 1, 1 << 37)? {
        options.memory = n;
    }
    options.log = variable("OPTC_VGPU_LOG").filter(|path| !path.is_empty());
    Ok(options)
}

fn cell() -> &'static Mutex<Options> {
    static CELL: OnceLock<Mutex<Options>> = OnceLock::new();
    CELL.get_or_init(|| match read(|name| std::env::var_os(name).map(|v| v.to_string_lossy().into_owned())) {
        Ok(options) => Mutex::new(options),
        Err(words) => {
            eprintln!("virtual GPU: {words}");
            std::process::exit(1);
        }
    })
}

/// The settings; a mistake in the environment ends the process.
pub fn options() -> MutexGuard<'static, Options> {
    cell().lock().unwrap_or_else(|e| e.into_inner())
}
