//! How a command is told which plan is meant.

use std::str::FromStr;

use clap::Args;
use dat_plan::PlanKey;
use dat_store::Store;
use uuid::Uuid;

use crate::cli::failure::Failure;

/// `UUID` or `UUID/VERSION`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PlanName {
    /// The plan.
    pub(crate) id: Uuid,
    /// Its version; none means the newest.
    pub(crate) version: Option<i32>,
}

impl FromStr for PlanName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (id, version) = match text.split_once('/') {
            Some((id, version)) => (id, Some(version)),
            None => (text, None),
        };
        let id = id.parse().map_err(|_| "write a plan as UUID or UUID/VERSION".to_owned())?;
        let version = match version.map(str::parse) {
            None => None,
            Some(Ok(number @ 1..)) => Some(number),
            Some(_) => return Err("a version is a number from 1".to_owned()),
        };
        Ok(Self { id, version })
    }
}

impl PlanName {
    /// The plan version that is meant, if there is one.
    pub(crate) async fn find(&self, store: &Store) -> Result<Option<PlanKey>, Failure> {
        match self.version {
            Some(version) => Ok(Some(PlanKey::new(self.id, version))),
            None => Ok(store.newest_version(self.id).await?),
        }
    }
}

/// The arguments that name one plan version.
#[derive(Debug, Args)]
pub(crate) struct PlanArg {
    /// The plan, as UUID or UUID/VERSION
    #[arg(value_name = "PLAN")]
    plan: PlanName,
    /// Its version; the newest if none is given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    version: Option<i32>,
}

impl PlanArg {
    /// The plan version that is meant.
    pub(crate) async fn key(&self, store: &Store) -> Result<PlanKey, Failure> {
        let version = match (self.plan.version, self.version) {
            (Some(one), Some(other)) if one != other => {
                return Err(Failure::Usage(format!("two versions are named, {one} and {other}: name one")));
            }
            (one, other) => one.or(other),
        };
        let name = PlanName { id: self.plan.id, version };
        name.find(store).await?.ok_or_else(|| unknown(name.id))
    }
}

/// There is no such plan.
pub(crate) fn unknown(plan: impl std::fmt::Display) -> Failure {
    Failure::Failed(format!("no plan {plan} is registered: 'dat plan list --all' shows those that are"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_named_with_or_without_its_version() {
        let id = "0199d3a4-7c1e-7b1a-9c44-0a3f5d0c7421";
        let parsed = |text: &str| text.parse::<PlanName>();
        assert_eq!(parsed(id).map(|name| name.version), Ok(None));
        assert_eq!(parsed(&format!("{id}/3")).map(|name| name.version), Ok(Some(3)));
        for bad in ["launch", &format!("{id}/0"), &format!("{id}/two"), &format!("{id}/")] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }
}
