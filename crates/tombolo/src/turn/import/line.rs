//! Lines of a coturn configuration: `name`, `name=value` or `name value`, with `#` for comments.

/// A line that says something.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    /// Counted from 1.
    pub(super) number: usize,
    pub(super) option: &'a str,
    /// Empty where there is none.
    pub(super) value: &'a str,
    /// Whether coturn would read it whole.
    pub(super) length: Length,
}

/// How coturn copes with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    Whole,
    /// It would take the rest for another line.
    Cut,
}

/// Iterates over the lines that are not empty and not comments.
pub(super) fn lines(text: &str) -> impl Iterator<Item = Line<'_>> {
    let numbered = text.split('\n').enumerate();
    numbered.filter_map(|(index, line)| {
        let length = if line.len() < LINE_BYTES_MAX {
            Length::Whole
        } else {
            Length::Cut
        };
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with('#') {
            return None;
        }
        let (option, value) = match line.split_once([' ', '=', '\t']) {
            Some((option, rest)) => (option, rest.trim_start_matches([' ', '=', '\t'])),
            None => (line, ""),
        };
        Some(Line {
            number: index + 1,
            // As on the command line, where it has dashes in front.
            option: option.strip_prefix("--").unwrap_or(option),
            value: unquoted(value),
            length,
        })
    })
}

/// Takes one pair of quotes away, as coturn does: the first is what counts.
fn unquoted(value: &str) -> &str {
    match value.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"').unwrap_or(rest),
        None => value,
    }
}

/// The size of coturn's buffer for a line.
const LINE_BYTES_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(usize, &str, &str)> {
        lines(text)
            .map(|line| (line.number, line.option, line.value))
            .collect()
    }

    #[test]
    fn lines_are_read_as_coturn_reads_them() {
        let text = "# a comment\n\n  \t# another\nverbose\nrealm=example.org\r\n\
            realm = \"example.org\"  \n\tmin-port\t50000\n--no-tcp\nuser=a:b=c d\n\
            static-auth-secret==x\nrealm=\nrealm=\"\"\nuser=a:\"quoted\"\n\
            pidfile=\"/var/run/x\ncert=a # no comment";
        assert_eq!(
            read(text),
            [
                (4, "verbose", ""),
                (5, "realm", "example.org"),
                (6, "realm", "example.org"),
                (7, "min-port", "50000"),
                (8, "no-tcp", ""),
                (9, "user", "a:b=c d"),
                (10, "static-auth-secret", "x"),
                (11, "realm", ""),
                (12, "realm", ""),
                (13, "user", "a:\"quoted\""),
                (14, "pidfile", "/var/run/x"),
                (15, "cert", "a # no comment"),
            ]
        );
    }

    #[test]
    fn a_line_that_coturn_would_cut_is_told_apart() {
        let text = format!("realm={}\nrealm={}", "x".repeat(1017), "x".repeat(1018));
        let lengths: Vec<_> = lines(&text).map(|line| line.length).collect();
        assert_eq!(lengths, [Length::Whole, Length::Cut]);
    }
}
