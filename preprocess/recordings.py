"""Several ids of one recording: tracks of the same title and artist, by items.pqt, compared in a normal form.

Spotify, for one, gives a song an id for every release. A title is compared without regard to case and Unicode form
(NFKC), blanks, and what a release adds at its end: "- Remastered 2011", "- 2011 Remaster", "- Mono", "(Remastered)",
"- Single Version", "(feat. Somebody)". Live, acoustic and remixed versions are other recordings and stay so. The artist
is the first one, since guests are listed or not. A track without title or artist is a recording of its own.
"""
import hashlib
import re

from harness.metadata import folded, name_key, read_table

TITLES, ARTISTS = ("title", "name", "song", "track"), ("artists", "artist")
BLOCK = 1 << 16    # rows of items.pqt that are texts at once
_RELEASE = r"""(?:
    (?:digital(?:ly)?\s+)?re-?master(?:ed)?(?:\s+(?:version|edition))?(?:\s+(?:in\s+)?(?:19|20)\d\d)? |
    (?:19|20)\d\d\s+(?:digital\s+)?re-?master(?:ed)?(?:\s+version)? |
    (?:mono|stereo)(?:\s+(?:version|mix))? | (?:single|album|original|lp)\s+version |
    (?:feat|ft)\.?\s+[^()\[\]]+ | featuring\s+[^()\[\]]+ | explicit | bonus\s+track
)"""
_ENDS = re.compile(rf"(?: \s+[-–—]\s+{_RELEASE} | \s*\({_RELEASE}\) | \s*\[{_RELEASE}\] | \s+(?:feat|ft)\.\s+.+ )$",
                   re.VERBOSE)


def title_key(title):
    """The normal form of a title; '' for one that says nothing."""
    text = folded(title)
    while (shorter := _ENDS.sub("", text)) and shorter != text:
        text = shorter
    return name_key(text)


def columns_of(workdir):
    """(title, artist) columns of items.pqt, or None where it lacks one, or is absent."""
    from harness.readers import parquet_schema
    path = workdir / "items.pqt"
    names = parquet_schema(path).names if path.exists() else []
    found = [next((c for c in wanted if c in names), None) for wanted in (TITLES, ARTISTS)]
    return None if None in found else tuple(found)


def read(workdir, n_tracks):
    """int64 (n_tracks,): the first track of the same recording for each track, or None without titles and artists.

    WorkError for a damaged items.pqt.
    """
    import numpy as np
    columns = columns_of(workdir)
    if columns is None:
        return None
    table = read_table(workdir / "items.pqt", "track_id", n_tracks, columns=("track_id", *columns))
    keys = np.arange(n_tracks, dtype=np.uint64)                # a track's own number where nothing is known of it
    for start in range(0, n_tracks, BLOCK):
        some = table.slice(start, BLOCK)
        for row, (title, artist) in enumerate(zip(*(some[c].to_pylist() for c in columns), strict=True), start):
            artist = artist[0] if isinstance(artist, list) and artist else artist
            if isinstance(title, str) and isinstance(artist, str):
                keys[row] = number_of(title_key(title), name_key(artist)) or keys[row]
    _, first, of = np.unique(keys, return_index=True, return_inverse=True)
    return first[of]


def number_of(title, artist):
    """A hash of two keys from 2^63 up, so that it is no track's number; 0 where one is ''."""
    if not title or not artist:
        return 0
    digest = hashlib.blake2b(f"{title}\n{artist}".encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") | 1 << 63


def kept_together(log, first):
    """Fill `items` (track_id, item) with the tracks of `own`; returns how many are one recording with another.

    first: of `read`, or None, where every track is an item
    """
    log.run("create or replace temp table items as select distinct track_id, track_id as item from own")
    if first is None:
        return {}
    import numpy as np
    import pyarrow as pa
    moved = np.flatnonzero(first != np.arange(len(first)))
    log.con.register("moved", pa.table({"track_id": moved, "first": first[moved]}))
    log.run("""create or replace temp table items as
        select track_id, coalesce(first, item) as item from items left join moved using (track_id)""")
    log.con.unregister("moved")
    [[tracks, several]] = log.run("""select coalesce(sum(n), 0)::bigint, count(*) from (
        select count(*) as n from items group by item having count(*) > 1)""").fetchall()
    return {"same_recording": {"tracks": tracks, "recordings": several}}
