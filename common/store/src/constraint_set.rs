//! Operators' constraint sets: immutable versions for the fleet and for each tenant, of which the newest applies.
//!
//! **Owns** their rows and the event of each registration. **May be called** by operators' commands, by workers that load
//! what they must compile, and by the claim, which reads the heads in its transaction. **Must never** interpret a rule.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use dat_plan::event::{ControlAct, EventKind, NewEvent};
use dat_plan::{PlanHash, PlanKey};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::connection::PgConnection;
use crate::error::StoreError;
use crate::event_log;
use crate::pool::Store;

/// Whom a set of constraints binds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "scope", content = "subject")]
pub enum SetScope {
    /// Everybody.
    Fleet,
    /// One tenant.
    Tenant(String),
}

impl SetScope {
    const fn columns(&self) -> (&'static str, &str) {
        match self {
            Self::Fleet => ("fleet", ""),
            Self::Tenant(tenant) => ("tenant", tenant.as_str()),
        }
    }

    fn of(scope: &str, subject: String) -> Self {
        if scope == "fleet" { Self::Fleet } else { Self::Tenant(subject) }
    }
}

/// Which version of which set: what decisions name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SetHead {
    /// Whom it binds.
    #[serde(flatten)]
    pub scope: SetScope,
    /// Its version, from 1.
    pub version: i32,
    /// SHA-256 over the RFC 8785 form of its document.
    pub hash: String,
}

/// A registered version.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ConstraintSetRow {
    /// Which.
    #[serde(flatten)]
    pub head: SetHead,
    /// The document as given.
    pub document: Value,
    /// Since when.
    pub set_at: DateTime<Utc>,
    /// Who set it.
    pub set_by: String,
    /// Why.
    pub reason: String,
}

/// What a registration came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetConstraints {
    /// This version applies from now on.
    Registered(i32),
    /// The newest version, this one, says the same already: nothing changed, no event.
    AlreadySo(i32),
}

impl Store {
    /// Registers the next version of a set. No claim that begins after this has committed goes by an earlier one.
    pub async fn set_constraints(
        &self,
        scope: &SetScope,
        (document, hash): (&Value, &PlanHash),
        actor: &str,
        reason: &str,
        now: DateTime<Utc>,
    ) -> Result<SetConstraints, StoreError> {
        let mut tx = self.begin().await?;
        let (word, subject) = scope.columns();
        // One registration at a time: versions have no gap.
        sqlx::query!("SELECT pg_advisory_xact_lock(hashtext('constraint_set'))").execute(&mut *tx).await?;
        let newest = sqlx::query!(
            "SELECT version, content_hash FROM constraint_set WHERE scope = $1 AND subject = $2
             ORDER BY version DESC LIMIT 1",
            word,
            subject,
        )
        .fetch_optional(&mut *tx)
        .await?;
        if let Some(newest) = newest.as_ref().filter(|newest| newest.content_hash == hash.as_str()) {
            return Ok(SetConstraints::AlreadySo(newest.version));
        }
        let version = newest.map_or(1, |newest| newest.version + 1);
        sqlx::query!(
            "INSERT INTO constraint_set (scope, subject, version, content_hash, document, set_at, set_by, reason)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            word,
            subject,
            version,
            hash.as_str(),
            document,
            now,
            actor,
            reason,
        )
        .execute(&mut *tx)
        .await?;
        let kind = EventKind::Control(ControlAct::SetConstraints);
        let event = NewEvent::of_plan(PlanKey::CONTROL, "", kind, now)
            .with("actor", actor)
            .with("scope", word)
            .with("subject", subject)
            .with("version", version)
            .with("constraint_set_hash", hash.as_str())
            .because(reason);
        event_log::append(&mut tx, &[event]).await?;
        tx.commit().await?;
        Ok(SetConstraints::Registered(version))
    }

