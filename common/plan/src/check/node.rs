//! A value at its place, read as what the contract says it is.

use std::ops::RangeInclusive;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::fault::FaultCode;
use crate::json::{Faults, Place, quoted};

/// A value and where it stands. Each reading method notes a fault and gives nothing where the value is another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node<'v, 'p> {
    pub(super) value: &'v Value,
    pub(super) place: Place<'p>,
}

/// An object and where it stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Object<'v, 'p> {
    fields: &'v Map<String, Value>,
    place: Place<'p>,
}

impl<'v, 'p> Node<'v, 'p> {
    pub(super) const fn root(value: &'v Value) -> Node<'v, 'static> {
        Node { value, place: Place::ROOT }
    }

    fn wrong_type(&self, expected: &str, faults: &mut Faults) {
        let found = match self.value {
            Value::Null => "null (leave an absent field out)",
            Value::Bool(_) => "true or false",
            Value::Number(_) => "a number",
            Value::String(_) => "a text",
            Value::Array(_) => "a list",
            Value::Object(_) => "an object",
        };
        faults.add(&self.place, FaultCode::WrongType, format!("expected {expected}, found {found}"));
    }

    fn out_of_range(&self, message: impl Into<String>, faults: &mut Faults) {
        faults.add(&self.place, FaultCode::OutOfRange, message);
    }

    /// An object with any fields.
    pub(super) fn map(&self, faults: &mut Faults) -> Option<Object<'v, 'p>> {
        let fields = self.value.as_object();
        if fields.is_none() {
            self.wrong_type("an object", faults);
        }
        Some(Object { fields: fields?, place: self.place })
    }

    /// An object with no fields but these.
    pub(super) fn object(&self, known: &[&str], faults: &mut Faults) -> Option<Object<'v, 'p>> {
        let object = self.map(faults)?;
        object.refuse_unknown(known, faults);
        Some(object)
    }

    pub(super) fn list(&self, faults: &mut Faults) -> Option<&'v [Value]> {
        let list = self.value.as_array().map(Vec::as_slice);
        if list.is_none() {
            self.wrong_type("a list", faults);
        }
        list
    }

    /// A list of at most so many items.
    pub(super) fn list_of_at_most(&self, most: usize, faults: &mut Faults) -> Option<&'v [Value]> {
        let list = self.list(faults)?;
        if list.len() > most {
            let message = format!("{} items, more than the {most} allowed", list.len());
            faults.add(&self.place, FaultCode::TooLarge, message);
        }
        Some(list)
    }

    /// An item of the list that stands here.
    pub(super) const fn item<'a>(&'a self, index: usize, value: &'v Value) -> Node<'v, 'a> {
        Node { value, place: self.place.item(index) }
    }

    pub(super) fn any_text(&self, faults: &mut Faults) -> Option<&'v str> {
        let text = self.value.as_str();
        if text.is_none() {
            self.wrong_type("a text", faults);
        }
        text
    }

    /// A text of so many characters.
    pub(super) fn text(&self, chars: RangeInclusive<usize>, faults: &mut Faults) -> Option<&'v str> {
        let text = self.any_text(faults)?;
        let count = text.chars().count();
        if chars.contains(&count) {
            return Some(text);
        }
        let message = format!("{count} characters, expected {} to {}", chars.start(), chars.end());
        let code = if count > *chars.end() { FaultCode::TooLarge } else { FaultCode::OutOfRange };
        faults.add(&self.place, code, message);
        None
    }

    /// A text of a form.
    pub(super) fn form(&self, fits: fn(&str) -> bool, form: &str, faults: &mut Faults) -> Option<&'v str> {
        let text = self.any_text(faults)?;
        if fits(text) {
            return Some(text);
        }
        self.out_of_range(format!("{} is not {form}", quoted(text)), faults);
        None
    }

    /// One of the words of an enumeration.
    pub(super) fn word<T: Deserialize<'v>>(&self, faults: &mut Faults) -> Option<T> {
        let text = self.any_text(faults)?;
        match T::deserialize(self.value) {
            Ok(word) => Some(word),
            Err(error) => {
                // The library's message repeats the text, which may be long, and then lists the words.
                let choices = error.to_string().rsplit_once("expected ").map(|(_, words)| words.to_owned());
                let message = format!("{} is not {}", quoted(text), choices.unwrap_or_default());
                faults.add(&self.place, FaultCode::UnknownValue, message);
                None
            }
        }
    }

    /// A whole number. One written with a fraction or an exponent (`100.0`, `1e2`) is refused: what is no integer in
    /// the text is an integer in some languages and none in others.
    pub(super) fn integer(&self, bounds: RangeInclusive<i64>, faults: &mut Faults) -> Option<i64> {
        let Value::Number(number) = self.value else {
            self.wrong_type("a whole number", faults);
            return None;
        };
        if number.is_f64() {
            let message = format!("expected a whole number without fraction or exponent, found {number}");
            faults.add(&self.place, FaultCode::WrongType, message);
            return None;
        }
        let integer = number.as_i64().filter(|integer| bounds.contains(integer));
        if integer.is_none() {
            self.out_of_range(
                format!("{number} is not within {} to {}", bounds.start(), bounds.end()),
                faults,
            );
        }
        integer
    }

    pub(super) fn number(&self, faults: &mut Faults) -> Option<f64> {
        let number = self.value.as_f64();
        if number.is_none() {
            self.wrong_type("a number", faults);
        }
        number
    }

    pub(super) fn boolean(&self, faults: &mut Faults) -> Option<bool> {
        let boolean = self.value.as_bool();
        if boolean.is_none() {
            self.wrong_type("true or false", faults);
        }
        boolean
    }

    /// An RFC 3339 date and time.
    pub(super) fn time(&self, faults: &mut Faults) -> Option<DateTime<Utc>> {
        let text = self.any_text(faults)?;
        // `FromStr`, by which the document is read afterwards, takes looser forms as well.
        let time = DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc());
        if time.is_none() {
            let message = format!("{} is not an RFC 3339 time such as 2026-11-22T00:00:00Z", quoted(text));
            self.out_of_range(message, faults);
        }
        time
    }
}

