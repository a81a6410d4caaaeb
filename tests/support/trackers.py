"""Readers of what trackers hold, independent of the code that writes it."""

import json
import re
import struct
import threading
from collections import defaultdict
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Rows = list[tuple[int, dict[str, float]]]  # (epoch, values), in the order in which they were sent


def records_of(data: bytes) -> list[bytes]:
    """Return the records of a wandb file: LevelDB's log format, block by block."""
    records, part = [], b""
    for start in range(0, len(data), 32768):
        block = data[start : start + 32768]
        place = 7 if start == 0 else 0
        while place + 7 <= len(block):
            length, kind = struct.unpack("<HB", block[place + 4 : place + 7])
            chunk = block[place + 7 : place + 7 + length]
            if kind == 0 or len(chunk) < length:
                break
            part += chunk
            if kind in (1, 4):
                records.append(part)
                part = b""
            place += 7 + length
    return records


def offline_rows(folder: Path, fold: str) -> Rows:
    """Return the history in all offline files of a fold, the oldest first."""
    from wandb.proto.wandb_internal_pb2 import Record

    rows: Rows = []
    for file in sorted(folder.glob(f"wandb/offline-run-*-{fold}/*.wandb")):
        for data in records_of(file.read_bytes()):
            record = Record.FromString(data)
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                values = {
                    i.key or i.nested_key[0]: json.loads(i.value_json.replace("NaN", "NaN"))
                    for i in items
                }
                rows.append((record.history.step.num, values))
    return rows


class FakeServer(BaseHTTPRequestHandler):
    """As much of a W&B server as a run needs: GraphQL and the stream of its history."""

    protocol_version = "HTTP/1.1"
    runs: dict[str, dict[int, dict]]  # lines of the history by run and offset
    summaries: dict[str, dict]
    groups: dict[str, str]

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.answer({})

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.answer({})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        if self.path == "/graphql":
            name = re.match(r"\s*(?:query|mutation)\s+(\w+)", body["query"])
            ask = getattr(self, name[1] if name else "", lambda variables: {})
            self.answer({"data": ask(body.get("variables") or {})})
        elif "file_stream" in self.path:
            self.stream(self.path.split("/")[-2], body.get("files", {}))
            self.answer({"exitcode": None, "limits": {}})
        else:
            self.answer({})

    def answer(self, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def stream(self, run: str, files: dict[str, dict]) -> None:
        if lines := files.get("wandb-history.jsonl"):
            for i, line in enumerate(lines["content"]):
                self.runs[run][lines["offset"] + i] = json.loads(line)
        if summary := files.get("wandb-summary.json"):
            self.summaries[run] = json.loads(summary["content"][-1])

    def RunResumeStatus(self, variables: dict) -> dict:  # noqa: N802
        run, model = variables["name"], {"id": "p", "name": variables["project"]}
        model["entity"] = {"id": "e", "name": "me"}
        if run not in self.groups:
            return {"model": {**model, "bucket": None}}
        lines = self.runs[run]
        tail = [json.dumps(lines[max(lines)])] if lines else []
        bucket = {"id": "x", "name": run, "historyLineCount": len(lines), "eventsLineCount": 0}
        bucket |= {"logLineCount": 0, "historyTail": json.dumps(tail), "eventsTail": "[]"}
        bucket |= {"summaryMetrics": "{}", "config": "{}", "tags": [], "notes": None}
        return {"model": {**model, "bucket": {**bucket, "wandbConfig": '{"t": 1}'}}}

    def UpsertBucket(self, variables: dict) -> dict:  # noqa: N802
        run = variables["name"]
        is_new = run not in self.groups
        self.groups.setdefault(run, variables.get("groupName"))
        project = {"id": "p", "name": variables["project"], "entity": {"id": "e", "name": "me"}}
        bucket = {"id": "x", "name": run, "displayName": run, "description": None, "config": "{}"}
        bucket |= {"sweepName": None, "project": project, "historyLineCount": len(self.runs[run])}
        return {"upsertBucket": {"bucket": bucket, "inserted": is_new}}

    def CreateRunFiles(self, variables: dict) -> dict:  # noqa: N802
        place = f"http://{self.headers['Host']}/files"
        files = [{"name": name, "uploadUrl": f"{place}/{name}"} for name in variables["files"]]
        return {"createRunFiles": {"runID": "x", "uploadHeaders": [], "files": files}}


@contextmanager
def fake_server():
    """Serve on a port of this machine; yield the class with what was sent, and the address."""
    kept = {"runs": defaultdict(dict), "summaries": {}, "groups": {}}
    handler = type("Handler", (FakeServer,), kept)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield handler, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
