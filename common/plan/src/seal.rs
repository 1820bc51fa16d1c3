//! The seal: whether a stored verdict approves exactly one document, and is believed.
//!
//! **Owns** that judgement, alike for a worker before it executes and for an audit afterwards. **May be called** by both.
//! **Must never** look at anything but the document's hash, the verdict as it was received, when that was, and the keys.

use chrono::{DateTime, Utc};
use serde::Deserialize as _;
use serde_json::Value;

use crate::approval::{Outcome, Verdict};
use crate::hash::PlanHash;
use crate::ids::PlanKey;
use crate::signing::{KeyRing, SignatureFault};

/// Why a verdict does not approve a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BrokenSeal {
    /// There is none.
    #[error("it has no approving verdict")]
    NoVerdict,
    /// It is no verdict.
    #[error("its verdict cannot be read: {0}")]
    NotAVerdict(String),
    /// It approves nothing.
    #[error("its verdict says {0}, not approved")]
    NotAnApproval(&'static str),
    /// It is about another plan, or another version of it.
    #[error("its verdict is of plan {0}")]
    OtherPlan(PlanKey),
    /// It is about other content.
    #[error("its document hashes to {computed}, its verdict approves {named}")]
    OtherHash {
        /// What the verdict names.
        named: PlanHash,
        /// What the document hashes to.
        computed: PlanHash,
    },
    /// It was not signed with a key that was believed when it was received.
    #[error("its verdict does not stand: {0}")]
    Signature(#[from] SignatureFault),
}

/// The verdict that approves a document: of this plan version, of this hash, and, where there are keys, signed with one
/// that was believed when the verdict was received.
pub fn approved(
    plan: PlanKey,
    hash: &PlanHash,
    verdict: &Value,
    received_at: DateTime<Utc>,
    keys: &KeyRing,
) -> Result<Verdict, BrokenSeal> {
    let read = Verdict::deserialize(verdict).map_err(|error| BrokenSeal::NotAVerdict(error.to_string()))?;
    if !keys.is_empty() {
        keys.verify(verdict, received_at)?;
    }
    if read.outcome != Outcome::Approved {
        return Err(BrokenSeal::NotAnApproval(read.outcome.as_str()));
    }
    if read.plan() != plan {
        return Err(BrokenSeal::OtherPlan(read.plan()));
    }
    if read.plan_hash != *hash {
        return Err(BrokenSeal::OtherHash { named: read.plan_hash, computed: hash.clone() });
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use uuid::Uuid;

    use super::*;
    use crate::signing::SigningKey;

    fn hash(digit: u8) -> PlanHash {
        PlanHash(format!("sha256:{}", hex::encode([digit; 32])))
    }

    fn verdict() -> Value {
        json!({"decision_id": "d", "plan_id": Uuid::max(), "plan_version": 2, "plan_hash": hash(1),
               "outcome": "approved", "approver": "ann"})
    }

    fn judged(verdict: &Value, keys: &KeyRing) -> Result<Verdict, BrokenSeal> {
        approved(PlanKey::new(Uuid::max(), 2), &hash(1), verdict, DateTime::UNIX_EPOCH, keys)
    }

    #[test]
    fn a_verdict_approves_its_own_plan_version_and_hash_and_nothing_else() {
        let none = KeyRing::default();
        assert!(judged(&verdict(), &none).is_ok());
        let with = |name: &str, value: Value| {
            let mut other = verdict();
            other[name] = value;
            judged(&other, &none)
        };
        let (first, other) = (PlanKey::new(Uuid::max(), 1), PlanKey::new(Uuid::nil(), 2));
        assert_eq!(with("plan_version", json!(1)), Err(BrokenSeal::OtherPlan(first)));
        assert_eq!(with("plan_id", json!(Uuid::nil())), Err(BrokenSeal::OtherPlan(other)));
        let named = Err(BrokenSeal::OtherHash { named: hash(2), computed: hash(1) });
        assert_eq!(with("plan_hash", json!(hash(2))), named);
        assert_eq!(with("outcome", json!("rejected")), Err(BrokenSeal::NotAnApproval("rejected")));
        assert!(matches!(with("outcome", json!(7)), Err(BrokenSeal::NotAVerdict(_))));
    }

    #[test]
    fn where_there_are_keys_it_must_be_signed_with_one() {
        let key = SigningKey::from_seed("ggp", &"07".repeat(32)).expect("a seed");
        let ring = KeyRing::new([key.trusted()]).expect("a ring");
        let unsigned = judged(&verdict(), &ring);
        assert_eq!(unsigned, Err(BrokenSeal::Signature(SignatureFault::Missing("key_id"))));
        let mut signed = verdict();
        key.sign(&mut signed).expect("signed");
        assert!(judged(&signed, &ring).is_ok());
        signed["budget"] = json!({"amount": 9, "currency": "usd"});
        let altered = judged(&signed, &ring);
        assert_eq!(altered, Err(BrokenSeal::Signature(SignatureFault::Wrong("ggp".to_owned()))));
    }
}
