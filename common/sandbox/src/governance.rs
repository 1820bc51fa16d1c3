//! How the sandbox GGP comes to its verdicts: by rules, by people, or by its mode; and with which key it signs.
//!
//! **Owns** what GGP was set up with. **May be called** by the desks and levers of GGP. **Must never** be known to DAT:
//! it sees the verdicts alone.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use dat_plan::approval::{ApprovalPackage, Outcome, Verdict};
use dat_plan::quorum::{self, Vote};
use dat_plan::signing::{KeyRing, SigningKey};
use serde_json::{Value, json};
use tracing::{error, info, warn};

use crate::ggp;
use crate::report::{GgpMode, Package, RefusedVote};
use crate::rules::{Rules, Ruling};

/// The longest text that a verdict has as its approver, in characters.
const APPROVER_CHARS: usize = 200;
/// The most words of people that are kept though they did not count.
const REFUSED: usize = 100;

/// What GGP was set up with.
#[derive(Debug, Clone, Default)]
pub struct Governance {
    /// Approvers' rules; without them the mode decides, and a plan's label over that.
    pub rules: Option<Rules>,
    /// Signs every verdict; without one they are not signed.
    pub signing: Option<Arc<SigningKey>>,
    /// People's keys; without any, what people say need not be signed.
    pub approvers: KeyRing,
}

/// What becomes of a package that was not judged yet.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Judged {
    /// A verdict.
    Verdict(Box<Verdict>),
    /// Somebody decides.
    Wait,
    /// So many people are asked.
    People(u32),
}

impl Governance {
    /// Judges a package. Where there are rules, neither mode nor label has a say: what a submitter writes into a plan
    /// chooses nobody who judges it.
    pub(crate) fn judge(&self, package: &ApprovalPackage, mode: GgpMode) -> Judged {
        let verdict = |verdict: Verdict| Judged::Verdict(Box::new(self.signed(verdict)));
        let Some(rules) = &self.rules else {
            return ggp::judge(package, mode).map_or(Judged::Wait, verdict);
        };
        if let Err(objection) = ggp::sound(package) {
            return verdict(ggp::verdict(package, Outcome::Rejected, Some(objection.to_string())));
        }
        match rules.judge(package) {
            Ruling::Approve(reason) => verdict(ggp::verdict(package, Outcome::Approved, reason)),
            Ruling::Reject(reason) => verdict(ggp::verdict(package, Outcome::Rejected, Some(reason))),
            Ruling::People(quorum) => Judged::People(quorum),
        }
    }

    /// Counts what one person says of a package. Gives the verdict, where that was the last that was needed.
    pub(crate) fn hear(
        &self,
        held: &mut Package,
        (vote, as_sent): (Vote, &Value),
        now: DateTime<Utc>,
    ) -> Option<Verdict> {
        // What is delivered again changes nothing.
        if held.approvals.contains(&vote) {
            return None;
        }
        let why = match held.quorum {
            None => Some("nobody was asked about this plan".to_owned()),
            Some(_) if !held.verdicts.is_empty() => Some("it is decided".to_owned()),
            Some(_) => quorum::admit(&held.package, &held.approvals, (&vote, as_sent), &self.approvers, now)
                .err()
                .map(|not_counted| not_counted.to_string()),
        };
        let plan = vote.plan();
        if let Some(why) = why {
            warn!(%plan, approver = vote.approver, why, "what a person says of a plan does not count");
            let refused = RefusedVote { approver: vote.approver, why };
            if held.refused.len() < REFUSED && !held.refused.contains(&refused) {
                held.refused.push(refused);
            }
            return None;
        }
        info!(%plan, approver = vote.approver, outcome = vote.outcome.as_str(), "counted");
        held.approvals.push(vote);
        let verdict = self.resolve(held)?;
        held.verdicts.push(verdict.clone());
        Some(verdict)
    }

    /// One no is a no; a yes needs the quorum.
    fn resolve(&self, held: &Package) -> Option<Verdict> {
        let no = held.approvals.iter().find(|vote| vote.outcome == Outcome::Rejected);
        let verdict = if let Some(vote) = no {
            let approver = vote.approver.clone();
            Verdict { approver, ..ggp::verdict(&held.package, Outcome::Rejected, vote.reason.clone()) }
        } else {
            let needed = usize::try_from(held.quorum?).unwrap_or(usize::MAX);
            if held.approvals.len() < needed {
                return None;
            }
            let approver = names(held.approvals.iter().map(|vote| vote.approver.trim()));
            Verdict { approver, ..ggp::verdict(&held.package, Outcome::Approved, None) }
        };
        Some(self.signed(verdict))
    }

    /// The verdict with GGP's signature, where it has a key.
    pub(crate) fn signed(&self, verdict: Verdict) -> Verdict {
        let Some(key) = &self.signing else { return verdict };
        let mut value = json!(verdict);
        let signed = key.sign(&mut value).map_err(|fault| fault.to_string());
        let read = signed.and_then(|()| serde_json::from_value(value).map_err(|fault| fault.to_string()));
        read.unwrap_or_else(|fault| {
            // DAT parks it: nothing runs by a verdict that cannot be signed.
            error!(fault, "a verdict cannot be signed");
            verdict
        })
    }
}

