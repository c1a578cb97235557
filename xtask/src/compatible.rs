//! Whether the contracts in `proto/` still understand those of the release before: nodes and devices of
//! neighbouring releases work side by side.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, ensure};
use prost::Message as _;
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};

/// What was said about the contracts when the last release was made.
const KEPT: &str = "proto/previous.binpb";

/// Keeps the contracts as they are now, for the next release to be compared with.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn keep(root: &Path, mut now: FileDescriptorSet) -> anyhow::Result<()> {
    for file in &mut now.file {
        file.source_code_info = None;
    }
    now.file.sort_by(|a, b| a.name().cmp(b.name()));
    now.file.dedup_by(|a, b| a.name() == b.name());
    std::fs::write(root.join(KEPT), now.encode_to_vec()).with_context(|| format!("write {KEPT}"))
}

/// Fails when something that was there has gone or has become something else.
///
/// # Errors
/// Names everything of that kind.
pub(crate) fn check(root: &Path, now: &FileDescriptorSet) -> anyhow::Result<()> {
    let kept = std::fs::read(root.join(KEPT)).with_context(|| format!("read {KEPT}"))?;
    let before = FileDescriptorSet::decode(&*kept).with_context(|| format!("decode {KEPT}"))?;
    let broken = broken(&Shapes::of(&before), &Shapes::of(now));
    ensure!(
        broken.is_empty(),
        "the release before would not understand this one:\n  {}",
        broken.join("\n  ")
    );
    Ok(())
}

/// All messages and enumerations by their full names.
#[derive(Default)]
struct Shapes<'a> {
    messages: BTreeMap<String, &'a DescriptorProto>,
    enums: BTreeMap<String, &'a EnumDescriptorProto>,
}

impl<'a> Shapes<'a> {
    fn of(set: &'a FileDescriptorSet) -> Self {
        let mut shapes = Self::default();
        for file in &set.file {
            for message in &file.message_type {
                shapes.add(file.package(), message);
            }
            for one in &file.enum_type {
                let name = format!("{}.{}", file.package(), one.name());
                shapes.enums.insert(name, one);
            }
        }
        shapes
    }

    fn add(&mut self, within: &str, message: &'a DescriptorProto) {
        let name = format!("{within}.{}", message.name());
        for one in &message.enum_type {
            self.enums.insert(format!("{name}.{}", one.name()), one);
        }
        for nested in &message.nested_type {
            self.add(&name, nested);
        }
        self.messages.insert(name, message);
    }
}

fn broken(before: &Shapes<'_>, now: &Shapes<'_>) -> Vec<String> {
    let mut broken = Vec::new();
    for (name, message) in &before.messages {
        match now.messages.get(name) {
            Some(found) => broken.extend(broken_fields(name, message, found)),
            None => broken.push(format!("{name} is gone")),
        }
    }
    for (name, one) in &before.enums {
        let found = now.enums.get(name);
        for value in &one.value {
            let is_same = |other: &&_| {
                let other: &prost_types::EnumValueDescriptorProto = other;
                other.number() == value.number() && other.name() == value.name()
            };
            if found
                .and_then(|found| found.value.iter().find(is_same))
                .is_none()
            {
                let (value, number) = (value.name(), value.number());
                broken.push(format!("{name}: {value} = {number} is gone"));
            }
        }
    }
    broken
}

/// Fields that have gone without their numbers being reserved, or that have become something else.
fn broken_fields(name: &str, before: &DescriptorProto, now: &DescriptorProto) -> Vec<String> {
    let mut broken = Vec::new();
    for field in &before.field {
        let number = field.number();
        match now.field.iter().find(|other| other.number() == number) {
            Some(found) if shape(before, field) == shape(now, found) => {}
            Some(found) => {
                let (was, is) = (shape(before, field), shape(now, found));
                broken.push(format!("{name}: field {number} was {was:?}, and is {is:?}"));
            }
            None if is_reserved(now, number) => {}
            None => {
                let field = field.name();
                broken.push(format!(
                    "{name}: {field} = {number} is gone, and not reserved"
                ));
            }
        }
    }
    broken
}

fn is_reserved(message: &DescriptorProto, number: i32) -> bool {
    let mut ranges = message.reserved_range.iter();
    ranges.any(|range| (range.start()..range.end()).contains(&number))
}

/// What a field is on the wire, and to those who read it.
#[derive(Debug, PartialEq, Eq)]
struct Shape<'a> {
    name: &'a str,
    kind: Option<i32>,
    label: Option<i32>,
    type_name: &'a str,
    one_of: Option<&'a str>,
}

fn shape<'a>(message: &'a DescriptorProto, field: &'a FieldDescriptorProto) -> Shape<'a> {
    let one_of = field.oneof_index.filter(|_| !field.proto3_optional());
    let one_of = one_of.and_then(|index| message.oneof_decl.get(usize::try_from(index).ok()?));
    Shape {
        name: field.name(),
        kind: field.r#type,
        label: field.label,
        type_name: field.type_name(),
        one_of: one_of.map(prost_types::OneofDescriptorProto::name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled(text: &str) -> FileDescriptorSet {
        let folder = std::env::temp_dir().join(format!(
            "tombolo-proto-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("x.proto");
        std::fs::write(&file, format!("syntax = \"proto3\"; package p; {text}")).unwrap();
        let set = protox::compile([&file], [&folder]).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        set
    }

    fn broken_between(before: &str, now: &str) -> Vec<String> {
        let (before, now) = (compiled(before), compiled(now));
        broken(&Shapes::of(&before), &Shapes::of(&now))
    }

    #[test]
    fn what_is_added_breaks_nothing() {
        let before = "message A { uint32 x = 1; } enum E { E_NONE = 0; }";
        let now = "message A { uint32 x = 1; string y = 2; } message B {} \
                   enum E { E_NONE = 0; E_ONE = 1; }";
        assert!(broken_between(before, now).is_empty());
    }

    #[test]
    fn a_field_may_go_when_its_number_stays_reserved() {
        let before = "message A { uint32 x = 1; uint32 y = 2; }";
        assert!(broken_between(before, "message A { reserved 1; uint32 y = 2; }").is_empty());
        assert_eq!(
            broken_between(before, "message A { uint32 y = 2; }").len(),
            1
        );
    }

    #[test]
    fn what_becomes_something_else_is_named() {
        let before = "message A { uint32 x = 1; oneof o { uint32 y = 2; } } enum E { E_NONE = 0; E_ONE = 1; }";
        for now in [
            "message A { string x = 1; oneof o { uint32 y = 2; } } enum E { E_NONE = 0; E_ONE = 1; }",
            "message A { repeated uint32 x = 1; oneof o { uint32 y = 2; } } enum E { E_NONE = 0; E_ONE = 1; }",
            "message A { uint32 z = 1; oneof o { uint32 y = 2; } } enum E { E_NONE = 0; E_ONE = 1; }",
            "message A { uint32 x = 1; uint32 y = 2; } enum E { E_NONE = 0; E_ONE = 1; }",
            "message A { uint32 x = 1; oneof o { uint32 y = 2; } } enum E { E_NONE = 0; E_ONE = 2; }",
            "message B { uint32 x = 1; oneof o { uint32 y = 2; } } enum E { E_NONE = 0; E_ONE = 1; }",
        ] {
            assert_eq!(broken_between(before, now).len(), 1, "{now}");
        }
    }
}
