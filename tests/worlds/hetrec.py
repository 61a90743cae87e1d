"""A world of four artists in the format of HetRec's Last.fm 2k, and the script of stage 2 as a function."""
import contextlib
import importlib
import io

import numpy as np
import pyarrow.parquet as pq

from harness import cli
from harness.readers import read_json

SCRIPT = importlib.import_module("preprocess.0_get_plays_pqt")

# Text order of the artist ids: 1, 10, 2, 30.
FILES = {
    "artists.dat": ("utf-8", 'id\tname\turl\tpictureURL\n1\t"Weird Al" Yankovic\thttp://w\thttp://p\n'
                             "2\tSigur Rós\thttp://s\thttp://p\n10\tThe Beatles\thttp://b\thttp://p\n30\tNA\t\t\n"),
    "tags.dat": ("latin-1", "tagID\ttagValue\n1\tmetal\n2\tfrançais\n3\tpop\n4\tunused\n"),
    "user_artists.dat": ("utf-8", "userID\tartistID\tweight\n7\t10\t5\n7\t1\t3\n2\t30\t1\n2\t1\t10\n2\t99\t4\n2\t1\t2\n"
                                  "4\t2\t8\n"),
    "user_taggedartists.dat": ("utf-8", "userID\tartistID\ttagID\tday\tmonth\tyear\n"
                                        "2\t1\t1\t1\t4\t2009\n7\t1\t1\t1\t4\t2009\n7\t1\t1\t2\t4\t2009\n"
                                        "4\t1\t2\t1\t4\t2009\n4\t2\t2\t1\t4\t2009\n7\t10\t3\t1\t4\t2009\n"
                                        "7\t99\t3\t1\t4\t2009\n7\t10\t77\t1\t4\t2009\n5\t10\t3\t1\t4\t2009\n"),
    "user_friends.dat": ("utf-8", "userID\tfriendID\n2\t7\n7\t2\n7\t4\n4\t7\n2\t500\n"),
}


def write_raw(folder, **changed):
    """The five files in `folder`, with CRLF line ends as in the original; `tags_dat=b"..."` replaces one."""
    folder.mkdir(parents=True)
    for name, (encoding, text) in FILES.items():
        (folder / name).write_bytes(text.replace("\n", "\r\n").encode(encoding))
    for name, content in changed.items():
        (folder / name.replace("_dat", ".dat")).write_bytes(content)
    return folder


def table(path):
    return pq.read_table(path).to_pydict()


def vectors(workdir, name):
    return np.load(workdir / "embeddings" / f"{name}.npy"), read_json(workdir / "embeddings" / f"{name}.json")


def say(*argv, workdir):
    """Exit status, stdout and stderr of `0_get_plays_pqt.py *argv --workdir W`."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.run(SCRIPT.main, [*map(str, argv), "--workdir", str(workdir)])
        except SystemExit as e:
            return e.code, out.getvalue(), err.getvalue()


def get_plays(*argv, workdir):
    """Run the script, which must succeed; returns the workspace."""
    status, _, err = say(*argv, workdir=workdir)
    assert status == 0, err
    return workdir
