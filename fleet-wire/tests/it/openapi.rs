//! The OpenAPI description: complete, closed, and the same as docs/openapi.json. `cargo xtask openapi` writes the file.

use std::collections::BTreeSet;

use fleet_wire::{MethodKind, OPENAPI, methods};
use serde_json::Value;

/// Set by `cargo xtask openapi`.
const WRITE: &str = "FLEET_WRITE_OPENAPI";

fn described() -> Value {
    serde_json::from_str(OPENAPI).expect("JSON")
}

#[test]
fn the_documented_description_is_that_of_the_definitions() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(file, OPENAPI).expect("writes");
    }
    let text = std::fs::read_to_string(file).expect(file);
    let documented: Value = serde_json::from_str(&text).expect("JSON");
    // Not `assert_eq`, whose output would be two whole documents.
    assert!(
        documented == described(),
        "docs/openapi.json is out of date: run `cargo xtask openapi`"
    );
}

#[test]
fn every_unary_procedure_is_described_and_no_other() {
    let api = described();
    let paths = api["paths"].as_object().expect("paths");
    let described: BTreeSet<&str> = paths.keys().map(String::as_str).collect();
    let unary: BTreeSet<&str> = methods()
        .filter(|method| method.kind() == MethodKind::Unary)
        .map(|method| method.path())
        .chain(["/grpc.health.v1.Health/Check"])
        .collect();
    assert_eq!(described, unary);
}

#[test]
fn every_reference_leads_to_a_schema() {
    fn check(value: &Value, api: &Value) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(to)) = map.get("$ref") {
                    let pointer = to.strip_prefix('#').expect("a local reference");
                    assert!(api.pointer(pointer).is_some(), "{to}");
                }
                map.values().for_each(|inner| check(inner, api));
            }
            Value::Array(list) => list.iter().for_each(|inner| check(inner, api)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let api = described();
    check(&api, &api);
}

#[test]
fn fields_have_the_names_types_and_texts_of_the_definitions() {
    let api = described();
    let scan = &api["components"]["schemas"]["fleet.v1.Scan"]["properties"];
    assert_eq!(scan["scanId"]["type"], "string");
    assert_eq!(scan["fleetNodeId"]["format"], "int64");
    assert_eq!(scan["createdAt"]["format"], "date-time");
    assert_eq!(
        scan["state"]["$ref"],
        "#/components/schemas/fleet.v1.ScanState"
    );
    assert_eq!(scan["openScope"]["type"], "boolean");
    let text = scan["startedBy"]["description"].as_str();
    assert_eq!(
        text,
        Some("E-mail address of the operator who started the scan.")
    );
    let list = &api["components"]["schemas"]["fleet.v1.ListScansResponse"]["properties"]["scans"];
    assert_eq!(list["items"]["$ref"], "#/components/schemas/fleet.v1.Scan");
    let states = &api["components"]["schemas"]["fleet.v1.ScanState"]["enum"];
    assert!(
        states
            .as_array()
            .is_some_and(|names| names.contains(&"SCAN_STATE_RUNNING".into()))
    );
}
