//! Generates the messages, their JSON form and, for each service, a trait on prost types, its server and its client.
//! No protoc: protox compiles the definitions.

#[path = "build/bounds.rs"]
mod bounds;
#[path = "build/openapi.rs"]
mod openapi;

use std::{
    error::Error,
    fmt::{self, Write},
    path::{Path, PathBuf},
};

use prost::Message;
use prost_build::{Config, Method, Service, ServiceGenerator};
use prost_types::{FileDescriptorSet, method_options::IdempotencyLevel};

/// What plugins are asked is compiled apart: no server of ours serves it or shows it in its reflection.
const PLUGIN: &str = "proto-plugin";

/// Messages that carry secrets: their `Debug` is written by hand and shows none.
const SECRET: [&str; 17] = [
    ".fleetnodegateway.v1.RegisterRequest",
    ".fleetnodegateway.v1.BeginAuthHandshakeRequest",
    ".fleetnodegateway.v1.CompleteAuthHandshakeRequest",
    ".fleetnodegateway.v1.CompleteAuthHandshakeResponse",
    ".fleetnodegateway.v1.EncryptedCredentials",
    ".fleetnodegateway.v1.ControlCommand",
    ".fleetnodeadmin.v1.CreateEnrollmentCodeResponse",
    ".fleetnodeadmin.v1.ConfirmFleetNodeResponse",
    ".pairing.v1.Credentials",
    ".fleet.v1.CreateKeyResponse",
    ".fleet.v1.RotateKeyResponse",
    ".fleet.v1.CreateOperatorResponse",
    ".fleet.v1.ResetOperatorPasswordResponse",
    ".fleet.v1.ChangePasswordRequest",
    ".fleet.v1.CreateAlertChannelRequest",
    ".fleet.v1.CreateAlertChannelResponse",
    ".sdk.v1.UsernamePassword",
];

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let encoded = compile("proto")?;
    std::fs::write(out.join("descriptors.bin"), &encoded)?;
    let packages = [
        "common",
        "fleet",
        "fleetmanagement",
        "fleetnodeadmin",
        "fleetnodegateway",
        "google.rpc",
        "grpc.health",
        "minercommand",
        "pairing",
    ];
    generate(&encoded, &packages, true)?;
    accept_later_names(&out.join("pairing.v1.serde.rs"))?;
    println!("cargo:rerun-if-changed=bounds.txt");
    let table = std::fs::read_to_string("bounds.txt")?;
    let checks = bounds::generate(&table, &FileDescriptorSet::decode(&*encoded)?)?;
    std::fs::write(out.join("bounds.rs"), checks)?;
    let version = std::env::var("CARGO_PKG_VERSION")?;
    let documented = compiler("proto")?
        .include_source_info(true)
        .encode_file_descriptor_set();
    let api = openapi::describe(&FileDescriptorSet::decode(&*documented)?, &version);
    std::fs::write(out.join("openapi.json"), format!("{api:#}\n"))?;
    generate(&compile(PLUGIN)?, &["sdk", "plugin"], false)
}

/// Names that upstream gave to fields of `pairing.v1` in September 2026. Their numbers did not change, so only JSON
/// needs both.
fn accept_later_names(json: &Path) -> Result<(), Box<dyn Error>> {
    let mut code = std::fs::read_to_string(json)?;
    for (name, later) in [
        ("\"nmap\"", "\"networkScan\" | \"network_scan\""),
        ("\"error\"", "\"warning\""),
    ] {
        let arm = format!("{name} => Ok(GeneratedField");
        if code.matches(&arm).count() != 1 {
            return Err(
                format!("{name} is not the name of exactly one field of pairing.v1").into(),
            );
        }
        code = code.replace(&arm, &format!("{name} | {later} => Ok(GeneratedField"));
    }
    std::fs::write(json, code)?;
    Ok(())
}

/// Every definition below a folder, as an encoded set of descriptors.
fn compile(folder: &str) -> Result<Vec<u8>, Box<dyn Error>> {
    Ok(compiler(folder)?.encode_file_descriptor_set())
}

