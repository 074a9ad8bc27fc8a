//! Queries a device: sends opening requests until a rule matches, then the requests that the rule's facts need.
//!
//! Every built-in driver uses [`identify`]. `cgminer.rs`, `http.rs` and `whatsminer.rs` encode the requests.
//! `fingerprint.rs` interprets the answers.

use fleet_core::DeviceFacts;

use crate::{
    cgminer,
    driver::{Answer, DriverError},
    fingerprint::{Answered, Answers, Fingerprints, Matched, Protocol, Request},
    http,
    probe::Probe,
    text, whatsminer,
};

/// Consecutive failed or garbled requests after which the device is skipped.
const MOST_FAILURES: usize = 3;

/// The limit of fact requests per rule.
const MOST_FACT_REQUESTS: usize = 6;

/// The result of one request.
enum Fetched {
    Answer(Box<Answered>),
    /// The reply is unreadable. Another request may succeed.
    Garbled,
    /// The reply belongs to another protocol.
    Foreign,
}

/// Identifies the device behind a port by the rules of one protocol.
///
/// # Errors
/// [`DriverError`] if the device sent no reply.
pub(crate) async fn identify(
    probe: &mut Probe<'_>,
    rules: &Fingerprints,
    protocol: Protocol,
) -> Result<Answer, DriverError> {
    let mut answers = Answers::default();
    answers.insert_attributes(probe.attributes());
    let (mut found, opened) = open(probe, rules, protocol, &mut answers).await;
    if let Some(first) = found {
        complete(probe, first, protocol, &mut answers).await;
        // An answer that was requested for a fact may name a fork. Its page can be that of the original.
        let later = rules.best(&answers);
        if let Some(later) = later.filter(|later| later.goes_before(&first)) {
            complete(probe, later, protocol, &mut answers).await;
            found = Some(later);
        }
    }
    probe.explain(|| rules.explain(&answers, protocol));
    if let Some(found) = found {
        probe.identified_by(&found.rule.name, protocol);
    }
    let described = describe(protocol, &answers);
    match (found, opened) {
        (Some(found), _) => Ok(Answer::Named(Box::new(identification(
            probe, found, &answers, described,
        )))),
        (None, Ok(true)) => Ok(Answer::Unidentified {
            evidence: described.unwrap_or_default(),
        }),
        (None, Ok(false)) => Ok(Answer::Foreign),
        (None, Err(error)) => Err(error),
    }
}

