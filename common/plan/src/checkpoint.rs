//! Checkpoints: where the streams of the log ended at a moment, under one signed root, each chained to the one before.
//!
//! **Owns** the form of a checkpoint and of its leaves, and the Merkle tree over them: that of RFC 9162, section 2.1
//! (SHA-256, leaf and node hashes apart by their first byte), as certificate transparency has it. A leaf's bytes are the
//! RFC 8785 form of [`Leaf`]. **May be called** by whoever seals, publishes or checks the log.
//! **Must never** read rows, keys or the time: all are parameters.

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};
use ct_merkle::mem_backed_tree::MemoryBackedTree;
use ct_merkle::{InclusionProof, RootHash};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::hash::{NoCanonicalForm, canonical};
use crate::ids::PlanKey;
use crate::signing::{KeyRing, SignatureFault, SigningKey};

/// The form of checkpoints that this version writes and reads.
pub const FORMAT: u32 = 1;
/// Leaves of a checkpoint, about: what grew beyond that is sealed by the next.
pub const LEAVES: usize = 10_000;

/// 32 bytes of SHA-256; as text, 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogHash(pub [u8; 32]);

impl LogHash {
    /// What the first checkpoint is chained to.
    pub const START: Self = Self([0; 32]);

    /// Reads 32 bytes; none where there are more or fewer.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for LogHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for LogHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for LogHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for LogHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let lower = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        hex::decode(&text)
            .ok()
            .filter(|_| lower)
            .and_then(|bytes| Self::of(&bytes))
            .ok_or_else(|| serde::de::Error::custom(format!("'{text}' is not 64 lowercase hex digits")))
    }
}

/// Where one stream ended: its last event's place and hash, and so everything before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leaf {
    /// The plan; all zeros for the control stream.
    pub plan_id: Uuid,
    /// Its version; 0 for the control stream.
    pub plan_version: i32,
    /// The last event's place.
    pub last_sequence: i64,
    /// The last event's hash.
    pub last_hash: LogHash,
}

impl Leaf {
    /// The stream.
    #[must_use]
    pub const fn plan(&self) -> PlanKey {
        PlanKey::new(self.plan_id, self.plan_version)
    }
}

/// The tree over the leaves of a checkpoint, in their order.
#[derive(Debug)]
pub struct Tree(MemoryBackedTree<Sha256, Vec<u8>>);

impl Tree {
    /// The tree over leaves.
    pub fn of(leaves: &[Leaf]) -> Result<Self, NoCanonicalForm> {
        let mut tree = MemoryBackedTree::new();
        for leaf in leaves {
            tree.push(canonical(leaf)?);
        }
        Ok(Self(tree))
    }

    /// Its root.
    #[must_use]
    pub fn root(&self) -> LogHash {
        LogHash((*self.0.root().as_bytes()).into())
    }

    /// The path from a leaf to the root: the neighbour's hash at each level, the leaf's own first. None where the tree
    /// has no such leaf.
    #[must_use]
    pub fn proof(&self, place: usize) -> Option<Vec<LogHash>> {
        self.0.get(place)?;
        Some(self.0.prove_inclusion(place).as_bytes().chunks(32).filter_map(LogHash::of).collect())
    }
}

/// A checkpoint of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// The form of this object: [`FORMAT`].
    pub format: u32,
    /// Whose log: the fleet's namespace, `dat` where it has none.
    pub origin: String,
    /// Its place in the chain, from 1, without a gap.
    pub number: i64,
    /// When it was made; never before the one before it.
    #[serde(serialize_with = "micros")]
    pub at: DateTime<Utc>,
    /// How many leaves the tree has.
    pub leaves: u32,
    /// The tree's root.
    pub root: LogHash,
    /// The hash of the checkpoint before; zeros for the first.
    pub previous: LogHash,
    /// The key that signed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// Ed25519 over the RFC 8785 form of this object without this member, in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}

/// As events have it: microseconds, as many as the database keeps.
fn micros<S: Serializer>(at: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&at.to_rfc3339_opts(SecondsFormat::Micros, true))
}

