"""A page to look at and to listen to: what the runs of a workspace say, in one html file that opens from the disk.

    python report.py --workdir work/demo --audio work/demo/raw/audio
    python report.py --workdir work/mine                         without sound, or with that of the previous page

Writes report/index.html into the workspace, and beside it report/sound/, excerpts of at most 15 s of the tracks that
the page names (ffmpeg, mp3). The page needs no server and loads nothing from a network: a sortable leaderboard with
intervals, what each representation is worth over its control, figures by list length, user activity and popularity,
learning curves, a map of each embedding, the lists of users to listen to, neighbours of tracks, and where every figure
comes from. It has the sections of explore.py where explore/report.md exists. The new page replaces the old one when
it is complete.
"""
from pathlib import Path

from harness import cli
from harness.errors import UsageError

PARTS = ("test", "cold_test", "all_test")


def build_parser():
    parser = cli.Parser(prog="report.py", description=__doc__)
    parser.add_argument("--audio", metavar="DIR", help="folder with audio files <track id>.<extension>, for excerpts "
                                                       "(default: that of the previous page, else no sound)")
    parser.add_argument("--runs", nargs="+", default=[], metavar="RUN",
                        help="runs whose lists are shown for users (default: the best on val of each method)")
    parser.add_argument("--users", type=cli.whole_number(0), default=12, metavar="N",
                        help="users shown for each part, drawn by --seed (default 12)")
    parser.add_argument("--points", type=cli.positive, default=2000, metavar="N",
                        help="tracks on the maps, drawn by --seed where there are more (default 2000)")
    parser.add_argument("--sounds", type=cli.whole_number(0), default=400, metavar="N",
                        help="excerpts at most: the users' lists first, then the maps (default 400)")
    cli.common_flags(parser, overwrite=False)
    return parser


def main(argv=None):
    from reporting import build  # before the command line is read, so that a missing package is named first
    args = build_parser().parse_args(argv)
    workdir = cli.workspace(args)
    if args.audio is not None and not Path(args.audio).expanduser().is_dir():
        raise UsageError(f"--audio {args.audio} is not a folder; name where the audio files are now, or leave --audio "
                         "out for a page without new excerpts")
    size, notes = build.make(workdir, args, PARTS)
    for note in notes:
        print(note)
    print(f"{workdir / 'report' / 'index.html'} ({size / 1e6:.1f} MB): open it in a browser")


if __name__ == "__main__":
    cli.run(main)
