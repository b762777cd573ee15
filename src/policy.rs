//! RFC, Nix class and site settings as pure decisions that take `now`.
