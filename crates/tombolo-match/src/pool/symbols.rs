//! Texts as numbers, for as long as somebody uses them.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use super::pattern;

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
    /// Steps of comparisons by patterns that nobody has counted yet.
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

    /// Whether a text is as a pattern has it.
    pub(super) fn is_like(&self, symbol: Symbol, pattern: &str) -> bool {
        let mut steps = self.compared.get();
        let is_like = pattern::is_like(self.text(symbol), pattern, &mut steps);
        self.compared.set(steps);
        is_like
    }

    /// As how many looks at tickets the comparisons count that were made since this was asked last.
    pub(super) fn take_looks(&self) -> u64 {
        self.compared.take().div_ceil(STEPS_PER_LOOK)
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
const STEPS_PER_LOOK: u64 = 256;
