"""A video server on this machine that answers as badly as real ones do."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote


class Server:
    """Serves the files of a folder; a path may have an answer of its own instead."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.root = f"http://127.0.0.1:{port}"
        self.answers: dict[str, Callable[[Handler], None]] = {}
        self.asked: list[tuple[str, str | None]] = []
        """(path, header Range) of every request for a body."""
        self.seconds_per_block = 0.0
        """To be slow with files."""


class Handler(BaseHTTPRequestHandler):
    server_of_test: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        name = unquote(self.path.partition("?")[0].strip("/"))
        if self.command == "GET":
            self.server_of_test.asked.append((name, self.headers.get("Range")))
        answer = self.server_of_test.answers.get(name)
        try:
            (answer or file_of(self.server_of_test.folder / name))(self)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def body(self, data: bytes, kind: str = "video/mp4", status: int = 200, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            for begin in range(0, len(data), 4096):
                self.wfile.write(data[begin : begin + 4096])
                time.sleep(self.server_of_test.seconds_per_block)


Answer = Callable[[Handler], None]


def file_of(path: Path, kind: str = "video/mp4") -> Answer:
    """A file, or the part of it that is asked for."""

    def answer(handler: Handler) -> None:
        if not path.is_file():
            handler.body(b"no such file", "text/plain", 404)
            return
        data = path.read_bytes()
        wanted = handler.headers.get("Range", "bytes=0-").removeprefix("bytes=")
        begin = int(wanted.partition("-")[0] or 0)
        end = int(wanted.partition("-")[2] or len(data) - 1)
        if begin >= len(data):
            handler.body(b"", status=416, Content_Range=f"bytes */{len(data)}")
        elif "Range" in handler.headers:
            place = f"bytes {begin}-{min(end, len(data) - 1)}/{len(data)}"
            handler.body(data[begin : end + 1], kind, 206, Content_Range=place)
        else:
            handler.body(data, kind)

    return answer


def status(code: int, **headers: str) -> Answer:
    """Only a status."""
    return lambda handler: handler.body(b"sorry", "text/plain", code, **headers)


def at_first(answers: list[Answer], then: Answer) -> Answer:
    """These answers to the first requests for a body, then another."""
    left = list(answers)

    def answer(handler: Handler) -> None:
        if handler.command == "GET" and left:
            left.pop(0)(handler)
        else:
            then(handler)

    return answer


def truncated(path: Path, share: float, announced: bool = True) -> Answer:
    """The beginning of a file, whatever part is asked for; then the connection closes."""

    def answer(handler: Handler) -> None:
        data = path.read_bytes()
        handler.send_response(200)
        handler.send_header("Content-Type", "video/mp4")
        if announced:
            handler.send_header("Content-Length", str(len(data)))
        handler.send_header("Connection", "close")
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(data[: round(share * len(data))])
        handler.close_connection = True

    return answer


def stalled(path: Path, over: threading.Event, drip: bool = False) -> Answer:
    """The beginning of a file, then nothing, or a byte now and then, until the test is over."""

    def answer(handler: Handler) -> None:
        data = path.read_bytes()
        handler.send_response(200)
        handler.send_header("Content-Type", "video/mp4")
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        if handler.command == "HEAD":
            return
        handler.wfile.write(data[:1000])
        for byte in data[1000:]:
            if over.wait(0.2):
                break
            if drip:
                handler.wfile.write(bytes([byte]))
                handler.wfile.flush()
        handler.close_connection = True

    return answer


def redirect(to: str) -> Answer:
    """To another path, or to itself."""
    return lambda handler: handler.body(b"", "text/plain", 302, Location=to)


def in_seconds(seconds: float) -> str:
    """A time as Retry-After may have it."""
    return formatdate(time.time() + seconds, usegmt=True)


class Http(ThreadingHTTPServer):
    def handle_error(self, *args: object) -> None:
        """A client that was stopped closes its connection in the middle: nothing to report."""


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """A server at work."""
    handler = type("Handler", (Handler,), {})
    with Http(("127.0.0.1", 0), handler) as http:
        server = handler.server_of_test = Server(folder, http.server_port)
        threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield server
        finally:
            http.shutdown()