/// Why a text is no checkpoint.
#[derive(Debug, thiserror::Error)]
#[error("it is no checkpoint: {0}")]
pub struct NoCheckpoint(#[from] serde_json::Error);

impl Checkpoint {
    /// Reads a checkpoint as it is printed, or the event `audit.checkpoint` that published it.
    pub fn read(text: &str) -> Result<Self, NoCheckpoint> {
        let mut value: Value = serde_json::from_str(text)?;
        let published = value.get("type").and_then(Value::as_str) == Some("dat.audit.checkpoint");
        let found = if published { value["data"].take() } else { value };
        Ok(serde_json::from_value(found)?)
    }

    /// The object.
    #[must_use]
    pub fn value(&self) -> Value {
        json!(self)
    }

    /// What the next one is chained to: SHA-256 over the RFC 8785 form of all of it, the signature included.
    pub fn hash(&self) -> Result<LogHash, NoCanonicalForm> {
        Ok(LogHash(Sha256::digest(canonical(self)?).into()))
    }

    /// Signs it.
    pub fn sign(&mut self, key: &SigningKey) -> Result<(), SignatureFault> {
        let mut value = self.value();
        key.sign(&mut value)?;
        let text = |name: &str| value.get(name).and_then(Value::as_str).map(ToOwned::to_owned);
        (self.key_id, self.signature) = (text("key_id"), text("signature"));
        Ok(())
    }

    /// Whether a key that was believed when it was made signed it.
    pub fn verify<'a>(&self, keys: &'a KeyRing) -> Result<&'a str, SignatureFault> {
        keys.verify(&self.value(), self.at)
    }

    /// Whether a leaf is at a place of its tree, by the path that proves it.
    #[must_use]
    pub fn holds(&self, leaf: &Leaf, place: u32, path: &[LogHash]) -> bool {
        let root = RootHash::<Sha256>::new(self.root.0.into(), u64::from(self.leaves));
        let path = InclusionProof::try_from_bytes(path.iter().flat_map(|hash| hash.0).collect());
        let Ok((leaf, path)) = canonical(leaf).map_err(drop).and_then(|leaf| Ok((leaf, path.map_err(drop)?)))
        else {
            return false;
        };
        root.verify_inclusion(&leaf, u64::from(place), &path).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(count: u8) -> Vec<Leaf> {
        (0..count)
            .map(|n| Leaf {
                plan_id: Uuid::from_u128(n.into()),
                plan_version: 1,
                last_sequence: i64::from(n) + 1,
                last_hash: LogHash([n; 32]),
            })
            .collect()
    }

    fn checkpoint(leaves: &[Leaf]) -> Checkpoint {
        Checkpoint {
            format: FORMAT,
            origin: "dat".to_owned(),
            number: 1,
            at: DateTime::UNIX_EPOCH,
            leaves: u32::try_from(leaves.len()).expect("few"),
            root: Tree::of(leaves).expect("canonical").root(),
            previous: LogHash::START,
            key_id: None,
            signature: None,
        }
    }

    #[test]
    fn the_tree_is_that_of_rfc_9162() {
        // By hand: a leaf is SHA-256(0 ‖ bytes), a node SHA-256(1 ‖ left ‖ right), and the left is full.
        let all = leaves(3);
        let leaf = |n: usize| -> [u8; 32] {
            Sha256::digest([vec![0], canonical(&all[n]).expect("canonical")].concat()).into()
        };
        let node = |left: [u8; 32], right: [u8; 32]| -> [u8; 32] {
            Sha256::digest([&[1][..], &left, &right].concat()).into()
        };
        let root = node(node(leaf(0), leaf(1)), leaf(2));
        let tree = Tree::of(&all).expect("canonical");
        assert_eq!(tree.root(), LogHash(root));
        assert_eq!(tree.proof(1), Some(vec![LogHash(leaf(0)), LogHash(leaf(2))]));
        assert_eq!(tree.proof(3), None);
        assert_eq!(
            String::from_utf8(canonical(&all[2]).expect("canonical")).expect("text"),
            format!(
                r#"{{"last_hash":"{}","last_sequence":3,"plan_id":"00000000-0000-0000-0000-000000000002","plan_version":1}}"#,
                "02".repeat(32)
            )
        );
    }

    #[test]
    fn a_path_proves_its_leaf_at_its_place_alone() {
        for count in 1..20 {
            let all = leaves(count);
            let (tree, checkpoint) = (Tree::of(&all).expect("canonical"), checkpoint(&all));
            for (place, leaf) in all.iter().enumerate() {
                let path = tree.proof(place).expect("a leaf");
                let place = u32::try_from(place).expect("few");
                assert!(checkpoint.holds(leaf, place, &path));
                assert!(!checkpoint.holds(leaf, place + 1, &path));
                let other = Leaf { last_sequence: 99, ..leaf.clone() };
                assert!(!checkpoint.holds(&other, place, &path));
                if let Some((_, shorter)) = path.split_last() {
                    assert!(!checkpoint.holds(leaf, place, shorter));
                }
            }
        }
    }

    #[test]
    fn a_checkpoint_reads_back_as_printed_and_as_published() {
        let key = SigningKey::from_seed("log-1", &"07".repeat(32)).expect("a seed");
        let mut signed = checkpoint(&leaves(2));
        signed.sign(&key).expect("signed");
        let ring = KeyRing::new([key.trusted()]).expect("a ring");
        assert_eq!(signed.verify(&ring), Ok("log-1"));
        let printed = Checkpoint::read(&signed.value().to_string()).expect("a checkpoint");
        let event = json!({"type": "dat.audit.checkpoint", "id": "control/1", "data": signed.value()});
        let published = Checkpoint::read(&event.to_string()).expect("a checkpoint");
        assert_eq!((&printed, &published), (&signed, &signed));
        let unsigned = Checkpoint { signature: None, ..signed.clone() };
        assert_ne!(unsigned.hash().expect("canonical"), signed.hash().expect("canonical"));
        assert!(Checkpoint::read("{}").is_err());
    }
}
