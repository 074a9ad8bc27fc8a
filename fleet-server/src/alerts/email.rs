//! Messages by e-mail, over the mail server of the configuration.

use fleet_inventory::Answer;
use fleet_store::AlertDeliveryRow;
use fleet_wire::RpcError;
use lettre::{
    Address, AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{Mailbox, header::ContentType},
    transport::smtp::{
        Error,
        authentication::Credentials,
        client::{Certificate, Tls, TlsParameters},
    },
};

use super::{ATTEMPT, Sent};
use crate::{
    app::App,
    config::{Smtp, SmtpSecurity},
    convert,
};

/// The longest part of a mail server's answer that operators see, in characters.
const ANSWER: usize = 120;

/// Checks an address that an operator enters.
pub(super) fn check(address: &str) -> Result<(), RpcError> {
    address.parse::<Address>().map(drop).map_err(|error| {
        let shown = convert::printable(address, 64);
        RpcError::invalid_argument(format!("email `{shown}` is refused: {error}"))
            .with_reason("INVALID_FIELD")
            .with_fact("field", "email")
            .with_fact("value", shown)
    })
}

/// Sends a message once.
pub(super) async fn send(app: &App, delivery: &AlertDeliveryRow, address: &str) -> Sent {
    let Some(smtp) = &app.config.smtp else {
        let why = "this server sends no e-mail: its administrator sets a mail server under [smtp]";
        return (Answer::Failed, why.to_owned());
    };
    let Some(message) = write(smtp, delivery, address) else {
        return (Answer::Gone, "the message cannot be written".to_owned());
    };
    let transport = match transport(smtp) {
        Ok(transport) => transport,
        Err(error) => return (Answer::Failed, format!("SMTP: {error}")),
    };
    // The library limits each command. This limits all of them together.
    match tokio::time::timeout(ATTEMPT, transport.send(message)).await {
        Ok(Ok(response)) => (Answer::Accepted, format!("SMTP {}", response.code())),
        Ok(Err(error)) => read(&error),
        Err(_) => {
            let why = format!("SMTP: no answer within {} s", ATTEMPT.as_secs());
            (Answer::Failed, why)
        }
    }
}

fn read(error: &Error) -> Sent {
    let answer = if error.is_permanent() {
        Answer::Gone
    } else {
        Answer::Failed
    };
    (
        answer,
        convert::printable(&format!("SMTP: {error}"), ANSWER),
    )
}

fn write(smtp: &Smtp, delivery: &AlertDeliveryRow, address: &str) -> Option<Message> {
    let from: Mailbox = smtp.from.parse().ok()?;
    let domain = from.email.domain().to_owned();
    let to = Mailbox::new(None, address.parse().ok()?);
    let message = &delivery.message;
    let mut text: String = message
        .items
        .iter()
        .map(|item| format!("{}\n", item.text))
        .collect();
    let left = message.count.saturating_sub(message.items.len() as u64);
    if left > 0 {
        text.push_str(&format!("and {left} more\n"));
    }
    if let Some(scan) = delivery.scan {
        text.push_str(&format!("\nScan {scan}\n"));
    }
    if !delivery.rule.is_empty() {
        text.push_str(&format!("Rule {}\n", delivery.rule));
    }
    Message::builder()
        .from(from)
        .to(to)
        // One id for all attempts: mail programs show a repeated message once.
        .message_id(Some(format!("<{}@{domain}>", delivery.id)))
        .subject(message.title.clone())
        .header(ContentType::TEXT_PLAIN)
        .body(text)
        .ok()
}

fn transport(smtp: &Smtp) -> Result<AsyncSmtpTransport<Tokio1Executor>, Error> {
    type Transport = AsyncSmtpTransport<Tokio1Executor>;
    let tls = match smtp.security {
        SmtpSecurity::Tls => Tls::Wrapper(parameters(smtp)?),
        // Without STARTTLS, nothing is sent.
        SmtpSecurity::StartTls => Tls::Required(parameters(smtp)?),
        SmtpSecurity::None => Tls::None,
    };
    let mut builder = Transport::builder_dangerous(&smtp.host)
        .port(smtp.port)
        .tls(tls)
        .timeout(Some(ATTEMPT));
    if let Some((user, password)) = &smtp.login {
        let login = Credentials::new(user.clone(), password.to_string());
        builder = builder.credentials(login);
    }
    Ok(builder.build())
}

fn parameters(smtp: &Smtp) -> Result<TlsParameters, Error> {
    let mut builder = TlsParameters::builder(smtp.host.clone());
    if let Some(pem) = &smtp.ca {
        builder = builder.add_root_certificate(Certificate::from_pem(pem.as_bytes())?);
    }
    builder.build()
}
