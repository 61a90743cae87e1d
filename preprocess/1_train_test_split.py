"""Stage 2, second step: split plays.pqt into data/train.pqt, val.pqt, test.pqt and, of some protocols, cold parts.

    python preprocess/1_train_test_split.py --protocol recsys24 --workdir W
    python preprocess/1_train_test_split.py --protocol hotcold --test-date 2019-02-01 --tracks-with musicnn mert

One row per (user, track): user_id, track_id, timestamp (first play in the window), count (plays in it), sorted.
Also written: stats.csv (counts of each part), split.json (the request, its inputs, what was left out), where a protocol
is evaluated otherwise than the rest, rules.json (see dataset.RULES), and with --train-share hidden.pqt, the pairs that
it took out of train: nothing is trained on them, and they are no candidates, as their users did play them.

protocols (source and exact rules: protocols.py)
  recsys24       train year, test month; test users halved into val and test
  hotcold        the same, with the pairs of tracks absent from train as cold_test
  random         a random share of each user's pairs, regardless of time
  cold-items     random shares of the items, drawn within tenths of popularity, lose all their plays to cold_test and
                 cold_val; the other items are split as in random or, with a date, as in recsys24. Ids of the same title
                 and artist (items.pqt) are one item. Test and cold_test together are the part all_test
  leave-one-out  each user's last track is test, the second to last val; as published, tracks absent from train stay
                 candidates and in the truth (--unseen), and the val track belongs to the history at test
  yambda         Yambda's official split by time: a day of test, half an hour's gap, a day of val, another gap
                 (--final: no val, train up to the first gap); test pairs of tracks absent from train and of tracks
                 that the user has played before stay, and nothing seen is hidden from the lists
  given          the parts of a published split (split.pqt of the workspace, or --split FILE)
"""
if __package__ in (None, ""):
    import sys
    from pathlib import Path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import harness.environment  # noqa: F401 (a missing package ends in one sentence)

import functools
import sys
from datetime import datetime, timedelta
from pathlib import Path

from harness import cli
from harness.errors import UsageError, WorkError
from harness.machine import versions
from harness.readers import read_json
from harness.run_files import FILE_PARTS
from preprocess import splitting, stage, typed
from preprocess.splitting import DATED, DATES, RULES, SHARES
from preprocess.typed import FIRST_YEAR, LAST_YEAR

USES = {"recsys24": {*DATES, "val_share"}, "hotcold": {*DATES, "val_share"}, "random": {"val_share", "test_share"},
        "cold-items": {*DATES, *SHARES},
        "leave-one-out": {"unseen"}, "yambda": {"final"}, "given": {"split"}}
DEFAULTS = {"recsys24": {"train_start": "2019-02-20", "test_date": "2020-02-20", "val_share": 0.5},
            "hotcold": {"test_date": "2019-02-01", "val_share": 0.3},
            "random": {"val_share": 0.1, "test_share": 0.1},
            "cold-items": {"cold_share": 0.15, "cold_val_share": 0.05, "val_share": 0.1, "test_share": 0.1},
            "leave-one-out": {"unseen": "keep"}, "yambda": {"final": False}}
ALL_PARTS = ("train", *FILE_PARTS)


def build_parser():
    parser = cli.Parser(prog="1_train_test_split.py", description=__doc__)
    parser.add_argument("--protocol", choices=USES, default="recsys24",
                        help="protocol of the split, as described above (default recsys24)")
    dates = parser.add_argument_group("dates (recsys24, hotcold; cold-items if wanted), as 2020-02-20 or "
                                      "'2020-02-20 12:00:00', UTC")
    dates.add_argument("--train-start", metavar="DATE",
                       help="start of the train period, inclusive (default: recsys24 2019-02-20; hotcold one year "
                            "before the test date; cold-items the start of the log)")
    dates.add_argument("--test-date", metavar="DATE",
                       help="start of the test period, inclusive (default: recsys24 2020-02-20; hotcold 2019-02-01)")
    dates.add_argument("--test-end", metavar="DATE", help="end of the test period, exclusive "
                       "(default: recsys24 the end of the log; hotcold one month after the test date)")
    dates.add_argument("--test-share-time", type=cli.number(0, above=True, below=1), metavar="FLOAT",
                       help="instead of dates: the last share of the log's time span is the test period, such as .1; "
                            "train is what comes before it (above 0, below 1)")
    _add_shares(parser.add_argument_group("shares (fractions from 0 to 1)"))
    other = parser.add_argument_group("data")
    other.add_argument("--unseen", choices=("keep", "drop"),
                       help="leave-one-out: held-out tracks absent from train stay in the truth and among the "
                            "candidates, as in publications, or are dropped (default keep)")
    other.add_argument("--final", action="store_true", default=None,
                       help="yambda: train on all plays before the gap that precedes the test day, without a val part, "
                            "as the official protocol does with the selected setting")
    other.add_argument("--tracks-with", nargs="+", default=[], metavar="NAME",
                       help="restrict the data set to tracks with a finite row in each of these embeddings")
    other.add_argument("--k-core", type=cli.whole_number(2), metavar="N",
                       help="keep the users and items that have N pairs each among themselves, before splitting "
                            "(default: all)")
    other.add_argument("--split", type=Path, metavar="FILE",
                       help="given: published split, a table of user_id, track_id, part (default: the workspace's "
                            "split.pqt)")
    other.add_argument("--expect", type=Path, metavar="FILE",
                       help="stats.csv with the expected counts; if they differ, exit status 1 and nothing is written")
    _add_partitions(parser.add_argument_group("partitions of the users"))
    stage.add_memory_flag(cli.common_flags(parser))
    return parser


