//! Generates the checks of messages from bounds.txt, the table that also documents its own form.
//!
//! [`generate`] reads the table, compares it with the definitions, and writes one `Validate` for each message.

use std::{
    collections::BTreeMap,
    fmt::{self, Write},
};

use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};

/// The bound of one field. Limits are numbers or names of constants, as they are written.
enum Rule {
    Chars(Range),
    Name(Range),
    Bytes {
        range: Range,
        or_empty: bool,
    },
    List {
        range: Range,
        elements: Option<Range>,
    },
    Id,
    Number {
        max: Option<String>,
    },
    Seconds(Range),
    Required {
        reason: String,
    },
}

struct Range(String, String);

/// The bounds of one message: its own fields, fields of messages inside it, and pairs of which one is set.
#[derive(Default)]
struct Entry {
    own: Vec<(String, Rule)>,
    inner: Vec<(String, Rule)>,
    one_of: Vec<(String, String)>,
}

/// Writes the implementations of `Validate` for every message of the table.
pub(crate) fn generate(table: &str, files: &FileDescriptorSet) -> Result<String, String> {
    let mut messages = BTreeMap::new();
    for file in &files.file {
        for message in &file.message_type {
            messages.insert(format!("{}.{}", file.package(), message.name()), message);
        }
    }
    let bounds = Bounds {
        entries: parse(table)?,
        messages,
    };
    let mut out = String::new();
    for (name, entry) in &bounds.entries {
        bounds
            .implement(name, entry, &mut out)
            .map_err(|error| format!("bounds.txt: {name}: {error}"))?;
    }
    Ok(out)
}

fn parse(table: &str) -> Result<BTreeMap<String, Entry>, String> {
    let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
    let mut current = None;
    for (at, line) in (1..).zip(table.lines()) {
        let text = line.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        if !line.starts_with(' ') {
            current = Some(text.to_owned());
            if entries.insert(text.to_owned(), Entry::default()).is_some() {
                return Err(format!("bounds.txt:{at}: {text} is in the table twice"));
            }
            continue;
        }
        let entry = current
            .as_ref()
            .and_then(|name| entries.get_mut(name))
            .ok_or_else(|| format!("bounds.txt:{at}: a bound without a message"))?;
        read(text, entry).ok_or_else(|| format!("bounds.txt:{at}: `{text}` is not a bound"))?;
    }
    Ok(entries)
}

fn read(text: &str, entry: &mut Entry) -> Option<()> {
    let words: Vec<&str> = text.split_whitespace().collect();
    if let ["one", "of", one, other] = *words {
        entry.one_of.push((one.to_owned(), other.to_owned()));
        return Some(());
    }
    let (field, rule) = words.split_first()?;
    let rule = match *rule {
        ["chars", range] => Rule::Chars(Range::read(range)?),
        ["name", range] => Rule::Name(Range::read(range)?),
        ["bytes", range, ref tail @ ..] => Rule::Bytes {
            range: Range::read(range)?,
            or_empty: match *tail {
                [] => false,
                ["or", "empty"] => true,
                _ => return None,
            },
        },
        ["list", range, ref tail @ ..] => Rule::List {
            range: Range::read(range).or_else(|| Range::read(&format!("0..{range}")))?,
            elements: match *tail {
                [] => None,
                ["of", "chars", range] => Some(Range::read(range)?),
                _ => return None,
            },
        },
        ["id"] => Rule::Id,
        ["number"] => Rule::Number { max: None },
        ["number", max] => Rule::Number {
            max: Some(limit(max)?),
        },
        ["seconds", range] => Rule::Seconds(Range::read(range)?),
        ["required"] => Rule::Required {
            reason: "is required".to_owned(),
        },
        ["required", ref reason @ ..] => Rule::Required {
            reason: reason.join(" "),
        },
        _ => return None,
    };
    let list = if field.contains('.') {
        &mut entry.inner
    } else {
        &mut entry.own
    };
    list.push(((*field).to_owned(), rule));
    Some(())
}