/// A compiler that has read every definition below a folder.
fn compiler(folder: &str) -> Result<protox::Compiler, Box<dyn Error>> {
    println!("cargo:rerun-if-changed={folder}");
    let mut files = Vec::new();
    definitions(Path::new(folder), &mut files)?;
    // The order of `read_dir` differs between machines.
    files.sort();
    let mut compiler = protox::Compiler::new([folder])?;
    compiler.include_imports(true).open_files(&files)?;
    Ok(compiler)
}

/// Messages, services, and the JSON form of the messages of `packages`.
fn generate(encoded: &[u8], packages: &[&str], served: bool) -> Result<(), Box<dyn Error>> {
    Config::new()
        .bytes(["."])
        // Equal messages must have equal bytes.
        .btree_map(["."])
        .skip_debug(SECRET)
        // Without this, prost rejects the external path as a duplicate.
        .compile_well_known_types()
        .extern_path(".google.protobuf", "::pbjson_types")
        .service_generator(Box::new(Services { served }))
        .compile_fds(FileDescriptorSet::decode(encoded)?)?;
    let packages: Vec<String> = packages.iter().map(|p| format!(".{p}")).collect();
    pbjson_build::Builder::new()
        .register_descriptors(encoded)?
        .extern_path(".google.protobuf", "::pbjson_types")
        // pbjson otherwise rejects a request of a newer client.
        .ignore_unknown_fields()
        .btree_map(["."])
        .build(&packages)?;
    Ok(())
}

/// Collects every .proto below `dir`.
fn definitions(dir: &Path, into: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            definitions(&path, into)?;
        } else if path.extension().is_some_and(|e| e == "proto") {
            into.push(path);
        }
    }
    Ok(())
}

/// Emits the client of a service and, where one of ours serves it, the trait and the server.
struct Services {
    served: bool,
}

impl ServiceGenerator for Services {
    fn generate(&mut self, service: Service, buf: &mut String) {
        let served = if self.served {
            emit_trait(&service, buf).and_then(|()| emit_server(&service, buf))
        } else {
            Ok(())
        };
        served
            .and_then(|()| emit_client(&service, buf))
            .expect("writing to a String cannot fail");
    }
}

fn stem(service: &Service) -> &str {
    service
        .name
        .strip_suffix("Service")
        .unwrap_or(&service.name)
}

fn full_name(service: &Service) -> String {
    format!("{}.{}", service.package, service.proto_name)
}

fn constant(method: &Method) -> String {
    method.name.to_uppercase()
}

/// How the runtime calls this shape. Nothing here streams up without streaming down.
fn shape(method: &Method) -> (&'static str, &'static str) {
    match (method.client_streaming, method.server_streaming) {
        (false, false) => ("unary", "Unary"),
        (false, true) => ("server_stream", "ServerStream"),
        (true, true) => ("bidi", "Bidi"),
        (true, false) => panic!(
            "{}: client streaming has no runtime support",
            method.proto_name
        ),
    }
}

fn comments(buf: &mut String, indent: &str, lines: &[String]) -> fmt::Result {
    for line in lines.iter().flat_map(|block| block.lines()) {
        writeln!(buf, "{indent}///{}", line.trim_end())?;
    }
    Ok(())
}

fn emit_trait(service: &Service, buf: &mut String) -> fmt::Result {
    writeln!(buf, "/// Handlers of `{}`.\n///", full_name(service))?;
    comments(buf, "", &service.comments.leading)?;
    writeln!(buf, "pub trait {}: Send + Sync + 'static {{", service.name)?;
    for m in &service.methods {
        let request = if m.client_streaming {
            format!("crate::BoxStream<{}>", m.input_type)
        } else {
            m.input_type.clone()
        };
        let reply = if m.server_streaming {
            format!("crate::BoxStream<{}>", m.output_type)
        } else {
            m.output_type.clone()
        };
        writeln!(buf, "    /// `{}`.\n    ///", m.proto_name)?;
        comments(buf, "    ", &m.comments.leading)?;
        writeln!(
            buf,
            "    fn {}(&self, ctx: crate::Context, request: {request}) -> impl Future<Output = Result<crate::Reply<{reply}>, crate::RpcError>> + Send;",
            m.name
        )?;
    }
    writeln!(buf, "}}")
}

