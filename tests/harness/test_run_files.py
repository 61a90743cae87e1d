"""The files of one run: a control under an old name is renamed once and not trained again; removal touches no other."""
import fcntl

import pytest

import knn
from harness import run_files, runs
from harness.errors import RunInProgress
from harness.files import write_json, write_text
from recommenders import content_knn, hybrid


def age(workdir, new, old):
    """Give a finished run the name that an earlier version gave it."""
    manifests = dict(runs.find_runs(workdir))
    run_files.rename(workdir, new, old, manifests[new], manifests)


def stamps(workdir, name):
    return {p.name.removeprefix(name): p.stat().st_mtime_ns for kind in ("preds", "metrics")
            for p in (workdir / kind).glob(f"{name}_*")}


@pytest.mark.parametrize("module", [knn, content_knn])
def test_a_control_under_an_old_name_is_renamed_once_and_not_made_again(tiny, module, capsys):
    command = ["content", "--shuffle", "--seed", "3", "--k", "5", "--workdir", str(tiny)]
    module.main(command)
    (name, _), = runs.find_runs(tiny)
    old = name.replace("shuffled", "shuffle") if module is knn else name.replace("_shuffled", "")
    assert "shuffled" in name and "shuffled" not in old
    before = stamps(tiny, name)
    age(tiny, name, old)
    assert stamps(tiny, old) == before and [n for n, _ in runs.find_runs(tiny)] == [old]
    capsys.readouterr()
    module.main(command)
    said = capsys.readouterr().err
    assert f"{old}: renamed to {name}" in said and f"{name}: finished before, skipped" in said
    assert stamps(tiny, name) == before and not stamps(tiny, old)
    (now, config), = runs.find_runs(tiny)
    assert now == config["run"] == name
    module.main(command)
    assert "renamed" not in capsys.readouterr().err


def test_what_was_built_on_a_renamed_control_stays_finished_and_a_control(tiny, capsys):
    """A hybrid keeps its sources under their new names, so it is neither stale nor taken for the real thing."""
    from ranking import candidates
    words = ["content", "--k", "5", "--workdir", str(tiny)]
    content_knn.main([*words, "--shuffle"])
    content_knn.main([*words, "--neighbours", "5"])
    shuffled, plain = sorted((name for name, _ in runs.find_runs(tiny)), key=lambda name: "shuffled" not in name)
    old = shuffled.replace("_shuffled", "")
    age(tiny, shuffled, old)
    hybrid.main([old, plain, "--k", "5", "--workdir", str(tiny)])
    content_knn.main([*words, "--shuffle"])
    manifests = dict(runs.find_runs(tiny))
    (built,) = [name for name, config in manifests.items() if config["recommender"] == "hybrid"]
    assert shuffled in manifests[built]["sources"].values() and old not in manifests
    assert f"preds/{shuffled}_val.pqt" in manifests[built]["inputs"]
    assert candidates._is_control(built, manifests)


