"""Give stages of runs to Slurm: one job array per stage, chained by dependency, and count what became of them.

    python slurm/grid.py ... --submit           writes W/slurm/001/ (plan, job lists, logs) and submits
    python slurm/grid.py --report W/slurm/001   done, failed and unfinished runs; 1 unless all are done

A run's status is a small file that the batch shell writes when the run is over (slurm/job.sh); a run without
one is unfinished, never done. Cluster facts come from slurm/cluster.env, or the file that CLUSTER_ENV names.
"""
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from experiments import job_list
from harness.errors import RunInProgress, UsageError, WorkError
from harness.files import expanded, write_json
from harness.progress import EXIT_RESUMABLE
from harness.readers import read_json

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Stage:
    """Jobs that may run at the same time, after the stages named in `after` (`how` they must have ended)."""
    name: str
    jobs: list
    after: list = field(default_factory=list)
    how: str = "afterok"
    extract: tuple | None = None  # (backend, shards, flags) of slurm/extract.sbatch

    @property
    def of_runs(self):
        """Whether its jobs are the runs of the grid: grid, and grid-2 and so on, which read runs of those before."""
        return self.name == "grid" or self.name.startswith("grid-")


def facts():
    """The variables of the cluster's file, as bash reads them; {} where there is none."""
    named = os.environ.get("CLUSTER_ENV")
    path = expanded(named or ROOT / "slurm" / "cluster.env").absolute()
    if not path.is_file():
        if named:
            raise UsageError(f"CLUSTER_ENV={named} is no file; slurm/cluster.env.example is one to begin with")
        return {}
    done = subprocess.run(["bash", "-c", 'set -ea; . "$1" >&2; env -0', "bash", str(path)],
                          capture_output=True, text=True, errors="surrogateescape")   # as os.environ has any bytes
    if done.returncode:
        raise UsageError(f"bash cannot read {path}: {done.stderr.strip()}")
    variables = dict(pair.split("=", 1) for pair in done.stdout.split("\0") if "=" in pair)
    return {**{k: v for k, v in variables.items() if v}, "CLUSTER_ENV": str(path)}


def check_sbatch():
    """UsageError where there is no sbatch to submit with."""
    if shutil.which("sbatch") is None:
        raise UsageError("there is no sbatch here; use a login node of the cluster, or --local")


def sbatch(words, environment):
    """Submit; the job's number. WorkError with Slurm's own sentence when it refuses."""
    done = subprocess.run(["sbatch", "--parsable", *words], cwd=ROOT, env=environment, text=True,
                          capture_output=True)
    match = re.match(r"\d+", done.stdout)
    if done.returncode or not match:
        raise WorkError(f"sbatch refuses {shlex.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
    return match[0]


def largest_array():
    """How many tasks one array may have (MaxArraySize of the controller)."""
    done = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True)
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", done.stdout, re.MULTILINE)
    return max(1, int(match[1]) - 1) if match else 1000


def new_folder(workdir):
    """W/slurm/001, 002, ...: made by exactly one submission each."""
    parent = workdir / "slurm"
    parent.mkdir(parents=True, exist_ok=True)
    number = 1 + max((int(p.name) for p in parent.iterdir() if p.name.isdecimal()), default=0)
    while True:
        try:
            (parent / f"{number:03d}").mkdir()
            return parent / f"{number:03d}"
        except FileExistsError:
            number += 1


def arrays(stage, folder, most):
    """[(array, template and its words)] of a stage; a long list becomes several arrays with an offset."""
    if stage.extract:
        backend, shards, flags = stage.extract
        if shards > most:
            raise UsageError(f"--shards {shards} is more than an array of this cluster holds ({most})")
        return [(f"0-{shards - 1}", ["slurm/extract.sbatch", backend, str(shards), *flags])]
    path = folder / f"{stage.name}.txt"
    job_list.write(path, [job.words for job in stage.jobs])
    several = [str(stage.jobs[0].processes)] if stage.jobs[0].processes > 1 else []
    return [(f"0-{min(most, len(stage.jobs) - first) - 1}", ["slurm/train.sbatch", str(path), str(first), *several])
            for first in range(0, len(stage.jobs), most)]


def words_for(kind, about):
    """The facts' words for sbatch for a kind of stage: EXTRACT, TRAIN or SMALL."""
    return shlex.split(f"{about.get('SUBMIT_ALL', '')} {about.get(f'SUBMIT_{kind}', '')}")


