//! Signatures: who stands for a verdict, an approval or a checkpoint of the log.
//!
//! **Owns** one form of signature for everything that DAT signs or has signed: Ed25519 (RFC 8032) over the RFC 8785
//! form of a JSON object without its member `signature`, the key named by the member `key_id`.
//! **May be called** by whoever makes or checks such an object.
//! **Must never** read a key from anywhere, or the time: both are parameters.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use ring::rand::SecureRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::hash::canonical;

/// The 32 bytes of an Ed25519 public key; as text, 64 hex digits (base64 is read too).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Reads a key: 64 hex digits, or 32 bytes in base64.
    pub fn parse(text: &str) -> Result<Self, SignatureFault> {
        bytes::<32>(text).map(Self).ok_or_else(|| SignatureFault::NotAKey(text.to_owned()))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// A key that is believed, and when. Keys are rotated by adding the next before the last one's end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustedKey {
    /// What `key_id` says.
    pub key_id: String,
    /// The key.
    pub public_key: PublicKey,
    /// It is not believed before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<DateTime<Utc>>,
    /// It is not believed from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<DateTime<Utc>>,
}

/// The keys that are believed, by their ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyRing(BTreeMap<String, TrustedKey>);

impl KeyRing {
    /// A ring of keys. Fails where two have one id: which of them signed could not be told.
    pub fn new(keys: impl IntoIterator<Item = TrustedKey>) -> Result<Self, SignatureFault> {
        let mut ring = BTreeMap::new();
        for key in keys {
            if let Some(other) = ring.insert(key.key_id.clone(), key) {
                return Err(SignatureFault::TwoKeys(other.key_id));
            }
        }
        Ok(Self(ring))
    }

    /// Whether no key is configured.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The keys, by their ids.
    pub fn keys(&self) -> impl Iterator<Item = &TrustedKey> {
        self.0.values()
    }

    /// Whether an object is signed by a key that was believed at `at`; the id of that key.
    pub fn verify(&self, object: &Value, at: DateTime<Utc>) -> Result<&str, SignatureFault> {
        let member = |name: &'static str| {
            object.get(name).and_then(Value::as_str).ok_or(SignatureFault::Missing(name))
        };
        let (key_id, signature) = (member("key_id")?, member("signature")?);
        let key = self.0.get(key_id).ok_or_else(|| SignatureFault::UnknownKey(key_id.to_owned()))?;
        if let Some(from) = key.not_before.filter(|from| at < *from) {
            return Err(SignatureFault::NotYet { key_id: key.key_id.clone(), from });
        }
        if let Some(end) = key.not_after.filter(|end| at >= *end) {
            return Err(SignatureFault::Expired { key_id: key.key_id.clone(), end });
        }
        let signature = bytes::<64>(signature).ok_or(SignatureFault::NotASignature)?;
        UnparsedPublicKey::new(&ED25519, key.public_key.0)
            .verify(&signed_part(object)?, &signature)
            .map_err(|_| SignatureFault::Wrong(key.key_id.clone()))?;
        Ok(&key.key_id)
    }
}

/// Whose signatures are believed, by what they stand under. Where a ring is empty, signatures are not asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    /// Governance's, under verdicts.
    pub verdicts: KeyRing,
    /// People's, under approvals that governance gathers.
    pub approvals: KeyRing,
    /// DAT's own, under checkpoints of the log.
    pub checkpoints: KeyRing,
}

/// A key that signs. Its secret is never shown.
pub struct SigningKey {
    key_id: String,
    pair: Ed25519KeyPair,
}

