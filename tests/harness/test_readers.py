"""harness/readers.py under damage: every reader gives a value or a WorkError, whatever the bytes are."""
import io
import re
import struct

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dataset
from harness import metadata, readers, runs, split_files
from harness.errors import WorkError
from harness.files import save_checkpoint, write_json, write_npy, write_parquet
from tests.worlds.world import tiny_workspace

FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def damage(draw, size):
    """A function bytes -> bytes: flips of bits, a cut, a stretch of other bytes, or bytes put in between."""
    kind = draw(st.sampled_from(["flip", "flip", "cut", "overwrite", "insert"]))
    place = draw(st.integers(0, size - 1))
    if kind == "flip":
        bits = draw(st.lists(st.tuples(st.integers(0, size - 1), st.integers(0, 7)), min_size=1, max_size=4))

        def flip(data):
            data = bytearray(data)
            for byte, bit in bits:
                data[byte % len(data)] ^= 1 << bit
            return bytes(data)
        return flip
    other = draw(st.binary(min_size=1, max_size=40))
    return {"cut": lambda data: data[:place], "insert": lambda data: data[:place] + other + data[place:],
            "overwrite": lambda data: data[:place] + other + data[place + len(other):]}[kind]


def value_or_sentence(path, read):
    """What `read` returns, or the WorkError, which is one line that names the file; nothing else may be raised."""
    try:
        return read()
    except WorkError as e:
        assert path.name in str(e) and len(str(e)) < 500
        return e


# --------------------------------------------------------------------------- numpy

def test_every_flip_of_a_bit_in_a_npy_header(tmp_path):
    """1,024 single bits: each gives an array or a sentence (108 of them once ended in a traceback)."""
    path = tmp_path / "e.npy"
    write_npy(path, np.arange(20, dtype=np.float32).reshape(5, 4))
    whole, refused = path.read_bytes(), 0
    for bit in range(1024):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        refused += isinstance(value_or_sentence(path, lambda: np.array(readers.read_npy(path))), WorkError)
        try:
            readers.npy_from_bytes(bytes(data))
        except ValueError:
            pass
    assert 200 < refused < 1024


@FUZZ
@given(data=st.data())
def test_damaged_npy_and_npz(tmp_path, data):
    path = tmp_path / "e.npy"
    write_npy(path, np.arange(200, dtype=np.float32).reshape(50, 4))
    path.write_bytes(data.draw(damage(path.stat().st_size))(path.read_bytes()))
    value_or_sentence(path, lambda: np.array(readers.read_npy(path)))
    with io.BytesIO() as f:
        np.savez(f, ids=np.array(["a", "b"]), vectors=np.ones((2, 3), np.float32))
        whole = f.getvalue()
    path = tmp_path / "e.npz"
    path.write_bytes(data.draw(damage(len(whole)))(whole))
    value_or_sentence(path, lambda: readers.read_npz(path))


def npy(header, body=b"", version=b"\1\0", length="<H"):
    header = header.encode() + b"\n"
    return b"\x93NUMPY" + version + struct.pack(length, len(header)) + header + body


@pytest.mark.parametrize("content, words", [
    (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 1000)}"), "takes? [0-9]{16} bytes"),
    (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-5, 4)}", bytes(80)), "its shape is"),
    (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (5, 5)}", bytes(99)), "cut off"),
    (npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", bytes(99)), "Python objects, not numbers"),
    (npy("(" * 3000), ""), (b"", "EOF"), (b"\x93NUMPY", "EOF"),
    (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (5, 5)}", bytes(100), b"\7\0"), "format version is 7.0"),
    (b"\x93NUMPY\2\0" + struct.pack("<I", 4_000_000_000) + bytes(50), "should take 4000000000 bytes")],
    ids=["huge", "negative", "cut", "objects", "deep", "empty", "magic alone", "version", "long header"])
