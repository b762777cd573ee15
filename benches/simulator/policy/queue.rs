//! Queues of objects, linked by tables that several queues of one policy share. Pure.

const NONE: u32 = u32::MAX;

/// The neighbours of each object in the one queue it is in.
#[derive(Debug)]
pub(crate) struct Links {
    newer: Vec<u32>,
    older: Vec<u32>,
}

impl Links {
    /// For objects below `count`.
    pub(crate) fn new(count: usize) -> Self {
        Self { newer: vec![NONE; count], older: vec![NONE; count] }
    }

    /// The next one towards the newest.
    pub(crate) fn newer(&self, object: u32) -> Option<u32> {
        Some(self.newer[object as usize]).filter(|&newer| newer != NONE)
    }
}

/// Objects from the oldest to the newest, with the sum of their bytes.
#[derive(Debug)]
pub(crate) struct Queue {
    newest: u32,
    oldest: u32,
    bytes: u64,
    len: usize,
}

impl Default for Queue {
    fn default() -> Self {
        Self { newest: NONE, oldest: NONE, bytes: 0, len: 0 }
    }
}

impl Queue {
    /// The sum of all charges.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Objects.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The oldest.
    pub(crate) fn oldest(&self) -> Option<u32> {
        Some(self.oldest).filter(|&oldest| oldest != NONE)
    }

    /// Adds the newest.
    pub(crate) fn push(&mut self, links: &mut Links, object: u32, charge: u64) {
        links.newer[object as usize] = NONE;
        links.older[object as usize] = self.newest;
        match self.newest {
            NONE => self.oldest = object,
            newest => links.newer[newest as usize] = object,
        }
        self.newest = object;
        self.bytes += charge;
        self.len += 1;
    }

    /// Takes one out that is in this queue.
    pub(crate) fn unlink(&mut self, links: &mut Links, object: u32, charge: u64) {
        let (newer, older) = (links.newer[object as usize], links.older[object as usize]);
        match newer {
            NONE => self.newest = older,
            newer => links.older[newer as usize] = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => links.newer[older as usize] = newer,
        }
        self.bytes -= charge;
        self.len -= 1;
    }
}
