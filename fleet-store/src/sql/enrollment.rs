//! Enrollment: [`invitations`] handles codes, and [`members`] handles the nodes that use them.

mod fetches;
mod invitations;
mod members;
