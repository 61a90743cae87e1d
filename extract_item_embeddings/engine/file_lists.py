"""--files: the audio files of an extraction from a list, in place of a walk through a folder.

A csv, by comma or tab, with the columns trackid (also track_id, id) and path, or text with one path per line, whose
track id is the file's stem; `path` alone may be its first line. Paths are relative to the list's folder. No directory
is read. Blanks around a cell are no part of it, and ~/ is the home of the user.
"""
import csv
import re
from pathlib import Path

from harness import quotes
from harness.errors import UsageError, WorkError
from harness.ids import normal, plain


def read(path):
    """{track id as compared: Path} of a list; WorkError for text that is no list, and for a track that stands twice."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise UsageError(f"--files {path} does not exist")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as e:
        raise WorkError(f"--files {path} is not text in UTF-8 ({e})") from None
    if "\0" in text:
        raise WorkError(f"--files {path} is not text, as it has NUL bytes")
    lines = [line.strip() for line in text.split("\n") if line.strip()]  # a name may hold other ends of a line
    delimiter = "\t" if lines and "\t" in lines[0] else ","
    columns = _columns(path, lines[0], delimiter) if lines else []
    found = _rows(path, text, delimiter, columns) if columns else [(Path(line).stem, line) for line in lines]
    if not found:
        raise WorkError(f"--files {path} names no file")
    files = {}
    for track, name in found:
        track = normal(track)
        if track in files:
            raise WorkError(f"--files {path}: track {track} has more than one file; leave one of them")
        files[track] = path.parent / (Path(name).expanduser() if name.startswith("~/") else name)
    return files


def _columns(path, line, delimiter):
    """Names of the columns, as `plain` writes them, where the first line is a header, [] where it is a path.

    WorkError for a line that looks like the header of another table.
    """
    columns = [plain(name) for name in quotes.cells_of(line, delimiter)]
    if columns == ["path"] or "path" in columns and {"trackid", "id"} & {*columns}:
        return columns
    words = [plain(word) for word in re.split(r"[,;|\t]", line)]
    if len(words) > 1 and not re.search(r"[./\\]", line) and any(
            word in ("trackid", "id") or re.search("path|file", word) for word in words):
        raise WorkError(f"--files {path}: the first line {line[:80]!r} is no header that is read here; write "
                        "trackid,path, with commas or tabs, or one path per line")
    return []


def _rows(path, text, delimiter, columns):
    """(track id, path) of each row of a csv."""
    key = next((name for name in ("trackid", "id") if name in columns), None)
    try:
        rows = [(line, [cell.strip() for cell in row]) for line, row in quotes.numbered_rows(text, delimiter, True)
                if any(cell.strip() for cell in row)]
    except csv.Error as e:
        raise WorkError(f"--files {path} is no text table ({e})") from None
    found = []
    for line, row in rows[1:]:
        if len(row) != len(columns):
            raise WorkError(f"--files {path}, line {line}: the row has {len(row)} cells and not {len(columns)}")
        name = row[columns.index("path")]
        track = Path(name).stem if key is None else row[columns.index(key)]
        if not track or not name:
            raise WorkError(f"--files {path}, line {line}: the row has no {'path' if track else key or 'path'}; "
                            "complete it or leave it out")
        found.append((track, name))
    return found


def paths_of(files, ids, path):
    """The file of each track, list of Path or None, in the order of `ids`; WorkError where the list has none."""
    found = [files.get(normal(i)) for i in ids]
    if not any(found):
        raise WorkError(f"none of the {len(ids)} tracks of the track list is in --files {path}, whose tracks look like "
                        f"{next(iter(files))}")
    return found
