"""harness/download.py against a real server on this machine: resume, refusals, one sentence each."""
import fcntl
import hashlib
import http.server
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from harness import download
from harness.errors import UsageError, WorkError

BODY = bytes(range(256)) * 12_000  # 3,072,000 bytes, so three blocks of a download
ROOT = Path(__file__).resolve().parents[2]
MD5 = "md5:" + hashlib.md5(BODY).hexdigest()
SHA = "sha256:" + hashlib.sha256(BODY).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """/file honours ranges, /plain does not, /cut/N breaks off after N bytes, /other changed its content."""

    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.asked.append((self.path, asked))
        if self.path.startswith("/to?"):
            self.send_response(302)
            self.send_header("Location", self.path[4:])
            self.end_headers()
            return
        if self.path.startswith("/status/"):
            return self.send_error(int(self.path.split("/")[2]))
        body = BODY[::-1] if self.path == "/other" else BODY
        start = int(asked[6:].rstrip("-")) if asked and self.path != "/plain" else 0
        if start >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        stop = start + int(self.path.split("/")[2]) if self.path.startswith("/cut/") else len(body)
        self.wfile.write(body[start:stop])
        self.close_connection = True

    def log_message(self, *words):
        pass


def serve(context=None):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked = []
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


@pytest.fixture
def server():
    server = serve()
    server.url = f"http://127.0.0.1:{server.server_port}"
    yield server
    server.shutdown()
    server.server_close()


def fetch(url, target, checksum=MD5, **how):
    return download.fetch(url, target, checksum, **{"loopback": True, "pause": 0, "timeout": 10, **how})


def left(folder):
    return sorted(p.name for p in folder.iterdir())


def test_whole_file_arrives_and_is_not_fetched_again(server, tmp_path):
    for checksum in (MD5, SHA):
        target = tmp_path / checksum[:3] / "data.zip"
        assert fetch(server.url + "/file", target, checksum) == target
        assert target.read_bytes() == BODY and left(target.parent) == ["data.zip"]
        assert fetch(server.url + "/file", target, checksum) == target
    assert server.asked == [("/file", None)] * 2


def test_resumes_where_a_killed_download_stopped(server, tmp_path):
    (tmp_path / ".data.zip.part").write_bytes(BODY[:1_234_567])
    fetch(server.url + "/file", tmp_path / "data.zip")
    assert (tmp_path / "data.zip").read_bytes() == BODY
    assert server.asked == [("/file", "bytes=1234567-")]


