//! The faults found so far, bounded in number and bytes.

use std::collections::HashSet;

use super::place::Place;
use crate::fault::{Fault, FaultCode};

/// The most faults listed for one document.
pub(crate) const MOST: usize = 1_000;
/// The most bytes that the faults of one document take: pointers repeat the sender's keys, which may be long.
pub(crate) const MOST_BYTES: usize = 1024 * 1024;

/// Collects faults; what is found past the bounds is not kept.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    list: Vec<Fault>,
    bytes: usize,
    full: bool,
}

impl Faults {
    /// Notes a fault at a place.
    ///
    /// U+0000 is written as `\u0000`, since the faults themselves go into the log, which cannot store it.
    pub(crate) fn add(&mut self, place: &Place<'_>, code: FaultCode, message: impl Into<String>) {
        if self.full {
            return;
        }
        let fault = Fault::new(storable(place.to_string()), code, storable(message.into()));
        let bytes = fault.pointer.len() + fault.message.len();
        if self.bytes + bytes > MOST_BYTES {
            self.full = true;
            if self.list.is_empty() {
                self.list.push(Fault::new(
                    "",
                    code,
                    "a fault at a place whose pointer is too long to be listed",
                ));
            }
            return;
        }
        self.bytes += bytes;
        self.list.push(fault);
        self.full = self.list.len() == MOST;
    }

    /// Whether further faults are still listed; once not, there is no use in looking on.
    pub(crate) const fn is_full(&self) -> bool {
        self.full
    }

    /// Whether nothing was found.
    pub(crate) const fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The faults in the order of their pointers (list items by number), each place and kind once.
    pub(crate) fn into_list(self) -> Vec<Fault> {
        let mut list = self.list;
        let mut seen = HashSet::new();
        list.retain(|fault| seen.insert((fault.pointer.clone(), fault.code)));
        list.sort_by_cached_key(|fault| fault.pointer.split('/').map(token_order).collect::<Vec<_>>());
        list
    }
}

/// Orders list items by number, before fields by name.
fn token_order(token: &str) -> (u64, String) {
    token.parse().map_or_else(|_| (u64::MAX, token.to_owned()), |number| (number, String::new()))
}

fn storable(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "\\u0000") } else { text }
}

/// A text of the sender's, for a message: in quotes, control characters escaped, cut after 60 characters.
pub(crate) fn quoted(text: &str) -> String {
    const SHOWN: usize = 60;
    let shown: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN).is_some() { format!("'{shown}…'") } else { format!("'{shown}'") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_come_in_document_order_and_once_each() {
        let mut faults = Faults::default();
        let root = Place::ROOT;
        let steps = root.field("steps");
        for index in [10, 2, 10] {
            faults.add(&steps.item(index), FaultCode::WrongType, "no object");
        }
        let pointers: Vec<String> = faults.into_list().into_iter().map(|fault| fault.pointer).collect();
        assert_eq!(pointers, ["/steps/2", "/steps/10"]);
    }

    #[test]
    fn number_and_bytes_of_faults_are_bounded() {
        let mut faults = Faults::default();
        let root = Place::ROOT;
        for index in 0..2 * MOST {
            faults.add(&root.item(index), FaultCode::WrongType, "no object");
        }
        assert!(faults.is_full());
        assert_eq!(faults.into_list().len(), MOST);

        let mut faults = Faults::default();
        let long = "k".repeat(MOST_BYTES + 1);
        faults.add(&root.field(&long), FaultCode::Unstorable, "U+0000");
        let list = faults.into_list();
        assert_eq!((list.len(), list[0].pointer.as_str()), (1, ""), "one fault is always left");
    }

    #[test]
    fn a_fault_can_itself_be_stored() {
        let mut faults = Faults::default();
        let root = Place::ROOT;
        faults.add(&root.field("a\0b"), FaultCode::Unstorable, "key 'a\0b'");
        let list = faults.into_list();
        assert_eq!((list[0].pointer.as_str(), list[0].message.as_str()), ("/a\\u0000b", "key 'a\\u0000b'"));
    }

    #[test]
    fn a_quotation_is_short_and_shows_control_characters() {
        assert_eq!(quoted("a\u{1b}"), "'a\\u{1b}'");
        assert_eq!(quoted(&"x".repeat(61)), format!("'{}…'", "x".repeat(60)));
    }
}
