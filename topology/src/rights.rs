//! What each party may do on the broker: the least that it needs, as RabbitMQ's permissions.
//!
//! **Owns** them, as it owns the names that they are about. **May be called** by `dat topology print --rights`, by the
//! tests that try each, and by whoever sets a broker up. **Must never** set them itself: DAT has no administrator's login.
//!
//! RabbitMQ knows patterns over the names of exchanges and queues for configuring (declaring), writing (publishing, and
//! binding a queue) and reading (consuming, and binding to an exchange), and for topic exchanges patterns over routing
//! keys. It knows none over the queues behind the default exchange: whoever may write to `amq.default` reaches every queue.

use serde::Serialize;

use crate::exchange::Exchange;
use crate::key;
use crate::queue::{Outside, Queue, Stage};
use crate::topology::Topology;

/// Queues that the broker names, each of one connection.
const OWN: &str = r"amq\.gen-.*";
/// The default exchange.
const DEFAULT: &str = r"amq\.default";
/// Nothing.
const NOTHING: &str = "^$";

/// Who has a login of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Party {
    /// Declares exchanges and queues: `dat topology apply`.
    Administrator,
    /// `dat worker`, in every role.
    Worker,
    /// Submits plans.
    Submitter,
    /// Submits plans and hears what becomes of them: of everybody's, as events are not divided by tenant.
    Follower,
    /// Gives verdicts, and brings the queues that it is asked on.
    Governance,
    /// A person whom governance asks: `dat approve --to-ggp`.
    Approver,
    /// Carries actions out.
    Mux,
    /// Takes financial events.
    Flo,
    /// Takes performance events.
    Pte,
    /// Every other command: `dat control`, `dat dead`, `dat plan`.
    Operator,
}

/// Permissions of one user in one virtual host, each a regular expression over names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rights {
    /// What may be declared and deleted.
    pub configure: String,
    /// What may be published to, and bound.
    pub write: String,
    /// What may be consumed, and bound to.
    pub read: String,
    /// What narrows them for a topic exchange.
    pub topics: Vec<TopicRights>,
}

/// Permissions over the routing keys of one topic exchange.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TopicRights {
    /// The exchange.
    pub exchange: String,
    /// Keys that may be published with.
    pub write: String,
    /// Keys that may be bound by.
    pub read: String,
}

impl Party {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Administrator,
        Self::Worker,
        Self::Submitter,
        Self::Follower,
        Self::Governance,
        Self::Approver,
        Self::Mux,
        Self::Flo,
        Self::Pte,
        Self::Operator,
    ];

    /// Its name, which examples use for its user.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Administrator => "administrator",
            Self::Worker => "worker",
            Self::Submitter => "submitter",
            Self::Follower => "follower",
            Self::Governance => "governance",
            Self::Approver => "approver",
            Self::Mux => "mux",
            Self::Flo => "flo",
            Self::Pte => "pte",
            Self::Operator => "operator",
        }
    }
}

