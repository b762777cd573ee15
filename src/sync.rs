//! The locks of the program, under one name, so that tests may put others in their place: a
//! simulator that steps from lock to lock, a checker of all orders of steps. Lives nowhere; every
//! module that shares state with another thread takes its locks from here.

pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
