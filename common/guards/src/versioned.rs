//! Versioned values: copies of rows, each replaced only by a newer one.
//!
//! Workers write what they committed, in any order; the version, which the row itself carries, decides.

use std::time::Duration;

use redis::Script;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::redis::{RedisAway, RuntimeStore};

/// Values in Redis, each with the version of the row it is a copy of.
#[derive(Debug, Clone)]
pub(crate) struct Versioned {
    store: RuntimeStore,
    put: Script,
}

/// One value to be kept.
pub(crate) struct Copied<'a, T> {
    pub(crate) key: String,
    pub(crate) version: i64,
    pub(crate) lifetime: Duration,
    pub(crate) value: &'a T,
}

impl Versioned {
    pub(crate) fn new(store: RuntimeStore) -> Self {
        Self { store, put: Script::new(include_str!("lua/put_if_newer.lua")) }
    }

    /// Keeps what is newer than what is there, in one round trip; how many were.
    pub(crate) async fn put<'a, T: Serialize + 'a>(
        &self,
        values: impl Iterator<Item = Copied<'a, T>>,
    ) -> Result<u64, RedisAway> {
        let mut call = self.put.prepare_invoke();
        let mut any = false;
        for Copied { key, version, lifetime, value } in values {
            let text = serde_json::to_string(value).map_err(|error| unreadable(&key, &error))?;
            let lifetime_ms = u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX).max(1);
            call.key(self.store.key(&key)).arg(version).arg(lifetime_ms).arg(text);
            any = true;
        }
        if any { self.store.run(&call).await } else { Ok(0) }
    }

    /// Removes values in one round trip.
    pub(crate) async fn remove(&self, keys: &[String]) -> Result<(), RedisAway> {
        if keys.is_empty() {
            return Ok(());
        }
        let mut command = redis::cmd("DEL");
        for key in keys {
            command.arg(self.store.key(key));
        }
        self.store.query::<i64>(&command).await.map(|_| ())
    }

    /// Reads values in one round trip, in the order of the keys; what is absent, or written in a form that this
    /// version of DAT does not read, is `None`: the caller reads the row.
    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        keys: &[String],
    ) -> Result<Vec<Option<T>>, RedisAway> {
        if keys.is_empty() {
            return Ok(vec![]);
        }
        let mut pipeline = redis::pipe();
        for key in keys {
            pipeline.hget(self.store.key(key), "text");
        }
        let texts: Vec<Option<String>> = self.store.pipeline(&pipeline).await?;
        Ok(texts.into_iter().map(|text| serde_json::from_str(&text?).ok()).collect())
    }
}

fn unreadable(key: &str, error: &serde_json::Error) -> RedisAway {
    RedisAway { reason: format!("'{key}' cannot be written as JSON: {error}") }
}
