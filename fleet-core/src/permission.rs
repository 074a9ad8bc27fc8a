//! The permissions of operators, and the roles that combine them.

use std::{fmt, str::FromStr};

/// One permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Permission {
    /// `fleetnode:read`: read lists.
    NodeRead,
    /// `fleetnode:manage`: create codes, confirm and revoke nodes, scan, pair and unpair.
    NodeManage,
    /// `miner:pair`: pair with credentials.
    MinerPair,
    /// `org:admin`: manage operators, keys, audit and policy.
    OrgAdmin,
}

impl Permission {
    /// All permissions.
    pub const ALL: [Self; 4] = [
        Self::NodeRead,
        Self::NodeManage,
        Self::MinerPair,
        Self::OrgAdmin,
    ];

    /// Returns the name that errors and the API use.
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

/// A set of permissions. Each role includes the previous one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// May read.
    Viewer,
    /// May read, manage nodes and scans, and pair.
    Operator,
    /// Has all permissions.
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

    /// Returns the name: `viewer`, `operator`, `admin`.
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

/// A text that is not the name of a role.
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
