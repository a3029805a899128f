"""Contenders that take turns: processes with their environment, peers that stay alive between their turns, and the values they score."""
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from typing import NamedTuple

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PEERS = os.path.join(ROOT, "bench", "peers")
OPTC = os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")), "release", "optc")


class Finished(NamedTuple):
    """A process that has ended: what it wrote, and seconds on the clock."""

    text: str
    seconds: float

    def rows(self):
        """The lines of JSON among what it wrote."""
        return [json.loads(line) for line in self.text.splitlines() if line.startswith("{")]


class Machine:
    """Where contenders run: `threads` threads each, pinned to as many cores."""

    def __init__(self, threads, cores=None):
        allowed = sorted(os.sched_getaffinity(0))
        # One thread stays away from core 0, which serves most interrupts.
        chosen = cores or ",".join(map(str, allowed[-1:] if threads == 1 else allowed[:threads]))
        count = str(threads)
        self.threads, self.pin = threads, ["taskset", "-c", chosen]
        self.env = dict(os.environ, THREADS=count, OMP_NUM_THREADS=count, MKL_NUM_THREADS=count, OPENBLAS_NUM_THREADS=count, JAX_PLATFORMS="cpu", CUDA_VISIBLE_DEVICES="",
                        TORCHINDUCTOR_COMPILE_THREADS="1", OUT=os.devnull)

    def start(self, command, **streams):
        return subprocess.Popen(self.pin + command, env=self.env, cwd=PEERS, text=True, stdout=subprocess.PIPE, **streams)

    def run(self, command):
        """Runs a command to its end; nothing where it fails, and then what it complained of is shown."""
        with tempfile.TemporaryFile("w+") as complaints:
            start = time.perf_counter()
            process = self.start(command, stderr=complaints)
            text, _ = process.communicate()
            if process.returncode:
                failed(command, complaints)
                return None
            return Finished(text, time.perf_counter() - start)

    def python(self, script, *args):
        return self.run([sys.executable, os.path.join(PEERS, script), *args])

    def optc(self, *args, backend="cranelift", cache="off"):
        """The report of `optc bench`, of a back end and with a folder of compiled kernels; empty where it fails."""
        self.env["OPTC_CACHE"] = cache
        done = self.run([OPTC, "bench", *args, "--json", "--threads", str(self.threads), "--backend", backend])
        return json.loads(done.text) if done else {}


def failed(command, complaints):
    """Says that a command has failed, and shows the end of what it complained of."""
    complaints.seek(0)
    print(f"failed: {' '.join(command)}\n{complaints.read()[-2000:]}", file=sys.stderr)


class Live:
    """A peer's script that has prepared its cases and waits for its turns (`serve` in peers/common.py). Use as a context; without cases there is no process."""

    def __init__(self, machine, script, cases):
        self.machine, self.cases = machine, cases
        self.process, self.facts, self.peak_mb = None, {}, None
        self.command = [sys.executable, os.path.join(PEERS, script), "--serve", *cases]
        self.complaints = None

    def __enter__(self):
        if self.cases:
            self.complaints = tempfile.TemporaryFile("w+")
            self.process = self.machine.start(self.command, stdin=subprocess.PIPE, stderr=self.complaints)
            self.facts = (self._answer() or {}).get("ready", {})
        return self

    def _answer(self):
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        failed(self.command, self.complaints)
        return None

    def turn(self, case, seconds):
        """Seconds per step of one turn of about so many seconds; none if the process has failed."""
        if case not in self.facts:
            return None
        try:
            self.process.stdin.write(f"{case} {seconds}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return None
        answer = self._answer() or {}
        self.peak_mb = answer.get("peak_mb")
        return answer.get("seconds")

    def __exit__(self, *_):
        if self.process is None:
            return
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        self.process.stdout.read()
        self.process.wait()
        self.complaints.close()


class OnDemand(Live):
    """A peer's script that prepares each case when its first turn comes, and is started with it (`serve_lazily` in peers/common.py). One that fails or takes longer than `limit` seconds is ended,
    and that case has no more turns. Use as a context."""

    def __init__(self, machine, script, limit):
        super().__init__(machine, script, [])
        self.command.append("--lazily")
        self.limit, self.failed, self.lines = limit, {}, None

    def __enter__(self):
        return self

    def started(self):
        """The names of its cases."""
        if self.process is None:
            self.complaints = tempfile.TemporaryFile("w+")
            self.process = self.machine.start(self.command, stdin=subprocess.PIPE, stderr=self.complaints)
            self.lines = queue.Queue()
            threading.Thread(target=lambda stream, lines: [lines.put(line) for line in stream] + [lines.put(None)], args=(self.process.stdout, self.lines), daemon=True).start()
            self.facts = (self._answer() or {}).get("ready", {})
        return self.facts

    def _answer(self):
        end = time.monotonic() + self.limit
        while True:
            try:
                line = self.lines.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                return {"error": f"longer than {self.limit:g} s"}
            if line is None:
                failed(self.command, self.complaints)
                return {"error": "ended"}
            if line.startswith("{"):
                return json.loads(line)

    def turn(self, case, seconds):
        if case in self.failed or case not in self.started():
            return None
        try:
            self.process.stdin.write(f"{case} {seconds}\n")
            self.process.stdin.flush()
            answer = self._answer()
        except BrokenPipeError:
            answer = {"error": "ended"}
        if "error" in answer:
            self.failed[case] = answer["error"]
            print(f"{case}: {answer['error']}", file=sys.stderr, flush=True)
            # An error of the case itself leaves the process as it was.
            if answer["error"] == "ended" or answer["error"].startswith("longer"):
                self.end()
        return answer.get("seconds")

    def forget(self):
        """Frees what the cases so far hold."""
        if self.process is not None:
            try:
                self.process.stdin.write("forget\n")
                self.process.stdin.flush()
            except BrokenPipeError:
                self.end()

    def end(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.complaints.close()
            self.process = None

    def __exit__(self, *_):
        self.end()


class Scores:
    """Values by section, row and contender, one per turn."""

    def __init__(self):
        self.values = {}

    def add(self, section, row, contender, value):
        if value is not None:
            self.values.setdefault(section, {}).setdefault(row, {}).setdefault(contender, []).append(value)

    def flat(self):
        return [dict(section=s, row=r, contender=c, values=v) for s, rows in self.values.items() for r, cs in rows.items() for c, v in cs.items()]
