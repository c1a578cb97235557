//! Seeds: where all chance in a world comes from, and how a failure is replayed.

use std::fmt;

use rand::{SeedableRng, rngs::ChaCha12Rng};

/// The environment variable that replaces every test's own seed.
const SEED_VARIABLE: &str = "TOMBOLO_SEED";

/// The number that decides everything random in a [`World`](crate::World), and the test that uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed {
    value: u64,
    test: &'static str,
    origin: Origin,
}

/// Whether the person at the keyboard chose the seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Default,
    Environment,
}

impl Seed {
    /// Makes a seed from a number; `test` is the name printed beside it.
    #[must_use]
    pub fn new(value: u64, test: &'static str) -> Self {
        Self {
            value,
            test,
            origin: Origin::Default,
        }
    }

    /// The seed of the test called `test`: `TOMBOLO_SEED` (decimal, or hexadecimal after `0x`) if that
    /// is set, else a number that depends on the name alone. Tests say [`seed!`](macro@crate::seed).
    ///
    /// # Panics
    /// If `TOMBOLO_SEED` is set to something that is not a number.
    #[must_use]
    pub fn for_test(test: &'static str) -> Self {
        let Ok(text) = std::env::var(SEED_VARIABLE) else {
            return Self::new(fnv1a(FNV_OFFSET, test.as_bytes()), test);
        };
        let parsed = match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => text.parse(),
        };
        let value = parsed.expect("TOMBOLO_SEED is a decimal or 0x-hexadecimal number");
        Self {
            value,
            test,
            origin: Origin::Environment,
        }
    }

    /// `count` different seeds for a test that runs many worlds. A seed from the environment is
    /// returned alone, so that a failure is replayed without the runs before it.
    #[must_use]
    pub fn several(self, count: usize) -> Vec<Self> {
        match self.origin {
            Origin::Environment => vec![self],
            Origin::Default => (0..count as u64).map(|n| self.derive(n)).collect(),
        }
    }

    /// The number itself.
    #[must_use]
    pub fn value(self) -> u64 {
        self.value
    }

    /// The name of the test, as a path of modules.
    #[must_use]
    pub fn test(self) -> &'static str {
        self.test
    }

    /// The command that runs the test with this seed.
    #[must_use]
    pub fn replay(self) -> String {
        let name = self.test.rsplit_once("::");
        let name = name.map_or(self.test, |(_, name)| name);
        format!("{SEED_VARIABLE}={self} cargo test {name}")
    }

    /// The generator that this seed starts.
    #[must_use]
    pub fn rng(self) -> ChaCha12Rng {
        ChaCha12Rng::seed_from_u64(self.value)
    }

    /// A generator for one purpose, independent of those for others.
    #[must_use]
    pub fn rng_for(self, purpose: &str) -> ChaCha12Rng {
        ChaCha12Rng::seed_from_u64(fnv1a(self.value ^ FNV_OFFSET, purpose.as_bytes()))
    }

    fn derive(self, n: u64) -> Self {
        Self {
            value: fnv1a(self.value ^ FNV_OFFSET, &n.to_be_bytes()),
            ..self
        }
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#018x}", self.value)
    }
}

/// The [`Seed`] of the test function that it is written in.
#[macro_export]
macro_rules! seed {
    () => {{
        fn here() {}
        let name = ::std::any::type_name_of_val(&here);
        $crate::Seed::for_test(name.strip_suffix("::here").unwrap_or(name))
    }};
}

/// Continues an FNV-1a hash with some bytes: enough to tell two event logs apart.
pub(crate) fn fnv1a(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME)
    })
}

pub(crate) const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;
