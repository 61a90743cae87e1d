"""A full disk, folders that cannot be written, odd locales and odd paths."""
import contextlib
import os
import shutil
import subprocess

from tests.attack.world import CHAIN, argv_of, call, complaint

LOCALES = ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "ascii"},
           {"LC_ALL": "POSIX", "LANG": "tr_TR"}, {"PYTHONIOENCODING": "latin-1", "COLUMNS": "20"}, {"TERM": "dumb"})
PATHS = ("with space", "with'quote", 'with"quote', "with$(touch x)", "-dash", "ümläut", "日本", "🎵", "a" * 120, "100%")


def locales(reference, folder, steps):
    """Scripts under odd locales and output encodings."""
    for n, step in enumerate(steps):
        env = LOCALES[n % len(LOCALES)]
        workdir = reference.copy(step, folder / f"locale{n}")
        status, err, _ = call(argv_of(step, reference.raw, workdir), **env)
        wrong = complaint(status, err) or (f"status {status}: {err[-200:]}" if status else "")
        yield f"{step} under {env}", wrong or ", ".join(reference.differs(step, workdir))
        shutil.rmtree(workdir)


def paths(reference, folder, steps):
    """Scripts in workspaces with odd names."""
    for n, step in enumerate(steps):
        name = PATHS[n % len(PATHS)]
        workdir = reference.copy(step, folder / f"path{n}" / name)
        status, err, _ = call(argv_of(step, reference.raw, workdir))
        wrong = complaint(status, err) or (f"status {status}: {err[-200:]}" if status else "")
        yield f"{step} in {name[:20]!r}", wrong or ", ".join(reference.differs(step, workdir))
        shutil.rmtree(workdir)


def mounts(reference, folder, steps):
    """Scripts on a disk that is full, and on one that is read-only; needs root, yields nothing without it."""
    if os.geteuid() or shutil.which("mount") is None:
        return
    for n, step in enumerate(steps):
        disk = folder / f"disk{n}"
        disk.mkdir()
        size = sum(p.stat().st_size for p in reference.before[step].rglob("*") if p.is_file()) + (96 << 10)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk]
        if subprocess.run(mount, capture_output=True).returncode:
            return
        try:
            shutil.copytree(reference.before[step], disk / "w")
            with open(disk / "filler", "wb", buffering=0) as f, contextlib.suppress(OSError):
                while f.write(bytes(4096)):
                    pass
            before = state(disk / "w")
            yield ended(f"{step} on a full disk", step, reference, disk / "w", before)
            (disk / "filler").unlink()
            subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
            before = state(disk / "w")
            yield ended(f"{step} on a read-only disk", step, reference, disk / "w", before)
        finally:
            subprocess.run(["umount", "-l", disk], check=False)


def ended(what, step, reference, workdir, before):
    status, err, _ = call(argv_of(step, reference.raw, workdir))
    if wrong := complaint(status, err):
        return what, wrong
    if not status and reference.differs(step, workdir):
        return what, "ended well with other contents"
    lost = [name for name, bytes_ in before.items() if state(workdir).get(name) != bytes_]
    return what, f"changed: {lost[:3]}" if status and lost else ""


def state(workdir):
    """Bytes of every visible output; manifests of the run that is tried may change."""
    return {str(p.relative_to(workdir)): p.read_bytes() for p in workdir.rglob("*")
            if p.is_file() and not p.name.startswith(".") and "runs" not in p.parts}


def attack(reference, folder, trials, seed):
    steps = [s for s in CHAIN if s not in ("table",)]
    third = max(1, trials // 4)
    begin = seed % len(steps)
    order = steps[begin:] + steps[:begin]
    yield from locales(reference, folder, (order * trials)[:third])
    yield from paths(reference, folder, (order[::-1] * trials)[:third])
    yield from mounts(reference, folder, (order[::2] * trials)[:third])