fn emit_server(service: &Service, buf: &mut String) -> fmt::Result {
    let (stem, name) = (stem(service), &service.name);
    writeln!(
        buf,
        "/// Mounts handlers of `{full}`.
pub struct {stem}Server<T>(::std::sync::Arc<T>);
impl<T> {stem}Server<T> {{
    /// Takes the handlers.
    pub fn new(handlers: T) -> Self {{ Self(::std::sync::Arc::new(handlers)) }}
    /// Takes handlers that are shared with others.
    pub fn from_arc(handlers: ::std::sync::Arc<T>) -> Self {{ Self(handlers) }}
}}
impl<T> ::std::fmt::Debug for {stem}Server<T> {{
    fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {{ f.debug_struct(\"{stem}Server\").finish_non_exhaustive() }}
}}
impl<T: {name}> crate::server::Mount for {stem}Server<T> {{
    fn mount(self, routes: &mut crate::server::Routes) {{
        routes.service({stem}Client::SERVICE);",
        full = full_name(service)
    )?;
    for m in &service.methods {
        let (add, _) = shape(m);
        writeln!(
            buf,
            "        {{ let h = self.0.clone(); routes.{add}(&{stem}Client::{constant}, move |ctx, request| {{ let h = h.clone(); async move {{ h.{call}(ctx, request).await }} }}); }}",
            constant = constant(m),
            call = m.name
        )?;
    }
    writeln!(buf, "    }}\n}}")
}

fn emit_client(service: &Service, buf: &mut String) -> fmt::Result {
    let (stem, full) = (stem(service), full_name(service));
    writeln!(
        buf,
        "/// Calls `{full}`.\n#[derive(Debug, Clone)]\npub struct {stem}Client(crate::client::Channel);\nimpl {stem}Client {{"
    )?;
    writeln!(
        buf,
        "    /// The name of the service.\n    pub const SERVICE: &'static str = \"{full}\";"
    )?;
    for m in &service.methods {
        writeln!(
            buf,
            "    /// `{proto}`.\n    pub const {constant}: crate::Method = crate::Method::new(\"/{full}/{proto}\", crate::MethodKind::{kind}, {idempotent});",
            constant = constant(m),
            proto = m.proto_name,
            kind = shape(m).1,
            idempotent = m.options.idempotency_level() == IdempotencyLevel::NoSideEffects,
        )?;
    }
    let all: Vec<_> = service
        .methods
        .iter()
        .map(|m| format!("Self::{}", constant(m)))
        .collect();
    writeln!(
        buf,
        "    /// Every method.\n    pub const METHODS: &'static [crate::Method] = &[{}];",
        all.join(", ")
    )?;
    writeln!(
        buf,
        "    /// Calls through `channel`.\n    pub fn new(channel: crate::client::Channel) -> Self {{ Self(channel) }}"
    )?;
    for m in &service.methods {
        let (input, output, call) = (&m.input_type, &m.output_type, shape(m).0);
        let (parameter, argument) = if m.client_streaming {
            (String::new(), "")
        } else {
            (format!("request: &{input}, "), "request, ")
        };
        let result = match call {
            "unary" => output.clone(),
            "server_stream" => format!("crate::client::Incoming<{output}>"),
            _ => format!("(crate::client::Outgoing<{input}>, crate::client::Incoming<{output}>)"),
        };
        writeln!(buf, "    /// `{}`.\n    ///", m.proto_name)?;
        comments(buf, "    ", &m.comments.leading)?;
        writeln!(
            buf,
            "    ///\n    /// # Errors\n    ///\n    /// What the server answered, or what kept the call from it.
    pub async fn {name}(&self, {parameter}options: crate::client::CallOptions) -> Result<{result}, crate::RpcError> {{ self.0.{call}(&Self::{constant}, {argument}options).await }}",
            name = m.name,
            constant = constant(m)
        )?;
    }
    writeln!(buf, "}}")
}
