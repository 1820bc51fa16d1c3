//! Approvals of people, of which governance gathers a quorum before it gives its verdict.
//!
//! An addition to the contract, between people and their governance: DAT takes no part in it and binds verdicts alone.
//! Each is published to the exchange `ggp` with the routing key `plan.approval`:
//!
//! ```json
//! {"approval_id": "…", "plan_id": "…", "plan_version": 1, "plan_hash": "sha256:…", "constraint_set_hash": "sha256:…",
//!  "outcome": "approved", "approver": "ann", "reason": "…", "key_id": "ann/2027", "signature": "…"}
//! ```
//!
//! It names the hash that its approver saw, and is signed as a verdict is. The key is the approver's own: its id is the
//! name, or begins with it and a `/`, so that a person may have several keys one after the other and counts once.
//!
//! **Owns** that message, and whether one counts. **May be called** by whoever makes or gathers them. **Must never**
//! decide how many are needed.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::approval::{ApprovalPackage, Outcome};
use crate::hash::PlanHash;
use crate::ids::PlanKey;
use crate::signing::{KeyRing, SignatureFault};

/// One person's word on a plan version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vote {
    /// Its id: the same however often it is sent.
    pub approval_id: String,
    /// The plan.
    pub plan_id: Uuid,
    /// Its version.
    pub plan_version: i32,
    /// The hash of what the person saw.
    pub plan_hash: PlanHash,
    /// The hash of the operators' sets that the person saw.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub constraint_set_hash: Option<String>,
    /// `approved`, or `rejected`.
    pub outcome: Outcome,
    /// Who.
    pub approver: String,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The approver's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// Ed25519 over the RFC 8785 form of it without this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}

impl Vote {
    /// The plan version it is about.
    #[must_use]
    pub fn plan(&self) -> PlanKey {
        PlanKey::new(self.plan_id, self.plan_version)
    }
}

/// Why a person's word does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotCounted {
    /// It is about another plan version.
    #[error("it is about plan {0}")]
    OtherPlan(PlanKey),
    /// Its approver saw another document.
    #[error("its approver saw {seen}, the plan is {plan}")]
    OtherHash {
        /// What it names.
        seen: String,
        /// What the package names.
        plan: String,
    },
    /// Its approver saw other operators' rules.
    #[error("its approver saw other constraint sets than the package has")]
    OtherConstraints,
    /// It says neither yes nor no.
    #[error("a person approves or rejects, and revokes nothing")]
    NoAnswer,
    /// It is nobody's.
    #[error("it names no approver")]
    Nobody,
    /// Its signature does not stand.
    #[error(transparent)]
    Signature(#[from] SignatureFault),
    /// It is signed with a key of somebody else.
    #[error("it is signed with key '{key_id}', which is not {approver}'s")]
    OthersKey {
        /// Whom it names.
        approver: String,
        /// Whose key it is.
        key_id: String,
    },
    /// Nobody approves what is their own.
    #[error("{0} submitted the plan, and nobody approves their own")]
    Submitter(String),
    /// Everybody counts once.
    #[error("{0} has answered already")]
    Twice(String),
}

/// Two names are one person's, however they are written.
fn person(name: &str) -> String {
    name.trim().to_lowercase()
}

