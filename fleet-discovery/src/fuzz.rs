//! Bodies of the fuzz targets: each asserts what must hold for any input.

use fleet_core::{AddressPolicy, Endpoint, Port};

use crate::{Mode, NodeProfile, PlanPolicy, ScanRequest, Scope, Target, plan};

/// Whatever is taken as a target has a canonical form that means the same; whatever is not is refused
/// in a bounded text without control characters; planning it does neither panic nor pass the limits.
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
    let request = ScanRequest {
        mode: Mode::Target(text.into_owned()),
        ports: vec!["80".to_owned()],
    };
    match plan(&request, &NodeProfile::stock(), &PlanPolicy::default()) {
        Ok(plan) => {
            assert!(parsed.is_ok(), "a plan of what is no target");
            for ip in plan.chunks.iter().flat_map(|chunk| chunk.scope.addresses()) {
                assert!(AddressPolicy::default().admit(ip).is_ok(), "{ip}");
            }
        }
        Err(error) => assert!(!error.to_string().is_empty(), "an error without words"),
    }
}

/// Whatever is taken as a scope is canonical, bounded, and lets exactly its own addresses pass.
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
