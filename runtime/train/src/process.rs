//! Processes that answer requests in JSON, one line each way, and logs of such exchanges that stand in for them.

use crate::error::{Result, TrainError};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Lines of a process's standard error that an error quotes.
const QUOTED_LINES: usize = 5;
/// Characters of a line that an error quotes.
const QUOTED: usize = 200;
/// How long a process may take to end once its input is closed.
const FAREWELL: Duration = Duration::from_millis(500);

/// How a process is run and who may stand in for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Command {
    /// Program and arguments, quoted as for a shell; none is involved. A program with a `/` in its name lies relative to the folder.
    pub line: String,
    /// Where it runs.
    pub folder: PathBuf,
    /// How long an answer may take.
    pub timeout: Duration,
    /// A file that gets all exchanges, begun anew in each session.
    pub record: Option<PathBuf>,
    /// A file that gives the answers instead of the process.
    pub replay: Option<PathBuf>,
}

/// A line of a log.
#[derive(Serialize, Deserialize)]
struct Exchange {
    request: Value,
    reply: Value,
}

/// An answer with the line it was read from.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// What was said.
    pub value: Value,
    /// As it was written.
    pub line: String,
}

/// The processes of a session; each is kept between requests and ended with this value.
#[derive(Default)]
pub struct Processes {
    running: HashMap<Command, Running>,
    /// Exchanges of logs that are not used up.
    replayed: HashMap<PathBuf, VecDeque<Exchange>>,
    recorded: Vec<PathBuf>,
}

impl Processes {
    /// Sends a request and waits for the answer.
    ///
    /// # Errors
    /// `R0124` if the process cannot be started or has ended, `R0125` if it does not answer in time (it is then ended), `R0126` if the answer is no JSON, `R0127` if
    /// the log to replay does not hold the request, `R0101` and `R0102` for files.
    pub fn ask(&mut self, command: &Command, request: &Value) -> Result<Reply> {
        if let Some(path) = &command.replay {
            return self.replay(path, request);
        }
        let mut process = match self.running.remove(command) {
            Some(process) => process,
            None => Running::start(command)?,
        };
        let reply = process.ask(request, command.timeout)?;
        self.running.insert(command.clone(), process);
        if let Some(path) = &command.record {
            self.record(path, Exchange { request: request.clone(), reply: reply.value.clone() })?;
        }
        Ok(reply)
    }

    fn record(&mut self, path: &Path, exchange: Exchange) -> Result<()> {
        let fresh = !self.recorded.iter().any(|p| p == path);
        if fresh {
            self.recorded.push(path.to_path_buf());
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder).map_err(|e| TrainError::write(path, e))?;
            }
        }
        let file = std::fs::OpenOptions::new().create(true).write(true).truncate(fresh).append(!fresh).open(path);
        let line = serde_json::to_string(&exchange).expect("JSON values are JSON");
        file.and_then(|mut f| writeln!(f, "{line}")).map_err(|e| TrainError::write(path, e))
    }

    fn replay(&mut self, path: &Path, request: &Value) -> Result<Reply> {
        if !self.has_log(path) {
            let text = std::fs::read_to_string(path).map_err(|e| TrainError::read(path, e))?;
            self.give_log(path, &text)?;
        }
        let exchanges = self.replayed.get_mut(path).expect("just read");
        match exchanges.iter().position(|e| e.request == *request).and_then(|k| exchanges.remove(k)) {
            Some(exchange) => Ok(Reply { line: exchange.reply.to_string(), value: exchange.reply }),
            None => Err(TrainError::new("R0127", format!("the log does not hold the request {}", quoted(&request.to_string())))
                .at(path)
                .help("record it anew with the process; each exchange of a log answers once")),
        }
    }

    /// Whether the log at this path has been read.
    pub fn has_log(&self, path: &Path) -> bool {
        self.replayed.contains_key(path)
    }

    /// Takes a text for the log at this path.
    ///
    /// # Errors
    /// `R0127` if it is none.
    pub fn give_log(&mut self, path: &Path, text: &str) -> Result<()> {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let read = lines.map(|(k, line)| {
            serde_json::from_str(line).map_err(|e| {
                let message = format!("not an exchange with a process: {e}: {}", quoted(line));
                TrainError::new("R0127", message).at(path).row(k as u64 + 1)
            })
        });
        self.replayed.insert(path.to_path_buf(), read.collect::<Result<_>>()?);
        Ok(())
    }
}

/// The start of a line, as an error shows it.
fn quoted(line: &str) -> String {
    let cut: String = line.chars().take(QUOTED).collect();
    if cut.len() < line.len() { format!("`{cut}…`") } else { format!("`{cut}`") }
}

struct Running {
    line: String,
    child: Child,
    requests: Option<Sender<String>>,
    answers: Receiver<std::io::Result<String>>,
    complaints: Arc<Mutex<VecDeque<String>>>,
}

