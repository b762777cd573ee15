//! What Nix fixes: base32, hashes, store paths, content addresses, narinfo, signatures,
//! nix-cache-info, NAR, and which class of object a path names. Pure and sync.

pub mod base32;
pub mod cache_info;
pub mod class;
pub mod content_address;
pub mod hash;
pub mod nar;
pub mod nar_file;
pub mod nar_url;
pub mod narinfo;
pub mod signature;
pub mod store_path;

pub use class::Class;
