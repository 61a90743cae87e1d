"""The commands of README.md and docs/ run on a small demo world or, where tagged, are checked flag by flag.

A tag stands behind a command as `# [network]`, `# [gpu]`, `# [hours]` or `# [minutes]`. Commands quoted inside a
sentence or a table are checked flag by flag, too. The templates of docs/extending.md are run, links are followed.
"""
import importlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import dataset
from experiments.expand import EMBEDDING_FLAGS
from extract_item_embeddings.engine import extraction
from harness import registry, runs
from tests.conftest import ROOT
from tests.worlds.world import tiny_workspace

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
         for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))}
COMMANDS = [line.strip() for text in PAGES.values() for block in re.findall(r"```bash\n(.*?)```", text, re.S)
            for line in block.splitlines() if line.strip() and not line.lstrip().startswith("#")]
PYTHON = list(dict.fromkeys(c for c in COMMANDS if c.startswith("python ")))
TAGGED = [c for c in PYTHON if re.search(r"#.*\[(network|gpu|hours|minutes)\]", c)]
QUOTED = sorted({" ".join(c.split()) for text in PAGES.values() for c in re.findall(r"`(python [^`]*)`", text)
                 if "NAME" not in c} - set(PYTHON))
TORCHRUN = [c for c in COMMANDS if c.startswith("torchrun ")]
SMALL = "WORLD=--tracks 120 --users 100 --seconds 3.5"
HANGING = 3600   # seconds: no command below takes a tenth of it, however busy the machine; only a hang reaches it


def words(command):
    return shlex.split(command, comments=True)


def make_demo(folder, stamp, target="demo"):
    stamp.touch()
    done = subprocess.run(["make", target, f"DEMO={folder}", f"PY={sys.executable}", f"STAMP={stamp}", SMALL],
                          cwd=ROOT, capture_output=True, text=True, timeout=HANGING)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A small demo world taken through `make demo` itself, in a folder that stands for work/demo."""
    folder = tmp_path_factory.mktemp("readme") / "demo"
    return folder, make_demo(folder, folder.parent / "installed")


@pytest.mark.trains
def test_make_demo_ends_with_both_tables(demo):
    _, printed = demo
    for row, often in (("Chance +", 2), ("Popularity +", 1), ("Shallow Net +\\| ID embeddings", 1),
                       ("KNN +\\| mfcc", 2), ("BERT4Rec +\\| musicnn", 2), ("Shallow Net +\\| oracle", 2)):
        assert len(re.findall(rf"^\| {row} ", printed, re.M)) == often, row   # the tables of test and cold test
    assert len(re.findall(r" \(10\) +\| [+-]0\.\d{4} ±", printed)) == 6, "musicnn has ten permutations, and a worth"
    assert "### test" in printed and "### cold_test" in printed and "written to" in printed


@pytest.mark.trains
def test_make_demo_full_adds_networks_and_cold_start_methods(demo, tmp_path):
    """It begins with make demo, which skips what is there: nothing of the first call is written again."""
    folder = tmp_path / "demo"
    shutil.copytree(demo[0], folder)
    before = {p: p.stat().st_mtime_ns for kind in ("preds", "embeddings", "data", "checkpoints")
              for p in (folder / kind).rglob("*") if p.is_file() and not p.name.startswith(".")}
    printed = make_demo(folder, tmp_path / "installed", "demo-full")
    assert before == {p: p.stat().st_mtime_ns for p in before}
    for method in ("KNN", "Content prior", "Content KNN", "Content to factors", "Shrinkage"):
        for name in ("musicnn-mtt", "vgg-msd", "vgg-mtt", "pitch"):
            assert len(re.findall(rf"^\| {method} +\| {name} ", printed, re.M)) == 2, (method, name)   # hot and cold
    assert printed.count("open it in a browser") == 2     # of make demo, and of what comes after


def order(command):
    """What makes a workspace comes before what reads it, whatever the order of the pages."""
    stages = (".generate", "0_get_plays_pqt", "1_train_test_split", "extract_item_embeddings")
    last = len(stages) + ("table.py" in command)
    return next((i for i, stage in enumerate(stages) if stage in command), last)


@pytest.mark.trains
@pytest.mark.parametrize("command", sorted((c for c in PYTHON if c not in TAGGED), key=order))
def test_commands_run(command, demo, request):
    if "work/demo" not in command:      # these read the cross-check data, or what such a command made
        os.environ["SHARED_DATA"] = str(request.getfixturevalue("shared"))
    folder = demo[0].parent             # stands for work/
    argv = [os.path.expandvars(re.sub(r"^work/", f"{folder}/", w)) for w in words(command)]
    done = subprocess.run([sys.executable, *argv[1:]], cwd=ROOT, capture_output=True, text=True, timeout=HANGING)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("command", [*TAGGED, *QUOTED, *TORCHRUN])
def test_tagged_and_quoted_commands_parse(command):
    """Every flag and value as the script's own parser takes them; names stand for folders that need not exist."""
    command = re.sub(r"^torchrun( --(nproc-per-node|max-restarts) \d+)+ ", "python ", command)
    argv = [os.path.expandvars(w) for w in words(command)[1:]]
    script, *argv = argv if argv[0] != "-m" else (argv[1].replace(".", "/"), *argv[2:])
    script = next((s for s in (script, f"{script}.py", f"{script}/__main__.py") if (ROOT / s).is_file()), script)
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
    elif script.startswith("bench/"):   # a measurement without flags has no parser
        parse = getattr(module, "build_parser", lambda: None)()
        parse = parse.parse_args if parse else lambda argv: None
    else:
        parse = getattr(module, "build_parser", getattr(module, "parser", None))().parse_args
    parse(argv)


