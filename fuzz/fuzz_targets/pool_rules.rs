//! Runs [`tombolo_fuzz::rules`] on what the fuzzer makes up.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tombolo_fuzz::rules::run(data));
