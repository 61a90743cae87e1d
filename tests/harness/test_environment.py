"""What every script says outside the environment, and on a system that is not supported."""
import os
import re
import subprocess
import sys

import pytest

import knn
import metrics
from harness import environment
from tests.conftest import ROOT


def scripts():
    """The words after `python` of every script: its file, or -m and its module where it is not run as a file."""
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if name.startswith((".", "tests/")) or (name.startswith("bench/") and path.name != "__main__.py"):
            continue  # a bench does minutes of work of its own before it needs a package
        text = path.read_text(encoding="utf-8")
        if path.name == "__main__.py":
            yield "-m", name.removesuffix("/__main__.py").replace("/", ".")
        elif re.search(r"^if __name__ ==", text, re.MULTILINE):
            yield (name,) if "/" not in name or "if __package__" in text else ("-m", name[:-3].replace("/", "."))


@pytest.mark.parametrize("words", scripts(), ids=" ".join)
def test_a_script_without_its_packages_says_how_to_make_the_environment(words):
    """Where usage is checked, or data missed, before a package is needed, the answer is that with packages."""
    done = _run("-S", *words)
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr, done.stderr
    if re.fullmatch(r"\w+(\.py)?: (\S+ needs more: )?\w+ is not installed for \S+; "
                    r"(activate|make|complete) the (project's )?environment with `.*\n", done.stderr):
        assert done.returncode == 2
    else:
        with_packages = _run(*words)
        assert done.returncode in (1, 2)
        assert (with_packages.returncode, with_packages.stderr) == (done.returncode, done.stderr)


def _run(*words):
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_every_script_is_tried():
    tried = {words[-1] for words in scripts()}
    assert {"metrics.py", "train.py", "preprocess/0_get_plays_pqt.py", "recommenders.ease", "recommenders.sasrec",
            "extract_item_embeddings/mfcc.py"} <= tried


def test_only_an_absent_package_is_no_traceback():
    for name, package in (("numpy", "numpy"), ("torch.nn", "torch"), ("harness.lost", None), ("metrics.x", None),
                          ("fcntl", None), (None, None)):
        assert environment.absent_package(ModuleNotFoundError("x", name=name)) == package, name
    assert environment.absent_package(ImportError("x", name="numpy")) is None


def test_windows_is_refused_in_one_sentence(capsys):
    environment.check_platform("linux")
    environment.check_platform("darwin")
    with pytest.raises(SystemExit) as left:
        environment.check_platform("win32")
    assert left.value.code == 2
    assert re.fullmatch(r"\S+: Windows is not supported; .*\n", capsys.readouterr().err)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_tables_are_printed_in_any_encoding(tiny, encoding):
    knn.main(["content", "--workdir", str(tiny)])
    metrics.main(["--workdir", str(tiny)])
    done = subprocess.run([sys.executable, "table.py", "--workdir", str(tiny)], cwd=ROOT, capture_output=True,
                          env={**os.environ, "PYTHONIOENCODING": encoding}, timeout=120)
    assert done.returncode == 0 and done.stderr == b"", done.stderr
    sign = "+-" if encoding == "ascii" else "±"
    assert f"1.0000 {sign}0.0000".encode(encoding) in done.stdout


@pytest.mark.parametrize("words, extra", [
    (["knn.py", "content", "--workdir", "~nosuchuser/x"], {}), (["knn.py", "content", "--workdir=~nosuchuser/x"], {}),
    (["metrics.py"], {"WORKDIR": "~nosuchuser/x"}),
    (["preprocess/0_get_plays_pqt.py", "pairs", "--raw", "~nosuchuser/x", "--workdir", "."], {}),
    (["extract_item_embeddings/npy.py", "e", "--file", "~nosuchuser/x", "--workdir", "."], {})])
def test_the_home_of_an_unknown_user_is_a_usage_error(words, extra):
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=60,
                          env={**os.environ, **extra})
    assert done.returncode == 2
    assert done.stderr.endswith(": ~nosuchuser in ~nosuchuser/x is no user of this machine; "
                                "write the path without ~\n") and done.stderr.count("\n") == 1
