//! `fleet.v1.DeviceSearchService`: searches of the inventory.

use fleet_core::DeviceId;
use fleet_inventory::Search;
use fleet_store::{DeviceOrder, DevicePosition, DeviceQuery};
use fleet_wire::{
    Context, Reply, RpcError,
    fleet::{
        self, DeviceSearchService, FacetValue, GetDeviceFacetsRequest, GetDeviceFacetsResponse,
        SearchDevicesRequest, SearchDevicesResponse,
    },
};

use super::Api;
use crate::{convert, failure::Answered};

/// Default and maximum number of devices on a page.
const PAGE: (u32, u32) = (100, 1_000);
/// The longest search, in characters.
const SEARCH: usize = 512;

impl DeviceSearchService for Api {
    async fn search_devices(
        &self,
        context: Context,
        request: SearchDevicesRequest,
    ) -> Result<Reply<SearchDevicesResponse>, RpcError> {
        let call = self.operator(&context)?;
        let query = DeviceQuery {
            search: parse(&request.search)?,
            node: convert::node_filter(request.fleet_node_id),
            order: order(request.order()),
            descending: request.descending,
            after: position(&request.cursor, order(request.order()))?,
            limit: convert::page_size(request.limit, PAGE.0, PAGE.1),
            now: call.now,
        };
        let store = &self.app.store;
        let page = store.search_devices(call.org, query).await.answered()?;
        Ok(Reply::new(SearchDevicesResponse {
            devices: self.with_pairings(call.org, page.devices).await?,
            next_cursor: page.next.map(|next| cursor(&next)).unwrap_or_default(),
        }))
    }

    async fn get_device_facets(
        &self,
        context: Context,
        request: GetDeviceFacetsRequest,
    ) -> Result<Reply<GetDeviceFacetsResponse>, RpcError> {
        let call = self.operator(&context)?;
        let wanted = parse(&request.search)?;
        let node = convert::node_filter(request.fleet_node_id);
        let store = &self.app.store;
        let found = store.device_facets(call.org, &wanted, node, call.now);
        let found = found.await.answered()?;
        let node = |(node, count): (Option<fleet_core::NodeId>, u64)| FacetValue {
            value: node.map_or(0, |node| node.0).to_string(),
            count,
        };
        let pairing = |(status, count): (fleet_core::PairingStatus, u64)| FacetValue {
            value: status.as_str().to_owned(),
            count,
        };
        Ok(Reply::new(GetDeviceFacetsResponse {
            total: found.total,
            makes: texts(found.makes),
            models: texts(found.models),
            firmware: texts(found.firmware),
            nodes: found.nodes.into_iter().map(node).collect(),
            pairing: found.pairing.into_iter().map(pairing).collect(),
        }))
    }
}

fn texts(values: Vec<(String, u64)>) -> Vec<FacetValue> {
    let value = |(value, count)| FacetValue { value, count };
    values.into_iter().map(value).collect()
}

/// Reads a search. The calls bound its length; the query of an export is bounded here.
pub(crate) fn parse(text: &str) -> Result<Search, RpcError> {
    if text.chars().count() > SEARCH {
        return Err(RpcError::invalid_argument(format!(
            "search: it has more than {SEARCH} characters"
        ))
        .with_reason("INVALID_FIELD")
        .with_fact("field", "search"));
    }
    without_nul("search", text)?;
    text.parse().map_err(|error| {
        RpcError::invalid_argument(format!("search: {error}"))
            .with_reason("INVALID_FIELD")
            .with_fact("field", "search")
    })
}

/// PostgreSQL stores no text with NUL, and refuses one as a parameter.
fn without_nul(field: &str, text: &str) -> Result<(), RpcError> {
    if text.contains('\0') {
        return Err(RpcError::invalid_argument(format!("{field}: contains NUL"))
            .with_reason("INVALID_FIELD")
            .with_fact("field", field));
    }
    Ok(())
}

fn order(order: fleet::DeviceOrder) -> DeviceOrder {
    match order {
        fleet::DeviceOrder::Unspecified => DeviceOrder::Id,
        fleet::DeviceOrder::LastSeen => DeviceOrder::LastSeen,
        fleet::DeviceOrder::FirstSeen => DeviceOrder::FirstSeen,
        fleet::DeviceOrder::Model => DeviceOrder::Model,
        fleet::DeviceOrder::Firmware => DeviceOrder::Firmware,
        fleet::DeviceOrder::Address => DeviceOrder::Address,
    }
}

/// Writes a cursor: the id, a colon and the value by which the list is ordered.
fn cursor(position: &DevicePosition) -> String {
    format!("{}:{}", position.device, position.key)
}

/// Reads a cursor.
///
/// # Errors
///
/// INVALID_ARGUMENT for a text that is no cursor of this order.
fn position(text: &str, order: DeviceOrder) -> Result<Option<DevicePosition>, RpcError> {
    without_nul("cursor", text)?;
    if text.is_empty() {
        return Ok(None);
    }
    let parsed = text.split_once(':').and_then(|(device, key)| {
        let is_time = matches!(order, DeviceOrder::LastSeen | DeviceOrder::FirstSeen);
        if is_time && key.parse::<i64>().is_err() {
            return None;
        }
        Some(DevicePosition {
            device: DeviceId(device.parse().ok()?),
            key: key.to_owned(),
        })
    });
    match parsed {
        Some(position) => Ok(Some(position)),
        None => Err(RpcError::invalid_argument(
            "cursor: it is not from a page of this order; leave it empty for the first page",
        )
        .with_reason("INVALID_FIELD")
        .with_fact("field", "cursor")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_read_as_they_are_written() {
        for (key, order) in [
            ("", DeviceOrder::Id),
            ("1700000000000000", DeviceOrder::LastSeen),
            ("S19: Pro \u{2603}", DeviceOrder::Model),
        ] {
            let written = DevicePosition {
                key: key.to_owned(),
                device: DeviceId(42),
            };
            let read = position(&cursor(&written), order).expect(key);
            assert_eq!(read, Some(written));
        }
        assert_eq!(position("", DeviceOrder::Id).expect("the first page"), None);
        for (text, order) in [
            ("42", DeviceOrder::Id),
            ("x:", DeviceOrder::Id),
            ("42:S19", DeviceOrder::LastSeen),
        ] {
            assert!(position(text, order).is_err(), "{text}");
        }
    }
}
