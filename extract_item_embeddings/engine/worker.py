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
import math
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np

from extract_item_embeddings.engine import backend
from harness import cli
from harness.errors import UsageError, WorkError
from harness.readers import npy_from_bytes, reason

LONGEST = 1 << 32   # maximum bytes of a message; a larger number is not a valid length
SPOKEN = 1 << 20    # bytes of a message that is no array, and of all that stands around an array's numbers
BLOCK = 1 << 20     # bytes received at a time: memory is taken for what has come, not for what is claimed
WORDS = 300         # characters of a worker's own message in an error
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


def receive(channel, longest=LONGEST, seconds=None):
    """Read one message: an array or a dict; None if the other side has closed. ValueError for anything else.

    longest: bytes of the longest message that is expected
    seconds: how long the whole message may take, then TimeoutError (None: the channel's timeout for each of its parts)
    """
    end = None if seconds is None else time.monotonic() + seconds
    head = _exactly(channel, 8, end)
    if head is None:
        return None
    (length,) = struct.unpack("<Q", head)
    if length > longest:
        raise ValueError(f"a message of {length} bytes, more than the {longest} expected")
    data = _exactly(channel, length, end)
    if data is None:
        return None
    if data[:6] == b"\x93NUMPY":
        return npy_from_bytes(data)
    try:
        message = json.loads(data)
    except (ValueError, RecursionError) as e:
        raise ValueError(f"a message that is neither an array nor json: {reason(e)}") from None
    if not isinstance(message, dict):
        raise ValueError("a message that is neither an array nor an object")
    return message


def _exactly(channel, count, end=None):
    data = bytearray()
    while len(data) < count:
        if end is not None:
            channel.settimeout(max(end - time.monotonic(), 1e-3))
        block = channel.recv(min(count - len(data), BLOCK))
        if not block:
            return None
        data += block
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

def _named(message):
    """A message in a sentence: float32 (3, 4), or the names of an object."""
    if isinstance(message, np.ndarray):
        return f"{message.dtype} {message.shape}"
    return f"an object of {', '.join(sorted(message))[:WORDS] or 'nothing'}"


def checked_probe(found, modules):
    """What PROBE printed, {module: [whether it is there, version or None]}; ValueError for anything else."""
    if not isinstance(found, dict) or not {*modules, "python"} <= found.keys() or not all(
            isinstance(v, list) and len(v) == 2 and isinstance(v[0], bool) and isinstance(v[1], str | None)
            for v in found.values()):
        raise ValueError("the interpreter answers something else")
    return found


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
            probe = checked_probe(json.loads(done.stdout), self.MODULES)
        except OSError as e:
            raise WorkError(f"the interpreter {python} of {self.NAME} cannot be run ({e.strerror}); name another with "
                            f"--python or {self.variable()}") from None
        except (ValueError, RecursionError, subprocess.TimeoutExpired):
            raise WorkError(f"{python} does not answer as a Python interpreter; name the one of {self.REQUIREMENTS} "
                            f"with --python or {self.variable()}") from None
        if absent := [m for m in self.MODULES if not probe[m][0]]:
            raise WorkError(f"{python} has no {' and no '.join(absent)}; install {self.REQUIREMENTS} there")
        return super().versions() | {"worker": {name: v for name, (_, v) in probe.items()}}

    def environment(self):
        """Environment variables of the worker: the parent's without Python's own, and only the requested device."""
        ours = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
        kind, _, number = self.args.device.partition(":")
        if kind == "cpu":
            return ours | {"CUDA_VISIBLE_DEVICES": "-1"}
        if kind == "cuda" and number.isdecimal():
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
        self.greet()

    def greet(self):
        """Send the settings and wait until the model is loaded."""
        answer = self.ask(self.settings(), SPOKEN)
        if not isinstance(answer, dict) or answer.get("ready") is not True:
            self.give_up(f"answered its settings with {_named(answer)}, not with ready and dim")
        if type(dim := answer.get("dim")) is not int or dim != self.DIM:
            self.give_up(f"has a model of {str(dim)[:WORDS]} values, not {self.DIM}")

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
        shape = (len(windows), self.DIM)
        values = self.ask(np.ascontiguousarray(windows, np.float32), SPOKEN + 16 * math.prod(shape))
        if not isinstance(values, np.ndarray) or values.shape != shape or values.dtype.kind != "f":
            self.give_up(f"answered {len(windows)} windows with {_named(values)}, not with float32 {shape}")
        return values.astype(np.float32, copy=False)

    def ask(self, message, longest):
        """The answer to a message, an array or a dict of at most `longest` bytes; anything else is a WorkError."""
        early = self.early()
        try:
            self.channel.settimeout(self.args.patience)
            if not early:
                send(self.channel, message)
        except TimeoutError:
            self.give_up(f"read nothing for {self.args.patience} s (--patience)")
        except OSError:
            pass  # it has exited; its last message can still be read
        try:
            answer = receive(self.channel, longest, self.args.patience)
        except TimeoutError:
            self.give_up(f"gave no answer for {self.args.patience} s (--patience)")
        except OSError:
            answer = None
        except ValueError as e:
            self.give_up(f"violates the protocol ({e})")
        if answer is None:
            self.give_up(self.how_it_ended())
        if isinstance(answer, dict) and "error" in answer:
            self.give_up(f"failed ({str(answer['error'])[:WORDS]})")
        if early:  # an answer too many would be taken for that to the next windows
            self.give_up(f"does not keep to the protocol ({_named(answer)} before anything was asked)")
        return answer

    def early(self):
        """Whether something has come that nobody asked for."""
        self.channel.setblocking(False)
        try:
            return bool(self.channel.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

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