def _add_partitions(group):
    group.add_argument("--partitions", type=cli.positive, metavar="N",
                       help="divide the users into N partitions by a hash of their ids, and make and join them; the "
                            "parts are the same, and what is finished is kept when the command is interrupted")
    group.add_argument("--partition", type=cli.whole_number(0), nargs="+", metavar="I",
                       help="with --partitions: make these of the partitions, from 0 to N - 1, and join nothing; one "
                            "task each on a cluster")
    group.add_argument("--merge", action="store_true",
                       help="with --partitions: join the finished partitions into the parts, and remove them")


def _add_shares(shares):
    shares.add_argument("--val-share", type=float, metavar="FRACTION",
                        help="share held out for val (recsys24: of the test users, default .5; hotcold: of the test "
                             "users without a cold pair, default .3; random, cold-items: of each user's pairs, "
                             "default .1; cold-items with a date: of the test users, default .5)")
    shares.add_argument("--test-share", type=float, metavar="FRACTION",
                        help="random, cold-items: share of each user's pairs held out for test (default .1)")
    shares.add_argument("--cold-share", type=float, metavar="FRACTION",
                        help="cold-items: share of the items whose plays are all in cold_test (default .15)")
    shares.add_argument("--cold-val-share", type=float, metavar="FRACTION",
                        help="cold-items: share of the items whose plays are all in cold_val (default .05)")
    shares.add_argument("--train-share", type=float, default=1.0, metavar="FRACTION",
                        help="share of each user's train pairs to keep, above 0, for scaling studies (default 1)")


# --------------------------------------------------------------------------- the request

def _settings(args):
    """The protocol's settings with its defaults; an option that does not apply to it is a UsageError."""
    given = {name: getattr(args, name) for name in (*DATES, *SHARES, "split", "unseen", "final")}
    for name, value in given.items():
        if value is not None and name not in USES[args.protocol]:
            raise UsageError(f"--{name.replace('_', '-')} does not apply to --protocol {args.protocol}; leave it out")
    share, dated_items = args.test_share_time, args.protocol == "cold-items" and splitting.by_date(args)
    if args.k_core and args.protocol == "given":
        raise UsageError("--k-core does not apply to --protocol given, whose parts are published; leave it out")
    if dated_items and args.test_share is not None:
        raise UsageError("--test-share does not apply where a date says what is test; leave it out")
    if dated_items and args.test_date is None and share is None:
        raise UsageError(f"--{'train-start' if args.train_start else 'test-end'} goes with --test-date; add it, or "
                         "leave out all dates for shares of each user's pairs")
    if share is not None and args.protocol not in (*DATED, "cold-items"):
        raise UsageError(f"--test-share-time does not apply to --protocol {args.protocol}; leave it out")
    if share is not None and (dated := [name for name in DATES if given[name] is not None]):
        raise UsageError(f"--test-share-time takes the dates from the log; leave out --{dated[0].replace('_', '-')}")
    default = DEFAULTS.get(args.protocol, {}) | ({"val_share": 0.5, "test_share": 0.0} if dated_items else {})
    if share is not None:
        default = {name: value for name, value in default.items() if name not in DATES}
    settings = {name: given[name] if given[name] is not None else default.get(name)
                for name in given if name in USES[args.protocol]}
    for name in DATES:
        if settings.get(name):
            settings[name] = _date(settings[name], name)
    if args.protocol == "hotcold" and share is None:
        settings["train_start"] = settings["train_start"] or _shift(settings["test_date"], "- interval 1 year")
        settings["test_end"] = settings["test_end"] or _shift(settings["test_date"], "+ interval 1 month")
    if splitting.by_date(args):
        order = [settings[name] for name in DATES if settings[name]]
        if order != sorted(set(order)):
            raise UsageError(f"--train-start, --test-date and --test-end must increase, but are {', '.join(order)}")
    if not 0 < args.train_share <= 1:
        raise UsageError(f"--train-share must be above 0 and at most 1, not {args.train_share:g}")
    _check_shares(settings)
    return settings


