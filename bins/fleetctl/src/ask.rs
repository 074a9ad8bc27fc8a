//! Questions before what cannot be taken back.

use std::io::{self, IsTerminal, Write};

use crate::failure::Failure;

/// Asks on a terminal; elsewhere says what to give instead.
pub(crate) fn agreed(question: &str, instead: &str) -> Result<(), Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::Usage(format!(
            "{question} There is no terminal to ask on: {instead}"
        )));
    }
    write!(io::stderr(), "{question} [y/N] ")?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        Ok(())
    } else {
        Err(Failure::Declined("nothing was done".to_owned()))
    }
}
