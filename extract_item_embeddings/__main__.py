"""All backends: the table of them, and several in one pass over the audio.

    python -m extract_item_embeddings --list
    python -m extract_item_embeddings mfcc musicnn "mert --size 95M --weights DIR" --audio DIR [--workdir DIR]

A backend is named by its script (m2v) or its embedding (music2vec); one with flags of its own is one quoted word. The
flags behind the list are for all of them. Each file is decoded once, resampled once per rate, and heard by each
backend in its own batches, so every matrix is, byte for byte, the one of its script alone. Models that do not fit into
memory together get passes of their own. Shards, --merge, interruption and resumption are as for one backend.
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
DOOR = re.compile(r"^ +(?:return )?extraction\.main\((\w+), __doc__", re.MULTILINE)


def backends():
    """{script: its Backend class} of all files here that hand one to extraction.main; nothing heavy is imported."""
    found = {}
    for path in sorted(FOLDER.glob("*.py")):
        if match := DOOR.search(path.read_text(encoding="utf-8")):
            found[path.stem] = getattr(importlib.import_module(f"extract_item_embeddings.{path.stem}"), match[1])
    return found


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
        if path != Path(__file__) and "cli.run(main)" in text and not DOOR.search(text):
            print(f"  {path.name}  {text.partition(chr(10))[0].strip(chr(34))}")


# --------------------------------------------------------------------------- several at once

def task(word, shared, kinds):
    """The extraction.Task of one word of the list, such as `mfcc` or `mert --size 95M`."""
    try:
        script, *flags = shlex.split(word)
    except ValueError as e:
        raise UsageError(f"{word!r} is no backend with flags ({e})") from None
    by_name = {kind.NAME: kind for kind in kinds.values()}
    kind = kinds.get(script) or by_name.get(script)
    if kind is None:
        raise UsageError(f"no backend {script!r}; there are {', '.join(kinds)}")
    parser = cli.Parser(prog=f"{Path(sys.argv[0]).name}: {script}", usage=argparse.SUPPRESS)
    extraction.own_flags(parser, kind)
    args = argparse.Namespace(**{**vars(shared), **vars(parser.parse_args(flags))})
    extraction.check(args)
    return extraction.Task(kind(args), args)


def in_passes(tasks, room):
    """The tasks in order, cut into lists whose models need no more than `room` bytes (one alone may)."""
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
    """Bytes free where the models will be; asked only when there are models."""
    if not any(each.backend.memory() for each in tasks):
        return 0
    place = cli.pick_device(device)
    if place.type == "cuda":
        import torch
        return torch.cuda.mem_get_info(place)[0]
    return free_memory()


def main(argv=None):
    parser = cli.Parser(prog="extract_item_embeddings", description=__doc__)
    parser.add_argument("backend", nargs="*", help="script or embedding, with flags of its own as one quoted word")
    parser.add_argument("--list", action="store_true", help="print the table of backends: ready, or what is missing")
    extraction.shared_flags(parser)
    cli.common_flags(parser, seed=False, device=True)
    args = parser.parse_args(argv)
    if args.list:
        return show()
    if not args.backend:
        raise UsageError("name one backend or several, or --list them")
    kinds = backends()
    tasks = [task(word, args, kinds) for word in args.backend]
    names = [each.name for each in tasks]
    if twice := next((n for n in names if names.count(n) > 1), None):
        raise UsageError(f"two of these would write embeddings/{twice}.npy; give one a --name")
    if args.merge:
        return extraction.run(tasks)
    for each in tasks:
        _ = each.request  # what is missing is said now, not after the hours of those before it
    passes = in_passes(tasks, room_for(tasks, args.device))
    if len(passes) > 1:
        print(f"{len(passes)} passes over the audio, because the models do not fit into memory together: "
              f"{'; '.join(', '.join(each.name for each in group) for group in passes)}", file=sys.stderr)
    for group in passes:
        extraction.run(group)
    return None


if __name__ == "__main__":
    cli.run(main)
