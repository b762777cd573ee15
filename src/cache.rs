//! Memory and disk as one, and the fence that stops a purged object from coming back.
