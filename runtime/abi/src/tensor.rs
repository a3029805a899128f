//! Host tensors: dense, row-major, aligned, in memory or in a mapped file.

use crate::DType;
use crate::pages::{LARGE, LARGE_PAGE};
use half::{bf16, f16};
use memmap2::MmapMut;
use std::alloc::{self, Layout};
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Alignment of every buffer in bytes: a cache line and the widest vector.
pub const ALIGN: usize = 64;
/// Alignment of arrays that lie in a mapped file, where the file's header decides: enough for every element type.
pub const MAPPED_ALIGN: usize = 8;

/// Bytes of an array that its hash looks at.
const HASHED: usize = 4096;
/// Size of an ordinary page: addresses that differ by multiples of it meet in the same lines of the first cache, and a load waits for an earlier store to such an
/// address.
const SMALL_PAGE: usize = 4 << 10;

/// Bytes from which small arrays lie in a row, in pages of their own.
const LEAST_ROW: usize = 16 * SMALL_PAGE;

/// Where in its first page the next large buffer begins: arrays that a loop walks through side by side, as an optimizer does, must not all begin at the same place.
fn stagger() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(9 * ALIGN, Ordering::Relaxed) % SMALL_PAGE
}

/// A byte buffer aligned to [`ALIGN`] (to [`MAPPED_ALIGN`] in a mapped file), zero-initialized where it is not a file's.
pub struct AlignedBytes {
    ptr: NonNull<u8>,
    len: usize,
    /// The pages of a large or mapped buffer, or of one that lies in a row; `ptr` points into them. Buffers of a row share nothing but the pages.
    pages: Option<Arc<MmapMut>>,
}

// SAFETY: the buffer is owned and has no interior mutability.
unsafe impl Send for AlignedBytes {}
// SAFETY: shared access only reads.
unsafe impl Sync for AlignedBytes {}

impl AlignedBytes {
    fn layout(len: usize) -> Layout {
        Layout::from_size_align(len.max(1).next_multiple_of(ALIGN), ALIGN).expect("a buffer's size fits in isize")
    }
    /// `len` zero bytes.
    pub fn zeroed(len: usize) -> Self {
        if len >= LARGE
            && let Some(large) = Self::large(len)
        {
            return large;
        }
        let layout = Self::layout(len);
        // SAFETY: the layout has non-zero size.
        let raw = unsafe { alloc::alloc_zeroed(layout) };
        let Some(ptr) = NonNull::new(raw) else { alloc::handle_alloc_error(layout) };
        AlignedBytes { ptr, len, pages: None }
    }
    /// Fresh pages, which the system hands out zeroed when they are first touched.
    fn large(len: usize) -> Option<Self> {
        Self::row(&[len])?.pop()
    }
    /// Buffers that lie one behind the other in fresh pages of their own.
    fn row(lengths: &[usize]) -> Option<Vec<Self>> {
        let len = lengths.iter().try_fold(0usize, |sum, len| sum.checked_add(len.checked_next_multiple_of(ALIGN)?))?;
        let mut pages = MmapMut::map_anon(len.checked_add(LARGE_PAGE + SMALL_PAGE)?).ok()?;
        let skip = pages.as_ptr().align_offset(LARGE_PAGE) + stagger();
        let mut next = NonNull::new(pages.as_mut_ptr().wrapping_add(skip))?;
        let pages = Arc::new(pages);
        let mut buffers = Vec::new();
        for &len in lengths {
            buffers.push(AlignedBytes { ptr: next, len, pages: Some(pages.clone()) });
            // SAFETY: the pages have room for all of them.
            next = unsafe { next.add(len.next_multiple_of(ALIGN)) };
        }
        Some(buffers)
    }
    /// `len` bytes from `offset` on of mapped pages; none if they are not all there or not aligned to [`MAPPED_ALIGN`].
    fn mapped(mut pages: MmapMut, offset: usize, len: usize) -> Option<Self> {
        if !offset.is_multiple_of(MAPPED_ALIGN) || offset.checked_add(len)? > pages.len() {
            return None;
        }
        let ptr = NonNull::new(pages.as_mut_ptr().wrapping_add(offset))?;
        Some(AlignedBytes { ptr, len, pages: Some(Arc::new(pages)) })
    }
    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: `ptr` is valid for `len` initialized bytes.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
    /// The bytes, to change.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: `ptr` is valid for `len` bytes and uniquely borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
    /// Address of the first byte.
    pub fn as_ptr(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }
}

