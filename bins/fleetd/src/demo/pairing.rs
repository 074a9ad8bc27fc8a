//! Pairs the devices of the demonstration with the password that most of them accept, as an operator does.

use std::time::Duration;

use anyhow::Result;
use fleet_sim::DeviceLogin;
use fleet_wire::{
    admin::DevicePairingResult,
    fleet::{DevicePairingClient, GetPairingRequest, StartPairingRequest},
    fleetmanagement::PairingStatus,
    pairing::Credentials,
};

use super::{Operator, show::Show};

/// Interval between two looks at the running pairing.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// Pairs all devices of a node and prints the totals.
pub(super) async fn run(operator: &Operator, node: i64, show: &Show) -> Result<()> {
    let DeviceLogin {
        username, password, ..
    } = DeviceLogin::demo();
    let pairings = DevicePairingClient::new(operator.channel.clone());
    let start = StartPairingRequest {
        fleet_node_id: node,
        all_unpaired: true,
        credentials: Some(Credentials {
            username,
            password: Some(password),
            try_defaults: false,
        }),
        ..StartPairingRequest::default()
    };
    let started = pairings.start_pairing(&start, operator.call()?).await?;
    let mut totals = Totals::default();
    let mut after = 0;
    loop {
        let request = GetPairingRequest {
            pairing_id: started.pairing_id.clone(),
            after,
        };
        let page = pairings.get_pairing(&request, operator.call()?).await?;
        after = page.next_cursor;
        let (ended, none_new) = (
            page.pairing.is_some_and(|pairing| pairing.ended),
            page.results.is_empty(),
        );
        page.results.iter().for_each(|result| totals.add(result));
        if ended && none_new {
            break;
        }
        if none_new {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    show.step(&format!("pairing    {totals}"))?;
    Ok(())
}

/// Results of a pairing by kind.
#[derive(Debug, Default)]
struct Totals {
    devices: u64,
    by_password: u64,
    open: u64,
    other_password: u64,
}

impl Totals {
    fn add(&mut self, result: &DevicePairingResult) {
        self.devices += 1;
        match result.pairing_status() {
            PairingStatus::Paired if result.open => self.open += 1,
            PairingStatus::Paired | PairingStatus::DefaultPassword => self.by_password += 1,
            PairingStatus::AuthenticationNeeded => self.other_password += 1,
            PairingStatus::Unspecified
            | PairingStatus::Unpaired
            | PairingStatus::Pending
            | PairingStatus::Failed => {}
        }
    }
}

impl std::fmt::Display for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let paired = self.by_password + self.open;
        let failed = self.devices - paired - self.other_password;
        write!(
            f,
            "{paired} of {} devices paired ({} without a password), {} need another password, {failed} failed",
            self.devices, self.open, self.other_password
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_add_up_to_all_devices() {
        let mut totals = Totals::default();
        for (status, open) in [
            (PairingStatus::Paired, false),
            (PairingStatus::Paired, true),
            (PairingStatus::AuthenticationNeeded, false),
            (PairingStatus::Failed, false),
        ] {
            totals.add(&DevicePairingResult {
                pairing_status: status.into(),
                open,
                ..DevicePairingResult::default()
            });
        }
        assert_eq!(
            totals.to_string(),
            "2 of 4 devices paired (1 without a password), 1 need another password, 1 failed"
        );
    }
}
