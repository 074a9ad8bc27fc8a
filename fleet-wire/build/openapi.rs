//! The OpenAPI description of the unary procedures in Connect's JSON form, from the descriptors of the definitions.
//!
//! Streams are left out: OpenAPI cannot describe their envelopes. Read [`describe`] first.

use std::collections::{BTreeMap, BTreeSet};

use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
    FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};
use serde_json::{Map, Value, json};

/// Field numbers of descriptors, of which the paths of comments consist (descriptor.proto).
const MESSAGE: i32 = 4;
const ENUM: i32 = 5;
const SERVICE: i32 = 6;
const FIELD: i32 = 2;
const METHOD: i32 = 2;
const NESTED_MESSAGE: i32 = 3;
const NESTED_ENUM: i32 = 4;

/// What every description needs at the top.
const ABOUT: &str = "Procedures of the Fleet server in the JSON form of the Connect protocol: each is a POST of a JSON object to `/<package>.<Service>/<Method>`. Fields that have their default value may be left out, and are left out of answers. 64-bit integers are strings in answers; requests may hold numbers. Procedures that stream are not described here, see docs/api.md.";

/// Comments by the path of their element.
type Comments = BTreeMap<Vec<i32>, String>;

/// A message or an enumeration, with what is needed to describe it.
enum Definition<'a> {
    Message(&'a DescriptorProto, Vec<i32>, &'a Comments),
    Enum(&'a EnumDescriptorProto, Vec<i32>, &'a Comments),
}

/// Describes every unary procedure, as an OpenAPI 3.1 document.
pub(crate) fn describe(set: &FileDescriptorSet, version: &str) -> Value {
    let comments: Vec<Comments> = set.file.iter().map(comments_of).collect();
    let mut definitions = BTreeMap::new();
    for (file, comments) in set.file.iter().zip(&comments) {
        define(file, comments, &mut definitions);
    }
    let (mut paths, mut tags) = (Map::new(), Vec::new());
    let mut wanted = BTreeSet::new();
    for (file, comments) in set.file.iter().zip(&comments) {
        for (at, service) in (0..).zip(&file.service) {
            let name = format!("{}.{}", file.package(), service.name());
            let before = paths.len();
            for (position, method) in (0..).zip(&service.method) {
                if method.client_streaming() || method.server_streaming() {
                    continue;
                }
                let path = [SERVICE, at, METHOD, position];
                let text = comments.get(path.as_slice()).map_or("", String::as_str);
                wanted.extend([method.input_type(), method.output_type()].map(str::to_owned));
                let operation = operation(
                    &name,
                    method.name(),
                    method.input_type(),
                    method.output_type(),
                    text,
                );
                paths.insert(
                    format!("/{name}/{}", method.name()),
                    json!({ "post": operation }),
                );
            }
            if paths.len() > before {
                let text = comments.get([SERVICE, at].as_slice());
                tags.push(described(json!({ "name": name }), text));
            }
        }
    }
    tags.sort_by_key(|tag| tag["name"].to_string());
    json!({
        "openapi": "3.1.0",
        "info": { "title": "Fleet", "version": version, "description": ABOUT, "license": { "name": "MIT OR Apache-2.0" } },
        "servers": [{ "url": "/" }],
        "security": [{ "key": [] }],
        "tags": tags,
        "paths": paths,
        "components": {
            "securitySchemes": { "key": { "type": "http", "scheme": "bearer", "description": "An operator's API key (`fok_...`); a node's session for the procedures of nodes." } },
            "responses": { "error": {
                "description": "The call failed. The HTTP status follows from the code, as the Connect protocol states.",
                "content": { "application/json": { "schema": { "$ref": "#/components/schemas/connect.error" } } },
            } },
            "schemas": schemas(&definitions, wanted),
        },
    })
}

