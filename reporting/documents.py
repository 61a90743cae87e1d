"""Render the tables and figures of README.md and docs/ that name a file of results/: make docs.

    python -m reporting.documents                          write every page whose tables have changed
    python -m reporting.documents --check                  write nothing; exit status 1 where a page differs
    python -m reporting.documents --add work/lastfm-audio  store a workspace's tables in results/, with checksums

In a page stands

    <!-- table: file=results/demo/results_test.csv kind=board columns=NDCG@10,HitRate@50 -->
    | the lines, | written here |
    <!-- /table -->

and within a sentence <!-- value: file=.. method=knn representation=vggish metric=NDCG@10 -->.0391<!-- /value -->, also
with shuffled=yes, field=worth or another column, and digits=2; of a bench's file (reporting/bench_tables.py) what=..
names the row, with _ for blanks. file=A,B names two files of one split, where runs were made in two batches; tests of
each are corrected within it. A file that is missing, or that is not the one stored, is refused: nothing is measured
again.
"""
import contextlib
import re
from pathlib import Path

from harness import cli
from harness.errors import UsageError, WorkError
from harness.files import expanded, write_text
from harness.readers import reason
from reporting import bench_tables, stored, stored_tables

TABLE = re.compile(r"(<!-- table: (.*?) -->\n)(.*?)(<!-- /table -->)", re.S)
VALUE = re.compile(r"(<!-- value: (.*?) -->)(.*?)(<!-- /value -->)", re.S)


def build_parser():
    parser = cli.Parser(prog="reporting.documents", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; the exit status is 1 where a page differs")
    parser.add_argument("--add", metavar="WORKDIR", help="store this workspace's tables in results/ first")
    parser.add_argument("--name", metavar="NAME", help="with --add: folder of results/ (default: the workspace's own)")
    return parser


def parse(argv=None):
    """The command line; UsageError for flags that do not go together."""
    args = build_parser().parse_args(argv)
    if args.add is not None and not args.add.strip():
        raise UsageError("--add needs the folder of a workspace, such as work/lastfm-audio")
    if args.add and args.check:
        raise UsageError("--check writes nothing, and --add stores; leave out one of them")
    if args.name is not None and not args.add:
        raise UsageError("--name is the folder that --add stores into; add --add WORKDIR")
    return args


def pages(root):
    """README.md and the pages of docs/, Paths."""
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def rendered(text, where, root=stored.ROOT):
    """A page with its tables and values from results/; WorkError, with the page's name, where one cannot be made."""
    def table(match):
        before = [_cells(line) for line in match[3].splitlines() if line.startswith("|")]
        options = _options(match[2], where)
        with _in_page(where, match[2]):
            frame = _frame(options, root)
            lines = (bench_tables if "what" in frame else stored_tables).lines_of(options, frame, before)
        return match[1] + "".join(f"{line}\n" for line in lines) + match[4]

    def value(match):
        options = _options(match[2], where)
        with _in_page(where, match[2]):
            return match[1] + _value(options, _frame(options, root)) + match[4]
    if len(re.findall("<!-- (?:table|value): ", text)) != len(TABLE.findall(text)) + len(VALUE.findall(text)):
        raise WorkError(f"{where}: a table or value has no end (<!-- /table -->, <!-- /value -->)")
    return VALUE.sub(value, TABLE.sub(table, text))


def _frame(options, root):
    """The csv that file= names; of several, separated by commas, all lines, those of the same runs once, of the first.

    WorkError where two are of different splits: their lines cannot be compared.
    """
    import pandas as pd
    names = options.get("file", "").split(",")
    frames = [stored.read(name, root) for name in names]
    if all("what" in frame for frame in frames):    # rows of benches
        return pd.concat(frames, ignore_index=True)
    for name, frame in zip(names[1:], frames[1:], strict=True):
        if set(frame["split_sha256"]) != set(frames[0]["split_sha256"]):
            raise WorkError(f"{name} and {names[0]} are of different splits; a table needs the same in every line")
    if len(frames) == 1:
        return frames[0]
    every = pd.concat(frames, ignore_index=True)
    return every.drop_duplicates([c for c in ("runs", "metric", "k", "segment") if c in every], ignore_index=True)


@contextlib.contextmanager
def _in_page(where, comment):
    """Put the page's name before an error; options that do not fit the file, such as a kind made of other columns or a
    number that is none, are one, too."""
    try:
        yield
    except WorkError as e:
        raise WorkError(f"{where}: {e}") from None
    except (LookupError, TypeError, ValueError, AttributeError) as e:
        raise WorkError(f"{where}: `{comment[:200]}` does not fit its file ({type(e).__name__}: {reason(e)})") from None


def _cells(line):
    return [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]


def _options(text, where):
    words = text.split()
    if not all("=" in word for word in words):
        raise WorkError(f"{where}: a table is described by key=value words, not {text[:80]!r}")
    return dict(word.split("=", 1) for word in words)


def _value(options, frame):
    if "what" in frame:
        return bench_tables.value(options, frame)
    line = stored_tables._line(frame, options.get("metric", "NDCG@10"), options.get("method", ""),
                              stored_tables._named(options.get("representation", "")), options.get("shuffled") == "yes")
    if line is None or options.get("field", "mean") not in line:
        raise WorkError(f"{options.get('file')} has no {options.get('field', 'mean')} of {options.get('method')} "
                        f"{options.get('representation', '')}".rstrip())
    return stored_tables.leading_zero_off(f"{line[options.get('field', 'mean')]:.{int(options.get('digits', 4))}f}")


def main(argv=None, root=stored.ROOT):
    args = parse(argv)
    if args.add:
        workdir = expanded(args.add).absolute()
        names = stored.add(workdir, workdir.name if args.name is None else args.name, root)
        print(f"stored: {' '.join(names)}")
    changed = []
    for path in pages(root):
        before = path.read_text(encoding="utf-8")
        after = rendered(before, path.relative_to(root).as_posix(), root)
        if after != before:
            changed.append(path)
            if not args.check:
                write_text(path, after)
    names = " ".join(Path(path).relative_to(root).as_posix() for path in changed)
    if args.check and changed:
        raise WorkError(f"{names} differs from results/; make docs writes it again")
    print(f"written: {names}" if changed else "every table is as its file in results/")


if __name__ == "__main__":
    cli.run(main)
