//! Fuzzes the private `store::order_file`, taken in by path: any bytes read as a snapshot of the
//! eviction order end, or fail; what was read is written and read back the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
// What the file below names by `crate::`.
use narthex::object;

#[path = "../../../src/store/eviction/order_file.rs"]
mod order_file;

use object::Sha256;
use order_file::{BLOCK_MAX, Block, OrderReader};

fuzz_target!(|data: &[u8]| {
    check(data);
    check(&[&order_file::encode_head()[..], data].concat());
    // A block with the right checksum, whatever it says.
    let sum = Sha256::of(data).0;
    check(&[&order_file::encode_head()[..], data, &sum[..16]].concat());
});

fn check(bytes: &[u8]) {
    let mut blocks = Vec::new();
    if let Ok(mut reader) = OrderReader::new(bytes) {
        while let Ok(Some(block)) = reader.next() {
            assert!(block.insertions.len() <= BLOCK_MAX);
            blocks.push(block);
        }
    }
    assert_eq!(read(&write(&blocks)), blocks);
}

fn write(blocks: &[Block]) -> Vec<u8> {
    let blocks = blocks.iter().map(|b| order_file::encode_block(b.part, &b.insertions));
    let all = std::iter::once(order_file::encode_head()).chain(blocks);
    all.chain(std::iter::once(order_file::encode_end())).flatten().collect()
}

fn read(bytes: &[u8]) -> Vec<Block> {
    let mut reader = OrderReader::new(bytes).unwrap();
    let mut blocks = Vec::new();
    while let Some(block) = reader.next().unwrap() {
        blocks.push(block);
    }
    blocks
}
