//! The serialized form of a node's takeover history.

use fleet_core::{
    Timestamp,
    takeover::{Hold, Takeover, Takeovers},
};
use sea_orm::DbErr;
use serde::{Deserialize, Serialize};

use super::{read, write};
use crate::sql::transaction::unreadable;

/// Times are in microseconds. Claimants are stored in their text form.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Stored {
    history: Vec<(i64, String, String)>,
    holds: Vec<(i64, String)>,
    refused_at: Option<i64>,
}

/// Returns `None` for an empty history, which is the case for nearly every node.
pub(crate) fn write_takeovers(takeovers: &Takeovers) -> Result<Option<String>, DbErr> {
    if *takeovers == Takeovers::default() {
        return Ok(None);
    }
    let Takeovers {
        history,
        holds,
        refused_at,
    } = takeovers;
    let stored = Stored {
        history: history
            .iter()
            .map(|one| (one.at.as_micros(), one.from.to_string(), one.to.to_string()))
            .collect(),
        holds: holds
            .iter()
            .map(|hold| (hold.until.as_micros(), hold.who.to_string()))
            .collect(),
        refused_at: refused_at.map(Timestamp::as_micros),
    };
    write("takeovers", &stored).map(Some)
}

pub(crate) fn read_takeovers(text: &str) -> Result<Takeovers, DbErr> {
    let Stored {
        history,
        holds,
        refused_at,
    } = read("takeovers", text)?;
    let claimant = |text: &str| text.parse().map_err(|error| unreadable("takeovers", error));
    let history = history.iter().map(|(at, from, to)| {
        Ok(Takeover {
            at: Timestamp::from_micros(*at),
            from: claimant(from)?,
            to: claimant(to)?,
        })
    });
    let holds = holds.iter().map(|(until, who)| {
        Ok(Hold {
            until: Timestamp::from_micros(*until),
            who: claimant(who)?,
        })
    });
    Ok(Takeovers {
        history: history.collect::<Result<_, DbErr>>()?,
        holds: holds.collect::<Result<_, DbErr>>()?,
        refused_at: refused_at.map(Timestamp::from_micros),
    })
}
