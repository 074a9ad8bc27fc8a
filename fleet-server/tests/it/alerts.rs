//! Alerts through the API, to webhooks and a mail server of the test.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use fleet_core::Role;
use fleet_server::{ServerConfig, Smtp, SmtpSecurity};
use fleet_wire::{
    Code, RpcError,
    fleet::{
        AlertClient, AlertDelivery, AlertRuleSpec, CreateAlertChannelRequest,
        CreateAlertChannelResponse, CreateAlertRuleRequest, DeleteAlertChannelRequest,
        ListAlertChannelsRequest, ListAlertDeliveriesRequest, RetryAlertDeliveryRequest,
        TestAlertChannelRequest,
    },
    gateway::AckCode,
};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use crate::harness::{
    Enrolled, Operator, Profile, World, device, eventually, list, on_both_databases, refused, start,
};

/// A request that the receiver got.
#[derive(Clone, Debug)]
struct Received {
    id: String,
    timestamp: String,
    signature: String,
    body: String,
}

impl Received {
    /// Whether the request is signed with the secret of the channel.
    fn is_signed_with(&self, secret: &str) -> bool {
        let key = secret.strip_prefix("whsec_").expect("the prefix");
        let key = BASE64_STANDARD.decode(key).expect("base64");
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("any length");
        mac.update(format!("{}.{}.{}", self.id, self.timestamp, self.body).as_bytes());
        let tag = BASE64_STANDARD.encode(mac.finalize().into_bytes());
        self.signature == format!("v1,{tag}")
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).expect("JSON")
    }
}

/// A receiver of webhooks. It answers with the given statuses in order, then with 204.
#[derive(Clone, Debug)]
struct Receiver {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Receiver {
    async fn new(answers: &[&str]) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let receiver = Self {
            address: socket.local_addr().expect("an address"),
            received: Arc::default(),
        };
        let answers: VecDeque<String> = answers.iter().map(|&text| text.to_owned()).collect();
        let (answers, received) = (Arc::new(Mutex::new(answers)), receiver.received.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = socket.accept().await {
                let (answers, received) = (answers.clone(), received.clone());
                tokio::spawn(async move {
                    let request = read_request(stream).await;
                    let (mut stream, request) = request.expect("a request");
                    received.lock().expect("unpoisoned").push(request);
                    let answer = answers.lock().expect("unpoisoned").pop_front();
                    let answer = answer.unwrap_or_else(|| "204 No Content\r\n".to_owned());
                    let answer = format!("HTTP/1.1 {answer}content-length: 0\r\n\r\n");
                    let _ = stream.write_all(answer.as_bytes()).await;
                });
            }
        });
        receiver
    }

    fn url(&self) -> String {
        format!("http://{}/hook?token=hidden", self.address)
    }

    fn received(&self) -> Vec<Received> {
        self.received.lock().expect("unpoisoned").clone()
    }

    async fn receives(&self, count: usize) -> Vec<Received> {
        eventually(|| async { self.received().len() >= count }).await;
        self.received()
    }
}

async fn read_request(stream: TcpStream) -> Option<(TcpStream, Received)> {
    let mut reader = BufReader::new(stream);
    let mut received = Received {
        id: String::new(),
        timestamp: String::new(),
        signature: String::new(),
        body: String::new(),
    };
    let mut length = 0;
    let mut first = String::new();
    reader.read_line(&mut first).await.ok()?;
    assert_eq!(first, "POST /hook?token=hidden HTTP/1.1\r\n");
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        match name {
            "webhook-id" => value.clone_into(&mut received.id),
            "webhook-timestamp" => value.clone_into(&mut received.timestamp),
            "webhook-signature" => value.clone_into(&mut received.signature),
            "content-length" => length = value.parse().ok()?,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).await.ok()?;
    received.body = String::from_utf8(body).ok()?;
    Some((reader.into_inner(), received))
}