impl Drop for AlignedBytes {
    fn drop(&mut self) {
        if self.pages.is_none() {
            // SAFETY: allocated with the same layout in `zeroed`.
            unsafe { alloc::dealloc(self.ptr.as_ptr(), Self::layout(self.len)) }
        }
    }
}

impl Clone for AlignedBytes {
    fn clone(&self) -> Self {
        let mut copy = AlignedBytes::zeroed(self.len);
        copy.as_mut_slice().copy_from_slice(self.as_slice());
        copy
    }
}

/// Rust types that are the storage of an element type.
pub trait Element: Copy + 'static {
    /// The element type stored so.
    const DTYPE: DType;
}
macro_rules! element {
    ($($t:ty => $d:ident),*) => { $(impl Element for $t { const DTYPE: DType = DType::$d; })* };
}
element!(f32 => F32, f64 => F64, bf16 => BF16, f16 => F16, i32 => I32, i64 => I64, u32 => U32, u8 => U8);

/// A dense row-major array of rank 0 or more.
#[derive(Clone)]
pub struct Tensor {
    /// Element type.
    pub dtype: DType,
    /// Extents, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    bytes: AlignedBytes,
}

impl Tensor {
    /// All zeros.
    pub fn zeros(dtype: DType, shape: &[usize]) -> Self {
        let len: usize = shape.iter().product();
        Tensor { dtype, shape: shape.to_vec(), bytes: AlignedBytes::zeroed(len * dtype.size()) }
    }
    /// Arrays of zeros that lie one behind the other, if they are small and not too few: then a loop over all of them goes on in memory from one to the next, as the processor
    /// foresees. Where the next array lies elsewhere, each costs it the time of some accesses. Rows begin at different places of a page, as large buffers do.
    pub fn zeros_in_a_row<'t>(types: impl IntoIterator<Item = (DType, &'t [usize])>) -> Vec<Self> {
        let types: Vec<(DType, &[usize])> = types.into_iter().collect();
        let bytes = |t: &(DType, &[usize])| t.1.iter().product::<usize>() * t.0.size();
        let small: Vec<usize> = types.iter().map(bytes).filter(|&len| len < LARGE).collect();
        let row = if small.iter().sum::<usize>() >= LEAST_ROW { AlignedBytes::row(&small) } else { None };
        let mut row = row.unwrap_or_default().into_iter();
        let of = |t: &(DType, &[usize])| {
            let placed = if bytes(t) < LARGE { row.next() } else { None };
            Tensor { dtype: t.0, shape: t.1.to_vec(), bytes: placed.unwrap_or_else(|| AlignedBytes::zeroed(bytes(t))) }
        };
        types.iter().map(of).collect()
    }
    /// The little-endian row-major elements that begin `offset` bytes into these pages of a file, which are read when they are touched; changes stay in memory if
    /// the pages are private. None if the elements are not all there or not aligned to [`MAPPED_ALIGN`].
    pub fn mapped(dtype: DType, shape: &[usize], pages: MmapMut, offset: usize) -> Option<Self> {
        let len = shape.iter().try_fold(dtype.size(), |n, &extent| n.checked_mul(extent))?;
        Some(Tensor { dtype, shape: shape.to_vec(), bytes: AlignedBytes::mapped(pages, offset, len)? })
    }
    /// From elements in row-major order. Panics if their number does not fit the shape.
    pub fn from_slice<T: Element>(shape: &[usize], values: &[T]) -> Self {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "number of elements and shape");
        let mut t = Tensor::zeros(T::DTYPE, shape);
        t.as_mut_slice::<T>().copy_from_slice(values);
        t
    }
    /// A scalar.
    pub fn scalar<T: Element>(value: T) -> Self {
        Tensor::from_slice(&[], &[value])
    }
    /// From f64 values converted (rounded, truncated, `!= 0`) to `dtype`.
    pub fn from_f64(dtype: DType, shape: &[usize], values: &[f64]) -> Self {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "number of elements and shape");
        let mut t = Tensor::zeros(dtype, shape);
        for (i, &v) in values.iter().enumerate() {
            t.set_f64(i, v);
        }
        t
    }
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The raw bytes, little-endian elements.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_slice()
    }
    /// The raw bytes, to change.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.bytes.as_mut_slice()
    }
    /// The raw bytes, whatever they mean.
    pub fn into_bytes(self) -> AlignedBytes {
        self.bytes
    }
    /// Address of the first element; valid as long as the tensor lives and is not moved out of.
    pub fn as_ptr(&self) -> *mut u8 {
        self.bytes.as_ptr()
    }
    /// The elements. Panics if `T` is not the storage type (`u8` also views `bool`).
    pub fn as_slice<T: Element>(&self) -> &[T] {
        self.assert_storage::<T>();
        // SAFETY: the buffer is aligned to ALIGN and holds `len` elements of `T`'s layout.
        unsafe { std::slice::from_raw_parts(self.bytes.as_ptr().cast(), self.len()) }
    }
    /// The elements, to change. Panics like [`Tensor::as_slice`].
    pub fn as_mut_slice<T: Element>(&mut self) -> &mut [T] {
        self.assert_storage::<T>();
        // SAFETY: as in `as_slice`, and uniquely borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.bytes.as_ptr().cast(), self.len()) }
    }
    fn assert_storage<T: Element>(&self) {
        let fits = T::DTYPE == self.dtype || (T::DTYPE == DType::U8 && self.dtype == DType::Bool);
        assert!(fits, "elements are {}, not {}", self.dtype, T::DTYPE);
    }
    /// Element `i` (row-major) as f64 (64-bit integers beyond 2^53 are rounded).
    pub fn get_f64(&self, i: usize) -> f64 {
        match self.dtype {
            DType::F32 => f64::from(self.as_slice::<f32>()[i]),
            DType::F64 => self.as_slice::<f64>()[i],
            DType::BF16 => self.as_slice::<bf16>()[i].to_f64(),
            DType::F16 => self.as_slice::<f16>()[i].to_f64(),
            DType::I32 => f64::from(self.as_slice::<i32>()[i]),
            DType::I64 => self.as_slice::<i64>()[i] as f64,
            DType::U32 => f64::from(self.as_slice::<u32>()[i]),
            DType::U8 | DType::Bool => f64::from(self.as_slice::<u8>()[i]),
        }
    }
    /// Sets element `i` (row-major), converting from f64.
    pub fn set_f64(&mut self, i: usize, v: f64) {
        match self.dtype {
            DType::F32 => self.as_mut_slice::<f32>()[i] = v as f32,
            DType::F64 => self.as_mut_slice::<f64>()[i] = v,
            DType::BF16 => self.as_mut_slice::<bf16>()[i] = crate::dtype::to_bf16(v),
            DType::F16 => self.as_mut_slice::<f16>()[i] = crate::dtype::to_f16(v),
            DType::I32 => self.as_mut_slice::<i32>()[i] = v as i32,
            DType::I64 => self.as_mut_slice::<i64>()[i] = v as i64,
            DType::U32 => self.as_mut_slice::<u32>()[i] = v as u32,
            DType::U8 => self.as_mut_slice::<u8>()[i] = v as u8,
            DType::Bool => self.as_mut_slice::<u8>()[i] = u8::from(v != 0.0),
        }
    }
    /// All elements as f64.
    pub fn to_f64(&self) -> Vec<f64> {
        (0..self.len()).map(|i| self.get_f64(i)).collect()
    }
    /// The same values as another element type.
    pub fn cast(&self, dtype: DType) -> Tensor {
        if dtype == self.dtype {
            return self.clone();
        }
        Tensor::from_f64(dtype, &self.shape, &self.to_f64())
    }
    /// The same elements under another shape of equal size. Panics if the sizes differ.
    pub fn reshaped(mut self, shape: &[usize]) -> Tensor {
        assert_eq!(shape.iter().product::<usize>(), self.len(), "reshape keeps the number of elements");
        self.shape = shape.to_vec();
        self
    }
}

