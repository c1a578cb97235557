//! A small lexer for Rust: enough to tell code from comments, strings and characters.

/// Splits `text` into tokens; comments and white space are dropped.
pub(super) fn lex(text: &str) -> Vec<Token> {
    let mut lexer = Lexer {
        text,
        at: 0,
        line: 1,
        tokens: Vec::new(),
    };
    while lexer.step() {}
    lexer.tokens
}

/// A word, a literal or a mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) text: String,
    /// The line it begins on, from 1.
    pub(super) line: usize,
    /// The line it ends on.
    pub(super) last_line: usize,
}

impl Token {
    /// Whether it is the word `text`, and not a string that reads the same.
    pub(super) fn is_word(&self, text: &str) -> bool {
        self.kind == Kind::Word && self.text == text
    }

    /// Whether it is the mark `text`.
    pub(super) fn is_mark(&self, text: &str) -> bool {
        self.kind == Kind::Mark && self.text == text
    }
}

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An identifier or keyword, without a leading `r#`.
    Word,
    /// A string, character or number.
    Literal,
    /// `'a`
    Lifetime,
    /// Punctuation: one character, or `::`.
    Mark,
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    line: usize,
    tokens: Vec<Token>,
}

impl Lexer<'_> {
    fn step(&mut self) -> bool {
        let rest = &self.text[self.at..];
        let Some(first) = rest.chars().next() else {
            return false;
        };
        if first.is_whitespace() {
            self.skip(first.len_utf8());
        } else if rest.starts_with("//") {
            self.skip(rest.find('\n').unwrap_or(rest.len()));
        } else if rest.starts_with("/*") {
            self.skip(block_comment_len(rest));
        } else if let Some(len) = string_len(rest) {
            self.push(Kind::Literal, len);
        } else if let Some(len) = character_len(rest) {
            self.push(Kind::Literal, len);
        } else if first == '\'' {
            self.push(Kind::Lifetime, 1 + word_len(&rest[1..]));
        } else if first.is_ascii_digit() {
            self.push(Kind::Literal, number_len(rest));
        } else if is_word_start(first) {
            if rest.starts_with("r#") && rest[2..].starts_with(is_word_start) {
                self.skip(2);
            }
            self.push(Kind::Word, word_len(&self.text[self.at..]));
        } else if rest.starts_with("::") {
            self.push(Kind::Mark, 2);
        } else {
            self.push(Kind::Mark, first.len_utf8());
        }
        true
    }

    fn skip(&mut self, len: usize) {
        self.line += self.text[self.at..self.at + len].matches('\n').count();
        self.at += len;
    }

    fn push(&mut self, kind: Kind, len: usize) {
        let (text, line) = (self.text[self.at..self.at + len].to_owned(), self.line);
        self.skip(len);
        self.tokens.push(Token {
            kind,
            text,
            line,
            last_line: self.line,
        });
    }
}

/// The length of a block comment, whose inner ones nest.
fn block_comment_len(rest: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    let bytes = rest.as_bytes();
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => {
                depth += 1;
                at += 2;
            }
            b"*/" => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    rest.len()
}

/// The length of a string of any kind: `"…"`, `b"…"`, `c"…"`, `r#"…"#` and their mixtures.
fn string_len(rest: &str) -> Option<usize> {
    let after_letter = rest.strip_prefix(['b', 'c']).unwrap_or(rest);
    let letters = rest.len() - after_letter.len();
    if let Some(raw) = after_letter.strip_prefix('r') {
        let hashes = raw.bytes().take_while(|&byte| byte == b'#').count();
        let body = raw[hashes..].strip_prefix('"')?;
        let end = format!("\"{}", "#".repeat(hashes));
        let start = letters + 1 + hashes + 1;
        return Some(start + body.find(&end).map_or(body.len(), |at| at + end.len()));
    }
    let body = after_letter.strip_prefix('"')?;
    let mut escaped = false;
    for (at, byte) in body.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(letters + 1 + at + 1),
            _ => {}
        }
    }
    Some(rest.len())
}

/// The length of a character or byte; none for a lifetime.
fn character_len(rest: &str) -> Option<usize> {
    let after_letter = rest.strip_prefix('b').unwrap_or(rest);
    let body = after_letter.strip_prefix('\'')?;
    let start = rest.len() - body.len();
    let mut characters = body.char_indices();
    let (_, first) = characters.next()?;
    if first == '\\' {
        characters.next()?;
        return characters
            .find(|&(_, c)| c == '\'')
            .map(|(at, _)| start + at + 1);
    }
    let (at, second) = characters.next()?;
    (second == '\'').then_some(start + at + 1)
}

fn number_len(rest: &str) -> usize {
    let mut len = word_len(rest);
    let fraction = rest[len..].strip_prefix('.').map_or(0, word_len);
    if fraction > 0 && rest[len + 1..].starts_with(|c: char| c.is_ascii_digit()) {
        len += 1 + fraction;
    }
    len
}

fn word_len(rest: &str) -> usize {
    rest.find(|c: char| !(c.is_alphanumeric() || c == '_'))
        .unwrap_or(rest.len())
}

fn is_word_start(c: char) -> bool {
    c.is_alphabetic() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_white_space_are_no_tokens() {
        check("a // b\n/* c /* d */ e */ f", &["a", "f"]);
    }

    #[test]
    fn strings_are_literals_whatever_they_hold() {
        check(
            r###"f("// \" x", r#"a " b"#, b"c", 'd', b'\'', '\u{41}')"###,
            &[
                "f",
                "(",
                r#""// \" x""#,
                ",",
                r##"r#"a " b"#"##,
                ",",
                "b\"c\"",
                ",",
                "'d'",
                ",",
                r"b'\''",
                ",",
                r"'\u{41}'",
                ")",
            ],
        );
    }

    #[test]
    fn lifetimes_are_not_characters() {
        check("&'a T, 'b'", &["&", "'a", "T", ",", "'b'"]);
        assert_eq!(lex("&'a T")[1].kind, Kind::Lifetime);
    }

    #[test]
    fn numbers_keep_their_fraction_and_ranges_stay_apart() {
        check(
            "1.5 0..10 0xff_u8 t.0.x",
            &[
                "1.5", "0", ".", ".", "10", "0xff_u8", "t", ".", "0", ".", "x",
            ],
        );
    }

    #[test]
    fn paths_are_joined_by_one_mark_and_raw_words_lose_their_prefix() {
        check("a::r#type", &["a", "::", "type"]);
    }

    #[test]
    fn lines_are_counted_through_strings_and_comments() {
        let tokens = lex("a\n/*\n*/ \"x\ny\" b");
        let lines: Vec<_> = tokens
            .iter()
            .map(|token| (token.line, token.last_line))
            .collect();
        assert_eq!(lines, [(1, 1), (3, 4), (4, 4)]);
    }

    #[test]
    fn unfinished_input_ends_the_last_token() {
        for text in ["\"abc", "/* abc", "r#\"abc", "'", "b'", "1."] {
            lex(text);
        }
    }

    fn check(text: &str, expected: &[&str]) {
        let texts: Vec<_> = lex(text).into_iter().map(|token| token.text).collect();
        assert_eq!(texts, expected);
    }
}
