"""The dated taggings of Last.fm 2k as a data set: what an event is, wrong dates, and nothing made of the tags."""
import pandas as pd
import pyarrow.parquet as pq
import pytest

import dataset
from harness.readers import read_json
from tests.worlds.hetrec import get_plays, say, table, vectors, write_raw
from tests.worlds.listening import manifest, pairs, part, split_command  # noqa: F401 - the fixture `split`

HEAD = "userID\tartistID\ttagID\tday\tmonth\tyear\n"
TAGGED = HEAD + "".join(f"{row}\n".replace(" ", "\t") for row in (
    "2 1 1 1 4 2009", "2 1 2 1 4 2009",       # two tags at once: one event
    "2 1 1 1 6 2009",                         # the same again, later: another event of the pair
    "7 1 1 1 5 2009", "7 10 3 15 7 2009", "4 2 2 1 3 2009", "4 30 2 1 8 2009",
    "7 10 1 1 9 1956", "4 30 3 31 2 2009",    # no date of Last.fm's, no date at all
    "7 99 3 1 4 2009"))                       # an artist that artists.dat lacks


@pytest.fixture
def raw(tmp_path):
    return write_raw(tmp_path / "hetrec", user_taggedartists_dat=TAGGED.encode())


def test_an_event_is_a_user_an_artist_and_a_date(raw, tmp_path):
    w = get_plays("lastfm", "--events", "tags", "--raw", raw, workdir=tmp_path / "w")
    plays = pd.read_parquet(w / "plays.pqt")
    assert str(plays.timestamp.dtype) == "datetime64[us]"
    said = [(u, t, f"{at:%F}", n) for u, t, at, n in plays.itertuples(index=False)]   # artists 1, 10, 2, 30 are 0 .. 3
    assert said == [(2, 0, "2009-04-01", 1), (2, 0, "2009-06-01", 1), (4, 2, "2009-03-01", 1), (4, 3, "2009-08-01", 1),
                    (7, 0, "2009-05-01", 1), (7, 1, "2009-07-15", 1)]
    about = read_json(w / "dataset.json")
    assert (about["name"], about["time"], about["resolution"]) == ("lastfm-tags", "real", "month")
    assert about["counts"] == {"users": 3, "tracks": 4, "pairs": 5, "plays": 6}
    assert about["dropped"]["tags left out: dated before 2005 or after 2011, or no date"] == 2
    assert about["dropped"]["tags that add no event to another of the same user, artist and date"] == 1
    assert "skipped" in say("lastfm", "--events", "tags", "--raw", raw, workdir=w)[1]


def test_nothing_made_of_the_tags_is_written(raw, tmp_path):
    import numpy as np

    from harness.files import write_csv, write_npy
    audio = tmp_path / "audio"
    write_csv(audio / "artists.csv", pd.DataFrame({"row": [0, 1], "artistID": [1, 2]}), index=False)
    write_csv(audio / "users.csv", pd.DataFrame({"row": [0], "userID": [2]}), index=False)
    (audio / "lfm2k.inter").write_text("userID\titemID\tx_label\n0\t0\t0\n")
    for name in ("vggish", "minilm"):
        write_npy(audio / f"{name}.npy", np.ones((2, 3), np.float32))
    w = get_plays("lastfm", "--events", "tags", "--raw", raw, "--audio-features", audio, workdir=tmp_path / "w")
    assert dataset.embedding_names(w) == ["vggish"] and np.isnan(vectors(w, "vggish")[0][[1, 3]]).all()
    assert set(read_json(w / "dataset.json")["embeddings"]) == {"vggish"}
    assert pq.read_schema(w / "items.pqt").names == ["track_id", "artist_id", "artist", "url"]
    v = get_plays("lastfm", "--raw", raw, "--audio-features", audio, workdir=tmp_path / "v")      # has both
    assert dataset.embedding_names(v) == ["minilm", "tags", "vggish"] and "tags" in table(v / "items.pqt")


def test_the_first_tagging_of_a_pair_decides_its_part(raw, tmp_path, split):
    w = get_plays("lastfm", "--events", "tags", "--raw", raw, workdir=tmp_path / "w")
    status, _, err = split(w, "--protocol", "hotcold", "--train-start", "2009-01-01", "--test-date", "2009-06-01",
                           "--test-end", "2010-01-01", "--val-share", "0")
    assert status == 0, err
    assert pairs(w, "train") == [(2, 0), (4, 2), (7, 0)] and part(w, "train")["count"].tolist() == [1, 1, 1]
    assert pairs(w, "cold_test") == [(4, 3), (7, 1)] and not pairs(w, "test")
    assert manifest(w)["time"] == "real"


@pytest.mark.parametrize("rows, argv, status, sentence", [
    (TAGGED, ["--audio-only"], 2, "with --events tags leave it out, and restrict the artists with --tracks-with"),
    ("userID\tartistID\ttagID\n2\t1\t1\n", [], 1, "has no column day, month, year"),
    (HEAD + "2\t1\t1\t1\t4\t1956\n", [], 1, "no row has a date of 2005 to 2011"),
    (HEAD + "2\t1\t1\t1\t4\tlast\n", [], 1, "line 2: year holds 'last'"),
])
def test_bad_input(tmp_path, rows, argv, status, sentence):
    raw = write_raw(tmp_path / "bad", user_taggedartists_dat=rows.encode())
    got, _, err = say("lastfm", "--events", "tags", *argv, "--raw", raw, workdir=tmp_path / "w")
    assert got == status and sentence in err and err.count("\n") == 1
    assert not (tmp_path / "w" / "plays.pqt").exists()


def test_the_archives_figures(shared, tmp_path, split):
    """With the artists that have audio vectors, cut at July 2009: the whole log's pairs, and its small cold part."""
    w = get_plays("lastfm", "--events", "tags", "--raw", shared / "data/lastfm-2k", "--audio-features",
                  shared / "data/lastfm-2k-audio", workdir=tmp_path / "w")
    assert read_json(w / "dataset.json")["counts"]["pairs"] == 70_295
    status, _, err = split(w, "--protocol", "hotcold", "--train-start", "2005-01-01", "--test-date", "2009-07-01",
                           "--test-end", "2011-07-01", "--val-share", "0", "--tracks-with", "vggish")
    assert status == 0, err
    stats = manifest(w)["stats"]
    assert stats["Train"]["Rows"] == 18_073 and stats["HotTest"]["Rows"] + stats["ColdTest"]["Rows"] == 5_153
    assert (stats["ColdTest"]["Rows"], stats["ColdTest"]["Items"], stats["ColdTest"]["Users"]) == (232, 65, 94)
    held = pd.concat([part(w, p) for p in ("test", "cold_test")])
    assert held.user_id.nunique() == 399
