"""Runs that an earlier version finished stay finished: tests/worlds/finished_before/ was made by commit 4c4f727.

Trained methods but two-tower were selected by the validation loss then, which is now asked for by --stop-on loss.
Its folder is a small workspace with one finished run of each recommender (checkpoints, TensorBoard events and
pictures left out), made by the command lines below. The same command lines must find the same names and skip.
"""
import shutil

import pytest

from harness import registry
from tests.conftest import ROOT

COMMANDS = """
knn content
knn content --shuffle
train content item 20 256 2 --hidden-dim 4 --stop-on loss --device cpu
train content item 20 256 2 --hidden-dim 4 --shuffle --stop-on loss --device cpu
train random item 5 256 2 --hidden-dim 4 --loss infonce --stop-on loss --device cpu
train_bert content item 20 16 2 --hidden-dim 4 --stop-on loss --device cpu
recommenders.sasrec content --epochs 2 --batch-size 16 --hidden-dim 8 --stop-on loss --device cpu
recommenders.two_tower --embedding content --epochs 2 --batch-size 256 --device cpu
recommenders.dtnmr --epochs 2 --hidden 8 --lstm-size 8 --size 4 --stop-on loss --device cpu
recommenders.chance
recommenders.popularity
recommenders.content_knn content
recommenders.itemknn
recommenders.ease
recommenders.ials
recommenders.elsa
recommenders.hybrid --steps 4
recommenders.random_forest --trees 5
""".strip().splitlines()
LATER = {f"recommenders.{name}" for name in ("acarec", "artist_mean", "cease", "clcrec",
                                             "content_elsa", "content_factors", "content_prior", "contrastive",
                                             "dropoutnet", "heater", "shrinkage", "sibrar")}


def stamps(folder):
    return {p.relative_to(folder): p.stat().st_mtime_ns for p in folder.rglob("*")
            if p.is_file() and p.name not in (".lock", "importances.png")}


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    folder = tmp_path_factory.mktemp("before") / "w"
    shutil.copytree(ROOT / "tests" / "worlds" / "finished_before", folder)
    for picture in folder.glob("runs/random-forest*"):
        (picture / "importances.png").touch()
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_a_run_finished_by_an_earlier_version_is_skipped(before, command, capsys):
    script, *words = command.split()
    stamped = stamps(before)
    registry.load(script).main([*words, "--workdir", str(before), "--k", "10"])
    said, now = capsys.readouterr().err, stamps(before)
    assert "finished before, skipped" in said
    if "--shuffle" in words:    # a control gets the name that says so, once; what it made stays as it was
        assert "shuffled" in said and set(now) != set(stamped)
        made = [sorted(time for path, time in s.items() if path.parts[0] != "runs") for s in (stamped, now)]
        assert made[0] == made[1]
        registry.load(script).main([*words, "--workdir", str(before), "--k", "10"])
        stamped = now
    assert stamps(before) == stamped


def test_every_recommender_has_such_a_run():
    scripts = {r.module.removesuffix(".__main__") for r in registry.recommenders().values()}
    assert scripts == {command.split()[0] for command in COMMANDS} | LATER   # which that version did not have