def test_a_control_that_another_process_makes_is_not_renamed(tmp_path):
    request = {"embedding": "mfcc", "shuffle": True, "seed": 1}
    write_json(tmp_path / "runs/old/config.json", {"recommender": "r", "embedding": "mfcc", "request": request})
    with open(tmp_path / "runs/old/.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RunInProgress, match="run old is being made by another process"), \
                runs.Run(tmp_path, "r", request, embedding="mfcc"):
            pass
    assert (tmp_path / "runs/old/config.json").exists()


def test_only_the_same_request_of_the_same_recommender_is_renamed(tmp_path):
    request = {"embedding": "mfcc", "shuffle": True, "seed": 1}
    for name, recommender, other in (("a", "r", {"seed": 2}), ("b", "s", {}), ("c", "r", {"shuffle": False})):
        write_json(tmp_path / "runs" / name / "config.json", {"recommender": recommender, "embedding": "mfcc",
                                                              "request": request | other})
    with runs.Run(tmp_path, "r", request, embedding="mfcc") as run:
        assert "shuffled" in run.name
    assert {"a", "b", "c", run.name} == {p.name for p in (tmp_path / "runs").iterdir()}


def test_a_plain_run_has_the_name_it_had(tmp_path):
    """Names of everything but controls are published: word for word those of the first version."""
    assert runs.run_name("knn", "mfcc", {"shuffle": False}, 1, "x").startswith("knn_mfcc_s1_x_")
    assert runs.run_name("ease", None, {}, None) == "ease_44136fa355"
    args = knn.build_parser().parse_args(["musicnn", "--center"])
    assert knn.run_name("musicnn", knn.request_of(args, "musicnn")).startswith("musicnn_cosine_center_")


# --------------------------------------------------------------------------- removal

def world(tmp_path, *names):
    """Runs with all kinds of files, and a file that is nobody's."""
    for name in names:
        write_json(tmp_path / "runs" / name / "config.json", {"recommender": "r", "embedding": "e", "outputs": [
            f"metrics/{name}_test_points.csv", "../outside.txt", "data/train.pqt"]})
        for path in (f"runs/{name}/.lock", f"runs/{name}/events.out.tfevents.1",
                     f"runs/{name}/sub/events.out.tfevents.2", f"preds/{name}_test.pqt", f"metrics/{name}_test.csv",
                     f"metrics/{name}_test.pqt", f"metrics/{name}_test_points.csv", f"checkpoints/e/{name}_best.pt",
                     f"model_embeddings/{name}_users.npy"):
            write_text(tmp_path / path, name)
    for path in ("data/train.pqt", "preds/mine.txt", "outside.txt"):
        write_text(tmp_path / path, "data")
    return {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}


def test_removal_takes_the_files_of_that_run_and_no_other(tmp_path):
    """A run whose name begins another's, and whose part's name ends it, keeps what belongs to it."""
    before = world(tmp_path / "w", "x", "x_cold", "xx")
    write_text(tmp_path / "outside.txt", "outside")
    workdir, names = tmp_path / "w", ["x", "x_cold", "xx"]
    left = run_files.remove(workdir, "x", dict(runs.find_runs(workdir))["x"], names)
    after = {str(p.relative_to(workdir)) for p in workdir.rglob("*") if p.is_file()}
    gone = before - after
    assert not left and gone and all("/x/" in p or p.split("/")[-1].startswith("x_") for p in gone)
    assert not any("x_cold" in p or "xx" in p for p in gone) and (workdir / "preds/x_cold_test.pqt").exists()
    assert not (workdir / "runs/x").exists() and (tmp_path / "outside.txt").read_text() == "outside"
    assert len(gone) == len(before - {p for p in before if "x_cold" in p or "xx" in p or p in (
        "data/train.pqt", "preds/mine.txt", "outside.txt")})


def test_what_somebody_put_into_a_runs_folder_stays_and_is_named(tmp_path):
    world(tmp_path, "x")
    write_text(tmp_path / "runs/x/notes.md", "mine")
    left = run_files.remove(tmp_path, "x", dict(runs.find_runs(tmp_path))["x"], ["x"])
    assert left == [tmp_path / "runs/x/notes.md"] and left[0].read_text() == "mine"
    assert [p.name for p in (tmp_path / "runs/x").iterdir()] == ["notes.md"]


def test_a_link_is_unlinked_and_what_it_points_to_stays(tmp_path):
    world(tmp_path / "other", "x")
    (tmp_path / "w/runs").mkdir(parents=True)
    (tmp_path / "w/runs/x").symlink_to(tmp_path / "other/runs/x")
    run_files.remove(tmp_path / "w", "x", {"recommender": "r"}, ["x"])
    assert not (tmp_path / "w/runs/x").exists() and (tmp_path / "other/runs/x/config.json").exists()


def test_a_run_at_work_is_not_removed(tmp_path):
    world(tmp_path, "x")
    with open(tmp_path / "runs/x/.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RunInProgress):
            run_files.remove(tmp_path, "x", {"recommender": "r", "embedding": "e"}, ["x"])
    assert (tmp_path / "runs/x/config.json").exists() and (tmp_path / "preds/x_test.pqt").exists()


def test_a_manifest_cannot_point_the_removal_elsewhere(tmp_path):
    write_text(tmp_path / "precious/x_best.pt", "mine")
    write_json(tmp_path / "w/runs/x/config.json", {"recommender": "r", "embedding": "../../precious"})
    run_files.remove(tmp_path / "w", "x", dict(runs.find_runs(tmp_path / "w"))["x"], ["x"])
    assert (tmp_path / "precious/x_best.pt").exists()

