"""Every recommender declares what it needs and whether it can rank cold items, in two lines of its file:

    NEEDS = ("embedding", "order")     out of embedding, order (of a user's plays), features (items.pqt, users.pqt)
    COLD = True

They are read from the text, so that asking costs nothing and runs nothing. `python -m recommenders --list` prints them.
"""
import ast
from pathlib import Path

from runs import WorkError


def declared(path):
    """What a file declares: {"needs": tuple, "cold": bool, "about": first line of its docstring}, or None."""
    try:
        tree = ast.parse(Path(path).read_text(encoding="utf-8"))
        told = {target.id: ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign)
                for target in node.targets if isinstance(target, ast.Name) and target.id in ("NEEDS", "COLD")}
    except (SyntaxError, ValueError) as e:
        raise WorkError(f"{path} cannot be read as Python with plain NEEDS and COLD ({e})") from None
    if told.keys() != {"NEEDS", "COLD"}:
        return None
    about = (ast.get_docstring(tree) or "").partition("\n")[0]
    return {"needs": tuple(told["NEEDS"]), "cold": bool(told["COLD"]), "about": about}


def found():
    """Every recommender: {command: what it declares}, the scripts of the root first, then those of this folder."""
    folder = Path(__file__).parent
    files = {f"python {path.name}": path for path in sorted(folder.parent.glob("[a-z]*.py"))}
    files |= {f"python -m recommenders.{path.stem}": path for path in sorted(folder.glob("[a-z]*.py"))}
    return {command: told for command, path in files.items() if (told := declared(path))}
