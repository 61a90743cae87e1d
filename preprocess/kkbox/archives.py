"""Find and unpack the five files of the KKBOX challenge: .csv, .csv.7z, .csv.zip, or all in one archive.

    files = archives.unpack(archives.find("kkbox", names), folder)

A .7z is opened by py7zr or, without it, by one of the programs UNPACKERS. Archives within archives are opened
DEEPEST levels deep. All formats have one limit of size (harness/download.py).
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
DEEPEST = 3          # an archive may contain itself


def find(raw, names, optional=()):
    """{name: Path of NAME.csv or of the archive that contains it}, for a folder or one archive `raw`.

    optional: names that may be missing, and then are left out. UsageError if there is no such folder or file;
    WorkError that names every other missing file.
    """
    raw = Path(raw).expanduser()
    if raw.is_file() and raw.suffix in ARCHIVES:
        members = _chosen(_members(raw), names)
        return {name: raw for name in names if name in members or name not in optional}
    if not raw.is_dir():
        raise UsageError(f"--raw {raw} is neither a folder nor a .zip or .7z; name the one with {_csv_names(names)}")
    paths = {}
    for name in names:
        candidates = (raw / f"{name}{suffix}" for suffix in (".csv", ".csv.7z", ".csv.zip", ".7z", ".zip"))
        if existing := [path for path in candidates if path.is_file()]:
            paths[name] = existing[0]
    if len(paths) < len(names):   # look into the other archives of the folder, which may contain several files
        for archive in [p for p in sorted(raw.iterdir()) if p.suffix in ARCHIVES and p not in paths.values()]:
            paths |= dict.fromkeys(_chosen(_members(archive), [n for n in names if n not in paths]), archive)
    if missing := [n for n in names if n not in paths and n not in optional]:
        raise WorkError(f"--raw {raw} lacks {_csv_names(missing)} (also as .csv.7z or .csv.zip){_without(missing)}")
    return paths


def _without(missing):
    return "; use --test last for test points without test.csv" if missing == ["test"] else ""


def _chosen(members, names):
    """{name: the member that is NAME.csv or an archive of it}, without the names that have no such member."""
    chosen = {}
    for name in names:
        matching = [m for suffix in (".csv", ".csv.7z", ".csv.zip") for m in members
                    if Path(m).name == name + suffix and "__MACOSX" not in m]
        if matching:
            chosen[name] = matching[0]
    return chosen


def _csv_names(names):
    return ", ".join(f"{name}.csv" for name in names)


def checksums(sources):
    """{file name: sha256} of the raw files or archives; sources: the result of `find`."""
    return {path.name: checksum(path) for path in sorted(set(sources.values()))}


def unpack(sources, folder):
    """{name: Path of a plain NAME.csv}; archives, also archives within archives, are unpacked into `folder`."""
    plain = {}
    for archive in sorted({p for p in sources.values() if p.suffix in ARCHIVES}):
        wanted = [name for name, path in sources.items() if path == archive]
        plain |= _open(archive, wanted, folder)
    return {name: plain.get(name, path) for name, path in sources.items()}


def _open(archive, names, folder, depth=1):
    """Take NAME.csv, or an archive of it, out of an archive; depth: of archives within one another."""
    if depth > DEEPEST:
        raise WorkError(f"{archive.name} is within {DEEPEST} other archives; unpack it yourself and name the folder "
                        "with --raw")
    members = _members(archive)
    chosen = _chosen(members, names)
    if missing := [n for n in names if n not in chosen]:
        raise WorkError(f"{archive} lacks {_csv_names(missing)}; it contains {', '.join(members[:8]) or 'nothing'}"
                        f"{_without(missing)}")
    folder.mkdir(parents=True, exist_ok=True)
    print(f"unpacking {_csv_names(chosen)} from {archive.name}")
    _extract(archive, chosen, folder)
    plain = {}
    for name, member in chosen.items():
        path = folder / Path(member).name
        plain[name] = path
        if path.suffix in ARCHIVES:
            plain |= _open(path, [name], folder / "within", depth + 1)   # it may hold one of its own name
            path.unlink()
    return plain


def _members(archive):
    """Names of the files in an archive; WorkError for one that is refused."""
    if archive.suffix == ".zip":
        with download.open_zip(archive) as opened:
            return [m.filename for m in opened.infolist() if not m.is_dir()]
    members = _members_7z(archive)
    download.check_members(archive, members)
    return [name for name, _ in members]


def _members_7z(archive):
    """[(name, bytes unpacked)] of the files in a .7z."""
    if py7zr := _py7zr():
        with _open_7z(py7zr, archive) as opened:
            if link := next((m.filename for m in opened.list() if m.is_symlink), None):
                raise WorkError(f"{archive} is refused, nothing was unpacked: its member {link!r} is a link")
            return [(m.filename, m.uncompressed) for m in opened.list() if not m.is_directory]
    program = _program(archive)
    if program == "bsdtar":   # as ls -l: mode, links, owner, group, bytes, three words of time, name
        rows = [line.split(None, 8) for line in _run(archive, [program, "-tvf", archive]).splitlines()]
        return [(row[8], int(row[4])) for row in rows if len(row) == 9 and row[0].startswith("-")]
    listing = _run(archive, [program, "l", "-slt", archive]).partition("\n----------\n")[2]   # before: the archive
    return [(name, int(size)) for name, size in re.findall(r"^Path = (.*)\n(?:(?!Path = ).*\n)*?Size = (\d+)$", listing,
                                                           re.MULTILINE)]


def _extract(archive, chosen, folder):
    """Write members {name: member} into `folder` by their base names, without their folders."""
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
        raise WorkError(f"unpacking {archive} did not write {', '.join(lost)}; download it again")
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
    """A py7zr.SevenZipFile; its errors for a damaged or encrypted file become WorkErrors."""
    try:
        with py7zr.SevenZipFile(archive) as opened:
            yield opened
    except WorkError:
        raise
    except py7zr.exceptions.PasswordRequired:
        raise WorkError(f"{archive} is encrypted; unpack it yourself and name the folder with --raw") from None
    except py7zr.exceptions.UnsupportedCompressionMethodError as e:
        raise WorkError(f"{archive} uses an unsupported compression method ({e.message}); unpack it yourself "
                        "and name the folder with --raw") from None
    except Exception as e:   # its parser and five decompressors raise many types of errors for invalid bytes
        if isinstance(e, MemoryError) or getattr(e, "errno", None) not in (None, errno.EINVAL):
            raise   # an error of the machine, not of the file; EINVAL is a seek before the start of the file
        raise WorkError(f"{archive} is damaged or not a 7z archive ({str(e) or type(e).__name__}); "
                        "download it again") from None


def _program(archive):
    """Name of a program on this machine that opens a .7z."""
    program = next((p for p in UNPACKERS if shutil.which(p)), None)
    if program is None:
        raise WorkError(f"{archive} cannot be unpacked, as neither py7zr nor one of the programs "
                        f"{', '.join(UNPACKERS)} is installed: pip install py7zr, or unpack it yourself and name the "
                        "folder with --raw")
    return program


def _run(archive, command, members=()):
    """Output of an unpacking program, run without stdin so that it cannot ask for a password; WorkError if it fails."""
    done = subprocess.run([str(word) for word in [*command, *members]], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, errors="replace")
    if done.returncode:
        message = " ".join((done.stderr or done.stdout).split())[-160:]
        raise WorkError(f"{command[0]} could not open {archive} ({message}); it is damaged, encrypted or not a 7z "
                        "archive: download it again, or unpack it yourself and name the folder with --raw")
    return done.stdout