/// A number, or the path of a constant.
fn limit(text: &str) -> Option<String> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
        Some(text.to_owned())
    } else if text
        .bytes()
        .all(|byte| byte.is_ascii_uppercase() || byte == b'_')
    {
        Some(format!("crate::limits::{text}"))
    } else {
        None
    }
}

impl Range {
    fn read(text: &str) -> Option<Self> {
        let (min, max) = text.split_once("..")?;
        Some(Self(limit(min)?, limit(max)?))
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.0, self.1)
    }
}

struct Bounds<'a> {
    entries: BTreeMap<String, Entry>,
    messages: BTreeMap<String, &'a DescriptorProto>,
}

impl<'a> Bounds<'a> {
    fn implement(&self, name: &str, entry: &Entry, out: &mut String) -> Result<(), String> {
        let message = self.message(name)?;
        let overrides: Vec<_> = entry
            .inner
            .iter()
            .map(|(path, rule)| (&**path, rule))
            .collect();
        for (path, _) in &overrides {
            let head = path.split('.').next().unwrap_or_default();
            field(message, head)?;
        }
        let mut body = String::new();
        self.checks(name, message, "self", &overrides, &mut body)?;
        let repeated = self.repeated(name, message, "", &overrides)?;
        writeln!(
            out,
            "impl Validate for {path} {{
    const REPEATED: &'static [Repeated] = &[{repeated}];
    fn validate(&self) -> Checked {{
{body}        Ok(())
    }}
}}",
            path = rust_path(name),
        )
        .map_err(|error| error.to_string())
    }

    fn message(&self, name: &str) -> Result<&'a DescriptorProto, String> {
        let found = self.messages.get(name).copied();
        found.ok_or_else(|| format!("no message {name} in the definitions"))
    }

    /// The type of a message field, if it is in the table.
    fn bounded(&self, field: &FieldDescriptorProto) -> Option<(&str, &Entry)> {
        let name = field.type_name().strip_prefix('.')?;
        let (name, entry) = self.entries.get_key_value(name)?;
        Some((name, entry))
    }

    /// Writes the checks of the fields of `value`.
    fn checks(
        &self,
        name: &str,
        message: &DescriptorProto,
        value: &str,
        overrides: &[(&str, &Rule)],
        out: &mut String,
    ) -> Result<(), String> {
        let entry = self.entries.get(name).ok_or("not in the table")?;
        for (field_name, rule) in &entry.own {
            let replaced = overrides.iter().find(|(path, _)| path == field_name);
            let rule = replaced.map_or(rule, |(_, rule)| rule);
            out.push_str(&check(message, field_name, value, rule)?);
        }
        for (one, other) in &entry.one_of {
            let set = |name: &str| {
                let is_text = field(message, name)?.r#type() == Type::String;
                Ok::<_, String>(if is_text {
                    format!("!{value}.{name}.is_empty()")
                } else {
                    format!("{value}.{name} != 0")
                })
            };
            let (first, second) = (set(one)?, set(other)?);
            writeln!(
                out,
                "exactly_one(\"{one}\", {first}, \"{other}\", {second})?;"
            )
            .ok();
        }
        for inner in message
            .field
            .iter()
            .filter(|field| field.oneof_index.is_none() || field.proto3_optional())
        {
            let Some((inner_name, _)) = self.bounded(inner) else {
                continue;
            };
            let field_name = inner.name();
            let validate = self.nested(inner_name, inner, overrides)?;
            if inner.label() == Label::Repeated {
                writeln!(out, "for (at, m) in {value}.{field_name}.iter().enumerate() {{ inner(&format!(\"{field_name}[{{at}}]\"), {validate})?; }}").ok();
            } else {
                writeln!(out, "if let Some(m) = &{value}.{field_name} {{ inner(\"{field_name}\", {validate})?; }}").ok();
            }
        }
        for (index, oneof) in (0_i32..).zip(&message.oneof_decl) {
            let arms: Vec<_> = message
                .field
                .iter()
                .filter(|field| field.oneof_index == Some(index) && !field.proto3_optional())
                .collect();
            if arms.is_empty() {
                continue;
            }
            writeln!(out, "match &{value}.{} {{ None => {{}}", oneof.name()).ok();
            let path = format!("{}::{}", oneof_module(name), camel(oneof.name()));
            for arm in arms {
                let (field_name, variant) = (arm.name(), camel(arm.name()));
                match self.bounded(arm) {
                    Some((inner_name, _)) => {
                        let validate = self.nested(inner_name, arm, overrides)?;
                        writeln!(
                            out,
                            "Some({path}::{variant}(m)) => inner(\"{field_name}\", {validate})?,"
                        )
                        .ok();
                    }
                    None => {
                        writeln!(out, "Some({path}::{variant}(_)) => {{}}").ok();
                    }
                }
            }
            out.push_str("}\n");
        }
        Ok(())
    }

    /// The result of checking `m`, which is a message in `field`.
    fn nested(
        &self,
        name: &str,
        field: &FieldDescriptorProto,
        overrides: &[(&str, &Rule)],
    ) -> Result<String, String> {
        let below = below(overrides, field.name());
        if below.is_empty() {
            return Ok("m.validate()".to_owned());
        }
        let mut body = String::new();
        self.checks(name, self.message(name)?, "m", &below, &mut body)?;
        Ok(format!("(|| {{ {body} Ok(()) }})()"))
    }

    /// The counts that must hold before a message is decoded.
    fn repeated(
        &self,
        name: &str,
        message: &DescriptorProto,
        prefix: &str,
        overrides: &[(&str, &Rule)],
    ) -> Result<String, String> {
        let entry = self.entries.get(name).ok_or("not in the table")?;
        let mut out = String::new();
        for field in &message.field {
            let field_name = field.name();
            let path = format!("{prefix}{field_name}");
            let inner = match self.bounded(field) {
                Some((inner_name, _)) => self.repeated(
                    inner_name,
                    self.message(inner_name)?,
                    &format!("{path}."),
                    &below(overrides, field_name),
                )?,
                None => String::new(),
            };
            let max = if field.label() == Label::Repeated {
                let rules = overrides
                    .iter()
                    .copied()
                    .chain(entry.own.iter().map(|(name, rule)| (&**name, rule)));
                let mut rules = rules.filter(|(name, _)| *name == field_name);
                match rules.next() {
                    Some((_, Rule::List { range, .. })) => range.1.clone(),
                    _ => return Err(format!("the repeated field {path} has no bound")),
                }
            } else if inner.is_empty() {
                continue;
            } else {
                // A decoder merges a message that occurs twice, which would add up the lists in it.
                "1".to_owned()
            };
            write!(
                out,
                "Repeated {{ field: \"{path}\", number: {}, max: {max}, inner: &[{inner}] }}, ",
                field.number()
            )
            .ok();
        }
        Ok(out)
    }
}