fn operation(service: &str, method: &str, input: &str, output: &str, text: &str) -> Value {
    let body = |name: &str| json!({ "application/json": { "schema": reference(name) } });
    let operation = json!({
        "operationId": format!("{service}.{method}"),
        "tags": [service],
        "requestBody": { "required": true, "content": body(input) },
        "responses": {
            "200": { "description": "The call succeeded.", "content": body(output) },
            "default": { "$ref": "#/components/responses/error" },
        },
    });
    described(operation, (!text.is_empty()).then_some(&text.to_owned()))
}

/// The schemas of the wanted types and of everything that they refer to.
fn schemas(definitions: &BTreeMap<String, Definition<'_>>, wanted: BTreeSet<String>) -> Value {
    let mut schemas = Map::new();
    let mut open: Vec<String> = wanted.into_iter().collect();
    while let Some(name) = open.pop() {
        let key = name.trim_start_matches('.').to_owned();
        if schemas.contains_key(&key) || well_known(&name).is_some() {
            continue;
        }
        let schema = match definitions.get(&name) {
            Some(Definition::Message(message, path, comments)) => {
                let types = message
                    .field
                    .iter()
                    .filter(|field| !field.type_name().is_empty());
                open.extend(types.map(|field| field.type_name().to_owned()));
                message_schema(message, path, comments, definitions)
            }
            Some(Definition::Enum(definition, path, comments)) => {
                let names = definition.value.iter().map(|value| value.name());
                let schema = json!({ "type": "string", "enum": names.collect::<Vec<_>>() });
                described(schema, comments.get(path))
            }
            None => continue,
        };
        schemas.insert(key, schema);
    }
    schemas.insert("connect.error".to_owned(), json!({
        "type": "object",
        "required": ["code"],
        "properties": {
            "code": { "type": "string", "description": "A status code in snake_case, such as `not_found`." },
            "message": { "type": "string", "description": "What happened, which value, and what to do." },
            "details": { "type": "array", "items": {
                "type": "object",
                "required": ["type", "value"],
                "properties": { "type": { "type": "string" }, "value": { "type": "string", "contentEncoding": "base64" } },
            } },
        },
    }));
    Value::Object(schemas)
}

fn message_schema(
    message: &DescriptorProto,
    path: &[i32],
    comments: &Comments,
    definitions: &BTreeMap<String, Definition<'_>>,
) -> Value {
    let mut properties = Map::new();
    for (at, field) in (0..).zip(&message.field) {
        let place: Vec<i32> = path.iter().copied().chain([FIELD, at]).collect();
        let schema = described(field_schema(field, definitions), comments.get(&place));
        properties.insert(field.json_name().to_owned(), schema);
    }
    let mut schema = json!({ "type": "object", "properties": properties });
    let choices: Vec<String> = (0..)
        .zip(&message.oneof_decl)
        .filter_map(|(at, choice)| {
            let fields = message
                .field
                .iter()
                .filter(|field| field.oneof_index == Some(at) && !field.proto3_optional());
            let names: Vec<&str> = fields.map(FieldDescriptorProto::json_name).collect();
            let note = format!(
                "At most one of these is set ({}): {}.",
                choice.name(),
                names.join(", ")
            );
            (!names.is_empty()).then_some(note)
        })
        .collect();
    let text = comments.get(path).cloned().into_iter().chain(choices);
    let text = text.collect::<Vec<_>>().join(" ");
    if !text.is_empty() {
        schema["description"] = Value::String(text);
    }
    schema
}

