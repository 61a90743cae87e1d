"""A worker that breaks the protocol in every way we could think of: one sentence, no memory taken, no hang."""
import argparse
import contextlib
import io
import json
import resource
import socket
import struct
import subprocess
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extract_item_embeddings.engine import worker
from harness.errors import WorkError

DIM = 4


class Small(worker.Remote):
    NAME, DIM, MODULES, REQUIREMENTS, LICENCE = "small", DIM, ("numpy",), "requirements/small.txt", ""

    def settings(self):
        return {"weights": "x"}


def message(data):
    return struct.pack("<Q", len(data)) + data


def array(values):
    with io.BytesIO() as f:
        np.save(f, values)
        return message(f.getvalue())


def said(value):
    return message(json.dumps(value).encode())


GOOD = array(np.ones((2, DIM), np.float32))
ANSWERS = {   # to two windows of three values
    "array of another shape": (array(np.ones((3, DIM), np.float32)),
                               r"with float32 \(3, 4\), not with float32 \(2, 4\)"),
    "one number": (array(np.float32(1)), r"with float32 \(\)"),
    "whole numbers": (array(np.ones((2, DIM), np.int64)), "with int64"),
    "texts": (array(np.full((2, DIM), "a")), "with <U1"),
    "object without error": (said({"a": 1, "b": [2]}), "with an object of a, b"),
    "empty object": (said({}), "with an object of nothing"),
    "many names": (said({"x" * 900: 1}), "with an object of x{300},"),
    "list": (said([1]), "neither an array nor an object"), "null": (said(None), "neither an array nor an object"),
    "text": (said("a"), "neither an array nor an object"), "number": (said(1), "neither an array nor an object"),
    "no json": (message(b"hello"), "neither an array nor json"), "empty": (message(b""), "neither an array nor json"),
    "no text": (message(b"\xff\xfe\x00"), "neither an array nor json"),
    "deep json": (message(b"[" * 100_000), "neither an array nor json"),
    "deep objects": (message(b'{"a":' * 100_000), "neither an array nor json"),
    "long number": (message(b'{"a": ' + b"1" * 9000 + b"}"), "neither an array nor json"),
    "array alone by name": (message(b"\x93NUMPY"), "an array that cannot be read"),
    "deep header": (message(b"\x93NUMPY\1\0\x80\x20" + b"(" * 0x2080), "an array that cannot be read"),
    "header that goes on": (message(b"\x93NUMPY\2\0" + struct.pack("<I", 4 << 20)), "an array that cannot be read"),
    "array cut off": (message(GOOD[8:-5]), "an array that cannot be read: it is cut off"),
    "huge array": (message(GOOD[8:].replace(b"(2, 4)", b"(2000000000, 400)")), "an array that cannot be read"),
    "pickled": (array(np.ones(1)).replace(b"<f8", b"|O "), "an array that cannot be read"),
    "claims 2^64 - 1": (b"\xff" * 8, "a message of 18446744073709551615 bytes, more than the"),
    "claims 4 GB": (struct.pack("<Q", 4 << 30), "a message of 4294967296 bytes, more than the"),
    "error": (said({"error": "no luck"}), r"failed \(no luck\)"),
    "error of no text": (said({"error": [1]}), r"failed \(\[1\]\)"),
    "long error": (said({"error": "x" * 5000}), r"failed \(x{300}\)"),
    "closes at once": (b"", "was killed|ended with|closed its end"),
    "closes in a length": (b"\1\0", "was killed|ended with|closed its end"),
    "closes in an array": (GOOD[:-9], "was killed|ended with|closed its end"),
}
SETTINGS = {
    "array": (GOOD, r"answered its settings with float32 \(2, 4\), not with ready and dim"),
    "not ready": (said({"dim": DIM}), "answered its settings with an object of dim"),
    "ready is a text": (said({"ready": "yes", "dim": DIM}), "answered its settings"),
    "no dim": (said({"ready": True}), "has a model of None values, not 4"),
    "dim is a text": (said({"ready": True, "dim": "4"}), "has a model of 4 values, not 4"),
    "dim is a list": (said({"ready": True, "dim": [4]}), "has a model of"),
    "long": (said({"ready": True, "dim": DIM, "x": "x" * (2 << 20)}), "more than the 1048576 expected"),
    "deep json": (message(b"[" * 100_000), "neither an array nor json"),
}


@pytest.fixture
def asked(tmp_path):
    """asked(answer, close): a Remote whose worker has answered with those bytes already sent when asked."""
    started = []

    def start(patience=5):
        remote = Small.__new__(Small)
        remote.args = argparse.Namespace(patience=patience)
        remote.channel, theirs = socket.socketpair()
        remote.log = tmp_path / "log"
        remote.log.write_text("the last words\n")
        remote.process = subprocess.Popen(["sleep", "60"])
        started.append((remote, theirs))
        return remote, theirs
    yield start
    for remote, theirs in started:
        remote.process.kill()
        remote.process.wait()
        remote.channel.close()
        theirs.close()


