/// A map for few entries, held in order and without a gap: one entry takes no more room than it
/// needs, where a tree would take that of eleven.
#[derive(Debug)]
pub(super) struct Sorted<K, V>(Vec<(K, V)>);

impl<K: Ord, V> Sorted<K, V> {
    pub(super) fn new() -> Self {
        Self(Vec::new())
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        let index = self.find(key).ok()?;
        self.0.get(index).map(|(_, value)| value)
    }

    pub(super) fn contains_key(&self, key: &K) -> bool {
        self.find(key).is_ok()
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        match self.find(&key) {
            Ok(index) => {
                if let Some((_, old)) = self.0.get_mut(index) {
                    *old = value;
                }
            }
            Err(index) => {
                // Doubling would leave half of it unused in most allocations.
                if self.0.len() == self.0.capacity() {
                    self.0.reserve_exact(1 + self.0.len() / 4);
                }
                self.0.insert(index, (key, value));
            }
        }
    }

    pub(super) fn retain(&mut self, mut is_kept: impl FnMut(&K, &V) -> bool) {
        self.0.retain(|(key, value)| is_kept(key, value));
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.0.iter().map(|(_, value)| value)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    fn find(&self, key: &K) -> Result<usize, usize> {
        self.0.binary_search_by(|(one, _)| one.cmp(key))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::rngs::ChaCha12Rng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    #[test]
    fn it_is_a_map_like_any_other() {
        let mut rng = ChaCha12Rng::from_seed([1; 32]);
        let (mut sorted, mut model) = (Sorted::new(), BTreeMap::new());
        for step in 0..5000 {
            let key: u8 = rng.random_range(0..40);
            match rng.random_range(0..3) {
                0 => {
                    sorted.retain(|one, _| *one != key);
                    model.remove(&key);
                }
                1 => {
                    sorted.insert(key, step);
                    model.insert(key, step);
                }
                _ => assert_eq!(sorted.get(&key), model.get(&key)),
            }
            assert!(sorted.values().eq(model.values()));
            assert_eq!(sorted.contains_key(&key), model.contains_key(&key));
            assert_eq!(sorted.len(), model.len());
        }
        sorted.retain(|key, _| key % 2 == 0);
        model.retain(|key, _| key % 2 == 0);
        assert!(sorted.values().eq(model.values()));
    }
}
