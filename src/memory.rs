//! The hot small objects, in moka.
