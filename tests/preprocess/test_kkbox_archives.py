"""WSDM-KKBOX out of archives: whole, damaged, encrypted, of something else."""
import shutil
import sys
import zipfile

import pytest

from harness import download
from harness.errors import WorkError
from preprocess.kkbox import archives as kkbox_archives
from tests.worlds.kkbox import LOOSE, get, song, table, world, write


@pytest.fixture
def raw(tmp_path):
    return write(tmp_path / "raw", world())


@pytest.fixture
def made(raw, tmp_path):
    return get(raw, tmp_path / "w", *LOOSE)


@pytest.mark.parametrize("form", ["zip each", "zip of zips", "one zip"])
def test_zip_archives_give_the_same_workspace(raw, made, tmp_path, form):
    packed = tmp_path / "packed"
    packed.mkdir()
    for path in raw.glob("*.csv"):
        name = "all.zip" if form == "one zip" else f"{path.name}.zip"
        with zipfile.ZipFile(packed / name, "a", zipfile.ZIP_DEFLATED) as z:
            z.write(path, f"data/{path.name}")
    if form == "zip of zips":
        with zipfile.ZipFile(tmp_path / "whole.zip", "w") as z:
            for path in packed.iterdir():
                z.write(path, path.name)
        packed = tmp_path / "whole.zip"
    work = get(packed, tmp_path / "w2", *LOOSE)
    for name in ("plays.pqt", "items.pqt", "points.pqt"):
        assert (work / name).read_bytes() == (made / name).read_bytes()
    assert not list(work.glob(".*new")), "what was unpacked is removed"


def test_7z_archives_give_the_same_workspace(raw, made, tmp_path):
    py7zr = pytest.importorskip("py7zr", reason="needs py7zr to write a .7z")
    packed = tmp_path / "packed"
    packed.mkdir()
    for path in raw.glob("*.csv"):
        with py7zr.SevenZipFile(packed / f"{path.name}.7z", "w") as z:
            z.write(path, path.name)
    work = get(packed, tmp_path / "w2", *LOOSE)
    assert (work / "plays.pqt").read_bytes() == (made / "plays.pqt").read_bytes()