@pytest.mark.trains
def test_the_small_demo_shows_what_holds_by_construction(demo):
    """Cold, the truth is clearly above the same vectors on the wrong tracks; hot, trained models are above chance."""
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


# --------------------------------------------------------------------------- what the pages say of the repository

def test_the_readme_is_short():
    assert README.count("\n") <= 250


def tracked():
    """Paths of the repository: those in git, or without git the files that a checkout has."""
    done = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"],
                          cwd=ROOT, capture_output=True, text=True)
    return done.stdout.split() if done.returncode == 0 else [p.relative_to(ROOT).as_posix() for p in ROOT.rglob("*.py")]


def test_the_tree_names_every_module_and_folder_at_the_root():
    tree = README[README.index("## Files"):README.index("## Workspace")]
    tops = {path.split("/")[0] + "/" * ("/" in path) for path in tracked()}
    missing = [top for top in sorted(tops) if top.endswith((".py", ".yaml", "/")) and not top.startswith(".")
               and not re.search(rf"(?<![\w./]){re.escape(top)}", tree)]
    assert not missing
    named = re.findall(r"(?<![\w./])([a-z_]+/|[a-z0-9_]+\.(?:py|yaml))", tree)
    assert len(named) > 20 and not [n for n in named if not ((ROOT / n).exists() or any(ROOT.glob(f"*/{n}")))]


def test_paths_named_on_the_pages_exist():
    for page, text in PAGES.items():
        prose = re.sub(r"```.*?```", "", text, flags=re.S)
        for path in re.findall(r"`((?:[a-z_]+/)*[0-9a-z_]+\.(?:py|yaml|sh|sbatch|txt))`", prose):
            assert path in ("ids.txt",) or (ROOT / path).exists() or any(ROOT.glob(f"*/{path}")), f"{page}: {path}"


