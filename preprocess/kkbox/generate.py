"""Generate synthetic files in the format of the KKBOX challenge, of any size, deterministic by the seed.

    python -m preprocess.kkbox.generate --out DIR --scale 1        the size of the challenge, about 1.7 GB
    python -m preprocess.kkbox.generate --out DIR --scale 0.001    for tests

The data are synthetic and share the properties of the original: ids of 44 characters, plays in sessions of one
user, a long tail of songs, quotes, commas and line ends in names, several names separated by pipes, empty cells,
ages of 0 and 1051, songs and members without metadata.

The plays are predictable. Each song has one of eight styles, which correlates with genre, artist and language; each
user has one, too. A session has one style, more often the user's own if it starts from the user's library. So the
next play depends on metadata, earlier plays, the latest play and its context; age, gender and city are independent.
"""
import math
from pathlib import Path

from harness import cli
from harness.errors import UsageError
from harness.files import atomic

FULL = {"train": 7_377_418, "test": 2_556_790, "songs": 2_296_320, "members": 34_403}
STYLES = 8
HEAD = 60            # flattens the head of the popularity, so that the top song has 0.2 % of the plays
SESSION = 8          # mean plays of a session
OWN = (0.9, 0.6)     # share of sessions in the user's own style: from the user's library, from elsewhere
HELD = 0.9           # share of a session's plays that have its style
TABS = ["my library", "discover", "search", "radio", "listen with", "explore", "notification", "settings", None]
SCREENS = ["Local playlist more", "Online playlist more", "Radio", "Album more", "Discover Chart", "Search", None]
TYPES = ["local-library", "online-playlist", "local-playlist", "radio", "album", "top-hits-for-artist", "song", None]
SYLLABLES = ("ka lo mi ren da sol ve tor an bel cha du fi gor hen is jo kin lu mar ne or pe qui ro sa ti ul vin wa "
             "xen yo zu").split()
IDEOGRAPHS = "張學友陳奕迅周杰倫林俊傑蔡依林王力宏田馥甄孫燕姿梁靜茹五月天"
WEIGHTS = {"language": [.42, .19, .19, .08, .05, .03, .02, .02]}
LANGUAGES = ["52", "-1", "3", "17", "31", "10", "24", "45"]


def build_parser():
    parser = cli.Parser(prog="preprocess.kkbox.generate", description=__doc__)
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to write the five csv files to")
    parser.add_argument("--scale", type=float, default=1.0, metavar="FACTOR",
                        help="size relative to the challenge, above 0 and at most 4 (default 1)")
    parser.add_argument("--seed", type=cli.seed_number, default=42, metavar="N",
                        help="seed of all random numbers (default 42)")
    return parser


