"""results/: the figures that the manual shows, as files with a checksum each, and how they get there.

    results/<data set>/results_<part>.csv    as table.py writes them (tidy: commits, checksums of split and embedding,
                                             settings and runs in each line)
    results/<data set>/results_<part>_by_<cut>.csv, worth_<part>_by_<cut>.csv   values, and what content is worth, in
                                             each segment, of table.py --by
    results/<data set>/data_curve.csv        of exploration.data_curve --out WORKDIR/tables/data_curve
    results/<data set>/plays.csv             of a run of recommenders.random_forest, copied into WORKDIR/tables
    results/<data set>/bar.csv               of bench.fused_bar
    results/<data set>/runs/                 values of every user of every run, of reporting.archive
    results/<data set>/made.json             which command wrote them, when, on what
    results/bench/<measurement>.json         rows of the benches, of python -m bench --keep
    results/checksums.txt                    sha256 and name of every file; a file that differs from it is refused
"""
import functools
import re
import shutil
from pathlib import Path

from harness.errors import UsageError, WorkError
from harness.files import atomic, checksum, write_json, write_text
from harness.machine import cores, git_state, versions
from harness.readers import read_json, reading

ROOT = Path(__file__).resolve().parents[1]
SUMS = "results/checksums.txt"


def read_sums(root=ROOT):
    """{path from the project's folder: sha256}; WorkError where the list is gone or damaged."""
    path = root / SUMS
    if not path.is_file():
        raise WorkError(f"{path} is gone; git has it")
    lines = [line.split("  ", 1) for line in path.read_text(encoding="utf-8").splitlines() if line]
    if not all(len(line) == 2 and re.fullmatch("[0-9a-f]{64}", line[0]) for line in lines):
        raise WorkError(f"{path} should hold lines of a sha256 and a file name; git has it")
    return {name: digest for digest, name in lines}


def read(name, root=ROOT):
    """The csv of that name (from the project's folder), or the json of a bench, as a frame.

    WorkError where it is not what was stored.
    """
    import pandas as pd
    digest = checked(name, root)
    return _frame(pd, root / name, digest).copy()


@functools.lru_cache(maxsize=64)
def _frame(pd, path, digest):
    if path.suffix == ".json":
        return pd.DataFrame(read_json(path)["rows"])
    with reading(path, "csv"):
        return pd.read_csv(path, keep_default_na=False, na_values=[""], float_precision="round_trip")


def checked(name, root=ROOT):
    """The sha256 of a stored file; WorkError where it is missing, or differs from the list: edited by hand, or cut."""
    sums = read_sums(root)
    if name not in sums:
        raise WorkError(f"{name} is not in {SUMS}; python -m reporting.documents --add WORKDIR stores a workspace's "
                        "tables")
    if not (root / name).is_file():
        raise WorkError(f"{root / name} is gone; git has it, or --add of its workspace makes it again")
    if (digest := checksum(root / name)) != sums[name]:
        raise WorkError(f"{root / name} is not the file that was stored (its checksum differs from {SUMS}); git has "
                        "it, or python -m reporting.documents --add of its workspace makes it again")
    return digest


def check_name(name, what="--name"):
    """UsageError where a name (`what` says of which argument) is none of a folder of results/."""
    if not re.fullmatch("[a-z0-9][a-z0-9-]*", name):
        raise UsageError(f"{what} {name} should be small letters, digits and hyphens: it is a folder of results/")


def add(workdir, name, root=ROOT):
    """Store a workspace's tables/results_*.csv and worth_*.csv, data_curve.csv, plays.csv, bar.csv, and the verdicts of
    claims/, where it has them; returns their names.

    UsageError for a name that is none of a folder, WorkError where there are no tables, one has no rows, cannot be read
    or is of runs that are gone, or the list of sums is gone or damaged; nothing is stored then.
    """
    check_name(name)
    files = [path for path in sorted((workdir / "tables").glob("*.csv"))
             if re.fullmatch(r"results_.*|worth_.*_by_.*|data_curve|plays|bar", path.stem)]
    files += sorted((workdir / "claims").glob("claims.csv"))
    if not files:
        raise WorkError(f"{workdir / 'tables'} has no results_*.csv; python table.py --workdir {workdir} writes them")
    for path in files:
        _check_table(path, workdir)
    _check_runs([path for path in files if path.stem.startswith("results_")], workdir)
    sums_before(root)
    folder = root / "results" / name
    for path in files:
        with atomic(folder / path.name) as temporary:
            shutil.copyfile(path, temporary)
    git = git_state()
    write_json(folder / "made.json", {"tables_by": (git.get("commit") or "")[:8] + ("+" if git.get("dirty") else ""),
                                      "cores": cores(), "versions": versions(), "files": [p.name for p in files]})
    update_sums([folder / "made.json", *(folder / path.name for path in files)], root=root)
    return [f"results/{name}/{path.name}" for path in files]


def _check_table(path, workdir):
    """WorkError where a table of a workspace cannot be read, has no rows, or lacks what every line of results has."""
    import pandas as pd
    again = {"claims": "claims.py", "data_curve": "-m exploration.data_curve", "bar": "-m bench.fused_bar",
             "plays": "-m recommenders.random_forest"}.get(path.stem, f"table.py --workdir {workdir}")
    remedy = f"nothing was stored; python {again} writes it again"
    try:
        frame = _frame(pd, path, checksum(path))
    except WorkError as e:
        raise WorkError(f"{e}; {remedy}") from None
    if path.stem.startswith("results_"):
        for column in ("method", "metric", "k", "mean"):
            if column not in frame:
                raise WorkError(f"{path} has no column {column}; {remedy}")
    if not len(frame):
        raise WorkError(f"{path} has no rows; {remedy}")


def _check_runs(paths, workdir):
    """WorkError where a table shows a run that the workspace has not, or has of another split: it was written before.

    Of a workspace without runs, as one that only collects tables, nothing is asked.
    """
    import pandas as pd

    from evaluation.results import collect
    finished = {name for cell in collect(workdir)[0] for name, _ in cell.runs}
    for path in paths if finished else ():
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        if gone := sorted({run for runs in frame.get("runs", ()) for run in runs.split()} - finished):
            raise WorkError(f"{path} shows run {gone[0]}, which is not among the finished ones of {workdir}; nothing "
                            f"was stored; python table.py --workdir {workdir} writes the table again, or remove it")


def sums_before(root=ROOT):
    """read_sums; of a results/ that has no file yet, {}. To be called before something is stored, as it may fail."""
    if not (root / SUMS).exists() and not _files(root):
        return {}
    return read_sums(root)


def update_sums(stored, removed=(), root=ROOT):
    """Write into results/checksums.txt the sums of the files just stored, and leave out those just removed.

    stored, removed: paths of files within `root`. The sums of all others stay: what differs from them is refused still.
    """
    name_of = {path: path.relative_to(root).as_posix() for path in (*stored, *removed)}
    sums = read_sums(root) if (root / SUMS).exists() else {}
    sums.update((name_of[path], checksum(path)) for path in stored)
    for path in removed:
        sums.pop(name_of[path], None)
    write_text(root / SUMS, "".join(f"{sums[name]}  {name}\n" for name in sorted(sums, key=lambda n: n.split("/"))))


def _files(root):
    return [p for p in (root / "results").rglob("*") if p.suffix in (".csv", ".json", ".pqt") and p.is_file()]
