//! What operators may do, and the roles that bundle it.

use std::{fmt, str::FromStr};

/// One permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Permission {
    /// `fleetnode:read`: lists.
    NodeRead,
    /// `fleetnode:manage`: codes, confirms, revokes, scans, pairs, unpairs.
    NodeManage,
    /// `miner:pair`: pairs with credentials.
    MinerPair,
    /// `org:admin`: operators, keys, audit, policy.
    OrgAdmin,
}

impl Permission {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::NodeRead,
        Self::NodeManage,
        Self::MinerPair,
        Self::OrgAdmin,
    ];

    /// The name that refusals and the API use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NodeRead => "fleetnode:read",
            Self::NodeManage => "fleetnode:manage",
            Self::MinerPair => "miner:pair",
            Self::OrgAdmin => "org:admin",
        }
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A bundle of permissions, each containing the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Reads.
    Viewer,
    /// Reads, manages nodes and scans, pairs.
    Operator,
    /// Everything.
    Admin,
}

impl Role {
    /// Whether the role includes a permission.
    pub fn may(self, permission: Permission) -> bool {
        match permission {
            Permission::NodeRead => true,
            Permission::NodeManage | Permission::MinerPair => self >= Self::Operator,
            Permission::OrgAdmin => self == Self::Admin,
        }
    }

    /// The name: `viewer`, `operator`, `admin`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no role.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a role: choose viewer, operator or admin")]
pub struct UnknownRole(String);

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Viewer, Self::Operator, Self::Admin]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| {
                UnknownRole(text.chars().take(64).flat_map(char::escape_debug).collect())
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_hold_exactly_their_permissions() {
        use Permission::*;
        for (role, held) in [
            (Role::Viewer, vec![NodeRead]),
            (Role::Operator, vec![NodeRead, NodeManage, MinerPair]),
            (Role::Admin, vec![NodeRead, NodeManage, MinerPair, OrgAdmin]),
        ] {
            let has: Vec<_> = Permission::ALL
                .into_iter()
                .filter(|p| role.may(*p))
                .collect();
            assert_eq!(has, held, "{role}");
            assert_eq!(role.as_str().parse(), Ok(role));
        }
        assert!("root".parse::<Role>().is_err());
    }
}
