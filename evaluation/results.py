"""Group finished runs into result cells (mean over seeds) for table.py.

A cell is a request without its seed: one recommender, one representation, one set of arguments, and the same runs
whose factors or lists it reads. Runs that differ by the seed alone are its repeats and are averaged; runs that differ
in anything else are different cells and are never averaged. Shuffled runs (the control) are repeats of each other in
the same way: every seed is one permutation. All is read from runs/*/config.json and metrics/; of the split only the
checksums.
"""
import difflib
import itertools
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from evaluation.files import again, read_means, read_metrics, seeds_of
from evaluation.intervals import mean_and_half_width
from harness import registry, runs
from harness.errors import UsageError, WorkError

REPEATS = ("seed", "shuffle", "embedding")  # arguments that differ between repeats or representations, as does
#                                             `model` of a script that calls its embedding so


@dataclass
class Cell:
    """Runs of one request but for the seed. embedding None: the recommender uses no representation."""
    recommender: str
    embedding: str | None
    shuffled: bool
    request: dict                                  # the arguments all its runs share
    runs: list = field(default_factory=list)       # [(name, config)] of the finished ones
    departures: dict | None = None                 # arguments unlike the script's defaults; None: not recorded


@dataclass
class Figure:
    """A metric of a cell. Half-widths of 95 % intervals are NaN where there is nothing to estimate them from."""
    mean: float
    users: float     # over users, of each user's mean over the repeats
    seeds: float     # over repeats (seeds, or permutations), of their means: t(repeats - 1)
    repeats: int
    each: object = None      # float64 (U,): each user's mean over the repeats; None of all users together
    table: object = None     # float64 (repeats, U): each user's value in each repeat; None of all users together
    means: object = None     # float64 (repeats,): the mean of each repeat


class Left(NamedTuple):
    """A run that is left out of the tables. kind: stale, unfinished, or foreign (its manifest names no recommender)."""
    name: str
    reason: str
    kind: str


def changed_inputs(workdir, manifests):
    """{run: files} of the runs that were made from files other than those of now; manifests: of `runs.find_runs`.

    Such a file belongs to a split that is not the one in the workspace, or a later run has read another version of it.
    """
    split, latest, found = runs.split_checksums(workdir), {}, {}
    for _, config in sorted(manifests, key=lambda run: run[1].get("started", "")):
        latest.update(config.get("inputs", {}))
    latest.update(split)   # the files themselves say more than any run
    for name, config in manifests:
        changed = runs.changed_since(config, split) or [
            file for file, checksum in config.get("inputs", {}).items() if latest[file] != checksum]
        if changed:
            found[name] = changed
    return found


def collect(workdir):
    """Cells of all runs of a workspace, and the runs left out of them: ([Cell], [Left]).

    A run is left out when it is unfinished, when the split in the workspace is not the one it was made from, or when
    another run has since been made from a newer version of one of its inputs (the embedding).
    """
    manifests, cells, left = runs.find_runs(workdir), {}, []
    changed = changed_inputs(workdir, manifests)
    for name, config in manifests:
        if "recommender" not in config:
            left.append(Left(name, "its config.json names no recommender", "foreign"))
            continue
        request = dict(config.get("request", {}))
        shuffled = runs.is_shuffled(request)
        repeats = (*REPEATS, "model") if config.get("embedding") else REPEATS
        shared = {k: v for k, v in sorted(request.items()) if k not in repeats}
        key = (config["recommender"], config.get("embedding") or "", shuffled, json.dumps(shared),
               json.dumps(sorted(config.get("sources", {}).items())))
        cell = cells.setdefault(key, Cell(key[0], config.get("embedding"), shuffled, shared))
        if "departures" in config:
            cell.departures = {k: v for k, v in config["departures"].items() if k not in repeats}
        if config.get("status") == "finished" and name not in changed:
            cell.runs.append((name, config))
            continue
        left.append(Left(name, f"{changed[name][0]} changed since", "stale") if name in changed else
                    Left(name, "unfinished", "unfinished"))
    _name_sources(cells)
    return [cells[key] for key in sorted(cells)], left


def _name_sources(cells):
    """Of cells that differ by the runs they read alone, say which those are, beside their arguments."""
    for _, twins in itertools.groupby(sorted(cells), key=lambda key: key[:4]):
        if len(twins := list(twins)) > 1:
            for key in twins:
                cells[key].departures = {**unlike_defaults(cells[key]), "reads": " ".join(
                    run for _, run in json.loads(key[4]))}


def cell_named(cells, left, text):
    """The cell that a run's name, or a beginning of names, points at; UsageError when it is none or several."""
    named = [(name, cell) for cell in cells for name, _ in cell.runs]
    matches = [pair for pair in named if pair[0] == text] or [pair for pair in named if pair[0].startswith(text)]
    if len({id(cell) for _, cell in matches}) == 1:
        return matches[0][1]
    if matches:
        some = ", ".join(name for name, _ in matches[:3]) + (", ..." if len(matches) > 3 else "")
        raise UsageError(f"{text!r} begins the names of runs of different requests ({some}); name one of them")
    if reasons := [run.reason for run in left if run.name == text]:
        raise UsageError(f"run {text} is left out of the tables ({reasons[0]}); run it again")
    names = [name for name, _ in named]
    near = difflib.get_close_matches(text, names, n=3, cutoff=0.4) or names[:3]
    raise UsageError(f"no finished run {text!r}; there are {len(names)}, among them {', '.join(near)}")


