//! `inputs::references`, by libFuzzer.
#![no_main]

#[path = "../inputs.rs"]
#[expect(dead_code, reason = "each target is about one kind")]
mod inputs;

libfuzzer_sys::fuzz_target!(|body: &[u8]| inputs::references(body));
