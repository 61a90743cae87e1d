"""Real music that Debian ships: the ogg files of two games. They are installed by who wants them and never copied.

    apt-get install planetblupi-music-ogg hyperrogue-music
"""
import re
import subprocess
from pathlib import Path

PACKAGES = ("planetblupi-music-ogg", "hyperrogue-music")


def pieces():
    """{stem: Path} of the pieces of the packages that are installed, in the order of the packages and stems."""
    found = {}
    for package in PACKAGES:
        try:
            done = subprocess.run(["dpkg-query", "-L", package], capture_output=True, text=True)
        except OSError:  # not a Debian
            return {}
        paths = sorted(Path(line) for line in done.stdout.splitlines() if re.search(r"/music/.*\.ogg$", line))
        found |= {p.stem: p for p in paths if p.is_file() and not p.is_symlink()}
    return found
