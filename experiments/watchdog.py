"""End the runs of a local grid when the grid itself is gone, however it went: even kill -9 leaves none behind.

It leads the process group of the runs; its standard input is a pipe that the grid holds open. experiments/local.py
starts it, and kills it when every run is over. Runs are asked with SIGTERM first: they save, and continue next time.
"""
import os
import signal
import sys
import time

PATIENCE = 30  # seconds between SIGTERM and SIGKILL


def main():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.stdin.buffer.read()  # ends when the grid does
    os.killpg(0, signal.SIGTERM)
    time.sleep(PATIENCE)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
