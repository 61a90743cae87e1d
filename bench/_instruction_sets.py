"""Instruction sets of a processor, by the libraries' own switches, and what a process reports to have taken effect."""
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NUMPY = ("X86_V3", "X86_V4", "AVX512_ICL", "AVX512_SPR")  # what NumPy 2.4 dispatches to above its baseline


def switches(onednn, mkl, aten, openblas, numpy_without):
    return {"ONEDNN_MAX_CPU_ISA": onednn, "MKL_ENABLE_INSTRUCTIONS": mkl, "ATEN_CPU_CAPABILITY": aten,
            "OPENBLAS_CORETYPE": openblas, "NPY_DISABLE_CPU_FEATURES": " ".join(numpy_without)}


SETTINGS = {  # name: environment variables; the first is the processor as it is
    "all": {},
    "AVX-512": switches("AVX512_CORE", "AVX512", "avx512", "SkylakeX", NUMPY[2:]),
    "AVX2": switches("AVX2", "AVX2", "avx2", "Haswell", NUMPY[1:]),
    "SSE4": switches("SSE41", "SSE4_2", "default", "Nehalem", NUMPY),
}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
QUESTION = """
import json, sys
import numpy, scipy.linalg, threadpoolctl, torch
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__
torch.nn.functional.conv2d(torch.ones(2, 32, 64, 64), torch.ones(32, 32, 3, 3))
torch.ones(64, 64) @ torch.ones(64, 64)
blas = {p.get("architecture") for p in threadpoolctl.threadpool_info() if p["internal_api"] == "openblas"}
sys.stdout.flush()
print("answer:" + json.dumps({
    "torch": torch.backends.cpu.get_cpu_capability(),
    "NumPy": " ".join(f for f in __cpu_dispatch__ if __cpu_features__[f]) or "baseline",
    "OpenBLAS": " ".join(sorted(map(str, blas))) or "-", "threads": torch.get_num_threads()}))
"""


def environment(name, threads=None):
    """The variables of a process under a setting, dict; threads: of every library, or None to leave them alone."""
    kept = {k: v for k, v in os.environ.items() if k not in SETTINGS["AVX2"]}
    count = {"MKL_DYNAMIC": "FALSE", "OMP_WAIT_POLICY": "PASSIVE", **{k: str(threads) for k in THREADS}}
    return {**kept, **SETTINGS[name], **(count if threads else {})}


def effective(variables):
    """{library: what it says it uses} of a process with these environment variables.

    torch, NumPy and OpenBLAS are asked; oneDNN and MKL say it in their verbose output, "-" where they say nothing
    (a torch without them).
    """
    variables = {**variables, "ONEDNN_VERBOSE": "1", "MKL_VERBOSE": "1"}
    done = subprocess.run([sys.executable, "-c", QUESTION], env=variables, cwd=ROOT, capture_output=True, text=True,
                          check=True)
    lines = done.stdout.splitlines()
    answer = json.loads(next(line for line in lines if line.startswith("answer:"))[len("answer:"):])
    onednn = [line.split("isa:")[1] for line in lines if line.startswith("onednn_verbose") and ",cpu,isa:" in line]
    mkl = [line.split("architecture ")[-1].split(", Lnx")[0] for line in lines if line.startswith("MKL_VERBOSE oneMKL")]
    return {**answer, "oneDNN": onednn[0] if onednn else "-", "MKL": mkl[0] if mkl else "-"}


def without_effect(report, others):
    """Why a setting that reports this is not worth a run of its own, a sentence, or None.

    others: {setting: report} of those before it
    """
    for name, other in others.items():
        if report == other:
            return f"the switches have no effect here: every library reports the same as under {name}"
    return None
