//! What each error code means, with cause and remedy: the pages that `optc explain R0103` prints.

/// The page of a code: a title and paragraphs in Markdown. None for a code that is not ours.
pub fn page(code: &str) -> Option<String> {
    let (_, title) = crate::error::CODES.iter().find(|(c, _)| *c == code)?;
    let (_, text) = PAGES.iter().find(|(c, _)| *c == code)?;
    Some(format!("{code}: {title}\n\n{text}\n"))
}

const PAGES: &[(&str, &str)] = &[
    (
        "R0101",
        "A file that the spec names, or a checkpoint, could not be opened or read. Paths are relative to the spec file, not to the folder\n\
         the command runs in:\n\n    let table = csv(\"data/digits.csv\")    # next to the spec, in the folder data\n\n\
         Check the spelling and that you may read the file.",
    ),
    (
        "R0102",
        "A result, log, checkpoint or report could not be written. Files are first written under a temporary name in the same folder and\n\
         then renamed, so the folder itself must be writable. Look for a full disk, a missing permission, or a file where a folder is\n\
         expected. The old file, if there was one, is untouched.",
    ),
    (
        "R0103",
        "A csv source is a matrix: every row needs as many numbers as the first one.\n\n    1, 2, 3\n    4, 5          <- two columns\n\n\
         The row in the message is the line of the file. Empty lines are skipped.",
    ),
    (
        "R0104",
        "A csv source holds numbers only, separated by commas, without a header line. `nan` and `inf` are numbers; an empty field is not.\n\n\
         \x20   height, weight    <- remove the header\n    1.80, 75\n    1.65, unknown     <- write nan\n\n\
         Encode words as numbers first, and replace other separators by commas.",
    ),
    (
        "R0105",
        "A data source or data set has no examples at all: an empty file, an array with an extent of 0, or a data block without fields.",
    ),
    (
        "R0106",
        "The IDX format (the files of MNIST) starts with two zero bytes, a code for the element type (8 for bytes, 9, 11 to 14 for others)\n\
         and the number of dimensions. The file given starts otherwise. Files compressed with gzip are recognized; zip archives and tar\n\
         files must be unpacked first. A web page saved under the name of the file is a common cause.",
    ),
    (
        "R0107",
        "The header of an IDX or npy file says how many elements follow, and the file has another size. It was cut off while it was\n\
         downloaded or copied, or something was appended. Download or write it again.",
    ),
    ("R0108", "A file starts like gzip data but cannot be unpacked: it is cut off, or bytes were changed. Download it again."),
    (
        "R0109",
        "An npy file starts with the bytes \\x93NUMPY, a version and a header that names type, order and shape. The file given does not, or\n\
         its header is damaged. Write it with `numpy.save(\"name.npy\", array)`.",
    ),
    (
        "R0110",
        "The file's element type has no counterpart here. Supported are truth values, integers up to 64 bits and floats of 16, 32 and 64\n\
         bits (bfloat16 in safetensors). Complex numbers, strings, objects and structured types are not. Convert first:\n\n\
         \x20   numpy.save(\"name.npy\", array.astype(numpy.float32))",
    ),
    (
        "R0111",
        "A text source is read as UTF-8. The message names the line and the byte in the line where it is not. Convert the file, for example\n\n\
         \x20   iconv -f latin1 -t utf-8 old.txt > new.txt",
    ),
    (
        "R0112",
        "The vocabulary of a text source is the sorted list of the characters that occur in it. A character to encode, or an index to decode,\n\
         is not among them.",
    ),
    (
        "R0113",
        "The fractions of a split are numbers above 0 whose sum is at most 1, each large enough to get an example:\n\n\
         \x20   split train = 0.8, test = 0.2, seed = 0\n\n\
         With the cumulated fractions c1, c2, …, a part is what lies between round(N c) of its neighbors; what is left over is not used.",
    ),
    (
        "R0114",
        "A batch has at least one example and at most as many as the data it is drawn from. Shuffled batches drop what is left over at the end\n\
         of an epoch; batches in order go on from the start. `batch = all` takes everything.",
    ),
    (
        "R0115",
        "The images of a folder make one array, so all have the same width and height. The file named differs from the first one, is no\n\
         readable PNG or JPEG file, or lies beside subfolders: subfolders are classes, and then every image belongs into one.\n\n\
         \x20   shots/cat/1.png\n    shots/dog/1.png\n    shots/2.png          <- move it into a subfolder",
    ),
    (
        "R0116",
        "A checkpoint (a safetensors file) is cut off, a checksum in it is wrong, or it was written by another program or a newer version.\n\
         Checkpoints are written under a temporary name and renamed when complete, so that a crash cannot cause this. When resuming, a\n\
         damaged checkpoint is skipped and the one before it is used.",
    ),
    (
        "R0117",
        "A checkpoint holds other parameters or states than the train needs: the model, its sizes or the optimizer changed since it was\n\
         written. The message lists names, types and shapes that differ. Undo the change, name another folder, or train without `resume`.",
    ),
    (
        "R0118",
        "A log that should be continued after `resume` has other columns than what is recorded now, or is no log. Log to another folder or\n\
         move the old file away.",
    ),
    (
        "R0119",
        "A plot shows finite numbers, on a logarithmic axis positive ones. None of the values given is. An empty series is recorded when a\n\
         train ends before its first `every` step; a loss that is NaN from the start is another cause.",
    ),
    ("R0120", "`save` chooses the format by the extension: .png, .svg, .npy, .npz, .csv, .json or .safetensors. Plots are .png or .svg."),
    (
        "R0121",
        "The value has no form in the format of the extension. An npy file holds one array; npz and safetensors hold trees of arrays; csv\n\
         holds tables, vectors and matrices; png and svg hold plots, series and vectors, png also images of [height, width] or\n\
         [height, width, channels]; json holds anything but plots.",
    ),
    (
        "R0122",
        "An npz file is a zip archive of npy files. The file given is no zip archive, is damaged or encrypted. Write it with\n\
         `numpy.savez`.",
    ),
    (
        "R0123",
        "A wav file starts with RIFF and WAVE and holds plain samples (PCM, 8 to 32 bits, or 32-bit floats). The file given starts otherwise,\n\
         is cut off, or is compressed. Convert it: `ffmpeg -i sound.mp3 sound.wav`.",
    ),
    (
        "R0124",
        "An `extern process` is a program that is started with the first call and kept. It could not be started (the message says why), or\n\
         it ended instead of answering; the help line quotes what it last wrote to standard error. A program with a `/` in its name lies\n\
         relative to the spec file, others are looked up like a shell's.\n\n    extern process score(\"tools/score.py --fast\")(text: str) -> { acc: f32 }",
    ),
    (
        "R0125",
        "A process has not answered within its time-out and was ended. It may be slow (`timeout = 5min` allows more), wait for more input\n\
         than the one line it gets, or keep its answer in a buffer: after each line the output must be flushed, in Python by\n\n    print(json.dumps(reply), flush=True)",
    ),
    (
        "R0126",
        "A process answers each line it reads with one line: a JSON object with the fields of the declared result (or, where the result is\n\
         no record, a JSON value). Arrays are nested lists of one shape; numbers of an integer type have no fraction. The message quotes the\n\
         line. Nothing else may go to standard output; what is meant for people belongs to standard error.",
    ),
    (
        "R0127",
        "With `replay = \"log.jsonl\"` the answers come from a log that an earlier session wrote with `record = \"log.jsonl\"`, and the process\n\
         is not started. Each exchange of the log answers one request that equals its own. A request that is not there means that the spec\n\
         has changed since: record it anew.",
    ),
    (
        "R0128",
        "`offload \"dir\"` keeps states of the optimizer, and with `weights = true` the model's arrays, in files of that folder. Their room on the\n\
         disk is taken before the first step, so that a run does not fail on its way, and the disk does not have it. AdamW keeps two arrays\n\
         of the size of the weights. Free some space, or name a folder on another disk:\n\n\
         \x20   offload \"/mnt/large/states\"\n\n\
         Checkpoints are written beside them and need as much again. Nothing that a checkpoint holds was touched.",
    ),
    (
        "R0129",
        "While a run goes on, the file of an array that lives in the folder of `offload` was cut off or replaced, so that its bytes cannot be read.\n\
         Each run needs the files for itself: leave them alone until it has ended. The step at hand was not finished and the files hold half of\n\
         it; a checkpoint holds a whole state: go on from it with `--resume`.",
    ),
    (
        "R0130",
        "`optc build` makes functions for any number of leaves of any length and shape, which need nothing but the C library. So the rule has to\n\
         do the same with every leaf: go over its elements in order, and combine all of them (`norm(g)`, `mean(g)`, `max(abs(g))`), or those of all\n\
         leaves (`tree.norm(g)`), as often as it likes. Hyperparameters, the step, schedules and numbers made of sums may be anything.\n\n\
         The message says what is in the way:\n\
         - it goes by rows, columns or blocks of a leaf, or treats matrices in another way than vectors: the shape would have to be known\n\
         - it multiplies or factorizes matrices, sorts, draws random numbers, has a loop at run time: this needs the runtime\n\
         - it reads the value of the loss, or looks at the loss again: the functions have weights and gradients only\n\n\
         Such rules run through the Python module, `optc.optimizer(\"muon(lr = 0.02)\", shapes = …)` and `optc.torch.Optimizer`, which compile them for\n\
         the shapes at hand. With `--shapes 512x512,512`, the shapes of all leaves in order, rules with rows, columns, blocks, random draws and matrix\n\
         products build too. A rule that only transforms gradients is chained with one that makes steps: `\"clip(1.0) |> sgd(lr = 0.1)\"`.",
    ),
    (
        "R0131",
        "Object files are made for x86-64 and 64-bit ARM; a target is a triple of machine, vendor and system:\n\n\
         \x20   optc build --optimizer lion --target aarch64-unknown-linux-gnu",
    ),
    (
        "R0132",
        "`--emit cdylib` calls the system's C compiler (`cc`, or what the environment variable CC names) to link. Install one, or take the\n\
         object file or the archive, which need no tools: `--emit obj,header`, `--emit staticlib,header`.",
    ),
    (
        "R0133",
        "An executable that `optc build --train` or `--experiment` made carries the spec and the data behind the program, with a checksum for each\n\
         file. Bytes were changed or its end is missing: it was not copied whole. Copy it again, as binary data, or build it anew.",
    ),
    (
        "R0134",
        "An executable that `optc build` made reads specs and data from itself, never from the disk (what the run itself saved excepted). It carries\n\
         the files that the run read when it was built. This path came about only now, by an override or by what the run computed. Build it\n\
         with the overrides that it will be run with, or name the file as the spec does:\n\n\
         \x20   optc build spec.opt --train fit --set 'file=data/large.csv' -o fit\n\
         \x20   optc build spec.opt --experiment compare --include data/other.csv -o compare",
    ),
    (
        "R0135",
        "`optc build --train` copies the running optc and appends what the run needs. The copy would replace a file that it is made from, or optc\n\
         cannot read its own file. Name another file with `-o`.",
    ),
    (
        "R0136",
        "The back end `llvm`, LLVM's stages and what is emitted through it are in builds with the feature `llvm`; this optc is another one. Build it\n\
         where LLVM 22 is installed (docs/backends.md says how on a fresh machine):\n\n\
         \x20   LLVM_SYS_221_PREFIX=/usr/lib/llvm-22 cargo build --release --features llvm\n\n\
         Everything else works without it: Cranelift, the default, makes code of every kernel, and compiles faster.",
    ),
    (
        "R0137",
        "`--backend`, or the environment variable OPTC_BACKEND, names who makes machine code of kernels: `cranelift` (the default, fast to compile),\n\
         `llvm` (fast code), `simt` (GPU kernels, emulated) or `interpreter` (no machine code of kernels at all: their meaning, step by step).\n\
         Not each of them can do everything: only Cranelift and LLVM have machine code to show (`optc explain --stage asm`). `--cpu`, or OPTC_CPU,\n\
         names the processor that LLVM's code is for; what runs must be for one that has no more than the one at hand. `--device`, or OPTC_DEVICE,\n\
         names where trains run: `cpu`, `cuda` or `cuda:1` (one GPU), `cuda:0,1`, `cuda:0-3` or `cuda:*` (several).\n\n\
         An option of `optc build` that would do nothing (`--gpu` where no PTX is written) is refused too, and so is a variable of the environment that\n\
         means nothing: OPTC_CACHE and OPTC_CACHE_MB (docs/backends.md), OPTC_VECTORS, OPTC_LLVM_PASSES, OPTC_PTXAS, OPTC_CUBLAS.",
    ),
    (
        "R0138",
        "`device \"cuda:0\"` in a train, or `--device cuda`, runs it on an NVIDIA GPU. That takes the driver (the library libcuda.so.1, which comes with it) and\n\
         a GPU; the number after `cuda:` counts those that the driver shows, from 0. CUDA itself, its compilers and libraries, is not needed. Without `device` everything runs\n\
         on the processor, with the same results up to the rounding of sums. GPUs from compute capability 7.0 on will do, and drivers that have all\n\
         that is asked of them (the message names what one lacks).\n\n\
         Several GPUs (`cuda:0,1`) must be alike, since each of them makes the optimizer's step by itself and all have to come to the same bits, and they need NVIDIA's\n\
         library NCCL (libnccl.so.2) to add up gradients.",
    ),
    (
        "R0139",
        "The driver of the GPU has refused something: the message says what, in its own words. Most often memory is short: a smaller `batch`, `accumulate`, or\n\
         states in a narrower type take less; `nvidia-smi` shows who else uses the GPU. After some errors (an illegal address, a GPU that has gone) a process can do\n\
         nothing more with the GPU; an illegal address is a bug of optc.",
    ),
    (
        "R0145",
        "Programs of the search (`optc search`) are straight lines of elementwise functions, and sums over a leaf, of the weights, their gradient, the\n\
         learning rate, the number of the step and states that look like the leaf and start as one number. Optimizers with matrix products, random\n\
         numbers, states that all leaves share, conditions at run time, or another look at the loss are none; the message says what is in the way.\n\
         A condition that is known when the optimizer is compiled is no obstacle: `adam(amsgrad = true)` is a program.",
    ),
    (
        "R0146",
        "A search needs a spec with a `search` block whose starts are programs and whose tasks are trains of the same file, and a path for its archive\n\
         where there is none yet. To go on, `optc search resume ARCHIVE` needs the spec as it was: a changed one is another search.\n\
         Programs of an archive are named by the first digits of their hashes, which `optc search top ARCHIVE` lists.",
    ),
    (
        "R0147",
        "Where several GPUs train (`device \"cuda:0,1\"`, `--device cuda:0-3`), each takes an equal part of every batch, so the `batch` of the data must be a multiple of\n\
         their number. With `accumulate` that holds for each of the batches of a step. The number of GPUs changes nothing else: losses, draws and checkpoints are\n\
         those of one GPU, up to the order of sums.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::CODES;

    #[test]
    fn every_code_has_a_page_and_no_other() {
        assert!(PAGES.iter().map(|p| p.0).eq(CODES.iter().map(|c| c.0)));
        assert!(page("R0104").unwrap().starts_with("R0104: a field of a csv file is not a number\n\nA csv source"));
        assert_eq!(page("E0101"), None);
    }

    #[test]
    fn every_code_that_is_raised_is_listed() {
        let mut raised = std::collections::BTreeSet::new();
        for entry in
            ["src", "src/data", "src/plot"].iter().flat_map(|d| std::fs::read_dir(format!("{}/{d}", env!("CARGO_MANIFEST_DIR"))).unwrap())
        {
            let path = entry.unwrap().path();
            if path.is_dir() || path.ends_with("pages.rs") || path.ends_with("error.rs") {
                continue;
            }
            let source = std::fs::read_to_string(&path).unwrap();
            for (at, _) in source.match_indices("TrainError::new(\"R") {
                raised.insert(source[at + 17..at + 22].to_string());
            }
        }
        assert!(raised.len() > 15);
        assert!(raised.iter().all(|code| CODES.iter().any(|(c, _)| c == code)), "{raised:?}");
    }
}
