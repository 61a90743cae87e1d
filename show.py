"""Look up one track, one user, a newcomer or a sound: what is known, what is near, what is recommended.

    python show.py track "Radiohead" --workdir work/lastfm
    python show.py user 42 --runs musicnn_cosine ease_s42_2eaa699f2c
    python show.py listener "Radiohead" "Arcade Fire" --run elsa_s42_d8f0a3b21c
    python show.py audio song.mp3 --workdir work/demo

track     metadata, plays in train, MusiCNN's tags where they were extracted (--layer taggram), and the nearest tracks
          in each representation
user      the latest plays of train, and the first places of runs side by side; a hit is marked *. Without --runs the
          best run on val of each method
listener  recommendations for somebody who played these tracks: by each representation, or by one run (knn,
          content_knn, elsa, ials)
audio     tags and neighbours of a sound file that is not in the workspace, by the workspace's embeddings of audio;
          those whose weights or packages are missing on this machine are listed with the reason

Tracks are named by id or by name, users by their id in the log; for a name that does not exist similar ones are shown.
--json prints the same as json.
"""
import json

from harness import cli
from harness.errors import UsageError


def build_parser():
    parser = cli.Parser(prog="show.py", description=__doc__)
    kinds = parser.add_subparsers(dest="what", required=True, metavar="track | user | listener | audio")
    for name, word, about in (("track", "NAME", "id or name of a track"), ("user", "ID", "id of a user of the log"),
                              ("listener", "NAME", "ids or names of the tracks played"),
                              ("audio", "FILE", "a sound file")):
        kind = kinds.add_parser(name, help=about)
        kind.add_argument("name", metavar=word, help=about, **({"nargs": "+"} if name == "listener" else {}))
        kind.add_argument("--workdir", metavar="DIR", help="workspace folder (default: $WORKDIR, else the current one)")
        kind.add_argument("--n", type=cli.positive, default=10, metavar="N", help="tracks to show (default 10)")
        kind.add_argument("--json", action="store_true", help="print json")
        if name != "user":
            kind.add_argument("--embedding", nargs="+", default=[], metavar="NAME",
                              help="representations (default: all)")
        if name == "user":
            kind.add_argument("--runs", nargs="+", default=[], metavar="RUN",
                              help="finished runs (default: the best on val of each method)")
        if name == "listener":
            kind.add_argument("--run", metavar="RUN", help="a finished run, in place of the representations")
    return parser


# --------------------------------------------------------------------------- what is shown, as plain data

def track(catalogue, args):
    import numpy as np
    row = catalogue.row(args.name)
    near, without = {}, []
    for name in catalogue.embeddings(args.embedding):
        vector = catalogue.vectors(name)[row]
        if np.isfinite(vector).all():
            near[name] = places(catalogue, catalogue.near(name, vector, args.n, [row]))
        else:
            without.append(name)
    return {"track": catalogue.called(row), "metadata": catalogue.metadata(row),
            "plays in train": int(catalogue.plays[row]), "tags": catalogue.tags(row), "near by representation": near,
            **({"without a vector in": without} if without else {})}


def user(catalogue, args):
    from lookup import listeners
    number, name = listeners.user_of(catalogue, args.name)
    found = listeners.lists(catalogue, number, args.runs, args.n)
    history = [catalogue.called(row) for row in listeners.history(catalogue, number, args.n)]
    first = {"latest": "latest plays in train", "most played": "most played in train"}
    return {"user": name, first[listeners.order_of_history(catalogue)]: history,
            "lists": {part: {run: [{**catalogue.called(row), "hit": hit} for row, hit in rows]
                             for run, rows in by_run.items()} for part, by_run in found.items()}}


def listener(catalogue, args):
    import numpy as np

    from lookup import listeners
    played = list(dict.fromkeys(catalogue.row(name) for name in args.name))
    answers, without = {}, []
    if args.run:
        if args.embedding:
            raise UsageError("--run has a representation of its own; give --run or --embedding")
        run = next(iter(listeners.finished(catalogue, [args.run])))         # a beginning names it, too
        answers[run] = places(catalogue, listeners.newcomer(catalogue, played, run, args.n))
    else:
        for name in catalogue.embeddings(args.embedding):
            vectors = catalogue.vectors(name)[played]
            if np.isfinite(vectors).all():
                answers[name] = places(catalogue, catalogue.near(name, vectors.mean(axis=0), args.n, played))
            else:
                without.append(name)
    return {"played": [catalogue.called(row) for row in played], "recommended by": answers,
            **({"without a vector of all these in": without} if without else {})}


def audio(catalogue, args):
    from pathlib import Path

    import dataset
    from lookup import sound
    path = Path(args.name).expanduser()
    if not path.is_file():
        raise UsageError(f"{path} is no file; name a sound file")
    sound.check_name(path)
    near, left_out = {}, {}
    for name in catalogue.embeddings(args.embedding):
        vector, reason = sound.vector_for(path, dataset.embedding_info(catalogue.workdir, name))
        if reason:
            left_out[name] = reason
        else:
            near[name] = places(catalogue, catalogue.near(name, vector, args.n))
    tags, reason = sound.tags_of(path)
    if reason:
        left_out["tags of musicnn"] = reason
    return {"sound": path.name, "tags": {} if reason else {"musicnn": tags}, "near by representation": near,
            **({"not made from sound here": left_out} if left_out else {})}


def places(catalogue, found):
    return [{**catalogue.called(row), "score": round(score, 4)} for row, score in found]


# --------------------------------------------------------------------------- as text

def words(entry):
    """One track on one line: its names, then its id."""
    names = [str(v) for k, v in entry.items() if k not in ("id", "score", "hit")]
    return cli.one_line("  ".join([*dict.fromkeys(names), entry["id"]]))


def lines(value, depth=0, tracks=True):
    """Text lines of what was found; tracks: whether a dict with an id is a track, as it is anywhere but in metadata."""
    pad = "  " * depth
    if tracks and isinstance(value, dict) and "id" in value:
        front = f"{value['score']:8.3f}  " if "score" in value else "* " if value.get("hit") else ""
        yield f"{pad}{front}{words(value)}"
    elif isinstance(value, dict):
        for key, inner in value.items():
            if isinstance(inner, (dict, list)):
                if inner:
                    yield f"{pad}{cli.one_line(str(key))}"
                    yield from lines(inner, depth + 1, tracks and key != "metadata")
            else:
                yield f"{pad}{cli.one_line(str(key))}: {cli.one_line(str(inner))}"
    elif value and isinstance(value[0], (list, tuple)):
        yield pad + ", ".join(f"{cli.one_line(str(name))} {score:.2f}" for name, score in value)
    elif value and isinstance(value[0], dict):
        for inner in value:
            yield from lines(inner, depth, tracks)
    elif value:
        yield pad + ", ".join(cli.one_line(str(v)) for v in value)


def main(argv=None):
    from lookup import catalogue  # before the command line is read, so that a missing package is named first
    args = build_parser().parse_args(argv)
    workdir = cli.workspace(args)
    found = {"track": track, "user": user, "listener": listener, "audio": audio}[args.what](
        catalogue.opened(workdir), args)
    print(json.dumps(found, ensure_ascii=False, indent=1) if args.json else "\n".join(lines(found)))


if __name__ == "__main__":
    cli.run(main)
