//! Who made what: aftermarket firmware runs on other makers' boards.

/// Who made the board, which is in the model's name; else the maker of the firmware.
pub(crate) fn of_board<'a>(model: &str, firmware_maker: &'a str) -> &'a str {
    let model = model.to_ascii_lowercase();
    if model.starts_with("antminer") {
        "Bitmain"
    } else if model.starts_with("whatsminer") {
        "MicroBT"
    } else {
        firmware_maker
    }
}

/// A firmware's name and number.
pub(crate) fn firmware(name: &str, number: &str) -> String {
    format!("{name} {number}").trim().to_owned()
}
