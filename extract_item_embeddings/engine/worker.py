"""Backends whose model needs another Python environment: a worker process there computes the vectors of windows.

The script of such a backend runs twice: in the parent process, with the command line of every backend, and by the
interpreter of the model's own environment (--python), with --worker, where it loads the model. Decoding, resampling,
windows, batches, resumption and the final matrix are done by the parent; upstream's code, its dependencies and its
licence are confined to the worker.

The two communicate over a socket pair, inherited by the worker as the file descriptor named after --worker. A message
is its length in bytes, 8 bytes little-endian, then that many bytes: an array as a .npy file, or an object as json.

    parent   {"weights": ..., ...}          settings, once
    worker   {"ready": true, "dim": D}      when the model is loaded
    parent   float32 (n, *window)           windows of one length
    worker   float32 (n, D)                 their vectors; repeated until the parent closes the socket

Instead of any answer the worker may send {"error": "..."} and exit. Nothing is pickled. The worker's output goes to a
log file, which is kept if the worker fails.
"""
import contextlib
import io
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

import numpy as np

from extract_item_embeddings.engine import backend
from harness import cli
from harness.errors import UsageError, WorkError

LONGEST = 1 << 32   # maximum bytes of a message; a larger number is not a valid length
PROBE = """
import importlib.metadata, importlib.util, json, sys
def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
found = {m: [importlib.util.find_spec(m) is not None, version(m)] for m in sys.argv[1:]}
print(json.dumps({**found, "python": [True, sys.version.split()[0]]}))
"""


# --------------------------------------------------------------------------- messages

def send(channel, message):
    """Write one message: an array or a dict."""
    if isinstance(message, np.ndarray):
        with io.BytesIO() as f:
            np.save(f, message, allow_pickle=False)
            data = f.getvalue()
    else:
        data = json.dumps(message).encode()
    channel.sendall(struct.pack("<Q", len(data)) + data)


def receive(channel):
    """Read one message: an array or a dict; None if the other side has closed. ValueError for anything else."""
    head = _exactly(channel, 8)
    if head is None:
        return None
    (length,) = struct.unpack("<Q", head)
    if length > LONGEST:
        raise ValueError(f"a message of {length} bytes")
    data = _exactly(channel, length)
    if data is None:
        return None
    if data[:6] == b"\x93NUMPY":
        return np.load(io.BytesIO(data), allow_pickle=False)
    message = json.loads(data)
    if not isinstance(message, dict):
        raise ValueError("a message that is neither an array nor an object")
    return message


def _exactly(channel, count):
    data = bytearray(count)
    view = memoryview(data)
    while view:
        got = channel.recv_into(view)
        if not got:
            return None
        view = view[got:]
    return bytes(data)


# --------------------------------------------------------------------------- the worker

def serve(start, descriptor):
    """Main loop of a worker, in the model's environment.

    start: function of the settings (a dict) that loads the model and returns (describe, dim): describe maps
           float32 (n, *window) to (n, dim)
    """
    for number in (signal.SIGTERM, signal.SIGUSR1):  # handled by the parent, which closes when the batch is done
        signal.signal(number, signal.SIG_IGN)
    channel = socket.socket(fileno=int(descriptor))
    try:
        describe, dim = start(receive(channel))
        send(channel, {"ready": True, "dim": int(dim)})
        while (windows := receive(channel)) is not None:
            send(channel, np.ascontiguousarray(describe(windows), dtype=np.float32))
    except ConnectionError:  # the parent has gone
        sys.exit(1)
    except Exception as e:
        traceback.print_exc()  # into the log
        with contextlib.suppress(OSError):
            send(channel, {"error": f"{type(e).__name__}: {e}"})
        sys.exit(1)
    sys.exit(0)


# --------------------------------------------------------------------------- the parent

