//! The table as it is written: a row a line.

use std::fmt;

/// The columns, in order; the table's head says who they are.
pub(super) const CALLERS: [char; 11] = ['n', 'w', 'd', 'f', 'r', 'v', 'o', 'a', 'x', 'c', 'h'];

/// One procedure in one state.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    /// `package.Service/Method`, or `METHOD:/path` of plain HTTP.
    pub(super) path: &'static str,
    /// A word for people.
    pub(super) state: &'static str,
    /// What each caller must get.
    pub(super) cells: Vec<char>,
    /// JSON, with `$names` of what the scene holds.
    pub(super) body: &'static str,
}

impl Row {
    /// Whether the request names anything that belongs to somebody.
    pub(super) fn names_something(&self) -> bool {
        // A code belongs to its holder, and a new e-mail to nobody yet.
        (self.body.contains('$') || self.path.contains('$'))
            && !["$token", "$email"]
                .iter()
                .any(|name| self.body.contains(name))
    }

    /// The same row with other cells, to be compared by eye.
    pub(super) fn with(&self, cells: &[char]) -> Self {
        Self {
            cells: cells.to_vec(),
            ..self.clone()
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<74} {:<11}", self.path, self.state)?;
        for cell in &self.cells {
            write!(f, " {cell}")?;
        }
        write!(f, "  {}", self.body)
    }
}

/// Every row of the table.
pub(super) fn rows() -> Vec<Row> {
    include_str!("../matrix.txt")
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
        .map(row)
        .collect()
}

fn row(line: &'static str) -> Row {
    let mut rest = line;
    let mut word = || {
        let trimmed = rest.trim_start();
        let end = trimmed.find(' ').unwrap_or(trimmed.len());
        let (word, after) = trimmed.split_at(end);
        rest = after;
        word
    };
    let (path, state) = (word(), word());
    let cells = CALLERS
        .iter()
        .map(|caller| {
            let cell = word();
            let mut letters = cell.chars();
            match (letters.next(), letters.next()) {
                (Some(letter), None) => letter,
                _ => panic!("`{cell}` is no code, in the column {caller} of `{line}`"),
            }
        })
        .collect();
    let body = rest.trim();
    assert!(
        body.starts_with('{') || path.contains(':'),
        "no JSON at the end of `{line}`"
    );
    Row {
        path,
        state,
        cells,
        body,
    }
}
