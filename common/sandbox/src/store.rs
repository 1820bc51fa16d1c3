//! The sandbox's own store: an embedded `redb` file, or memory.
//!
//! One thread writes. What is asked of it while it commits becomes the next group, so that under load many changes
//! share a commit. A change is told that it is done only after its commit; a change that fails takes the whole store
//! down with it, since nothing in the sandbox can go on without it.

mod book;
pub(crate) mod events;
pub(crate) mod mux;
pub(crate) mod packages;
mod scope;
#[cfg(test)]
mod tests;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use redb::{Database, ReadableDatabase, backends::InMemoryBackend};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

pub(crate) use book::{Reading, Writing};
pub(crate) use scope::Scope;
use writer::{Job, Writer};

/// Changes that may wait for the writer.
const WAITING: usize = 4096;
/// Bytes of pages kept in memory.
const CACHE: usize = 64 * 1024 * 1024;

/// Why the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database did.
    #[error("the sandbox's store failed: {0}")]
    Database(#[source] Box<redb::Error>),
    /// What was stored cannot be read back, or cannot be stored.
    #[error("the sandbox's store holds what it cannot read: {0}")]
    Codec(#[source] serde_json::Error),
    /// The writer has ended; why is in its own error.
    #[error("the sandbox's store is closed")]
    Closed,
}

impl<E: Into<redb::Error>> From<E> for StoreError {
    fn from(error: E) -> Self {
        Self::Database(Box::new(error.into()))
    }
}

/// A handle to the store. The writer ends when the last one is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    jobs: mpsc::Sender<Job>,
    database: Arc<Database>,
    ticks: Arc<AtomicU64>,
    commits: watch::Receiver<u64>,
}

impl Store {
    /// Opens the file, or memory where none is given, and starts the writer. Blocks for as long as that takes.
    pub(crate) fn open(
        data: Option<PathBuf>,
    ) -> Result<(Self, JoinHandle<Result<(), StoreError>>), StoreError> {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE);
        let database = match data {
            Some(path) => builder.create(path)?,
            None => builder.create_with_backend(InMemoryBackend::new())?,
        };
        let database = Arc::new(database);
        let ticks = Arc::new(AtomicU64::new(0));
        let (jobs, queue) = mpsc::channel(WAITING);
        let (committed, commits) = watch::channel(0);
        let writer = Writer::new(Arc::clone(&database), Arc::clone(&ticks), queue, committed);
        writer.prepare()?;
        let writer = tokio::task::spawn_blocking(move || writer.run());
        Ok((Self { jobs, database, ticks, commits }, writer))
    }

    /// The next number of the one sequence in which everything happens.
    pub(crate) fn tick(&self) -> u64 {
        self.ticks.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Makes a change, and returns what it returns once it is committed.
    pub(crate) async fn write<T, F>(&self, change: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Writing<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let (tell, told) = oneshot::channel();
        let job: Job = Box::new(move |books| {
            let outcome = change(books)?;
            // Whoever asked may have gone; the change stands all the same.
            Ok(Box::new(move || drop(tell.send(outcome))))
        });
        self.jobs.send(job).await.map_err(|_| StoreError::Closed)?;
        told.await.map_err(|_| StoreError::Closed)
    }

    /// Makes a change without waiting for its commit; changes are made in the order in which they are asked for.
    pub(crate) async fn note<F>(&self, change: F) -> Result<(), StoreError>
    where
        F: FnOnce(&mut Writing<'_>) -> Result<(), StoreError> + Send + 'static,
    {
        let job: Job = Box::new(move |books| {
            change(books)?;
            Ok(Box::new(|| ()))
        });
        self.jobs.send(job).await.map_err(|_| StoreError::Closed)
    }

    /// Reads what is committed, beside the writer.
    pub(crate) async fn read<T, F>(&self, look: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Reading) -> Result<T, StoreError> + Send + 'static,
    {
        let database = Arc::clone(&self.database);
        let reading = move || look(&Reading(database.begin_read()?));
        tokio::task::spawn_blocking(reading).await.map_err(|_| StoreError::Closed)?
    }

    /// Tells of each commit from now on.
    pub(crate) fn commits(&self) -> watch::Receiver<u64> {
        self.commits.clone()
    }
}
