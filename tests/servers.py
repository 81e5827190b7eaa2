"""Servers on this machine, for tests: files by HTTP with ranges, and an S3 server.

They are processes of their own: GDAL waits for an answer while no other thread of Python can run.
"""

import contextlib
import json
import re
import subprocess
import sys
import tempfile
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class FileServer:
    """A server of the files of a folder.

    Attributes:
        url: Its address, without a slash at the end.
    """

    def __init__(self, url, rules):
        self.url, self._rules = url, rules

    @property
    def host(self):
        return self.url.removeprefix("http://")

    def set_rules(self, *, refused=None, authorization=None, query=None):
        """Set what is answered, from now on.

        Args:
            refused: HTTP status by path, such as `{"/a.tif": 403}`.
            authorization: Header that each request must have; others are answered with 401.
            query: Query that each request must have; others are answered with 403.
        """
        rules = {"refused": refused or {}, "authorization": authorization, "query": query}
        self._rules.write_text(json.dumps(rules))


@contextlib.contextmanager
def serve_files(folder):
    """Yield a `FileServer`."""
    with tempfile.TemporaryDirectory() as other:
        rules = Path(other) / "rules.json"
        server = FileServer("", rules)
        server.set_rules()
        with _start("files", str(folder), str(rules)) as port:
            server.url = f"http://127.0.0.1:{port}"
            yield server


@contextlib.contextmanager
def serve_s3(bucket, files):
    """Yield host and port of an S3 server.

    Args:
        bucket: Name of its bucket.
        files: Paths of the objects by their keys.
    """
    with _start("s3") as port:
        url = f"http://127.0.0.1:{port}/{bucket}"
        _put(url)
        for key, path in files.items():
            _put(f"{url}/{key}", Path(path).read_bytes())
        yield f"127.0.0.1:{port}"


@contextlib.contextmanager
def _start(*arguments):
    """Yield the port of a server that runs until the context ends."""
    with subprocess.Popen(
        [sys.executable, __file__, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


def _put(url, data=b""):
    # Without credentials, which the server does not check.
    headers = {"Content-Type": "application/octet-stream"}
    request = urllib.request.Request(url, data, headers, method="PUT")
    with urllib.request.urlopen(request, timeout=20):
        pass


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder = rules = None

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path, _, query = self.path.partition("?")
        file = self.folder / path[1:]
        status = self.find_status(path, query, file)
        body = file.read_bytes() if status == 200 else b"no"
        size = len(body)
        found = re.match(r"bytes=(\d+)-(\d*)", self.headers["Range"] or "")
        if status == 200 and found:
            first = int(found[1])
            body = body[first : int(found[2] or size) + 1]
            status = 206 if body else 416
        self.send_response(status)
        if status == 401:
            self.send_header("WWW-Authenticate", "Basic")
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{first + len(body) - 1}/{size}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def find_status(self, path, query, file):
        rules = json.loads(self.rules.read_text())
        if path in rules["refused"]:
            return rules["refused"][path]
        if rules["authorization"] not in (None, self.headers["Authorization"]):
            return 401
        if rules["query"] not in (None, query):
            return 403
        return 200 if file.is_file() else 404

    def log_message(self, *_):
        pass


def _tell(port):
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()


def _run_files(folder, rules):
    _Handler.folder, _Handler.rules = Path(folder), Path(rules)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    _tell(server.server_port)
    server.serve_forever()


def _run_s3():
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _tell(server.get_host_and_port()[1])
    threading.Event().wait()


if __name__ == "__main__":
    {"files": _run_files, "s3": _run_s3}[sys.argv[1]](*sys.argv[2:])
