//! Confirmation of actions that cannot be undone.

use std::io::{self, IsTerminal, Write};

use crate::failure::Failure;

/// Asks for confirmation on a terminal. Without a terminal, the error names the flag to use instead.
pub(crate) fn agreed(question: &str, instead: &str) -> Result<(), Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::Usage(format!(
            "{question} There is no terminal for the answer: {instead}"
        )));
    }
    write!(io::stderr(), "{question} [y/N] ")?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        Ok(())
    } else {
        Err(Failure::Declined(
            "canceled, nothing was changed".to_owned(),
        ))
    }
}
