//! The choice of local subnets over interfaces of real machines, one file each in `tests/fixtures`.
//!
//! A line is an interface: its name and kind, then `in=CONTROLLER`, `over=LOWER` (or `outside`), `default` if the default
//! route leads through it, `down`, its networks, and whether they belong to the site.

use std::{fs, path::PathBuf};

use fleet_discovery::{Interface, InterfaceKind, LowerInterface, SubnetChoice, site_subnets};

/// The interfaces of a fixture, with the expected choice for each.
fn read(text: &str) -> Vec<(Interface, Option<bool>)> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let lines: Vec<Vec<&str>> = lines
        .map(|line| line.split_whitespace().collect())
        .collect();
    let index = |name: &str| {
        let at = lines.iter().position(|words| words[0] == name);
        u32::try_from(at.expect(name)).expect("few lines") + 1
    };
    let interface = |words: &Vec<&str>| {
        let mut interface = Interface {
            index: index(words[0]),
            name: words[0].to_owned(),
            kind: match words[1] {
                "device" => InterfaceKind::Device,
                "loopback" => InterfaceKind::Loopback,
                "software" => InterfaceKind::Software,
                kind => InterfaceKind::Named(kind.to_owned()),
            },
            is_up: true,
            controller: None,
            lower: None,
            has_default_route: false,
            subnets: Vec::new(),
        };
        let mut expected = None;
        for word in &words[2..] {
            match (*word, word.split_once('=')) {
                ("=>", _) => {}
                ("site", _) => expected = Some(true),
                ("not", _) => expected = Some(false),
                ("default", _) => interface.has_default_route = true,
                ("down", _) => interface.is_up = false,
                (_, Some(("in", name))) => interface.controller = Some(index(name)),
                (_, Some(("over", "outside"))) => interface.lower = Some(LowerInterface::Outside),
                (_, Some(("over", name))) => {
                    interface.lower = Some(LowerInterface::Inside(index(name)));
                }
                (network, _) => interface.subnets.push(network.parse().expect(network)),
            }
        }
        assert_eq!(
            expected.is_some(),
            !interface.subnets.is_empty(),
            "{words:?}"
        );
        (interface, expected)
    };
    lines.iter().map(interface).collect()
}

fn fixtures() -> Vec<(String, String)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let files = fs::read_dir(folder).expect("the folder").map(|file| {
        let path = file.expect("a file").path();
        let text = fs::read_to_string(&path).expect("a text");
        (path.display().to_string(), text)
    });
    files.collect()
}

fn choices(text: &str) -> Vec<SubnetChoice> {
    let interfaces = read(text).into_iter().map(|(interface, _)| interface);
    site_subnets(&interfaces.collect::<Vec<_>>())
}

#[test]
fn networks_behind_a_network_card_belong_to_the_site() {
    let fixtures = fixtures();
    assert!(fixtures.len() >= 6, "{fixtures:?}");
    for (file, text) in fixtures {
        let expected = read(&text).into_iter().flat_map(|(interface, expected)| {
            let (name, subnets) = (interface.name, interface.subnets);
            let chosen = expected.unwrap_or_default();
            subnets
                .into_iter()
                .map(move |subnet| (name.clone(), subnet, chosen))
        });
        let chosen: Vec<_> = choices(&text)
            .into_iter()
            .map(|choice| (choice.interface, choice.subnet, choice.is_chosen))
            .collect();
        assert_eq!(chosen, expected.collect::<Vec<_>>(), "{file}");
    }
}

#[test]
fn the_names_of_interfaces_decide_nothing() {
    for (file, text) in fixtures() {
        let (mut interfaces, _): (Vec<_>, Vec<_>) = read(&text).into_iter().unzip();
        let is_chosen = |interfaces: &[Interface]| {
            let choices = site_subnets(interfaces).into_iter();
            choices.map(|choice| choice.is_chosen).collect::<Vec<_>>()
        };
        let before = is_chosen(&interfaces);
        for interface in &mut interfaces {
            interface.name = "docker0".to_owned();
        }
        assert_eq!(is_chosen(&interfaces), before, "{file}");
    }
}

#[test]
fn the_reason_names_the_deciding_rule() {
    let text = "eno1 device in=br-lan\n\
                br-lan bridge 10.0.0.1/24 => site\n\
                br-lan.5 vlan over=br-lan 10.5.0.1/24 => site\n\
                docker0 bridge 172.17.0.1/16 => not\n\
                tun0 tun 10.8.0.1/24 => not\n\
                eno2 device 8.8.8.0/24 => not\n\
                eno3 device down 10.6.0.0/24 => not";
    let reasons: Vec<String> = choices(text)
        .into_iter()
        .map(|choice| choice.reason)
        .collect();
    assert_eq!(
        reasons,
        [
            "bridge with the port eno1",
            "vlan over br-lan, bridge with the port eno1",
            "bridge without ports",
            "virtual interface (tun)",
            "not a private network",
            "the interface is disabled",
        ]
    );
}

#[test]
fn circular_interfaces_do_not_lead_to_the_site() {
    let text = "a bridge in=b 10.0.0.1/24 => not\nb bridge in=a 10.1.0.1/24 => not\n\
                c vlan over=d 10.2.0.1/24 => not\nd vlan over=c 10.3.0.1/24 => not\n\
                e device";
    assert!(choices(text).iter().all(|choice| !choice.is_chosen));
}
