"""Start Firefox for Playwright, and answer what Firefox does not know.

Playwright drives an unmodified Firefox over WebDriver BiDi. For each page it sends emulation
commands, such as `emulation.setMediaFeaturesOverride`, some of which Firefox 153 does not have; the
error ends the page. This relay between the two reports success for unknown emulation commands,
which then have no effect, and forwards everything else.

Run as `python firefox_relay.py FIREFOX ARGUMENTS...`.
"""

import json
import re
import socket
import subprocess
import sys
from threading import Thread
from typing import BinaryIO

HOST = "127.0.0.1"


def main() -> int:
    """Run Firefox with the arguments, and return its exit status."""
    with subprocess.Popen(sys.argv[1:], stderr=subprocess.PIPE) as firefox:
        assert firefox.stderr is not None
        for line in firefox.stderr:
            if found := re.search(rb"WebDriver BiDi listening on ws://127\.0\.0\.1:(\d+)", line):
                server = socket.create_server((HOST, 0))
                port = server.getsockname()[1]
                Thread(target=_serve, args=(server, int(found[1])), daemon=True).start()
                line = line.replace(found[1], str(port).encode())
            sys.stderr.buffer.write(line)
            sys.stderr.buffer.flush()
        return firefox.wait()


def _serve(server: socket.socket, port: int) -> None:
    while True:
        client, _ = server.accept()
        firefox = socket.create_connection((HOST, port))
        Thread(target=_forward, args=(client, firefox, port), daemon=True).start()
        Thread(target=_answer, args=(firefox, client), daemon=True).start()


def _forward(client: socket.socket, firefox: socket.socket, port: int) -> None:
    """Forward commands. Firefox accepts only its own port as that of the host."""
    with client.makefile("rb") as commands:
        head = re.sub(rb"(?im)^(host: .*?:)\d+", rb"\g<1>%d" % port, _head(commands))
        firefox.sendall(head)
        while block := commands.read1():
            firefox.sendall(block)
    firefox.shutdown(socket.SHUT_WR)


def _answer(firefox: socket.socket, client: socket.socket) -> None:
    """Forward answers, frame by frame (RFC 6455, 5.2; frames of a server have no mask)."""
    with firefox.makefile("rb") as answers:
        client.sendall(_head(answers))
        while len(start := answers.read(2)) == 2:
            extended = {126: 2, 127: 8}.get(start[1], 0)
            size = answers.read(extended)
            payload = answers.read(int.from_bytes(size, "big") if extended else start[1])
            if b'"unknown command"' in payload and b"emulation." in payload:
                success = {"type": "success", "id": json.loads(payload)["id"], "result": {}}
                payload = json.dumps(success).encode()
                size = b""
                start = start[:1] + bytes([len(payload)])
            client.sendall(start + size + payload)
    client.close()


def _head(stream: BinaryIO) -> bytes:
    """Read the lines of an HTTP message up to its empty line."""
    lines = []
    while (line := stream.readline()).strip():
        lines.append(line)
    return b"".join([*lines, line])


if __name__ == "__main__":
    sys.exit(main())
