//! Checks of what is stored, beside the service and on a folder that no process holds.
//!
//! [`object`] compares one object with its record; [`scrub`] does so for all of them, spread over
//! days. [`fsck`] checks a whole store: [`audit`] its objects, claims and files, [`entries`] what
//! else the index holds. [`rebuild`] makes a new index out of the files of bodies. A check reports
//! in a [`report`] and reads at the rate of [`pace`].

mod audit;
mod entries;
pub(super) mod fsck;
pub(super) mod object;
pub(super) mod pace;
pub(super) mod rebuild;
pub(super) mod report;
pub(super) mod scrub;