def test_7z_without_anything_to_open_it(raw, tmp_path, monkeypatch):
    (raw / "songs.csv").rename(raw / "songs.csv.7z")
    monkeypatch.setattr(kkbox_archives, "_py7zr", lambda: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    for place in (raw, (raw / "songs.csv.7z").rename(raw / "all.7z")):
        with pytest.raises(WorkError, match="pip install py7zr.*or unpack it yourself"):
            get(place, tmp_path / "w", *LOOSE)


@pytest.mark.parametrize("program", ["7z", "bsdtar"])
def test_7z_by_a_program(raw, made, tmp_path, monkeypatch, program):
    """A stand-in that prints and unpacks as the program does: one archive of all files, in a folder of its own."""
    stand_in = tmp_path / "bin" / program
    stand_in.parent.mkdir()
    names = [f"data/{p.name}" for p in raw.glob("*.csv")]
    listing = "\n".join(f"-rw-r--r--  0 me us  9 Jan  1 2020 {n}" for n in names) if program == "bsdtar" else "\n".join(
        ["Path = all.7z", "Type = 7z", "", "----------", *(f"Path = {n}\nSize = 9\n" for n in names)])
    stand_in.write_text(f"""#!{sys.executable}
import pathlib, shutil, sys
words = sys.argv[1:]
assert not sys.stdin.read(), "it would wait for a password"
if words[0] in ("l", "-tvf"):
    print({listing!r})
else:
    out = pathlib.Path(words[3] if words[0] == "-xf" else words[2][2:])
    for name in (w for w in words if w.startswith("data/")):
        (out / name).parent.mkdir(exist_ok=True)
        shutil.copy(pathlib.Path({str(raw)!r}) / pathlib.Path(name).name, out / name)
""")
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", str(stand_in.parent))
    monkeypatch.setattr(kkbox_archives, "_py7zr", lambda: None)
    (tmp_path / "all.7z").touch()
    work = get(tmp_path / "all.7z", tmp_path / "w2", *LOOSE)
    assert (work / "plays.pqt").read_bytes() == (made / "plays.pqt").read_bytes()
    monkeypatch.setattr(download, "MAX_UNPACKED", 44)
    with pytest.raises(WorkError, match="all.7z is refused, .*: it would take 45 bytes, more than the 44"):
        get(tmp_path / "all.7z", tmp_path / "w4", *LOOSE)
    stand_in.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('wrong password?')\n")
    with pytest.raises(WorkError, match=f"{program} could not open .*all.7z .wrong password"):
        get(tmp_path / "all.7z", tmp_path / "w3", *LOOSE)


def test_a_damaged_archive_is_named(raw, tmp_path):
    (raw / "songs.csv").rename(raw / "songs.csv.zip")
    with pytest.raises(WorkError, match="songs.csv.zip is damaged or no zip"):
        get(raw, tmp_path / "w", *LOOSE)


def test_damaged_and_encrypted_7z_archives_are_named(raw, tmp_path):
    py7zr = pytest.importorskip("py7zr", reason="needs py7zr to write a .7z")
    songs, archive = raw / "songs.csv", raw / "songs.csv.7z"
    write(raw, {"songs": [song(f"{i * 7919 % 10_007}x{i}") for i in range(3000)]})
    with py7zr.SevenZipFile(archive, "w") as z:
        z.write(songs, songs.name)
    whole = archive.read_bytes()
    for encrypted in (False, True):
        with py7zr.SevenZipFile(archive, "w", password="x", header_encryption=encrypted) as z:
            z.write(songs, songs.name)
        songs.rename(tmp_path / "songs.csv")
        with pytest.raises(WorkError, match="songs.csv.7z is encrypted; unpack it yourself"):
            get(raw, tmp_path / "w", *LOOSE)
        (tmp_path / "songs.csv").rename(songs)
    songs.unlink()
    for at in (10, 40, len(whole) // 2, len(whole) - 5):
        archive.write_bytes(whole[:at] + bytes([whole[at] ^ 0xff]) + whole[at + 1:])
        with pytest.raises(WorkError, match="songs.csv.7z is damaged or not a 7z archive"):
            get(raw, tmp_path / "w", *LOOSE)


def test_an_archive_of_something_else_is_not_blamed(raw, tmp_path):
    with zipfile.ZipFile(raw / "sample_submission.csv.zip", "w") as z:
        z.writestr("sample_submission.csv", "id,target\n0,0\n")
    (raw / "songs.csv").unlink()
    with pytest.raises(WorkError, match="raw lacks songs.csv "):
        get(raw, tmp_path / "w", *LOOSE)


def test_plays_do_not_depend_on_how_test_csv_is_packed(raw, tmp_path, monkeypatch):
    """--test last makes no points of it, but its plays are plays; ~ is the home folder."""
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as z:
        for path in raw.glob("*.csv"):
            z.write(path, path.name)
    monkeypatch.setenv("HOME", str(tmp_path))
    for number, place in enumerate((raw, tmp_path / "all.zip", "~/raw", "~/all.zip")):
        assert len(table(get(place, tmp_path / f"w{number}", *LOOSE, "--test", "last"), "plays")) == 15


@pytest.mark.parametrize("form", ["7z", "zip", "zip in zip", "7z in zip"])
def test_every_archive_has_the_same_limit_of_size(raw, tmp_path, monkeypatch, form):
    py7zr = pytest.importorskip("py7zr", reason="needs py7zr to write a .7z")
    songs = raw / "songs.csv"
    songs.write_bytes(songs.read_bytes() + b"\n" * 3_000_000)
    inner = raw / f"songs.csv.{form[:3].strip()}"
    if inner.suffix == ".7z":
        with py7zr.SevenZipFile(inner, "w") as z:
            z.write(songs, songs.name)
    else:
        with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as z:
            z.write(songs, songs.name)
    songs.unlink()
    if " in " in form:
        with zipfile.ZipFile(raw / "all.zip", "w") as z:
            z.write(inner, inner.name)
        inner.unlink()
    monkeypatch.setattr(download, "MAX_UNPACKED", 1_000_000)
    with pytest.raises(WorkError, match=r"songs.csv.(7z|zip) is refused, .*: it would take 3\d{6} bytes, "
                                        "more than the 1000000 allowed"):
        get(raw, tmp_path / "w", *LOOSE)


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 9])
def test_a_zip_within_a_zip_of_the_same_name(raw, made, tmp_path, depth):
    path = raw / "songs.csv"
    content, name = path.read_bytes(), path.name
    path.unlink()
    for _ in range(depth):
        with zipfile.ZipFile(raw / "songs.csv.zip", "w", zipfile.ZIP_DEFLATED) as z:
            z.writestr(name, content)
        content, name = (raw / "songs.csv.zip").read_bytes(), "songs.csv.zip"
    if depth <= kkbox_archives.DEEPEST:
        work = get(raw, tmp_path / "w2", *LOOSE)
        assert (work / "items.pqt").read_bytes() == (made / "items.pqt").read_bytes()
        return
    with pytest.raises(WorkError, match="songs.csv.zip is within 3 other archives; unpack it yourself and name the "
                                        "folder with --raw"):
        get(raw, tmp_path / "w2", *LOOSE)


@pytest.mark.parametrize("name", ["../songs.csv", "/tmp/songs.csv"])
def test_a_7z_member_that_leads_elsewhere(raw, tmp_path, monkeypatch, name):
    py7zr = pytest.importorskip("py7zr", reason="needs py7zr to write a .7z")
    with py7zr.SevenZipFile(raw / "songs.csv.7z", "w") as z:
        z.write(raw / "songs.csv", "songs.csv")
    (raw / "songs.csv").unlink()
    monkeypatch.setattr(kkbox_archives, "_members_7z", lambda archive: [(name, 5)])
    with pytest.raises(WorkError, match="its member .*songs.csv' points outside its folder"):
        get(raw, tmp_path / "w", *LOOSE)
