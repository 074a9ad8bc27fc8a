//! Entry points for fuzzing: the parsers of plugin output, as functions of bytes.

/// Parses a first line of output.
pub fn handshake_line(bytes: &[u8]) {
    crate::handshake::fuzz(bytes);
}

/// Parses the answer to a discovery.
pub fn discovery_answer(bytes: &[u8]) {
    crate::answer::fuzz(bytes);
}

#[cfg(test)]
#[path = "../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::{discovery_answer, handshake_line, replay::replay};

    #[test]
    fn every_first_line_of_the_corpus_is_parsed_or_rejected() {
        replay("plugin_handshake", handshake_line);
    }

    #[test]
    fn every_answer_of_the_corpus_is_converted_or_rejected() {
        replay("plugin_answer", discovery_answer);
    }
}
