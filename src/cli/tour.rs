//! `narthex demo`: the tour of `demo`, with an edge of this very program.

use super::arguments::DemoArgs;
use super::demo::{Afterwards, DemoEdge, DemoOptions, EdgeSettings, progress, sample};
use super::output::complain;
use crate::app::{self, Surroundings};
use crate::config::{self, Sources};
use crate::telemetry;
use std::error::Error;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::runtime::Runtime;

/// Only what an operator must act on: the demo's output is on the same screen.
const LOG_LEVEL: &str = "warn,s3s=off";

/// `narthex demo`.
pub(super) fn run(arguments: &DemoArgs) -> ExitCode {
    let diagnostics = match telemetry::diagnostics(LOG_LEVEL) {
        Ok(diagnostics) => diagnostics,
        Err(error) => {
            complain(error);
            return ExitCode::FAILURE;
        }
    };
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(format_args!("cannot start the runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let options = DemoOptions {
        listen: arguments.listen,
        admin: arguments.admin,
        afterwards: if arguments.once { Afterwards::End } else { Afterwards::KeepServing },
        screen: if io::stdout().is_terminal() {
            progress::Screen::Terminal
        } else {
            progress::Screen::Plain
        },
        size: if arguments.small { sample::SampleSize::Small } else { sample::SampleSize::Full },
    };
    let toured = runtime.block_on(super::demo::run(options, &mut io::stdout(), start_edge));
    runtime.shutdown_background();
    drop(diagnostics);
    match toured {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(error);
            ExitCode::FAILURE
        }
    }
}

async fn start_edge(settings: EdgeSettings) -> Result<DemoEdge, Box<dyn Error + Send + Sync>> {
    let text = config_text(&settings);
    let file = Some((PathBuf::from("demo.toml"), text));
    let loaded = config::load(&Sources { file, ..Sources::default() })?;
    let running = app::start(loaded.config, Surroundings::default()).await?;
    let address = running.addresses.first().map(|(_, address)| *address);
    Ok(DemoEdge {
        address: address.ok_or("the edge has no listener")?,
        admin: running.admin,
        drain: Box::pin(async move {
            running.drain().await;
        }),
    })
}

fn config_text(settings: &EdgeSettings) -> String {
    let quoted = |text: &dyn std::fmt::Display| toml::Value::from(text.to_string()).to_string();
    format!(
        r#"
[server]
listen = [{listen}]
[admin]
listen = {admin}
[disk]
path = {disk}
size = {disk_bytes}
[log]
access = "off"
[[site]]
trusted_public_keys = [{key}]
[[site.origin]]
url = {url}
[site.origin.credentials]
access_key_id_file = {id_file}
secret_access_key_file = {secret_file}
"#,
        listen = quoted(&settings.listen),
        admin = quoted(&settings.admin),
        disk = quoted(&settings.disk.display()),
        disk_bytes = settings.disk_bytes.max(1 << 30),
        key = quoted(&settings.trusted_public_key),
        url = quoted(&settings.origin_url),
        id_file = quoted(&settings.access_key_id_file.display()),
        secret_file = quoted(&settings.secret_access_key_file.display()),
    )
}
