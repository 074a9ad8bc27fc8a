//! `fleetctl alerts`: rules, channels and deliveries.

use std::io::{self, Write};

use fleet_wire::{
    RpcError,
    fleet::{
        AlertChannel, AlertDelivery, AlertRule, AlertRuleSpec, CreateAlertChannelRequest,
        CreateAlertRuleRequest, DeleteAlertChannelRequest, DeleteAlertRuleRequest,
        ListAlertChannelsRequest, ListAlertDeliveriesRequest, ListAlertRulesRequest,
        RetryAlertDeliveryRequest, TestAlertChannelRequest, UpdateAlertRuleRequest,
    },
};

use crate::{
    cli::{AlertRuleArgs, Alerts, Format},
    failure::Failure,
    output::{self, Rows},
    server::Server,
    times,
};

pub(crate) async fn run(server: &Server, format: Format, command: Alerts) -> Result<u8, Failure> {
    let alerts = &server.alerts;
    match command {
        Alerts::Rules => {
            let channels = channels(server).await?;
            let rules = rules(server).await?;
            if format.is_table() {
                let rows: Vec<_> = rules
                    .into_iter()
                    .map(|rule| Rule::of(rule, &channels))
                    .collect();
                output::rows(format, &rows)?;
            } else {
                output::rows(format, &rules)?;
            }
        }
        Alerts::CreateRule(new) => {
            let request = CreateAlertRuleRequest {
                spec: Some(spec(server, new).await?),
            };
            let created = alerts.create_alert_rule(&request, server.call()?).await?;
            output::one(format, &created.rule.unwrap_or_default())?;
        }
        Alerts::UpdateRule { rule, new } => {
            let request = UpdateAlertRuleRequest {
                rule_id: find_rule(server, &rule).await?,
                spec: Some(spec(server, new).await?),
            };
            let updated = alerts.update_alert_rule(&request, server.call()?).await?;
            output::one(format, &updated.rule.unwrap_or_default())?;
        }
        Alerts::DeleteRule { rule } => {
            let request = DeleteAlertRuleRequest {
                rule_id: find_rule(server, &rule).await?,
            };
            alerts.delete_alert_rule(&request, server.call()?).await?;
        }
        Alerts::Channels => output::rows(format, &channels(server).await?)?,
        Alerts::CreateChannel {
            name,
            webhook,
            email,
        } => {
            let request = CreateAlertChannelRequest {
                name,
                webhook_url: webhook.unwrap_or_default(),
                email: email.unwrap_or_default(),
            };
            let created = alerts
                .create_alert_channel(&request, server.call()?)
                .await?;
            if !format.is_table() {
                output::document(&mut io::stdout(), &created)?;
                return Ok(0);
            }
            output::one(format, &created.channel.unwrap_or_default())?;
            if !created.signing_secret.is_empty() {
                // The receiver needs it, and it is not shown again.
                writeln!(
                    io::stdout(),
                    "\nSigning secret, shown only now: {}",
                    created.signing_secret
                )?;
            }
        }
        Alerts::DeleteChannel { channel } => {
            let request = DeleteAlertChannelRequest {
                channel_id: find_channel(server, &channel).await?,
            };
            alerts
                .delete_alert_channel(&request, server.call()?)
                .await?;
        }
        Alerts::Test { channel } => {
            let request = TestAlertChannelRequest {
                channel_id: find_channel(server, &channel).await?,
            };
            let tested = alerts.test_alert_channel(&request, server.call()?).await?;
            output::one(format, &tested.delivery.unwrap_or_default())?;
        }
        Alerts::Deliveries {
            state,
            limit,
            before,
        } => {
            let request = ListAlertDeliveriesRequest {
                state: state.unwrap_or_default(),
                limit,
                before_delivery_id: before.unwrap_or_default(),
            };
            let listed = alerts
                .list_alert_deliveries(&request, server.call()?)
                .await?;
            output::rows(format, &listed.deliveries)?;
        }
        Alerts::Retry { delivery } => {
            let request = RetryAlertDeliveryRequest {
                delivery_id: delivery,
            };
            let retried = alerts
                .retry_alert_delivery(&request, server.call()?)
                .await?;
            output::one(format, &retried.delivery.unwrap_or_default())?;
        }
    }
    Ok(0)
}

async fn channels(server: &Server) -> Result<Vec<AlertChannel>, Failure> {
    let request = ListAlertChannelsRequest {};
    let listed = server.alerts.list_alert_channels(&request, server.call()?);
    Ok(listed.await?.channels)
}

async fn rules(server: &Server) -> Result<Vec<AlertRule>, Failure> {
    let request = ListAlertRulesRequest {};
    let listed = server.alerts.list_alert_rules(&request, server.call()?);
    Ok(listed.await?.rules)
}

async fn spec(server: &Server, new: AlertRuleArgs) -> Result<AlertRuleSpec, Failure> {
    let known = channels(server).await?;
    let named = |wanted: &String| pick_channel(&known, wanted);
    let channel_ids: Result<_, RpcError> = new.channels.iter().map(named).collect();
    Ok(AlertRuleSpec {
        name: new.name,
        event: new.event,
        threshold: new.threshold,
        channel_ids: channel_ids?,
        quiet_hours: new.quiet.join("; "),
        time_zone: new.zone,
        disabled: new.disabled,
    })
}