fn field_schema(
    field: &FieldDescriptorProto,
    definitions: &BTreeMap<String, Definition<'_>>,
) -> Value {
    if let Some(Definition::Message(entry, ..)) = definitions.get(field.type_name())
        && entry
            .options
            .as_ref()
            .is_some_and(|options| options.map_entry())
    {
        let value = entry.field.iter().find(|part| part.number() == 2);
        let value = value.map_or_else(|| json!({}), |value| field_schema(value, definitions));
        return json!({ "type": "object", "additionalProperties": value });
    }
    let one = match field.r#type() {
        Type::Double | Type::Float => json!({ "type": "number" }),
        Type::Int64 | Type::Sint64 | Type::Sfixed64 => {
            json!({ "type": ["string", "integer"], "format": "int64" })
        }
        Type::Uint64 | Type::Fixed64 => {
            json!({ "type": ["string", "integer"], "format": "uint64", "minimum": 0 })
        }
        Type::Int32 | Type::Sint32 | Type::Sfixed32 => {
            json!({ "type": "integer", "format": "int32" })
        }
        Type::Uint32 | Type::Fixed32 => {
            json!({ "type": "integer", "format": "uint32", "minimum": 0, "maximum": u32::MAX })
        }
        Type::Bool => json!({ "type": "boolean" }),
        Type::String => json!({ "type": "string" }),
        Type::Bytes => json!({ "type": "string", "contentEncoding": "base64" }),
        Type::Message | Type::Enum | Type::Group => reference(field.type_name()),
    };
    if field.label() == Label::Repeated {
        json!({ "type": "array", "items": one })
    } else {
        one
    }
}

fn reference(name: &str) -> Value {
    well_known(name).unwrap_or_else(
        || json!({ "$ref": format!("#/components/schemas/{}", name.trim_start_matches('.')) }),
    )
}

/// The JSON form of Protobuf's own messages.
fn well_known(name: &str) -> Option<Value> {
    match name {
        ".google.protobuf.Timestamp" => Some(json!({ "type": "string", "format": "date-time" })),
        ".google.protobuf.Duration" => {
            Some(json!({ "type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$" }))
        }
        ".google.protobuf.Empty" => Some(json!({ "type": "object" })),
        _ => None,
    }
}

/// Adds a text beside a schema. In OpenAPI 3.1, a reference may have one too.
fn described(mut value: Value, text: Option<&String>) -> Value {
    if let Some(text) = text {
        value["description"] = Value::String(text.clone());
    }
    value
}

fn comments_of(file: &FileDescriptorProto) -> Comments {
    let locations = file.source_code_info.iter().flat_map(|info| &info.location);
    locations
        .filter_map(|location| {
            let lines = location.leading_comments().lines().map(str::trim);
            let text = lines.collect::<Vec<_>>().join(" ").trim().to_owned();
            (!text.is_empty()).then(|| (location.path.clone(), text))
        })
        .collect()
}

/// Collects the messages and enumerations of a file by their full name, which begins with a dot.
fn define<'a>(
    file: &'a FileDescriptorProto,
    comments: &'a Comments,
    into: &mut BTreeMap<String, Definition<'a>>,
) {
    let package = format!(".{}", file.package());
    for (at, message) in (0..).zip(&file.message_type) {
        define_message(&package, message, vec![MESSAGE, at], comments, into);
    }
    for (at, definition) in (0..).zip(&file.enum_type) {
        let name = format!("{package}.{}", definition.name());
        into.insert(name, Definition::Enum(definition, vec![ENUM, at], comments));
    }
}

fn define_message<'a>(
    within: &str,
    message: &'a DescriptorProto,
    path: Vec<i32>,
    comments: &'a Comments,
    into: &mut BTreeMap<String, Definition<'a>>,
) {
    let name = format!("{within}.{}", message.name());
    let below = |kind, at| path.iter().copied().chain([kind, at]).collect::<Vec<i32>>();
    for (at, nested) in (0..).zip(&message.nested_type) {
        define_message(&name, nested, below(NESTED_MESSAGE, at), comments, into);
    }
    for (at, nested) in (0..).zip(&message.enum_type) {
        let key = format!("{name}.{}", nested.name());
        into.insert(
            key,
            Definition::Enum(nested, below(NESTED_ENUM, at), comments),
        );
    }
    into.insert(name, Definition::Message(message, path, comments));
}
