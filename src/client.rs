//! HTTP clients towards origins: pooled connections, TLS, deadlines.
