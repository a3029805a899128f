//! Messages between the processes that `mpirun` started. Nothing here blocks on another process: a thread of its own makes all calls of MPI, sends what is handed to it, takes what comes, and
//! tells from small messages of its own ("beats") which processes are there. Without the feature `mpi` only [`launched`] is here.

#[cfg(feature = "mpi")]
mod world;

#[cfg(feature = "mpi")]
pub use world::{World, start};

/// The rank of this process and the number of processes, if a launcher of MPI started it beside others (Open MPI's `mpirun`, MPICH's and Slurm's by PMI).
pub fn launched() -> Option<(usize, usize)> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<usize>().ok();
    let pairs = [("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), ("PMI_RANK", "PMI_SIZE")];
    pairs.into_iter().find_map(|(rank, size)| Some((number(rank)?, number(size)?))).filter(|(_, size)| *size > 1)
}
