"""Foreign text in a grid is never run: not by the job list, not by the batch templates, not by an import."""
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import job_list
from experiments.expand import Job
from harness import cli, registry
from harness.errors import UsageError
from slurm import grid, submit
from tests.conftest import ROOT

FOREIGN = ["$(touch {})", "`touch {}`", "'; touch {}; '", '"; touch {}; "', "a & touch {} #", "| touch {}", "${{IFS}}",
           "it's", 'say "x"', "-rf", "--k=1", "*", "~", "%j", "a b  c", "", "\u00e9\u2603",
           "\\", "a\\", "#", "!!", "{{a,b}}"]
BROKEN = ["a\ntouch {} #", "a\r", "a\x00b", "\x1b[2J", "a\u2028b", "a\x85b", "\udcff", "\t"]


@pytest.fixture(autouse=True)
def no_facts(monkeypatch, tmp_path):
    (tmp_path / "empty.env").write_text("")
    monkeypatch.setenv("CLUSTER_ENV", str(tmp_path / "empty.env"))
    for name in ("WORKDIR", "AUDIO"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """sbatch and scontrol that write down their words; the words of every sbatch, one list a call."""
    folder = tmp_path / "bin"
    folder.mkdir()
    calls = tmp_path / "calls"
    (folder / "sbatch").write_text(f'#!/bin/bash\nprintf "%s\\0" "$@" >> {calls}; echo >> {calls}; echo 7\n')
    (folder / "scontrol").write_text('#!/bin/bash\necho "MaxArraySize = 1001"\n')
    for path in folder.iterdir():
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    return lambda: [call.split("\0")[:-1] for call in calls.read_text().split("\n")[:-1]]


def run_task(jobs, index, tmp_path, offset="0", template="train.sbatch"):
    """Run a template as Slurm would, as task `index` of an array."""
    return subprocess.run(["bash", str(ROOT / "slurm" / template), *jobs, offset], capture_output=True, text=True, env={
        **os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_ARRAY_TASK_ID": str(index), "CLUSTER_ENV": str(tmp_path / "venv.env")})


@pytest.fixture
def echo(tmp_path):
    """A job that prints its own arguments as json, and the empty cluster file of its environment."""
    (tmp_path / "venv.env").write_text('VENV=""\n')
    (tmp_path / "echo.py").write_text("import json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    return ["python", str(tmp_path / "echo.py")]


def test_the_template_hands_every_word_on_as_it_is(tmp_path, echo):
    """Quotes, substitutions, globs, leading dashes: what a job is given is what its list says, and nothing was run."""
    mark = tmp_path / "RUN"
    words = [text.format(mark) for text in FOREIGN]
    job_list.write(tmp_path / "jobs.txt", [[*echo, word] for word in words] + [[*echo, *words]])
    lines = (tmp_path / "jobs.txt").read_text().split("\n")[:-1]
    assert len(lines) == len(words) + 1 and [json.loads(line)[-1] for line in lines[:-1]] == words
    for index in (0, 1, 2, 4, len(words)):
        done = run_task([str(tmp_path / "jobs.txt")], index, tmp_path)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == ([words[index]] if index < len(words) else words)
    done = run_task([str(tmp_path / "jobs.txt")], 1, tmp_path, offset="2")  # the task of an array with an offset
    assert json.loads(done.stdout) == [words[3]] and not mark.exists()


def test_printed_lines_are_understood_and_never_run(tmp_path, echo):
    """A list made of `grid.py --print`: its quotes are taken off; an unquoted substitution stays text."""
    mark = tmp_path / "RUN"
    (tmp_path / "jobs.txt").write_text(f"{shlex.join([*echo, 'a b', '$(x)'])}\n{shlex.join(echo)} $(touch {mark})\n")
    assert json.loads(run_task([str(tmp_path / "jobs.txt")], 0, tmp_path).stdout) == ["a b", "$(x)"]
    assert json.loads(run_task([str(tmp_path / "jobs.txt")], 1, tmp_path).stdout) == ["$(touch", f"{mark})"]
    assert not mark.exists()


def test_the_clusters_facts_reach_the_command(tmp_path, echo, monkeypatch):
    """cluster.env.example offers interpreters of two backends, which Python reads from its environment."""
    for name in ("JUKEMIR_PYTHON", "MULE_PYTHON"):
        monkeypatch.delenv(name, raising=False)
    example = (ROOT / "slurm" / "cluster.env.example").read_text().replace('VENV=".venv"', 'VENV=""')
    (tmp_path / "venv.env").write_text(example + 'JUKEMIR_PYTHON="/opt/a b/python"\n')
    (tmp_path / "echo.py").write_text("import json, os\nprint(json.dumps({k: os.environ.get(k) for k in "
                                      "('JUKEMIR_PYTHON', 'MULE_PYTHON', 'LATER')}))\n")
    job_list.write(tmp_path / "jobs.txt", [echo])
    done = run_task([str(tmp_path / "jobs.txt")], 0, tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"JUKEMIR_PYTHON": "/opt/a b/python", "MULE_PYTHON": "", "LATER": None}
    shell = 'LATER=1; . slurm/job.sh; prepare; LATER=2; env'
    told = subprocess.run(["bash", "-c", shell], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "CLUSTER_ENV": str(tmp_path / "venv.env")})
    assert "JUKEMIR_PYTHON=/opt/a b/python\n" in told.stdout and "LATER=" not in told.stdout


@pytest.mark.parametrize(("cancelled", "status"), [(True, "85"), (False, "143")])
def test_a_command_that_the_signal_of_a_cancelled_job_ends_has_not_failed(tmp_path, cancelled, status):
    """scancel signals the shell and its command, which gets the signal twice; killed by itself alone it has failed."""
    child = f'{"kill -TERM $PPID; sleep 1; " if cancelled else ""}trap - TERM; kill -TERM $$'
    done = subprocess.run(["bash", "-c", '. slurm/job.sh; listen; run_once bash -c "$1"', "bash", child], cwd=ROOT,
                          capture_output=True, text=True, timeout=60, env={**os.environ, "RUN_STATUS": str(tmp_path)})
    assert (tmp_path / "0").read_text().strip() == status == str(done.returncode)


@pytest.mark.parametrize("text", ["", "[]\n", '["python"]\n', '["bash", "-c"]\n', "touch x\n", "[1, 2]\n",
                                  '["python"\n', "python 'x\n", "[" * 5000 + "\n", '["python", "a\\u0000b"]\n',
                                  '{"a": 1}\n'])
def test_a_damaged_job_list_is_one_sentence(tmp_path, text):
    (tmp_path / "jobs.txt").write_text(text)
    with pytest.raises(UsageError, match=r"jobs.txt.*line 1"):
        job_list.read(tmp_path / "jobs.txt", 0)
    (tmp_path / "jobs.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="is not UTF-8"):
        job_list.read(tmp_path / "jobs.txt", 0)


@pytest.mark.parametrize("offset", ["a[$(touch {})]", "1+1", "-1", "x"])
def test_an_offset_that_is_no_number_is_not_evaluated(tmp_path, echo, offset):
    mark = tmp_path / "RUN"
    job_list.write(tmp_path / "jobs.txt", [echo, echo, echo])
    done = run_task([str(tmp_path / "jobs.txt"), "0"], 0, tmp_path, offset.format(mark))   # as the processes
    assert done.returncode == 2 and "PROCESSES is a number from 1" in done.stderr and not mark.exists()
    done = run_task([str(tmp_path / "jobs.txt")], 0, tmp_path, offset=offset.format(mark))
    assert done.returncode == 2 and "are numbers" in done.stderr and not mark.exists()
    done = run_task(["mfcc"], 0, tmp_path, offset=offset.format(mark), template="extract.sbatch")
    assert done.returncode == 2 and "SHARDS is a number" in done.stderr and not mark.exists()
    done = run_task(["../../x"], 0, tmp_path, template="extract.sbatch")
    assert done.returncode == 2 and "BACKEND is a name" in done.stderr


def test_one_line_a_run_whatever_the_comment(tiny, tmp_path, cluster):
    comments = [text.format(tmp_path / "RUN") for text in FOREIGN]
    (tmp_path / "g.yaml").write_text(json.dumps({"blocks": [
        {"script": "train.py", "grid": {"comment": comments, "seed": [1, 2]}, "set": {"model": "content"}}]}))
    assert grid.main(["--file", str(tmp_path / "g.yaml"), "--workdir", str(tiny), "--submit"]) == 0
    lines = (tiny / "slurm" / "001" / "grid.txt").read_text().split("\n")[:-1]
    assert len(lines) == 2 * len(comments)
    import train
    for i, comment in enumerate(comments):
        args = train.parse(job_list.read(tiny / "slurm" / "001" / "grid.txt", 2 * i + 1)[2:])
        assert (args.comment, args.seed) == (comment, 2)
    plan = json.loads((tiny / "slurm" / "001" / "plan.json").read_text())["stages"][0]["lines"]
    assert [shlex.split(line) for line in plan] == [json.loads(line) for line in lines]
    assert not (tmp_path / "RUN").exists()


def test_printed_plans_can_be_pasted(tiny, tmp_path, capsys):
    comments = [text.format(tmp_path / "RUN") for text in FOREIGN]
    (tmp_path / "g.yaml").write_text(json.dumps({"blocks": [
        {"script": "train.py", "grid": {"comment": comments}, "set": {"model": "content"}}]}))
    assert grid.main(["--file", str(tmp_path / "g.yaml"), "--workdir", str(tiny)]) == 0
    text = capsys.readouterr().out
    script = "python() { printf '%s\\0' \"$@\"; echo; }\n" + text
    pasted = subprocess.run(["bash", "-c", script], capture_output=True, text=True).stdout.split("\n")[:-1]
    assert [line.split("\0")[:-1] for line in pasted] == [shlex.split(line)[1:] for line in text.splitlines()]
    assert len(pasted) == len(comments) and not (tmp_path / "RUN").exists()


def test_a_folder_with_odd_letters_reaches_slurm_as_itself(tmp_path, cluster):
    from tests.worlds.world import tiny_workspace
    workdir = tiny_workspace(tmp_path / "w $(touch RUN) '%j' -x")
    assert grid.main(["knn.py", "--names", "content", "--workdir", str(workdir), "--submit"]) == 0
    calls = cluster()
    logs = [word for words in calls for word in words if word.startswith("--output=")]
    assert all(word.startswith(f"--output={str(workdir).replace('%', '%%')}/slurm/001/") for word in logs)
    assert [words[-3:-1] for words in calls[:1]] == [["slurm/train.sbatch", str(workdir / "slurm/001/grid.txt")]]
    assert job_list.read(workdir / "slurm/001/report.txt", 0)[-1] == str(workdir / "slurm/001")


# --------------------------------------------------------------------------- control characters are refused

@pytest.mark.parametrize("text", [t for t in BROKEN if "\x00" not in t and "\udcff" not in t])
def test_control_characters_are_refused_in_every_field(tiny, tmp_path, text, cluster, monkeypatch):
    monkeypatch.setenv("AUDIO", str(tmp_path))
    value = text.format(tmp_path / "RUN")
    block = {"script": "train.py", "set": {"model": "content"}}
    documents = [{"blocks": [{**block, "grid": {"comment": ["a", value]}}]},
                 {"blocks": [{**block, "set": {"model": value}}]},
                 {"blocks": [{"script": "train.py", "places": [f"content{value}"]}]},
                 {"blocks": [{"script": f"train.py{value}"}]},
                 {"blocks": [{**block, "grid": {f"comment{value}": ["a"]}}]},
                 {"extract": {"backends": [f"mfcc{value}"]}},
                 {"extract": {"backends": ["mfcc"], "flags": {"name": value}}},
                 {"extract": {"backends": ["mfcc"], "flags": {f"x{value}": 1}}},
                 {"split": f"--protocol 'random{value}'"}]
    for document in documents:
        (tmp_path / "g.yaml").write_text(json.dumps(document))
        with pytest.raises(UsageError):
            grid.main(["--file", str(tmp_path / "g.yaml"), "--workdir", str(tiny), "--submit"])
        assert not (tiny / "slurm").exists() and not (tmp_path / "RUN").exists()


@pytest.mark.parametrize("text", BROKEN)
def test_control_characters_are_named_where_arguments_enter(tmp_path, text, capsys, monkeypatch):
    value = text.format("x")
    with pytest.raises(UsageError, match=r"holds the control character U\+"):
        Job("train.py", ("--comment", value))
    monkeypatch.setattr(sys, "argv", ["popularity.py"])
    main = registry.load("recommenders.popularity").main
    for words in (["--comment", value], ["--workdir", f"{tmp_path}/{value}"], ["--nosuch", value]):
        with pytest.raises(SystemExit) as e:
            cli.run(main, words)
        line = capsys.readouterr().err
        assert e.value.code == 2 and line.count("\n") == 1 and line.isascii()
        assert cli.control_character(line.rstrip("\n")) is None


def test_a_folder_of_workdir_from_the_environment_is_checked(tmp_path, monkeypatch):
    (tmp_path / "a\nb").mkdir()
    monkeypatch.setenv("WORKDIR", str(tmp_path / "a\nb"))
    with pytest.raises(UsageError, match=r"holds the control character U\+000A"):
        registry.load("recommenders.popularity").main([])


# --------------------------------------------------------------------------- only scripts of the project

@pytest.mark.parametrize("script", [
    "os", "os.path", "antigravity", "pip", "sys", "train.py.py", "../train.py", "/train.py", "recommenders",
    "recommenders.sasrec.model", "experiments.local", "tests.conftest", "slurm/grid.py", "model.py", "-c", "train.py;x",
    "train py", "", "harness.cli", "bench"])
def test_only_scripts_of_the_registry_are_imported(script, monkeypatch, tiny, tmp_path):
    def refuse(name, package=None):
        raise AssertionError(f"{name} was imported")
    monkeypatch.setattr("importlib.import_module", refuse)
    with pytest.raises(UsageError, match="the project has no script"):
        registry.load(script)
    if script:
        (tmp_path / "g.yaml").write_text(json.dumps({"blocks": [{"script": script}]}))
        with pytest.raises(UsageError, match="the project has no script"):
            grid.main(["--file", str(tmp_path / "g.yaml"), "--workdir", str(tiny)])


def test_every_spelling_of_a_script_is_the_same_command():
    for spelt, words in {"train.py": ["train.py"], "./train.py": ["train.py"], "train": ["train.py"],
                         "recommenders.sasrec": ["-m", "recommenders.sasrec"],
                         "recommenders/ease.py": ["-m", "recommenders.ease"],
                         "recommenders/sasrec/__main__.py": ["-m", "recommenders.sasrec"],
                         "preprocess/1_train_test_split.py": ["preprocess/1_train_test_split.py"],
                         "extract_item_embeddings/mfcc.py": ["extract_item_embeddings/mfcc.py"]}.items():
        assert Job(spelt, ("--k", "5")).words == ["python", *words, "--k", "5"]


def test_a_foreign_plan_is_one_sentence(tmp_path):
    for stages in ([{"stage": "../x", "jobs": [], "lines": []}], 5, [{"stage": "grid"}], [[]],
                   [{"stage": 1, "jobs": [], "lines": []}], [{"stage": "grid", "jobs": 3, "lines": []}]):
        (tmp_path / "plan.json").write_text(json.dumps({"stages": stages}))
        with pytest.raises(Exception, match="is not a plan that --submit wrote"):
            submit.report(tmp_path)
