//! A small lexer that separates Rust code from comments, literals and tests. It produces words, `::`, brackets and single
//! characters for [`super::source`].

/// A word, `::` or a single character, with its line (from 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub(super) text: &'a str,
    pub(super) line: usize,
}

/// Splits source text into tokens and drops comments and literals.
pub(super) fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut found = Vec::new();
    let mut at = 0;
    let mut line = 1;
    while at < text.len() {
        let rest = &text[at..];
        let (length, is_code) = next(rest);
        if is_code {
            found.push(Token {
                text: &rest[..length],
                line,
            });
        }
        line += rest[..length].matches('\n').count();
        at += length;
    }
    found
}

/// Drops items marked with `#[cfg(test)]`. The second result lists marked modules that are in other files.
pub(super) fn without_tests(tokens: Vec<Token<'_>>) -> (Vec<Token<'_>>, Vec<String>) {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::with_capacity(tokens.len());
    let mut modules = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let marked = MARK
            .iter()
            .enumerate()
            .all(|(i, mark)| tokens.get(at + i).is_some_and(|t| t.text == *mark));
        if !marked {
            kept.push(tokens[at]);
            at += 1;
            continue;
        }
        let end = item_end(&tokens, at + MARK.len());
        let item = &tokens[at + MARK.len()..end];
        if let [.., keyword, name, semicolon] = item
            && keyword.text == "mod"
            && semicolon.text == ";"
        {
            modules.push(name.text.to_owned());
        }
        at = end;
    }
    (kept, modules)
}

/// Finds the end of the item at `start`: its `;`, or its closing brace.
fn item_end(tokens: &[Token<'_>], start: usize) -> usize {
    let is_import = tokens.get(start).is_some_and(|token| token.text == "use");
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(start) {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" => depth = depth.saturating_sub(1),
            "}" => {
                depth = depth.saturating_sub(1);
                if depth == 0 && !is_import {
                    return at + 1;
                }
            }
            ";" if depth == 0 => return at + 1,
            _ => {}
        }
    }
    tokens.len()
}

/// Returns the length in bytes of the first token of `rest`, and whether it is code.
fn next(rest: &str) -> (usize, bool) {
    let first = rest.chars().next().unwrap_or(' ');
    if rest.starts_with("//") {
        (rest.find('\n').unwrap_or(rest.len()), false)
    } else if rest.starts_with("/*") {
        (block_comment(rest), false)
    } else if let Some(length) = raw_string(rest).or_else(|| quoted(rest)) {
        (length, false)
    } else if first.is_alphanumeric() || first == '_' {
        (
            rest.find(|c: char| !c.is_alphanumeric() && c != '_')
                .unwrap_or(rest.len()),
            true,
        )
    } else if rest.starts_with("::") {
        (2, true)
    } else {
        (first.len_utf8(), !first.is_whitespace())
    }
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        let here = &rest.as_bytes()[at..];
        if here.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if here.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// `r"..."`, `r#"..."#`, and the byte and C forms.
fn raw_string(rest: &str) -> Option<usize> {
    let opening = rest
        .strip_prefix("br")
        .or_else(|| rest.strip_prefix("cr"))
        .or_else(|| rest.strip_prefix('r'))?;
    let hashes = opening.len() - opening.trim_start_matches('#').len();
    let body = opening[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let before = rest.len() - body.len();
    Some(
        body.find(&end)
            .map_or(rest.len(), |at| before + at + end.len()),
    )
}

/// Strings and characters with escapes. A lifetime starts with the same quote but is not a character.
fn quoted(rest: &str) -> Option<usize> {
    let body = rest.strip_prefix(['b', 'c']).unwrap_or(rest);
    let quote = body.chars().next().filter(|c| *c == '"' || *c == '\'')?;
    if quote == '\'' {
        let mut signs = body.chars().skip(1);
        let (first, second) = (signs.next()?, signs.next());
        if first != '\\' && second != Some('\'') {
            return None;
        }
    }
    let mut escaped = false;
    for (at, sign) in body.char_indices().skip(1) {
        match sign {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if sign == quote => return Some(rest.len() - body.len() + at + 1),
            _ => {}
        }
    }
    Some(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<&str> {
        tokens(text).into_iter().map(|token| token.text).collect()
    }

    #[test]
    fn literals_and_comments_are_dropped() {
        assert_eq!(
            words(r#"a("x", 'y', b'\'', '\\', b"z\"")"#),
            ["a", "(", ",", ",", ",", ",", ")"]
        );
        assert_eq!(words("a /* b /* c */ d */ e // f\ng"), ["a", "e", "g"]);
        assert_eq!(words("r#\"a\"b\"# c"), ["c"]);
        assert_eq!(words("&'static str"), ["&", "'", "static", "str"]);
    }

    #[test]
    fn unfinished_literals_and_comments_end_with_the_text() {
        for text in ["\"abc", "/* abc", "r#\"abc", "'", "b", "'\\"] {
            assert!(words(text).len() <= 1, "{text}");
        }
    }

    #[test]
    fn lines_are_counted_through_literals() {
        let tokens = tokens("a\n\"x\ny\"\nb");
        assert_eq!(tokens.last(), Some(&Token { text: "b", line: 4 }));
    }
}