def generate(out, scale=1.0, seed=42):
    """Write the five files into the folder `out`; returns {name: number of rows}."""
    import numpy as np
    rows = {name: max(round(full * scale), 60) for name, full in FULL.items()}
    rows["members"] = max(round(FULL["members"] * min(1, math.sqrt(scale))), 30) if scale < 1 else rows["members"]
    rng = np.random.default_rng(seed)
    songs, members = _ids(rng, rows["songs"]), _ids(rng, rows["members"])
    style = rng.integers(STYLES, size=rows["songs"])
    taste = rng.integers(STYLES, size=rows["members"])
    activity = rng.lognormal(0, 1.2, rows["members"])
    played = max(rows["songs"] // 5, 20)  # the others are in songs.csv only
    by_style = [np.flatnonzero(style[:played] == s) for s in range(STYLES)]
    for name in ("train", "test"):
        _write(out / f"{name}.csv", _plays(rng, name, rows[name], songs, members, taste, activity, by_style, played))
    known = rng.random(rows["songs"]) > 0.0003
    _write(out / "songs.csv", _songs(rng, songs, style).filter(_mask(known)))
    _write(out / "song_extra_info.csv", _extra(rng, songs).filter(_mask(known & (rng.random(len(known)) > 0.0002))))
    _write(out / "members.csv", _members(rng, members).filter(_mask(rng.random(rows["members"]) > 0.001)))
    return rows


def _mask(keep):
    import pyarrow as pa
    return pa.array(keep)


def _write(path, table):
    import duckdb

    from harness.files import quoted
    with atomic(path) as temporary, duckdb.connect() as con:
        con.register("rows", table)
        con.execute(f"copy (from rows) to {quoted(temporary)} (format csv, header, delimiter ',')")


# --------------------------------------------------------------------------- columns

def _ids(rng, n):
    """n distinct ids of 43 characters of base64 and '=', as an Arrow array."""
    import numpy as np
    import pyarrow as pa
    alphabet = np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", np.uint8)
    text = np.full((n, 44), ord("="), np.uint8)
    text[:, :43] = alphabet[rng.integers(64, size=(n, 43), dtype=np.uint8)]
    return pa.StringArray.from_buffers(n, pa.py_buffer(np.arange(0, 44 * n + 1, 44, dtype=np.int32)),
                                       pa.py_buffer(text.tobytes()))


def _pick(values, index):
    """Arrow strings values[index]."""
    import pyarrow as pa
    pool = values if isinstance(values, pa.Array) else pa.array(values, pa.string())
    return pool.take(pa.array(index))


def _skewed(rng, n, pool):
    """n indices of a pool, the first ones most likely."""
    return (pool * rng.random(n) ** 2).astype("int64")


def _blank(rng, column, share):
    """The column with a share of its cells empty."""
    import pyarrow as pa
    import pyarrow.compute as pc
    return pc.if_else(pa.array(rng.random(len(column)) < share), pa.scalar(None, pa.string()), column)


def _names(rng, n, accent):
    """n names: two words, one word, ideographs with a reading, and some with quotes, commas or two names."""
    import numpy as np
    kind, parts = rng.random(n), rng.integers(len(SYLLABLES), size=(n, 6))
    signs = rng.integers(len(IDEOGRAPHS), size=(n, 3))
    names = []
    for k, p, s, i in zip(kind, parts, signs, np.arange(n), strict=True):
        words = ["".join(SYLLABLES[j] for j in pair).capitalize() for pair in (p[:3], p[3:])]
        if k < 0.45:
            name = " ".join(words)
        elif k < 0.60:
            name = words[0] + str(i % 90)
        elif k < 0.90:
            name = "".join(IDEOGRAPHS[j] for j in s) + f" ({words[0]})"
        elif k < 0.93:
            name = f'{words[0]} "{accent}" {words[1]}'
        elif k < 0.96:
            name = f"{words[0]}, {words[1]}"
        else:
            name = f"{words[0]} {words[1]}|  {words[1]} {words[0]}"
        names.append(name)
    return names


# --------------------------------------------------------------------------- files

def _plays(rng, name, n, songs, members, taste, activity, by_style, played):
    """Rows in sessions: one user, one context in the app, one style, several songs."""
    import numpy as np
    import pyarrow as pa
    lengths = rng.geometric(1 / SESSION, n // 4 + 50)
    many, session = len(lengths), np.repeat(np.arange(len(lengths)), lengths)[:n]
    n = len(session)
    listener = rng.choice(len(activity), many, p=activity / activity.sum())
    ways = [_skewed(rng, many, len(values)) for values in (TABS, SCREENS, TYPES)]
    at_home = rng.random(many) < np.where(ways[0] == 0, *OWN)    # TABS[0] is the listener's own library
    mood = np.where(at_home, taste[listener], rng.integers(STYLES, size=many))
    rank = np.exp(rng.random(n) * math.log((played + HEAD) / HEAD)) * HEAD - HEAD
    song = np.minimum(rank.astype(np.int64), played - 1)
    held = np.flatnonzero(rng.random(n) < HELD)
    for style, songs_of in enumerate(by_style):
        rows = held[mood[session[held]] == style]
        if len(songs_of):
            song[rows] = songs_of[(song[rows] * len(songs_of)) // played]
    user, way = listener[session], {column: _pick(values, place[session]) for column, values, place in zip(
        ("source_system_tab", "source_screen_name", "source_type"), (TABS, SCREENS, TYPES), ways, strict=True)}
    table = {"msno": _pick(members, user), "song_id": _pick(songs, song), **way}
    if name == "train":
        return pa.table({**table, "target": pa.array((rng.random(n) < 0.5).astype(np.int8))})
    return pa.table({"id": pa.array(np.arange(n)), **table})


def _songs(rng, songs, style):
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    n = len(songs)
    people = max(n // 12, 40)
    artists, writers = _names(rng, people, "Jr. Band"), _names(rng, people, "Pen")
    genres = [str(400 + 7 * i) for i in range(190)]
    genre = np.where(rng.random(n) < 0.7, style * 3 + rng.integers(3, size=n), _skewed(rng, n, len(genres)))
    second = _pick(genres, _skewed(rng, n, len(genres)))
    both = pc.binary_join_element_wise(_pick(genres, genre), second, "|")
    artist = (_skewed(rng, n, people) // STYLES * STYLES + style) % people
    language = np.where(rng.random(n) < 0.6, style, rng.choice(len(LANGUAGES), n, p=WEIGHTS["language"]))
    return pa.table({
        "song_id": songs, "song_length": pa.array((rng.lognormal(12.4, 0.35, n)).astype(np.int64)),
        "genre_ids": _blank(rng, pc.if_else(pa.array(rng.random(n) < 0.05), both, _pick(genres, genre)), 0.04),
        "artist_name": _pick(artists, artist),
        "composer": _blank(rng, _pick(writers, (artist + rng.integers(3, size=n)) % people), 0.45),
        "lyricist": _blank(rng, _pick(writers, _skewed(rng, n, people)), 0.8),
        "language": _blank(rng, _pick(LANGUAGES, language), 0.00005)})


def _extra(rng, songs):
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    n = len(songs)
    titles = [f"{name} {i}" if i % 500 else f"{name}\nPart {i}" for i, name in enumerate(_names(rng, 20_000, "Live"))]
    numbers = [f"{land}{label}" for land in ("TW", "US", "GB", "JP", "HK", "QM") for label in ("A01", "UM7", "K9X")]
    code = pa.array(np.char.zfill(rng.integers(10_000_000, size=n).astype("U8"), 7))
    isrc = pc.binary_join_element_wise(_pick(numbers, rng.integers(len(numbers), size=n)), code, "")
    return pa.table({"song_id": songs, "name": _pick(titles, rng.integers(len(titles), size=n)),
                     "isrc": _blank(rng, isrc, 0.06)})


def _members(rng, members):
    import numpy as np
    import pyarrow as pa
    n = len(members)
    age = np.where(rng.random(n) < 0.45, rng.integers(12, 65, n), 0)
    age[rng.random(n) < 0.001] = 1051
    days = rng.integers(0, 3650, (2, n)).astype("timedelta64[D]")
    start, end = (np.char.replace((np.datetime64(d) + x).astype("U10"), "-", "")
                  for d, x in (("2007-01-01", days[0]), ("2017-01-01", days[1] // 8)))
    return pa.table({"msno": members, "city": pa.array(rng.integers(1, 23, n)), "bd": pa.array(age),
                     "gender": _pick(["female", "male", None], rng.choice(3, n, p=[.21, .22, .57])),
                     "registered_via": _pick(["3", "4", "7", "9", "13"], rng.integers(5, size=n)),
                     "registration_init_time": pa.array(start), "expiration_date": pa.array(end)})


def main(argv=None):
    args = build_parser().parse_args(argv)
    if not 0 < args.scale <= 4:
        raise UsageError(f"--scale must be above 0 and at most 4, not {args.scale:g}")
    rows = generate(args.out, args.scale, args.seed)
    print(f"{args.out}: " + ", ".join(f"{n} {name}" for name, n in rows.items()))


if __name__ == "__main__":
    cli.run(main)
