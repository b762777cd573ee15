//! `narthex demo`: everything a newcomer needs to see the edge at work, in one process.

pub mod paced_body;
pub mod s3_bucket;
pub mod s3_origin;
pub mod sample;
