"""Make the page: collect what it shows, make the excerpts, write the page, drop excerpts of the page before."""
from pathlib import Path

import dataset
from evaluation.leaderboard import LABELS
from evaluation.results import collect
from evaluation.segments import ACTIVITY, POPULARITY
from exploration import html
from harness import registry
from harness.errors import WorkError
from harness.files import checksum, write_json, write_text
from harness.progress import Progress
from harness.readers import read_json
from lookup import listeners
from lookup.catalogue import opened
from reporting import board, curves, excerpts, listening, maps, page, provenance, verdicts
from reporting.tracks import Tracks, colours, short

FIRST_COLOURS = ("style", "styles", "genre", "genres", "tags", "artist", "artists", "hot or cold")
FEWEST = 100      # points of a map that the size of the page may not take away


def make(workdir, args, parts):
    """Write report/index.html; returns (its bytes, sentences about what it leaves out).

    args: audio, runs, users, points, sounds and seed of report.py; parts: held-out parts to show, as far as there.
    WorkError, with the old page in place, where a file of the workspace is damaged.
    """
    folder, catalogue = workdir / "report", opened(workdir)
    cells, left = collect(workdir)
    split = catalogue.split if catalogue.is_split else None
    parts = [part for part in parts if split is not None and part in split.parts]
    boards, notes = board.boards(workdir, cells, parts)
    if left:
        notes.append(f"runs left out, as they are unfinished or of another split: {len(left)}; python table.py "
                     "--remove-stale lists them")
    sound, files = _sound(folder, args.audio, catalogue.ids, notes)
    shown = figures(workdir, split, boards)
    chosen = listening.chosen_runs(catalogue, boards, args.runs)
    shown["runs"] = {name: _label(name, config) for name, config in chosen.items()}
    origin = {"data": provenance.of_data(workdir), "runs": provenance.of_runs(cells),
              "embeddings": provenance.of_embeddings(workdir, len(catalogue.ids))}
    if changed := _changed_since_exploration(workdir):
        notes.append("the description of the data was made before " + short(", ".join(changed)) + " changed; python "
                     "explore.py makes it again")
    made, points = excerpts.Excerpts(folder / "sound", files or {}, catalogue.ids), args.points
    while True:
        content, names, more = _content(catalogue, args, parts, chosen, points, made, files is None)
        text = page.render({**shown, **content}, name=short(dataset.about(workdir).get("name") or workdir.name),
                           notes=notes + more, sound=sound, workdir=str(workdir), exploration=_exploration(workdir),
                           origin=origin, **verdicts.of_data_set(
                               workdir, {name: config for cell in cells for name, config in cell.runs}))
        if len(text.encode()) <= page.LIMIT or points <= FEWEST:
            break
        points = max(FEWEST, points // 2)
    folder.mkdir(exist_ok=True)
    write_text(folder / "index.html", text)
    write_json(folder / "page.json", {"audio": str(Path(args.audio).expanduser().absolute()) if args.audio else
                                      _remembered(folder)})
    made.prune(names)
    return (folder / "index.html").stat().st_size, notes + more


def _label(name, config):
    """A run as a list's heading: method and representation."""
    embedding = LABELS.get(config.get("embedding"), config.get("embedding"))
    return " ".join(filter(None, [registry.title(config.get("recommender", name), config.get("request")), embedding]))


def _remembered(folder):
    path = folder / "page.json"
    return read_json(path).get("audio") if path.exists() else None


def _sound(folder, asked, ids, notes):
    """(the sentence of the page about sound, {row: Path} of the tracks' files, None to keep the old excerpts)."""
    audio = Path(asked or _remembered(folder) or "").expanduser()
    if not asked and not _remembered(folder):
        return "Without an audio folder this page is silent; report.py --audio DIR adds excerpts.", {}
    if not audio.is_dir():
        notes.append(f"the audio folder of the page before, {audio}, is gone: excerpts made before are kept, and "
                     "--audio DIR names its new place")
        return "The audio folder has moved; only excerpts made before can be played.", None
    from extract_item_embeddings.engine import audio as sounds
    if reason := excerpts.without_ffmpeg():
        notes.append(f"no new excerpts of the sound: {reason}")
        return "No new excerpts could be made, as ffmpeg is missing; those made before can be played.", None
    try:
        files = {row: path for row, path in enumerate(sounds.find(audio, ids)) if path is not None}
    except WorkError as error:
        if asked:
            raise
        notes.append(f"the audio folder of the page before cannot be used: {error}; excerpts made before are kept, and "
                     "--audio DIR names another")
        return "The audio folder cannot be used; only excerpts made before can be played.", None
    return f"Excerpts are the first {excerpts.SECONDS} seconds of a track.", files


# --------------------------------------------------------------------------- figures of all rows

def figures(workdir, split, boards):
    """What the leaderboards and the charts show: boards, curves, segments, learning."""
    rows = [(part, row) for part, made in boards.items() for row in made.rows]
    with Progress(len(rows), "report: lists", "rows", quiet=True) as progress:
        by_part = {part: curves.of_rows(workdir, split, part, made.rows, progress) for part, made in boards.items()}
    once = {}
    for _, row in rows:
        if row.cell and row.cell.runs:
            once.setdefault(row.cell.runs[0][0], row)
    return {"boards": {part: board.plain(made) for part, made in boards.items()}, "curves": by_part,
            "segments": {"activity": ACTIVITY, "popularity": POPULARITY},
            "learning": curves.learning(workdir, once.values())}


# --------------------------------------------------------------------------- tracks, maps, users

def _content(catalogue, args, parts, chosen, points, made, keep):
    """(tracks, maps, neighbours and users as plain values, file names of excerpts, sentences), points on a map at most.

    chosen: {run: config} whose lists users see; made: Excerpts; keep: whether only excerpts made before are used
    """
    tracks, users, notes = Tracks(catalogue), [], []
    for part in parts:
        codes = listening.chosen_users(catalogue.split, part, args.users, args.seed)
        users += listening.users_of(catalogue, part, chosen, codes, tracks)
    rows = maps.sample(catalogue, points, args.seed)
    on_map = [tracks.add(row) for row in rows]
    total = catalogue.split.n_items if catalogue.is_split else len(catalogue.ids)
    if len(rows) < total:
        notes.append(f"the maps show {len(rows):,} of {total:,} tracks, drawn at random")
    map_, near = _maps(catalogue, rows, tracks, args.seed)
    shown = tracks.rows.tolist()
    sounds = made.kept(shown) if keep else _excerpts(made, shown, args.sounds, notes)
    columns = tracks.plain({row: f"sound/{name}" for row, name in sounds.items()})
    first = listeners.order_of_history(catalogue) if catalogue.is_split else ""
    found = {"users": users, "near": near, "tracks": columns, "map": {**map_, "tracks": on_map},
             "history": f"history, {first} first", "asked": args.users}
    return found, set(sounds.values()), notes


def _maps(catalogue, rows, tracks, seed):
    """(embeddings and colours of the maps, {track number: {embedding: [[track number, cosine]]}} of tracks so far)."""
    names, near = maps.embeddings(catalogue), {}
    asked = tracks.rows
    found = {}
    with Progress(2 * len(names) + 1, "report: maps", "steps", quiet=True) as progress:
        for name in names:
            if (map_ := maps.projected(catalogue, name, rows, seed)) is not None:
                found[name] = map_
            progress.update(1)
        lists = {}
        for name in names:
            lists[name] = maps.neighbours(catalogue, name, asked)
            progress.update(1)
        if catalogue.is_split:
            lists[maps.LISTENERS] = maps.by_listeners(catalogue, asked)
        progress.update(1)
    for i in range(len(asked)):
        own = {name: [[tracks.add(row), cosine] for row, cosine in each[i]] for name, each in lists.items() if each[i]}
        near[i] = own
    shades = colours(catalogue, rows) if len(rows) else {}
    return {"embeddings": found, "colours": shades,
            "first": next((c for c in FIRST_COLOURS if c in shades), next(iter(shades), ""))}, near


def _excerpts(made, rows, most, notes):
    """{row: file name} of the tracks that can be played: the first `most` with a file, as the page names them."""
    known = [row for row in rows if row in made.files]
    with Progress(min(len(known), most), "report: excerpts", "tracks", quiet=True) as progress:
        found = made.make(known[:most], progress)
    if len(known) > most:
        notes.append(f"{len(found):,} of the {len(rows):,} tracks of this page can be played; --sounds N makes more")
    elif made.files and len(found) < len(rows):
        notes.append(f"{len(rows) - len(found):,} tracks of this page have no sound that can be played")
    return found


def _changed_since_exploration(workdir):
    """Files of the split and of the data set (not plays and embeddings) that are not those explore.py read, sorted."""
    path = workdir / "explore" / "manifest.json"
    if not path.is_file():
        return []
    recorded = read_json(path, {"request": dict}).get("request", {})
    names = ["dataset.json", "items.pqt", "users.pqt", "trackid_sorted.csv",
             *(f"data/{found.name}" for found in (workdir / "data").glob("*.pqt"))]
    now = {name: checksum(workdir / name) for name in names if (workdir / name).is_file()}
    before = {name: digest for name, digest in recorded.items() if name in names or name.startswith("data/")}
    return sorted(name for name in now.keys() | before.keys() if now.get(name) != before.get(name))


def _exploration(workdir):
    """The sections of explore.py as html, '' where it has not run; WorkError for a report that is no text."""
    from markupsafe import Markup
    path = workdir / "explore" / "report.md"
    if not path.is_file():
        return ""
    try:
        return Markup(html.body(path.read_text(encoding="utf-8"), path.parent))
    except UnicodeDecodeError:
        raise WorkError(f"{path} is not UTF-8 text; python explore.py --overwrite writes it again") from None
