//! Scenarios: the origin says, the client asks, expect status, fields, bytes, outcome and the
//! number of origin requests.

mod breaks;
mod hits;
mod narinfos;
mod purges;
mod ranges;
