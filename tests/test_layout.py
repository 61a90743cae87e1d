"""The layout's rules, read from the code's own imports: every import runs downwards, and the root holds the paper.

A room is a folder, or at the root a script. Who stands on whom is the table BELOW; docs/extending.md says why.
"""
import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

ROOT_MODULES = {"dataset", "model", "train", "bert4rec", "train_bert", "knn", "metrics", "table", "tune", "explore",
                "show", "report", "claims"}
RECOMMENDERS = {"train", "train_bert", "knn", "bert4rec", "model"}   # the paper's, at the root
BELOW = {   # room: the rooms whose modules it may import
    "harness": set(),
    "extract_item_embeddings": {"harness", "dataset"},
    "preprocess": {"harness", "dataset"},
    "dataset": {"harness"},
    "evaluation": {"harness", "dataset", "metrics"},
    "metrics": {"harness", "dataset", "evaluation"},
    "ranking": {"harness", "dataset", "evaluation", "metrics"},
    "training": {"harness", "dataset", "evaluation", "metrics", "ranking", "model"},
    "model": {"harness", "training"},
    "bert4rec": {"harness", "training"},
    "train": {"harness", "dataset", "metrics", "ranking", "training", "model"},
    "train_bert": {"harness", "dataset", "metrics", "ranking", "training", "bert4rec"},
    "knn": {"harness", "dataset", "ranking"},
    "recommenders": {"harness", "dataset", "metrics", "evaluation", "ranking", "training"},
    "table": {"harness", "dataset", "metrics", "evaluation"},
    "explore": {"harness", "dataset", "preprocess", "exploration"},
    "show": {"harness", "dataset", "lookup"},
    "report": {"harness", "reporting"},
    "claims": {"harness", "ledger"},
    "ledger": {"harness", "metrics", "evaluation", "experiments"},
    "reporting": {"harness", "dataset", "metrics", "evaluation", "exploration", "lookup", "extract_item_embeddings"},
    "lookup": {"harness", "dataset", "evaluation", "extract_item_embeddings", "knn", "recommenders"},
    "exploration": {"harness", "dataset", "preprocess", "evaluation"},
    "experiments": {"harness"},
    "tune": {"harness", "dataset", "experiments", "metrics", "evaluation", "training"},
    "slurm": {"harness", "experiments"},
}
PUBLISHED = {("recommenders.dtnmr.__main__", "preprocess")}   # DTNMR's published call starts from the raw files


def modules():
    """{dotted name: path} of the project's Python files, tests and benches left out."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "*.py"], cwd=ROOT, capture_output=True,
                            text=True, check=True).stdout.split()
    paths = [Path(p) for p in listed if (ROOT / p).exists() and p.split("/")[0] not in ("tests", "bench")]
    return {".".join(p.with_suffix("").parts).removesuffix(".__init__"): ROOT / p for p in paths}


def imported(path, known):
    """The project's modules that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names |= {f"{node.module}.{a.name}" if f"{node.module}.{a.name}" in known else node.module
                      for a in node.names}
    return names & known.keys()


@pytest.fixture(scope="module")
def arrows():
    """(importing module, imported module) pairs of the whole project."""
    known = modules()
    return {(name, other) for name, path in known.items() for other in imported(path, known) if other != name}


def test_the_root_holds_the_papers_scripts_and_the_entry_points_only():
    assert {name for name in modules() if "." not in name and (ROOT / f"{name}.py").exists()} == ROOT_MODULES


def test_every_import_runs_downwards(arrows):
    rooms = {(a.split(".")[0], b.split(".")[0]) for a, b in arrows}
    upward = sorted(f"{a} imports {b}" for a, b in arrows if (a, b.split(".")[0]) not in PUBLISHED
                    and a.split(".")[0] != b.split(".")[0] and b.split(".")[0] not in BELOW[a.split(".")[0]])
    assert not upward, upward
    assert {a for a, _ in rooms} <= BELOW.keys()


def test_a_recommender_imports_no_other(arrows):
    def family(module):
        return module.split(".")[1] if module.startswith("recommenders.") else module
    crossing = [(a, b) for a, b in arrows if a.startswith("recommenders.") and b.startswith("recommenders.")
                and family(a) != family(b)]
    assert not crossing
    assert not [(a, b) for a, b in arrows if a.startswith("recommenders.") and b in RECOMMENDERS]
    assert not [(a, b) for a, b in arrows if a.split(".")[0] in ("ranking", "evaluation")
                and (b.startswith("recommenders") or b in RECOMMENDERS)]


def test_no_module_imports_itself_in_a_circle(arrows):
    after = {}
    for a, b in arrows:
        after.setdefault(a, set()).add(b)
    state = {}

    def visit(module, path):
        state[module] = "open"
        for other in sorted(after.get(module, ())):
            assert state.get(other) != "open", " -> ".join([*path, module, other])
            if other not in state:
                visit(other, [*path, module])
        state[module] = "done"
    for module in sorted(after):
        if module not in state:
            visit(module, [])


def test_one_backend_is_one_file():
    scripts = {p.stem for p in (ROOT / "extract_item_embeddings").glob("[a-z]*.py")}
    assert scripts == set("mfcc musicnn vgg pitch mert mert2 m2v mfm muq emae clap maest jb mule onion npy pca "
                          "rq".split())


def test_tests_lie_in_folders_like_the_codes():
    code = {p.name for p in ROOT.iterdir() if (p / "__init__.py").exists()} | {"worlds", "attack"}
    folders = {p.name for p in (ROOT / "tests").iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert folders <= code, folders - code


def test_no_script_loads_a_numerical_library_before_it_has_read_its_command_line():
    """So that --help, and a mistake in the command line, are answered at once."""
    code = ("import sys\nfrom harness import registry\n"
            "for r in registry.recommenders().values(): registry.load(r.script).build_parser()\n"
            "print(sorted({'torch', 'transformers', 'numpy', 'pandas', 'scipy', 'numba', 'faiss'} & {*sys.modules}))")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout == "[]\n", done.stdout + done.stderr
