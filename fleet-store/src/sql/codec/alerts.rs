//! The serialized form of a message of alerts.

use fleet_core::{DeviceId, Endpoint};
use fleet_inventory::{AlertItem, AlertMessage};
use sea_orm::DbErr;
use serde::{Deserialize, Serialize};

use super::{read, read_port, write};
use crate::sql::transaction::unreadable;

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct StoredMessage {
    title: String,
    items: Vec<StoredItem>,
    count: u64,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct StoredItem {
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
}

pub(crate) fn write_alert(message: &AlertMessage) -> Result<String, DbErr> {
    let AlertMessage {
        title,
        items,
        count,
    } = message.clone();
    let item = |item: AlertItem| StoredItem {
        text: item.text,
        device: item.device.map(|device| device.0),
        ip: item.endpoint.map(|endpoint| endpoint.ip.to_string()),
        port: item.endpoint.map(|endpoint| endpoint.port.number()),
    };
    let twin = StoredMessage {
        title,
        items: items.into_iter().map(item).collect(),
        count,
    };
    write("alert", &twin)
}

pub(crate) fn read_alert(text: &str) -> Result<AlertMessage, DbErr> {
    let twin: StoredMessage = read("alert", text)?;
    let item = |item: StoredItem| {
        let endpoint = item.ip.zip(item.port).map(|(ip, port)| {
            Ok::<_, DbErr>(Endpoint {
                ip: ip.parse().map_err(|error| unreadable("alert", error))?,
                port: read_port(i64::from(port))?,
            })
        });
        Ok(AlertItem {
            device: item.device.map(DeviceId),
            endpoint: endpoint.transpose()?,
            text: item.text,
        })
    };
    let items: Result<_, DbErr> = twin.items.into_iter().map(item).collect();
    Ok(AlertMessage {
        title: twin.title,
        items: items?,
        count: twin.count,
    })
}
