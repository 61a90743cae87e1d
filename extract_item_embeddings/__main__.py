"""All backends: list them, or run several in one pass over the audio.

    python -m extract_item_embeddings --list
    python -m extract_item_embeddings mfcc musicnn "mert --size 95M --weights DIR" --audio DIR [--workdir DIR]

A backend is named by its script (m2v) or its embedding (music2vec); a backend with its own options is one quoted
argument. The other options apply to all of them. Each file is decoded once, resampled once per sample rate, and
processed by each backend in its own batches, so every matrix has the same bytes as from its own script. Models that do
not fit into memory together run in separate passes. Shards, --merge and resumption work as for one backend.
"""
import argparse
import importlib
import re
import shlex
import sys
from pathlib import Path

from extract_item_embeddings.engine import extraction
from harness import cli
from harness.errors import UsageError
from harness.machine import free_memory

FOLDER = Path(__file__).parent
ENTRY_POINT = re.compile(r"^ +(?:return )?extraction\.main\((\w+), __doc__", re.MULTILINE)


def backends():
    """{script: its Backend class} of all files here that pass one to extraction.main; nothing heavy is imported."""
    classes = {}
    for path in sorted(FOLDER.glob("*.py")):
        if match := ENTRY_POINT.search(path.read_text(encoding="utf-8")):
            classes[path.stem] = getattr(importlib.import_module(f"extract_item_embeddings.{path.stem}"), match[1])
    return classes


# --------------------------------------------------------------------------- the table

def table():
    """Rows (embedding, script, dimension, rate, licence of the weights, state) of all published embeddings."""
    rows = [("embedding", "script", "dimension", "rate", "licence", "state")]
    for script, kind in backends().items():
        for flags in kind.VARIANTS:
            args = extraction.parser(kind, "").parse_args(flags)
            backend = kind(args)
            missing = backend.missing()
            rows.append((extraction.default_name(backend, args), " ".join((f"{script}.py", *flags)),
                         str(next(iter(backend.outputs().values()))), f"{backend.SAMPLE_RATE:,} Hz", backend.licence(),
                         f"missing: {missing}" if missing else "ready"))
    return rows


def show():
    rows = table()
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    for row in rows:
        print("  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[5]]))
    print("\nwithout audio:")
    for path in sorted(FOLDER.glob("*.py")):
        text = path.read_text(encoding="utf-8")
        if path != Path(__file__) and "cli.run(main)" in text and not ENTRY_POINT.search(text):
            print(f"  {path.name}  {text.partition(chr(10))[0].strip(chr(34))}")


# --------------------------------------------------------------------------- several at once

def task(word, shared, kinds):
    """The extraction.Task of one argument, such as `mfcc` or `mert --size 95M`."""
    try:
        script, *flags = shlex.split(word)
    except ValueError as e:
        raise UsageError(f"{word!r} is not a backend with options ({e}); check its quotes") from None
    by_name = {kind.NAME: kind for kind in kinds.values()}
    kind = kinds.get(script) or by_name.get(script)
    if kind is None:
        raise UsageError(f"there is no backend {script!r}; choose from {', '.join(kinds)}")
    parser = cli.Parser(prog=f"{Path(sys.argv[0]).name}: {script}", usage=argparse.SUPPRESS)
    extraction.own_flags(parser, kind)
    args = argparse.Namespace(**{**vars(shared), **vars(parser.parse_args(flags))})
    extraction.check(args)
    return extraction.Task(kind(args), args)


def in_passes(tasks, room):
    """The tasks in order, in lists whose models need at most `room` bytes together (one alone may need more)."""
    passes, used = [[]], 0
    for each in tasks:
        need = each.backend.memory()
        if passes[-1] and used + need > room:
            passes.append([])
            used = 0
        passes[-1].append(each)
        used += need
    return passes


def room_for(tasks, device):
    """Free bytes of the device's memory; 0, without a query, if no backend needs any."""
    if not any(each.backend.memory() for each in tasks):
        return 0
    place = cli.pick_device(device)
    if place.type == "cuda":
        import torch
        return torch.cuda.mem_get_info(place)[0]
    return free_memory()


def main(argv=None):
    parser = cli.Parser(prog="extract_item_embeddings", description=__doc__)
    parser.add_argument("backend", nargs="*", metavar="BACKEND",
                        help="name of a script or embedding; with its own options as one quoted argument")
    parser.add_argument("--list", action="store_true",
                        help="print the table of backends and for each whether it is ready or what is missing")
    extraction.shared_flags(parser)
    cli.common_flags(parser, seed=False, device=True)
    args = parser.parse_args(argv)
    if args.list:
        return show()
    if not args.backend:
        raise UsageError("name one or more backends, or use --list")
    kinds = backends()
    tasks = [task(word, args, kinds) for word in args.backend]
    names = [each.name for each in tasks]
    if twice := next((n for n in names if names.count(n) > 1), None):
        raise UsageError(f"two backends would write embeddings/{twice}.npy; give one of them a --name")
    if args.merge:
        return extraction.run(tasks)
    for each in tasks:
        _ = each.request  # report missing weights now, not after hours of other backends
    files = [each.name + suffix for each in tasks for suffix in each.backend.outputs()]
    if twice := next((n for n in files if files.count(n) > 1), None):
        raise UsageError(f"two backends would write embeddings/{twice}.npy; give one of them a --name")
    passes = in_passes(tasks, room_for(tasks, args.device))
    if len(passes) > 1:
        print(f"{len(passes)} passes over the audio, because the models do not fit into memory together: "
              f"{'; '.join(', '.join(each.name for each in group) for group in passes)}", file=sys.stderr)
    for group in passes:
        extraction.run(group)
    return None


if __name__ == "__main__":
    cli.run(main)
