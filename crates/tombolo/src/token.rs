//! `tombolo token`: a development token.

use tombolo_client::{ServerUrl, development_token};

use crate::cli::TokenArgs;
use crate::output;

/// Prints a token that a development node made.
pub(crate) async fn run(args: TokenArgs) -> anyhow::Result<()> {
    let url: ServerUrl = args.server.parse()?;
    let token = development_token(&url, &args.user).await?;
    output::line_of_text(&token)?;
    Ok(())
}
