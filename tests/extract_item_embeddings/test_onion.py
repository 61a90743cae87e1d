"""Music4All-Onion's feature files, made here in their form, through the command line."""
import bz2
import gzip
import hashlib
import http.server
import json
import re
import subprocess
import sys
import threading

import numpy as np
import pytest

import dataset
from extract_item_embeddings import onion
from extract_item_embeddings.engine import tabular
from harness import download
from harness.errors import UsageError, WorkError
from harness.files import checksum, write_text
from harness.readers import read_json
from tests.conftest import ROOT
from tests.worlds.world import write_tracks

IDS = [f"{i:016d}" for i in range(40)]


def table(rows, names=("0", "1", "2"), delimiter="\t"):
    """Text of a feature file: rows of (id, values)."""
    lines = [delimiter.join(("id", *names)), *(delimiter.join(map(str, (key, *values))) for key, values in rows)]
    return ("\n".join(lines) + "\n").encode()


def numbers(ids=IDS, dim=3, seed=0):
    """Rows in another order than the list's, {id: values}."""
    rng = np.random.default_rng(seed)
    return {i: rng.normal(size=dim).round(6) for i in rng.permutation(ids)}


@pytest.fixture
def work(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    write_text(folder / "trackid_sorted.csv", "idx,trackid\n" + "".join(f"{r},{i}\n" for r, i in enumerate(IDS)))
    return folder


def run(work, *argv, status=0):
    done = subprocess.run([sys.executable, "extract_item_embeddings/onion.py", *map(str, argv), "--workdir", str(work)],
                          cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == status and "Traceback" not in done.stderr, done.stderr
    return done.stdout if status == 0 else done.stderr.splitlines()[-1]


@pytest.mark.parametrize("pack", [bz2.compress, gzip.compress, bytes])
def test_rows_find_their_tracks(work, tmp_path, pack):
    known = numbers(IDS[:30] + ["a stranger", "another"])
    path = tmp_path / "id_ivec256.tsv.bz2"
    path.write_bytes(pack(table(known.items())))
    said = run(work, "id_ivec256", "--file", path)
    assert "onion-ivec256: 30 of 40 tracks have an embedding of 3 values, 10 have none; 2 track ids" in said
    assert f"  {IDS[30]}: not in id_ivec256.tsv.bz2" in said
    values = np.load(work / "embeddings/onion-ivec256.npy")
    assert values.dtype == np.float32 and np.isnan(values[30:]).all()
    assert np.array_equal(values[:30], np.array([known[i] for i in IDS[:30]], np.float32))
    about = read_json(work / "embeddings/onion-ivec256.json")
    assert about["source_checksum"] == checksum(path) and about["licence"] == "CC BY 4.0"
    assert about["unknown_ids"] == 2 and list(map(int, about["failed"])) == list(range(30, 40))
    assert about["matrix_checksum"] == checksum(work / "embeddings/onion-ivec256.npy")
    matrix = dataset.open_embedding(work, "onion-ivec256", 40, dataset.read_tracks(work)[1])
    assert matrix.shape == (40, 3)


def test_memory_is_that_of_a_block(work, tmp_path, monkeypatch):
    """Blocks far smaller than the file: each is handed on before the next is read, and all rows arrive."""
    monkeypatch.setattr(tabular, "BLOCK", 4096)
    known = numbers(dim=50)
    path = tmp_path / "id_x.tsv"
    path.write_bytes(table(known.items(), names=[str(i) for i in range(50)]))
    sizes = [len(keys) for keys, _ in tabular.Table(path).blocks()]
    assert sum(sizes) == 40 and len(sizes) > 3
    onion.main(["x", "--file", str(path), "--workdir", str(work)])
    assert np.array_equal(np.load(work / "embeddings/onion-x.npy"), np.array([known[i] for i in IDS], np.float32))


def test_columns_that_hold_no_numbers(work, tmp_path):
    path = tmp_path / "id_essentia.tsv"
    rows = [(i, (r / 8, "C" if r % 2 else "F#", "" if r == 3 else r)) for r, i in enumerate(IDS)]
    path.write_bytes(table(rows, names=("rhythm.bpm", "tonal.key_key", "lowlevel.x")))
    said = run(work, "essentia", "--file", path, "--name", "essentia")
    assert "39 of 40 tracks have an embedding of 2 values" in said
    assert f"{IDS[3]}: 1 of 2 values are not finite numbers" in said
    about = read_json(work / "embeddings/essentia.json")
    assert about["columns_left_out"] == ["tonal.key_key"]
    assert np.load(work / "embeddings/essentia.npy")[5].tolist() == [5 / 8, 5]
    path.write_bytes(table([(i, ("{'rock': 100, 'pop': 5}",)) for i in IDS], names=("(tag, weight)",)))
    assert "has no column of numbers beside 'id'" in run(work, "tags_dict", "--file", path, status=1)


def test_a_quoted_header_and_one_name_twice(work, tmp_path):
    path = tmp_path / "id_genres_tf-idf.tsv"
    path.write_bytes(table([(i, (0.5, 1, n)) for n, i in enumerate(IDS)], names=('"rock ""n"" roll"', "pop", "pop")))
    assert "40 of 40 tracks have an embedding of 3 values" in run(work, "genres_tf-idf", "--file", path)


@pytest.mark.parametrize("spoil, sentence", [
    (lambda t: t.replace(b"0000000000000007\t", b"0000000000000007\t9\t"), "is damaged: .*Expected 4 columns, got 5"),
    (lambda t: t[:-12], "is damaged: .*Expected 4 columns, got"),
    (lambda t: t + t.splitlines()[1] + b"\n", "has the track [0-9]{16} more than once"),
    (lambda t: t.replace(b"id\t", b"song\t"), "has no column trackid, track_id, id or idx with the tracks; it has son"),
    (lambda t: t.splitlines()[0], "id_x.tsv has no rows after its header"),
    (lambda t: b"", "id_x.tsv is empty"),
    (lambda t: b"\xff\xfe" + t, "is not a text table in UTF-8"),
    (lambda t: bz2.compress(t)[:-30], "is damaged: "),
])
def test_damaged_files(work, tmp_path, spoil, sentence):
    path = tmp_path / "id_x.tsv"
    path.write_bytes(spoil(table((i, v.tolist()) for i, v in numbers().items())))
    assert re.search(sentence, run(work, "x", "--file", path, status=1))
    assert not list(work.glob("embeddings/*"))


def test_a_word_far_behind_the_sample_is_named(work, tmp_path):
    rows = [(f"s{i}", (i, i)) for i in range(tabular.SAMPLE + 5)] + [(IDS[0], (1, "abc"))]
    path = tmp_path / "id_x.tsv"
    path.write_bytes(table(rows, names=("a", "loudness")))
    said = run(work, "x", "--file", path, status=1)
    assert "'abc'" in said and "is damaged" in said


def test_another_collection(work, tmp_path):
    path = tmp_path / "id_x.tsv"
    path.write_bytes(table(numbers([f"song{i}" for i in range(5)]).items()))
    said = run(work, "x", "--file", path, status=1)
    assert "none of the 5 tracks of id_x.tsv is in trackid_sorted.csv: its ids look like song" in said


def test_skipped_made_again_and_asked_about(work, tmp_path, capsys):
    path = tmp_path / "id_x.tsv"
    path.write_bytes(table(numbers().items()))
    argv = ["x", "--file", str(path), "--workdir", str(work)]
    onion.main(argv)
    first = (work / "embeddings/onion-x.npy").read_bytes()
    capsys.readouterr()
    onion.main(argv)
    assert "onion-x: finished before, skipped" in capsys.readouterr().err
    path.write_bytes(table(numbers(seed=1).items()))
    onion.main(argv)
    assert "made again, because the source changed since" in capsys.readouterr().err
    assert (work / "embeddings/onion-x.npy").read_bytes() != first
    with pytest.raises(UsageError, match="was made with other settings .*feature"):
        onion.main(["y", "--name", "onion-x", *argv[1:]])
    write_tracks(work, 3)
    with pytest.raises(WorkError, match="none of the 40 tracks"):
        onion.main(argv)
    assert read_json(work / "embeddings/onion-x.json")["n_tracks"] == 40  # the old one stays whole


# --------------------------------------------------------------------------- downloads

class Zenodo(http.server.BaseHTTPRequestHandler):
    files = {}

    def do_GET(self):
        body = self.files.get(self.path)
        self.send_response(200 if body is not None else 404)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *args):
        pass


@pytest.fixture
def zenodo(monkeypatch):
    """The record, served by this machine: {path: bytes} to fill."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Zenodo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    here, fetch = f"http://127.0.0.1:{server.server_port}", download.fetch
    monkeypatch.setattr(onion, "RECORD", f"{here}/records/1")
    monkeypatch.setattr(onion, "API", f"{here}/api/1")
    monkeypatch.setattr(download, "fetch", lambda *a, **k: fetch(*a, **k, loopback=True))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(Zenodo, "files", {})
    yield Zenodo.files
    server.shutdown()
    server.server_close()


def test_downloaded_by_name_and_verified(work, zenodo, capsys):
    packed = bz2.compress(table(numbers().items()))
    listed = {"files": [{"key": "id_maestro.tsv.bz2", "checksum": "md5:" + hashlib.md5(packed).hexdigest()}]}
    zenodo |= {"/records/1/files/id_maestro.tsv.bz2": packed, "/api/1": json.dumps(listed).encode()}
    onion.main(["maestro", "--workdir", str(work)])
    assert (work / "raw/id_maestro.tsv.bz2").read_bytes() == packed
    assert "40 of 40 tracks" in capsys.readouterr().out
    zenodo.clear()
    onion.main(["maestro", "--workdir", str(work), "--overwrite"])  # the file is there: no network is needed
    with pytest.raises(WorkError, match="the checksum of id_gems.tsv.bz2 cannot be read from .*Not Found"):
        onion.main(["gems", "--workdir", str(work)])
    zenodo["/api/1"] = json.dumps(listed).encode()
    with pytest.raises(UsageError, match="has no id_gems.tsv.bz2; choose from maestro"):
        onion.main(["gems", "--workdir", str(work)])
    zenodo["/api/1"] = b"<html>"
    with pytest.raises(WorkError, match="the checksum of id_gems.tsv.bz2 cannot be read from"):
        onion.main(["gems", "--workdir", str(work)])


def test_another_file_under_a_known_name_is_refused(work, zenodo):
    zenodo["/records/1/files/id_maest.tsv.bz2"] = b"something else"
    with pytest.raises(WorkError, match="delivered another file: its sha256 is .*, not a2db3ba5.*nothing was"):
        onion.main(["maest", "--workdir", str(work)])
    assert not (work / "raw/id_maest.tsv.bz2").exists()


def test_without_a_network(work, monkeypatch):
    monkeypatch.setattr(onion, "API", "https://127.0.0.1:1/api")
    monkeypatch.setattr(onion, "RECORD", "https://127.0.0.1:1/records/1")
    with pytest.raises(WorkError, match="cannot be read from .* a network is needed once, or download id_jukebox"):
        onion.main(["jukebox", "--workdir", str(work)])
    with pytest.raises(WorkError, match="cannot be reached .* or download id_maest.tsv.bz2 of .* with --file"):
        onion.main(["maest", "--workdir", str(work)])


def test_bad_requests(work, tmp_path):
    assert "--file /nowhere does not exist" in run(work, "x", "--file", "/nowhere", status=2)
    assert "is not a name of an embedding" in run(work, "x", "--file", "/nowhere", "--name", "../x", status=2)
    path = tmp_path / "id_x.tsv"
    path.write_bytes(table(numbers().items()))
    assert "trackid_sorted.csv is missing" in run(tmp_path, "x", "--file", path, status=1)