    /// The newest version of every set, the fleet's first.
    pub async fn newest_constraint_sets(&self) -> Result<Vec<ConstraintSetRow>, StoreError> {
        let rows = sqlx::query!(
            "SELECT DISTINCT ON (scope, subject) scope, subject, version, content_hash, document, set_at, set_by, reason
             FROM constraint_set ORDER BY scope, subject, version DESC"
        )
        .fetch_all(self.pool())
        .await?;
        let row = |row: (String, String, i32, String, Value, DateTime<Utc>, String, String)| {
            let (scope, subject, version, hash, document, set_at, set_by, reason) = row;
            let head = SetHead { scope: SetScope::of(&scope, subject), version, hash };
            ConstraintSetRow { head, document, set_at, set_by, reason }
        };
        Ok(rows
            .into_iter()
            .map(|r| {
                row((r.scope, r.subject, r.version, r.content_hash, r.document, r.set_at, r.set_by, r.reason))
            })
            .collect())
    }

    /// Every version of one set, newest first.
    pub async fn constraint_set_versions(
        &self,
        scope: &SetScope,
    ) -> Result<Vec<ConstraintSetRow>, StoreError> {
        let (word, subject) = scope.columns();
        let rows = sqlx::query!(
            "SELECT version, content_hash, document, set_at, set_by, reason FROM constraint_set
             WHERE scope = $1 AND subject = $2 ORDER BY version DESC",
            word,
            subject,
        )
        .fetch_all(self.pool())
        .await?;
        let head = |version, hash| SetHead { scope: scope.clone(), version, hash };
        Ok(rows
            .into_iter()
            .map(|row| ConstraintSetRow {
                head: head(row.version, row.content_hash),
                document: row.document,
                set_at: row.set_at,
                set_by: row.set_by,
                reason: row.reason,
            })
            .collect())
    }

    /// The documents of sets by their hash, whatever their version: for decisions that named them.
    pub async fn constraint_documents(
        &self,
        hashes: &BTreeSet<String>,
    ) -> Result<BTreeMap<String, Value>, StoreError> {
        let hashes: Vec<String> = hashes.iter().cloned().collect();
        let rows = sqlx::query!(
            "SELECT DISTINCT ON (content_hash) content_hash, document FROM constraint_set
             WHERE content_hash = ANY($1) ORDER BY content_hash",
            &hashes,
        )
        .fetch_all(self.pool())
        .await?;
        Ok(rows.into_iter().map(|row| (row.content_hash, row.document)).collect())
    }
}

/// The newest sets that bind these tenants' plans, as this transaction sees them.
#[derive(Debug, Default)]
pub(crate) struct SetHeads(Vec<SetHead>);

impl SetHeads {
    pub(crate) async fn read<'a>(
        conn: &mut PgConnection,
        tenants: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, StoreError> {
        let tenants: BTreeSet<String> = tenants.into_iter().map(str::to_owned).collect();
        let tenants: Vec<String> = tenants.into_iter().collect();
        let rows = sqlx::query!(
            "SELECT DISTINCT ON (scope, subject) scope, subject, version, content_hash FROM constraint_set
             WHERE scope = 'fleet' OR (scope = 'tenant' AND subject = ANY($1))
             ORDER BY scope, subject, version DESC",
            &tenants,
        )
        .fetch_all(conn)
        .await?;
        Ok(Self(
            rows.into_iter()
                .map(|row| SetHead {
                    scope: SetScope::of(&row.scope, row.subject),
                    version: row.version,
                    hash: row.content_hash,
                })
                .collect(),
        ))
    }

    /// Those that bind one tenant: the fleet's, then its own.
    pub(crate) fn of(&self, tenant: &str) -> Vec<SetHead> {
        let binds = |scope: &SetScope| match scope {
            SetScope::Fleet => true,
            SetScope::Tenant(bound) => bound == tenant,
        };
        self.0.iter().filter(|head| binds(&head.scope)).cloned().collect()
    }
}
