//! The canonical form against the RFC's own vectors, its table of numbers, and a hundred thousand more by their checksum.

use std::path::PathBuf;

use dat_plan::hash::canonical;
use serde_json::{Number, Value};
use sha2::{Digest as _, Sha256};

/// RFC 8785, appendix B: the bits of a double, and how it is written. What is not finite has no form.
const NUMBERS: [(u64, Option<&str>); 26] = [
    (0x0000_0000_0000_0000, Some("0")),
    (0x8000_0000_0000_0000, Some("0")),
    (0x0000_0000_0000_0001, Some("5e-324")),
    (0x8000_0000_0000_0001, Some("-5e-324")),
    (0x7fef_ffff_ffff_ffff, Some("1.7976931348623157e+308")),
    (0xffef_ffff_ffff_ffff, Some("-1.7976931348623157e+308")),
    (0x4340_0000_0000_0000, Some("9007199254740992")),
    (0xc340_0000_0000_0000, Some("-9007199254740992")),
    (0x4430_0000_0000_0000, Some("295147905179352830000")),
    (0x7fff_ffff_ffff_ffff, None),
    (0x7ff0_0000_0000_0000, None),
    (0x44b5_2d02_c7e1_4af5, Some("9.999999999999997e+22")),
    (0x44b5_2d02_c7e1_4af6, Some("1e+23")),
    (0x44b5_2d02_c7e1_4af7, Some("1.0000000000000001e+23")),
    (0x444b_1ae4_d6e2_ef4e, Some("999999999999999700000")),
    (0x444b_1ae4_d6e2_ef4f, Some("999999999999999900000")),
    (0x444b_1ae4_d6e2_ef50, Some("1e+21")),
    (0x3eb0_c6f7_a0b5_ed8c, Some("9.999999999999997e-7")),
    (0x3eb0_c6f7_a0b5_ed8d, Some("0.000001")),
    (0x41b3_de43_5555_5553, Some("333333333.3333332")),
    (0x41b3_de43_5555_5554, Some("333333333.33333325")),
    (0x41b3_de43_5555_5555, Some("333333333.3333333")),
    (0x41b3_de43_5555_5556, Some("333333333.3333334")),
    (0x41b3_de43_5555_5557, Some("333333333.33333343")),
    (0xbecb_f647_612f_3696, Some("-0.0000033333333333333333")),
    (0x4314_3ff3_c1cb_0959, Some("1424953923781206.2")),
];

/// SHA-256 of the first hundred thousand lines `bits,number` of the author's sequence.
const CHECKSUM: &str = "22776e6d4b49fa294a0d0f349268e5c28808fe7e0cb2bcbe28f63894e494d4c7";
const LINES: usize = 100_000;

fn data(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/canonical").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn written(number: f64) -> Option<String> {
    Some(String::from_utf8(canonical(&Number::from_f64(number)?).ok()?).expect("UTF-8"))
}

#[test]
fn each_vector_of_the_rfcs_author_has_the_form_that_he_gives() {
    for name in ["arrays", "french", "structures", "unicode", "values", "weird"] {
        let input: Value = serde_json::from_str(&data(&format!("input/{name}.json"))).expect("JSON");
        let output = data(&format!("output/{name}.json"));
        assert_eq!(
            String::from_utf8(canonical(&input).expect("a form")).expect("UTF-8"),
            output.trim_end(),
            "{name}"
        );
    }
}

#[test]
fn each_number_of_the_rfcs_appendix_is_written_as_it_says() {
    for (bits, expected) in NUMBERS {
        assert_eq!(written(f64::from_bits(bits)).as_deref(), expected, "{bits:016x}");
        // It is read as the same number from what is written.
        if let Some(text) = expected {
            let read: Value = serde_json::from_str(text).expect("JSON");
            assert_eq!(String::from_utf8(canonical(&read).expect("a form")).expect("UTF-8"), text);
        }
    }
}

#[test]
fn a_hundred_thousand_numbers_have_the_checksum_that_the_rfcs_author_gives() {
    let fixed = data("numbers.txt");
    let fixed = fixed.lines().map(|line| u64::from_str_radix(line, 16).expect("hex digits"));
    let smallest = (0..2_000).map(|n| 0x0010_0000_0000_0000 + n);
    let mut block = vec![0_u8; 32];
    let random = std::iter::from_fn(|| {
        block = Sha256::digest(&block).to_vec();
        let words: Vec<u64> =
            block.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("8 bytes"))).collect();
        Some(words)
    });
    let random = random.flatten().filter(|bits| {
        let number = f64::from_bits(*bits);
        number.is_finite() && number != 0.0
    });
    let mut lines = Sha256::new();
    for bits in fixed.chain(smallest).chain(random).take(LINES) {
        let text = written(f64::from_bits(bits)).expect("it is finite");
        lines.update(format!("{bits:x},{text}\n"));
    }
    assert_eq!(hex::encode(lines.finalize()), CHECKSUM);
}
