//! `optc new`: a folder with a spec that runs.

use std::path::Path;

const MAIN: &str = r#"## Fit a line to noisy points; replace the data, the model and the optimizer by your own.
import std.optim.adamw
import std.loss.mse
import std.nn.linear

data points {
  let n = 512
  x = generate(n) { i -> [i / 256 - 1] }
  y = generate(n) { i -> [3 * (i / 256 - 1) + 0.5 + 0.1 * random.normal()] }
  split train = 0.8, test = 0.2, seed = 0
}

model line(x: f32[B, 1]) -> f32[B, 1] = linear(x, 1)

train fit {
  data      points.train, batch = 64, shuffle = true
  model     net = line()
  loss      mse(net(x), y)
  optimizer adamw(lr = 0.05)
  steps     300
  metric    error = mse(net(x), y) on points.test every 50
}

experiment it_fits {
  let r = run fit
  print "error on the test points: {r.error.last:.4f}"
  check r.error.last < 0.05, "the line is found"
}
"#;

/// Makes the project.
///
/// # Errors
/// In words: the folder exists and is not empty, or cannot be written.
pub fn create(folder: &Path) -> Result<(), String> {
    let taken = std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
    if taken {
        return Err(format!("{} exists and is not empty", folder.display()));
    }
    let write = |name: &str, text: &str| {
        std::fs::write(folder.join(name), text).map_err(|e| format!("cannot write {}: {e}", folder.join(name).display()))
    };
    std::fs::create_dir_all(folder).map_err(|e| format!("cannot make {}: {e}", folder.display()))?;
    write("main.opt", MAIN)?;
    write(".gitignore", "out/\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_something_in_it_is_left_alone() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let folder = dir.path().join("project");
        create(&folder).expect("a new folder");
        assert!(create(&folder).is_err_and(|e| e.contains("not empty")));
    }
}
