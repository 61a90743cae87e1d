"""Grid files and files of methods of any shape: read, or refused in one sentence that names the file."""
import os
import shlex
from unittest import mock

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments import grid_file, spaces
from experiments.expand import Block, jobs_of
from harness.errors import UsageError, WorkError
from slurm import grid

SCALARS = (st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates()
           | st.binary(max_size=3))
ANY = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
    st.text(max_size=5) | st.integers(), inner, max_size=3), max_leaves=6)
SCRIPTS = st.sampled_from(["knn.py", "train.py", "recommenders.ease", "recommenders.chance", "os"])
FLAGS = st.dictionaries(st.text(max_size=4) | st.sampled_from(
    ["k", "seed", "names", "model", "center", "comment", "l2", "nosuch"]), ANY, max_size=3)
BLOCK = st.fixed_dictionaries({}, optional={"script": SCRIPTS | ANY, "grid": FLAGS | ANY, "set": FLAGS | ANY,
                                            "places": st.lists(ANY, max_size=2) | ANY, "gird": ANY})
GRID = st.fixed_dictionaries({}, optional={
    "blocks": st.lists(BLOCK | ANY, max_size=3) | ANY, "split": ANY | st.text(alphabet="ab'\" -", max_size=8),
    "extract": ANY | st.fixed_dictionaries({}, optional={
        "backends": st.lists(st.sampled_from(["mfcc", "musicnn", "../x"]) | ANY, max_size=2) | ANY,
        "shards": ANY, "flags": FLAGS | ANY})})
RANGE = st.fixed_dictionaries({}, optional={"log": ANY | st.lists(st.floats() | st.integers(), max_size=3),
                                            "uniform": ANY | st.lists(st.floats() | st.integers(), max_size=3)})
METHOD = st.fixed_dictionaries({}, optional={
    "script": SCRIPTS | ANY, "space": ANY | st.dictionaries(st.sampled_from(["l2", "k"]) | ANY.filter(
        lambda v: isinstance(v, (str, int))), RANGE | st.lists(SCALARS, max_size=3) | ANY, max_size=2),
    "each": FLAGS | ANY, "set": FLAGS | ANY, "control": ANY, "seeds": ANY, "controls": ANY})
METHODS = st.dictionaries(st.sampled_from(["ease", "knn", "chance"]) | st.text(max_size=3) | st.integers(),
                          METHOD | ANY, max_size=3)