/// The overrides of what is inside a field, with their paths from there.
fn below<'r>(overrides: &[(&'r str, &'r Rule)], field: &str) -> Vec<(&'r str, &'r Rule)> {
    overrides
        .iter()
        .filter_map(|(path, rule)| {
            let rest = path.strip_prefix(field)?.strip_prefix('.')?;
            Some((rest, *rule))
        })
        .collect()
}

/// The statement that checks one field.
fn check(
    message: &DescriptorProto,
    name: &str,
    value: &str,
    rule: &Rule,
) -> Result<String, String> {
    if let Rule::Required { reason } = rule {
        let oneof = message.oneof_decl.iter().any(|oneof| oneof.name() == name);
        if !oneof {
            expect(field(message, name)?, &[Type::Message])?;
        }
        return Ok(format!(
            "required(\"{name}\", {value}.{name}.as_ref(), \"{reason}\")?;\n"
        ));
    }
    let field = field(message, name)?;
    let optional = field.proto3_optional();
    Ok(match rule {
        Rule::Chars(range) => {
            expect(field, &[Type::String])?;
            let text = if optional {
                format!("{value}.{name}.as_deref().unwrap_or_default()")
            } else {
                format!("&{value}.{name}")
            };
            format!("text(\"{name}\", {text}, {range})?;\n")
        }
        Rule::Name(range) => {
            expect(field, &[Type::String])?;
            format!("name(\"{name}\", &{value}.{name}, {range})?;\n")
        }
        Rule::Bytes { range, or_empty } => {
            expect(field, &[Type::Bytes])?;
            let condition = if *or_empty {
                format!("if !{value}.{name}.is_empty() ")
            } else {
                String::new()
            };
            format!("{condition}{{ bytes(\"{name}\", &{value}.{name}, {range})?; }}\n")
        }
        Rule::List { range, elements } => {
            if field.label() != Label::Repeated {
                return Err(format!("{name} is not repeated"));
            }
            let mut text = format!("count(\"{name}\", &{value}.{name}, {range})?;\n");
            if let Some(elements) = elements {
                expect(field, &[Type::String])?;
                writeln!(text, "texts(\"{name}\", &{value}.{name}, {elements})?;").ok();
            }
            text
        }
        Rule::Id if optional => {
            expect(field, &[Type::Int64])?;
            format!("if let Some(value) = {value}.{name} {{ id(\"{name}\", value)?; }}\n")
        }
        Rule::Id => {
            expect(field, &[Type::Int64])?;
            format!("id(\"{name}\", {value}.{name})?;\n")
        }
        Rule::Number { max } => {
            expect(field, &[Type::Int64, Type::Int32, Type::Uint32])?;
            let convert = if field.r#type() == Type::Int64 {
                ""
            } else {
                ".into()"
            };
            let max = max.as_deref().unwrap_or("i64::MAX");
            format!("at_most(\"{name}\", {value}.{name}{convert}, {max})?;\n")
        }
        Rule::Seconds(range) => {
            expect(field, &[Type::Message])?;
            format!("seconds(\"{name}\", {value}.{name}.as_ref(), {range})?;\n")
        }
        Rule::Required { .. } => unreachable!("handled above"),
    })
}

