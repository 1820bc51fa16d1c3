//! The reader that builds a value and notes what is wrong on the way.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::map::Entry;
use serde_json::{Map, Number, Value};

use super::faults::{Faults, quoted};
use super::place::Place;
use crate::amount;
use crate::document::limits;
use crate::fault::FaultCode;

/// With the feature `raw_value`, which any crate of a build may turn on, `serde_json` takes an object with such a key
/// for JSON in a text and replaces the object by it: a plan would run with parameters that nobody approved.
const RESERVED: &str = "$serde_json::private::";

/// Reads the value at one place.
pub(super) struct Reader<'a> {
    place: &'a Place<'a>,
    depth: usize,
    faults: &'a mut Faults,
    too_deep: &'a mut bool,
}

impl<'a> Reader<'a> {
    pub(super) const fn new(place: &'a Place<'a>, faults: &'a mut Faults, too_deep: &'a mut bool) -> Self {
        Self { place, depth: 0, faults, too_deep }
    }

    const fn inner<'b>(&'b mut self, place: &'b Place<'b>) -> Reader<'b> {
        Reader { place, depth: self.depth + 1, faults: self.faults, too_deep: self.too_deep }
    }

    fn descend<E: Error>(&mut self) -> Result<(), E> {
        if self.depth < limits::DEPTH {
            return Ok(());
        }
        *self.too_deep = true;
        Err(E::custom("too deep"))
    }

    fn text(&mut self, text: String) -> Value {
        if text.contains('\0') {
            self.faults.add(
                self.place,
                FaultCode::Unstorable,
                "the text holds U+0000, which cannot be stored",
            );
        }
        Value::String(text)
    }

    fn key(&mut self, name: &str, repeated: bool) {
        let place = self.place.field(name);
        if repeated {
            self.faults.add(
                &place,
                FaultCode::Duplicate,
                format!("the key {} stands here twice", quoted(name)),
            );
        }
        if name.contains('\0') {
            self.faults.add(&place, FaultCode::Unstorable, "the key holds U+0000, which cannot be stored");
        }
        if name.starts_with(RESERVED) {
            self.faults.add(&place, FaultCode::OutOfRange, format!("a key must not start with '{RESERVED}'"));
        }
    }

    fn integer(&mut self, number: Number, magnitude: u64) -> Value {
        if magnitude > amount::MAX.unsigned_abs() {
            let message = "an integer beyond ±9007199254740991 has no exact canonical form: send it as text";
            self.faults.add(self.place, FaultCode::OutOfRange, message);
        }
        Value::Number(number)
    }
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<Value, D::Error> {
        source.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(mut self, value: i64) -> Result<Value, E> {
        Ok(self.integer(value.into(), value.unsigned_abs()))
    }

    fn visit_u64<E>(mut self, value: u64) -> Result<Value, E> {
        Ok(self.integer(value.into(), value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(mut self, value: &str) -> Result<Value, E> {
        Ok(self.text(value.to_owned()))
    }

    fn visit_string<E>(mut self, value: String) -> Result<Value, E> {
        Ok(self.text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut source: A) -> Result<Value, A::Error> {
        self.descend()?;
        let mut items = Vec::new();
        let place = self.place;
        while let Some(item) = source.next_element_seed(self.inner(&place.item(items.len())))? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut source: A) -> Result<Value, A::Error> {
        self.descend()?;
        let mut fields = Map::new();
        let place = self.place;
        while let Some(name) = source.next_key::<String>()? {
            self.key(&name, fields.contains_key(&name));
            let value = source.next_value_seed(self.inner(&place.field(&name)))?;
            if let Entry::Vacant(free) = fields.entry(name) {
                free.insert(value);
            }
        }
        Ok(Value::Object(fields))
    }
}
