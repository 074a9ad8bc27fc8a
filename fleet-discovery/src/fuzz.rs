//! Bodies of the fuzz targets: each asserts what must hold for any input. Property tests and proofs run them too.

mod admission;
mod model;

use std::net::IpAddr;

pub use admission::report_admission;
use fleet_core::{AddressPolicy, Endpoint, Port};

use crate::{HostName, Mode, NodeProfile, PlanPolicy, ScanRequest, Scope, Target, TargetSet, plan};

/// Every accepted host name is also one to a strict parser. It is not an address in any form that a resolver accepts,
/// and not the local host.
pub fn host_name(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Ok(name) = text.parse::<HostName>() else {
        return;
    };
    let name = name.as_str();
    assert_eq!(
        name.parse::<HostName>().as_ref().map(HostName::as_str),
        Ok(name)
    );
    assert!(
        name.eq_ignore_ascii_case(&text) && name.len() <= 253,
        "{name}"
    );
    assert!(name.parse::<IpAddr>().is_err(), "{name}");
    assert!(!is_number_to_resolvers(name), "{name}");
    assert!(
        name != "localhost" && !name.ends_with(".localhost"),
        "{name}"
    );
    let target = text.parse::<Target>();
    assert!(
        target.is_err() || matches!(target, Ok(Target::Name(_) | Target::LocalSubnet)),
        "{name} is a name, and {target:?}"
    );
}

/// Whether `inet_aton`, which resolvers try first, accepts a text as an address. The text is one to four numbers:
/// decimal, octal after `0`, or hexadecimal after `0x`.
fn is_number_to_resolvers(text: &str) -> bool {
    let number = |part: &str| {
        let (digits, radix) = match part.strip_prefix("0x") {
            Some(hexadecimal) => (hexadecimal, 16),
            None if part.len() > 1 && part.starts_with('0') => (part, 8),
            None => (part, 10),
        };
        u64::from_str_radix(digits, radix).is_ok()
    };
    let parts: Vec<&str> = text.split('.').collect();
    parts.len() <= 4 && parts.into_iter().all(number)
}

/// Every accepted target has a canonical form with the same meaning. The error of a rejected text is bounded and has
/// no control characters. Planning a target does not panic and stays within the limits.
pub fn target_grammar(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let parsed = text.parse::<Target>();
    match &parsed {
        Ok(target) => {
            let canonical = target.to_string();
            assert_eq!(canonical.parse().as_ref(), Ok(target), "{canonical}");
            assert!(canonical.len() <= 253, "{canonical}");
        }
        Err(error) => {
            let error = error.to_string();
            assert!(
                error.len() < 2_048 && !error.chars().any(char::is_control),
                "{error}"
            );
        }
    }
    let set = TargetSet::parse(&[&*text]);
    let request = ScanRequest {
        mode: Mode::Target(text.into_owned()),
        ports: vec!["80".to_owned()],
        rate: 0,
    };
    match plan(&request, &NodeProfile::upstream(), &PlanPolicy::default()) {
        Ok(plan) => {
            assert!(set.is_ok(), "a plan for text that is not a target set");
            for ip in plan.chunks.iter().flat_map(|chunk| chunk.scope.addresses()) {
                assert!(AddressPolicy::default().admit(ip).is_ok(), "{ip}");
            }
        }
        Err(error) => assert!(!error.to_string().is_empty(), "an error without words"),
    }
}

/// Every accepted scope is canonical and bounded, and permits exactly its own addresses.
pub fn scope_text(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(scope) = text.parse::<Scope>() else {
        return;
    };
    assert_eq!(scope.to_string(), text, "not canonical");
    assert!(
        scope.targets() >= scope.addresses().count() as u64,
        "{text}"
    );
    let port = scope.ports().first().copied().or(Port::new(80));
    for (ip, port) in scope.addresses().take(64).zip(std::iter::repeat(port)) {
        if let Some(port) = port {
            assert_eq!(scope.check(Endpoint { ip, port }), Ok(()), "{ip}");
        }
    }
}
