"""The README's commands do what it says: run on a small demo world, or, where tagged, checked flag by flag.

A tag stands behind a command as `# [network]`, `# [gpu]`, `# [hours]` or `# [minutes]`.
"""
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from extract_item_embeddings.engine import extraction
from tests.conftest import ROOT

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line.strip() for block in re.findall(r"```bash\n(.*?)```", TEXT, re.S) for line in block.splitlines()
            if line.strip() and not line.lstrip().startswith("#")]
PYTHON = [c for c in COMMANDS if c.startswith("python ")]
TAGGED = [c for c in PYTHON if re.search(r"#.*\[(network|gpu|hours|minutes)\]", c)]


def words(command):
    return shlex.split(command, comments=True)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A small demo world taken through `make demo` itself, in a folder that stands for work/demo."""
    folder = tmp_path_factory.mktemp("readme") / "demo"
    stamp = folder.parent / "installed"
    stamp.touch()
    done = subprocess.run(
        ["make", "demo", f"DEMO={folder}", f"PY={sys.executable}", f"STAMP={stamp}",
         "WORLD=--tracks 120 --users 100 --seconds 3.5"], cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder, done.stdout


def test_make_demo_ends_with_both_tables(demo):
    _, printed = demo
    for row in ("chance", "popularity", "random", "mfcc", "musicnn", "shuffled musicnn", "oracle"):
        assert len(re.findall(rf"^\| {row} ", printed, re.M)) == 12, row    # 2 parts, 2 k, 3 metrics
    assert "### test" in printed and "### cold_test" in printed


def test_a_second_make_demo_skips_everything(demo, tmp_path):
    folder, _ = demo
    before = {p: p.stat().st_mtime_ns for kind in ("preds", "embeddings", "data", "checkpoints")
              for p in (folder / kind).rglob("*") if p.is_file() and not p.name.startswith(".")}
    stamp = tmp_path / "installed"
    stamp.touch()
    subprocess.run(["make", "demo", f"DEMO={folder}", f"PY={sys.executable}", f"STAMP={stamp}",
                    "WORLD=--tracks 120 --users 100 --seconds 3.5"],
                   cwd=ROOT, capture_output=True, check=True, timeout=600)
    assert before == {p: p.stat().st_mtime_ns for p in before}


@pytest.mark.parametrize("command", [c for c in PYTHON if c not in TAGGED])
def test_commands_run(command, demo, request):
    if "work/demo" not in command:      # these read the cross-check data, or what such a command made
        os.environ["SHARED_DATA"] = str(request.getfixturevalue("shared"))
    folder = demo[0].parent             # stands for work/
    argv = [os.path.expandvars(re.sub(r"^work/", f"{folder}/", w)) for w in words(command)]
    done = subprocess.run([sys.executable, *argv[1:]], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("command", TAGGED)
def test_tagged_commands_parse(command):
    """Every flag and value as the script's own parser takes them; names stand for folders that need not be here."""
    argv = [os.path.expandvars(w) for w in words(command)[1:]]
    script, *argv = argv if argv[0] != "-m" else (argv[1].replace(".", "/") + ".py", *argv[2:])
    assert (ROOT / script).is_file(), script
    spec = importlib.util.spec_from_file_location(f"readme_{Path(script).stem}", ROOT / script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if script == "slurm/grid.py":
        if "--file" in argv:
            assert (ROOT / argv[argv.index("--file") + 1]).is_file() or "tuned" in command
        parse = module.build_parser().parse_known_args  # flags of cells may follow
    elif script == "preprocess/0_get_plays_pqt.py":
        parse = module.build_parser(module.datasets()).parse_args
    elif backends := [b for b in vars(module).values() if isinstance(b, type) and b.__module__ == module.__name__
                      and issubclass(b, extraction.Backend)]:
        parse = extraction.parser(backends[0], "").parse_args
    elif hasattr(module, "parse"):
        parse = module.parse
    else:
        parse = getattr(module, "build_parser", getattr(module, "parser", None))().parse_args
    parse(argv)


def test_the_small_demo_shows_what_holds_by_construction(demo):
    """Cold, the truth is clearly above the same vectors on the wrong tracks; hot, trained models are above chance."""
    import pandas as pd

    from harness import runs

    def values(recommender, part, metric, **request):
        found = [name for name, config in runs.find_runs(demo[0]) if config["recommender"] == recommender
                 and all(config["request"].get(k, config.get(k)) == v for k, v in request.items())]
        assert found, (recommender, request)
        return [pd.read_csv(demo[0] / "metrics" / f"{name}_{part}.csv", index_col=0).loc["mean", metric]
                for name in found]
    for recommender in ("knn", "shallow"):
        (truth,) = values(recommender, "cold_test", "NDCG@10", embedding="oracle")
        shuffled = values(recommender, "cold_test", "NDCG@10", shuffle=True)
        assert len(shuffled) == 10 and truth > max(shuffled), recommender
    (chance,) = values("chance", "test", "NDCG@10")
    for recommender in ("shallow", "bert4rec"):
        (trained,) = values(recommender, "test", "NDCG@10", embedding="random")
        assert trained > chance, recommender


def test_make_targets_exist():
    for command in COMMANDS:
        if command.startswith("make "):
            subprocess.run(["make", "-n", words(command)[1]], cwd=ROOT, check=True, capture_output=True)


def test_the_tree_names_every_file_at_the_root():
    tree = TEXT[TEXT.index("extract_item_embeddings/   stage 1"):TEXT.index("## The workspace")]
    missing = [p.name for p in sorted(ROOT.glob("*.py")) if p.name not in tree]
    assert not missing
    for script in re.findall(r"`((?:[a-z_]+/)*[0-9a-z_]+\.(?:py|yaml|sh|sbatch))`", TEXT):
        assert (ROOT / script).exists() or any(ROOT.glob(f"*/{script}")), script