impl Topology {
    /// The least that a party needs.
    #[must_use]
    pub fn rights(&self, party: Party) -> Rights {
        let exchange = |exchange| escaped(self.exchange(exchange).name());
        let exchanges = |list: &[Exchange]| list.iter().map(|one| exchange(*one)).collect::<Vec<_>>();
        let queue = |queue: Queue| escaped(self.queue(queue).name());
        let keyed = |of: Exchange, keys: &[&str]| {
            let keys: Vec<String> = keys.iter().map(|key| escaped(key)).collect();
            vec![TopicRights {
                exchange: self.exchange(of).name,
                write: one_of(&keys),
                read: NOTHING.to_owned(),
            }]
        };
        // A system around DAT brings its own queues, bound to its exchange.
        let outside = |of: Exchange, queues: &[Outside], also: &[String]| {
            let own: Vec<String> = queues.iter().map(|one| queue((*one).into())).collect();
            Rights {
                configure: one_of(&own),
                write: one_of(&[&own, also].concat()),
                read: one_of(&[&[exchange(of)], &own[..]].concat()),
                topics: Vec::new(),
            }
        };
        let own = || vec![OWN.to_owned()];
        match party {
            Party::Administrator => {
                let (all, queues) = (exchanges(&Exchange::ALL), Queue::ALL.map(queue).to_vec());
                let names = one_of(&[&all[..], &queues].concat());
                // To bind, a queue is written and an exchange is read; to name where a queue parks, that is written.
                let write = one_of(&[exchanges(&[Exchange::Dead]), queues].concat());
                Rights { configure: names.clone(), write, read: names, topics: Vec::new() }
            }
            Party::Worker => {
                use Exchange::{Control, Dead, Events, Flo, Ggp, Mux, Pte, Steps};
                let write = [exchanges(&[Steps, Ggp, Mux, Flo, Pte, Events, Dead]), own()].concat();
                let queues = Stage::ALL.map(|stage| queue(stage.into())).to_vec();
                let read = [queues, vec![exchange(Control)], own()].concat();
                Rights {
                    configure: one_of(&own()),
                    write: one_of(&write),
                    read: one_of(&read),
                    topics: Vec::new(),
                }
            }
            Party::Submitter => Rights {
                configure: NOTHING.to_owned(),
                write: one_of(&exchanges(&[Exchange::Plans])),
                read: NOTHING.to_owned(),
                topics: keyed(Exchange::Plans, &[key::PLAN_SUBMITTED]),
            },
            Party::Follower => Rights {
                configure: one_of(&own()),
                write: one_of(&[exchanges(&[Exchange::Plans]), own()].concat()),
                read: one_of(&[exchanges(&[Exchange::Events]), own()].concat()),
                topics: keyed(Exchange::Plans, &[key::PLAN_SUBMITTED]),
            },
            Party::Governance => {
                let queues = [Outside::GgpRequests, Outside::GgpApprovals];
                let rights = outside(Exchange::Ggp, &queues, &exchanges(&[Exchange::Plans]));
                let verdicts = [key::PLAN_APPROVED, key::PLAN_REJECTED, key::PLAN_REVOKED];
                Rights { topics: keyed(Exchange::Plans, &verdicts), ..rights }
            }
            Party::Approver => Rights {
                configure: NOTHING.to_owned(),
                write: one_of(&exchanges(&[Exchange::Ggp])),
                read: NOTHING.to_owned(),
                topics: keyed(Exchange::Ggp, &[key::PLAN_APPROVAL]),
            },
            Party::Mux => outside(Exchange::Mux, &[Outside::MuxActions], &[DEFAULT.to_owned()]),
            Party::Flo => outside(Exchange::Flo, &[Outside::FloEvents], &[]),
            Party::Pte => outside(Exchange::Pte, &[Outside::PteEvents], &[]),
            Party::Operator => {
                let write = exchanges(&[Exchange::Plans, Exchange::Control]);
                let dead = Stage::ALL.map(|stage| queue(Queue::Dead(stage))).to_vec();
                Rights {
                    configure: one_of(&own()),
                    write: one_of(&[write, vec![DEFAULT.to_owned()], own()].concat()),
                    read: one_of(&[dead, exchanges(&[Exchange::Events]), own()].concat()),
                    topics: keyed(Exchange::Plans, &[key::PLAN_SUBMITTED]),
                }
            }
        }
    }
}

impl Rights {
    /// The commands that give them to a user, for a shell.
    #[must_use]
    pub fn commands(&self, user: &str, vhost: &str) -> Vec<String> {
        let Self { configure, write, read, topics } = self;
        let all = format!("rabbitmqctl set_permissions -p '{vhost}' {user} '{configure}' '{write}' '{read}'");
        let topics = topics.iter().map(|TopicRights { exchange, write, read }| {
            format!("rabbitmqctl set_topic_permissions -p '{vhost}' {user} {exchange} '{write}' '{read}'")
        });
        std::iter::once(all).chain(topics).collect()
    }
}

/// A name as a pattern that matches it and nothing else.
fn escaped(name: &str) -> String {
    let mut pattern = String::with_capacity(name.len() + 4);
    for letter in name.chars() {
        if !(letter.is_alphanumeric() || matches!(letter, '_' | '-')) {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern
}

/// A pattern that matches what one of these does, whole.
fn one_of(patterns: &[String]) -> String {
    match patterns {
        [] => NOTHING.to_owned(),
        [one] => format!("^{one}$"),
        several => format!("^({})$", several.join("|")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_submitter_may_submit_and_nothing_else() {
        let rights = Topology::new(None).rights(Party::Submitter);
        assert_eq!((rights.configure.as_str(), rights.read.as_str()), ("^$", "^$"));
        assert_eq!(rights.write, r"^dat\.plans$");
        let [topic] = &rights.topics[..] else { panic!("{rights:?}") };
        assert_eq!((topic.exchange.as_str(), topic.write.as_str()), ("dat.plans", r"^plan\.submitted$"));
    }

    #[test]
    fn only_governance_may_publish_verdicts() {
        for party in Party::ALL {
            let rights = Topology::new(Some("blue")).rights(party);
            let writes = rights.write.contains(r"blue\.dat\.plans");
            let topic = rights.topics.iter().find(|topic| topic.exchange == "blue.dat.plans");
            let verdicts = match topic {
                Some(topic) => topic.write.contains("approved"),
                None => writes,
            };
            assert_eq!(writes && verdicts, party == Party::Governance, "{}: {rights:?}", party.as_str());
        }
    }

    #[test]
    fn the_document_has_the_commands_as_they_are() {
        let document = include_str!("../../docs/permissions.md");
        for party in Party::ALL {
            for command in Topology::new(None).rights(party).commands(party.as_str(), "/") {
                assert!(document.contains(&command), "docs/permissions.md does not have: {command}");
            }
        }
    }
}
