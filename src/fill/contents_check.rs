//! Reads the NAR in a body and tells whether it is the one that a narinfo promises: alongside, as a
//! reader of the growing object that also sees what is withheld, or piece by piece if the body
//! passes through. The work is done by threads that may block. What bounds the memory of all
//! decoders is their number ([`CHECKS_MAX`]): a check of a stored body waits for its turn and then
//! reads from the file; a body that passes waits a while.

use super::error::FillError;
use crate::nix::nar_file::{NarContents, NarFile, NarVerdict};
use crate::store::{Broken, Follower};
use crate::tasks::Tasks;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;

/// Decoders of each kind at once. One needs 8 MiB for what Nix makes by default, at most 128 MiB.
const CHECKS_MAX: usize = 512;
/// Bytes that are decoded at once.
const PIECE_BYTES: usize = 256 << 10;
/// For how long a body that passes waits for a decoder.
const DECODER_WAIT: Duration = Duration::from_secs(10);

/// What decodes, and permits to do so.
#[derive(Debug, Clone)]
pub(super) struct Decoders {
    /// For bodies that are written.
    written: Arc<Semaphore>,
    /// For bodies that pass, which take as long as their clients do.
    passing: Arc<Semaphore>,
    tasks: Tasks,
}

impl Decoders {
    /// None is in use.
    pub(super) fn new(tasks: Tasks) -> Self {
        let permits = || Arc::new(Semaphore::new(CHECKS_MAX));
        Self { written: permits(), passing: permits(), tasks }
    }

    /// What turns out of a body that is here as a whole.
    pub(super) async fn verdict_of(
        &self,
        contents: NarContents,
        body: &Bytes,
    ) -> Result<NarVerdict, FillError> {
        Ok(self.push(NarFile::new(contents), body.clone()).await?.finish())
    }

    async fn read_through(
        &self,
        contents: NarContents,
        judge: &Follower,
    ) -> Result<NarVerdict, Broken> {
        let permit = self.written.acquire().await;
        let (mut file, mut offset) = (NarFile::new(contents), 0);
        loop {
            let bytes = judge.read(offset, PIECE_BYTES).await?;
            if bytes.is_empty() {
                break;
            }
            offset += bytes.len() as u64;
            file = self.push(file, bytes).await.map_err(|_| Broken::Abandoned)?;
        }
        drop(permit);
        Ok(file.finish())
    }

    async fn push(&self, mut file: NarFile, bytes: Bytes) -> Result<NarFile, FillError> {
        let push = move || {
            file.push(&bytes);
            file
        };
        self.tasks.blocking("nar check", push).await.map_err(|_| FillError::NoResult)
    }
}

/// A check under way of a body that is written. If it is dropped, its result is lost.
#[derive(Debug)]
pub(super) struct ContentsCheck(oneshot::Receiver<Result<NarVerdict, Broken>>);

impl ContentsCheck {
    /// Begins to read what `judge` follows, for what it is to hold.
    pub(super) fn begin(decoders: &Decoders, contents: NarContents, judge: Follower) -> Self {
        let (tell, verdict) = oneshot::channel();
        let own = decoders.clone();
        decoders.tasks.spawn("nar check", async move {
            let judged = Box::pin(own.read_through(contents, &judge)).await;
            // Nothing waits for it if the fill has failed.
            let _ = tell.send(judged);
        });
        Self(verdict)
    }

    /// What turned out. The body must have ended.
    pub(super) async fn verdict(self) -> Result<NarVerdict, FillError> {
        let judged = self.0.await.map_err(|_| FillError::NoResult)?;
        judged.map_err(|error| FillError::Unjudged(Arc::new(error)))
    }
}

/// A check of a body that passes.
#[derive(Debug)]
pub(super) struct PassingCheck {
    /// Gone while it is decoded, and for good if that came to no end.
    file: Option<NarFile>,
    permit: Option<OwnedSemaphorePermit>,
}

impl PassingCheck {
    /// Of a body of which nothing has come.
    pub(super) fn new(contents: NarContents) -> Self {
        Self { file: Some(NarFile::new(contents)), permit: None }
    }

    /// Takes the next bytes. Not cancel safe.
    pub(super) async fn push(
        &mut self,
        decoders: &Decoders,
        bytes: Bytes,
    ) -> Result<(), FillError> {
        if self.permit.is_none() {
            let permits = Arc::clone(&decoders.passing);
            let waited = timeout(DECODER_WAIT, permits.acquire_owned()).await;
            self.permit = Some(waited.ok().and_then(Result::ok).ok_or(FillError::NoRoom)?);
        }
        let file = self.file.take().ok_or(FillError::NoResult)?;
        self.file = Some(decoders.push(file, bytes).await?);
        Ok(())
    }

    /// The body has ended.
    pub(super) fn finish(self) -> Result<NarVerdict, FillError> {
        Ok(self.file.ok_or(FillError::NoResult)?.finish())
    }
}
