//! The optc compiler driver: sessions, training runs, experiments and the command line.
