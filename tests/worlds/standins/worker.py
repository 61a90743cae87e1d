"""A worker written from the protocol alone: `worker.py SCRIPT --worker FD`, as our side starts one.

A window's vector is (its mean, its length, 0, 0, ...). STANDIN says how it misbehaves at its STANDIN_AT-th window
(counted over the lives of the worker in the file STANDIN_COUNT): die, error, wrong, silent, garbage, close or chatter.
"""
import io
import json
import os
import signal
import socket
import struct
import sys
import time

import numpy as np

DIM = int(os.environ.get("STANDIN_DIM", "4800"))


def read(channel):
    head = channel.read(8)
    return channel.read(struct.unpack("<Q", head)[0]) if len(head) == 8 else None


def write(channel, data):
    channel.write(struct.pack("<Q", len(data)) + data)
    channel.flush()


def count():
    """How many windows all lives have heard."""
    with open(os.environ["STANDIN_COUNT"], "a+b") as f:
        f.write(b".")
        return f.tell()


def misbehave(channel, how):
    print(f"about to {how}", flush=True)
    if how == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "error":
        write(channel, json.dumps({"error": "RuntimeError: CUDA out of memory"}).encode())
        sys.exit(1)
    elif how == "wrong":
        answer(channel, np.zeros((1, DIM + 1), np.float32))
    elif how == "silent":
        time.sleep(60)
    elif how == "garbage":
        write(channel, b"neither an array nor an object")
    elif how == "close":
        sys.exit(0)


def answer(channel, values):
    with io.BytesIO() as f:
        np.save(f, values)
        write(channel, f.getvalue())


def main():
    channel = socket.socket(fileno=int(sys.argv[sys.argv.index("--worker") + 1])).makefile("rwb")
    how, at = os.environ.get("STANDIN", ""), int(os.environ.get("STANDIN_AT", "0"))
    assert "weights" in json.loads(read(channel))
    write(channel, json.dumps({"ready": True, "dim": DIM}).encode())
    while (data := read(channel)) is not None:
        windows = np.load(io.BytesIO(data))
        if count() == at:
            misbehave(channel, how)
        values = np.zeros((len(windows), DIM), np.float32)
        values[:, 0], values[:, 1] = windows.mean(axis=1), windows.shape[1]
        answer(channel, values)


if __name__ == "__main__":
    main()
