"""Where the five files of the KKBOX challenge are, and their unpacking: .csv, .csv.7z, .csv.zip, or all in one archive.

    files = kkbox_archives.unpack(kkbox_archives.find("kkbox", names), folder)

A .7z is opened by py7zr or, without it, by one of the programs UNPACKERS.
"""
import contextlib
import errno
import re
import shutil
import subprocess
from pathlib import Path

from harness import download
from harness.errors import UsageError, WorkError
from harness.files import checksum

ARCHIVES = (".7z", ".zip")
UNPACKERS = ("7zz", "7z", "7za", "bsdtar")


def find(raw, names, optional=()):
    """{name: Path of NAME.csv or of the archive that holds it}, for a folder or one archive `raw`.

    optional: names that may be nowhere, and then are left out. UsageError where there is no such folder or file;
    WorkError that names every other file that is missing.
    """
    raw = Path(raw).expanduser()
    if raw.is_file() and raw.suffix in ARCHIVES:
        there = _chosen(_members(raw), names)
        return {name: raw for name in names if name in there or name not in optional}
    if not raw.is_dir():
        raise UsageError(f"--raw {raw} is neither a folder nor a .zip or .7z; name what holds {_csv_names(names)}")
    found = {}
    for name in names:
        places = (raw / f"{name}{suffix}" for suffix in (".csv", ".csv.7z", ".csv.zip", ".7z", ".zip"))
        if there := [path for path in places if path.is_file()]:
            found[name] = there[0]
    if len(found) < len(names):   # an archive of several of them, or one that has nothing to do with them
        for archive in [p for p in sorted(raw.iterdir()) if p.suffix in ARCHIVES and p not in found.values()]:
            found |= dict.fromkeys(_chosen(_members(archive), [n for n in names if n not in found]), archive)
    if missing := [n for n in names if n not in found and n not in optional]:
        raise WorkError(f"--raw {raw} lacks {_csv_names(missing)} (nor is it there as .csv.7z or .csv.zip)"
                        f"{_without(missing)}")
    return found


def _without(missing):
    return "; without test.csv, --test last takes the end of each playlist instead" if missing == ["test"] else ""


def _chosen(members, names):
    """{name: the member that is NAME.csv or an archive of it}; without the names that none is."""
    found = {}
    for name in names:
        there = [m for suffix in (".csv", ".csv.7z", ".csv.zip") for m in members
                 if Path(m).name == name + suffix and "__MACOSX" not in m]
        if there:
            found[name] = there[0]
    return found


def _csv_names(names):
    return ", ".join(f"{name}.csv" for name in names)


def checksums(found):
    """{file name: sha256} of the raw files or archives, as given."""
    return {path.name: checksum(path) for path in sorted(set(found.values()))}


def unpack(found, folder):
    """{name: Path of a plain NAME.csv}; what is in archives, also archives within archives, goes to `folder`."""
    plain = {}
    for archive in sorted({p for p in found.values() if p.suffix in ARCHIVES}):
        wanted = [name for name, path in found.items() if path == archive]
        plain |= _open(archive, wanted, folder)
    return {name: plain.get(name, path) for name, path in found.items()}


def _open(archive, names, folder):
    """Take NAME.csv, or an archive of it, out of an archive."""
    members = _members(archive)
    chosen = _chosen(members, names)
    if missing := [n for n in names if n not in chosen]:
        raise WorkError(f"{archive} lacks {_csv_names(missing)}; it holds {', '.join(members[:8]) or 'nothing'}"
                        f"{_without(missing)}")
    folder.mkdir(parents=True, exist_ok=True)
    print(f"unpacking {_csv_names(chosen)} from {archive.name}")
    _extract(archive, chosen, folder)
    plain = {}
    for name, member in chosen.items():
        path = folder / Path(member).name
        plain[name] = path
        if path.suffix in ARCHIVES:
            plain |= _open(path, [name], folder)
            path.unlink()
    return plain


def _members(archive):
    """Names of the files in an archive."""
    if archive.suffix == ".zip":
        with download.open_zip(archive) as opened:
            return [m.filename for m in opened.infolist() if not m.is_dir()]
    if py7zr := _py7zr():
        with _open_7z(py7zr, archive) as opened:
            return opened.getnames()
    program = _program(archive)
    if program == "bsdtar":
        return _run(archive, [program, "-tf", archive]).splitlines()
    told = _run(archive, [program, "l", "-slt", archive]).partition("\n----------\n")[2]   # before: the archive itself
    return re.findall("^Path = (.*)$", told, re.MULTILINE)


def _extract(archive, chosen, folder):
    """Write members {name: member} flat into `folder`, under their last names."""
    members = list(chosen.values())
    if archive.suffix == ".zip":
        download.unpack(archive, folder, [Path(m).name for m in members])
        return
    inside = folder / f".{archive.name}.out"
    if py7zr := _py7zr():
        with _open_7z(py7zr, archive) as opened:
            opened.extract(path=inside, targets=members)
    else:
        inside.mkdir()
        program = _program(archive)
        _run(archive, [program, "-xf", archive, "-C", inside] if program == "bsdtar"
             else [program, "x", "-y", f"-o{inside}", archive], members)
    if lost := [m for m in members if not (inside / m).is_file()]:
        raise WorkError(f"{archive} gave no {', '.join(lost)} when it was unpacked; fetch it again")
    for member in members:
        (inside / member).replace(folder / Path(member).name)
    shutil.rmtree(inside, ignore_errors=True)


def _py7zr():
    try:
        import py7zr
    except ImportError:
        return None
    return py7zr


@contextlib.contextmanager
def _open_7z(py7zr, archive):
    """A py7zr.SevenZipFile; what it raises of a damaged or encrypted file becomes one sentence."""
    try:
        with py7zr.SevenZipFile(archive) as opened:
            yield opened
    except py7zr.exceptions.PasswordRequired:
        raise WorkError(f"{archive} is encrypted; unpack it yourself and name the folder with --raw") from None
    except py7zr.exceptions.UnsupportedCompressionMethodError as e:
        raise WorkError(f"{archive} is packed in a way that cannot be opened here ({e.message}); unpack it yourself "
                        "and name the folder with --raw") from None
    except Exception as e:   # its parser and five decompressors raise whatever the wrong bytes lead them to
        if isinstance(e, MemoryError) or getattr(e, "errno", None) not in (None, errno.EINVAL):
            raise   # of this machine, not of the file; EINVAL: sent to a place before its beginning
        raise WorkError(f"{archive} is damaged or no 7z archive ({str(e) or type(e).__name__}); "
                        "fetch it again") from None


def _program(archive):
    """Name of a program on this machine that opens a .7z."""
    program = next((p for p in UNPACKERS if shutil.which(p)), None)
    if program is None:
        raise WorkError(f"{archive} needs something that opens .7z: pip install py7zr, or one of the programs "
                        f"{', '.join(UNPACKERS)}; or unpack it yourself and name the folder with --raw")
    return program


def _run(archive, command, members=()):
    """What an unpacking program prints; it may not ask for a password. Its failure is a WorkError."""
    done = subprocess.run([str(word) for word in [*command, *members]], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, errors="replace")
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[-160:]
        raise WorkError(f"{command[0]} could not open {archive} ({said}); it is damaged, encrypted or no 7z archive")
    return done.stdout