def submit(stages, workdir, wait=False):
    """Submit all stages and the final count; print what was submitted. Returns 0, or with `wait` the count's status."""
    check_sbatch()
    about, most, folder = facts(), largest_array(), new_folder(workdir)
    if not about:
        print("grid: no slurm/cluster.env, so Slurm's defaults hold (slurm/cluster.env.example says more)",
              file=sys.stderr)
    lead = about.get("SIGNAL_LEAD", "60")
    if not lead.isdecimal():
        raise UsageError(f"SIGNAL_LEAD={lead} in {about['CLUSTER_ENV']} is not a number of seconds")
    common = ["--kill-on-invalid-dep=yes", f"--signal=B:USR1@{lead}", f"--output={log_name(folder)}/%x-%A_%a.out"]
    throttle = f"%{about['MAX_PARALLEL']}" if about.get("MAX_PARALLEL") else ""
    environment = {**os.environ, **({"CLUSTER_ENV": about["CLUSTER_ENV"]} if about else {})}
    numbers, planned = {}, []
    try:
        for stage in stages:
            kind = "EXTRACT" if stage.extract else "TRAIN" if stage.of_runs else "SMALL"
            before = [n for name in stage.after for n in numbers[name]]
            chain = [f"--dependency={stage.how}:{':'.join(before)}"] if before else []
            environment["RUN_STATUS"] = str(folder / f"{stage.name}.status")
            lists = arrays(stage, folder, most)
            planned.append({"stage": stage.name, "jobs": numbers.setdefault(stage.name, []),
                            "lines": [j.line for j in stage.jobs]})
            for array, words in lists:      # one by one: where Slurm refuses the second, the first is in the plan
                numbers[stage.name].append(sbatch([*common, *chain, f"--job-name={stage.name}",
                                                   f"--array={array}{throttle}", *words_for(kind, about), *words],
                                                  environment))
            print(f"{stage.name}: {len(stage.jobs)} runs, job {' '.join(numbers[stage.name])}",
                  *([stage.how, *before] if before else []), flush=True)
    finally:
        write_json(folder / "plan.json", {"stages": planned})
    return count_at_the_end(folder, numbers, about, environment, wait)


def count_at_the_end(folder, numbers, about, environment, wait):
    """Submit the job that prints the report into report.out once everything is over."""
    report_words = ["python", "slurm/grid.py", "--report", str(folder)]
    job_list.write(folder / "report.txt", [report_words])
    del environment["RUN_STATUS"]
    every = ":".join(n for jobs in numbers.values() for n in jobs)
    words = [f"--dependency=afterany:{every}", "--job-name=report", f"--output={log_name(folder)}/report.out",
             *words_for("SMALL", about), "slurm/train.sbatch", str(folder / "report.txt")]
    print(f"logs and, at the end, the count: {folder}/report.out; so far: {shlex.join(report_words)}", flush=True)
    if not wait:
        sbatch(words, environment)
        return 0
    done = subprocess.run(["sbatch", "--parsable", "--wait", *words], cwd=ROOT, env=environment,
                          stdout=subprocess.DEVNULL)
    return max(report(folder), 1 if done.returncode else 0)


def log_name(folder):
    """A folder's path as sbatch takes it in --output, where % begins a pattern."""
    return str(folder).replace("%", "%%")


def report(folder):
    """Print done, failed and unfinished runs of a submitted grid; 0 if all are done, else 1."""
    bad = 0
    for name, numbers, lines in planned_stages(folder):
        groups = {"done": [], "failed": [], "made elsewhere": [], "unfinished": []}
        for i, line in enumerate(lines):
            path = folder / f"{name}.status" / str(i)
            status = path.read_text(encoding="utf-8", errors="replace").strip() if path.exists() else ""
            what = {"0": "done", "": "unfinished", str(EXIT_RESUMABLE): "unfinished",
                    str(RunInProgress.STATUS): "made elsewhere"}.get(status, "failed")
            groups[what].append(f"status {status}: {line}" if what == "failed" else line)
        elsewhere = f"{len(groups['made elsewhere'])} being made elsewhere, " if groups["made elsewhere"] else ""
        print(f"{name}: {len(groups['done'])} of {len(lines)} runs done, {len(groups['failed'])} failed, "
              f"{elsewhere}{len(groups['unfinished'])} unfinished (job {' '.join(numbers)})")
        for what, mark in (("failed", "failed,"), ("made elsewhere", "being made elsewhere:"),
                           ("unfinished", "unfinished:")):
            for line in groups[what][:20]:
                print(f"  {mark} {line}")
            if len(groups[what]) > 20:
                print(f"  and {len(groups[what]) - 20} more {what}")
        bad += len(lines) - len(groups["done"])
    return 1 if bad else 0


def planned_stages(folder):
    """[(stage, its Slurm job numbers, its command lines)] of a submitted grid's plan.json."""
    path = folder / "plan.json"
    if not path.is_file():
        raise UsageError(f"{folder} holds no plan.json; expected a folder that --submit made, W/slurm/001")
    try:
        stages = [(s["stage"], s["jobs"], s["lines"]) for s in read_json(path)["stages"]]
        texts = [t for name, numbers, lines in stages for t in (name, *numbers, *lines)]
    except (KeyError, TypeError):
        texts = [None]
    if not all(isinstance(t, str) for t in texts) or any("/" in name for name, _, _ in stages):
        raise WorkError(f"{path} is not a plan that --submit wrote; submit the grid again")
    return stages
