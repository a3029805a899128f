//! Printing diagnostics and run-time errors, as text or JSON.

use crate::cli::{Cli, MessageFormat, When};
use optc_base::{Diagnostic, Severity, SourceMap};
use std::io::{IsTerminal, Write};

/// Where and how messages are printed.
#[derive(Clone, Copy, Debug)]
pub struct Messages {
    /// Text or JSON.
    pub format: MessageFormat,
    /// ANSI colors in text.
    pub color: bool,
    /// Another process of the same run prints them.
    pub silent: bool,
}

impl Messages {
    /// As the command line asks; `NO_COLOR` is respected.
    pub fn new(cli: &Cli) -> Self {
        Messages::of(cli.color, cli.message_format)
    }

    /// In this format, with color when it is asked for.
    pub fn of(color: When, format: MessageFormat) -> Self {
        let auto = || std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        let color = match color {
            When::Always => true,
            When::Never => false,
            When::Auto => auto(),
        };
        Messages { format, color, silent: false }
    }

    /// Prints diagnostics to standard error, errors counted at the end. Returns whether there was an error.
    pub fn print(&self, diagnostics: &[Diagnostic], sources: &SourceMap) -> bool {
        let mut out = std::io::stderr().lock();
        let errors = diagnostics.iter().filter(|d| d.severity == Severity::Error).count();
        if self.silent {
            return errors > 0;
        }
        for diagnostic in diagnostics {
            // Nobody is left to tell if standard error is closed.
            let _ = match self.format {
                MessageFormat::Human => writeln!(out, "{}", diagnostic.render(sources, self.color)),
                MessageFormat::Json => writeln!(out, "{}", diagnostic.to_json(sources)),
            };
        }
        if errors > 0 && self.format == MessageFormat::Human {
            let plural = if errors == 1 { "" } else { "s" };
            let _ = writeln!(out, "{errors} error{plural}");
        }
        errors > 0
    }

    /// Prints an error that has no place in a source.
    pub fn trouble(&self, error: &optc_train::TrainError) {
        self.error(error.code, &error.to_string(), error.help.as_deref());
    }

    /// Prints an error without a place in a text.
    pub fn error(&self, code: &str, message: &str, help: Option<&str>) {
        if self.silent {
            return;
        }
        let mut out = std::io::stderr().lock();
        let _ = match self.format {
            MessageFormat::Json => {
                writeln!(out, "{}", serde_json::json!({"code": code, "severity": "error", "message": message, "help": help}))
            }
            MessageFormat::Human => {
                let (red, off) = if self.color { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
                let code = if code.is_empty() { String::new() } else { format!("[{code}]") };
                let first = writeln!(out, "{red}error{code}{off}: {message}");
                match help {
                    Some(help) => writeln!(out, "  = help: {help}"),
                    None => first,
                }
            }
        };
    }
}