def repeat_numbers(cell):
    """The seed of each repeat of a cell, in the order of its runs; of a control, that of its permutation."""
    requests = [config.get("request", {}) for _, config in cell.runs]
    return [r["shuffle"] if type(r.get("shuffle")) is int else r.get("seed") for r in requests]


def sources_of(cell):
    """The runs whose factors or lists a cell's runs read, a set of tuples ((word, run), ..); empty tuples of none."""
    return {tuple(sorted(config.get("sources", {}).items())) for _, config in cell.runs}


def val_means(workdir, cell, columns, part="val"):
    """A cell's means of metrics on val (or cold_val) over its repeats, {column: mean}, NaN where a run has none."""
    known = []
    for name, config in cell.runs:
        stems = [f"{name}_{part}"] if part in config.get("parts", []) else []
        stems += [own] if f"metrics/{(own := f'{name}_{part}_points')}.csv" in config.get("outputs", ()) else []
        remedy, means = again(Path(workdir), name, part), {}
        for stem in stems:
            means |= read_means(Path(workdir) / "metrics" / f"{stem}.csv", remedy)
        known.append(means)
    return {column: float(np.mean([means.get(column, np.nan) for means in known])) for column in columns}


def unlike_defaults(cell):
    """Arguments of a cell that are not its script's defaults, {} where these are not known: {name: value}.

    Its runs recorded them when they started; for runs of earlier versions the script's present defaults are read.
    """
    if cell.departures is not None:
        return cell.departures
    usual = registry.defaults(cell.recommender)
    return runs.departures(cell.request, usual) if usual else {}


class Values:
    """Figures of cells out of metrics/, all on one set of users (int64 (U,), None before the first).

    lengths: every k that some run has figures of
    """

    def __init__(self, workdir, part, columns):
        self.folder, self.part, self.columns = Path(workdir) / "metrics", part, list(columns)
        self.users = self.first = None
        self.known, self.lengths, self.seeds = {}, set(), {}

    def of(self, cell):
        """{column: Figure} of a cell in this part, without the columns that not all of its runs have.

        Raises WorkError when its users, or the subsets of a column, are not those of the cells before, or a file is
        gone.
        """
        if id(cell) not in self.known:
            repeats = [self._read(name, config) for name, config in cell.runs]
            for (name, _), (frame, _) in zip(cell.runs, repeats, strict=True):
                self._check_seeds(name, frame.attrs.get("seeds", {}))
            self.known[id(cell)] = self._figures(repeats)
        return self.known[id(cell)]

    def _check_seeds(self, name, seeds):
        """WorkError where a column of this run rests on another draw than that of the runs before."""
        for column in (c for c in self.columns if c in seeds):
            first, seed = self.seeds.setdefault(column, (name, seeds[column]))
            if seed != seeds[column]:
                raise WorkError(f"{column} of {name} is of subsets drawn with seed {seeds[column]}, that of {first} "
                                f"with seed {seed}; a table needs the same in every row, so evaluate all runs again "
                                f"with python metrics.py --subset-size {column.split('@')[1]}")

    def _figures(self, repeats):
        figures = {}
        for column in self.columns:
            if all(column in users for users, _ in repeats):
                table = np.stack([users[column] for users, _ in repeats])            # (repeats, U)
                means, each = mean_and_half_width(table.T)[0], table.mean(axis=0)
                of_users = mean_and_half_width(each)[1]
            elif all(column in means for _, means in repeats):
                means, of_users = [means[column] for _, means in repeats], np.nan    # of all users together
                each = table = None
            else:
                continue
            mean, of_seeds = mean_and_half_width(means)
            figures[column] = Figure(float(mean), float(of_users), float(of_seeds), len(repeats), each, table,
                                     np.asarray(means, np.float64))
        return figures

    def _read(self, name, config):
        """Values of the users of one run (frame), and the means: its metrics, joined with what it measured itself."""
        remedy = again(self.folder.parent, name, self.part)
        frame, means = read_metrics(self.folder / f"{name}_{self.part}.csv", remedy)
        own = self.folder / f"{name}_{self.part}_points.csv"
        if f"{self.folder.name}/{own.name}" in config.get("outputs", ()):   # else it is another run's
            has_lists = (self.folder.parent / "preds" / f"{name}_{self.part}.pqt").exists()
            more, their_means = read_metrics(
                own, f"run {config['recommender']} again, which makes them" if has_lists else remedy)
            more = more[more["user_id"].isin(frame["user_id"])]
            frame = frame[[c for c in frame if c == "user_id" or c not in more]].merge(more, how="left", on="user_id")
            means = their_means.combine_first(means)
        users = frame["user_id"].to_numpy()
        if self.users is None:
            self.users, self.first = users, name
        elif not np.array_equal(users, self.users):
            raise WorkError(f"{self.part}: {name} was evaluated on {len(users)} users and {self.first} on "
                            f"{len(self.users)}, {len(np.intersect1d(users, self.users))} of them the same; a table "
                            "needs the same users in every row, so evaluate all runs again with python metrics.py")
        frame.attrs["seeds"] = seeds_of(self.folder / f"{name}_{self.part}.csv")
        self.lengths.update(int(match[1]) for column in frame if (match := re.fullmatch(r"\w+@([0-9]+)", column)))
        return frame, means
