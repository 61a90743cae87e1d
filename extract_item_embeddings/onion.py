"""Music4All-Onion: precomputed features of 109,269 tracks, without access to the audio (Moscati et al., CIKM 2022).

    python extract_item_embeddings/onion.py mfcc_stats [--workdir DIR] [--raw DIR | --file FILE]

| weights                    | licence   | rate | window | layer    | pooling  | dimension |
|----------------------------|-----------|------|--------|----------|----------|-----------|
| none; precomputed features | CC BY 4.0 | -    | -      | as given | as given | as given  |

A feature NAME is the file `id_NAME.tsv.bz2` of Zenodo record 15394646: essentia, mfcc_stats, mfcc_bow, chroma_bow,
ivec256, ivec512, ivec1024, blf_spectral and the other blf_*, compare_*, emobase_*, musicnn (50 values, not the 200 of
musicnn.py), jukebox, maest, gems, bert, lyrics_word2vec, lyrics_tf-idf, genres_tf-idf, tags_tf-idf, incp, resnet, ...
It is downloaded unless it is in --raw, and verified with a checksum (known here, or from the record). Tracks of
trackid_sorted.csv that it lacks become NaN rows. Written as embeddings/onion-NAME.npy; the papers' `mfcc` is mfcc_stats
(13 means and 91 covariances): --name mfcc.
"""
if __package__ in (None, ""):  # run as a file: the project, not this folder, is where imports begin
    import sys
    from pathlib import Path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import harness.environment  # noqa: F401 (a missing package ends in one sentence)

import json
import re
import urllib.request
from pathlib import Path

from extract_item_embeddings.engine import aligned
from harness import cli
from harness.errors import UsageError, WorkError
from harness.files import checksum

RECORD = "https://zenodo.org/records/15394646"
API = "https://zenodo.org/api/records/15394646"
LICENCE = "CC BY 4.0"
KNOWN = {  # checksums pinned by public code; those of other files are read from the record
    "id_maest.tsv.bz2": "sha256:a2db3ba58a2e637fe862f60ac50129ada34319d99da879778816823d907a3788",
    "id_genres_tf-idf.tsv.bz2": "md5:a742b5fa1d2e2ce780101773e57bb7f5",
}


def parser():
    p = cli.Parser(description=__doc__)
    add = p.add_argument
    add("feature", metavar="FEATURE", help="name of the feature, such as mfcc_stats, ivec256, jukebox, essentia")
    add("--name", metavar="NAME", help="name of the output embeddings/NAME.npy (default onion-FEATURE)")
    add("--file", type=Path, metavar="FILE", help="local file to use instead of the download: tsv or csv (plain, .bz2 "
        "or .gz) with track ids in the column id")
    add("--raw", type=Path, metavar="DIR", help="folder for downloaded files (default WORKDIR/raw)")
    cli.common_flags(p, seed=False)
    return p


def fetched(feature, raw):
    """Path of the file of a feature, downloaded into `raw` and verified."""
    from harness import download
    name = f"id_{feature}.tsv.bz2"
    mend = f"download {name} of {RECORD} on another machine and name it with --file"
    if name not in KNOWN and (raw / name).is_file():  # put there by hand; its checksum is recorded in the json
        return raw / name
    return download.fetch(f"{RECORD}/files/{name}", raw / name, KNOWN.get(name) or listed(name, mend), mend=mend)


def listed(name, mend):
    """Checksum of a file from the record, "md5:HEX"; WorkError without a network, UsageError for an unknown file."""
    try:
        with urllib.request.urlopen(API, timeout=60) as response:
            files = {f["key"]: f["checksum"] for f in json.load(response)["files"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as e:
        raise WorkError(f"the checksum of {name} cannot be read from {API} ({getattr(e, 'reason', e)}); a network "
                        f"is needed once, or {mend}") from None
    if name not in files:
        features = sorted(m[1] for f in files if (m := re.fullmatch(r"id_(.+)\.tsv\.bz2", f)))
        raise UsageError(f"{RECORD} has no {name}; choose from {', '.join(features)}")
    return files[name]


def main(argv=None):
    from extract_item_embeddings.engine import tabular
    args = parser().parse_args(argv)
    work = cli.workspace(args)
    feature = re.sub(r"^id_|\.tsv(\.bz2)?$", "", args.feature)
    name = args.name or f"onion-{feature}"
    aligned.check_name(name)
    if args.file and not args.file.expanduser().is_file():
        raise UsageError(f"--file {args.file} does not exist")
    path = args.file.expanduser() if args.file else fetched(feature, (args.raw or work / "raw").expanduser())
    request = {"backend": "music4all-onion", "feature": feature, "weights": None, "licence": LICENCE, "source": RECORD,
               "file": path.name, "source_checksum": checksum(path)}
    aligned.make(work, name, request, lambda: tabular.Table(path, by_row=False), args.overwrite, ("pyarrow",))


if __name__ == "__main__":
    cli.run(main)