class Remote(backend.Backend):
    """A backend whose model runs in a worker. Subclasses add prepare, settings, weights_of, and `start` for serve."""
    DEVICE = True
    MODULES = ()            # modules that its environment must have; checked early, versions go to the json
    REQUIREMENTS = ""       # requirements file of its environment
    WEIGHTS = ""            # default location of the weights
    TOGETHER = False        # a pass is one message; else each window is one, truncated to its length
    process = channel = None
    failed = False

    @classmethod
    def add_flags(cls, parser):
        parser.add_argument("--python", metavar="PATH", help="Python interpreter or folder of the environment made "
                            f"from {cls.REQUIREMENTS} (default ${cls.variable()})")
        parser.add_argument("--weights", metavar="PATH", help=f"file or folder of the weights (default {cls.WEIGHTS})")
        parser.add_argument("--patience", type=cli.positive, default=1800, metavar="SECONDS",
                            help="timeout in seconds for an answer of the worker, including loading the model (default "
                                 "1800)")

    @classmethod
    def variable(cls):
        return f"{cls.NAME.upper()}_PYTHON"

    def python(self):
        """The interpreter of the model's environment, as str; "" if none is named."""
        given = self.args.python or os.environ.get(self.variable(), "")
        folder = Path(given).expanduser()
        return str(folder / "bin" / "python") if given and folder.is_dir() else str(folder) if given else ""

    def missing(self):
        words = []
        if not shutil.which(self.python() or "/"):
            words.append(f"an environment of {self.REQUIREMENTS} (--python or {self.variable()})")
        try:
            self.weights_of()
        except (WorkError, UsageError):
            words.append(f"weights in {self.WEIGHTS} (or --weights)")
        return " and ".join(words)

    def weights_of(self):
        """Path of the weights, a file or a folder; WorkError that names what to download and where to put it."""
        raise NotImplementedError

    def settings(self):
        """Settings passed to `start`, as values for json."""
        return {"weights": str(self.weights_of())}

    def versions(self):
        """Versions of this and of the worker's environment; WorkError if the worker's lacks a module."""
        python = self.python()
        if not python:
            raise WorkError(f"{self.NAME} needs a separate environment: make one from {self.REQUIREMENTS} "
                            f"and name its interpreter with --python or {self.variable()}")
        try:
            done = subprocess.run([python, "-c", PROBE, *self.MODULES], capture_output=True, text=True, timeout=120,
                                  env=self.environment())
            modules = json.loads(done.stdout)
        except OSError as e:
            raise WorkError(f"the interpreter {python} of {self.NAME} cannot be run ({e.strerror}); name another with "
                            f"--python or {self.variable()}") from None
        except (ValueError, subprocess.TimeoutExpired):
            raise WorkError(f"{python} does not answer as a Python interpreter; name the one of {self.REQUIREMENTS} "
                            f"with --python or {self.variable()}") from None
        if absent := [m for m in self.MODULES if not modules[m][0]]:
            raise WorkError(f"{python} has no {' and no '.join(absent)}; install {self.REQUIREMENTS} there")
        return super().versions() | {"worker": {name: v for name, (_, v) in modules.items()}}

    def environment(self):
        """Environment variables of the worker: the parent's without Python's own, and only the requested device."""
        ours = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
        kind, _, number = self.args.device.partition(":")
        if kind == "cpu":
            return ours | {"CUDA_VISIBLE_DEVICES": "-1"}
        if kind == "cuda" and number.isdigit():
            visible = ours.get("CUDA_VISIBLE_DEVICES", "").split(",")
            chosen = visible[int(number)] if int(number) < len(visible) and visible != [""] else number
            return ours | {"CUDA_VISIBLE_DEVICES": chosen}
        return ours

    # communication --------------------------------------------------------
    def load(self):
        self.silence = {}
        self.channel, theirs = socket.socketpair()
        self.channel.settimeout(self.args.patience)
        with tempfile.NamedTemporaryFile(prefix=f"{self.NAME}-worker-", suffix=".log", delete=False) as log, theirs:
            self.log = Path(log.name)
            script = sys.modules[type(self).__module__].__file__
            self.process = subprocess.Popen(
                [self.python(), script, "--worker", str(theirs.fileno())], pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment(), start_new_session=True)
        dim = self.ask(self.settings()).get("dim")
        if dim != self.DIM:
            self.give_up(f"has a model of {dim} values, not {self.DIM}")

    def unload(self):
        if self.channel is not None:
            self.channel.close()  # ends an idle worker
        if self.process is not None:
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            if not self.failed:
                self.log.unlink(missing_ok=True)
        self.process = self.channel = None

    def forward(self, inputs, lengths):
        """(n, *window), (n,) -> float32 (n, D). Silent windows of one length, used as padding, are computed once."""
        if self.TOGETHER:
            return self.computed(inputs)
        return np.stack([self.alone(window[:n]) for window, n in zip(inputs, lengths, strict=True)])

    def alone(self, window):
        if window.any():
            return self.computed(window[None])[0]
        if len(window) not in self.silence:
            self.silence[len(window)] = self.computed(window[None])[0]
        return self.silence[len(window)]

    def computed(self, windows):
        values = self.ask(np.ascontiguousarray(windows, np.float32))
        if not isinstance(values, np.ndarray) or values.shape != (len(windows), self.DIM) or values.dtype.kind != "f":
            what = f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else f"{sorted(values)}"
            self.give_up(f"answered {len(windows)} windows with {what}, not with float32 {(len(windows), self.DIM)}")
        return values.astype(np.float32, copy=False)

    def ask(self, message):
        try:
            send(self.channel, message)
        except TimeoutError:
            self.give_up(f"read nothing for {self.args.patience} s (--patience)")
        except OSError:
            pass  # it has exited; its last message can still be read
        try:
            answer = receive(self.channel)
        except TimeoutError:
            self.give_up(f"gave no answer for {self.args.patience} s (--patience)")
        except OSError:
            answer = None
        except ValueError as e:
            self.give_up(f"violates the protocol ({e})")
        if answer is None:
            self.give_up(self.how_it_ended())
        if isinstance(answer, dict) and "error" in answer:
            self.give_up(f"failed ({answer['error']})")
        return answer

    def how_it_ended(self):
        try:
            status = self.process.wait(10)
        except subprocess.TimeoutExpired:
            return "closed the connection without an answer"
        return f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"

    def give_up(self, what):
        self.failed = True
        self.process.kill()
        lines = self.log.read_text(errors="replace").strip().splitlines()
        last = f"; its last output: {lines[-1].strip()[:200]!r}" if lines else ""
        raise WorkError(f"the worker of {self.NAME} {what}{last}; finished batches are saved, the same command "
                        f"continues after them (log: {self.log})")
