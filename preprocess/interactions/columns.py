"""Which column of an interaction log is the user, the item, the time, the count, the rating; and named recipes.

A role is recognised by the usual names of the field, whatever their case, separators and type suffix (RecBole writes
`user_id:token`). Two candidates for one role are an error that asks for a flag, never a guess.
"""
from dataclasses import dataclass, field

from harness.errors import UsageError
from harness.ids import ITEMS, USERS, plain

ROLES = ("user", "item", "time", "count", "rating")
NAMES = {   # role: names, as `plain` writes them
    "user": USERS,
    "item": ITEMS,
    "time": "time timestamp ts unix unixtime unixtimestamp unixreviewtime date datetime playedat listenedat createdat "
            "eventtime endtime interactiontime",
    "count": "count counts plays playcount playcounts listens listencount frequency weight n",
    "rating": "rating ratings stars score overall playedratio playedratiopct",
}
METADATA = {   # column of items.pqt: names in a log that describe the item beside its id
    "title": "title trackname traname songname song recordingname mastermetadatatrackname name itemname movietitle",
    "artists": "artistname artname artist masteralbumartistname mastermetadataalbumartistname",
    "album": "albumname album releasename mastermetadataalbumalbumname",
    "genres": "genre genres genretokenseq",
}


@dataclass(frozen=True)
class Recipe:
    """A known format. names: its columns where the file has no header; roles: {role: column}; say: what it is."""
    say: str
    names: tuple = ()
    roles: dict = field(default_factory=dict)
    delimiter: str | None = None
    metadata: dict = field(default_factory=dict)
    one_user: bool = False       # a single listener's own export: no column of users


RECIPES = {
    "recbole": Recipe("RecBole atomic file (.inter): tab-separated, header of name:type", delimiter="\t"),
    "movielens": Recipe("MovieLens: ratings.csv, ratings.dat (::) or u.data (tabs)",
                        names=("user_id", "item_id", "rating", "timestamp"),
                        roles={"user": "user_id", "item": "item_id", "rating": "rating", "time": "timestamp"}),
    "lastfm-1k": Recipe("Last.fm-1K: user, ISO time, artist mbid, artist, track mbid, track; no header",
                        names=("userid", "timestamp", "artist_mbid", "artist_name", "track_mbid", "track_name"),
                        roles={"user": "userid", "time": "timestamp", "item": "artist_name + track_name"},
                        delimiter="\t", metadata={"title": "track_name", "artists": "artist_name"}),
    "lastfm-360k": Recipe("Last.fm-360K: user, artist mbid, artist, plays; no header",
                          names=("user", "artist_mbid", "artist_name", "plays"),
                          roles={"user": "user", "item": "artist_name", "count": "plays"}, delimiter="\t",
                          metadata={"title": "artist_name"}),
    "msd": Recipe("Million Song Dataset taste profile triplets: user, song, plays; no header",
                  names=("user", "song", "plays"), roles={"user": "user", "item": "song", "count": "plays"},
                  delimiter="\t"),
    "spotify-history": Recipe("Spotify's extended streaming history (json): one listener's private export",
                              roles={"time": "ts", "item": "spotify_track_uri"},
                              metadata={"title": "master_metadata_track_name",
                                        "artists": "master_metadata_album_artist_name",
                                        "album": "master_metadata_album_album_name"}, one_user=True),
    "triplets": Recipe("user, item, count without a header (as for implicit)",
                       names=("user", "item", "count"), roles={"user": "user", "item": "item", "count": "count"}),
}


def compared(name):
    """A column's name as two headers are compared; in other scripts, which `plain` drops, as it is."""
    return plain(name) or name.strip()


def role_of(name: str) -> str | None:
    """The role that a column's name says, None for none."""
    return next((role for role, names in NAMES.items() if plain(name) in names.split()), None)


def assign(columns, asked, recipe=None) -> dict:
    """{role: column} of a table with these columns; UsageError where a role is open, doubtful or lacks its column.

    asked: {role: column} named by flags, over the recipe's and over what names say; 'none' leaves a role out.
    """
    roles = {}
    for role in ROLES:
        known = recipe.roles.get(role, "") if recipe else ""        # where the file has the recipe's own columns
        column = asked.get(role) or (known if known and {*known.split(" + ")} <= {*columns} else None)
        if column == "none":
            continue
        if column is not None:
            for one in column.split(" + "):
                if one not in columns:
                    raise UsageError(f"--{role} {one}: the log has no such column; it has {', '.join(columns)}")
            roles[role] = column
            continue
        found = [c for c in columns if role_of(c) == role and c not in asked.values()]
        if role == "item" and len(found) > 1:       # names of an item beside its id are no second candidate
            found = [c for c in found if plain(c) not in " ".join(METADATA.values()).split()] or found
        if len(found) > 1:
            none = "" if role in ("user", "item") else f" or --{role} none"
            raise UsageError(f"the log has {len(found)} columns that may be the {role}: {', '.join(found)}; "
                             f"choose with --{role} COLUMN{none}")
        if found:
            roles[role] = found[0]
    for role in ("user", "item"):
        if role not in roles and not (role == "user" and recipe and recipe.one_user):
            raise UsageError(f"no column of the log is recognised as the {role}: it has {', '.join(columns)}; "
                             f"name it with --{role} COLUMN")
    return roles


def describing(columns, roles, recipe=None) -> dict:
    """{column of items.pqt: column of the log} for the names that stand in the log beside the item's id."""
    if recipe and recipe.metadata:
        return {k: c for k, c in recipe.metadata.items() if c in columns}
    free = [c for c in columns if c not in roles.values()]
    found = {}
    for key, names in METADATA.items():
        fitting = [c for c in free if plain(c) in names.split()]
        if len(fitting) == 1:
            found[key] = fitting[0]
    return found
