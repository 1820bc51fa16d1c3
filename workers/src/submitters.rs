//! Who may submit plans for whom: names of the broker's users, each with the tenants that it may speak for.
//!
//! **Owns** that rule, as settings say it. **May be called** by the stage of `plan.submitted`. **Must never** believe a
//! name that the broker has not validated: it is the AMQP property `user_id`, which RabbitMQ compares with the login of
//! the connection, and no header, nor anything in a document.

use std::collections::{BTreeMap, BTreeSet};

use dat_plan::{Fault, FaultCode};
use serde::{Deserialize, Serialize};

use crate::settings::BadSetting;

/// The word for every tenant.
const EVERY: &str = "*";

/// A submitter as it is written in the settings.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SubmitterSetting {
    /// Its user on the broker.
    pub(crate) user: String,
    /// The tenants that it may submit for; `*` for all.
    pub(crate) tenants: Vec<String>,
}

/// Who may submit for whom. Without anybody in it, whoever the broker lets publish may, for every tenant.
#[derive(Debug, Clone, Default)]
pub(crate) struct Submitters(BTreeMap<String, BTreeSet<String>>);

impl Submitters {
    /// Fails over a user that is there twice, or may submit for nobody.
    pub(crate) fn new(settings: &[SubmitterSetting]) -> Result<Self, BadSetting> {
        let mut map = BTreeMap::new();
        for SubmitterSetting { user, tenants } in settings {
            if user.is_empty() {
                return Err(BadSetting("submitter.user is empty: name a user of the broker".to_owned()));
            }
            if tenants.is_empty() || tenants.iter().any(String::is_empty) {
                return Err(BadSetting(format!(
                    "submitter {user}: name the tenants that it may submit for, or \"{EVERY}\" for all"
                )));
            }
            if map.insert(user.clone(), tenants.iter().cloned().collect()).is_some() {
                return Err(BadSetting(format!(
                    "submitter {user}: it is there twice; name its tenants once"
                )));
            }
        }
        Ok(Self(map))
    }

    /// Whether a user may submit for a tenant. Without a tenant, because the document names none: whether it may submit
    /// at all.
    pub(crate) fn admit(&self, user: Option<&str>, tenant: Option<&str>) -> Result<(), Fault> {
        if self.0.is_empty() {
            return Ok(());
        }
        let refused = |message: String| Err(Fault::new("/tenant", FaultCode::SubmitterNotAllowed, message));
        let Some(user) = user else {
            return refused(
                "the submission does not say whose it is: set the AMQP property user_id to your login on the broker"
                    .to_owned(),
            );
        };
        let Some(tenants) = self.0.get(user) else {
            return refused(format!(
                "user {user} may submit for no tenant: publish under a login that may, or have an operator add it to \
                 [[submitter]]"
            ));
        };
        match tenant {
            Some(tenant) if !tenants.contains(tenant) && !tenants.contains(EVERY) => refused(format!(
                "user {user} may not submit for tenant {tenant}: publish under a login that may, or have an operator \
                 add the tenant to the user's [[submitter]]"
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use figment::Figment;
    use figment::providers::{Format as _, Serialized, Toml};

    use super::*;
    use crate::settings::Settings;

    fn setting(user: &str, tenants: &[&str]) -> SubmitterSetting {
        let tenants = tenants.iter().map(|tenant| (*tenant).to_owned()).collect();
        SubmitterSetting { user: user.to_owned(), tenants }
    }

    #[test]
    fn a_user_speaks_for_its_tenants_and_nobody_else() {
        let settings = [setting("acme-agent", &["acme", "acme-eu"]), setting("ops", &["*"])];
        let submitters = Submitters::new(&settings).unwrap();
        for tenant in ["acme", "acme-eu"] {
            assert_eq!(submitters.admit(Some("acme-agent"), Some(tenant)), Ok(()));
        }
        assert_eq!(submitters.admit(Some("ops"), Some("globex")), Ok(()));
        // A tenant that is called so is no way to all.
        assert!(submitters.admit(Some("acme-agent"), Some("*")).is_err());
        for (user, tenant) in [
            (Some("acme-agent"), Some("globex")),
            (Some("ACME-agent"), Some("acme")),
            (Some("mallory"), Some("acme")),
            (Some("mallory"), None),
            (None, Some("acme")),
            (None, None),
        ] {
            let fault = submitters.admit(user, tenant).unwrap_err();
            assert_eq!((fault.pointer.as_str(), fault.code), ("/tenant", FaultCode::SubmitterNotAllowed));
        }
    }

    #[test]
    fn the_rule_that_the_document_shows_can_be_used() {
        let document = include_str!("../../docs/permissions.md");
        let shown = document.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        let settings: Settings = Figment::from(Serialized::defaults(Settings::default()))
            .merge(Toml::string(shown))
            .extract()
            .unwrap();
        let submitters = settings.submitters().unwrap();
        assert_eq!(submitters.admit(Some("pricing"), Some("globex")), Ok(()));
        assert!(submitters.admit(Some("acme-agent"), Some("globex")).is_err());
    }

    #[test]
    fn with_nobody_named_whoever_may_publish_may_submit() {
        assert_eq!(Submitters::default().admit(None, Some("acme")), Ok(()));
    }

    #[test]
    fn a_rule_that_cannot_be_meant_stops_the_start_with_the_users_name() {
        for settings in [
            vec![setting("ann", &[])],
            vec![setting("ann", &["acme", ""])],
            vec![setting("ann", &["acme"]), setting("ann", &["globex"])],
        ] {
            let said = Submitters::new(&settings).unwrap_err().to_string();
            assert!(said.contains("submitter ann"), "{said}");
        }
        assert!(Submitters::new(&[setting("", &["acme"])]).is_err());
    }
}