FUZZ = settings(max_examples=150, deadline=None, derandomize=True,
                suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture(autouse=True)
def no_facts(monkeypatch, tmp_path):
    (tmp_path / "empty.env").write_text("")
    monkeypatch.setenv("CLUSTER_ENV", str(tmp_path / "empty.env"))
    for name in ("WORKDIR", "AUDIO"):
        monkeypatch.delenv(name, raising=False)


def write(path, document):
    path.write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8", errors="surrogatepass")
    return path


def planned(path, folder):
    """All jobs of a grid file, or the sentence that refuses it."""
    try:
        with mock.patch.dict(os.environ, AUDIO=str(folder)):
            args, script, places, flags = grid.read(["--file", str(path), "--workdir", str(folder)])
            return [job.line for stage in grid.stages_of(args, script, places, flags)[1] for job in stage.jobs]
    except (UsageError, WorkError) as e:
        return str(e)


@FUZZ
@given(document=GRID | ANY)
def test_a_grid_file_of_any_shape_is_planned_or_refused_in_a_sentence(tmp_path, document):
    result = planned(write(tmp_path / "g.yaml", document), tmp_path)
    assert isinstance(result, list) and all("\n" not in line for line in result) or 10 < len(result) < 2000


@FUZZ
@given(document=METHODS | ANY)
def test_a_file_of_methods_of_any_shape_is_read_or_refused_in_a_sentence(tmp_path, document):
    path = write(tmp_path / "s.yaml", document)
    try:
        methods = spaces.read_methods(path)
    except (UsageError, WorkError) as e:
        assert str(path) in str(e) or "no script" in str(e)
        assert len(str(e)) < 2000
        return
    for method in methods:
        assert len(spaces.settings(method, 3, 1)) <= 3


@FUZZ
@given(data=st.binary(max_size=60) | st.text(alphabet="[]{}:-&*!|>'\"\\ \n\tab1?%@`,#", max_size=40).map(str.encode))
def test_bytes_of_any_kind_are_refused_in_a_sentence(tmp_path, data):
    (tmp_path / "g.yaml").write_bytes(data)
    for read in (grid_file.read, spaces.read_methods):
        try:
            read(tmp_path / "g.yaml")
        except (UsageError, WorkError) as e:
            assert str(tmp_path / "g.yaml") in str(e)


WRONG = {
    "blocks: [{script: 5}]": "script is train.py or recommenders.NAME, not 5",
    "blocks: [{script: [train.py]}]": "script is train.py or recommenders.NAME, not ['train.py']",
    "blocks: 5": "blocks should be a list of entries with a script each, not 5",
    "blocks: ''": "blocks should be a list of entries",
    "blocks: [{script: train.py, places: 5}]": "places should be a list of words, not 5",
    "blocks: [{script: train.py, places: musicnn}]": "places should be a list of words, not 'musicnn'",
    "blocks: [{script: knn.py, grid: {k: [{a: 1}]}}]": "'k' should be a flag with a value or a list of values",
    "blocks: [{script: knn.py, set: {5: 1}}]": "5 should be a flag with a value",
    "split: \"--protocol 'a\"": "cannot be split into words (No closing quotation)",
    "split: [--protocol, random]": "should be flags of preprocess/1_train_test_split.py in one text",
    "extract: {backends: 5}": "backends should be a list of names, not 5",
    "extract: {backends: mfcc}": "backends should be a list of names, not 'mfcc'",
    "extract: {backends: [mfcc], flags: [a]}": "flags should be `key: value` lines",
    "extract: {backends: [mfcc], shards: 0}": "shards should be a whole number of at least 1",
    "extract: {backends: [mfcc], shards: 9999999999}": "is more than 100000",
    "extract: {backends: [../../x]}": "no backend '../../x'",
    "blocks: [{script: knn.py, set: {k: 2020-13-45}}]": "cannot be read as YAML",
    "blocks: !!int x": "cannot be read as YAML",
    "blocks: !!timestamp x": "cannot be read as YAML",
    "blocks: !!python/object/apply:os.system [id]": "cannot be read as YAML",
    "blocks: [{script: knn.py, set: {k: 0x" + "f" * 5000 + "}}]": "'k' should be a flag with a value",
    "blocks: " + "[" * 3000 + "]" * 3000: "cannot be read as YAML",
    "a: &a [1]\nb: &b [*a, *a]\nblocks: [*b, *b]": "unknown key a, b",
}


@pytest.mark.parametrize("text", WRONG, ids=lambda text: text[:50])
def test_a_wrong_shape_is_named_with_its_place(tmp_path, text):
    (tmp_path / "g.yaml").write_text(text)
    result = planned(tmp_path / "g.yaml", tmp_path)
    assert WRONG[text] in result and "\n" not in WRONG[text]


def test_a_product_that_is_too_large_is_counted_before_it_is_made(tmp_path):
    names = ("seed", "epochs", "patience", "k", "neg_samples")
    block = Block("train.py", {name: list(range(1, 101)) for name in names})
    with pytest.raises(UsageError, match="the lists multiply to 10000000000 runs, more than 100000"):
        jobs_of(block, tmp_path)


def test_values_keep_their_words(tmp_path):
    """Strings that look like flags, dates, numbers with a point: what the script reads is what the file says."""
    path = write(tmp_path / "g.yaml", {"blocks": [{"script": "train.py", "set": {
        "model": "-x", "comment": "-5", "l2": 1e-8, "lr": 0.01, "item_freeze": 1}}]})
    line, = planned(path, tmp_path)
    import train
    args = train.parse(shlex.split(line)[2:])
    assert (args.model, args.comment, args.l2, args.lr, args.item_freeze) == ("-x", "-5", 1e-8, 0.01, 1)
    path = write(tmp_path / "g.yaml", {"blocks": [{"script": "knn.py", "set": {"names": "-x"}}]})
    line, = planned(path, tmp_path)
    assert shlex.split(line)[-2:] == ["--", "-x"]
