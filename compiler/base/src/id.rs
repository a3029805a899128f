//! Typed indices and the vectors they index.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::ops::{Index, IndexMut};

/// An index into an `IdVec<Id<T>, _>`; `T` only tags it.
pub struct Id<T> {
    raw: u32,
    tag: PhantomData<fn() -> T>,
}

impl<T> Id<T> {
    /// The id with this position.
    pub const fn new(index: usize) -> Self {
        Id { raw: index as u32, tag: PhantomData }
    }
    /// The position.
    pub const fn index(self) -> usize {
        self.raw as usize
    }
}

impl<T> Clone for Id<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Id<T> {}
impl<T> PartialEq for Id<T> {
    fn eq(&self, other: &Self) -> bool {
        self.raw == other.raw
    }
}
impl<T> Eq for Id<T> {}
impl<T> PartialOrd for Id<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Id<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.raw.cmp(&other.raw)
    }
}
impl<T> Hash for Id<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.raw.hash(state)
    }
}
impl<T> fmt::Debug for Id<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.raw)
    }
}

/// A vector indexed by typed ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdVec<T, V> {
    items: Vec<V>,
    tag: PhantomData<fn() -> T>,
}

impl<T, V> Default for IdVec<T, V> {
    fn default() -> Self {
        IdVec { items: Vec::new(), tag: PhantomData }
    }
}

impl<T, V> IdVec<T, V> {
    /// An empty vector.
    pub fn new() -> Self {
        Self::default()
    }
    /// Appends `value` and returns its id.
    pub fn push(&mut self, value: V) -> Id<T> {
        self.items.push(value);
        Id::new(self.items.len() - 1)
    }
    /// Number of items.
    pub fn len(&self) -> usize {
        self.items.len()
    }
    /// Whether there are no items.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
    /// All ids, in order.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = Id<T>> + use<T, V> {
        (0..self.items.len()).map(Id::new)
    }
    /// Ids with their items, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (Id<T>, &V)> {
        self.items.iter().enumerate().map(|(i, v)| (Id::new(i), v))
    }
    /// The item, if the id is in range.
    pub fn get(&self, id: Id<T>) -> Option<&V> {
        self.items.get(id.index())
    }
    /// The items as a slice.
    pub fn as_slice(&self) -> &[V] {
        &self.items
    }
}

impl<T, V> Index<Id<T>> for IdVec<T, V> {
    type Output = V;
    fn index(&self, id: Id<T>) -> &V {
        &self.items[id.index()]
    }
}
impl<T, V> IndexMut<Id<T>> for IdVec<T, V> {
    fn index_mut(&mut self, id: Id<T>) -> &mut V {
        &mut self.items[id.index()]
    }
}
