//! The only message type that the engine's client handles: bytes. Encoding and decoding use prost.

use buffa::{
    DecodeContext, DecodeError, EncodeSink, SizeCache,
    encoding::Tag,
    view::{MessageView, OwnedView},
};
use bytes::{Buf, Bytes};

/// An encoded message.
#[derive(Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub(super) struct Raw(#[serde(skip)] pub(super) Bytes);

buffa::impl_default_instance!(Raw);

impl buffa::Message for Raw {
    fn compute_size(&self, _: &mut SizeCache) -> u32 {
        buffa::saturate_size(self.0.len() as u64)
    }

    fn write_to(&self, _: &mut SizeCache, sink: &mut impl EncodeSink) {
        sink.put_slice(&self.0);
    }

    fn merge_field(
        &mut self,
        _: Tag,
        _: &mut impl Buf,
        _: DecodeContext<'_>,
    ) -> Result<(), DecodeError> {
        // `merge_to_limit` consumes the whole input, so the engine never merges a single field.
        Ok(())
    }

    fn merge_to_limit(
        &mut self,
        buffer: &mut impl Buf,
        _: DecodeContext<'_>,
        limit: usize,
    ) -> Result<(), DecodeError> {
        self.0 = buffer.copy_to_bytes(buffer.remaining().saturating_sub(limit));
        Ok(())
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

/// An encoded message, borrowed.
pub(super) struct RawView<'a>(&'a [u8]);

impl<'a> MessageView<'a> for RawView<'a> {
    type Owned = Raw;

    fn decode_view(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        Ok(Self(bytes))
    }

    fn merge_view_field(
        &mut self,
        _: Tag,
        rest: &'a [u8],
        _: &'a [u8],
        _: DecodeContext<'_>,
    ) -> Result<&'a [u8], DecodeError> {
        Ok(rest)
    }

    fn to_owned_message(&self) -> Result<Raw, DecodeError> {
        Ok(Raw(Bytes::copy_from_slice(self.0)))
    }
}

impl buffa::HasMessageView for Raw {
    type View<'a> = RawView<'a>;
    type ViewHandle = RawHandle;
}

/// The item type of the engine's streams.
pub(super) struct RawHandle(OwnedView<RawView<'static>>);

impl From<OwnedView<RawView<'static>>> for RawHandle {
    fn from(view: OwnedView<RawView<'static>>) -> Self {
        Self(view)
    }
}

impl AsRef<OwnedView<RawView<'static>>> for RawHandle {
    fn as_ref(&self) -> &OwnedView<RawView<'static>> {
        &self.0
    }
}