async fn find_channel(server: &Server, wanted: &str) -> Result<i64, Failure> {
    Ok(pick_channel(&channels(server).await?, wanted)?)
}

/// The id of a channel that is named by its id or its name. Names are unique, and one can be a number.
fn pick_channel(channels: &[AlertChannel], wanted: &str) -> Result<i64, RpcError> {
    let by_name = channels.iter().find(|channel| channel.name == wanted);
    let by_id = || {
        channels
            .iter()
            .find(|channel| channel.channel_id.to_string() == wanted)
    };
    let found = by_name.or_else(by_id).map(|channel| channel.channel_id);
    found.ok_or_else(|| {
        RpcError::not_found(format!(
            "no alert channel `{}`: `fleetctl alerts channels` shows all",
            output::plain(wanted)
        ))
    })
}

async fn find_rule(server: &Server, wanted: &str) -> Result<i64, Failure> {
    let rules = rules(server).await?;
    let name = |rule: &AlertRule| rule.spec.as_ref().is_some_and(|spec| spec.name == wanted);
    let by_name = rules.iter().find(|rule| name(rule));
    let by_id = || rules.iter().find(|rule| rule.rule_id.to_string() == wanted);
    let found = by_name.or_else(by_id).map(|rule| rule.rule_id);
    Ok(found.ok_or_else(|| {
        RpcError::not_found(format!(
            "no alert rule `{}`: `fleetctl alerts rules` shows all",
            output::plain(wanted)
        ))
    })?)
}

/// A rule with the names of its channels.
#[derive(serde::Serialize)]
struct Rule {
    #[serde(flatten)]
    rule: AlertRule,
    names: String,
}

impl Rule {
    fn of(rule: AlertRule, channels: &[AlertChannel]) -> Self {
        let ids = rule.spec.iter().flat_map(|spec| &spec.channel_ids);
        let name = |id: &i64| channels.iter().find(|channel| channel.channel_id == *id);
        let names: Vec<_> = ids
            .filter_map(name)
            .map(|channel| channel.name.clone())
            .collect();
        Self {
            names: names.join(", "),
            rule,
        }
    }
}

impl Rows for Rule {
    const HEAD: &'static [&'static str] = AlertRule::HEAD;
    const OPTIONAL: &'static [&'static str] = AlertRule::OPTIONAL;

    fn cells(&self) -> Vec<String> {
        let mut cells = self.rule.cells();
        if let Some(channels) = cells.get_mut(4) {
            channels.clone_from(&self.names);
        }
        cells
    }
}

impl Rows for AlertRule {
    const HEAD: &'static [&'static str] = &[
        "Rule",
        "Name",
        "Event",
        "Threshold",
        "Channels",
        "Quiet hours",
        "Time zone",
        "State",
    ];
    const OPTIONAL: &'static [&'static str] = &["Time zone", "Quiet hours", "Rule"];

    fn cells(&self) -> Vec<String> {
        let spec = self.spec.clone().unwrap_or_default();
        let unit = match spec.event.as_str() {
            "device.missing" if spec.threshold == 1 => " scan",
            "device.missing" => " scans",
            "node.silent" => " min",
            _ => "",
        };
        let threshold = match spec.threshold {
            0 => String::new(),
            threshold => format!("{threshold}{unit}"),
        };
        let channels: Vec<_> = spec.channel_ids.iter().map(i64::to_string).collect();
        vec![
            self.rule_id.to_string(),
            spec.name,
            spec.event,
            threshold,
            channels.join(", "),
            spec.quiet_hours,
            spec.time_zone,
            if spec.disabled { "off" } else { "on" }.to_owned(),
        ]
    }
}

impl Rows for AlertChannel {
    const HEAD: &'static [&'static str] = &["Channel", "Name", "Kind", "Receiver", "Created"];
    const OPTIONAL: &'static [&'static str] = &["Created"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.channel_id.to_string(),
            self.name.clone(),
            self.kind.clone(),
            self.target.clone(),
            times::timestamp(self.created_at.as_ref()),
        ]
    }
}

impl Rows for AlertDelivery {
    const HEAD: &'static [&'static str] = &[
        "Delivery", "Created", "Message", "State", "Answer", "Attempts", "Next", "Channel", "Rule",
        "Event",
    ];
    const OPTIONAL: &'static [&'static str] = &["Event", "Rule", "Next", "Attempts", "Created"];
    const WHOLE: &'static [&'static str] = &["Delivery"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.delivery_id.clone(),
            times::timestamp(self.created_at.as_ref()),
            self.title.clone(),
            self.state.clone(),
            self.answer.clone(),
            self.attempts.to_string(),
            times::timestamp(self.due_at.as_ref()),
            self.channel_name.clone(),
            self.rule.clone(),
            self.event.clone(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_found_by_its_name_first_and_then_by_its_id() {
        let channel = |channel_id, name: &str| AlertChannel {
            channel_id,
            name: name.to_owned(),
            ..AlertChannel::default()
        };
        let known = [channel(1, "hook"), channel(2, "1")];
        for (wanted, expected) in [("hook", 1), ("1", 2), ("2", 2)] {
            assert_eq!(pick_channel(&known, wanted).expect(wanted), expected);
        }
        let refused = pick_channel(&known, "mail").expect_err("none").message;
        assert!(refused.contains("`mail`"), "{refused}");
    }
}