/// Equality of type, shape and bits.
impl PartialEq for Tensor {
    fn eq(&self, other: &Self) -> bool {
        self.dtype == other.dtype && self.shape == other.shape && self.bytes() == other.bytes()
    }
}
impl Eq for Tensor {}

impl std::hash::Hash for Tensor {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.dtype.hash(state);
        self.shape.hash(state);
        // The first elements tell most arrays apart; a data set is not read for it.
        self.bytes()[..self.bytes().len().min(HASHED)].hash(state);
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.dtype, self.shape)?;
        let shown: Vec<String> = (0..self.len().min(8)).map(|i| self.get_f64(i).to_string()).collect();
        write!(f, "({}{})", shown.join(", "), if self.len() > 8 { ", …" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_buffers_are_zero_aligned_and_copied_whole() {
        let mut a = AlignedBytes::zeroed(LARGE + 3);
        let place = |b: &AlignedBytes| b.as_ptr() as usize % LARGE_PAGE;
        assert!(place(&a) < SMALL_PAGE && place(&a).is_multiple_of(ALIGN));
        assert_ne!(place(&a), place(&AlignedBytes::zeroed(LARGE)), "buffers begin at different places of a page");
        assert!(a.as_slice().len() == LARGE + 3 && a.as_slice().iter().all(|&b| b == 0));
        a.as_mut_slice()[LARGE + 2] = 7;
        let b = a.clone();
        drop(a);
        assert_eq!(b.as_slice()[LARGE + 1..], [0, 7]);
    }

    #[test]
    fn small_arrays_lie_in_a_row_and_outlive_each_other() {
        let shapes: Vec<Vec<usize>> = (0..600).map(|k| vec![2, 1000 + k % 7]).chain([vec![LARGE], vec![0], vec![]]).collect();
        let mut all = Tensor::zeros_in_a_row(shapes.iter().map(|s| (DType::F32, &s[..])));
        assert!(all.iter().zip(&shapes).all(|(t, s)| t.shape == *s && t.bytes().iter().all(|b| *b == 0)));
        for pair in all[..600].windows(2) {
            let end = pair[0].as_ptr().addr() + pair[0].bytes().len();
            assert_eq!(pair[1].as_ptr().addr(), end.next_multiple_of(ALIGN));
        }
        for (k, t) in all.iter_mut().enumerate() {
            t.bytes_mut().fill(k as u8);
        }
        let last = all.swap_remove(599);
        let kept = all[3].clone();
        drop(all);
        assert!(last.bytes().iter().all(|b| *b == 599usize as u8) && kept.bytes().iter().all(|b| *b == 3));
        // Few bytes are no row.
        assert_eq!(Tensor::zeros_in_a_row([(DType::F64, &[3][..]), (DType::U8, &[2])]).iter().map(Tensor::len).collect::<Vec<_>>(), [3, 2]);
    }

    #[test]
    fn arrays_lie_in_mapped_pages_where_they_fit_and_are_aligned() {
        let pages = || {
            let mut pages = MmapMut::map_anon(48).unwrap();
            pages[16..20].copy_from_slice(&1.5f32.to_le_bytes());
            pages
        };
        let t = Tensor::mapped(DType::F32, &[2, 4], pages(), 16).unwrap();
        assert_eq!((t.len(), t.as_slice::<f32>()[0], t.clone()), (8, 1.5, t));
        for (shape, offset) in [(&[2, 4][..], 32), (&[2], 12), (&[usize::MAX, 2], 0), (&[0], 64)] {
            assert!(Tensor::mapped(DType::F32, shape, pages(), offset).is_none(), "{shape:?} at {offset}");
        }
    }
}
