"""slurm/grid.py: lists of flags become exact command lines, printed or made ready for Slurm."""
import os
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from experiments.expand import Job
from extract_item_embeddings import jb, mule
from harness import cli, runs
from harness.errors import UsageError, WorkError
from harness.files import write_json, write_text
from slurm import grid, submit
from tests.conftest import ROOT
from tests.worlds.world import tiny_workspace


@pytest.fixture(autouse=True)
def no_facts(monkeypatch, tmp_path):
    """Neither this machine's cluster.env nor its environment."""
    (tmp_path / "empty.env").write_text("")
    monkeypatch.setenv("CLUSTER_ENV", str(tmp_path / "empty.env"))
    for name in ("WORKDIR", "AUDIO"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def lines(capsys, tmp_path):
    """Printed command lines of a grid on a workspace that is not there, without its --workdir."""
    def get(*words):
        assert grid.main([*words, "--workdir", str(tmp_path / "W")]) == 0
        return [line.replace(f" --workdir {tmp_path / 'W'}", "") for line in capsys.readouterr().out.splitlines()]
    return get


def written(tmp_path, text):
    (tmp_path / "grid.yaml").write_text(text)
    return str(tmp_path / "grid.yaml")


def names_of(workdir):
    return sorted(name for name, config in runs.find_runs(workdir) if config["status"] == "finished")


# --------------------------------------------------------------------------- command lines

def test_every_combination_is_a_line_and_the_last_list_varies_fastest(lines):
    got = lines("train.py", "--model", "musicnn", "mfcc", "--neg-samples", "20", "50", "100", "--item-freeze", "1", "0",
                "--set", "epochs=5", "comment=a b")
    assert got == [f"python train.py --model {m} --neg-samples {n} --item-freeze {f} --epochs 5 --comment 'a b'"
                   for m in ("musicnn", "mfcc") for n in (20, 50, 100) for f in (1, 0)]


def test_lines_are_what_the_script_itself_reads(lines):
    got = lines("train.py", "--model", "musicnn", "--hidden_dim", "64", "--user-init", "0", "1", "--set", "l2=1e-5",
                "comment=it's $HOME")
    import train
    for line, init in zip(got, (0, 1), strict=True):
        python, script, *words = shlex.split(line)
        args = train.parse(words)
        assert (python, script) == ("python", "train.py")
        assert (args.hidden_dim, args.user_init, args.l2, args.comment) == (64, init, 1e-5, "it's $HOME")


def test_runs_that_read_others_come_after_them(lines, tmp_path):
    """Factors first, then what reads them, then mixtures of lists, whatever the file's order; an array each."""
    path = tmp_path / "grid.yaml"
    write_text(path, """blocks:
  - {script: recommenders.hybrid, grid: {seed: [1]}, set: {sources: [popularity, shrinkage]}}
  - {script: recommenders.shrinkage, grid: {seed: [1]}, set: {embedding: content, factors: ials}}
  - {script: recommenders.ials, grid: {seed: [1, 2]}}
""")
    scripts = [line.split()[2] for line in lines("--file", str(path))]
    assert scripts == ["recommenders.ials"] * 2 + ["recommenders.shrinkage", "recommenders.hybrid"]
    stages = grid.stages_of(*grid.read(["--file", str(path), "--workdir", str(tmp_path)]))[1]
    assert [(stage.name, stage.after, stage.how, stage.of_runs) for stage in stages] == [
        ("grid", [], "afterany", True), ("grid-2", ["grid"], "afterany", True),
        ("grid-3", ["grid-2"], "afterany", True)]


def test_runs_of_several_processes_are_started_by_torchrun(lines, tmp_path):
    launch = ("python -m torch.distributed.run --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 "
              "--nproc-per-node")
    assert lines("train.py", "--seed", "1", "2", "--processes", "4") == [
        f"{launch} 4 train.py --seed 1", f"{launch} 4 train.py --seed 2"]
    assert lines("recommenders.sasrec", "--processes", "2") == [f"{launch} 2 -m recommenders.sasrec"]
    assert lines("recommenders.sasrec", "--processes", "1") == ["python -m recommenders.sasrec"]
    stage = submit.Stage("grid", [grid.several(Job("train.py", ("--seed", "1")), 4)])
    assert submit.arrays(stage, tmp_path, 10) == [("0-0", ["slurm/train.sbatch", str(tmp_path / "grid.txt"), "0", "4"])]
    with pytest.raises(UsageError, match="--processes 2: recommenders.ease works in one process; with several train "):
        grid.main(["recommenders.ease", "--processes", "2", "--workdir", str(tmp_path)])


def test_published_places_and_modules_are_passed_on(lines):
    assert lines("train.py", "musicnn", "item", "20", "--seed", "1", "2") == [
        f"python train.py musicnn item 20 --seed {s}" for s in (1, 2)]
    for script in ("recommenders.popularity", "-m recommenders.popularity"):
        assert lines(*script.split(), "--by", "users", "plays") == [
            f"python -m recommenders.popularity --by {by}" for by in ("users", "plays")]


def test_switches_take_on_and_off_and_named_places_take_lists(lines):
    assert lines("knn.py", "--names", "a", "b", "--center", "on", "off") == [
        f"python knn.py {name}{center}" for name in "ab" for center in (" --center", "")]
    assert lines("knn.py", "--shuffle") == ["python knn.py --shuffle"]


def test_all_is_every_embedding_of_the_workspace(tiny, capsys):
    assert grid.main(["knn.py", "--names", "all", "--workdir", str(tiny)]) == 0
    assert [line.split()[2] for line in capsys.readouterr().out.splitlines()] == ["content", "noise"]


def test_the_same_run_twice_is_one_line(lines):
    assert lines("knn.py", "--names", "a", "a", "b") == ["python knn.py a", "python knn.py b"]


def test_a_file_holds_several_products_and_set_goes_over_them(lines, tmp_path):
    path = written(tmp_path, """
blocks:
  - script: recommenders.chance
  - {script: knn.py, grid: {names: [a, b]}, set: {shuffle: on}}
  - {script: train.py, grid: {model: a, seed: [1, 2]}, set: {epochs: 9, item_freeze: 1}}
  - {script: train.py, places: [musicnn, user]}
""")
    assert lines("--file", path) == [
        "python -m recommenders.chance", "python knn.py a --shuffle", "python knn.py b --shuffle",
        *(f"python train.py --model a --seed {s} --epochs 9 --item-freeze 1" for s in (1, 2)),
        "python train.py musicnn user"]
    assert lines("--file", path, "--set", "seed=5", "epochs=3")[-2:] == [
        "python train.py --model a --item-freeze 1 --seed 5 --epochs 3",
        "python train.py musicnn user --seed 5 --epochs 3"]


def test_the_committed_grids_are_read_by_the_scripts(lines, tmp_path):
    demo = lines("--file", "slurm/grids/demo.yaml")
    shuffled = [line for line in demo if "--shuffle" in line]
    assert len(demo) == len(set(demo)) and len(shuffled) == 3 * 10
    for script in ("knn.py", "train.py", "train_bert.py"):
        assert sum(script in line for line in shuffled) == 10
        for name in ("mfcc", "musicnn", "oracle"):
            assert any(script in line and name in line for line in set(demo) - set(shuffled))
    if (ROOT / "extract_item_embeddings" / "musicnn.py").exists():
        paper = lines("--file", "slurm/grids/paper.yaml", "--audio", str(tmp_path))
        assert sum("extract_item_embeddings" in line for line in paper) == 2 * (8 + 1)
        assert sum("1_train_test_split.py" in line for line in paper) == 1


def test_extraction_comes_first_shard_by_shard(lines, tmp_path):
    got = lines("knn.py", "--names", "mfcc", "--extract", "mfcc", "--audio", str(tmp_path), "--shards", "2",
                "--split", "--protocol random")
    extract = f"python extract_item_embeddings/mfcc.py --audio {tmp_path}"
    assert got == [f"{extract} --shard 0/2", f"{extract} --shard 1/2",
                   f"python extract_item_embeddings/mfcc.py --merge --audio {tmp_path}",
                   "python preprocess/1_train_test_split.py --protocol random", "python knn.py mfcc"]
    once, twice = (lines("--extract", *names, "--audio", str(tmp_path)) for names in (["mfcc"], ["mfcc", "mfcc"]))
    assert len(once) == 1 and twice == once                 # a backend that is named twice is extracted once
    assert lines("--extract", "mfcc", "--audio", str(tmp_path), "--seconds", "10", "--overwrite") == [
        f"{extract} --seconds 10 --overwrite"]


# --------------------------------------------------------------------------- bad requests

BAD = {
    ("train.py", "--modle", "a"): "train.py has no flag --modle; it has --",
    ("train.py", "--epochs", "0"): "train.py --epochs 0: argument --epochs: must be a whole number of at least 1",
    ("train.py", "--model", "a", "--loss", "hinge", "bpr", "--margin", "1"): "--margin has no meaning for --loss bpr",
    ("nosuch.py", "--x", "1"): "the project has no script 'nosuch.py' for a grid; it has",
    ("../train.py",): "the project has no script '../train.py' for a grid",
    ("os",): "the project has no script 'os' for a grid",
    ("knn.py", "--split", "--protocol 'x"): "--split: \"--protocol 'x\" cannot be split into words",
    ("knn.py", "--center", "maybe"): "--center is a switch; expected on or off, not maybe",
    ("knn.py", "--names", "all"): "--names all: there are no embeddings in",
    ("knn.py", "--set", "k"): "--set takes FLAG=VALUE",
    ("--extract", "nosuch", "--audio", "."): "no backend 'nosuch'",
    ("--extract", "mfcc"): "--extract needs --audio DIR",
    ("--seed", "1"): "unknown flag --seed; SCRIPT comes before its flags",
    (): "nothing to do; name a SCRIPT",
    ("--file", "nosuch.yaml"): "--file nosuch.yaml is no file",
    ("train.py", "--model", "content", "--processes", "2"): "--processes is for --print and --submit",
    ("knn.py", "--wait"): "--wait is for --submit",
    ("--report", "nosuch"): "--report says how a submitted grid went and starts nothing",
    ("knn.py", "--names", "content", "--audio", "."): "--audio is the folder of an extraction; add --extract BACKEND",
    ("knn.py", "--names", "nosuch"): "no run of 1 can be made in",
}


@pytest.mark.parametrize(("words", "message"), [
    (["--report", "nosuch"], "nosuch holds no plan.json"),
    (["--report", "nosuch", "knn.py"], "starts nothing; give it alone"),
    (["--report", "nosuch", "--set", "k=5"], "starts nothing; give it alone"),
    (["--extract", "mfcc", "--audio", ".", "--processes", "2"], "--processes is for runs that train")])
def test_what_goes_alone_and_what_needs_runs(words, message, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["grid.py"])
    with pytest.raises(UsageError, match=message):
        grid.main(words)


@pytest.mark.parametrize("words", BAD, ids=" ".join)
def test_an_invalid_request_is_one_sentence_and_runs_nothing(words, tiny, capsys, monkeypatch):
    if "all" in words:
        for path in (tiny / "embeddings").iterdir():
            path.unlink()
    before = sorted(tiny.rglob("*"))
    monkeypatch.setattr(sys, "argv", ["grid.py"])
    with pytest.raises(SystemExit) as e:
        cli.run(grid.main, [*words, "--workdir", str(tiny), "--local"])
    said = capsys.readouterr().err.strip().splitlines()
    assert e.value.code == 2 and BAD[words] in said[-1] and "Traceback" not in "".join(said)
    assert sorted(tiny.rglob("*")) == before


@pytest.mark.parametrize("text, sentence", {
    "blocks: [": "cannot be read as YAML",
    "- knn.py": "should hold `blocks:`",
    "blocks: [{script: knn.py, gird: {}}]": "unknown key gird",
    "blocks: [{grid: {k: [1]}}]": "block 1 names no script",
    "blocks: [{script: knn.py, grid: {k: []}}]": "--k has no values",
    "blocks: [{script: knn.py, set: {k: [1, 2]}}]": "--k takes one value, not 1, 2; lists belong into the grid",
    "blocks: [{script: knn.py, grid: [k]}]": "should be `key: value` lines",
    "blocks: [{script: knn.py, grid: {nosuch: [1]}}]": "knn.py has no flag --nosuch",
}.items())
def test_a_wrong_file_is_one_sentence(text, sentence, tmp_path, tiny):
    with pytest.raises((UsageError, WorkError), match=re.escape(sentence)):
        grid.main(["--file", written(tmp_path, text), "--workdir", str(tiny)])


def test_set_of_a_flag_that_no_script_has_is_refused(tmp_path, tiny):
    with pytest.raises(UsageError, match="--set nosuch: no script of the file has this flag"):
        grid.main(["--file", written(tmp_path, "blocks: [{script: knn.py}]"), "--set", "nosuch=1", "--workdir",
                   str(tiny)])


# --------------------------------------------------------------------------- what the workspace lacks

def test_impossible_runs_are_left_out_with_the_reason(tiny, capsys):
    assert grid.main(["knn.py", "--names", "content", "nosuch", "--workdir", str(tiny)]) == 0
    said = capsys.readouterr()
    assert said.out.split() == ["python", "knn.py", "content", "--workdir", str(tiny)]
    assert "1 of 2 runs left out: no embedding nosuch here; there are content, noise" in said.err


@pytest.mark.parametrize("mode", [[], ["--local"]])
def test_a_wave_that_cannot_be_made_does_not_end_the_others(tmp_path, tiny, capsys, mode):
    file = written(tmp_path, "blocks: [{script: recommenders.popularity}, "
                             "{script: recommenders.content_factors, set: {embedding: nosuch}}]")
    assert grid.main(["--file", file, "--workdir", str(tiny), *mode]) == 0
    said = capsys.readouterr()
    assert "1 of 1 runs left out: no embedding nosuch here" in said.err
    if mode:
        assert "grid: 1 of 1 runs are done, 0 failed" in said.err
    else:
        assert said.out.split() == ["python", "-m", "recommenders.popularity", "--workdir", str(tiny)]


def test_sequences_without_an_order_are_left_out_unless_count_is_asked(tmp_path, capsys):
    workdir = tiny_workspace(tmp_path / "w", timed=False)
    words = ["train_bert.py", "--model", "content", "--order", "time", "count"]
    assert grid.main([*words, "--workdir", str(workdir)]) == 0
    said = capsys.readouterr()
    assert re.findall(r"--order (\w+)", said.out) == ["count"]
    assert "it needs the order of plays, and this data has none; add --order count" in said.err


def test_without_a_split_no_run_can_be_made(tiny, capsys):
    (tiny / "data" / "train.pqt").unlink()
    with pytest.raises(UsageError, match="no run of 2 can be made"):
        grid.main(["knn.py", "--names", "content", "noise", "--workdir", str(tiny), "--local"])
    assert "2 of 2 runs left out" in (err := capsys.readouterr().err) and "has no split yet" in err


# --------------------------------------------------------------------------- running here

def test_extraction_and_grid_in_one_go(tmp_path):
    work, audio = tiny_workspace(tmp_path / "w", n_users=20, n_tracks=40, n_cold=6), tmp_path / "audio"
    audio.mkdir()
    ids = (work / "trackid_sorted.csv").read_text().split()[1:]
    for i, line in enumerate(ids):
        tone = 0.3 * np.sin(2 * np.pi * (200 + 40 * i) * np.arange(4000) / 8000)
        soundfile.write(audio / f"{line.split(',')[1]}.wav", tone, 8000)
    assert grid.main(["knn.py", "--names", "mfcc", "--set", "k=5", "--extract", "mfcc", "--shards", "2",
                      "--audio", str(audio), "--workdir", str(work), "--local"]) == 0
    assert np.isfinite(np.load(work / "embeddings" / "mfcc.npy")).all() and len(names_of(work)) == 1


# --------------------------------------------------------------------------- towards Slurm, without one

def test_a_run_without_a_status_is_unfinished_never_done(tmp_path, capsys):
    stage = {"stage": "grid", "jobs": ["7"], "lines": ["a", "b", "c", "d", "e"]}
    write_json(tmp_path / "plan.json", {"stages": [stage]})
    for i, status in enumerate(("0", "1", "85", "75")):
        write_text(tmp_path / "grid.status" / str(i), f"{status}\n")
    assert grid.main(["--report", str(tmp_path)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "grid: 1 of 5 runs done, 1 failed, 1 being made elsewhere, 2 unfinished (job 7)", "  failed, status 1: b",
        "  being made elsewhere: d", "  unfinished: c", "  unfinished: e"]
    for i in range(5):
        write_text(tmp_path / "grid.status" / str(i), "0\n")
    assert grid.main(["--report", str(tmp_path)]) == 0


def test_without_sbatch_submit_is_one_sentence(tiny, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere:/usr/bin:/bin" if not os.path.exists("/usr/bin/sbatch") else "/bin-without-it")
    monkeypatch.setattr(submit, "facts", lambda: {})
    with pytest.raises(UsageError, match="there is no sbatch here; use a login node of the cluster, or --local"):
        grid.main(["knn.py", "--names", "content", "--workdir", str(tiny), "--submit"])
    with pytest.raises(UsageError, match="there is no sbatch here"):  # before anything else is looked at
        grid.main(["nosuch.py", "--file-that", "is", "not", "--workdir", "/nosuch", "--submit"])


def test_facts_come_from_the_file_that_is_named(tmp_path, monkeypatch):
    path = tmp_path / "cluster.env"
    path.write_text('SUBMIT_ALL="--account=a b"\nSUBMIT_TRAIN="--gres=gpu:1"\nAUDIO="$(echo x)"\n')
    monkeypatch.setenv("CLUSTER_ENV", str(path))
    about = submit.facts()
    assert about["AUDIO"] == "x" and submit.words_for("TRAIN", about) == ["--account=a", "b", "--gres=gpu:1"]
    assert submit.words_for("SMALL", about) == ["--account=a", "b"]
    monkeypatch.setitem(os.environ, "OTHER", os.fsdecode(b"\xff"))      # bytes that are no UTF-8
    assert submit.facts()["OTHER"] == os.environ["OTHER"]
    path.write_text("exit 3\n")
    with pytest.raises(UsageError, match="bash cannot read"):
        submit.facts()
    monkeypatch.setenv("CLUSTER_ENV", str(tmp_path / "nosuch"))
    with pytest.raises(UsageError, match="CLUSTER_ENV=.* is no file"):
        submit.facts()


def test_a_long_list_becomes_arrays_with_an_offset(tmp_path):
    jobs = [Job("knn.py", (str(i),)) for i in range(7)]
    assert submit.arrays(submit.Stage("grid", jobs), tmp_path, 3) == [
        (array, ["slurm/train.sbatch", str(tmp_path / "grid.txt"), offset])
        for array, offset in (("0-2", "0"), ("0-2", "3"), ("0-0", "6"))]
    assert (tmp_path / "grid.txt").read_text() == "".join(f'["python", "knn.py", "{i}"]\n' for i in range(7))


def test_every_submission_has_a_folder_of_its_own(tmp_path):
    assert [submit.new_folder(tmp_path).name for _ in range(3)] == ["001", "002", "003"]


def test_templates_hold_no_fact_of_a_cluster_and_the_example_only_facts_that_are_read():
    templates = {p.name: p.read_text() for p in (ROOT / "slurm").glob("*.sbatch")}
    assert sorted(templates) == ["extract.sbatch", "train.sbatch"]
    for name, text in templates.items():
        directives = re.findall(r"^#SBATCH (.*)$", text, re.MULTILINE)
        assert directives, name
        assert not re.search("partition|account|qos|time=|gres|mem|constraint", " ".join(directives)), name
    read = (ROOT / "slurm" / "job.sh").read_text() + (ROOT / "slurm" / "submit.py").read_text() + (
        ROOT / "slurm" / "grid.py").read_text()
    example = (ROOT / "slurm" / "cluster.env.example").read_text()
    for name in re.findall(r"^(\w+)=", example, re.MULTILINE):
        assert name in read or (name.startswith("SUBMIT_") and "SUBMIT_{kind}" in read) or (
            name in (jb.Jukebox.variable(), mule.Mule.variable())), name


def test_shell_files_print_what_they_would_submit(tiny, tmp_path):
    environment = {**os.environ, "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"}
    calls = {"train.sh": (["--model", "content", "--seed", "1", "2"], "python train.py --model content --seed 1"),
             "train_bert.sh": (["content", "item", "20"], "python train_bert.py content item 20")}
    backends = {p.stem for p in (ROOT / "extract_item_embeddings").glob("*.py")}
    for path in sorted((ROOT / "slurm").glob("*.sh")):
        if path.stem in backends:
            calls[path.name] = (["--audio", str(tmp_path)], f"python extract_item_embeddings/{path.stem}.py --audio")
    assert {"train.sh", "train_bert.sh", "mfcc.sh", "musicnn.sh"} <= set(calls)
    for script, (words, expected) in calls.items():
        done = subprocess.run(["bash", str(ROOT / "slurm" / script), *words, "--workdir", str(tiny), "--print"],
                              env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, (script, done.stderr)
        assert done.stdout.startswith(expected) and str(tiny) in done.stdout


def test_shell_files_are_shell():
    for path in [*(ROOT / "slurm").glob("*.sh"), *(ROOT / "slurm").glob("*.sbatch"), ROOT / ".ci" / "slurm.sh"]:
        assert subprocess.run(["bash", "-n", str(path)]).returncode == 0
        assert "set -euo pipefail" in path.read_text() or path.name == "job.sh"