def _dates_of_the_log(args, settings, plays, name):
    """The settings with the dates of --test-share-time filled in and printed.

    UsageError where the dates would be Music4All's and the data set is another one.
    """
    from preprocess import protocols
    own = [n for n in DATES if getattr(args, n) is not None]
    if not splitting.by_date(args) or args.protocol in DATED and (
            own or args.test_share_time is None and name in (None, "music4all")):
        return settings
    first, last = protocols.span(plays)
    if own:
        return {**settings, "train_start": settings["train_start"] or str(first)}
    if args.test_share_time is None:
        raise UsageError(f"the dates of --protocol {args.protocol} are those of Music4All, and these plays run from "
                         f"{first} to {last}; give --test-date, or --test-share-time .1 for the last tenth")
    if first is None:
        raise WorkError("plays.pqt has no plays with times, so there is nothing to split; run 0_get_plays_pqt.py again")
    test = str((last - (last - first) * args.test_share_time).replace(microsecond=0))
    print(f"test begins on {test}: the last {args.test_share_time:g} of {first} to {last}")
    end = str(last + timedelta(microseconds=1)) if args.protocol == "hotcold" else None
    return {**settings, "train_start": str(first), "test_date": test, "test_end": end}


def _date(text, name):
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is not None:
        raise UsageError(f"--{name.replace('_', '-')} {text} is not a date in UTC; write it like 2020-02-20")
    if not FIRST_YEAR <= moment.year <= LAST_YEAR:
        raise UsageError(f"--{name.replace('_', '-')} {text} is outside of the years {FIRST_YEAR} to {LAST_YEAR}")
    return moment.isoformat(sep=" ")


def _shift(date, interval):
    import duckdb
    return str(duckdb.execute(f"select ?::timestamp {interval}", [date]).fetchone()[0])


def _check_shares(settings):
    shares = {name: settings[name] for name in SHARES if name in settings}
    for name, share in shares.items():
        if not 0 <= share < 1 or name == "cold_share" and not share:
            least = "above 0" if name == "cold_share" else "at least 0"
            raise UsageError(f"--{name.replace('_', '-')} must be {least} and below 1, not {share:g}")
    for one, other in (SHARES[:2], SHARES[2:]):
        if (total := shares.get(one, 0) + shares.get(other, 0)) >= 1:
            raise UsageError(f"--{one.replace('_', '-')} and --{other.replace('_', '-')} add up to {total:g} and leave "
                             "nothing for train; their sum must be below 1")


# --------------------------------------------------------------------------- the inputs

def _about(workdir):
    path = workdir / "dataset.json"
    return read_json(path) if path.exists() else {}


def _time(workdir, timed):
    path, manifest = workdir / "dataset.json", _about(workdir)
    if manifest.get("status", "finished") != "finished":
        raise WorkError(f"{path} is not finished: writing plays.pqt was interrupted; run 0_get_plays_pqt.py again")
    return manifest.get("time", "real") if timed else "none"


def _kept_tracks(workdir, names, n_tracks, track_checksum):
    """track_ids with a finite row in each named embedding, or None without names."""
    if not names:
        return None
    import numpy as np

    import dataset
    finite = np.ones(n_tracks, bool)
    for name in names:
        matrix = dataset.open_embedding(workdir, name, n_tracks, track_checksum)
        for start in range(0, n_tracks, 4096):
            finite[start:start + 4096] &= np.isfinite(matrix[start:start + 4096]).all(axis=1)
    if not finite.any():
        raise WorkError(f"no track has a finite row in each of {', '.join(names)}")
    print(f"{finite.sum()} of {n_tracks} tracks have a row in {', '.join(names)}")
    return np.flatnonzero(finite)


# --------------------------------------------------------------------------- the request's files