fn alerts(world: &World) -> AlertClient {
    AlertClient::new(world.channel())
}

pub(crate) async fn hook(world: &World, admin: &Operator, url: &str) -> CreateAlertChannelResponse {
    let request = CreateAlertChannelRequest {
        name: "hook".to_owned(),
        webhook_url: url.to_owned(),
        ..CreateAlertChannelRequest::default()
    };
    let client = alerts(world);
    let created = client.create_alert_channel(&request, admin.options());
    created.await.expect("is created")
}

async fn rule(world: &World, admin: &Operator, channel: &CreateAlertChannelResponse, event: &str) {
    rule_at(world, admin, channel, event, 0).await;
}

/// Creates a rule with a threshold; 0 is the default.
pub(crate) async fn rule_at(
    world: &World,
    admin: &Operator,
    channel: &CreateAlertChannelResponse,
    event: &str,
    threshold: u32,
) {
    let channel = channel.channel.as_ref().expect("a channel");
    let request = CreateAlertRuleRequest {
        spec: Some(AlertRuleSpec {
            name: event.to_owned(),
            event: event.to_owned(),
            channel_ids: vec![channel.channel_id],
            threshold,
            ..AlertRuleSpec::default()
        }),
    };
    let client = alerts(world);
    let created = client.create_alert_rule(&request, admin.options()).await;
    created.expect("is created");
}

async fn test(world: &World, admin: &Operator, channel: &CreateAlertChannelResponse) -> String {
    let channel = channel.channel.as_ref().expect("a channel");
    let request = TestAlertChannelRequest {
        channel_id: channel.channel_id,
    };
    let client = alerts(world);
    let sent = client.test_alert_channel(&request, admin.options()).await;
    sent.expect("is sent").delivery.expect("it").delivery_id
}

fn says(error: RpcError, expected: &str) {
    assert!(error.message.contains(expected), "{error}");
}

pub(crate) async fn deliveries(world: &World, by: &Operator) -> Vec<AlertDelivery> {
    let client = alerts(world);
    let request = ListAlertDeliveriesRequest::default();
    let listed = client.list_alert_deliveries(&request, by.options()).await;
    listed.expect("are listed").deliveries
}

async fn is(world: &World, by: &Operator, state: &str, answer: &str) -> AlertDelivery {
    eventually(|| async {
        let found = deliveries(world, by).await;
        found[0].state == state && found[0].answer.contains(answer)
    })
    .await;
    deliveries(world, by).await.remove(0)
}

on_both_databases! {
    a_new_device_is_one_signed_message_from_one_of_three_servers
}

