//! Generates the messages of the conformance service and their JSON form.

use std::error::Error;

use prost::Message;
use prost_types::FileDescriptorSet;

const DEFINITIONS: &str = "connectrpc/conformance/v1/service.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).open_file(DEFINITIONS)?;
    let encoded = compiler.encode_file_descriptor_set();
    prost_build::Config::new()
        .bytes(["."])
        .compile_well_known_types()
        .extern_path(".google.protobuf.Any", "crate::any::Any")
        .compile_fds(FileDescriptorSet::decode(&*encoded)?)?;
    pbjson_build::Builder::new()
        .register_descriptors(&encoded)?
        .extern_path(".google.protobuf.Any", "crate::any::Any")
        .ignore_unknown_fields()
        .build(&[".connectrpc"])?;
    Ok(())
}
