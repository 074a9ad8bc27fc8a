//! Explains to rule authors why a rule matched or failed.

use super::{
    Fingerprints,
    answer::Answers,
    request::Protocol,
    rule::{Condition, Rule},
};
use crate::text;

/// The longest excerpt of a value in an explanation, in characters.
const SHOWN: usize = 80;

/// The result of one rule at one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleVerdict {
    /// The name of the rule.
    pub rule: String,
    /// Whether the signature matched. A rule of higher rank may still take precedence.
    pub matched: bool,
    /// The condition that failed or matched, as text.
    pub reason: String,
}

impl Fingerprints {
    /// Explains each rule of the protocol. Matching rules come first.
    pub(crate) fn explain(&self, answers: &Answers, protocol: Protocol) -> Vec<RuleVerdict> {
        let best = self.best(answers).map(|found| found.rule.name.as_str());
        let knows = |rule: &&Rule| {
            rule.opening_requests()
                .any(|request| request.protocol == protocol)
        };
        let mut verdicts: Vec<_> = self
            .rules()
            .iter()
            .filter(knows)
            .map(|rule| verdict(rule, answers, protocol, best))
            .collect();
        verdicts.sort_by_key(|one: &RuleVerdict| (!one.matched, Some(one.rule.as_str()) != best));
        verdicts
    }
}

fn verdict(rule: &Rule, answers: &Answers, protocol: Protocol, best: Option<&str>) -> RuleVerdict {
    let of = |matched, reason| RuleVerdict {
        rule: rule.name.clone(),
        matched,
        reason,
    };
    if let Some(found) = rule.matching(answers) {
        let why: Vec<_> = found
            .conditions
            .iter()
            .filter(|one| !one.is_negated)
            .map(|one| one.describe(answers))
            .collect();
        let reason = match best {
            Some(best) if best != rule.name => {
                format!("{}; rule {best} goes before it", why.join(", "))
            }
            _ => why.join(", "),
        };
        return of(true, reason);
    }
    let failed = rule
        .matches
        .iter()
        .filter(|one| one.conditions.iter().any(|c| c.answer.protocol == protocol));
    let reasons = failed.filter_map(|one| one.conditions.iter().find(|c| !c.holds(answers)));
    let mut reasons: Vec<_> = reasons
        .map(|condition| condition.describe(answers))
        .collect();
    reasons.dedup();
    of(false, reasons.join("; "))
}

impl Condition {
    fn describe(&self, answers: &Answers) -> String {
        let (answer, at) = (&self.answer, &self.written_at);
        let Some(answered) = answers.get(answer) else {
            return if answers.was_sent(answer) {
                format!("`{answer}` has no readable answer")
            } else {
                format!("`{answer}` was not sent")
            };
        };
        let value = answered
            .select(&self.at)
            .map(|text| text::quotable(text.as_bytes(), SHOWN));
        match (value, &self.like) {
            (None, _) if answered.has(&self.at) => format!("`{answer}` has {at}"),
            (None, _) => format!("`{answer}` has no {at}"),
            (Some(value), None) => format!("`{answer}` {at} is \"{value}\""),
            (Some(_), Some(like)) if *at == "text" => {
                let holds = self.holds(answers) != self.is_negated;
                format!(
                    "`{answer}` {} /{like}/",
                    if holds {
                        "contains"
                    } else {
                        "does not contain"
                    }
                )
            }
            (Some(value), Some(like)) => {
                let holds = self.holds(answers) != self.is_negated;
                format!(
                    "`{answer}` {at} is \"{value}\", which {} /{like}/",
                    if holds { "matches" } else { "does not match" }
                )
            }
        }
    }
}
