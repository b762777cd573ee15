//! Scenarios: the origin says, the client asks, expect status, fields, bytes, outcome and the
//! number of origin requests.

mod absence;
mod absence_filter;
mod breaks;
mod caching_keys;
mod damage;
mod disks;
mod faults;
mod flights;
mod freshness;
mod generic;
mod generic_bodies;
mod generic_parts;
mod hits;
mod http2;
mod lifetimes;
mod narinfos;
mod operation;
mod outages;
mod parts;
mod parts_model;
mod passing;
mod purges;
mod ranges;
mod replayed;
mod requests;
mod s3;
mod scrub;
mod selection_model;
mod tags;
mod tiers;
mod troubles;
mod uploads;
