//! Hosts that are no miners, and pages and answers that only look like those of one.

use std::net::Ipv4Addr;

use fleet_core::TargetOutcome;
use fleet_scan::Fingerprints;

use crate::{
    recorded::{
        job,
        replay::{Recording, Replaying, replay},
        scanner,
    },
    scan,
};

fn page(title: &str, body: &str) -> String {
    format!(
        "> 80 /\nHTTP/1.1 200 OK\nContent-Type: text/html\n\n<html><head><title>{title}</title></head><body>{body}</body></html>\n"
    )
}

fn realm(realm: &str) -> String {
    format!(
        "> 80 /\nHTTP/1.1 401 Unauthorized\nWWW-Authenticate: Digest realm=\"{realm}\", qop=\"auth\", nonce=\"1\"\n"
    )
}

/// Every path of the server has this answer.
fn always(body: &str) -> String {
    let answer = format!("HTTP/1.1 200 OK\nContent-Type: application/json\n\n{body}");
    format!("> 80 /\n{answer}\n> 80 *\n{answer}\n")
}

/// A program of this API on a computer.
fn program(version: &str) -> String {
    format!(
        "> 4028 version\n{version}\n> 4028 *\n{}\n",
        r#"{"STATUS":[{"STATUS":"E","Code":14,"Msg":"Invalid command","Description":""}],"id":1}"#
    )
}

