"""Start the runs of a local grid: import the libraries that they share once, then fork a process for each run.

    python -m experiments.run_server FD [LIBRARY ...]      started by experiments/local.py, on one end of a socket

A fork has its own memory and its own end, and does exactly what `python train.py ...` does, less the seconds of
importing torch. Without libraries, as on systems where a fork of loaded libraries is not safe (macOS), a run is a
new interpreter. This process leads the process group of the runs: when the grid is gone, however it went, it asks
them to stop with SIGTERM, so that they save, and kills those that do not end.

Requests are a line of JSON, the words of a command, with the descriptors of its stdout and stderr; answers are
{"started": pid} and {"ended": pid, "status": exit status or minus the signal}.
"""
import atexit
import contextlib
import importlib
import io
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
import time
import traceback

PATIENCE = 30  # seconds between SIGTERM and SIGKILL
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # are for the runs, not for the process that starts them


def main():
    if len(sys.argv) < 2 or not sys.argv[1].isdecimal():
        print("run_server.py: experiments/local.py starts this with a socket; run slurm/grid.py --local instead",
              file=sys.stderr)
        sys.exit(2)
    control, libraries = socket.socket(fileno=int(sys.argv[1])), sys.argv[2:]
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    for library in libraries:
        with contextlib.suppress(ImportError):  # the run that needs it says so
            importlib.import_module(library)
    words = serve(control)
    if not libraries:
        os.execv(sys.executable, [sys.executable, *words])
    end_run(run(words))


def run(words):
    """Do what `python WORDS` does from the folder of the project; its exit status."""
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as e:
        if e.code is None or isinstance(e.code, int):
            return e.code or 0
        print(e.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def end_run(status):
    """End this process as an interpreter ends, but without taking its libraries down, which takes seconds in a fork."""
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # its reader is gone
            stream.flush()
    os._exit(status)


def serve(control):
    """Fork a process for each request. Returns in such a process, with the words of its command; never in this one."""
    children = set()
    while True:
        if select.select([control], [], [], 0.05)[0]:
            data, streams, *_ = socket.recv_fds(control, 1 << 16, 2)
            while data and not data.endswith(b"\n"):
                data += control.recv(1 << 16)
            if not data:
                end_all(children)
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # one that comes now waits until the run can hear it
            child = os.fork()
            if child == 0:
                become_run(control, streams)
                return json.loads(data)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            for stream in streams:
                os.close(stream)
            children.add(child)
            answer(control, started=child)
        for child, status in reaped(children):
            answer(control, ended=child, status=status)


def become_run(control, streams):
    """In a new process: its own output, signals as in any other, nothing of the server's."""
    control.close()
    for stream, number in zip(streams, (1, 2), strict=True):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdout, sys.stderr = (opened(old, number) for old, number in ((sys.stdout, 1), (sys.stderr, 2)))
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def opened(old, number):
    """A text stream on a descriptor, as Python opens it at its start: the old one remembers another file's kind."""
    return io.TextIOWrapper(io.FileIO(number, "w", closefd=False), old.encoding, old.errors, write_through=True)


def reaped(children):
    """[(process, exit status or minus the signal)] of children that have ended; they leave the set."""
    ended = []
    while children:
        child, status = os.waitpid(-1, os.WNOHANG)
        if child == 0:
            break
        children.discard(child)
        ended.append((child, os.waitstatus_to_exitcode(status)))
    return ended


def answer(control, **fields):
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the grid is gone; the next read says so
        control.sendall(json.dumps(fields).encode() + b"\n")


def end_all(children):
    """The grid is gone: end its runs, then this process."""
    os.killpg(0, signal.SIGTERM)
    end = time.monotonic() + PATIENCE
    while children and time.monotonic() < end:
        reaped(children)
        time.sleep(0.05)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
