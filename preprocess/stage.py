"""What the two doors of stage 2 share: several files that appear together, --memory, plays checked.

A stage writes all its files under a hidden folder, then renames them one by one under a manifest that
says "writing"; the last step writes the manifest with status "finished". A killed stage therefore leaves
either the old files, or a manifest that readers refuse; running the stage again mends it.

    with stage.together(workdir / "data" / "split.json") as new:
        if new.same(request):
            return new.old
        ... write new.path("train.pqt") ...
        new.publish({"request": request, ...}, remove=["cold_test.pqt"])
"""
import contextlib
import errno
import fcntl
import os
import re
import shutil
from pathlib import Path

from harness.errors import UsageError, WorkError
from harness.files import checksum, write_json
from harness.readers import read_json

FIELDS = {"request": dict, "bytes": dict, "status": str, "name": str}   # of a manifest, those that are looked into
UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


def memory_bytes(text):
    """Bytes of '2GB', '512M', '1.5GiB' (powers of 1024); at least 512 MB, as the libraries take half of it."""
    found = re.fullmatch(r"\s*([\d.]+)\s*([KMGT]?)(i?B)?\s*", str(text), re.IGNORECASE)
    try:
        number = float(found[1])
    except (TypeError, ValueError):
        raise UsageError(f"--memory {text} is no amount; write it like 2GB or 512MB") from None
    size = int(number * (1 << UNITS[found[2].upper()]))
    if size < 512 << 20:
        raise UsageError(f"--memory {text} is too little; 512MB is the least")
    if size > 1 << 50:
        raise UsageError(f"--memory {text} is more than any machine has; write it like 2GB")
    return size


def add_memory_flag(parser):
    parser.add_argument("--memory", default="2GB", metavar="SIZE",
                        help="resident memory to stay within, whatever the size of the data, unless it says otherwise "
                             "above (default 2GB)")


class Together:
    """Files of one stage that appear together with their manifest; made by `together`."""

    def __init__(self, manifest):
        self.manifest = manifest
        self.folder = manifest.parent
        self.hidden = self.folder / f".{manifest.stem}.new"
        self.old = read_json(manifest, FIELDS) if manifest.exists() else None

    def path(self, name):
        """Where to write the file that will be called `name`."""
        return self.hidden / name

    def same(self, request, overwrite=False):
        """Whether this request was answered before and its files still stand; says what changed otherwise."""
        old = self.old
        if not old or "request" not in old or overwrite:
            return False
        if old.get("status") != "finished":
            print(f"{self.manifest.name}: the last run was interrupted; made again")
            return False
        gone = [name for name, size in old.get("bytes", {}).items()
                if not (self.folder / name).exists() or (self.folder / name).stat().st_size != size]
        changed = sorted(k for k in {*old["request"], *request} if old["request"].get(k) != request.get(k))
        if not gone and not changed:
            print(f"{self.manifest}: finished before, skipped (--overwrite does it again)")
            return True
        why = [f"{', '.join(changed)} changed"] * bool(changed) + [f"{', '.join(gone)} is gone or altered"] * bool(gone)
        print(f"{self.manifest.name}: made again, because {' and '.join(why)}")
        return False

    def publish(self, manifest, remove=()):
        """Rename every file written so far into place, remove those named, then write the manifest."""
        made = sorted(p for p in self.hidden.iterdir() if p.is_file())
        for path in made:
            with open(path, "rb") as f:
                os.fsync(f.fileno())
        manifest = {"status": "finished", **manifest, "bytes": {p.name: p.stat().st_size for p in made}}
        write_json(self.manifest, {**manifest, "status": "writing"})
        for path in made:
            os.replace(path, self.folder / path.name)
        for name in remove:
            (self.folder / name).unlink(missing_ok=True)
        write_json(self.manifest, manifest)
        return manifest


@contextlib.contextmanager
def together(manifest, name=None):
    """Lock the folder of a manifest for one writer and yield a Together; leftovers of killed runs are removed.

    Anything raised inside leaves the old files as they were. A second writer is a WorkError, a workspace that
    holds another data set than `name` a UsageError.
    """
    manifest = Path(manifest)
    manifest.parent.mkdir(parents=True, exist_ok=True)
    with open(manifest.parent / f".{manifest.stem}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise WorkError(f"{manifest} is being made by another process right now; wait for it") from None
        new = Together(manifest)
        if name and (new.old or {}).get("name", name) != name:
            raise UsageError(f"{manifest.parent} holds the data set {new.old['name']!r}; choose another --workdir "
                             f"for {name!r}")
        shutil.rmtree(new.hidden, ignore_errors=True)
        try:
            new.hidden.mkdir()
            yield new
        except Exception as e:
            if "No space left" in str(e) or getattr(e, "errno", None) == errno.ENOSPC:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(new.folder)) from None
            raise
        finally:
            shutil.rmtree(new.hidden, ignore_errors=True)


def stale_split(workdir, new_list, overwrite):
    """Parts of a split made for another track list than the one about to appear; a usage error unless overwriting."""
    old, parts = workdir / "trackid_sorted.csv", sorted(p for p in (workdir / "data").glob("*") if p.is_file())
    if not parts or not old.exists() or checksum(old) == checksum(new_list):
        return []
    if not overwrite:
        raise UsageError(f"{old} lists other tracks; use a fresh --workdir, or --overwrite, which also removes the "
                         "split made for the old list")
    return parts
