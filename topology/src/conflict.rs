//! What is there already under a name of ours, and differs.

use std::fmt;

use crate::drift::Part;

/// One part that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// What was declared.
    pub part: Part,
    /// The property or argument that differs; `None` if the broker's words could not be read.
    pub property: Option<String>,
    /// The broker's words for the difference.
    pub detail: String,
}

impl Conflict {
    /// Reads what the broker says, as in `PRECONDITION_FAILED - inequivalent arg 'x-delivery-limit' for queue 'q' in
    /// vhost '/': received '20' but current is '10'`.
    pub(crate) fn read(part: Part, text: &str) -> Self {
        let read = text
            .split_once("inequivalent arg '")
            .and_then(|(_, rest)| rest.split_once('\''))
            .and_then(|(property, rest)| Some((property, rest.rsplit_once("': ")?.1)));
        match read {
            Some((property, detail)) => {
                Self { part, property: Some(property.to_owned()), detail: detail.to_owned() }
            }
            None => Self { part, property: None, detail: text.to_owned() },
        }
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} exists with another ", self.part)?;
        f.write_str(self.property.as_deref().unwrap_or("declaration"))?;
        write!(f, " ({}). RabbitMQ cannot change it in place: ", self.detail)?;
        match &self.part {
            Part::Queue(name) => write!(
                f,
                "let the workers drain it, delete it while it is empty (rabbitmqctl delete_queue --if-empty \"{name}\"), \
                 and apply again; or give this fleet a namespace of its own"
            ),
            Part::Exchange(name) => write!(
                f,
                "stop who publishes to it, delete it (rabbitmqadmin delete exchange name=\"{name}\"), and apply again, \
                 which binds it anew; or give this fleet a namespace of its own"
            ),
            Part::Binding(_) => f.write_str("unbind it and apply again"),
        }
    }
}

/// All parts that differ.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Conflicts(pub Vec<Conflict>);

impl fmt::Display for Conflicts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> Part {
        Part::Queue("plan.submitted".to_owned())
    }

    #[test]
    fn the_brokers_words_name_the_difference() {
        let text = "PRECONDITION_FAILED - inequivalent arg 'x-delivery-limit' for queue 'plan.submitted' in vhost \
                    '/': received '20' but current is '10'";
        let conflict = Conflict::read(queue(), text);
        assert_eq!(conflict.property.as_deref(), Some("x-delivery-limit"));
        assert_eq!(conflict.detail, "received '20' but current is '10'");
        let said = conflict.to_string();
        assert!(
            said.starts_with("queue plan.submitted exists with another x-delivery-limit (received '20'"),
            "{said}"
        );
        assert!(said.contains("delete_queue"), "{said}");
    }

    #[test]
    fn words_of_another_form_are_passed_on() {
        let conflict = Conflict::read(queue(), "PRECONDITION_FAILED - something new");
        assert_eq!(conflict.property, None);
        assert!(conflict.to_string().contains("something new"));
    }
}
