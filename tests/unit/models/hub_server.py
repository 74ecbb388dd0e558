"""A small hub for tests: serves folders as model repositories, as huggingface_hub asks for them, on 127.0.0.1.

    python hub_server.py ROOT LOG        prints its port; ROOT/org/name/<files>; LOG gets a line "METHOD path" a request

Repositories named org/gated and org/broken refuse: 403 with the header of a gated repository, and 500.
"""

from __future__ import annotations

import hashlib
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT, LOG = Path(sys.argv[1]), Path(sys.argv[2])
REVISIONS = {"main": "a" * 40, "v1": "b" * 40, "a" * 40: "a" * 40, "b" * 40: "b" * 40}


class Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.respond(body=False)

    def do_GET(self) -> None:
        self.respond(body=True)

    def respond(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        with LOG.open("a") as log:
            log.write(f"{self.command} {path}\n")
        if "org/gated" in path:
            return self.answer(403, b"", body, {"X-Error-Code": "GatedRepo"})
        if "org/broken" in path:
            return self.answer(500, b"", body, {})
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"] and len(parts) >= 4:
            name, revision = "/".join(parts[2:4]), parts[5] if len(parts) > 5 and parts[4] == "revision" else "main"
            if not (ROOT / name).is_dir():
                return self.answer(404, b"", body, {"X-Error-Code": "RepoNotFound"})
            if revision not in REVISIONS:
                return self.answer(404, b"", body, {"X-Error-Code": "RevisionNotFound"})
            files = [{"rfilename": file.name} for file in sorted((ROOT / name).iterdir())]
            facts = {"id": name, "modelId": name, "sha": REVISIONS[revision], "siblings": files, "private": False, "tags": []}
            return self.answer(200, json.dumps(facts).encode(), body, {"Content-Type": "application/json"})
        if len(parts) == 5 and parts[2] == "resolve" and parts[3] in REVISIONS:
            file = ROOT / parts[0] / parts[1] / parts[4]
            if not file.is_file():
                return self.answer(404, b"", body, {"X-Error-Code": "EntryNotFound"})
            content = file.read_bytes()
            tag = hashlib.sha256(content).hexdigest()
            return self.answer(200, content, body, {"ETag": f'"{tag}"', "X-Repo-Commit": REVISIONS[parts[3]]})
        return self.answer(404, b"", body, {})

    def answer(self, status: int, content: bytes, body: bool, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    print(server.server_address[1], flush=True)
    server.serve_forever()
