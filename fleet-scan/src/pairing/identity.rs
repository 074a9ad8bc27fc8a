//! Decides whether the device that answers is the one that the server named. Pure.
//!
//! Credentials are sent only after these checks. Read [`is_the_same`] first.

use fleet_core::{DeviceFacts, Mac};

use crate::{fingerprint::ShownIdentity, text};

/// Checks that the device is the one that the server requested: same driver, and same MAC or serial if both sides know
/// it.
pub(super) fn is_the_same(target: &DeviceFacts, device: &DeviceFacts) -> Result<(), String> {
    if device.driver != target.driver {
        return Err(another("driver", &device.driver, &target.driver));
    }
    is_the_same_device(target, device)
}

/// Checks that MAC and serial are equal if both sides know them.
pub(super) fn is_the_same_device(known: &DeviceFacts, device: &DeviceFacts) -> Result<(), String> {
    if let (Some(now), Some(known)) = (device.mac, known.mac)
        && now != known
    {
        return Err(another("MAC", &now.to_string(), &known.to_string()));
    }
    if let (Some(now), Some(known)) = (&device.serial, &known.serial)
        && now != known
    {
        return Err(another("serial", now.as_str(), known.as_str()));
    }
    Ok(())
}

/// Whether the identity that a device shows behind a login is that of the named device, and of the one that answered before.
/// Both are compared, because either may lack a MAC or a serial.
pub(super) fn is_the_same_behind_login(
    target: &DeviceFacts,
    before: &DeviceFacts,
    behind: &DeviceFacts,
) -> bool {
    is_the_same_device(target, behind).is_ok() && is_the_same_device(before, behind).is_ok()
}

/// Checks the make if neither MAC nor serial proves the identity. Not for external drivers, because two drivers may
/// spell one make differently.
pub(super) fn has_the_same_make(target: &DeviceFacts, device: &DeviceFacts) -> Result<(), String> {
    // `is_the_same` has compared these values.
    let is_proven = device.mac.and(target.mac).is_some()
        || (device.serial.is_some() && target.serial.is_some());
    let (now, known) = (device.manufacturer.trim(), target.manufacturer.trim());
    if is_proven || known.is_empty() || now.eq_ignore_ascii_case(known) {
        return Ok(());
    }
    Err(another("make", now, known))
}

/// Returns whether a driver spells the make as the record does, or the record has none.
pub(super) fn is_named_alike(target: &DeviceFacts, device: &DeviceFacts) -> bool {
    let (now, known) = (device.manufacturer.trim(), target.manufacturer.trim());
    known.is_empty() || now.eq_ignore_ascii_case(known)
}

/// Removes make, model and firmware from the facts about a paired device whose record another driver named. The next scan
/// names it as the record does, so both would show as changes of the device.
pub(super) fn leave_names_out(facts: &mut DeviceFacts) {
    facts.manufacturer.clear();
    facts.model.clear();
    facts.firmware.clear();
}

/// Checks that the device shows the MAC and serial that are known of it, before anything is sent to it. `neighbor` is the
/// address of its network interface, where it is on a link of this machine. `shown` is what such devices show.
///
/// A device that shows its MAC or serial only behind a login is checked there: [`is_proven_behind_login`].
pub(super) fn withholds_nothing(
    target: &DeviceFacts,
    device: &DeviceFacts,
    neighbor: Option<Mac>,
    shown: ShownIdentity,
) -> Result<(), String> {
    if let (Some(known), None) = (target.mac, device.mac) {
        match neighbor {
            Some(now) if now == known => {}
            Some(now) => return Err(another("MAC", &now.to_string(), &known.to_string())),
            None if shown.mac => return Err(withheld("MAC", &known.to_string())),
            None => {}
        }
    }
    if let (Some(known), None) = (&target.serial, &device.serial)
        && shown.serial
    {
        return Err(withheld("serial", known.as_str()));
    }
    Ok(())
}

/// Checks that the MAC or serial that is known of the device was proven: before the login, or behind it where its make
/// shows it there.
pub(super) fn is_proven_behind_login(
    target: &DeviceFacts,
    before: &DeviceFacts,
    neighbor: Option<Mac>,
    behind: &DeviceFacts,
    shown: ShownIdentity,
) -> Result<(), String> {
    if let Some(known) = target.mac
        && shown.mac_behind_login
        && before.mac.or(neighbor).or(behind.mac).is_none()
    {
        return Err(withheld("MAC", &known.to_string()));
    }
    if let Some(known) = &target.serial
        && shown.serial_behind_login
        && before.serial.is_none()
        && behind.serial.is_none()
    {
        return Err(withheld("serial", known.as_str()));
    }
    Ok(())
}

fn withheld(what: &str, known: &str) -> String {
    format!(
        "the device does not show its {what} any more, which was {}: it may be another one; scan again",
        text::field(known)
    )
}

