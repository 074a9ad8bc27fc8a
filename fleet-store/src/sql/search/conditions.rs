//! The conditions of a search. Texts are compared in lower case, because the databases differ in `LIKE`.

use std::net::IpAddr;

use fleet_core::PairingStatus;
use fleet_inventory::{Age, Day, Network, Pattern, Search, TextField, TimeField};
use sea_orm::sea_query::{ExprTrait, Func, LikeExpr, Query, SelectStatement};

use crate::sql::{
    devices,
    entity::{device, device_label, device_pairing, device_sighting, node, site},
    prelude::*,
};

/// The texts in which a word of a search may occur. The column `search_text` holds all of them.
const WORDS: [device::Column; 7] = [
    device::Column::Identifier,
    device::Column::Ip,
    device::Column::Manufacturer,
    device::Column::Model,
    device::Column::Firmware,
    device::Column::Mac,
    device::Column::Serial,
];

/// The live devices of an organization that match.
pub(in crate::sql) fn matching(
    org: OrgId,
    search: &Search,
    node: Option<NodeId>,
    now: Timestamp,
) -> Condition {
    let mut all = Condition::all()
        .add(device::Column::OrgId.eq(org.0))
        .add(device::Column::DeletedAt.is_null());
    if let Some(node) = node {
        all = all.add(found_or_seen_by(node));
    }
    for word in &search.words {
        all = all.add(anywhere(word));
    }
    for (field, patterns) in &search.texts {
        let one = patterns.iter().fold(Condition::any(), |any, pattern| {
            any.add(text(org, *field, pattern))
        });
        all = all.add(one);
    }
    if !search.networks.is_empty() {
        let one = search
            .networks
            .iter()
            .fold(Condition::any(), |any, network| any.add(addresses(network)));
        all = all.add(one);
    }
    if !search.ports.is_empty() {
        let ports = search.ports.iter().map(|port| i64::from(port.number()));
        all = all.add(device::Column::Port.is_in(ports));
    }
    if !search.pairing.is_empty() {
        all = all.add(pairing(org, &search.pairing));
    }
    for (field, age) in &search.times {
        let column = match field {
            TimeField::Seen => device::Column::LastSeen,
            TimeField::First => device::Column::FirstSeen,
        };
        all = all.add(match age {
            Age::Less(age) => column.gt(Micros(now.minus(*age))),
            Age::More(age) => column.lt(Micros(now.minus(*age))),
            Age::Today => column.gte(Micros(Day::of(now).start())),
        });
    }
    match search.missing {
        None => {}
        Some(true) => all = all.add(device::Column::MissingSince.is_not_null()),
        Some(false) => all = all.add(device::Column::MissingSince.is_null()),
    }
    all
}

/// A word occurs in some text. A pattern with `*` must fit one text as a whole.
fn anywhere(word: &Pattern) -> Condition {
    match word {
        Pattern::Contains(text) => {
            let pattern = LikeExpr::new(format!("%{}%", escaped(text))).escape('\\');
            let texts = Expr::col(device::Column::SearchText.as_column_ref());
            Condition::all().add(texts.like(pattern))
        }
        Pattern::Parts(_) => WORDS
            .into_iter()
            .fold(Condition::any(), |any, column| any.add(like(column, word))),
    }
}

fn found_or_seen_by(node: NodeId) -> Condition {
    let seen = Query::select()
        .column(device_sighting::Column::DeviceId)
        .from(device_sighting::Entity)
        .and_where(device_sighting::Column::NodeId.eq(node.0))
        .to_owned();
    Condition::any()
        .add(device::Column::NodeId.eq(node.0))
        .add(device::Column::Id.in_subquery(seen))
}

fn text(org: OrgId, field: TextField, pattern: &Pattern) -> Expr {
    match field {
        TextField::Model => like(device::Column::Model, pattern),
        TextField::Make => like(device::Column::Manufacturer, pattern),
        TextField::Firmware => like(device::Column::Firmware, pattern),
        TextField::Mac => like(device::Column::Mac, pattern),
        TextField::Serial => like(device::Column::Serial, pattern),
        TextField::Identifier => like(device::Column::Identifier, pattern),
        TextField::Label => {
            let labeled = Query::select()
                .column(device_label::Column::DeviceId)
                .from(device_label::Entity)
                .and_where(device_label::Column::OrgId.eq(org.0))
                .and_where(like(device_label::Column::Label, pattern))
                .to_owned();
            device::Column::Id.in_subquery(labeled)
        }
        TextField::Node => {
            let named = nodes(org)
                .and_where(like(node::Column::Name, pattern))
                .to_owned();
            device::Column::NodeId.in_subquery(named)
        }
        TextField::Site => {
            let sites = Query::select()
                .column(site::Column::Id)
                .from(site::Entity)
                .and_where(site::Column::OrgId.eq(org.0))
                .and_where(like(site::Column::Name, pattern))
                .to_owned();
            let within = nodes(org)
                .and_where(node::Column::SiteId.in_subquery(sites))
                .to_owned();
            device::Column::NodeId.in_subquery(within)
        }
    }
}

fn nodes(org: OrgId) -> SelectStatement {
    Query::select()
        .column(node::Column::Id)
        .from(node::Entity)
        .and_where(node::Column::OrgId.eq(org.0))
        .to_owned()
}

/// A text as a part of a pattern of LIKE.
fn escaped(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escape = matches!(c, '%' | '_' | '\\').then_some('\\');
            escape.into_iter().chain([c])
        })
        .collect()
}

fn like<C: ColumnTrait>(column: C, pattern: &Pattern) -> Expr {
    let pattern = match pattern {
        Pattern::Contains(text) => format!("%{}%", escaped(text)),
        Pattern::Parts(parts) => {
            let parts: Vec<String> = parts.iter().map(|part| escaped(part)).collect();
            parts.join("%")
        }
    };
    Expr::expr(Func::lower(Expr::col(column.as_column_ref())))
        .like(LikeExpr::new(pattern).escape('\\'))
}

/// The addresses of a network. Those of IPv4 are a range of the key by which devices sort in the order of addresses, so
/// that the index of this order finds them.
fn addresses(network: &Network) -> Condition {
    let (IpAddr::V4(first), IpAddr::V4(last)) = (network.first, network.last) else {
        let ip = Expr::col(device::Column::Ip.as_column_ref());
        return Condition::all().add(ip.eq(network.first.to_string()));
    };
    let key = device::Column::AddressKey;
    Condition::all()
        .add(key.gte(devices::address_text(first.into(), 0)))
        .add(key.lte(devices::address_text(last.into(), i64::from(u16::MAX))))
}

fn pairing(org: OrgId, wanted: &[PairingStatus]) -> Condition {
    let devices = |condition: Expr| {
        Query::select()
            .column(device_pairing::Column::DeviceId)
            .from(device_pairing::Entity)
            .and_where(device_pairing::Column::OrgId.eq(org.0))
            .and_where(condition)
            .to_owned()
    };
    let status = device_pairing::Column::Status;
    let listed = status.is_in(wanted.iter().copied().map(AsText));
    let mut any = Condition::any().add(device::Column::Id.in_subquery(devices(listed)));
    if wanted.contains(&PairingStatus::Unpaired) {
        // A device without a row was never paired.
        let other = status.ne(AsText(PairingStatus::Unpaired));
        any = any.add(device::Column::Id.not_in_subquery(devices(other)));
    }
    any
}
