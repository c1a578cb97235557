//! Commands: what a device asks of the game's own code on its node.

use bytes::Bytes;
use tombolo_wire::CommandName;
use tombolo_wire::v1::{Command, CommandReply, request, response};

use crate::device::Device;
use crate::error::Error;

impl Device {
    /// Has the game's own code on the node do something, and returns what it answers. Commands of a device
    /// are carried out one after the other, as its joins and acts are. While the connection is away it
    /// waits; when the session is lost nobody knows whether it was carried out ([`Error::is_unsure`]).
    ///
    /// # Errors
    /// With the code that the game chose; `NoSuchThing` when the node has no such code, `TooLarge` for more
    /// than 32 KiB, `Limit` when there is too much to do, `Unavailable` when the game fails or takes too
    /// long; when the node cannot be reached.
    pub async fn command(&self, name: &str, payload: impl Into<Bytes>) -> Result<Bytes, Error> {
        let name = CommandName::parse(name).map_err(Error::local)?;
        let command = request::Kind::Command(Command {
            name: name.to_string(),
            payload: payload.into(),
        });
        let answer = self.0.session.request(command).await;
        let answer = answer.map_err(|error| match error.is_unsure() {
            true => error.into_unsure(),
            false => error,
        })?;
        let response::Result::Command(CommandReply { payload }) = answer else {
            return Err(Error::local("the node answered another question"));
        };
        Ok(payload)
    }
}
