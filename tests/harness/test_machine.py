"""harness/machine.py: what a run was computed on, with and without the system's help."""
import os
import sys
import types

import pytest

from harness import machine


def test_cores_are_those_of_the_affinity():
    assert machine.cores() == len(os.sched_getaffinity(0)) >= 1


@pytest.mark.parametrize("affinity, expected", [([0, 3, 5], 3), (None, 7)])
def test_without_sched_getaffinity_psutil_answers_and_then_the_count_of_all(monkeypatch, affinity, expected):
    process = types.SimpleNamespace(cpu_affinity=lambda: affinity) if affinity else types.SimpleNamespace()
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    monkeypatch.setitem(sys.modules, "psutil", types.SimpleNamespace(Process=lambda: process))
    assert machine.cores() == expected


def test_without_psutil_the_count_of_all_answers(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setitem(sys.modules, "psutil", None)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.cores() == 1
