"""The dated taggings of Last.fm 2k as events with real times: who tagged which artist, and when.

A tagging is interest in an artist, not a play of one: 29 % of these pairs of user and artist have a play count. An
event is a user, an artist and a date, whatever the number of tags. The dates run from August 2005 to May 2011 and have
the resolution of a month (98 % are the first of one). Rows dated otherwise (1956 to 1979 in the archive) are wrong;
they are left out and counted. As the tags are the events, nothing made of them (the embeddings tags and minilm, the
tags in items.pqt) is written: it would contain the held-out part.
"""
from dataclasses import replace

from harness.errors import WorkError

COLUMNS = {"userID": int, "artistID": int, "tagID": int, "day": int, "month": int, "year": int}
YEARS = (2005, 2011)      # tags came to Last.fm in 2005, the archive is of May 2011
FROM_TAGS = ("minilm",)   # embeddings of the audio features that read the tags


def as_plays(data):
    """A Listening (preprocess/lastfm) whose plays are its taggings: userID, artistID, weight 1, timestamp; tagged None.

    data.tagged must have COLUMNS. WorkError where no row has a date of YEARS.
    """
    import pandas as pd
    date = pd.to_datetime(data.tagged[["year", "month", "day"]], errors="coerce")
    known = date.dt.year.between(*YEARS)
    if not known.any():
        raise WorkError(f"user_taggedartists.dat: no row has a date of {YEARS[0]} to {YEARS[1]} in day, month, year")
    dropped = dict(data.dropped)
    if wrong := int((~known).sum()):
        dropped[f"tags left out: dated before {YEARS[0]} or after {YEARS[1]}, or no date"] = wrong
    events = data.tagged[known].assign(timestamp=date[known].astype("datetime64[us]"), weight=1)
    events = events[["userID", "artistID", "weight", "timestamp"]]
    events = events[~events.duplicated()]
    dropped["tags that add no event to another of the same user, artist and date"] = int(known.sum()) - len(events)
    first = float((events["timestamp"].dt.day == 1).mean())
    print(f"lastfm-tags: {first:.1%} of the events are dated on the first of a month: their resolution is a month")
    return replace(data, plays=events, tagged=None, dropped={k: v for k, v in dropped.items() if v})