/// Who approved, all of them as long as there is room for their names.
fn names<'a>(approvers: impl Iterator<Item = &'a str>) -> String {
    let approvers: Vec<&str> = approvers.collect();
    let all = approvers.join(", ");
    if all.chars().count() <= APPROVER_CHARS {
        return all;
    }
    let first: String = all.chars().take(APPROVER_CHARS - 40).collect();
    format!("{first}… ({} people)", approvers.len())
}

#[cfg(test)]
mod tests {
    use dat_plan::PlanHash;
    use uuid::Uuid;

    use super::*;

    fn key(id: &str) -> SigningKey {
        let named = Uuid::new_v5(&Uuid::NAMESPACE_URL, id.as_bytes()).simple().to_string();
        SigningKey::from_seed(id, &format!("{named:0>64}")).expect("a seed")
    }

    fn governance(rules: &Value) -> Governance {
        let book = serde_json::from_value(json!({"rule": rules})).expect("a book");
        Governance {
            rules: Some(Rules::compile(book).expect("rules")),
            signing: Some(Arc::new(key("ggp"))),
            approvers: KeyRing::new(["ann", "bob", "cid", "eve"].map(|id| key(id).trusted()))
                .expect("a ring"),
        }
    }

    fn people(quorum: u32) -> Governance {
        governance(&json!([{"when": "true", "then": "people", "quorum": quorum}]))
    }

    fn package() -> ApprovalPackage {
        let plan = json!({"plan_id": Uuid::max(), "plan_version": 3, "tenant": "acme",
                          "labels": {"sandbox.ggp": "approve"}});
        serde_json::from_value(json!({
            "plan_id": Uuid::max(), "plan_version": 3, "tenant": "acme", "submitter": "eve",
            "plan_hash": PlanHash::of(&plan).expect("canonical"), "plan": plan,
            "constraint_set_hash": PlanHash::of(&json!([])).expect("canonical"),
            "readiness": {"steps": 1, "max_cost": 5, "reversible": 1, "irreversible": [], "warnings": []}
        }))
        .expect("a package")
    }

    fn held(quorum: u32) -> Package {
        Package { quorum: Some(quorum), ..Package::asked("e".to_owned(), None, package()) }
    }

    fn say(governance: &Governance, held: &mut Package, who: &str, outcome: &str) -> Option<Verdict> {
        let mut value = json!({
            "approval_id": format!("{who}-{outcome}"), "plan_id": Uuid::max(), "plan_version": 3,
            "plan_hash": held.package.plan_hash, "outcome": outcome, "approver": who, "reason": "because",
        });
        key(who).sign(&mut value).expect("signed");
        let vote = serde_json::from_value(value.clone()).expect("a vote");
        governance.hear(held, (vote, &value), DateTime::UNIX_EPOCH)
    }

    #[test]
    fn a_quorum_of_people_who_are_not_the_submitter_makes_one_signed_verdict_that_names_them() {
        let governance = people(2);
        assert_eq!(governance.judge(&package(), GgpMode::Approve), Judged::People(2));
        let mut held = held(2);
        assert_eq!(say(&governance, &mut held, "eve", "approved"), None, "it is her own");
        assert_eq!(say(&governance, &mut held, "ann", "approved"), None);
        assert_eq!(say(&governance, &mut held, "ann", "approved"), None, "once");
        let verdict = say(&governance, &mut held, "bob", "approved").expect("a verdict");
        assert_eq!((verdict.outcome, verdict.approver.as_str()), (Outcome::Approved, "ann, bob"));
        let ring = KeyRing::new([key("ggp").trusted()]).expect("a ring");
        assert_eq!(ring.verify(&json!(verdict), DateTime::UNIX_EPOCH), Ok("ggp"));
        assert_eq!(say(&governance, &mut held, "cid", "approved"), None, "it is decided");
        let refused: Vec<&str> = held.refused.iter().map(|refused| refused.approver.as_str()).collect();
        assert_eq!((refused, held.verdicts.len()), (vec!["eve", "cid"], 1));
    }

    #[test]
    fn one_no_is_a_no_and_who_was_not_asked_is_not_heard() {
        let governance = people(3);
        let mut asked = held(3);
        assert_eq!(say(&governance, &mut asked, "ann", "approved"), None);
        let verdict = say(&governance, &mut asked, "bob", "rejected").expect("a verdict");
        assert_eq!((verdict.outcome, verdict.approver.as_str()), (Outcome::Rejected, "bob"));
        let mut unasked = Package { quorum: None, ..held(1) };
        assert_eq!(say(&governance, &mut unasked, "ann", "approved"), None);
        assert_eq!(unasked.refused.len(), 1);
    }

    #[test]
    fn where_there_are_rules_a_label_of_the_plan_has_no_say() {
        let governance = governance(&json!([{"when": "request.tenant == 'acme'", "then": "reject"}]));
        let Judged::Verdict(verdict) = governance.judge(&package(), GgpMode::Approve) else {
            panic!("it is judged")
        };
        assert_eq!(verdict.outcome, Outcome::Rejected);
        let unruled = Governance::default().judge(&package(), GgpMode::Reject);
        assert!(matches!(unruled, Judged::Verdict(verdict) if verdict.outcome == Outcome::Approved));
    }

    #[test]
    fn the_names_of_many_are_cut_to_what_a_verdict_holds() {
        let many: Vec<String> = (0..100).map(|n| format!("person-{n}")).collect();
        let named = names(many.iter().map(String::as_str));
        assert!(named.chars().count() <= APPROVER_CHARS && named.ends_with("(100 people)"), "{named}");
    }
}