fn another(what: &str, now: &str, known: &str) -> String {
    format!(
        "another device answers there now ({what} {}, not {}): nothing was sent to it; scan again",
        text::field(now),
        text::field(known)
    )
}

#[cfg(test)]
mod tests {
    use fleet_core::Serial;

    use super::*;

    fn target() -> DeviceFacts {
        DeviceFacts {
            driver: "antminer".to_owned(),
            manufacturer: "Bitmain".to_owned(),
            mac: "02:00:5E:00:00:01".parse().ok(),
            serial: Serial::new("A1"),
            ..DeviceFacts::default()
        }
    }

    fn device() -> DeviceFacts {
        DeviceFacts {
            driver: "antminer".to_owned(),
            manufacturer: "bitmain".to_owned(),
            ..DeviceFacts::default()
        }
    }

    #[test]
    fn only_named_devices_are_given_credentials() {
        assert_eq!(is_the_same(&target(), &device()), Ok(()));
        let same = DeviceFacts {
            mac: target().mac,
            serial: target().serial,
            ..device()
        };
        assert_eq!(is_the_same(&target(), &same), Ok(()));
        for (other, named) in [
            (
                DeviceFacts {
                    driver: "asicrs".to_owned(),
                    ..device()
                },
                "asicrs",
            ),
            (
                DeviceFacts {
                    mac: "02:00:5E:00:00:02".parse().ok(),
                    ..device()
                },
                "02:00:5E:00:00:02",
            ),
            (
                DeviceFacts {
                    serial: Serial::new("B2"),
                    ..device()
                },
                "B2",
            ),
        ] {
            let why = is_the_same(&target(), &other).expect_err(named);
            assert!(why.contains(named) && why.contains("scan again"), "{why}");
        }
    }

    #[test]
    fn the_make_counts_only_where_no_mac_or_serial_proves_the_identity() {
        let other = DeviceFacts {
            manufacturer: "MicroBT".to_owned(),
            ..device()
        };
        let why = has_the_same_make(&target(), &other).expect_err("another make");
        assert!(
            why.contains("MicroBT") && why.contains("nothing was sent"),
            "{why}"
        );
        assert_eq!(has_the_same_make(&target(), &device()), Ok(()));
        let proven = DeviceFacts {
            serial: target().serial,
            ..other
        };
        assert_eq!(has_the_same_make(&target(), &proven), Ok(()));
    }

    #[test]
    fn a_known_mac_or_serial_must_be_shown_by_the_device_or_its_link() {
        let other: Option<Mac> = "02:00:5E:00:00:02".parse().ok();
        let nothing = ShownIdentity::default();
        let mac = ShownIdentity {
            mac: true,
            ..nothing
        };
        let serial = ShownIdentity {
            serial: true,
            ..nothing
        };
        let (known, device) = (target(), device());
        for (neighbor, shown, expected) in [
            (known.mac, mac, None),
            (None, nothing, None),
            (other, nothing, Some("02:00:5E:00:00:02")),
            (other, mac, Some("another device")),
            (None, mac, Some("does not show its MAC")),
            (known.mac, serial, Some("does not show its serial")),
        ] {
            let found = withholds_nothing(&known, &device, neighbor, shown);
            match expected {
                None => assert_eq!(found, Ok(()), "{neighbor:?} {shown:?}"),
                Some(text) => {
                    let why = found.expect_err(text);
                    assert!(why.contains(text) && why.contains("scan again"), "{why}");
                }
            }
        }
        let full = DeviceFacts {
            mac: known.mac,
            serial: known.serial.clone(),
            ..device.clone()
        };
        let all = ShownIdentity {
            serial: true,
            ..mac
        };
        assert_eq!(withholds_nothing(&known, &full, other, all), Ok(()));
        assert_eq!(withholds_nothing(&device, &device, other, all), Ok(()));
    }

    #[test]
    fn a_mac_or_serial_behind_a_login_must_be_shown_there() {
        let (known, before) = (target(), device());
        let shown = ShownIdentity {
            mac_behind_login: true,
            serial_behind_login: true,
            ..ShownIdentity::default()
        };
        let full = DeviceFacts {
            mac: known.mac,
            serial: known.serial.clone(),
            ..device()
        };
        let check = |neighbor, behind: &DeviceFacts, shown| {
            is_proven_behind_login(&known, &before, neighbor, behind, shown)
        };
        assert_eq!(check(None, &full, shown), Ok(()));
        let without_serial = DeviceFacts {
            serial: None,
            ..full.clone()
        };
        let why = check(None, &without_serial, shown).expect_err("no serial");
        assert!(why.contains("serial") && why.contains("A1"), "{why}");
        let why = check(None, &before, shown).expect_err("nothing");
        assert!(why.contains("MAC"), "{why}");
        let only_mac = ShownIdentity {
            serial_behind_login: false,
            ..shown
        };
        assert_eq!(check(known.mac, &before, only_mac), Ok(()));
        assert_eq!(check(None, &before, ShownIdentity::default()), Ok(()));
    }
}
