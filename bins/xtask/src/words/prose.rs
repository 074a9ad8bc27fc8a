//! The text for people in a file, as words with their lines. Everything else becomes a break, across which no phrase
//! is found. [`tokens`] is the entry.

use std::path::Path;

/// How a file mixes text for people with text for machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// All but code and link targets.
    Markdown,
    /// Comments.
    Proto,
    /// Doc comments and string literals, which are a program's help.
    Rust,
    /// Text, and the attributes that are read aloud.
    Page,
    /// String literals.
    Script,
}

impl Kind {
    /// The kind of a file of the workspace; none when it is not checked.
    pub(super) fn of(file: &Path) -> Option<Self> {
        let name = file.file_name()?.to_str()?;
        let is_help = name == "cli.rs" || file.ends_with("xtask/src/main.rs");
        match file.extension()?.to_str()? {
            "md" => Some(Self::Markdown),
            "proto" if !file.starts_with("fleet-wire/proto/google") => Some(Self::Proto),
            "rs" if is_help && file.starts_with("bins") => Some(Self::Rust),
            "html" if file.starts_with("fleet-server/web") => Some(Self::Page),
            "js" if file.starts_with("fleet-server/web") => Some(Self::Script),
            _ => None,
        }
    }

    /// Whether short labels stand in such files.
    pub(super) fn has_labels(self) -> bool {
        matches!(self, Self::Page | Self::Script)
    }
}

/// A word in lower case, or a break, which has no text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) text: String,
    pub(super) line: usize,
    /// It begins with a capital letter.
    pub(super) capital: bool,
}

impl Token {
    pub(super) fn is_break(&self) -> bool {
        self.text.is_empty()
    }
}

/// Stands for text that is not for people.
const BREAK: char = '\u{1}';

/// Cuts the text for people into words.
pub(super) fn tokens(kind: Kind, text: &str) -> Vec<Token> {
    let prose = match kind {
        Kind::Markdown => markdown(text),
        Kind::Proto => without_code(&comments(text, "//")),
        Kind::Rust => rust(text),
        Kind::Page => page(text),
        Kind::Script => script(text),
    };
    let mut tokens: Vec<Token> = Vec::new();
    for (line, text) in (1..).zip(prose.lines()) {
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let end = rest
                .find(|c: char| !c.is_alphanumeric())
                .unwrap_or(rest.len());
            if end > 0 {
                let capital = first.is_uppercase();
                tokens.push(Token {
                    text: rest[..end].to_lowercase(),
                    line,
                    capital,
                });
                rest = &rest[end..];
            } else {
                // A hyphen or an apostrophe joins words as a space does.
                if !first.is_whitespace() && !['-', '\'', '\u{2019}'].contains(&first) {
                    tokens.push(Token {
                        text: String::new(),
                        line,
                        capital: false,
                    });
                }
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    tokens
}

/// Keeps the line breaks of what is left out, so that lines keep their numbers.
fn blank(text: &str, out: &mut String) {
    out.push(BREAK);
    out.extend(text.chars().filter(|c| *c == '\n'));
}

/// Blanks each part from `open` to `close`, both included.
fn without(text: &str, open: &str, close: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(open) {
        out.push_str(before);
        let (inside, after) = after.split_once(close).unwrap_or((after, ""));
        blank(inside, &mut out);
        rest = after;
    }
    out + rest
}

fn without_code(text: &str) -> String {
    without(text, "`", "`")
}

fn markdown(text: &str) -> String {
    let text = without(text, "```", "```");
    let text = without(&text, "<!--", "-->");
    // Headings, table rows and blank lines end a phrase.
    let mut lines = String::new();
    for line in without(&without_code(&text), "](", ")").lines() {
        let ends = line.is_empty() || line.starts_with(['#', '|']);
        lines.extend(ends.then_some(BREAK));
        lines.push_str(line);
        lines.push('\n');
    }
    lines
}

/// What follows the comment sign, line by line.
fn comments(text: &str, sign: &str) -> String {
    let comment = |line: &str| match line.split_once(sign) {
        Some((_, comment)) => format!("{comment}\n"),
        None => format!("{BREAK}\n"),
    };
    text.lines().map(comment).collect()
}

fn rust(text: &str) -> String {
    let production = text.split("#[cfg(test)]").next().unwrap_or_default();
    let mut out = String::new();
    for line in production.lines() {
        let code = line.trim_start();
        match code.strip_prefix("///") {
            Some(doc) => out.push_str(&without_code(doc)),
            None if code.starts_with("//") => out.push(BREAK),
            None => out.push_str(&literals(line, &['"'])),
        }
        out.push('\n');
    }
    out
}

/// The attributes of a page that people read or hear.
const READ_ALOUD: [&str; 4] = ["title=\"", "aria-label=\"", "placeholder=\"", "alt=\""];

fn page(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('<') {
        out.push_str(before);
        let (tag, after) = after.split_once('>').unwrap_or((after, ""));
        for attribute in READ_ALOUD {
            let value = tag
                .split_once(attribute)
                .and_then(|(_, value)| value.split('"').next());
            out.push(BREAK);
            out.push_str(value.unwrap_or_default());
        }
        blank(tag, &mut out);
        rest = after;
    }
    out + rest
}

/// Single words in lower case are names of elements, classes and fields.
fn script(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let code = line.trim_start();
        if !code.starts_with("//") && !code.starts_with('*') {
            out.push_str(&literals(line, &['"', '\'', '`']));
        }
        out.push('\n');
    }
    out
}

/// The literals of a line that are neither a single lower-case word nor a list of CSS classes. Text between `${` and `}`
/// is code.
fn literals(line: &str, quotes: &[char]) -> String {
    let mut out = String::new();
    let mut rest = line;
    while let Some(open) = rest.find(quotes) {
        let quote = rest[open..].chars().next().unwrap_or('"');
        let body = &rest[open + 1..];
        let mut escaped = false;
        let close = body.find(|c: char| {
            let ends = c == quote && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let (literal, after) = close.map_or((body, ""), |at| (&body[..at], &body[at + 1..]));
        let is_label = literal.starts_with(char::is_uppercase) && !literal.contains('_');
        let are_classes = rest[..open].trim_end().ends_with("class:");
        out.push(BREAK);
        if (literal.contains(' ') || is_label) && !are_classes {
            out.push_str(&without(&without_code(literal), "${", "}"));
        }
        out.push(BREAK);
        rest = after;
    }
    out
}
