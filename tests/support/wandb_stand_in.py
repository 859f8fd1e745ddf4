"""As much of W&B's server as a run needs to believe in it: who am I, one run, its history, its files; and to be read.

It answers in the shapes that wandb 0.31's own process and its public API ask for and knows nothing of pages,
permissions or artifacts.
"""

from __future__ import annotations

import gzip
import http.server
import json
import re
import sys
import threading
from typing import Any


class StandIn:
    """A server on this machine.

    ``runs``: by id what was sent: ``history`` rows, ``upserts``, names of ``files``, the last ``summary``.
    """

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.unknown: list[str] = []
        stand_in = self

        class Handler(_Handler):
            owner = stand_in

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> StandIn:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def run(self, name: str) -> dict[str, Any]:
        return self.runs.setdefault(name, {"history": [], "upserts": [], "files": [], "summary": {}})

    def answer(self, operation: str, variables: dict[str, Any]) -> dict[str, Any] | None:
        """The data of a GraphQL answer, None for an operation that is not known here."""
        if operation in ("Viewer", "GetDefaultEntity"):
            return {"viewer": {"id": "VQ==", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}
        if operation == "RunResumeStatus":
            name = variables["name"]
            bucket = self._bucket(name) if name in self.runs else None
            return {"model": {"id": "UA==", "name": "p", "entity": {"id": "RQ==", "name": "me"}, "bucket": bucket}}
        if operation == "UpsertBucket":
            self.run(variables["name"])["upserts"].append(variables)
            project = {"id": "UA==", "name": variables["project"], "entity": {"id": "RQ==", "name": "me"}}
            return {
                "upsertBucket": {"bucket": {**self._bucket(variables["name"]), "project": project}, "inserted": True}
            }
        if operation == "CreateRunFiles":
            files = [{"name": file, "uploadUrl": f"{self.url}/storage/{file}"} for file in variables["files"]]
            self.run(variables["run"])["files"] += variables["files"]
            return {"createRunFiles": {"runID": variables["run"], "uploadHeaders": [], "files": files}}
        if operation == "Runs":
            edges = [{"node": self._node(name), "cursor": name} for name in sorted(self.runs)]
            page = {"endCursor": None, "hasNextPage": False}
            runs = {"edges": edges, "pageInfo": page}
            return {"project": {"internalId": "1", "runCount": len(edges), "readOnly": False, "runs": runs}}
        if operation == "RunHistoryKeys":
            return {"project": {"run": {"historyKeys": self._keys(variables["name"])}}}
        if operation == "RunParquetHistory":
            return {"project": {"run": {"parquetHistory": {"parquetUrls": [], "liveData": []}}}}
        if operation == "SampledHistoryPage":
            wanted = json.loads(variables["spec"])
            rows = [row for row in self.run(variables["run"])["history"] if set(wanted["keys"]) <= set(row)]
            page = [row for row in rows if wanted["minStep"] <= row["_step"] <= wanted["maxStep"]]
            every = max(1, -(-len(page) // wanted["samples"]))  # more than are asked for are a sample
            return {"project": {"run": {"sampledHistory": [page[::every]]}}}
        if operation == "ArtifactType":
            return {"project": {"artifact": None}}
        return None

    def _bucket(self, name: str) -> dict[str, Any]:
        rows = self.run(name)["history"]
        return {
            "id": "Qg==", "name": name, "displayName": name, "description": "", "config": "{}", "sweepName": None,
            "summaryMetrics": "{}", "logLineCount": 0, "historyLineCount": len(rows), "eventsLineCount": 0,
            "historyTail": json.dumps([json.dumps(row) for row in rows[-1:]]), "eventsTail": "[]", "tags": [],
            "notes": "", "wandbConfig": json.dumps({"t": 1}),  # without which a run has never started
        }  # fmt: skip

    def _node(self, name: str) -> dict[str, Any]:
        run = self.run(name)
        configs = [json.loads(upsert["config"]) for upsert in run["upserts"] if upsert.get("config")]
        return {
            "id": "Qg==", "projectId": 1, "tags": [], "name": name, "displayName": name, "sweepName": None,
            "state": "finished", "config": json.dumps(configs[-1] if configs else {}), "group": None,
            "jobType": "train", "commit": None, "readOnly": False, "createdAt": "2026-01-01T00:00:00Z",
            "heartbeatAt": "2026-01-01T00:00:00Z", "description": "", "notes": "", "systemMetrics": "{}",
            "summaryMetrics": json.dumps(run["summary"]), "historyLineCount": len(run["history"]),
            "user": {"name": "me", "username": "me"}, "historyKeys": self._keys(name),
        }  # fmt: skip

    def _keys(self, name: str) -> dict[str, Any]:
        return {"lastStep": max((row["_step"] for row in self.run(name)["history"]), default=-1), "keys": {}}

    def stream(self, name: str, content: dict[str, Any]) -> None:
        """A piece of a run's file stream: history lines with the place where they belong."""
        rows = self.run(name)["history"]
        piece = (content.get("files") or {}).get("wandb-history.jsonl")
        if piece:
            assert piece["offset"] == len(rows), f"{name}: line {piece['offset']} sent after {len(rows)} lines"
            rows += map(json.loads, piece["content"])
        if summary := (content.get("files") or {}).get("wandb-summary.json"):
            self.run(name)["summary"] = json.loads(summary["content"][-1])


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # the other end was killed
            super().handle_error(request, client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
    owner: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_PUT(self) -> None:
        self._body()
        self._send(200, {})

    def do_POST(self) -> None:
        body = self._body()
        if match := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
            self.owner.stream(match[1], json.loads(body))
            self._send(200, {"exitcode": None, "limits": {}})
        elif self.path.endswith("/graphql"):
            request = json.loads(body)
            named = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])
            operation = named[1] if named else request["query"][:60]
            data = self.owner.answer(operation, request.get("variables") or {})
            if data is None:
                self.owner.unknown.append(operation)
            self._send(200 if data else 400, {"data": data} if data else {"errors": [{"message": "not known here"}]})
        else:
            self._send(200, {})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data

    def _send(self, code: int, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
