"""Fetch an archive over https and open it with suspicion: the one downloader of the data sets.

    path = download.fetch(URL, folder / "data.zip", "md5:0123...", mend="name your copy with --raw")
    files = download.unpack(path, folder / "data", ["a.dat", "b.dat"])

A file that exists under its own name is complete and has the checksum asked for. What has arrived of an
unfinished one waits beside it as `.NAME.part`, and the next call continues there, after a kill -9 too.

Not pooch 1.9: it begins a broken download at zero (it sends no Range), follows a redirect from https to http, leaves
a killed download's file under a random name, and does not keep two processes from one file.
"""
import contextlib
import errno
import hashlib
import http.client
import lzma
import math
import os
import shutil
import ssl
import stat
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath

from harness import locks
from harness.errors import UsageError, WorkError
from harness.files import atomic
from harness.progress import Progress

BLOCK = 1 << 20            # bytes read at a time, and the unit of the progress bar
LOOPBACK = ("127.0.0.1", "::1", "localhost")
MAX_UNPACKED = 64 << 30    # bytes an archive may claim to hold


# --------------------------------------------------------------------------- fetching

class _Broken(Exception):
    """The connection ended early; what arrived is kept."""


class _SameRules(urllib.request.HTTPRedirectHandler):
    """A redirect is followed only to an address that could have been asked for."""

    def __init__(self, loopback):
        self.loopback = loopback

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        _check_address(newurl, self.loopback)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch(url: str, target: str | Path, checksum: str, mend: str = "", loopback: bool = False,
          context: ssl.SSLContext | None = None, attempts: int = 5, timeout: float = 60, pause: float = 1.0) -> Path:
    """Download `url` to `target` and return its Path; a complete target is only verified.

    checksum: "md5:HEX" or "sha256:HEX" of the whole file
    mend:     what the user can do without a network, the end of the sentence of a failure
    loopback: allow plain http to this very machine (tests)
    context:  ssl.SSLContext, default the system's certificate authorities
    attempts: how often a connection that broke on the way is taken up again; timeout, pause: seconds
    Raises WorkError in one sentence: no network, a refusal, a broken connection (what arrived is kept),
    another process at it, a full disk, a wrong checksum (nothing is kept).
    """
    target = Path(target)
    _check_address(url, loopback)
    if target.exists():
        _verify(target, checksum, f"{target} is not the file expected: its {{kind}} is {{found}}, not {{expected}}; "
                                  "move it away and it is downloaded again")
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    opener = _opener(loopback, context)
    with _locked(part):
        resumed = part.stat().st_size > 0
        _transfer(opener, url, part, mend, attempts, timeout, pause)
        if resumed and _digest(part, checksum) != checksum.partition(":")[2].lower():
            part.write_bytes(b"")  # the file may have changed on the server since the first half was fetched
            _transfer(opener, url, part, mend, attempts, timeout, pause)
        try:
            _verify(part, checksum, f"{url} delivered another file: its {{kind}} is {{found}}, not {{expected}}; "
                                    f"nothing was kept{_or(mend)}")
        except WorkError:
            part.unlink()
            raise
        part.replace(target)
    return target


def _check_address(url, loopback):
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "https" or (loopback and parts.scheme == "http" and parts.hostname in LOOPBACK):
        return
    raise WorkError(f"{url} is refused: downloads use https only")


def _opener(loopback, context):
    handlers = [_SameRules(loopback), urllib.request.HTTPSHandler(context=context)]
    if loopback:
        handlers.append(urllib.request.ProxyHandler({}))
    opener = urllib.request.build_opener(*handlers)
    opener.addheaders = [("User-Agent", "music-recsys-datasets/1.0")]
    return opener


@contextlib.contextmanager
def _locked(part):
    """Hold the partial file, so that two processes never write into it at once."""
    with open(part, "ab") as handle:
        try:
            locks.take(handle)
            os.stat(part)  # gone when the other process finished between our opening and our locking
        except (BlockingIOError, FileNotFoundError):
            raise WorkError(f"{part} is being filled by another process right now; wait for it") from None
        try:
            yield
        finally:
            if part.exists() and not part.stat().st_size:
                part.unlink()


def _transfer(opener, url, part, mend, attempts, timeout, pause):
    """Bring `part` to the whole length of `url`, taking up broken connections where they stopped."""
    for attempt in range(1, attempts + 1):
        before = part.stat().st_size
        try:
            return _receive(opener, url, part, timeout)
        except urllib.error.HTTPError as e:
            raise WorkError(f"{url} cannot be downloaded: the server answers {e.code} {e.reason}{_or(mend)}") from None
        except (_Broken, urllib.error.URLError, http.client.HTTPException, ssl.SSLError, TimeoutError,
                ConnectionError) as e:
            have = part.stat().st_size
            if not have:
                raise WorkError(f"{url} cannot be reached ({_reason(e)}); "
                                f"a network is needed once{_or(mend)}") from None
            if attempt == attempts or have == before:
                raise WorkError(f"the download of {url} broke off after {have} bytes ({_reason(e)}); "
                                f"the same command continues there{_or(mend)}") from None
        except OSError as e:
            if e.errno == errno.ENOSPC:
                raise WorkError(f"the disk is full after {part.stat().st_size} bytes of {url}; "
                                "free some space, the same command continues there") from None
            raise
        time.sleep(pause)