impl Running {
    fn start(command: &Command) -> Result<Running> {
        let trouble = |reason: String| TrainError::new("R0124", format!("cannot start the process `{}`: {reason}", command.line));
        let words = shlex::split(&command.line).filter(|w| !w.is_empty());
        let words = words.ok_or_else(|| trouble("this is no command".into()).help("a program and its arguments, quoted as for a shell"))?;
        let program = if words[0].contains('/') { command.folder.join(&words[0]) } else { PathBuf::from(&words[0]) };
        let mut child = std::process::Command::new(program)
            .args(&words[1..])
            .current_dir(&command.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| {
                let d = trouble(e.to_string());
                if e.kind() == std::io::ErrorKind::NotFound {
                    d.help("a program with a `/` in its name lies relative to the spec")
                } else {
                    d
                }
            })?;
        let (mut stdin, stdout, stderr) =
            (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        // Threads of their own: neither a process that does not read nor one that does not write holds up the session.
        let (requests, to_write) = channel::<String>();
        std::thread::spawn(move || {
            for line in to_write {
                if stdin.write_all(line.as_bytes()).and_then(|()| stdin.flush()).is_err() {
                    return;
                }
            }
        });
        let (read, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                if read.send(line).is_err() {
                    return;
                }
            }
        });
        let complaints = Arc::new(Mutex::new(VecDeque::new()));
        let kept = complaints.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(std::io::Result::ok) {
                let mut kept = kept.lock().unwrap_or_else(|e| e.into_inner());
                if kept.len() == QUOTED_LINES {
                    kept.pop_front();
                }
                kept.push_back(line);
            }
        });
        Ok(Running { line: command.line.clone(), child, requests: Some(requests), answers, complaints })
    }

    fn ask(&mut self, request: &Value, timeout: Duration) -> Result<Reply> {
        let mut text = request.to_string();
        text.push('\n');
        // If its writer has ended, so has the process, and the answer says so.
        let _ = self.requests.as_ref().expect("until it is dropped").send(text);
        let name = self.line.clone();
        match self.answers.recv_timeout(timeout) {
            Ok(Ok(line)) => match serde_json::from_str(&line) {
                Ok(value) => Ok(Reply { value, line }),
                Err(e) => Err(TrainError::new("R0126", format!("the answer of `{name}` is not JSON: {e}: {}", quoted(&line)))
                    .help("it writes one JSON value a line, and nothing else, to standard output")),
            },
            Ok(Err(e)) => Err(TrainError::new("R0126", format!("the answer of `{name}` cannot be read: {e}"))),
            Err(RecvTimeoutError::Timeout) => Err(TrainError::new(
                "R0125",
                format!("`{name}` has not answered within {} s to {}", timeout.as_secs_f64(), quoted(&request.to_string())),
            )
            .help("allow it more with `timeout = 60s`; a process must flush its output after each line")),
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.child.wait().map_or_else(|e| e.to_string(), |s| s.to_string());
                let said: Vec<String> = self.complaints.lock().unwrap_or_else(|e| e.into_inner()).iter().cloned().collect();
                let error = TrainError::new(
                    "R0124",
                    format!("the process `{name}` has ended ({status}) without an answer to {}", quoted(&request.to_string())),
                );
                Err(if said.is_empty() { error } else { error.help(format!("it said: {}", said.join("; "))) })
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The end of its input asks it to end.
        self.requests = None;
        let start = Instant::now();
        while start.elapsed() < FAREWELL {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use serde_json::json;

    fn command(script: &str, folder: &Path) -> Command {
        let line = format!("sh -c {}", shlex::try_quote(script).expect("no NUL"));
        Command { line, folder: folder.to_path_buf(), timeout: Duration::from_secs(20), record: None, replay: None }
    }

    #[test]
    fn a_process_is_kept_and_its_log_replaces_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let log = dir.path().join("logs/a.jsonl");
        let count = command("n=0; while read x; do n=$((n+1)); echo \"{\\\"n\\\": $n, \\\"got\\\": $x}\"; done", dir.path());
        let live = Command { record: Some(log.clone()), ..count };
        let mut processes = Processes::default();
        let requests = [json!({ "x": 0.1 }), json!([1, 2]), json!({ "x": 0.1 })];
        let ask = |p: &mut Processes, c: &Command| requests.iter().map(|r| p.ask(c, r).map(|r| r.value)).collect::<Result<Vec<_>>>();
        let first = ask(&mut processes, &live).expect("answers");
        assert_eq!(first[2], json!({ "n": 3, "got": { "x": 0.1 } }));
        let absent = Command { line: "no/such/program".into(), record: None, replay: Some(log), ..live };
        assert_eq!(ask(&mut Processes::default(), &absent).expect("from the log"), first);
        let mut replayed = Processes::default();
        ask(&mut replayed, &absent).expect("from the log");
        assert_eq!(replayed.ask(&absent, &requests[1]).expect_err("used up").code, "R0127");
    }

    #[test]
    fn nothing_hangs_and_errors_quote() {
        let dir = tempfile::tempdir().expect("a folder");
        let fault = |script: &str, timeout: Duration| {
            let error =
                Processes::default().ask(&Command { timeout, ..command(script, dir.path()) }, &json!({ "a": 1 })).expect_err(script);
            (error.code, format!("{error} {}", error.help.as_deref().unwrap_or("")))
        };
        let long = Duration::from_secs(20);
        let (code, text) = fault("read x; echo bad luck >&2; exit 3", long);
        assert!(code == "R0124" && text.contains("bad luck") && text.contains('3') && text.contains("{\"a\":1}"), "{text}");
        let (code, text) = fault("read x; echo not json", long);
        assert!(code == "R0126" && text.contains("not json"), "{text}");
        let start = Instant::now();
        assert_eq!(fault("sleep 60", Duration::from_millis(50)).0, "R0125");
        assert!(start.elapsed() < Duration::from_secs(20));
        let none = Command { line: "no/such/program".into(), ..command("", dir.path()) };
        assert_eq!(Processes::default().ask(&none, &json!(1)).expect_err("no program").code, "R0124");
        let none = Command { line: "'".into(), ..none };
        assert_eq!(Processes::default().ask(&none, &json!(1)).expect_err("no command").code, "R0124");
    }
}
