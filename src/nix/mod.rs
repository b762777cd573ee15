//! What Nix fixes: base32, hashes, store paths, narinfo, signatures, nix-cache-info, NAR, and
//! which class of object a path names. Pure and sync.

pub mod class;

pub use class::Class;
