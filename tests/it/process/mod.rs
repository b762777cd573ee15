//! The real binary as a process: its commands, its signals, several of it in a row, and hostile
//! bytes on its sockets. Each test starts its own processes on ports that the system chooses, in
//! a folder of its own, and ends them by their id.

mod client;
mod edge;
mod origin;

mod check;
mod crash;
mod demo;
mod filter;
mod fsck;
mod held;
mod hostile;
mod hostile_http2;
mod office;
mod points_of_presence;
mod purge;
mod refused_starts;
mod signals;
mod tls;
mod trouble;
