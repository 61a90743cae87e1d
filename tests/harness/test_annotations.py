"""The instruments say their types: mypy (make lint) checks what is annotated, this test that all of it is."""
import ast

import pytest

from tests.conftest import ROOT

CHECKED = [*sorted((ROOT / "harness").glob("*.py")), *sorted((ROOT / "ranking").glob("*.py")),
           ROOT / "dataset.py", ROOT / "metrics.py"]
COMMAND_LINE = {"main", "parse", "build_parser", "defaults"}                  # the same in every script
INHERITED = {"parse_known_args", "redirect_request"}                           # the parent class says them


def public(body):
    """Public functions of a module or class, those of its public classes too."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public(node.body)
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node


@pytest.mark.parametrize("path", CHECKED, ids=lambda path: str(path.relative_to(ROOT)))
def test_public_functions_are_annotated(path):
    bare = []
    for node in public(ast.parse(path.read_text(encoding="utf-8")).body):
        arguments = [a for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
                     if a.arg not in ("self", "cls")]
        if node.name not in COMMAND_LINE | INHERITED and (
                node.returns is None or any(a.annotation is None for a in arguments)):
            bare.append(f"{node.name} (line {node.lineno})")
    assert not bare
