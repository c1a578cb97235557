//! Texts as numbers, for as long as somebody uses them.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use super::pattern::Pattern;

/// A text's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Symbol(u32);

/// All texts in use. Equal logs give equal numbers.
#[derive(Debug, Default)]
pub(super) struct Symbols {
    number_by_text: HashMap<Arc<str>, u32>,
    /// Indexed by number: the text, and how often it is in use.
    texts: Vec<(Arc<str>, u32)>,
    free: Vec<u32>,
    /// Steps of comparisons that nobody has taken into account yet.
    compared: Cell<u64>,
}

impl Symbols {
    /// The number of a text, which is in use once more.
    pub(super) fn intern(&mut self, text: &str) -> Symbol {
        if let Some(number) = self.number_by_text.get(text) {
            self.texts[*number as usize].1 += 1;
            return Symbol(*number);
        }
        let text: Arc<str> = Arc::from(text);
        let number = match self.free.pop() {
            Some(number) => {
                self.texts[number as usize] = (text.clone(), 1);
                number
            }
            None => {
                self.texts.push((text.clone(), 1));
                u32::try_from(self.texts.len() - 1).expect("tickets and their parts are bounded")
            }
        };
        self.number_by_text.insert(text, number);
        Symbol(number)
    }

    /// The number of a text that is in use.
    pub(super) fn find(&self, text: &str) -> Option<Symbol> {
        self.number_by_text.get(text).copied().map(Symbol)
    }

    pub(super) fn text(&self, symbol: Symbol) -> &str {
        &self.texts[symbol.0 as usize].0
    }

    /// Whether one of these texts is as a pattern has it.
    pub(super) fn is_any_like(&self, texts: &[Symbol], pattern: &str) -> bool {
        self.count(PATTERN_STEPS + pattern.len());
        let pattern = Pattern::new(pattern);
        texts.iter().any(|symbol| {
            let text = self.text(*symbol);
            self.count(1 + text.len());
            pattern.is_like(text)
        })
    }

    /// Whether one of these texts begins so.
    pub(super) fn any_begins(&self, texts: &[Symbol], prefix: &str) -> bool {
        texts.iter().any(|symbol| {
            self.count(1);
            self.text(*symbol).starts_with(prefix)
        })
    }

    /// Counts steps of a comparison.
    pub(super) fn count(&self, steps: usize) {
        self.compared.set(self.compared.get() + steps as u64);
    }

    /// How many steps were counted since somebody took them.
    pub(super) fn counted(&self) -> u64 {
        self.compared.get()
    }

    /// As how many looks at tickets the steps count that nobody has taken yet; what is less than one is left.
    pub(super) fn take_looks(&self) -> u64 {
        let steps = self.compared.get();
        self.compared.set(steps % STEPS_PER_LOOK);
        steps / STEPS_PER_LOOK
    }

    /// Ends one use.
    pub(super) fn release(&mut self, symbol: Symbol) {
        let (text, uses) = &mut self.texts[symbol.0 as usize];
        *uses -= 1;
        if *uses == 0 {
            self.number_by_text.remove(text);
            self.free.push(symbol.0);
        }
    }
}

/// So many steps of comparisons count as one look at a ticket.
pub(super) const STEPS_PER_LOOK: u64 = 256;

/// As how many steps it counts to read a pattern, beside its bytes.
const PATTERN_STEPS: usize = 64;