def test_kill_9_on_the_way_then_resume(server, tmp_path):
    """A real process killed in the middle; the next one asks only for the rest."""
    code = ("import sys; from harness import download\n"
            "real = download._append\n"
            "def stop(response, part, *rest):\n"
            "    class Slow:\n"
            "        n = 0\n"
            "        def read(self, size):\n"
            "            self.n += 1\n"
            "            if self.n == 3: print('half', flush=True); sys.stdin.read()\n"
            "            return response.read(size)\n"
            "    return real(Slow(), part, *rest)\n"
            "download._append = stop\n"
            "download.fetch(sys.argv[1], sys.argv[2], sys.argv[3], loopback=True)\n")
    child = subprocess.Popen([sys.executable, "-c", code, server.url + "/file", str(tmp_path / "data.zip"), MD5],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    assert child.stdout.readline() == b"half\n"
    child.kill()
    child.wait()
    assert left(tmp_path) == [".data.zip.part"]
    have = (tmp_path / ".data.zip.part").stat().st_size
    assert 0 < have < len(BODY)
    fetch(server.url + "/file", tmp_path / "data.zip")
    assert server.asked[1:] == [("/file", f"bytes={have}-")] and (tmp_path / "data.zip").read_bytes() == BODY


@pytest.mark.parametrize("part", [b"x" * 1000, BODY + b"more"], ids=["shorter", "longer"])
def test_server_without_ranges_sends_it_all_again(server, tmp_path, part):
    (tmp_path / ".data.zip.part").write_bytes(part)
    fetch(server.url + "/plain", tmp_path / "data.zip")
    assert (tmp_path / "data.zip").read_bytes() == BODY and len(server.asked) == 1


@pytest.mark.parametrize("part, asked", [(BODY, 1), (BODY + b"more", 2)], ids=["complete", "too long"])
def test_part_with_nothing_left_to_ask_for(server, tmp_path, part, asked):
    (tmp_path / ".data.zip.part").write_bytes(part)
    fetch(server.url + "/file", tmp_path / "data.zip")
    assert (tmp_path / "data.zip").read_bytes() == BODY and len(server.asked) == asked


def test_file_that_changed_since_the_first_half_starts_again(server, tmp_path):
    (tmp_path / ".data.zip.part").write_bytes(b"?" * 5000)
    fetch(server.url + "/file", tmp_path / "data.zip")
    assert (tmp_path / "data.zip").read_bytes() == BODY
    assert server.asked == [("/file", "bytes=5000-"), ("/file", None)]


def test_broken_connections_are_taken_up_again(server, tmp_path):
    fetch(server.url + "/cut/1000000", tmp_path / "data.zip")
    assert (tmp_path / "data.zip").read_bytes() == BODY
    assert [r for _, r in server.asked] == [None, "bytes=1000000-", "bytes=2000000-", "bytes=3000000-"]


def test_truncated_for_good_keeps_what_came(server, tmp_path):
    with pytest.raises(WorkError, match=r"broke off after 2000 bytes .* the same command continues there"):
        fetch(server.url + "/cut/1000", tmp_path / "data.zip", attempts=2)
    assert left(tmp_path) == [".data.zip.part"]


@pytest.mark.parametrize("path", ["/other", "/plain"])
def test_wrong_checksum_leaves_nothing(server, tmp_path, path):
    wanted = MD5 if path == "/other" else "md5:" + "0" * 32
    with pytest.raises(WorkError, match=r"delivered another file: its md5 is \w{32}, not \w{32}; nothing was kept"):
        fetch(server.url + path, tmp_path / "data.zip", wanted)
    assert left(tmp_path) == []


def test_existing_file_with_another_checksum_is_left_alone(server, tmp_path):
    (tmp_path / "data.zip").write_bytes(b"mine")
    with pytest.raises(WorkError, match="is not the file expected: its md5 is .*; move it away"):
        fetch(server.url + "/file", tmp_path / "data.zip")
    assert (tmp_path / "data.zip").read_bytes() == b"mine" and server.asked == []


def test_a_server_that_refuses(server, tmp_path):
    with pytest.raises(WorkError, match="the server answers 404 Not Found, or name a copy with --raw"):
        fetch(server.url + "/status/404", tmp_path / "data.zip", mend="name a copy with --raw")
    assert left(tmp_path) == []


def test_offline_is_one_sentence(tmp_path):
    with socket.socket() as s:  # a port nobody listens at
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    with pytest.raises(WorkError, match=r"cannot be reached \(.*refused\); a network is needed once, or use --raw"):
        fetch(f"https://127.0.0.1:{port}/data.zip", tmp_path / "data.zip", mend="use --raw")
    assert left(tmp_path) == []
    (tmp_path / ".data.zip.part").write_bytes(b"half")
    with pytest.raises(WorkError, match="broke off after 4 bytes"):
        fetch(f"https://127.0.0.1:{port}/data.zip", tmp_path / "data.zip")
    assert left(tmp_path) == [".data.zip.part"]


@pytest.mark.parametrize("url", ["http://example.org/x.zip", "ftp://example.org/x.zip", "file:///etc/hostname"])
def test_https_only(tmp_path, url):
    for loopback in (False, True):
        with pytest.raises(WorkError, match="is refused: downloads use https only"):
            download.fetch(url, tmp_path / "x", MD5, loopback=loopback)
    assert left(tmp_path) == []


def test_http_to_this_machine_needs_leave(server, tmp_path):
    with pytest.raises(WorkError, match="https only"):
        download.fetch(server.url + "/file", tmp_path / "x", MD5)
    assert server.asked == []


@pytest.mark.parametrize("to, why", [("http://example.org/x.zip", "is refused: downloads use https only"),
                                     ("ftp://example.org/x.zip", "is refused: downloads use https only"),
                                     ("file:///etc/hostname", "the server answers 302 .* not allowed")])
def test_redirect_away_from_https_is_refused(server, tmp_path, to, why):
    with pytest.raises(WorkError, match=why):
        fetch(f"{server.url}/to?{to}", tmp_path / "x")
    assert left(tmp_path) == []


def test_redirect_within_the_rules_is_followed(server, tmp_path):
    fetch(f"{server.url}/to?{server.url}/file", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == BODY


def test_two_at_once(server, tmp_path):
    with open(tmp_path / ".data.zip.part", "ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(WorkError, match="is being filled by another process"):
            fetch(server.url + "/file", tmp_path / "data.zip")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_https_with_a_trusted_and_an_unknown_certificate(tmp_path):
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
                    "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert],
                   check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server = serve(context)
    url = f"https://127.0.0.1:{server.server_port}/file"
    try:
        download.fetch(url, tmp_path / "out" / "x", SHA, context=ssl.create_default_context(cafile=cert))
        assert (tmp_path / "out" / "x").read_bytes() == BODY
        with pytest.raises(WorkError, match="cannot be reached .*certificate"):
            download.fetch(url, tmp_path / "out" / "y", SHA)
        assert left(tmp_path / "out") == ["x"]
    finally:
        server.shutdown()
        server.server_close()


# --------------------------------------------------------------------------- archives

def archive(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for name, content in members:
            z.writestr(name, content)
    return path


def test_unpack_takes_what_is_named_wherever_it_lies(tmp_path):
    path = archive(tmp_path / "a.zip", [("deep/a.dat", "A"), ("b.dat", "B"), ("c.dat", "C"), ("__MACOSX/a.dat", "?")])
    out = tmp_path / "out"
    assert download.unpack(path, out, ["b.dat", "a.dat"]) == [out / "b.dat", out / "a.dat"]
    assert left(out) == ["a.dat", "b.dat"] and (out / "a.dat").read_text() == "A"


def link():
    info = zipfile.ZipInfo("a.dat")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize("member, why", [
    ("../evil", "points outside"), ("x/../../evil", "points outside"), ("/etc/evil", "points outside"),
    ("..\\evil", "points outside"), ("C:/evil", "points outside"), (link(), "is a link")],
    ids=["parent", "deep parent", "absolute", "backslash", "drive", "link"])
def test_a_member_that_leads_elsewhere_refuses_the_archive(tmp_path, member, why):
    path = archive(tmp_path / "a.zip", [("good.dat", "A"), (member, "/etc/passwd")])
    with pytest.raises(WorkError, match=f"is refused, nothing was unpacked: its member .* {why}"):
        download.unpack(path, tmp_path / "out" / "in", ["good.dat"])
    assert left(tmp_path) == ["a.zip"]


def test_too_big_or_two_of_one_name(tmp_path):
    path = archive(tmp_path / "a.zip", [("a.dat", "0" * 5000)])
    with pytest.raises(WorkError, match="it would take 5000 bytes, more than the 4999 allowed"):
        with download.open_zip(path, max_bytes=4999):
            pass
    path = archive(tmp_path / "b.zip", [("x/a.dat", "1"), ("y/a.dat", "2")])
    with pytest.raises(WorkError, match="has a.dat twice: x/a.dat and y/a.dat"):
        download.unpack(path, tmp_path / "out", ["a.dat"])
    with pytest.warns(UserWarning, match="Duplicate"):
        path = archive(tmp_path / "c.zip", [("a.dat", "1"), ("a.dat", "2")])
    with pytest.raises(WorkError, match="two members of one name"):
        download.unpack(path, tmp_path / "out", ["a.dat"])


def test_missing_member_damaged_and_no_archive(tmp_path):
    path = archive(tmp_path / "a.zip", [("a.dat", "A" * 100_000)])
    with pytest.raises(WorkError, match="lacks b.dat, c.dat; nothing was unpacked"):
        download.unpack(path, tmp_path / "out", ["a.dat", "b.dat", "c.dat"])
    for name, content in (("cut", path.read_bytes()[:-30]), ("text", b"not a zip")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WorkError, match="is damaged or no zip archive"):
            download.unpack(tmp_path / name, tmp_path / "out", ["a.dat"])
    with zipfile.ZipFile(tmp_path / "stored.zip", "w") as z:
        z.writestr("a.dat", "A" * 100)
    damaged = (tmp_path / "stored.zip").read_bytes().replace(b"A" * 100, b"A" * 99 + b"B")
    (tmp_path / "stored.zip").write_bytes(damaged)
    with pytest.raises(WorkError, match="is damaged or no zip archive .*CRC"):
        download.unpack(tmp_path / "stored.zip", tmp_path / "out", ["a.dat"])
    assert not (tmp_path / "out").exists() or left(tmp_path / "out") == []
    with pytest.raises(UsageError, match="is no file; a zip archive is expected"):
        download.unpack(tmp_path / "absent.zip", tmp_path / "out", ["a.dat"])


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_damage_within_other_compressions_is_named(tmp_path, method):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", method) as z:
        z.writestr("a.dat", BODY[:5000] + hashlib.sha512(b"").digest() * 3)
    whole = path.read_bytes()
    path.write_bytes(whole[:120] + bytes(b ^ 0xff for b in whole[120:200]) + whole[200:])
    with pytest.raises(WorkError, match="a.zip is damaged or no zip archive"):
        download.unpack(path, tmp_path / "out", ["a.dat"])


def test_a_compression_that_python_lacks_is_named(tmp_path):
    """Method 9, Deflate64: what Windows makes of files beyond 2 GB."""
    path = archive(tmp_path / "a.zip", [("a.dat", "A" * 100)])
    data = bytearray(path.read_bytes())
    data[8] = data[data.rfind(b"PK\x01\x02") + 10] = 9
    path.write_bytes(data)
    with pytest.raises(WorkError, match="a.zip is packed in a way that cannot be opened here .*another program"):
        download.unpack(path, tmp_path / "out", ["a.dat"])
