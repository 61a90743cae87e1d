"""Wording and habits that are not used here: in code, help, errors, README and docs. All files are checked.

Plain English and the terms of the field (docs/glossary.md). A refused phrase stands beside a better one.
"""
import ast
import io
import re
import subprocess
import tokenize

import pytest

from tests.conftest import ROOT

PHRASES = {                                    # pattern: what to write instead
    r"cannot be meant": "a value out of range; contradictory options",
    r"the ground under": "used by",
    r"free words": "free text appended to the run name",
    r"what ails": "what is wrong with",
    r"\b(is|are|was|were) told\b(?! apart)": "is given, is passed, is recorded",
    r"\bThe river\b": "Pipeline",
    r"the company changes": "batch composition varies",
    r"\bDOOR\b|\bthe doors?\b|\bdoors of\b": "entry point, script",
    r"nobody (knows|would wait)|who knows the whole": "say what is missing or too large",
    r"\bstands? in it twice\b": "contains duplicate (user_id, track_id) pairs",
    r"\b[Pp]art (the|a) (table|archive|data|log)\b": "split",
    r"no longer a number|is no number": "NaN or infinite",
}
HABITS = {
    r"^\s*from \S+ import \*": "import names",
    r"(?<![\w.~$}])/(home|Users|root)/\w": "no path of one machine",
    r"metavar=\"X\"": "a metavar that says what goes there: N, {0,1}, NAME, FILE, DIR, SECONDS, FRACTION",
}


def files(*suffixes):
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True,
                            check=True).stdout.splitlines()
    return [p for p in listed if p.endswith(suffixes) and (ROOT / p).exists() and p != "tests/test_style.py"]


TEXTS = [p for p in files(".py", ".md", ".yaml", ".sh") if p.endswith((".py", ".yaml", ".sh")) or p == "README.md"
         or p.startswith("docs/")]


def places(pattern, paths):
    """`path:line: text` of every line that a pattern matches."""
    return [f"{path}:{n}: {line.strip()[:90]}" for path in paths
            for n, line in enumerate((ROOT / path).read_text(encoding="utf-8").splitlines(), 1)
            if re.search(pattern, line)]


def test_there_are_files_to_check():
    assert {"README.md", "train.py", "harness/cli.py", "preprocess/stage.py"} <= set(TEXTS) and len(TEXTS) > 150


@pytest.mark.parametrize("pattern", PHRASES)
def test_a_phrase_that_the_field_does_not_use(pattern):
    assert not (used := places(pattern, TEXTS)), f"better: {PHRASES[pattern]}\n" + "\n".join(used)


@pytest.mark.parametrize("pattern", HABITS)
def test_a_habit_that_is_not_ours(pattern):
    used = places(pattern, [p for p in TEXTS if p.endswith(".py")])
    assert not used, f"{HABITS[pattern]}\n" + "\n".join(used)


def options(path):
    """(line, flag, {keyword: syntax tree}) of every option that a file adds to a parser."""
    for call in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        name = getattr(getattr(call, "func", None), "attr", getattr(getattr(call, "func", None), "id", None))
        if isinstance(call, ast.Call) and name in ("add_argument", "add") and call.args \
                and isinstance(call.args[0], ast.Constant) and str(call.args[0].value).startswith("--"):
            yield call.lineno, call.args[0].value, {k.arg: k.value for k in call.keywords}


SCRIPTS = [p for p in files(".py") if not p.startswith(("tests/", "bench/"))]


def test_every_option_has_a_help_that_reads_by_itself():
    """It does not begin with a word that needs the name of the option or of its group before it."""
    bad = []
    for path in SCRIPTS:
        for line, flag, keywords in options(path):
            words = " ".join(c.value for c in ast.walk(keywords["help"]) if isinstance(c, ast.Constant)
                             and isinstance(c.value, str)) if "help" in keywords else ""
            if not words.strip() or re.match(r"(of|for|at|in|where|how|what|whose|which)\b", words.strip()):
                bad.append(f"{path}:{line}: {flag}: {words[:60]!r}")
    assert not bad, "\n".join(bad)


# --------------------------------------------------------------------------- paths

PATH = re.compile(r"(?<![\w./~$}>-])((?:[\w.-]+/)+[\w-]+\.py)\b")
NO_FILES = {"preprocess/x.py", "extract_item_embeddings/NAME.py"}   # names that stand for any


def paths_named(path):
    """(line, path of a Python file) of every one that a file's comments, docstrings and messages name.

    The strings of tests and benches are left out, docstrings not: files are made there under any name.
    """
    text = (ROOT / path).read_text(encoding="utf-8")
    tree, made_up = ast.parse(text), path.startswith(("tests/", "bench/"))
    found = [(token.start[0], token.string) for token in tokenize.generate_tokens(io.StringIO(text).readline)
             if token.type == tokenize.COMMENT]
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) \
                and (words := ast.get_docstring(node, clean=False)):
            found.append((node.body[0].lineno, words))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and not made_up:
            found.append((node.lineno, node.value))
    return {(line, name) for line, words in found for name in PATH.findall(words)}


def test_a_file_that_is_named_exists():
    named = {path: paths_named(path) for path in files(".py")}
    assert len({name for found in named.values() for _, name in found}) > 50
    lost = sorted(f"{path}:{line}: {name}" for path, found in named.items() for line, name in found
                  if name not in NO_FILES and not (ROOT / name).is_file())
    assert not lost, "name the file from the project's folder:\n" + "\n".join(lost)
