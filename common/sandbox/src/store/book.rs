//! Books: tables whose values are JSON, and the two ways to open them.

use std::borrow::{Borrow, Cow};
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};

use redb::{Key, ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::StoreError;

/// A table of values of one type.
pub(super) struct Book<K: Key + 'static, V> {
    table: TableDefinition<'static, K, &'static [u8]>,
    values: PhantomData<V>,
}

impl<K: Key + 'static, V> Book<K, V> {
    pub(super) const fn new(name: &'static str) -> Self {
        Self { table: TableDefinition::new(name), values: PhantomData }
    }
}

/// The key of what belongs to a plan: the plan's id, and a number.
pub(super) type PlanEntry = (u128, u64);

const COUNTS: Book<&str, u64> = Book::new("counts");
/// The count under which the last number of the sequence is kept.
const TICKS: &str = "ticks";

/// Makes the tables of this module.
pub(super) fn create(books: &Writing<'_>) -> Result<(), StoreError> {
    books.create(&COUNTS)
}

fn decode<V: DeserializeOwned>(bytes: &[u8]) -> Result<V, StoreError> {
    serde_json::from_slice(bytes).map_err(StoreError::Codec)
}

/// What is committed, as it was when the reading began.
pub(crate) struct Reading(pub(super) ReadTransaction);

impl Reading {
    pub(super) fn get<'k, K, V>(
        &self,
        book: &Book<K, V>,
        key: impl Borrow<K::SelfType<'k>>,
    ) -> Result<Option<V>, StoreError>
    where
        K: Key + 'static,
        V: DeserializeOwned,
    {
        let table = self.0.open_table(book.table)?;
        let found = ReadableTable::get(&table, key)?;
        found.map(|bytes| decode(bytes.value())).transpose()
    }

    /// Every value of a book.
    pub(super) fn all<K: Key + 'static, V: DeserializeOwned>(
        &self,
        book: &Book<K, V>,
    ) -> Result<Vec<V>, StoreError> {
        let table = self.0.open_table(book.table)?;
        let mut values = Vec::new();
        for entry in table.iter()? {
            values.push(decode(entry?.1.value())?);
        }
        Ok(values)
    }

    /// The values of one plan, in order; or all, plan by plan.
    pub(super) fn of_plan<V: DeserializeOwned>(
        &self,
        book: &Book<PlanEntry, V>,
        plan: Option<Uuid>,
    ) -> Result<Vec<V>, StoreError> {
        let Some(plan) = plan.map(|id| id.as_u128()) else { return self.all(book) };
        let table = self.0.open_table(book.table)?;
        let mut values = Vec::new();
        for entry in ReadableTable::range(&table, (plan, u64::MIN)..=(plan, u64::MAX))? {
            values.push(decode(entry?.1.value())?);
        }
        Ok(values)
    }

    /// A count, 0 where nothing was counted.
    pub(super) fn count(&self, name: &str) -> Result<u64, StoreError> {
        Ok(self.get(&COUNTS, name)?.unwrap_or(0))
    }

    /// The counts whose names begin so, by the rest of their names.
    pub(super) fn counts(&self, prefix: &str) -> Result<BTreeMap<String, u64>, StoreError> {
        let table = self.0.open_table(COUNTS.table)?;
        let mut counts = BTreeMap::new();
        for entry in ReadableTable::range(&table, prefix..)? {
            let (name, count) = entry?;
            let Some(rest) = name.value().strip_prefix(prefix) else { break };
            counts.insert(rest.to_owned(), decode(count.value())?);
        }
        Ok(counts)
    }
}

/// The change that is being made.
pub(crate) struct Writing<'t> {
    transaction: &'t WriteTransaction,
    ticks: &'t AtomicU64,
    counts: BTreeMap<Cow<'static, str>, u64>,
}

impl<'t> Writing<'t> {
    pub(super) fn new(transaction: &'t WriteTransaction, ticks: &'t AtomicU64) -> Self {
        Self { transaction, ticks, counts: BTreeMap::new() }
    }

    pub(super) fn create<K: Key + 'static, V>(&self, book: &Book<K, V>) -> Result<(), StoreError> {
        self.transaction.open_table(book.table)?;
        Ok(())
    }

    pub(super) fn get<'k, K, V>(
        &self,
        book: &Book<K, V>,
        key: impl Borrow<K::SelfType<'k>>,
    ) -> Result<Option<V>, StoreError>
    where
        K: Key + 'static,
        V: DeserializeOwned,
    {
        let table = self.transaction.open_table(book.table)?;
        let found = table.get(key)?;
        found.map(|bytes| decode(bytes.value())).transpose()
    }

    pub(super) fn put<'k, K, V>(
        &self,
        book: &Book<K, V>,
        key: impl Borrow<K::SelfType<'k>>,
        value: &V,
    ) -> Result<(), StoreError>
    where
        K: Key + 'static,
        V: Serialize,
    {
        let bytes = serde_json::to_vec(value).map_err(StoreError::Codec)?;
        self.transaction.open_table(book.table)?.insert(key, bytes.as_slice())?;
        Ok(())
    }

    pub(super) fn all<K: Key + 'static, V: DeserializeOwned>(
        &self,
        book: &Book<K, V>,
    ) -> Result<Vec<V>, StoreError> {
        let table = self.transaction.open_table(book.table)?;
        let mut values = Vec::new();
        for entry in table.iter()? {
            values.push(decode(entry?.1.value())?);
        }
        Ok(values)
    }

    /// Counts one more.
    pub(super) fn count(&mut self, name: impl Into<Cow<'static, str>>) {
        *self.counts.entry(name.into()).or_default() += 1;
    }

    /// A count as it stands, with what this change added.
    pub(super) fn counted(&self, name: &str) -> Result<u64, StoreError> {
        let before: u64 = self.get(&COUNTS, name)?.unwrap_or(0);
        Ok(before + self.counts.get(name).copied().unwrap_or(0))
    }

    /// The next number of the one sequence in which everything happens.
    pub(super) fn tick(&self) -> u64 {
        self.ticks.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Goes on with the sequence where it was left.
    pub(super) fn resume(&self) -> Result<(), StoreError> {
        self.ticks.store(self.get(&COUNTS, TICKS)?.unwrap_or(0), Ordering::Relaxed);
        Ok(())
    }

    /// Writes the counts down; the last act before the commit.
    pub(super) fn close(self) -> Result<(), StoreError> {
        for (name, more) in &self.counts {
            let before: u64 = self.get(&COUNTS, name.as_ref())?.unwrap_or(0);
            self.put(&COUNTS, name.as_ref(), &(before + more))?;
        }
        self.put(&COUNTS, TICKS, &self.ticks.load(Ordering::Relaxed))
    }
}
