"""Music4All-Onion: the listening log and the track list of the RecSys '24 paper.

    python preprocess/0_get_plays_pqt.py music4all --log userid_trackid_timestamp.tsv.bz2 --tracks trackid_sorted.csv

Source: Moscati et al., "Music4All-Onion", CIKM 2022, https://zenodo.org/records/6609677. The log has
252,984,396 plays, newest first within a user; the paper's list has 56,512 tracks.
"""
from pathlib import Path

HELP = "Music4All-Onion, or any listening log with user_id, track_id and timestamp"
SOURCE = "https://zenodo.org/records/6609677"
LICENCE = "CC BY 4.0"


def add_arguments(parser):
    parser.add_argument("--log", type=Path, required=True, metavar="FILE",
                        help="listening log userid_trackid_timestamp.tsv.bz2, or the same uncompressed or as .gz")
    parser.add_argument("--tracks", type=Path, metavar="FILE",
                        help="track list with the columns idx,trackid or one id per line (default: the workspace's "
                             "trackid_sorted.csv)")


def get_plays(args, workdir):
    from preprocess import log
    return log.write_plays(args.log, args.tracks, workdir, name="music4all", source=SOURCE, licence=LICENCE,
                           memory=args.memory, overwrite=args.overwrite)
