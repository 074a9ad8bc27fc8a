//! The choice of local subnets on real interfaces, in a network namespace of the test.

use fleet_agent::SitePolicy;
use fleet_sim::Namespace;

/// Interfaces of a router or container, with the network of each and the expected choice.
const INTERFACES: [(&str, &str, bool); 5] = [
    ("eth7", "10.1.0.1/24", true),
    ("br-lan", "192.168.1.1/24", true),
    ("docker0", "172.17.0.1/16", false),
    ("tun0", "10.8.0.2/24", false),
    ("zt5u4v", "10.147.17.9/24", false),
];

/// Further kinds, for kernels that have them.
const OPTIONAL: [(&str, &str, &str, bool); 4] = [
    ("dummy", "eth8", "10.2.0.1/24", false),
    ("wireguard", "eth9", "10.3.0.1/24", false),
    ("vxlan id 7 dstport 4789", "eth10", "10.4.0.1/24", false),
    ("macvlan", "eth11", "10.5.0.1/24", true),
];

#[test]
#[ignore = "needs root and network namespaces: run by cargo xtask test as its step lab"]
fn lab_local_subnets_are_chosen_by_the_kinds_of_real_interfaces() {
    let node = Namespace::new().expect("a namespace");
    let (uplink, lan) = (
        Namespace::new().expect("a namespace"),
        Namespace::new().expect("a namespace"),
    );
    node.cable("eth7", &uplink, "node").expect("a cable");
    node.cable("port1", &lan, "node").expect("a cable");
    node.ip("link add br-lan type bridge\n\
         link set port1 master br-lan\n\
         link add docker0 type bridge\n\
         tuntap add tun0 mode tun\n\
         tuntap add zt5u4v mode tap\n\
         tuntap add vnet0 mode tap\n\
         link set vnet0 master docker0")
        .expect("interfaces");
    let mut expected: Vec<(String, String, bool)> = INTERFACES
        .iter()
        .map(|(name, network, chosen)| ((*name).to_owned(), (*network).to_owned(), *chosen))
        .collect();
    for (kind, name, network, chosen) in OPTIONAL {
        let over = if kind == "macvlan" { "link eth7 " } else { "" };
        match node.ip(&format!("link add {over}name {name} type {kind}")) {
            Ok(()) => expected.push((name.to_owned(), network.to_owned(), chosen)),
            Err(error) => eprintln!("not covered, because this kernel has no {kind}: {error}"),
        }
    }
    for (name, network, _) in &expected {
        node.ip(&format!(
            "link set {name} up\naddr add {network} dev {name}"
        ))
        .expect(name);
    }
    node.ip("route add default via 10.1.0.254")
        .expect("a route");
    // Removed by the kernel's own rule: an address without a route leads nowhere.
    node.ip("addr add 10.9.0.1/24 dev eth7 noprefixroute")
        .expect("an address");
    let choices = node.run(|| SitePolicy::default().choose_subnets(None));
    let choices = choices.join().expect("no panic").expect("a namespace");
    for (name, network, chosen) in &expected {
        let of = |choice: &&fleet_discovery::SubnetChoice| choice.interface == *name;
        let found: Vec<_> = choices.iter().filter(of).collect();
        let [choice] = found.as_slice() else {
            panic!("{name}: {found:?}");
        };
        let ip: ipnetwork::Ipv4Network = network.parse().expect(network);
        assert_eq!(choice.subnet.network(), ip.network(), "{name}");
        assert_eq!(choice.is_chosen, *chosen, "{name}: {}", choice.reason);
        assert!(!choice.reason.is_empty(), "{name}");
    }
    let text = format!("{choices:?}");
    assert!(!text.contains("10.9.0.0"), "{text}");
}