def _receive(opener, url, part, timeout):
    """One connection: ask for what is missing, append it."""
    start = part.stat().st_size
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = opener.open(request, timeout=timeout)
    except urllib.error.HTTPError as e:
        if e.code != 416 or not start:   # 416: nothing is left to send, or the old part is longer than the file
            raise
        if e.headers.get("Content-Range", "").rpartition("/")[2] != str(start):
            part.write_bytes(b"")
            return _receive(opener, url, part, timeout)
        return None
    with response:
        continued = response.status == 206
        if continued and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise _Broken("the server sent another range than the one asked for")
        if not continued:
            start = 0  # a server without ranges sends the whole file
        length = response.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        have = _append(response, part, start, total, Path(urllib.parse.urlsplit(url).path).name)
        if total is not None and have != total:
            raise _Broken(f"{have} of {total} bytes")


def _append(response, part, start, total, name):
    """Write the body behind the first `start` bytes of `part`; returns the length reached."""
    have = start
    blocks = None if total is None else math.ceil(total / BLOCK)
    with (open(part, "r+b") as f,
          Progress(blocks, f"downloading {name}", unit="MiB", initial=start // BLOCK) as progress):
        f.truncate(start)
        f.seek(start)
        while block := response.read(BLOCK):
            f.write(block)
            have += len(block)
            progress.update(math.ceil(have / BLOCK) - progress.n)
    return have


def _digest(path, checksum):
    kind = checksum.partition(":")[0]
    if kind not in ("md5", "sha256"):
        raise ValueError(f"checksum must be md5:HEX or sha256:HEX, not {checksum!r}")
    with open(path, "rb") as f:
        return hashlib.file_digest(f, kind).hexdigest()


def _verify(path, checksum, sentence):
    found, (kind, _, expected) = _digest(path, checksum), checksum.partition(":")
    if found != expected.lower():
        raise WorkError(sentence.format(kind=kind, found=found, expected=expected))


def _reason(e):
    reason = getattr(e, "reason", e)
    return getattr(reason, "strerror", None) or str(reason) or type(reason).__name__


def _or(mend):
    return f", or {mend}" if mend else ""


# --------------------------------------------------------------------------- opening archives

@contextlib.contextmanager
def open_zip(path: str | Path, max_bytes: int | None = None) -> Iterator[zipfile.ZipFile]:
    """A zipfile.ZipFile whose every member was checked; reading a damaged one is a WorkError too.

    Refused before anything is read: a path that is absolute, has '..', a backslash or a drive letter;
    a link or another special file; encryption; two members of one name; more than `max_bytes`
    (None: MAX_UNPACKED) in all.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"{path} is no file; a zip archive is expected there")
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(path, archive, max_bytes)
            yield archive
    except NotImplementedError as e:
        raise WorkError(f"{path} is packed in a way that cannot be opened here ({e}); unpack it with another program, "
                        "or pack it anew") from None
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, UnicodeDecodeError, OSError) as e:
        if getattr(e, "errno", None) is not None:   # bzip2 calls damaged bytes an OSError, too, but without a number
            raise
        raise WorkError(f"{path} is damaged or no zip archive ({e}); fetch it again") from None


def _check_members(path, archive, max_bytes):
    members = archive.infolist()
    names = [m.filename for m in members]
    for member in members:
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            what = "is a link or a special file"
        elif member.flag_bits & 1:
            what = "is encrypted"
        else:
            continue
        raise WorkError(f"{path} is refused, nothing was unpacked: its member {member.orig_filename!r} {what}")
    if len(set(names)) != len(names):
        raise WorkError(f"{path} is refused, nothing was unpacked: it has two members of one name")
    check_members(path, [(m.orig_filename, m.file_size) for m in members], max_bytes)


def check_members(path: str | Path, members: Sequence[tuple[str, int]], max_bytes: int | None = None) -> None:
    """Refuse an archive of any format for the members that it lists, [(name, bytes unpacked)], before it is unpacked.

    WorkError for a name that leads outside the folder and for more than `max_bytes` (None: MAX_UNPACKED) in all.
    """
    for name, _ in members:
        if _escapes(name):
            raise WorkError(f"{path} is refused, nothing was unpacked: its member {name!r} points outside its folder")
    max_bytes = MAX_UNPACKED if max_bytes is None else max_bytes
    if (size := sum(size for _, size in members)) > max_bytes:
        raise WorkError(f"{path} is refused, nothing was unpacked: it would take {size} bytes, "
                        f"more than the {max_bytes} allowed")


def _escapes(name):
    """Whether a member's name could be written anywhere but below the folder, on any system."""
    parts = PurePosixPath(name).parts
    return not parts or name.startswith("/") or ".." in parts or bool({"\\", "\0"} & set(name)) or ":" in parts[0]


def find_members(archive: zipfile.ZipFile, names: Collection[str]) -> dict[str, zipfile.ZipInfo]:
    """{name: member} of the files called so in whatever folder of the archive; absent ones are left out.

    A name that two folders have is a WorkError. Resource forks (`__MACOSX/`) do not count.
    """
    found: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        inside = PurePosixPath(member.filename)
        if member.is_dir() or inside.name not in names or inside.parts[0] == "__MACOSX":
            continue
        if inside.name in found:
            raise WorkError(f"{archive.filename} has {inside.name} twice: {found[inside.name].filename} "
                            f"and {member.filename}")
        found[inside.name] = member
    return found


def unpack(path: str | Path, folder: str | Path, names: Sequence[str]) -> list[Path]:
    """Unpack the files called `names` from a zip archive into `folder`, flat; returns their Paths in order.

    Each file appears whole or not at all; a missing one is a WorkError before anything is unpacked.
    """
    with open_zip(path) as archive:
        found = find_members(archive, names)
        if missing := [n for n in names if n not in found]:
            raise WorkError(f"{path} lacks {', '.join(missing)}; nothing was unpacked")
        for name in names:
            with atomic(Path(folder) / name) as temporary, archive.open(found[name]) as source, \
                    open(temporary, "wb") as out:
                shutil.copyfileobj(source, out, BLOCK)
    return [Path(folder) / n for n in names]
