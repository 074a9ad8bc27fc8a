//! `fleet.v1.AlertService`: rules, channels and deliveries of alerts.

use fleet_core::{AlertChannelId, AlertRuleId};
use fleet_inventory::AlertRuleText;
use fleet_store::{AlertChannelRow, AlertDeliveryRow, AlertDeliveryState, AlertRuleRow};
use fleet_wire::{
    Context, Reply, RpcError,
    fleet::{
        AlertChannel, AlertDelivery, AlertRule, AlertRuleSpec, AlertService,
        CreateAlertChannelRequest, CreateAlertChannelResponse, CreateAlertRuleRequest,
        CreateAlertRuleResponse, DeleteAlertChannelRequest, DeleteAlertChannelResponse,
        DeleteAlertRuleRequest, DeleteAlertRuleResponse, ListAlertChannelsRequest,
        ListAlertChannelsResponse, ListAlertDeliveriesRequest, ListAlertDeliveriesResponse,
        ListAlertRulesRequest, ListAlertRulesResponse, RetryAlertDeliveryRequest,
        RetryAlertDeliveryResponse, TestAlertChannelRequest, TestAlertChannelResponse,
        UpdateAlertRuleRequest, UpdateAlertRuleResponse,
    },
};

use super::Api;
use crate::{
    alerts::{self, Wanted, WantedRule},
    convert,
    failure::Answered,
};

/// Default and maximum number of deliveries in a list.
const PAGE: (u32, u32) = (50, 200);

impl AlertService for Api {
    async fn create_alert_channel(
        &self,
        context: Context,
        request: CreateAlertChannelRequest,
    ) -> Result<Reply<CreateAlertChannelResponse>, RpcError> {
        let call = self.operator(&context)?;
        let wanted = match (request.webhook_url, request.email) {
            (url, email) if email.is_empty() && !url.is_empty() => Wanted::Webhook(url),
            (url, email) if url.is_empty() && !email.is_empty() => Wanted::Email(email),
            _ => {
                return Err(RpcError::invalid_argument(
                    "a channel has one receiver: set either webhook_url or email",
                )
                .with_reason("INVALID_FIELD")
                .with_fact("field", "webhook_url"));
            }
        };
        let created = alerts::create_channel(&self.app, &call, request.name, wanted);
        let (row, secret) = created.await?;
        Ok(Reply::new(CreateAlertChannelResponse {
            channel: Some(channel(row)),
            signing_secret: secret.unwrap_or_default(),
        }))
    }

    async fn list_alert_channels(
        &self,
        context: Context,
        _: ListAlertChannelsRequest,
    ) -> Result<Reply<ListAlertChannelsResponse>, RpcError> {
        let call = self.operator(&context)?;
        let rows = self.app.store.alert_channels(call.org).await.answered()?;
        Ok(Reply::new(ListAlertChannelsResponse {
            channels: rows.into_iter().map(channel).collect(),
            email_available: self.app.config.smtp.is_some(),
        }))
    }

    async fn delete_alert_channel(
        &self,
        context: Context,
        request: DeleteAlertChannelRequest,
    ) -> Result<Reply<DeleteAlertChannelResponse>, RpcError> {
        let call = self.operator(&context)?;
        let id = AlertChannelId(request.channel_id);
        alerts::delete_channel(&self.app, &call, id).await?;
        Ok(Reply::new(DeleteAlertChannelResponse {}))
    }

    async fn test_alert_channel(
        &self,
        context: Context,
        request: TestAlertChannelRequest,
    ) -> Result<Reply<TestAlertChannelResponse>, RpcError> {
        let call = self.operator(&context)?;
        let id = AlertChannelId(request.channel_id);
        let tested = alerts::test_channel(&self.app, &call, id).await?;
        Ok(Reply::new(TestAlertChannelResponse {
            delivery: Some(delivery(tested)),
        }))
    }

    async fn create_alert_rule(
        &self,
        context: Context,
        request: CreateAlertRuleRequest,
    ) -> Result<Reply<CreateAlertRuleResponse>, RpcError> {
        let call = self.operator(&context)?;
        let wanted = wanted(request.spec.unwrap_or_default());
        let created = alerts::save_rule(&self.app, &call, None, wanted).await?;
        Ok(Reply::new(CreateAlertRuleResponse {
            rule: Some(rule(created)),
        }))
    }

    async fn update_alert_rule(
        &self,
        context: Context,
        request: UpdateAlertRuleRequest,
    ) -> Result<Reply<UpdateAlertRuleResponse>, RpcError> {
        let call = self.operator(&context)?;
        let id = AlertRuleId(request.rule_id);
        let wanted = wanted(request.spec.unwrap_or_default());
        let updated = alerts::save_rule(&self.app, &call, Some(id), wanted).await?;
        Ok(Reply::new(UpdateAlertRuleResponse {
            rule: Some(rule(updated)),
        }))
    }