async fn a_new_device_is_one_signed_message_from_one_of_three_servers(url: &str) {
    let world = World::at(url).await;
    let (second, third) = (world.another().await, world.another().await);
    let admin = world.operator(Role::Admin).await;
    let receiver = Receiver::new(&[]).await;
    let channel = hook(&world, &admin, &receiver.url()).await;
    let shown = channel.channel.as_ref().expect("a channel");
    assert_eq!(shown.target, format!("http://{}", receiver.address));
    rule(&world, &admin, &channel, "device.new").await;
    let enrolled = Enrolled::new(&world, &admin).await;
    let mut node = enrolled.connect(&world, Profile::ours()).await;
    let scan = start(&admin, &enrolled, list(&["10.0.0.1"], &["4028"])).await;
    let (command, _) = node.command().await;
    let reported = node.report(&command, vec![device("10.0.0.1")]).await;
    reported.expect("is taken");
    node.ack(&command, AckCode::Ok).await;
    let got = receiver.receives(1).await.remove(0);
    assert!(got.is_signed_with(&channel.signing_secret), "{got:?}");
    let body = got.json();
    assert_eq!(body["type"], "device.new");
    assert_eq!(
        (&body["data"]["count"], &body["data"]["rule"]),
        (&1.into(), &"device.new".into())
    );
    assert_eq!(body["data"]["scanId"], scan.id);
    let item = &body["data"]["items"][0];
    assert_eq!(
        (&item["ipAddress"], &item["port"]),
        (&"10.0.0.1".into(), &"4028".into())
    );
    let delivered = is(&world, &admin, "delivered", "HTTP 204").await;
    assert_eq!(got.id, format!("msg_{}", delivered.delivery_id));
    assert_eq!((delivered.attempts, delivered.items.len()), (1, 1));
    // Later messages come after everything that the servers could have sent twice.
    for (other, messages) in [(&second, 2), (&third, 3)] {
        test(other, &admin, &channel).await;
        let all = receiver.receives(messages).await;
        assert_eq!(all.len(), messages);
        assert_eq!(all[messages - 1].json()["type"], "test");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_fails_gets_the_same_message_again() {
    let world = World::new().await;
    let admin = world.operator(Role::Admin).await;
    let elsewhere = Receiver::new(&[]).await;
    let redirect = format!(
        "307 Temporary Redirect\r\nlocation: {}\r\n",
        elsewhere.url()
    );
    let receiver =
        Receiver::new(&["500 Internal Server Error\r\n", &redirect, "not HTTP\r\n"]).await;
    let channel = hook(&world, &admin, &receiver.url()).await;
    test(&world, &admin, &channel).await;
    for (attempt, answer) in [
        (1, "HTTP 500"),
        (2, "HTTP 307: redirects are not followed"),
        (3, "no valid answer"),
    ] {
        let waits = is(&world, &admin, "waiting", answer).await;
        assert_eq!(waits.attempts, attempt);
        world.clock.pass(Duration::from_secs(90));
    }
    let delivered = is(&world, &admin, "delivered", "HTTP 204").await;
    assert_eq!(delivered.attempts, 4);
    let all = receiver.received();
    assert_eq!(all.len(), 4);
    for got in &all {
        assert_eq!((&got.id, &got.body), (&all[0].id, &all[0].body));
        assert!(got.is_signed_with(&channel.signing_secret), "{got:?}");
    }
    assert!(
        all[0].timestamp < all[3].timestamp,
        "each attempt has its own time"
    );
    assert_eq!(
        elsewhere.received().len(),
        0,
        "the redirect was not followed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_owner_of_the_servers_network_reaches_it_with_webhooks() {
    let refused = "is not dialed: private addresses are for";
    let receiver = Receiver::new(&[]).await;
    let world = World::new().await;
    let admin = world.operator(Role::Admin).await;
    let channel = hook(&world, &admin, &receiver.url()).await;
    test(&world, &admin, &channel).await;
    is(&world, &admin, "delivered", "HTTP 204").await;
    // With a second organization, nobody knows whose network it is.
    let other = world.operator_of("Other", Role::Admin).await;
    let of_other = hook(&world, &other, &receiver.url()).await;
    for (by, channel) in [(&admin, &channel), (&other, &of_other)] {
        test(&world, by, channel).await;
        is(&world, by, "waiting", refused).await;
    }
    let world = World::with(ServerConfig {
        rates: None,
        network_owner: Some("acme".to_owned()),
        ..ServerConfig::default()
    })
    .await;
    let admin = world.operator(Role::Admin).await;
    let other = world.operator_of("Other", Role::Admin).await;
    for (by, state, answer) in [
        (&admin, "delivered", "HTTP 204"),
        (&other, "waiting", refused),
    ] {
        let channel = hook(&world, by, &receiver.url()).await;
        test(&world, by, &channel).await;
        is(&world, by, state, answer).await;
    }
    assert_eq!(receiver.received().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_fails_after_a_day_and_can_be_retried() {
    let world = World::new().await;
    let admin = world.operator(Role::Admin).await;
    let receiver = Receiver::new(&["503 Unavailable\r\n", "503 Unavailable\r\n"]).await;
    let channel = hook(&world, &admin, &receiver.url()).await;
    let id = test(&world, &admin, &channel).await;
    is(&world, &admin, "waiting", "HTTP 503").await;
    world.clock.pass(Duration::from_secs(24 * 3_600));
    let failed = is(&world, &admin, "failed", "HTTP 503").await;
    assert_eq!(failed.attempts, 2);
    let request = RetryAlertDeliveryRequest { delivery_id: id };
    let client = alerts(&world);
    let retried = client.retry_alert_delivery(&request, admin.options()).await;
    retried.expect("is retried");
    is(&world, &admin, "delivered", "HTTP 204").await;
    let again = client.retry_alert_delivery(&request, admin.options()).await;
    says(
        refused(again, Code::FailedPrecondition),
        "only a failed one",
    );
    for action in ["alert.channel.create", "alert.channel.test", "alert.retry"] {
        assert!(
            !world.audited(admin.org, action).await.is_empty(),
            "{action}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_gone_or_hangs_gets_no_more_than_it_must() {
    let world = World::new().await;
    let admin = world.operator(Role::Admin).await;
    let receiver = Receiver::new(&["410 Gone\r\n"]).await;
    let channel = hook(&world, &admin, &receiver.url()).await;
    test(&world, &admin, &channel).await;
    let failed = is(&world, &admin, "failed", "HTTP 410").await;
    assert_eq!(failed.attempts, 1);
    let delete = DeleteAlertChannelRequest {
        channel_id: channel.channel.expect("a channel").channel_id,
    };
    let client = alerts(&world);
    let deleted = client.delete_alert_channel(&delete, admin.options());
    deleted.await.expect("is deleted");
    // This one accepts connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/hook", silent.local_addr().expect("an address"));
    let channel = hook(&world, &admin, &url).await;
    test(&world, &admin, &channel).await;
    is(&world, &admin, "waiting", "no answer within 10 s").await;
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn receivers_that_are_not_valid_are_refused_with_the_reason() {
    let world = World::new().await;
    let admin = world.operator(Role::Admin).await;
    let client = alerts(&world);
    for (webhook_url, email, expected) in [
        ("ftp://a.test/", "", "another scheme"),
        ("https://ann:pw@a.test/", "", "user name or password"),
        ("a.test", "", "not a URL"),
        ("", "", "set either webhook_url or email"),
        (
            "https://a.test/",
            "ann@acme.test",
            "set either webhook_url or email",
        ),
    ] {
        let request = CreateAlertChannelRequest {
            name: "bad".to_owned(),
            webhook_url: webhook_url.to_owned(),
            email: email.to_owned(),
        };
        let answered = client.create_alert_channel(&request, admin.options()).await;
        says(refused(answered, Code::InvalidArgument), expected);
    }
    let request = CreateAlertChannelRequest {
        name: "mail".to_owned(),
        email: "ann@acme.test".to_owned(),
        ..CreateAlertChannelRequest::default()
    };
    let answered = client.create_alert_channel(&request, admin.options()).await;
    says(refused(answered, Code::FailedPrecondition), "[smtp]");
    let listed = client.list_alert_channels(&ListAlertChannelsRequest {}, admin.options());
    let listed = listed.await.expect("are listed");
    assert!(listed.channels.is_empty() && !listed.email_available);
}

/// A mail server that takes one message per connection. It answers the given lines to MAIL FROM in order, then accepts.
async fn mail_server(answers: &[&str]) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = socket.local_addr().expect("an address");
    let answers: VecDeque<String> = answers.iter().map(|&text| text.to_owned()).collect();
    let (answers, mails) = (
        Arc::new(Mutex::new(answers)),
        Arc::new(Mutex::new(Vec::new())),
    );
    let taken = mails.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = socket.accept().await {
            let (answers, taken) = (answers.clone(), taken.clone());
            tokio::spawn(async move { serve_mail(stream, &answers, &taken).await });
        }
    });
    (address, mails)
}

async fn serve_mail(
    stream: TcpStream,
    answers: &Mutex<VecDeque<String>>,
    taken: &Mutex<Vec<String>>,
) -> Option<()> {
    let mut stream = BufReader::new(stream);
    stream.write_all(b"220 mail.test ESMTP\r\n").await.ok()?;
    let mut mail = String::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return Some(());
        }
        let verb = line.split([' ', ':', '\r']).next().unwrap_or_default();
        let answer = match verb {
            "EHLO" => "250-mail.test\r\n250 AUTH PLAIN\r\n".to_owned(),
            "AUTH" => {
                mail.push_str(&line);
                "235 accepted\r\n".to_owned()
            }
            "MAIL" => {
                let next = answers.lock().expect("unpoisoned").pop_front();
                next.unwrap_or_else(|| "250 ok\r\n".to_owned())
            }
            "DATA" => {
                stream.write_all(b"354 go on\r\n").await.ok()?;
                while !mail.ends_with("\r\n.\r\n") {
                    stream.read_line(&mut mail).await.ok()?;
                }
                taken.lock().expect("unpoisoned").push(mail.clone());
                "250 taken\r\n".to_owned()
            }
            "QUIT" => return stream.write_all(b"221 bye\r\n").await.ok(),
            _ => "250 ok\r\n".to_owned(),
        };
        stream.write_all(answer.as_bytes()).await.ok()?;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_by_mail_is_retried_and_lists_what_happened() {
    let answers = ["451 try again\r\n", "550 no such user\r\n"];
    let (address, mails) = mail_server(&answers).await;
    let world = World::with(ServerConfig {
        rates: None,
        smtp: Some(Smtp {
            host: address.ip().to_string(),
            port: address.port(),
            security: SmtpSecurity::None,
            from: "Fleet <fleet@fleet.test>".to_owned(),
            login: Some(("fleet".to_owned(), "pass word".to_owned().into())),
            ca: None,
        }),
        ..ServerConfig::default()
    })
    .await;
    let admin = world.operator(Role::Admin).await;
    let client = alerts(&world);
    let create = async |name: &str, email: &str| {
        let request = CreateAlertChannelRequest {
            name: name.to_owned(),
            email: email.to_owned(),
            ..CreateAlertChannelRequest::default()
        };
        client.create_alert_channel(&request, admin.options()).await
    };
    let bad = create("bad", "ann\r\nBcc: bob@x.test").await;
    says(refused(bad, Code::InvalidArgument), "is refused");
    let channel = create("mail", "ann@acme.test").await.expect("is created");
    assert_eq!(channel.signing_secret, "");
    test(&world, &admin, &channel).await;
    is(&world, &admin, "waiting", "451").await;
    world.clock.pass(Duration::from_secs(30));
    // No such user is a final answer.
    is(&world, &admin, "failed", "550").await;
    rule(&world, &admin, &channel, "scan.failed").await;
    let enrolled = Enrolled::new(&world, &admin).await;
    let mut node = enrolled.connect(&world, Profile::ours()).await;
    let scan = start(&admin, &enrolled, list(&["10.0.0.1"], &["4028"])).await;
    let (command, _) = node.command().await;
    node.ack_with(&command, AckCode::Internal, "the disk is full")
        .await;
    let delivered = is(&world, &admin, "delivered", "SMTP 250").await;
    let mail = mails.lock().expect("unpoisoned").remove(0);
    let login = BASE64_STANDARD.encode("\0fleet\0pass word");
    for part in [
        &login,
        "From: Fleet <fleet@fleet.test>\r\n",
        "To: ann@acme.test\r\n",
        "failed\r\n",
        "the disk is full",
        &format!("Scan {}", scan.id),
        &format!("Message-ID: <{}@fleet.test>", delivered.delivery_id),
    ] {
        assert!(mail.contains(part), "{part:?} is not in {mail}");
    }
}