impl<'v> Object<'v, '_> {
    pub(super) fn refuse_unknown(&self, known: &[&str], faults: &mut Faults) {
        for name in self.fields.keys().filter(|name| !known.contains(&name.as_str())) {
            let message = format!("unknown field {}, expected one of {}", quoted(name), known.join(", "));
            faults.add(&self.place.field(name), FaultCode::UnknownField, message);
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.fields.contains_key(name)
    }

    /// A field that may be absent.
    pub(super) fn get<'a>(&'a self, name: &'a str) -> Option<Node<'v, 'a>> {
        Some(Node { value: self.fields.get(name)?, place: self.place.field(name) })
    }

    /// A field that may be absent or `null`.
    pub(super) fn get_unless_null<'a>(&'a self, name: &'a str) -> Option<Node<'v, 'a>> {
        self.get(name).filter(|node| !node.value.is_null())
    }

    /// A field that must be there.
    pub(super) fn require<'a>(&'a self, name: &'a str, faults: &mut Faults) -> Option<Node<'v, 'a>> {
        let node = self.get(name);
        if node.is_none() {
            self.fault_at(name, FaultCode::Missing, format!("'{name}' is required"), faults);
        }
        node
    }

    /// All fields, in the order of their names.
    pub(super) fn iter<'a>(&'a self) -> impl Iterator<Item = (&'v str, Node<'v, 'a>)> {
        self.fields.iter().map(|(name, value)| (name.as_str(), Node { value, place: self.place.field(name) }))
    }

    /// Notes a fault of the object as a whole.
    pub(super) fn fault(&self, code: FaultCode, message: impl Into<String>, faults: &mut Faults) {
        faults.add(&self.place, code, message);
    }

    /// Notes a fault of a field that need not be there.
    pub(super) fn fault_at(
        &self,
        name: &str,
        code: FaultCode,
        message: impl Into<String>,
        faults: &mut Faults,
    ) {
        faults.add(&self.place.field(name), code, message);
    }
}