impl SigningKey {
    /// The key of a seed: 32 bytes, as 64 hex digits or in base64.
    pub fn from_seed(key_id: &str, seed: &str) -> Result<Self, SignatureFault> {
        let seed = bytes::<32>(seed.trim()).ok_or(SignatureFault::NotASeed)?;
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| SignatureFault::NotASeed)?;
        Ok(Self { key_id: key_id.to_owned(), pair })
    }

    /// A new seed, as 64 hex digits.
    pub fn new_seed(random: &dyn SecureRandom) -> Result<String, SignatureFault> {
        let mut seed = [0; 32];
        random.fill(&mut seed).map_err(|_| SignatureFault::NoRandomness)?;
        Ok(hex::encode(seed))
    }

    /// The key's id.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The public half.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        let mut key = [0; 32];
        key.copy_from_slice(self.pair.public_key().as_ref());
        PublicKey(key)
    }

    /// This key as one to be believed, always.
    #[must_use]
    pub fn trusted(&self) -> TrustedKey {
        TrustedKey {
            key_id: self.key_id.clone(),
            public_key: self.public_key(),
            not_before: None,
            not_after: None,
        }
    }

    /// Signs an object: sets its `key_id` and `signature` (base64).
    pub fn sign(&self, object: &mut Value) -> Result<(), SignatureFault> {
        let members = object.as_object_mut().ok_or(SignatureFault::NotAnObject)?;
        members.insert("key_id".to_owned(), self.key_id.clone().into());
        let signature = self.pair.sign(&signed_part(object)?);
        if let Some(members) = object.as_object_mut() {
            members.insert("signature".to_owned(), STANDARD.encode(signature.as_ref()).into());
        }
        Ok(())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// Why a signature does not stand, or cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureFault {
    /// A member that a signed object has.
    #[error("it is not signed: it has no '{0}'")]
    Missing(&'static str),
    /// Signed with a key that nobody configured.
    #[error("key '{0}' is not one that is trusted here")]
    UnknownKey(String),
    /// Signed before the key's time.
    #[error("key '{key_id}' is trusted from {from} on")]
    NotYet {
        /// The key.
        key_id: String,
        /// From then on.
        from: DateTime<Utc>,
    },
    /// Signed after the key's time.
    #[error("key '{key_id}' is trusted no more since {end}")]
    Expired {
        /// The key.
        key_id: String,
        /// Since then.
        end: DateTime<Utc>,
    },
    /// Not 64 bytes.
    #[error("the signature is neither 128 hex digits nor 64 bytes in base64")]
    NotASignature,
    /// It was signed with another key, or what was signed was altered.
    #[error("the signature is not that of key '{0}' over what it stands under")]
    Wrong(String),
    /// Not 32 bytes.
    #[error("'{0}' is no Ed25519 public key: 64 hex digits, or 32 bytes in base64")]
    NotAKey(String),
    /// Not 32 bytes. The text is secret, so it is not shown.
    #[error("the seed of a signing key is 64 hex digits, or 32 bytes in base64")]
    NotASeed,
    /// The system gave no random bytes.
    #[error("the system gives no random bytes for a key")]
    NoRandomness,
    /// Two keys of one id.
    #[error("two keys have the id '{0}': give each its own")]
    TwoKeys(String),
    /// Only objects are signed.
    #[error("only a JSON object can be signed")]
    NotAnObject,
    /// It holds a number without a canonical form.
    #[error("{0}")]
    NoCanonicalForm(String),
}

/// What a signature is over: the canonical form of the object without its `signature`.
fn signed_part(object: &Value) -> Result<Vec<u8>, SignatureFault> {
    let mut members = object.as_object().ok_or(SignatureFault::NotAnObject)?.clone();
    members.remove("signature");
    canonical(&members).map_err(|fault| SignatureFault::NoCanonicalForm(fault.to_string()))
}

/// `N` bytes, as hex digits or in base64; the two never have one length.
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let decoded = if text.len() == 2 * N { hex::decode(text).ok() } else { STANDARD.decode(text).ok() };
    decoded?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone as _;
    use serde_json::json;

    use super::*;

    // RFC 8032, section 7.1, test 1.
    const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
    const PUBLIC: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

    fn moment(hour: u32) -> DateTime<Utc> {
        Utc.with_ymd_and_hms(2026, 12, 1, hour, 0, 0).single().expect("a time")
    }

    fn signed() -> (SigningKey, Value) {
        let key = SigningKey::from_seed("ggp-1", SEED).expect("a seed");
        let mut object = json!({"outcome": "approved", "b": 1.0, "a": "ä"});
        key.sign(&mut object).expect("signed");
        (key, object)
    }

    #[test]
    fn the_public_key_of_a_seed_is_that_of_the_rfc() {
        let (key, _) = signed();
        assert_eq!(key.public_key(), PublicKey::parse(PUBLIC).expect("a key"));
        let base64 = STANDARD.encode(hex::decode(PUBLIC).expect("hex"));
        assert_eq!(PublicKey::parse(&base64), PublicKey::parse(PUBLIC));
    }

    #[test]
    fn what_was_signed_is_believed_in_its_keys_time_alone() {
        let (key, object) = signed();
        let bounded = TrustedKey { not_before: Some(moment(2)), not_after: Some(moment(4)), ..key.trusted() };
        let ring = KeyRing::new([bounded]).expect("a ring");
        assert_eq!(ring.verify(&object, moment(2)), Ok("ggp-1"));
        assert!(matches!(ring.verify(&object, moment(1)), Err(SignatureFault::NotYet { .. })));
        assert!(matches!(ring.verify(&object, moment(4)), Err(SignatureFault::Expired { .. })));
    }

    #[test]
    fn whatever_is_altered_is_refused() {
        let (key, object) = signed();
        let ring = KeyRing::new([key.trusted()]).expect("a ring");
        let with = |name: &str, value: Value| {
            let mut altered = object.clone();
            altered[name] = value;
            ring.verify(&altered, moment(1)).map(ToOwned::to_owned)
        };
        assert_eq!(with("outcome", json!("rejected")), Err(SignatureFault::Wrong("ggp-1".to_owned())));
        assert_eq!(with("new", json!(1)), Err(SignatureFault::Wrong("ggp-1".to_owned())));
        assert_eq!(with("key_id", json!("ggp-2")), Err(SignatureFault::UnknownKey("ggp-2".to_owned())));
        assert_eq!(with("signature", json!("abc")), Err(SignatureFault::NotASignature));
        assert_eq!(with("signature", json!(null)), Err(SignatureFault::Missing("signature")));
    }

    #[test]
    fn another_key_of_the_same_id_is_not_the_key() {
        let (_, object) = signed();
        let other = SigningKey::from_seed("ggp-1", &"07".repeat(32)).expect("a seed");
        let ring = KeyRing::new([other.trusted()]).expect("a ring");
        assert_eq!(ring.verify(&object, moment(1)), Err(SignatureFault::Wrong("ggp-1".to_owned())));
        let twice = KeyRing::new([other.trusted(), other.trusted()]);
        assert_eq!(twice, Err(SignatureFault::TwoKeys("ggp-1".to_owned())));
    }

    #[test]
    fn a_signing_key_does_not_show_its_secret() {
        let (key, _) = signed();
        assert_eq!(format!("{key:?}"), r#"SigningKey { key_id: "ggp-1", .. }"#);
    }
}
