"""The live report: serves the page of a folder that is being written. Loopback only, read-only."""

from __future__ import annotations

from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock

from mmzoo.benchmark.reporting.html.page import render_page
from mmzoo.benchmark.results.sharing import shared_rows
from mmzoo.benchmark.results.store import Store
from mmzoo.errors import BadValue, MmzooError

HOST = "127.0.0.1"


class LiveReport:
    """The page of a store, rendered again when its runs have changed."""

    def __init__(self, root: Path) -> None:
        self._root, self._lock = root, Lock()
        self._stamp, self._page = "", ""

    def stamp(self) -> str:
        """Changes whenever a run has ended."""
        try:
            changed = [
                f"{p.parent.name}:{p.stat().st_mtime_ns}" for p in sorted((self._root / "runs").glob("*/result.json"))
            ]
        except OSError:
            changed = []
        return f"{len(changed)}-{hash(tuple(changed)) & 0xFFFFFFFF:x}"

    def page(self) -> str:
        with self._lock:
            if (stamp := self.stamp()) != self._stamp:
                store = Store(self._root)
                rows = shared_rows(store, [])
                self._page = render_page(rows, store.bench(), store, live=stamp) if rows else _waiting(stamp)
                self._stamp = stamp
            return self._page


def _waiting(stamp: str) -> str:
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="3">'
        f'<title>mmzoo report</title><body data-stamp="{stamp}"><p>No run has ended yet.</p></html>'
    )


def serve(root: Path, port: int, ready: Callable[[str], None]) -> None:
    """Serve until interrupted.

    Args:
        root: the results folder.
        port: the port; 0 for any that is free.
        ready: called with the address once the server listens.

    Raises:
        BadValue: where the port cannot be had.
    """
    report = LiveReport(root)
    try:
        server = ThreadingHTTPServer((HOST, port), _handler(report))
    except OSError as error:
        raise BadValue(
            f"port {port} cannot be used: {error.strerror}. Take another with --port, or 0 for any."
        ) from None
    with server:
        ready(f"http://{HOST}:{server.server_address[1]}/")
        server.serve_forever()


def _handler(report: LiveReport) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            host = (self.headers.get("Host") or "").rpartition(":")[0]
            if host not in (HOST, "localhost"):  # a name that somebody else's page resolves to this machine
                self._answer(403, "text/plain", "This server answers for the loopback address only.")
            elif self.path == "/":
                try:
                    self._answer(200, "text/html; charset=utf-8", report.page())
                except MmzooError as error:
                    self._answer(500, "text/plain; charset=utf-8", str(error))
            elif self.path == "/stamp":
                self._answer(200, "text/plain", report.stamp())
            else:
                self._answer(404, "text/plain", "There is one page: /")

        def _answer(self, status: int, kind: str, text: str) -> None:
            data = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Requests are not logged."""

    return Handler
