"""The dashboard's page in tests: what is in it, and a server that serves it."""

from __future__ import annotations

import json
import re
import threading
import time
import urllib.request
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from analysis.commands import dashboard
from analysis.dashboard.serve import Server

NASTY = "</script><img src=x onerror=alert(1)>"


def data_in(html: bytes, name: str = "data") -> Any:
    match = re.search(rb'<script type="application/json" id="%s">(.*?)</script>' % name.encode(), html, re.DOTALL)
    assert match is not None
    return json.loads(match[1])


def arguments(*given: str) -> Namespace:
    parser = ArgumentParser()
    dashboard.add_arguments(parser)
    return parser.parse_args(given)


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join(timeout=20)
        assert not thread.is_alive()


def get(server: Server, name: str) -> Any:
    with urllib.request.urlopen(server.url + name, timeout=20) as response:
        return json.load(response)


def wait_for(read: Any, done: Any) -> Any:
    deadline = time.monotonic() + 30
    while not done(value := read()):
        assert time.monotonic() < deadline, "it did not come in 30 s"
        time.sleep(0.05)
    return value