def anchors(text):
    """The anchors of a page's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def test_links_between_the_pages_resolve():
    followed = 0
    for page, text in PAGES.items():
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if target.startswith(("http://", "https://")):
                continue
            path, _, anchor = target.partition("#")
            file = ((ROOT / page).parent / path).resolve() if path else ROOT / page
            assert file.is_file(), f"{page}: {target}"
            assert not anchor or anchor in anchors(file.read_text(encoding="utf-8")), f"{page}: {target}"
            followed += 1
    assert followed > 40


def test_every_page_is_linked_from_the_readme():
    assert not [page for page in PAGES if page.startswith("docs/") and f"({page})" not in README]


def test_name_version_and_licence_are_the_same_everywhere():
    import tomllib

    import yaml
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert README.startswith(f"# {project['name']}\n") and citation["title"].startswith(project["name"] + ":")
    assert citation["version"] == project["version"] and citation["license"] == project["license"] == "MIT"
    assert f"\n## {project['version']} " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("MIT License")


# --------------------------------------------------------------------------- the templates of docs/extending.md

def template(path, folder):
    """A template as a module, written to a file of that name in `folder`."""
    blocks = re.findall(rf"```python\n# {re.escape(path)}\n(.*?)```", PAGES["docs/extending.md"], re.S)
    assert len(blocks) == 1, path
    file = folder / Path(path).name
    file.write_text(blocks[0], encoding="utf-8")
    spec = importlib.util.spec_from_file_location(f"{path.split('/')[0]}.{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, file


def test_the_template_of_a_recommender_keeps_the_contract(tmp_path):
    module, file = template("recommenders/profile.py", tmp_path)
    assert {"needs": ("embedding",), "cold": True}.items() <= registry.declared(file).items()
    assert {action.dest for action in module.build_parser()._actions} & {*EMBEDDING_FLAGS}      # for tune.py
    workdir = tiny_workspace(tmp_path / "tiny")
    for power in ("0", "1"):
        module.main(["content", "--power", power, "--k", "10", "--workdir", str(workdir)])
    split, found = dataset.load(workdir), runs.find_runs(workdir)
    assert len(found) == 2 and {config["status"] for _, config in found} == {"finished"}
    for name, config in found:
        assert config["parts"] == sorted(split.parts)
        for part in split.parts:
            lists = pd.read_parquet(workdir / "preds" / f"{name}_{part}.pqt")
            assert set(lists.user_id) == set(split.users[split.eval_users(part)])
    vectors = dataset.load_embedding(split, "content")
    user = module.user_vectors(split.matrix("count"), vectors, 0.0)[5]
    mine = split.train.item[split.train.user == 5]
    np.testing.assert_allclose(user, vectors[mine].mean(axis=0), rtol=1e-5, atol=1e-6)  # float32 sums of a few vectors


def test_the_template_of_a_backend_extracts(tmp_path):
    import soundfile
    module, _ = template("extract_item_embeddings/loudness.py", tmp_path)
    (tmp_path / "audio").mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("a", 0.1), ("b", 0.01)):
        soundfile.write(tmp_path / "audio" / f"{name}.wav", size * rng.standard_normal(44100), 22050, subtype="FLOAT")
    module.main(["--audio", str(tmp_path / "audio"), "--workdir", str(tmp_path / "w"), "--workers", "1"])
    loud, quiet = np.load(tmp_path / "w" / "embeddings" / "loudness.npy")
    assert loud[0] == pytest.approx(-20, abs=0.5)           # 20 log10(0.1); 2 s of noise give it to about .1 dB
    assert loud[0] - quiet[0] == pytest.approx(20, abs=0.5)


@pytest.mark.trains
def test_bring_your_own_runs_as_written(tmp_path):
    """The commands of README's "Bring your own" and of docs' "Your own log", on files of the names they give."""
    import soundfile
    rng, users, ids = np.random.default_rng(0), 60, [f"t{i:02d}" for i in range(40)]
    rows = [(u, t, 1_500_000_000 + 1000 * int(rng.integers(100_000))) for u in range(1, users + 1)
            for t in rng.choice(len(ids), 12, replace=False)]
    plays = "".join(f"u{u},{ids[t]},{s}\n" for u, t, s in rows)
    (tmp_path / "plays.csv").write_text(f"user,item,timestamp\n{plays}")
    (tmp_path / "ratings.dat").write_text("".join(f"{u}::{t}::{1 + (u + t) % 5}::{s}\n" for u, t, s in rows))
    (tmp_path / "ids.txt").write_text("\n".join(ids))
    np.save(tmp_path / "vectors.npy", rng.normal(size=(len(ids), 8)).astype(np.float32))
    (tmp_path / "DIR").mkdir()
    for name in ids[:3]:
        soundfile.write(tmp_path / "DIR" / f"{name}.wav", 0.1 * rng.standard_normal(4 * 22050), 22050)
    sections = [README[README.index("## Bring your own"):README.index("## Published tables")],
                PAGES["docs/datasets.md"].partition("## Your own log")[2].partition("\n## ")[0]]
    commands = [words(c) for text in sections for c in re.findall(r"^python .*", text, re.M) if "work/demo" not in c]
    assert len(commands) == 11
    for command in dict.fromkeys(map(tuple, commands)):
        argv = [str(tmp_path / w) if w.startswith("work/") or (tmp_path / w).exists() else w for w in command[1:]]
        done = subprocess.run([sys.executable, *argv], cwd=ROOT, capture_output=True, text=True, timeout=HANGING)
        assert done.returncode == 0, done.stderr[-2000:]
    mine = tmp_path / "work" / "mine"
    assert dataset.load(mine).parts and dataset.embedding_names(mine) == ["mine", "musicnn"]
    assert "| KNN            | mine  " in (mine / "tables" / "test.md").read_text()


def test_the_template_of_a_data_set_makes_a_workspace(tmp_path):
    module, _ = template("preprocess/listens.py", tmp_path)
    stage0, stage1 = (importlib.import_module(f"preprocess.{name}") for name in ("0_get_plays_pqt",
                                                                                 "1_train_test_split"))
    raw = tmp_path / "listens.csv"
    rows = [f"u{u},t{(u + i) % 7},{1_600_000_000 + 10 * i}" for u in range(5) for i in range(5)]
    raw.write_text("\n".join(["user,track,seconds", *rows]))
    workdir = tmp_path / "w"
    workdir.mkdir()
    for _ in range(2):   # the second call skips
        module.get_plays(stage0.build_parser({"listens": module}).parse_args(
            ["listens", "--raw", str(raw), "--workdir", str(workdir)]), workdir)
    stage1.main(["--protocol", "leave-one-out", "--workdir", str(workdir)])
    split = dataset.load(workdir)
    assert split.n_users == 5 and split.time == "real" and len(split.part("test")) == len(split.part("val"))
