"""A hub on 127.0.0.1 that speaks the part of the HuggingFace API that `mmtune pull` and huggingface_hub's snapshot_download use, and misbehaves
on request."""

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "1234567890abcdef1234567890abcdef12345678"


def git_sha1(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256(content):
    return hashlib.sha256(content).hexdigest()


class Hub:
    """`files` maps paths to bytes; those in `lfs` are large files, which a redirect sends to another server where `store` is one.

    What a test may set: `token` (wanted in every request), `refs`, `sizes` (False: the listing has neither sizes nor hashes), `siblings`
    (the list itself, in place of the right one), and `answers`: functions of (hub, handler, path) that see a request before the hub does and
    return True for those that they have answered.
    """

    def __init__(self, files, lfs=()):
        self.files, self.lfs = dict(files), set(lfs)
        self.repository = "owner/model"
        self.refs = {"main": COMMIT, "refs/pr/1": COMMIT}
        self.token = self.store = self.siblings = None
        self.sizes = True
        self.codes = True  # X-Error-Code in the answers
        self.answers = []
        self.requests = []  # (method, path, headers)
        self.url = None

    def etag(self, path):
        return sha256(self.files[path]) if path in self.lfs else git_sha1(self.files[path])

    def listing(self, commit, blobs):
        siblings = []
        for path, content in self.files.items():
            one = {"rfilename": path}
            if blobs and self.sizes:
                one |= {"size": len(content), "blobId": git_sha1(content)}
                if path in self.lfs:
                    one |= {"blobId": "0" * 40, "lfs": {"size": len(content), "sha256": sha256(content), "pointerSize": 130}}
            siblings.append(one)
        return {"id": self.repository, "modelId": self.repository, "sha": commit, "siblings": self.siblings or siblings}

    def tree(self):
        entries = []
        for path, content in self.files.items():
            one = {"type": "file", "path": path, "size": len(content), "oid": git_sha1(content)}
            if path in self.lfs:
                one["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 130}
            entries.append(one)
        return entries


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub = None

    def log_message(self, *arguments):
        pass

    def send(self, status, body=b"", **headers):
        self.send_response(status)
        headers.setdefault("Content_Length", len(body))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status, code, message):
        headers = {"X_Error_Code": code, "X_Error_Message": message} if self.hub.codes else {}
        self.send(status, json.dumps({"error": message}).encode(), **headers)

    def send_bytes(self, content, **headers):
        """The content, or the part of it that a Range header asks for."""
        asked = self.headers.get("Range")
        if asked is None:
            return self.send(200, content, Accept_Ranges="bytes", **headers)
        begin = int(asked.removeprefix("bytes=").split("-")[0])
        if begin >= len(content):
            return self.send(416, **headers)
        return self.send(206, content[begin:], Content_Range=f"bytes {begin}-{len(content) - 1}/{len(content)}", **headers)

    def do_GET(self):
        hub, parts = self.hub, urlsplit(self.path)
        path = unquote(parts.path)
        hub.requests.append((self.command, self.path, {name.lower(): value for name, value in self.headers.items()}))
        for answer in hub.answers:
            if answer(hub, self, path):
                return None
        if path.startswith("/store/"):  # the place for large files
            return self.send_bytes(hub.files[path.removeprefix("/store/")])
        if hub.token is not None and self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self.refuse(401, "RepoNotFound", "Invalid username or password.")
        api, resolve = f"/api/models/{hub.repository}", f"/{hub.repository}/resolve/"
        if path == api:
            return self.send(200, json.dumps(hub.listing(COMMIT, False)).encode())
        for kind in ("revision", "tree"):
            if path.startswith(f"{api}/{kind}/"):
                revision = path.removeprefix(f"{api}/{kind}/")
                commit = hub.refs.get(revision, revision if revision == COMMIT else None)
                if commit is None:
                    return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
                answer = hub.tree() if kind == "tree" else hub.listing(commit, "blobs=true" in parts.query)
                return self.send(200, json.dumps(answer).encode(), Content_Type="application/json")
        if path.startswith(resolve):
            _, _, name = path.removeprefix(resolve).partition("/")
            if name not in hub.files:
                return self.refuse(404, "EntryNotFound", "Entry not found")
            headers = {"X_Repo_Commit": COMMIT, "ETag": f'"{hub.etag(name)}"'}
            if name in hub.lfs:
                headers |= {"X_Linked_Etag": f'"{hub.etag(name)}"', "X_Linked_Size": len(hub.files[name])}
                if hub.store is not None:
                    return self.send(302, Location=f"{hub.store}/store/{name}?signature=secret", **headers)
            return self.send_bytes(hub.files[name], **headers)
        return self.refuse(404, "RepoNotFound", "Repository not found")

    do_HEAD = do_GET


@contextmanager
def serving(hub):
    """The hub on a port of its own, its address in hub.url."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
