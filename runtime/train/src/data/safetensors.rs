//! `safetensors`: named arrays in one file (format: <https://github.com/huggingface/safetensors#format>).

use crate::atomic;
use crate::data::file::{Bytes, MAP_FROM};
use crate::error::{Result, TrainError};
use indexmap::IndexMap;
use optc_abi::{DType, Tensor};
use safetensors::tensor::{Dtype, SafeTensors};
use std::path::Path;

/// The arrays of a file, sorted by name, and its metadata entry `key`, if it has one. `R0116` if the file is damaged, `R0110` for
/// an element type we do not have. The arrays of a large file stay in it, mapped.
pub fn read(path: &Path, key: &str) -> Result<(IndexMap<String, Tensor>, Option<String>)> {
    read_with(path, key, MAP_FROM)
}

/// As [`read`], mapping files of at least `map_from` bytes.
pub fn read_with(path: &Path, key: &str, map_from: u64) -> Result<(IndexMap<String, Tensor>, Option<String>)> {
    arrays(Bytes::open(path, map_from)?, path, key)
}

/// The same of the bytes of such a file, which has this name.
///
/// # Errors
/// As [`read`].
pub fn parse(bytes: Vec<u8>, path: &Path, key: &str) -> Result<(IndexMap<String, Tensor>, Option<String>)> {
    arrays(Bytes::Read(bytes), path, key)
}

fn arrays(bytes: Bytes, path: &Path, key: &str) -> Result<(IndexMap<String, Tensor>, Option<String>)> {
    let damaged = |m: String| TrainError::new("R0116", format!("the file is damaged or no safetensors file: {m}")).at(path);
    if bytes.len() < 8 {
        return Err(damaged("it is too short".into()));
    }
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| damaged(e.to_string()))?;
    let all = SafeTensors::deserialize(&bytes).map_err(|e| damaged(e.to_string()))?;
    let mut names = all.names();
    names.sort_unstable();
    let mut tensors = IndexMap::new();
    for name in names {
        let view = all.tensor(name).map_err(|e| damaged(e.to_string()))?;
        let dtype = element_type(view.dtype()).ok_or_else(|| {
            TrainError::new("R0110", format!("tensor `{name}` has the unsupported element type {:?}", view.dtype())).at(path)
        })?;
        let start = view.data().as_ptr() as usize - bytes.as_ptr() as usize;
        let tensor = match &bytes {
            // Each array holds a mapping of its own, so that one does not keep the others in memory.
            Bytes::Mapped(_) => Bytes::open(path, 0)?.into_tensor(dtype, view.shape(), start),
            Bytes::Read(_) => {
                let mut t = Tensor::zeros(dtype, view.shape());
                t.bytes_mut().copy_from_slice(view.data());
                t
            }
        };
        tensors.insert(name.to_string(), tensor);
    }
    let meta = metadata.metadata().as_ref().and_then(|m| m.get(key).cloned());
    Ok((tensors, meta))
}

/// The metadata entry `key` of a file, none if the file or the entry cannot be read.
pub fn metadata(path: &Path, key: &str) -> Option<String> {
    let bytes = Bytes::open(path, 0).ok()?;
    let (_, metadata) = SafeTensors::read_metadata(&bytes).ok()?;
    metadata.metadata().as_ref()?.get(key).cloned()
}

/// Writes tensors with one metadata entry (under `key`) as a safetensors file, atomically, and never holds more than a piece of it in memory: tensors may be larger.
/// The largest elements come first, so that all are aligned; then the order of names, so that equal states give equal files.
pub(crate) fn write(path: &Path, key: &str, tensors: &IndexMap<String, &Tensor>, meta: Option<String>) -> Result<()> {
    let mut sorted: Vec<(&str, &Tensor)> = tensors.iter().map(|(name, t)| (name.as_str(), *t)).collect();
    sorted.sort_by_key(|(name, t)| (std::cmp::Reverse(t.dtype.size()), *name));
    let mut header = serde_json::Map::new();
    if let Some(m) = meta {
        header.insert("__metadata__".into(), serde_json::json!({ key: m }));
    }
    let mut at = 0;
    for (name, t) in &sorted {
        let end = at + t.bytes().len();
        let entry = serde_json::json!({ "dtype": format_type(t.dtype), "shape": t.shape, "data_offsets": [at, end] });
        header.insert((*name).to_string(), entry);
        at = end;
    }
    let mut header = serde_json::Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    atomic::write_with(path, |out| {
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        sorted.iter().try_for_each(|(_, t)| out.write_all(t.bytes()))
    })
}

/// The format's name of an element type.
fn format_type(d: DType) -> Dtype {
    match d {
        DType::F32 => Dtype::F32,
        DType::F64 => Dtype::F64,
        DType::BF16 => Dtype::BF16,
        DType::F16 => Dtype::F16,
        DType::I32 => Dtype::I32,
        DType::I64 => Dtype::I64,
        DType::U32 => Dtype::U32,
        DType::U8 => Dtype::U8,
        DType::Bool => Dtype::BOOL,
    }
}

/// The element type with this name, if it is one of ours.
fn element_type(d: Dtype) -> Option<DType> {
    DType::ALL.into_iter().find(|x| format_type(*x) == d)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_read_back_whether_mapped_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        let arrays: Vec<Tensor> = DType::ALL.iter().map(|&d| Tensor::from_f64(d, &[3], &[0.0, 1.0, 1.0])).collect();
        let named = arrays.iter().enumerate().map(|(k, t)| (format!("a{k}"), t)).collect();
        write(&path, "key", &named, Some("meta".into())).unwrap();
        for map_from in [0, MAP_FROM] {
            let (back, meta) = read_with(&path, "key", map_from).unwrap();
            assert!(back.iter().eq(named.iter().map(|(n, t)| (n, *t))), "{back:?}");
            assert_eq!(meta.as_deref(), Some("meta"));
        }
        assert_eq!(read(&path, "other").unwrap().1, None);
        assert_eq!((metadata(&path, "key").as_deref(), metadata(&path, "other")), (Some("meta"), None));
    }
}
