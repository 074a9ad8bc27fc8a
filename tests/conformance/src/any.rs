//! `google.protobuf.Any` with its JSON form, for the requests that the service echoes. pbjson has none, because it needs
//! the types that occur.

use bytes::Bytes;
use prost::Message;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use serde_json::Value;

use crate::messages::{
    BidiStreamRequest, Header, IdempotentUnaryRequest, ServerStreamRequest, UnaryRequest,
    conformance_payload::RequestInfo,
};

const PREFIX: &str = "type.googleapis.com/";

/// A message of one of the known types.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub(crate) struct Any {
    #[prost(string, tag = "1")]
    pub(crate) type_url: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) value: Bytes,
}

impl Any {
    /// Packs a message of this name, which has no prefix.
    pub(crate) fn pack(name: &str, message: &impl Message) -> Self {
        Self {
            type_url: format!("{PREFIX}{name}"),
            value: message.encode_to_vec().into(),
        }
    }

    /// The name of the message.
    pub(crate) fn name(&self) -> &str {
        self.type_url.rsplit('/').next().unwrap_or_default()
    }
}

/// Calls back with the type of a name.
macro_rules! by_name {
    ($name:expr, $call:ident($($argument:expr),*)) => {
        match $name {
            "connectrpc.conformance.v1.UnaryRequest" => $call::<UnaryRequest>($($argument),*),
            "connectrpc.conformance.v1.IdempotentUnaryRequest" => $call::<IdempotentUnaryRequest>($($argument),*),
            "connectrpc.conformance.v1.ServerStreamRequest" => $call::<ServerStreamRequest>($($argument),*),
            "connectrpc.conformance.v1.BidiStreamRequest" => $call::<BidiStreamRequest>($($argument),*),
            "connectrpc.conformance.v1.Header" => $call::<Header>($($argument),*),
            "connectrpc.conformance.v1.ConformancePayload.RequestInfo" => $call::<RequestInfo>($($argument),*),
            other => Err(format!("the type {other} is not known")),
        }
    };
}

fn to_json<M: Message + Default + Serialize>(value: Bytes) -> Result<Value, String> {
    let message = M::decode(value).map_err(|error| error.to_string())?;
    serde_json::to_value(message).map_err(|error| error.to_string())
}

fn from_json<M: Message + for<'a> Deserialize<'a>>(json: Value) -> Result<Bytes, String> {
    let message: M = serde_json::from_value(json).map_err(|error| error.to_string())?;
    Ok(message.encode_to_vec().into())
}

impl Serialize for Any {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut json =
            by_name!(self.name(), to_json(self.value.clone())).map_err(ser::Error::custom)?;
        if let Value::Object(fields) = &mut json {
            fields.insert("@type".to_owned(), self.type_url.clone().into());
        }
        json.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Any {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut json = Value::deserialize(deserializer)?;
        let url = json
            .as_object_mut()
            .and_then(|fields| fields.remove("@type"));
        let Some(Value::String(type_url)) = url else {
            return Err(de::Error::custom("an Any needs `@type`"));
        };
        let name = type_url.rsplit('/').next().unwrap_or_default();
        let value = by_name!(name, from_json(json)).map_err(de::Error::custom)?;
        Ok(Self { type_url, value })
    }
}
