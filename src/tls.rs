//! Certificates of the listeners.
