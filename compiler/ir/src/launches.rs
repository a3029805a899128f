//! A rule over many leaves of any length as launches of a GPU: plain data between who takes a rule apart and who makes code of it.
//!
//! Leaves are rows of a table in the GPU's memory, and cut in parts of so many elements. Launches follow one another in a stream, so that each finds what those before it have written. No number of
//! launches depends on how many leaves there are.

use crate::kernel::Kernel;
use crate::scalar::ScalarOp;
use optc_abi::DType;

/// Where something is read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Spot {
    /// Array `k` of the leaf; bytes of an element, 0 if it holds one element whatever the leaf's length is. In launches of one thread the first leaf's.
    Array(usize, i64),
    /// Memory that all leaves share, this many bytes from its start.
    Shared(i64),
    /// Memory that the leaf has for itself.
    Own(i64),
    /// The partial results of a reduction, one for each part of the leaf.
    Partial(usize),
    /// A number that is combined over all leaves.
    Fold(usize),
}

/// What one thread does.
#[derive(Clone, Debug, PartialEq)]
pub enum Do {
    /// A kernel on single numbers.
    Kernel {
        /// Its place in [`Launches::kernels`].
        kernel: usize,
        /// Its buffers.
        spots: Vec<Spot>,
    },
    /// A few bytes are copied.
    Copy {
        /// From.
        from: Spot,
        /// To.
        to: Spot,
        /// How many.
        bytes: usize,
    },
    /// The number of elements of the leaf becomes an f64.
    Length(Spot),
    /// One or the other, as a bool says.
    Cond {
        /// The bool.
        pred: Spot,
        /// If it holds.
        then: Vec<Do>,
        /// If it does not.
        otherwise: Vec<Do>,
    },
}

/// A condition of a launch: it does nothing for a leaf unless the bool there has this value.
pub type When = (Spot, bool);

/// All partial results of a leaf become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finish {
    /// The kernel; its buffers are the partial results and the result, its size how many they are.
    pub kernel: usize,
    /// Whose.
    pub partial: usize,
    /// Where to.
    pub to: Spot,
}

/// A leaf's number becomes part of one that is combined over all leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Folded {
    /// Which.
    pub fold: usize,
    /// The leaf's number.
    pub part: Spot,
    /// How they are combined.
    pub op: ScalarOp,
    /// Their type.
    pub dtype: DType,
}

/// A launch.
#[derive(Clone, Debug, PartialEq)]
pub enum Launch {
    /// The first of a step, one block: the status, the counts of steps, hyperparameters and constants; then one thread does this.
    Begin(Vec<Do>),
    /// One thread.
    Once(Vec<Do>),
    /// For each leaf.
    Leaves {
        /// First, by many threads.
        finish: Vec<Finish>,
        /// Then, by one.
        does: Vec<Do>,
    },
    /// A kernel over all elements of all leaves; its sizes are the elements of a part, and 1.
    Pass {
        /// Its place in [`Launches::kernels`].
        kernel: usize,
        /// Its buffers.
        spots: Vec<Spot>,
        /// For which leaves.
        when: Vec<When>,
    },
    /// An array of each leaf is copied.
    Copy {
        /// From.
        from: usize,
        /// To.
        to: usize,
        /// Bytes of an element.
        size: i64,
        /// For which leaves.
        when: Vec<When>,
    },
    /// Numbers are combined over leaves, one block.
    Fold(Vec<Folded>),
}

/// A step of a rule.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Launches {
    /// Kernels.
    pub kernels: Vec<Kernel>,
    /// Launches; those of a round need what all leaves have put into folds in the rounds before.
    pub rounds: Vec<Vec<Launch>>,
    /// Arrays of a leaf: the weight, the gradient, the states.
    pub arrays: usize,
    /// Where hyperparameters are, f64 each.
    pub hyper: Vec<i64>,
    /// Where the number of steps made so far is, an i32.
    pub counter: i64,
    /// Constants and where they are.
    pub constants: Vec<(i64, Vec<u8>)>,
    /// Bytes of memory that all leaves share; it begins with a [`optc_abi::plan::Status`].
    pub shared: i64,
    /// Bytes of memory that each leaf has.
    pub own: i64,
    /// Of each reduction the bytes of a partial result, at most 8.
    pub partials: Vec<i64>,
    /// Numbers that are combined over all leaves, 8 bytes each.
    pub folds: usize,
}