fn field<'a>(message: &'a DescriptorProto, name: &str) -> Result<&'a FieldDescriptorProto, String> {
    let found = message.field.iter().find(|field| field.name() == name);
    found.ok_or_else(|| format!("no field {name} in the definition"))
}

fn expect(field: &FieldDescriptorProto, types: &[Type]) -> Result<(), String> {
    if types.contains(&field.r#type()) {
        Ok(())
    } else {
        Err(format!(
            "{} is of type {:?}, not of {types:?}",
            field.name(),
            field.r#type()
        ))
    }
}

/// The path of a message among the generated modules, which mirror the packages.
fn rust_path(name: &str) -> String {
    let (package, message) = name.rsplit_once('.').unwrap_or(("", name));
    let package = package.replace('.', "::");
    format!("crate::generated::{package}::{}", rust_name(message))
}

/// The name that prost gives a message: `IPList` becomes `IpList`.
fn rust_name(message: &str) -> String {
    let letters: Vec<char> = message.chars().collect();
    let is_upper = |at: usize| letters.get(at).is_none_or(char::is_ascii_uppercase);
    let lower_inside_capitals = |(at, letter): (usize, &char)| {
        if at > 0 && is_upper(at - 1) && is_upper(at + 1) {
            letter.to_ascii_lowercase()
        } else {
            *letter
        }
    };
    letters
        .iter()
        .enumerate()
        .map(lower_inside_capitals)
        .collect()
}

/// The module of a message's oneofs.
fn oneof_module(name: &str) -> String {
    let (package, message) = name.rsplit_once('.').unwrap_or(("", name));
    let mut snake = String::new();
    for letter in rust_name(message).chars() {
        if letter.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    format!("crate::generated::{}::{snake}", package.replace('.', "::"))
}

fn camel(name: &str) -> String {
    name.split('_')
        .map(|word| {
            let mut letters = word.chars();
            let first = letters.next().map(|first| first.to_ascii_uppercase());
            first.into_iter().chain(letters).collect::<String>()
        })
        .collect()
}
