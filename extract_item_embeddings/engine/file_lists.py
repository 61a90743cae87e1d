"""--files: the audio files of an extraction from a list, in place of a walk through a folder.

A csv with the columns trackid and path, or text with one path per line, whose track id is the file's stem. Paths are
relative to the list's folder. No directory is read.
"""
import csv
import unicodedata
from pathlib import Path

from harness import quotes
from harness.errors import UsageError, WorkError


def read(path):
    """{track id in NFC: Path} of a list; WorkError for text that is no list, and for a track that stands twice."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise UsageError(f"--files {path} does not exist")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as e:
        raise WorkError(f"--files {path} is not text in UTF-8 ({e})") from None
    lines = text.splitlines()
    columns = [name.strip() for name in lines[0].split(",")] if lines else []
    if "path" in columns and ({"trackid", "id"} & {*columns}):
        found = _rows(path, text, columns)
    else:
        found = [(Path(line.strip()).stem, line.strip()) for line in lines if line.strip()]
    if not found:
        raise WorkError(f"--files {path} names no file")
    files = {}
    for track, name in found:
        track = unicodedata.normalize("NFC", track)
        if track in files:
            raise WorkError(f"--files {path}: track {track} has more than one file; leave one of them")
        files[track] = path.parent / Path(name).expanduser()
    return files


def _rows(path, text, columns):
    """(track id, path) of each row of a csv."""
    key = "trackid" if "trackid" in columns else "id"
    try:
        rows = [(line, row) for line, row in quotes.numbered_rows(text, ",", True) if row]
    except csv.Error as e:
        raise WorkError(f"--files {path} is no text table ({e})") from None
    found = []
    for line, row in rows[1:]:
        if len(row) != len(columns):
            raise WorkError(f"--files {path}, line {line}: the row has {len(row)} cells and not {len(columns)}")
        found.append((row[columns.index(key)], row[columns.index("path")]))
    return found


def paths_of(files, ids, path):
    """The file of each track, list of Path or None, in the order of `ids`; WorkError where the list has none."""
    found = [files.get(unicodedata.normalize("NFC", i)) for i in ids]
    if not any(found):
        raise WorkError(f"none of the {len(ids)} tracks of the track list is in --files {path}, whose tracks look like "
                        f"{next(iter(files))}")
    return found
