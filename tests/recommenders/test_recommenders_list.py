"""python -m recommenders --list: every recommender by its declarations, quickly, and nothing run."""
import subprocess
import sys

import pytest

from harness import registry
from harness.errors import WorkError
from tests.conftest import ROOT
from tests.recommenders.test_contract import NAMES, module_of


def cli(*words, flags=()):
    return subprocess.run([sys.executable, *flags, "-m", "recommenders", *words], cwd=ROOT, capture_output=True,
                          text=True, timeout=60)


def test_every_recommender_is_found_and_says_what_its_module_says():
    found = {r.command.split()[-1].removesuffix(".py"): r for r in registry.recommenders().values()}
    assert sorted(found) == sorted(NAMES)
    for name, recommender in found.items():
        module = module_of(name)
        assert (recommender.needs, recommender.cold) == (tuple(module.NEEDS), module.COLD), name
        assert recommender.about == module.__doc__.splitlines()[0] and recommender.about.endswith("."), name


def test_the_printed_table_has_a_row_for_each():
    done = cli("--list")
    assert (done.returncode, done.stderr) == (0, "")
    header, *rows = done.stdout.splitlines()
    assert header.split() == ["run", "with", "needs", "cold", "what", "it", "is"] and len(rows) == len(NAMES)
    needs, cold, what = (header.index(word) for word in ("needs", "cold", "what"))
    by_command = {row[:needs].strip(): (row[needs:cold].strip(), row[cold:what].strip()) for row in rows}
    assert by_command["python train_bert.py"] == ("embedding, order", "yes")
    assert by_command["python -m recommenders.chance"] == ("-", "yes")
    assert by_command["python -m recommenders.ease"] == ("-", "no")
    assert all((ROOT / command.split()[-1]).exists() or command.startswith("python -m recommenders.")
               for command in by_command)


def test_listing_imports_nothing_heavy():
    done = cli("--list", flags=("-X", "importtime"))
    loaded = {line.rsplit("|", 1)[1].strip().partition(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert done.returncode == 0 and not loaded & {"numpy", "torch", "pandas", "scipy", "sklearn", "pyarrow", "duckdb"}


@pytest.mark.parametrize("text, told", [
    ('"""A: b.\n\nmore"""\nNEEDS = ("order",)\nCOLD = False\n', {"needs": ("order",), "cold": False, "about": "A: b.",
                                                                "space": None, "title": None, "parallel": False,
                                                                "deterministic": False}),
    ('TITLE = "EASE"\nPARALLEL = True\nNEEDS = ()\nCOLD = True\nSEARCH_SPACE = {"l2": {"log": [1, 9]}}\n',
     {"needs": (), "cold": True, "about": "", "space": {"l2": {"log": [1, 9]}}, "title": "EASE",
      "parallel": True, "deterministic": False}),
    ('DETERMINISTIC = {"map": "ridge"}\nNEEDS = ()\nCOLD = True\n',
     {"needs": (), "cold": True, "about": "", "space": None, "title": None, "parallel": False,
      "deterministic": {"map": "ridge"}}),
    ('NEEDS = ()\nCOLD = True\nraise SystemExit("run")\n', {"needs": (), "cold": True, "about": "",
                                                               "space": None, "title": None, "parallel": False,
                                                                "deterministic": False}),
    ('"""No recommender."""\nNEEDS = ()\n', None), ("", None)])
def test_declarations_are_read_and_not_run(tmp_path, text, told):
    (tmp_path / "some.py").write_text(text)
    assert registry.declared(tmp_path / "some.py") == told


@pytest.mark.parametrize("text", ["def broken(:\n", "import os\nNEEDS = os.sep\nCOLD = True\n",
                                  "NEEDS = ()\nCOLD = True\nSEARCH_SPACE = dict(l2=[1])\n"])
def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path, text):
    (tmp_path / "some.py").write_text(text)
    with pytest.raises(WorkError, match="some.py cannot be read as Python"):
        registry.declared(tmp_path / "some.py")


@pytest.mark.parametrize("line, sentence", [("TITLE = 3", "TITLE should be a text, but is a int")])
def test_a_title_that_is_no_text_is_one_sentence(tmp_path, line, sentence):
    (tmp_path / "some.py").write_text(f"{line}\nNEEDS = ()\nCOLD = True\n")
    with pytest.raises(WorkError, match=sentence):
        registry.declared(tmp_path / "some.py")


def test_every_recommender_has_its_name_in_the_literature():
    titles = {name: registry.title(name) for name in registry.recommenders()}
    assert {titles[n] for n in ("knn", "shallow", "bert4rec", "two_tower", "ials")} == {
        "KNN", "Shallow Net", "BERT4Rec", "Two-tower", "iALS"}
    assert len(set(titles.values())) == len(titles) and all(r.title for r in registry.recommenders().values())
    assert registry.title("somebody's") == "somebody's"
    assert [registry.title("random_forest", {"model": m}) for m in ("forest", "lambdarank")] == ["Random forest",
                                                                                                 "LambdaMART"]


def test_tables_read_the_same_declarations():
    assert registry.capability("bert4rec") == (("embedding", "order"), True)
    assert registry.capability("popularity") == ((), False) and registry.capability("nobody's") == ((), True)


@pytest.mark.parametrize("words, sentence", [([], "the following arguments are required: --list"),
                                             (["--list", "knn"], "unrecognized arguments: knn")])
def test_anything_else_is_one_sentence(words, sentence):
    done = cli(*words)
    assert done.returncode == 2 and done.stderr == f"recommenders: {sentence}\n"