def test_headers_of_npy_that_claim_what_is_not_so(tmp_path, content, words):
    path = tmp_path / "e.npy"
    path.write_bytes(content)
    with pytest.raises(WorkError, match=f"^{re.escape(str(path))} cannot be read as a .npy matrix .*({words})"):
        readers.read_npy(path)
    with pytest.raises(ValueError):
        readers.npy_from_bytes(content)


def test_an_archive_of_arrays_that_would_not_fit_is_refused(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "e.npz", zeros=np.zeros(10 ** 6))
    assert list(readers.read_npz(tmp_path / "e.npz")) == ["zeros"]
    monkeypatch.setattr("harness.machine.free_memory", lambda: 10 ** 6)
    with pytest.raises(WorkError, match="would take 8000128 bytes, but 1000000 are free"):
        readers.read_npz(tmp_path / "e.npz")


# --------------------------------------------------------------------------- json

JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
                    max_leaves=8)


@pytest.mark.parametrize("text, words", [
    ("[" * 100_000, "nested too deeply"), ('{"a": ' * 100_000, "nested too deeply"), ("[1]", "but holds a list"),
    ("null", "but holds null"), ('{"a": 1', "cannot be read as json"), ("1" * 5000, "cannot be read as json")])
def test_json_that_is_no_object(tmp_path, text, words):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(WorkError, match=f"config.json .*{words}"):
        readers.read_json(path)
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(WorkError, match="config.json cannot be read as json"):
        readers.read_json(path)


def test_fields_of_another_type_are_named(tmp_path):
    path = tmp_path / "config.json"
    write_json(path, {"a": {}, "b": None, "c": True})
    assert readers.read_json(path, {"a": dict, "b": (int, type(None)), "absent": str})["a"] == {}
    with pytest.raises(WorkError, match="config.json: a should be a text or null, but is an object"):
        readers.read_json(path, {"a": (str, type(None))})
    with pytest.raises(WorkError, match="config.json: c should be a whole number, but is true or false"):
        readers.read_json(path, {"c": int})


@FUZZ
@given(field=st.sampled_from([*runs.MANIFEST, "unknown"]), value=JSON)
def test_a_run_whose_manifest_is_wrong_is_left_out_and_the_tables_stand(tmp_path, field, value):
    from evaluation.results import collect
    good = {"recommender": "knn", "embedding": "mfcc", "status": "finished", "request": {"k": 5}, "inputs": {},
            "parts": ["test"], "started": "2020"}
    write_json(tmp_path / "runs" / "good" / "config.json", good)
    write_json(tmp_path / "runs" / "other" / "config.json", {**good, field: value})
    names = [name for name, _ in runs.find_runs(tmp_path)]
    assert "good" in names
    cells, left = collect(tmp_path)
    assert "good" in [name for cell in cells for name, _ in cell.runs]


def test_table_and_metrics_name_a_bad_run_and_go_on(tiny, capsys):
    import knn
    import metrics
    import table
    knn.main(["content", "--workdir", str(tiny), "--device", "cpu"])
    for name, text in (("deep", "[" * 100_000), ("list", "[1]"), ("types", '{"request": 3}'), ("cut", '{"a": ')):
        (tiny / "runs" / name).mkdir()
        (tiny / "runs" / name / "config.json").write_text(text)
    (tiny / "runs" / "folder" / "config.json").mkdir(parents=True)
    metrics.main(["--workdir", str(tiny)])
    said = capsys.readouterr().err
    for name in ("deep", "list", "types", "cut", "folder"):
        assert len(re.findall(f"^run {name} is left out: ", said, re.MULTILINE)) == 1
    table.main(["--workdir", str(tiny)])
    assert "| content " in capsys.readouterr().out   # the column of representations


# --------------------------------------------------------------------------- parquet

