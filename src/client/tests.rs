//! Tests of the client against servers that speak TLS, HTTP/2, or nonsense.

use super::*;