/// Whether a person's word counts, beside those that count already. `as_sent` is what its signature is over.
pub fn admit(
    package: &ApprovalPackage,
    counted: &[Vote],
    (vote, as_sent): (&Vote, &Value),
    keys: &KeyRing,
    now: DateTime<Utc>,
) -> Result<(), NotCounted> {
    if vote.plan() != PlanKey::new(package.plan_id, package.plan_version) {
        return Err(NotCounted::OtherPlan(vote.plan()));
    }
    if vote.plan_hash.as_str() != package.plan_hash {
        let (seen, plan) = (vote.plan_hash.to_string(), package.plan_hash.clone());
        return Err(NotCounted::OtherHash { seen, plan });
    }
    if vote.constraint_set_hash.as_ref().is_some_and(|seen| *seen != package.constraint_set_hash) {
        return Err(NotCounted::OtherConstraints);
    }
    if vote.outcome == Outcome::Revoked {
        return Err(NotCounted::NoAnswer);
    }
    let approver = person(&vote.approver);
    if approver.is_empty() {
        return Err(NotCounted::Nobody);
    }
    if !keys.is_empty() {
        let key_id = keys.verify(as_sent, now)?;
        let owner = key_id.split_once('/').map_or(key_id, |(owner, _)| owner);
        if person(owner) != approver {
            return Err(NotCounted::OthersKey { approver: vote.approver.clone(), key_id: key_id.to_owned() });
        }
    }
    if package.submitter.as_deref().is_some_and(|submitter| person(submitter) == approver) {
        return Err(NotCounted::Submitter(vote.approver.clone()));
    }
    if counted.iter().any(|earlier| person(&earlier.approver) == approver) {
        return Err(NotCounted::Twice(vote.approver.clone()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::signing::SigningKey;

    fn key(id: &str) -> SigningKey {
        SigningKey::from_seed(id, &format!("{:0>64}", hex::encode(id))).expect("a seed")
    }

    fn ring() -> KeyRing {
        let keys = ["ann", "ann/2027", "bob", "eve"].map(|id| key(id).trusted());
        KeyRing::new(keys).expect("a ring")
    }

    fn hash(digit: u8) -> String {
        format!("sha256:{}", hex::encode([digit; 32]))
    }

    fn package() -> ApprovalPackage {
        serde_json::from_value(json!({
            "plan_id": Uuid::max(), "plan_version": 3, "tenant": "acme", "plan_hash": hash(1),
            "constraint_set_hash": hash(7), "plan": {}, "submitter": "Eve",
            "readiness": {"steps": 1, "max_cost": 5, "reversible": 1, "irreversible": [], "warnings": []},
        }))
        .expect("a package one version back has less")
    }

    fn vote(approver: &str, by: &str, edit: impl Fn(&mut Value)) -> (Vote, Value) {
        let mut value = json!({
            "approval_id": "1", "plan_id": Uuid::max(), "plan_version": 3, "plan_hash": hash(1),
            "constraint_set_hash": hash(7), "outcome": "approved", "approver": approver,
        });
        edit(&mut value);
        key(by).sign(&mut value).expect("signed");
        (serde_json::from_value(value.clone()).expect("a vote"), value)
    }

    fn said(counted: &[Vote], vote: &(Vote, Value)) -> Result<(), NotCounted> {
        admit(&package(), counted, (&vote.0, &vote.1), &ring(), DateTime::UNIX_EPOCH)
    }

    #[test]
    fn everybody_but_the_submitter_counts_once_under_whatever_key_or_spelling() {
        let ann = vote("ann", "ann", |_| ());
        assert_eq!(said(&[], &ann), Ok(()));
        let counted = [ann.0];
        assert_eq!(said(&counted, &vote("bob", "bob", |_| ())), Ok(()));
        for (name, by) in [("ann", "ann"), (" ANN", "ann"), ("ann", "ann/2027")] {
            assert_eq!(said(&counted, &vote(name, by, |_| ())), Err(NotCounted::Twice(name.to_owned())));
        }
        assert_eq!(said(&[], &vote("eve", "eve", |_| ())), Err(NotCounted::Submitter("eve".to_owned())));
        let nobody = vote("", "eve", |_| ());
        assert_eq!(said(&[], &nobody), Err(NotCounted::Nobody));
    }

    #[test]
    fn only_ones_own_key_speaks_for_a_person() {
        let forged = vote("bob", "ann", |_| ());
        let others = NotCounted::OthersKey { approver: "bob".to_owned(), key_id: "ann".to_owned() };
        assert_eq!(said(&[], &forged), Err(others));
        let mut altered = vote("ann", "ann", |_| ());
        altered.1["outcome"] = json!("rejected");
        assert_eq!(said(&[], &altered), Err(NotCounted::Signature(SignatureFault::Wrong("ann".to_owned()))));
        let unknown = vote("mallory", "mallory", |_| ());
        assert!(matches!(said(&[], &unknown), Err(NotCounted::Signature(SignatureFault::UnknownKey(_)))));
    }

    #[test]
    fn it_counts_for_what_its_approver_saw_and_nothing_else() {
        let of =
            |field: &'static str, value: Value| said(&[], &vote("ann", "ann", |v| v[field] = value.clone()));
        assert!(matches!(of("plan_version", json!(4)), Err(NotCounted::OtherPlan(_))));
        assert!(matches!(of("plan_hash", json!(hash(2))), Err(NotCounted::OtherHash { .. })));
        assert_eq!(of("constraint_set_hash", json!(hash(2))), Err(NotCounted::OtherConstraints));
        assert_eq!(of("outcome", json!("revoked")), Err(NotCounted::NoAnswer));
        assert_eq!(of("outcome", json!("rejected")), Ok(()));
    }
}
