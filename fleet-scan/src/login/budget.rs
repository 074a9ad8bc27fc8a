//! How many wrong passwords one device gets.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Passwords that a device may refuse within [`WINDOW`]. The published lock-outs of devices begin at five refusals
/// within a minute (NerdQAxe+).
const REFUSALS: u32 = 4;
/// The time for which refusals count.
const WINDOW: Duration = Duration::from_secs(600);
/// Devices that are remembered: more than a node pairs within the window.
const DEVICES: usize = 65_536;

/// Limits the wrong passwords that a node tries at each device over all requests of its server. Clones share it. Keep
/// one for the life of the process.
#[derive(Debug, Clone, Default)]
pub struct LoginBudget(Arc<Mutex<HashMap<IpAddr, Refusals>>>);

#[derive(Debug)]
struct Refusals {
    count: u32,
    since: Instant,
}

impl LoginBudget {
    /// Counts an attempt as refused until [`give_back`](Self::give_back). An attempt that is dropped half-way thus
    /// counts.
    ///
    /// # Errors
    ///
    /// A sentence with the wait, if the device has refused too many.
    pub(crate) fn take(&self, device: IpAddr, now: Instant) -> Result<(), String> {
        let mut devices = self.lock();
        if devices.len() >= DEVICES && !devices.contains_key(&device) {
            devices.retain(|_, refusals| now < refusals.since + WINDOW);
            if devices.len() >= DEVICES {
                return Err(
                    "too many devices refused passwords lately: try again in some minutes"
                        .to_owned(),
                );
            }
        }
        let refusals = devices.entry(device).or_insert(Refusals {
            count: 0,
            since: now,
        });
        if now >= refusals.since + WINDOW {
            *refusals = Refusals {
                count: 0,
                since: now,
            };
        }
        if refusals.count >= REFUSALS {
            let wait = refusals.since + WINDOW - now;
            return Err(format!(
                "the device refused {REFUSALS} passwords within {} min, and more could lock it: try again in {} s",
                WINDOW.as_secs() / 60,
                wait.as_secs() + 1
            ));
        }
        refusals.count += 1;
        Ok(())
    }

    /// Takes back the last attempt, which was not refused.
    pub(crate) fn give_back(&self, device: IpAddr) {
        let mut devices = self.lock();
        if let Some(refusals) = devices.get_mut(&device) {
            refusals.count = refusals.count.saturating_sub(1);
            if refusals.count == 0 {
                devices.remove(&device);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Refusals>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_gets_four_wrong_passwords_in_ten_minutes() {
        let budget = LoginBudget::default();
        let (device, other) = ([10, 0, 0, 7].into(), [10, 0, 0, 8].into());
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        for second in 0..4 {
            budget
                .take(device, after(second))
                .expect("within the budget");
        }
        let refused = budget.take(device, after(100)).expect_err("is used up");
        assert!(refused.ends_with("try again in 501 s"), "{refused}");
        budget.take(other, after(100)).expect("another device");
        budget.take(device, after(600)).expect("the window is over");
    }

    #[test]
    fn passwords_that_are_not_refused_cost_nothing() {
        let budget = LoginBudget::default();
        let device = [10, 0, 0, 7].into();
        let now = Instant::now();
        for _ in 0..20 {
            budget.take(device, now).expect("within the budget");
            budget.give_back(device);
        }
        assert!(budget.lock().is_empty());
    }
}
