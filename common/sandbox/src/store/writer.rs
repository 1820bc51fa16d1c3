//! The thread that writes: takes the changes that are there, and commits them together.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use redb::Database;
use tokio::sync::{mpsc, watch};

use super::{StoreError, Writing, book, events, mux, packages};

/// The most changes that share a commit.
const GROUP: usize = 1024;

/// Tells whoever asked for a change that it is committed.
pub(super) type Notice = Box<dyn FnOnce() + Send>;
/// A change, waiting.
pub(super) type Job = Box<dyn FnOnce(&mut Writing<'_>) -> Result<Notice, StoreError> + Send>;

/// What the thread owns.
pub(super) struct Writer {
    database: Arc<Database>,
    ticks: Arc<AtomicU64>,
    queue: mpsc::Receiver<Job>,
    committed: watch::Sender<u64>,
}

impl Writer {
    pub(super) fn new(
        database: Arc<Database>,
        ticks: Arc<AtomicU64>,
        queue: mpsc::Receiver<Job>,
        committed: watch::Sender<u64>,
    ) -> Self {
        Self { database, ticks, queue, committed }
    }

    /// Makes sure that every table exists, and takes up where the store was left.
    pub(super) fn prepare(&self) -> Result<(), StoreError> {
        let transaction = self.database.begin_write()?;
        let mut books = Writing::new(&transaction, &self.ticks);
        book::create(&books)?;
        mux::create(&books)?;
        packages::create(&books)?;
        events::create(&books)?;
        books.resume()?;
        mux::close_interrupted(&mut books)?;
        books.close()?;
        transaction.commit()?;
        Ok(())
    }

    /// Writes until nobody can ask for a change any more.
    pub(super) fn run(mut self) -> Result<(), StoreError> {
        let mut group = Vec::with_capacity(GROUP);
        while self.queue.blocking_recv_many(&mut group, GROUP) > 0 {
            let transaction = self.database.begin_write()?;
            let mut books = Writing::new(&transaction, &self.ticks);
            let notices = group.drain(..).map(|job| job(&mut books)).collect::<Result<Vec<_>, _>>()?;
            books.close()?;
            transaction.commit()?;
            for notice in notices {
                notice();
            }
            self.committed.send_modify(|commits| *commits += 1);
        }
        Ok(())
    }
}