def answering(theirs, answer, close=True):
    """A thread that reads what is asked and answers with these bytes."""
    def life():
        head = theirs.recv(8, socket.MSG_WAITALL)
        theirs.recv(struct.unpack("<Q", head)[0], socket.MSG_WAITALL)
        with contextlib.suppress(OSError):   # a long answer is refused before all of it has gone
            theirs.sendall(answer)
            if close:
                theirs.shutdown(socket.SHUT_RDWR)
    thread = threading.Thread(target=life, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("way", ANSWERS)
def test_an_answer_that_is_none(asked, monkeypatch, way):
    answer, words = ANSWERS[way]
    remote, theirs = asked()
    monkeypatch.setattr(remote.process, "wait", lambda timeout=None: 0)
    thread = answering(theirs, answer)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(WorkError, match=f"^the worker of small .*({words})") as error:
        remote.computed(np.zeros((2, 3), np.float32))
    assert "the last words" in str(error.value) and len(str(error.value)) < 1000 and "\n" not in str(error.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10   # KiB
    thread.join(5)
    monkeypatch.undo()


@pytest.mark.parametrize("way", SETTINGS)
def test_settings_that_are_answered_otherwise(asked, way):
    answer, words = SETTINGS[way]
    remote, theirs = asked()
    thread = answering(theirs, answer, close=False)
    with pytest.raises(WorkError, match=f"^the worker of small .*({words})"):
        remote.greet()
    remote.channel.close()   # the rest of a long message is refused, not read
    thread.join(5)


def test_a_right_answer_and_the_next(asked):
    remote, theirs = asked()
    answering(theirs, said({"ready": True, "dim": DIM}), close=False).join(5) or remote.greet()
    for value in (1, 2):
        answering(theirs, array(np.full((2, DIM), value, np.float64)), close=False)
        assert (remote.computed(np.zeros((2, 3), np.float32)) == value).all()


def test_an_answer_too_many_is_not_taken_for_the_next(asked):
    remote, theirs = asked()
    answering(theirs, GOOD + GOOD, close=False)
    assert remote.computed(np.zeros((2, 3), np.float32)).shape == (2, DIM)
    with pytest.raises(WorkError, match=r"protocol \(float32 \(2, 4\) before anything was asked\)"):
        remote.computed(np.zeros((2, 3), np.float32))


def test_an_error_that_came_before_the_question_is_told(asked):
    remote, theirs = asked()
    theirs.sendall(said({"error": "out of memory"}))
    theirs.shutdown(socket.SHUT_RDWR)
    with pytest.raises(WorkError, match=r"failed \(out of memory\)"):
        remote.computed(np.zeros((2, 3), np.float32))


def test_an_answer_that_trickles_has_no_more_time_than_another(asked):
    remote, theirs = asked(patience=1)

    def trickle():
        try:
            for byte in GOOD:
                theirs.sendall(bytes([byte]))
                time.sleep(0.1)
        except OSError:
            pass
    start = time.monotonic()
    threading.Thread(target=trickle, daemon=True).start()
    remote.early = lambda: False
    with pytest.raises(WorkError, match="gave no answer for 1 s"):
        remote.computed(np.zeros((2, 3), np.float32))
    assert time.monotonic() - start < 10


PROBES = ["true", '[1, "1"]', "[true, 1]", "[true]", "[]", "null"]


@pytest.mark.parametrize("printed", ["5", "[]", "{}", "null", "[" * 100_000, '{"numpy": [true, "1"]}', "", "Python 3",
                                     *('{"python": [true, "3"], "numpy": ' + probe + "}" for probe in PROBES)])
def test_an_interpreter_that_answers_something_else(tmp_path, printed):
    (tmp_path / "answer").write_text(printed)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\ncat "{tmp_path}/answer"\n')
    python.chmod(0o755)
    remote = Small.__new__(Small)
    remote.args = argparse.Namespace(python=str(python), device="cpu")
    with pytest.raises(WorkError, match="does not answer as a Python interpreter"):
        remote.versions()


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=200) | st.binary(max_size=60).map(message)
       | st.binary(max_size=60).map(lambda b: message(b"\x93NUMPY" + b)))
def test_any_bytes_are_a_message_or_a_value_error(data):
    a, b = socket.socketpair()
    with a, b:
        a.sendall(data)
        a.shutdown(socket.SHUT_WR)
        try:
            assert isinstance(worker.receive(b, 1 << 20, 5), dict | np.ndarray | None)
        except ValueError as e:
            assert len(str(e)) < 400