    async fn list_alert_rules(
        &self,
        context: Context,
        _: ListAlertRulesRequest,
    ) -> Result<Reply<ListAlertRulesResponse>, RpcError> {
        let call = self.operator(&context)?;
        let rows = self.app.store.alert_rules(call.org).await.answered()?;
        Ok(Reply::new(ListAlertRulesResponse {
            rules: rows.into_iter().map(rule).collect(),
        }))
    }

    async fn delete_alert_rule(
        &self,
        context: Context,
        request: DeleteAlertRuleRequest,
    ) -> Result<Reply<DeleteAlertRuleResponse>, RpcError> {
        let call = self.operator(&context)?;
        let id = AlertRuleId(request.rule_id);
        alerts::delete_rule(&self.app, &call, id).await?;
        Ok(Reply::new(DeleteAlertRuleResponse {}))
    }

    async fn list_alert_deliveries(
        &self,
        context: Context,
        request: ListAlertDeliveriesRequest,
    ) -> Result<Reply<ListAlertDeliveriesResponse>, RpcError> {
        let call = self.operator(&context)?;
        let state = match request.state.as_str() {
            "" => None,
            text => Some(convert::id::<AlertDeliveryState>("state", text)?),
        };
        let before = match request.before_delivery_id.as_str() {
            "" => None,
            text => Some(convert::id("before_delivery_id", text)?),
        };
        let limit = convert::page_size(request.limit, PAGE.0, PAGE.1);
        let store = &self.app.store;
        let rows = store.alert_deliveries(call.org, state, before, limit);
        Ok(Reply::new(ListAlertDeliveriesResponse {
            deliveries: rows.await.answered()?.into_iter().map(delivery).collect(),
        }))
    }

    async fn retry_alert_delivery(
        &self,
        context: Context,
        request: RetryAlertDeliveryRequest,
    ) -> Result<Reply<RetryAlertDeliveryResponse>, RpcError> {
        let call = self.operator(&context)?;
        let id = convert::id("delivery_id", &request.delivery_id)?;
        let retried = alerts::retry(&self.app, &call, id).await?;
        Ok(Reply::new(RetryAlertDeliveryResponse {
            delivery: Some(delivery(retried)),
        }))
    }
}

fn wanted(spec: AlertRuleSpec) -> WantedRule {
    WantedRule {
        name: spec.name,
        text: AlertRuleText {
            event: spec.event,
            threshold: spec.threshold,
            zone: spec.time_zone,
            quiet: spec.quiet_hours,
        },
        channels: spec.channel_ids.into_iter().map(AlertChannelId).collect(),
        enabled: !spec.disabled,
    }
}

fn channel(row: AlertChannelRow) -> AlertChannel {
    AlertChannel {
        channel_id: row.id.0,
        name: row.name,
        kind: row.kind,
        target: row.shown,
        created_at: Some(convert::timestamp(row.created_at)),
    }
}

fn rule(row: AlertRuleRow) -> AlertRule {
    let text = row.rule.rule.text();
    AlertRule {
        rule_id: row.id.0,
        spec: Some(AlertRuleSpec {
            name: row.rule.name,
            event: text.event,
            threshold: text.threshold,
            channel_ids: row.rule.channels.into_iter().map(|id| id.0).collect(),
            quiet_hours: text.quiet,
            time_zone: text.zone,
            disabled: !row.rule.enabled,
        }),
        created_at: Some(convert::timestamp(row.created_at)),
    }
}

fn delivery(row: AlertDeliveryRow) -> AlertDelivery {
    let is_waiting = row.state == AlertDeliveryState::Waiting;
    AlertDelivery {
        delivery_id: row.id.to_string(),
        channel_name: row.channel_name,
        rule: row.rule,
        event: row.event,
        title: row.message.title,
        items: row
            .message
            .items
            .into_iter()
            .map(|item| item.text)
            .collect(),
        count: i64::try_from(row.message.count).unwrap_or(i64::MAX),
        state: row.state.to_string(),
        attempts: row.attempts,
        answer: row.answer,
        created_at: Some(convert::timestamp(row.created_at)),
        due_at: is_waiting.then(|| convert::timestamp(row.due_at)),
        ended_at: row.ended_at.map(convert::timestamp),
        scan_id: row.scan.map(|scan| scan.to_string()).unwrap_or_default(),
        fleet_node_id: row.node.map_or(0, |node| node.0),
    }
}
