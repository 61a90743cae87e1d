"""A report in Markdown as html. Names from data stand in it as text: html inside the Markdown is not passed on."""
import base64
from pathlib import Path

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>Data of a workspace</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
img {{ max-width: 100%; height: auto; background: #fff; }}
.table {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .2rem .7rem; border-bottom: 1px solid #8886; text-align: right; }}
th:first-child, td:first-child {{ text-align: left; }}
</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def body(text, folder):
    """Html of a report; its pictures, files in `folder`, are embedded, so that the html needs nothing beside it.

    A picture that is not there is left out; links stay text, as they may be foreign.
    """
    from markdown_it import MarkdownIt
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["link", "autolink", "html_inline",
                                                                                  "html_block"])
    markdown.add_render_rule("image", lambda self, tokens, i, *_: _picture(tokens[i], Path(folder)))
    markdown.add_render_rule("table_open", lambda *_: '<div class="table" tabindex="0"><table>\n')
    markdown.add_render_rule("table_close", lambda *_: "</table></div>\n")
    return markdown.render(text)


def _picture(token, folder):
    from markupsafe import escape
    path = folder / Path(token.attrs["src"]).name
    if not path.is_file():
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img loading="lazy" alt="{escape(token.content)}" src="data:image/png;base64,{data}">'


def page(text, folder):
    """A whole html page of a report."""
    return PAGE.format(body=body(text, folder))