async fn serve(recordings: &[String], network: u8) -> (Vec<Ipv4Addr>, Vec<Replaying>) {
    let (mut addresses, mut replaying) = (Vec::new(), Vec::new());
    for (host, text) in (1..).zip(recordings) {
        let address = Ipv4Addr::new(127, 91, network, host);
        replaying.push(replay(address, Recording::parse(text).expect("a recording")).await);
        addresses.push(address);
    }
    (addresses, replaying)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_that_are_no_miners_stay_unidentified() {
    let redirect = "> 80 /\nHTTP/1.1 308 Permanent Redirect\nLocation: /overview\n> 80 /overview\nHTTP/1.1 200 OK\n\n<title>Grafana</title>\n";
    let hosts = [
        page("HP LaserJet Pro M404n", ""),
        page("NAS - Synology DiskStation", ""),
        page("Avalon Apartments", ""),
        page("Hammerl GmbH", ""),
        page("Apollo Web Server", ""),
        page("Links", "<p>Get the Apollo app</p>"),
        page("ForgeOS", "orchestrates other programs"),
        page("Nerd dashboard of the chess club", ""),
        page(
            "Shop",
            "AxeOS, Whatsminer, IceRiver, Innosilicon, Braiins OS and Luxor Firmware",
        ),
        page(
            "Forum",
            "My Whatsminer runs Braiins OS, and the Innosilicon its own",
        ),
        page("OpenWrt - LuCI", "/cgi-bin/luci"),
        page("pfSense - Login", ""),
        page("Tasmota - Main Menu", ""),
        page("FRITZ!Box", ""),
        page("Supermicro BMC Login", ""),
        page("Brother HL-L2350DW series", ""),
        page("UniFi Network", ""),
        page("Apollo Server", "<div id=\"root\"></div>"),
        page("Obelisks of the old world", ""),
        page("index", "<script src=\"/doc/page/login.asp\"></script>"),
        page("SIMATIC 1500", "/Portal/Portal.mwsl"),
        realm("TP-LINK Wireless N Router WR841N"),
        realm("DS-2CD2032-I"),
        realm("iDRAC"),
        realm("IP Camera(12345)"),
        realm("Marantz AVR"),
        realm("Camara IP"),
        redirect.to_owned(),
        always(r#"{"status":"ok","model":"router","mac":"00:11:22:33:44:55","version":"1"}"#),
        always(r#"{"vendor":"Acme","model":"SC1","macAddress":"00:11:22:33:44:55"}"#),
        always(
            r#"{"ver":"0.14.0","brand":"WLED","product":"FOSS","mac":"001122334455","asicCount":2}"#,
        ),
        always(r#"{"identity":{"hwModel":"TBEAM","fwVersion":"2.3"},"chiptemp1":41.5}"#),
        always(r#"{"code":0,"data":{"minerInfo":{}}}"#),
        always(r#"{"type":"SHSW-25","mac":"AABBCCDDEEFF","fw":"2020","auth":false}"#),
        program(
            r#"{"STATUS":[{"STATUS":"S","Description":"cgminer 4.12.1"}],"VERSION":[{"CGMiner":"4.12.1","API":"3.7"}]}"#,
        ),
        program("SSH-2.0-OpenSSH_9.6"),
        program("220 ProFTPD Server ready."),
        format!(
            "> 4028 version\n{}\n> 4028 *\n{}\n",
            r#"{"STATUS":[{"STATUS":"S","Description":"sgminer 5.6.1"}],"VERSION":[{"SGMiner":"5.6.1","API":"4.0"}]}"#,
            r#"{"STATUS":[{"STATUS":"S","Description":"sgminer 5.6.1"}],"DEVS":[{"GPU":0,"Name":"BTB"},{"GPU":1,"Name":"upper0"}],"id":1}"#
        ),
        program(
            r#"{"STATUS":[{"STATUS":"S","Description":"bfgminer 5.4.2"}],"VERSION":[{"Miner":"bfgminer 5.4.2","Type":"bfgminer 5"}]}"#,
        ),
    ];
    let (addresses, _replaying) = serve(&hosts, 4).await;
    let (summary, found, _) = scan(&scanner(Fingerprints::built_in()), job(addresses)).await;
    assert!(found.is_empty(), "{found:#?}");
    assert_eq!(
        summary.count(TargetOutcome::Unidentified),
        hosts.len() as u64
    );
}

/// What identifies each, and the make, model and firmware that are expected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_of_other_shapes_are_read_all_the_same() {
    let refused = r#"{"STATUS":[{"STATUS":"E","Code":14,"Msg":"Invalid command","Description":"cgminer 4.9.2"}],"id":1}"#;
    let stats = |kind: &str| {
        format!(
            "> 4028 stats\n{{\"STATUS\":[{{\"STATUS\":\"S\"}}],\"STATS\":[{kind}]}}\n> 4028 *\n{refused}\n"
        )
    };
    let version = |answer: &str| format!("> 4028 version\n{answer}\n");
    let kind = |text: &str| {
        version(&format!(
            r#"{{"STATUS":[{{"STATUS":"S"}}],"VERSION":[{{"Type":"{text}"}}]}}"#
        ))
    };
    let axeos = |info: &str| {
        page("AxeOS", "")
            + "> 80 /api/system/info\nHTTP/1.1 200 OK\nContent-Type: application/json\n\n"
            + info
            + "\n"
    };
    let cases = [
        // Sections that are objects, answers without a status, and blanks before the text form.
        (
            version(r#"{"STATUS":{"STATUS":"S"},"VERSION":{"Type":"Antminer S19j Pro"}}"#),
            "Bitmain, Antminer S19j Pro, ",
        ),
        (
            version(r#"{"VERSION":[{"Type":"Antminer T21"}]}"#),
            "Bitmain, Antminer T21, ",
        ),
        (
            version(" STATUS=S,Code=22|VERSION,API=3.1,Type=Antminer S9|"),
            "Bitmain, Antminer S9, ",
        ),
        // Words around the name of the maker.
        (kind("Bitmain Antminer L9"), "Bitmain, Antminer L9, "),
        (kind("蚂蚁矿机 Antminer S9"), "Bitmain, Antminer S9, "),
        (kind("StrongU STU-U1++"), "StrongU, StrongU STU-U1++, "),
        (kind("Cheetah Miner F5i"), "Cheetah, Cheetah Miner F5i, "),
        (kind("翼比特 E12"), "翼比特, 翼比特 E12, "),
        (kind("DG-Home1"), "Elphapex, DG-Home1, "),
        // The name of the firmware is in another answer than usual.
        (
            stats(r#"{"LUXminer":"2025.4.8","Type":"Antminer S19k Pro"}"#),
            "Bitmain, Antminer S19k Pro, LuxOS 2025.4.8",
        ),
        (
            stats(r#"{"BMMiner":"2.4.0-asicseer-1.1.9","Type":"Antminer S9"}"#),
            "Bitmain, Antminer S9, AsicSeer 1.1.9",
        ),
        (
            stats(r#"{"Type":"Antminer T21 (7Miners 1.2.6)"}"#),
            "Bitmain, Antminer T21, 7Miners 1.2.6",
        ),
        (realm("AntMiner Configuration"), "Bitmain, , "),
        (
            page(
                "",
                "<a href=\"/cgi-bin/luci/avalon/page/dashboard\">Dashboard</a>",
            ),
            "Canaan, , ",
        ),
        // Forks with the page of what they were made from.
        (
            axeos(r#"{"ASICModel":"BM1370","deviceModel":"NerdHaxe-γ","version":"v1.0.40"}"#),
            "NerdAxe, NerdHaxe-γ, v1.0.40",
        ),
        (
            axeos(r#"{"ASICModel":"BM1370","deviceModel":"BITFORGE_NANO","version":"v1.5"}"#),
            "BitForge, BitForge Nano, ForgeOS v1.5",
        ),
        // A board that is not known: its chip is also on boards of other families.
        (
            axeos(r#"{"ASICModel":"BM1370","boardVersion":"1300","version":"v2.16.0"}"#),
            "Bitaxe, Bitaxe (board 1300), v2.16.0",
        ),
    ];
    let recordings: Vec<_> = cases.iter().map(|(text, _)| text.clone()).collect();
    let (addresses, _replaying) = serve(&recordings, 5).await;
    let scanner = scanner(Fingerprints::built_in());
    let (_, found, _) = scan(&scanner, job(addresses.clone())).await;
    for (address, (text, expected)) in addresses.into_iter().zip(&cases) {
        let facts = found
            .iter()
            .find(|device| device.endpoint.ip == address)
            .map(|device| &device.facts);
        let facts = facts.map(|facts| {
            format!(
                "{}, {}, {}",
                facts.manufacturer, facts.model, facts.firmware
            )
        });
        assert_eq!(facts.as_deref(), Some(*expected), "{text}");
    }
}
