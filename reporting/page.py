"""The page as one html file: the data and all scripts inside it, so that it opens from the disk without a server.

Foreign text (names, comments, reasons) gets into the page in two ways only: through Jinja2 with autoescaping, and as
json, which page.js writes as text nodes. A content security policy lets no other script run and nothing load from
anywhere but the folder of the page.
"""
import base64
import hashlib
import json
from pathlib import Path

HERE = Path(__file__).parent
LIMIT = 10_000_000     # bytes of the page, sound not counted


def as_json(value):
    """Json that may stand within a script element: no `<`, `>` or `&` as such, no line separators of JavaScript."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text.encode("utf-8", "replace").decode()     # a lone surrogate of a damaged name is no text


def plotly():
    """Plotly's script, as the installed package has it."""
    from plotly.offline import get_plotlyjs
    return get_plotlyjs()


def render(data, **texts):
    """The page, str. data: everything that page.js shows; texts: what page.html.j2 writes itself, see there."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    scripts = [plotly(), (HERE / "page.js").read_text(encoding="utf-8")]
    allowed = " ".join(f"'sha256-{_sha(script)}'" for script in scripts)
    style = Markup((HERE / "page.css").read_text(encoding="utf-8"))
    return environment.get_template("page.html.j2").render(
        data=Markup(as_json(data)), plotly=Markup(scripts[0]), program=Markup(scripts[1]), style=style,
        allowed=Markup(allowed), **texts)


def _sha(script):
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
