//! What devices may do with the classes of a field's entities.

use std::collections::BTreeSet;

use crate::config::FieldConfig;

/// What devices may do with a class of a field's entities, unless the game says otherwise of a device
/// ([`FieldPass`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldClassUse {
    /// They come in as that class, and those that have also put things of it there.
    #[default]
    Enter,
    /// All put things of that class there, and none comes in as one.
    Put,
    /// All come in as that class, and put things of it there.
    Any,
    /// Nothing: servers put things of that class there.
    None,
}

/// As what a device comes into a field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldPass {
    /// What it, and what it puts there, is marked with.
    pub marks: u64,
    /// Of which classes the device may put things there, whatever [`FieldConfig::devices`] says; `None` for what that
    /// says.
    pub puts: Option<BTreeSet<u8>>,
}

impl From<u64> for FieldPass {
    /// With those marks.
    fn from(marks: u64) -> Self {
        Self { marks, puts: None }
    }
}

impl FieldConfig {
    /// Whether devices may come in as a class.
    pub(super) fn lets_in(&self, class: u8) -> bool {
        match self.class_use(class) {
            FieldClassUse::Enter | FieldClassUse::Any => true,
            FieldClassUse::Put | FieldClassUse::None => false,
        }
    }

    /// Of which classes a device may put things there that has come in as one.
    pub(super) fn puts(&self, own: u8, pass: &FieldPass) -> BTreeSet<u8> {
        if let Some(puts) = &pass.puts {
            return puts.clone();
        }
        let classes = (0_u8..).take(self.settings.classes.len());
        let may_put = |class: &u8| match self.class_use(*class) {
            FieldClassUse::Put | FieldClassUse::Any => true,
            FieldClassUse::Enter => *class == own,
            FieldClassUse::None => false,
        };
        classes.filter(may_put).collect()
    }

    fn class_use(&self, class: u8) -> FieldClassUse {
        let given = self.devices.get(usize::from(class));
        given.copied().unwrap_or_default()
    }
}