@FUZZ
@given(data=st.data())
def test_damaged_splits_and_metadata(tmp_path, data):
    work = tmp_path / "w"
    if not work.exists():
        tiny_workspace(work)
        for path in (work / "data" / "val.pqt", work / "items.pqt"):
            path.with_suffix(".whole").write_bytes(path.read_bytes())
    for path, read in ((work / "data" / "val.pqt", lambda: dataset.load(work)),
                       (work / "items.pqt", lambda: metadata.read_names(work, 80))):
        whole = path.with_suffix(".whole").read_bytes()
        path.write_bytes(data.draw(damage(len(whole)))(whole))
        value_or_sentence(path, read)
        path.write_bytes(whole)


def test_two_columns_of_one_name_and_absent_ones(tmp_path):
    import pyarrow as pa
    path = tmp_path / "a.pqt"
    write_parquet(path, pa.table([[1], [2]], names=["a", "a"]))
    with pytest.raises(WorkError, match="a.pqt has two columns of the name a"):
        readers.read_parquet(path)
    write_parquet(path, pd.DataFrame({"a": [1], "b": [2]}))
    with pytest.raises(WorkError, match="a.pqt has no column c or d; it has a, b"):
        readers.read_parquet(path, ["c", "a", "d"])
    assert readers.read_parquet(path, ["b"]).to_pydict() == {"b": [2]}
    assert [b.to_pydict() for b in readers.parquet_batches(path, ["a"], 10)] == [{"a": [1]}]


@pytest.mark.parametrize("count, words", [(np.inf, "1 rows have a count that is infinite"),
                                          (np.nan, "1 rows have a count that is not a number"),
                                          (-1.0, "1 rows have a count that is not positive"),
                                          (0.0, "1 rows have a count that is not positive")])
def test_a_count_is_reported_as_what_it_is(tmp_path, count, words):
    write_parquet(tmp_path / "train.pqt", pd.DataFrame({"user_id": [1, 2], "track_id": [1, 2], "count": [1.0, count]}))
    with pytest.raises(WorkError, match=words):
        split_files.read_pairs(tmp_path / "train.pqt")


# --------------------------------------------------------------------------- checkpoints and yaml

@FUZZ
@given(data=st.data())
def test_damaged_checkpoints(tmp_path, data):
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"model": {"weight": torch.ones(3, 4)}, "epoch": 2, "optimizer": {"state": [1, "a", None]}})
    path.write_bytes(data.draw(damage(path.stat().st_size))(path.read_bytes()))
    state = value_or_sentence(path, lambda: readers.load_checkpoint(path, keys=("model", "epoch")))
    assert isinstance(state, WorkError) or state.keys() >= {"model", "epoch"}


@FUZZ
@given(data=st.data())
def test_damaged_checkpoints_of_the_older_format(tmp_path, data):
    path = tmp_path / "last.pt"
    torch.save({"model": torch.ones(3, 4), "epoch": 2}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(data.draw(damage(path.stat().st_size))(path.read_bytes()))
    value_or_sentence(path, lambda: readers.load_checkpoint(path))


@FUZZ
@given(content=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_as_yaml_and_json(tmp_path, content):
    path = tmp_path / "grid.yaml"
    path.write_bytes(content)
    value_or_sentence(path, lambda: readers.read_yaml(path))
    value_or_sentence(path, lambda: readers.read_json(path))


@pytest.mark.parametrize("text", ["a: 2020-99-99", "[" * 5000, "? [a]\n: b", "!!python/object/apply:os.system ['id']",
                                  "a: &x [*x]", "- {a: b\n"])
def test_yaml_that_its_parser_chokes_on(tmp_path, text):
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    value = value_or_sentence(path, lambda: readers.read_yaml(path))
    assert isinstance(value, WorkError) or text == "a: &x [*x]"


def test_missing_and_forbidden_files_stay_errors_of_the_machine(tmp_path):
    for read in (readers.read_json, readers.read_npy, readers.read_parquet, readers.read_yaml):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "absent")
        with pytest.raises((IsADirectoryError, WorkError)):   # pyarrow has a sentence of its own
            read(tmp_path)
