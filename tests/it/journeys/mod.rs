//! Scenarios: the origin says, the client asks, expect status, fields, bytes, outcome and the
//! number of origin requests.

mod absence;
mod breaks;
mod damage;
mod disks;
mod flights;
mod freshness;
mod hits;
mod narinfos;
mod operation;
mod passing;
mod purges;
mod ranges;
mod requests;
mod s3;
mod tiers;
mod troubles;
