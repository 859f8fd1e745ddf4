"""The page from a small HTTP server: the runs are looked at again every few seconds, and the open page follows."""

from __future__ import annotations

import socket
import sys
import threading
import urllib.parse
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from analysis.dashboard.page import build_page
from analysis.dashboard.watched_runs import PageContent, WatchedRuns
from sparse_rcnn.errors import UserError


class Server(ThreadingHTTPServer):
    """Serves `/` (the page), `/data.json` and `/views.json`; with `?have=VERSION` 204 where there is nothing newer.

    Args:
        address: host and port; port 0 takes a free one.
        source: the runs.
        content: what it had at the start.
        interval: seconds between two looks at the runs.
        on_change: called with each new content.

    Raises:
        UserError: the address cannot be used.
    """

    daemon_threads = True

    def __init__(
        self,
        address: tuple[str, int],
        source: WatchedRuns,
        content: PageContent,
        interval: float,
        on_change: Callable[[PageContent], None] = lambda content: None,
    ) -> None:
        try:
            super().__init__(address, _PageHandler)
        except (OSError, OverflowError) as error:
            where = f"{address[0]}:{address[1]}"
            raise UserError(f"cannot serve at {where}: {error}; choose another --port or --host") from error
        self.source = source
        self.content = content  # replaced as a whole: a request sees the old or the new one
        self.interval = interval
        self.on_change = on_change
        self._stop = threading.Event()
        self._problem = ""

    @property
    def url(self) -> str:
        """Where the page is."""
        host, port = self.socket.getsockname()[:2]
        return f"http://{host}:{port}/"

    def handle_error(self, request: socket.socket | tuple[bytes, socket.socket], client_address: Any) -> None:
        """A browser that has gone away is not an error; anything else is shown."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def run(self) -> None:
        """Serve until `shutdown` or Ctrl-C."""
        watcher = threading.Thread(target=self._watch, daemon=True)
        watcher.start()
        try:
            self.serve_forever()
        finally:
            self._stop.set()
            self.server_close()
            watcher.join(timeout=10)

    def _watch(self) -> None:
        while not self._stop.wait(self.interval):
            try:
                content = self.source.read()
                if not content.is_as(self.content):
                    self.content = content
                    self.on_change(content)
                problem = ""
            except Exception as error:  # whatever happens to the runs meanwhile, the last page stays
                problem = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            if problem and problem != self._problem:
                print(f"warning: the page stays as it was: {problem}", file=sys.stderr)
            self._problem = problem


class _PageHandler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        have = urllib.parse.parse_qs(query).get("have", [""])[0]
        content = self.server.content
        if path in ("/", "/index.html"):
            page = build_page(content.data, content.views, self.server.interval)
            self._answer("text/html; charset=utf-8", page)
        elif path == "/data.json":
            self._answer("application/json", None if have == content.data_version else content.data.encode())
        elif path == "/views.json":
            self._answer("application/json", None if have == content.views_version else content.views.encode())
        else:
            self.send_error(404)

    do_HEAD = do_GET

    def _answer(self, kind: str, body: bytes | None) -> None:
        self.send_response(200 if body is not None else 204)
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        if body is not None:
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if body is not None and self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: a line for each look of an open page helps nobody."""
