//! Enrollment: [`invitations`] holds the codes, [`members`] the nodes that use them.

mod invitations;
mod members;
