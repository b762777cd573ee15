//! The public listeners.