def _inputs(args, settings, workdir):
    """{name in the request: Input} of the files that determine the result; UsageError or WorkError for an absent one.
    """
    from harness.inputs import Input, hashed
    files = {name: workdir / name for name in ("plays.pqt", "trackid_sorted.csv")}
    if absent := next((path for path in files.values() if not path.exists()), None):
        raise WorkError(f"{absent} is missing: run preprocess/0_get_plays_pqt.py first")
    if args.tracks_with:
        import dataset
        files |= {f"embedding {name}": dataset.embedding_inputs(workdir, name)[0] for name in args.tracks_with}
    if args.protocol == "given":
        settings["split"] = settings["split"] or workdir / "split.pqt"
        files["given split"] = settings["split"]
        if not settings["split"].exists():
            raise UsageError(f"there is no published split at {settings['split']}; name one with --split")
    if args.protocol == "cold-items" and (workdir / "items.pqt").exists():
        files["items.pqt"] = workdir / "items.pqt"   # which tracks are one recording
    return {name: file if isinstance(file, Input) else hashed(file) for name, file in files.items()}


def _request(args, settings, files):
    """Everything that determines the result as a flat dictionary, files by their checksum."""
    core = {"k_core": args.k_core} if args.k_core else {}
    seeded = {} if args.protocol == "given" and args.train_share == 1 else {"seed": args.seed}
    return {"protocol": args.protocol, **{k: v for k, v in settings.items() if k != "split"},
            "train_share": args.train_share, **({"hidden": True} if splitting.hides(args) else {}),
            "tracks_with": sorted(set(args.tracks_with)), **core, **seeded,
            **{name: file.digest for name, file in files.items()}}


def _inspected(args, plays, settings):
    """(column names of plays.pqt, `time` of the data set, settings with the log's dates); UsageError without times."""
    from preprocess import protocols
    columns, timed = protocols.inspect(plays)
    time = _time(plays.parent, timed)
    if (splitting.by_date(args) or args.protocol == "yambda") and time != "real" or (
            args.protocol == "leave-one-out" and not timed):
        raise UsageError(f"--protocol {args.protocol} requires timestamps, but the time of this data set is {time!r}; "
                         f"use --protocol random{', leave-one-out' if timed else ''} or given")
    if time == "real":
        typed.check_times(plays)
    return columns, time, _dates_of_the_log(args, settings, plays, _about(plays.parent).get("name"))


def _make_partitions(args, pieces, finished):
    """Make the partitions that are asked for, none where the split of this request is finished."""
    if finished and args.partition is not None:
        print("the split is finished, so no partition is made (--overwrite does)")
    if not finished and not args.merge:
        pieces.make(range(args.partitions) if args.partition is None else args.partition)


def main(argv=None):
    args = build_parser().parse_args(argv)
    workdir, settings, memory = cli.workspace(args), _settings(args), stage.memory_bytes(args.memory)
    plays = workdir / "plays.pqt"
    from harness import inputs, text_blocks
    from preprocess import partitions, parts, protocols
    partitions.check_flags(args)
    files = _inputs(args, settings, workdir)
    columns, time, settings = _inspected(args, plays, settings)
    n_tracks = len(text_blocks.track_ids(workdir / "trackid_sorted.csv"))
    expected = parts.read_stats(args.expect) if args.expect else None
    request = _request(args, settings, files)
    kept = functools.cache(lambda: _kept_tracks(workdir, args.tracks_with, n_tracks, request["trackid_sorted.csv"]))
    pieces, room = None, stage.engine_memory(memory)
    if args.partitions:
        words = partitions.typed_words(sys.argv[1:] if argv is None else argv)
        pieces = partitions.Partitions(args, settings, request, workdir, columns, kept, room,
                                       files["plays.pqt"].state, words)
        _make_partitions(args, pieces, not args.overwrite and partitions.is_published(workdir, request))
        if args.partition is not None:
            return
    with stage.atomic_outputs(workdir / "data" / "split.json", overwrite=args.overwrite) as new:
        if new.same(request, args.overwrite):
            parts.print_stats(new.old["stats"])
            if expected:
                parts.compare(new.old["stats"], expected, args.expect)
        else:
            log = pieces.joined(new.path("spill")) if pieces else \
                protocols.Log(plays, columns, room, new.path("spill"), kept())
            written = splitting.write_parts(args, settings, log, new, n_tracks, expected)
            if pieces:
                pieces.unchanged()
            inputs.check_unchanged(files.values())
            of_plays = {k: v for k, v in _about(workdir).items() if k == "plays_checksum"}      # as they were read
            new.publish({"protocol": args.protocol, "time": time, "track_checksum": request["trackid_sorted.csv"],
                         **of_plays, **written, "request": request, "versions": versions()},
                        remove=[*(file for part in (*ALL_PARTS, "hidden")
                                  if not new.path(file := f"{part}.pqt").exists()),
                                *(["rules.json"] if args.protocol not in RULES else [])])
    if pieces:      # also those of a merge that was killed after the parts were there
        pieces.remove()


if __name__ == "__main__":
    cli.run(main)
