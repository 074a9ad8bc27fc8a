//! What is in the recordings, read by a person. A make counts when its row is in [`COUNTED`].

/// One row. Empty is nothing.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Expected<'a> {
    pub(super) recording: &'a str,
    pub(super) driver: &'a str,
    pub(super) scheme: &'a str,
    pub(super) make: &'a str,
    pub(super) model: &'a str,
    pub(super) firmware: &'a str,
    pub(super) mac: &'a str,
    pub(super) serial: &'a str,
}

const fn row<'a>(
    recording: &'a str,
    [driver, scheme]: [&'a str; 2],
    [make, model, firmware]: [&'a str; 3],
    [mac, serial]: [&'a str; 2],
) -> Expected<'a> {
    Expected {
        recording,
        driver,
        scheme,
        make,
        model,
        firmware,
        mac,
        serial,
    }
}

const API: [&str; 2] = ["asicrs", "tcp"];
const WEB: [&str; 2] = ["asicrs", "http"];
const NOTHING: [&str; 2] = ["", ""];

/// Answers with an address where everybody can read them.
pub(super) const COUNTED: &[Expected<'_>] = &[
    row(
        "antminer-bhb42xxx-stock-web",
        WEB,
        ["Bitmain", "", ""],
        NOTHING,
    ),
    row(
        "antminer-s19jpro-hiveon",
        API,
        ["Bitmain", "Antminer S19JPRO", "Hiveon"],
        NOTHING,
    ),
    row(
        "antminer-s21-upstream",
        ["antminer", "tcp"],
        ["Bitmain", "Antminer S21", "1.0.0"],
        NOTHING,
    ),
    row(
        "antminer-s9-stock-stats",
        ["antminer", "tcp"],
        ["Bitmain", "Antminer S9", "2.0.0"],
        NOTHING,
    ),
    row("auradine-gcminer", API, ["Auradine", "", "0.5"], NOTHING),
    row(
        "avalon-1246-81",
        API,
        ["Canaan", "AvalonMiner 1246-81", "21030201_4ec6bb0_09b1765"],
        ["B4:A2:EB:34:5D:4B", ""],
    ),
    row(
        "avalon-15-194",
        API,
        ["Canaan", "AvalonMiner 15-194", "24102401_25462b2_9ddf522"],
        ["12:34:56:78:90:12", ""],
    ),
    row(
        "avalon-mini3",
        API,
        ["Canaan", "Avalon Mini3", "25011701_3f53b19"],
        ["E0:E1:A9:3E:2C:7D", ""],
    ),
    row(
        "avalon-nano3",
        API,
        ["Canaan", "Avalonnano nano3", "24071801_42c628d"],
        NOTHING,
    ),
    row(
        "bitaxe-suprahex-702",
        WEB,
        ["Bitaxe", "Bitaxe SupraHex", "2.7.0-TCH-All-In-One"],
        ["94:A9:90:07:F4:D8", ""],
    ),
    row(
        "bitaxe-ultra-v2.1.3",
        WEB,
        ["Bitaxe", "Bitaxe Ultra", "v2.1.3"],
        NOTHING,
    ),
    row(
        "braiins-s19j88nopic",
        API,
        ["Bitmain", "Antminer S19J88NoPic", "Braiins OS"],
        NOTHING,
    ),
    row(
        "braiins-s21-24.09",
        API,
        ["Braiins", "", "Braiins OS boser-buildroot 0.1.0-75912fc7"],
        NOTHING,
    ),
    row(
        "goldshell-sc5pro2",
        WEB,
        ["Goldshell", "SC5ProⅡ", "2.2.0"],
        NOTHING,
    ),
    row(
        "goldshell-scbox",
        WEB,
        ["Goldshell", "SCBox", "2.2.5"],
        NOTHING,
    ),
    row(
        "luckyminer-lv07",
        WEB,
        ["Lucky Miner", "LV07", "1.1.0"],
        NOTHING,
    ),
    row(
        "luxos-s19xp",
        API,
        [
            "Bitmain",
            "Antminer S19 XP",
            "LuxOS 2024.6.18.181313-3afaf1f",
        ],
        NOTHING,
    ),
    row(
        "nerdqaxe++",
        WEB,
        ["NerdAxe", "NerdQAxe++", ""],
        ["F0:9E:9E:1F:94:CC", ""],
    ),
    row(
        "proto-rig-1.8.2",
        ["proto", "https"],
        ["Proto", "", "1.0.1"],
        ["00:11:22:33:44:55", "PROTO-B4-001"],
    ),
    row(
        "whatsminer-m30s+ve40",
        API,
        ["MicroBT", "M30S+_VE40", ""],
        NOTHING,
    ),
];

/// Answers whose publication we cannot name.
pub(super) const UNVERIFIED: &[Expected<'_>] = &[
    row(
        "vnish-s19-1.2.6",
        WEB,
        ["Bitmain", "Antminer S19", "VNish 1.2.6"],
        ["FE:07:26:3C:BE:1B", ""],
    ),
    row(
        "vnish-s19xp-1.2.0-rc1",
        API,
        ["Bitmain", "Antminer S19 XP", "VNish 1.2.0-rc1"],
        NOTHING,
    ),
];
