//! What the relays of all tests together warn of.

use std::{
    fmt::Write as _,
    sync::{Mutex, Once},
};

use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};

/// Begins to keep warnings.
pub(crate) fn keep() {
    static IS_KEPT: Once = Once::new();
    IS_KEPT.call_once(|| {
        tracing::subscriber::set_global_default(Keeper).expect("nothing else keeps them");
    });
}

/// How many warnings there were with a text.
pub(crate) fn warnings(text: &str) -> usize {
    let lines = LINES.lock().expect("no test panics with it");
    lines.iter().filter(|line| line.contains(text)).count()
}

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Keeper;

impl Subscriber for Keeper {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::WARN && metadata.target().starts_with("tombolo_relay")
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        LINES.lock().expect("no test panics with it").push(line.0);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = write!(self.0, "{field}={value:?} ");
    }
}
