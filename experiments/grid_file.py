"""Grid files: their form, checked in full before anything is made of them; slurm/grids/demo.yaml explains it."""
import datetime
import reprlib
import shlex

from experiments.expand import Block
from harness.errors import UsageError
from harness.files import expanded
from harness.readers import read_yaml
from harness.registry import load

SCALARS = (str, int, float, datetime.date)  # bool is an int; None leaves a flag out


def read(path):
    """A grid file -> its dictionary; UsageError names the place and the fact."""
    path = expanded(path)
    if not path.is_file():
        raise UsageError(f"--file {path} is no file")
    document = read_yaml(path)
    if not isinstance(document, dict) or not document:
        raise UsageError(f"{path} should hold `blocks:` (a list), `extract:` and `split:`; it holds none of them")
    keys(path, document, {"blocks", "extract", "split"})
    if document.get("split") is not None:
        words_of_split(document["split"], f"{path}, split")
    if (extract := document.get("extract")) is not None:
        check_extract(f"{path}, extract", extract)
    if (blocks := document.get("blocks")) is not None:
        if not isinstance(blocks, list):
            raise UsageError(f"{path}, blocks should be a list of entries with a script each, not {short(blocks)}")
        for i, block in enumerate(blocks):
            check_block(f"{path}, block {i + 1}", block)
    return document


def check_extract(where, extract):
    keys(where, extract, {"backends", "shards", "flags"})
    backends, shards = extract.get("backends"), extract.get("shards")
    if backends is not None and not (isinstance(backends, list) and all(isinstance(b, str) for b in backends)):
        raise UsageError(f"{where}: backends should be a list of names, not {short(backends)}")
    if shards is not None and (not isinstance(shards, int) or isinstance(shards, bool) or shards < 1):
        raise UsageError(f"{where}: shards should be a whole number of at least 1, not {short(shards)}")
    values(f"{where}, flags", extract.get("flags"))


def check_block(where, block):
    keys(where, block, {"script", "grid", "set", "places"})
    if not block.get("script"):
        raise UsageError(f"{where} names no script")
    if not isinstance(block["script"], str):
        raise UsageError(f"{where}: script is train.py or recommenders.NAME, not {short(block['script'])}")
    values(f"{where}, grid", block.get("grid"), nested=True)
    values(f"{where}, set", block.get("set"))
    places = block.get("places")
    if places is not None and not (isinstance(places, list) and all(scalar(p) and p is not None for p in places)):
        raise UsageError(f"{where}: places should be a list of words, not {short(places)}")


def keys(where, value, known=None):
    """UsageError unless `value` is a mapping, with no key beside the known ones."""
    if not isinstance(value, dict):
        raise UsageError(f"{where} should be `key: value` lines, not {short(value)}")
    unknown = sorted(str(k) for k in value if known is not None and k not in known)
    if unknown:
        raise UsageError(f"{where}: unknown key {reprlib.repr(', '.join(unknown))[1:-1]}; "
                         f"expected {', '.join(sorted(known))}")


def values(where, flags, nested=False):
    """UsageError unless `flags` is {flag: value or list of values}; nested: a list may hold lists (of words)."""
    if flags is None:
        return
    keys(where, flags)
    for flag, value in flags.items():
        entries = value if isinstance(value, list) else [value]
        inner = [e for entry in entries for e in (entry if nested and isinstance(entry, list) else [entry])]
        if not isinstance(flag, str) or not all(map(scalar, inner)):
            raise UsageError(f"{where}: {short(flag)} should be a flag with a value or a list of values, "
                             f"not {short(value)}")


def scalar(value):
    if isinstance(value, int):
        return abs(value) < 10 ** 18
    return value is None or isinstance(value, SCALARS)


def short(value):
    """A value in a sentence, cut where it is long or deep."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python refuses to write integers of more than 4,300 digits
        return "a number of thousands of digits"


def words_of_split(text, where):
    """The words of --split, which come as one text; UsageError where a quote stays open."""
    if not isinstance(text, str):
        raise UsageError(f"{where} should be flags of preprocess/1_train_test_split.py in one text, not {short(text)}")
    try:
        return shlex.split(text)
    except ValueError as e:
        raise UsageError(f"{where}: {short(text)} cannot be split into words ({e})") from None


def blocks_of(document, extra):
    """The blocks of a file; `extra` (--set) overrides wherever the script has the flag."""
    used, blocks = set(), []
    for entry in document.get("blocks") or []:
        block = Block(entry["script"], dict(entry.get("grid") or {}), dict(entry.get("set") or {}),
                      tuple(map(str, entry.get("places") or ())))
        module = load(block.script)
        known = {o.removeprefix("--") for a in module.build_parser()._actions for o in a.option_strings} \
            if hasattr(module, "build_parser") else set(extra)
        for name in (n for n in extra if n in known):
            for part in (block.grid, block.fixed):
                for key in [k for k in part if k.replace("_", "-") == name]:
                    del part[key]
            block.fixed[name] = extra[name]
            used.add(name)
        blocks.append(block)
    unknown = sorted(set(extra) - used)
    if unknown:
        raise UsageError(f"--set {unknown[0]}: no script of the file has this flag")
    return blocks