/// Sends opening requests until a rule matches. Returns the best rule, and whether the device speaks the protocol or
/// why it sent no reply.
async fn open<'r>(
    probe: &mut Probe<'_>,
    rules: &'r Fingerprints,
    protocol: Protocol,
    answers: &mut Answers,
) -> (Option<Matched<'r>>, Result<bool, DriverError>) {
    let (mut failures, mut speaks, mut failed, mut found) = (0, false, None, None::<Matched<'r>>);
    for request in rules.openings(protocol) {
        if failures >= MOST_FAILURES || found.is_some_and(|found| !found.is_weak) {
            break;
        }
        // A web server gets a request with a body only if it has no page by which to identify it.
        if request.is_post() && has_page(answers, protocol) {
            continue;
        }
        match fetch(probe, request).await {
            Ok(Fetched::Answer(answer)) => {
                (failures, speaks) = (0, true);
                answers.insert(request.clone(), *answer);
                found = rules.best(answers);
            }
            // A refused, garbled or empty answer does not predict the next answer.
            Ok(Fetched::Garbled) => {
                failures += 1;
                answers.insert_nothing(request.clone());
            }
            // One odd answer does not disprove a protocol that an earlier answer proved.
            Ok(Fetched::Foreign) if speaks => answers.insert_nothing(request.clone()),
            Ok(Fetched::Foreign) => return (None, Ok(false)),
            // Each further request to an unresponsive device would run into the same timeout. A device without TLS will
            // not support it later.
            Err(
                error @ (DriverError::Silence
                | DriverError::Forbidden(_)
                | DriverError::Protocol(_)),
            ) => {
                failed = Some(error);
                break;
            }
            Err(error) => {
                failures += 1;
                answers.insert_nothing(request.clone());
                failed.get_or_insert(error);
            }
        }
    }
    let opened = match failed {
        Some(error) if !speaks => Err(error),
        Some(_) | None => Ok(speaks),
    };
    (found, opened)
}

/// Sends the requests that a rule's facts need. A failed request leaves those facts empty.
async fn complete(
    probe: &mut Probe<'_>,
    found: Matched<'_>,
    protocol: Protocol,
    answers: &mut Answers,
) {
    for _ in 0..MOST_FACT_REQUESTS {
        let Some(request) = found.rule.wanted(answers, protocol) else {
            return;
        };
        match fetch(probe, request).await {
            Ok(Fetched::Answer(answer)) => answers.insert(request.clone(), *answer),
            Ok(Fetched::Garbled | Fetched::Foreign) => answers.insert_nothing(request.clone()),
            // The device is identified already. More timeouts would only delay its report.
            Err(DriverError::Silence | DriverError::Forbidden(_)) => return,
            Err(_) => answers.insert_nothing(request.clone()),
        }
    }
}

async fn fetch(probe: &mut Probe<'_>, request: &Request) -> Result<Fetched, DriverError> {
    let answer = |answer| Fetched::Answer(Box::new(answer));
    Ok(match request.protocol {
        Protocol::Cgminer => match cgminer::send(probe, &request.text).await? {
            cgminer::Reply::Answer(value) => answer(Answered::json(value)),
            cgminer::Reply::Garbled => Fetched::Garbled,
            cgminer::Reply::Foreign => Fetched::Foreign,
        },
        Protocol::Whatsminer => match whatsminer::send(probe, &request.text).await? {
            Some(value) => answer(Answered::json(value)),
            None => Fetched::Foreign,
        },
        Protocol::Http if request.text == "/" => match root(probe).await? {
            Some(page) => answer(page),
            None => Fetched::Foreign,
        },
        Protocol::Http => match http::send(probe, request).await? {
            Some(response) => answer(Answered::page(response)),
            None => Fetched::Garbled,
        },
        Protocol::Epic => match http::send(probe, request).await? {
            // Any web server can listen at this port. Only ePIC's API answers the first path with JSON.
            Some(response) if response.status == 200 => answer(Answered::page(response)),
            Some(_) | None => Fetched::Foreign,
        },
        // The host announced it by itself, or it has none.
        Protocol::Mdns => Fetched::Garbled,
    })
}

/// Fetches the root page and follows one redirect on the same host. None if the server does not speak HTTP, or not
/// without TLS.
async fn root(probe: &mut Probe<'_>) -> Result<Option<Answered>, DriverError> {
    let Some(first) = http::get(probe, "/").await? else {
        return Ok(None);
    };
    if !probe.is_encrypted() && http::wants_tls(&first) {
        return Ok(None);
    }
    let Some(path) = http::same_host_path(probe, &first) else {
        return Ok(Some(Answered::page(first)));
    };
    // The first page is an answer too, so a failed redirect loses nothing.
    let second = http::get(probe, &path).await.ok().flatten();
    Ok(Some(
        match second.filter(|second| matches!(second.status, 200..300 | 401 | 403)) {
            Some(second) => Answered::redirected(first, second),
            None => Answered::page(first),
        },
    ))
}

fn has_page(answers: &Answers, protocol: Protocol) -> bool {
    let pages = answers
        .iter()
        .filter(|(request, _)| request.protocol == protocol && request.text == "/");
    pages
        .filter_map(|(_, answer)| answer?.response())
        .any(|response| (200..300).contains(&response.status))
}

/// Describes the first answer. None if there was no answer.
fn describe(protocol: Protocol, answers: &Answers) -> Option<String> {
    let answered = || {
        answers
            .iter()
            .filter(|(request, _)| request.protocol != Protocol::Mdns)
            .filter_map(|(request, answer)| Some((request, answer?)))
    };
    match protocol {
        Protocol::Cgminer => {
            let words = |name: &str| {
                let (_, answer) = answered().find(|(request, _)| request.text == name)?;
                answer.value().map(cgminer::describe)
            };
            let all = ["version", "stats", "devdetails", "get_version"]
                .into_iter()
                .filter_map(words);
            all.max_by_key(|words| (words.contains(", type "), words != "CGMiner API"))
        }
        Protocol::Http => {
            let (_, root) = answered().next()?;
            let page = root.response().map(http::describe)?;
            let api = answered().find(|(_, answer)| answer.value().is_some());
            Some(match api {
                Some((request, _)) => {
                    let path = request
                        .text
                        .split(' ')
                        .find(|part| part.starts_with('/'))
                        .unwrap_or_default();
                    text::bounded(&format!("{path}, {page}"), text::EVIDENCE)
                }
                None => page,
            })
        }
        Protocol::Epic | Protocol::Whatsminer | Protocol::Mdns => {
            answered().next().map(|(request, _)| request.text.clone())
        }
    }
}

fn identification(
    probe: &Probe<'_>,
    found: Matched<'_>,
    answers: &Answers,
    described: Option<String>,
) -> DeviceFacts {
    let rule = found.rule;
    let facts = rule.facts(answers);
    let is_web = answers
        .iter()
        .any(|(request, _)| request.protocol == Protocol::Http);
    let scheme = match (is_web, probe.is_encrypted()) {
        (true, true) => "https",
        (true, false) => "http",
        // Upstream's server builds the link to the device's page from the scheme, also for an API
        // port.
        (false, _) => &rule.scheme,
    };
    DeviceFacts {
        driver: found.driver.unwrap_or(&rule.driver).to_owned(),
        scheme: scheme.to_owned(),
        model: facts.model,
        manufacturer: facts.manufacturer,
        firmware: facts.firmware,
        mac: facts.mac,
        serial: facts.serial,
        host_name: None,
        evidence: described.unwrap_or_default(),
    }
}
