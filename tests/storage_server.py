"""A stand-in for Google Cloud Storage: what gcsfs, tensorstore and orbax use of its JSON API.

As there, an object appears whole or not at all, is never appended to, and cannot be renamed over;
a folder is a part of names, and nothing that could be made; what is conditional
(`ifGenerationMatch`) is atomic. Objects live in the memory of the process that serves.
"""

import base64
import contextlib
import hashlib
import http.server
import itertools
import json
import re
import struct
import sys
import threading
import time
import urllib.parse

import google_crc32c

RIGHTS = ("buckets.get", *(f"objects.{act}" for act in ("list", "get", "create", "delete")))
OBJECT = re.compile(r"/(?:download/)?storage/v1/b/([^/]+)/o/([^/]+)")


class Refused(Exception):
    """A status that is no success, with what the service says of it."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status, self.message = status, message


class Storage:
    """Buckets: name -> key -> object.

    Attributes:
      rights: bucket -> what may be done there, of `RIGHTS`; all where it says nothing.
      before_put: called with bucket and key before anything is written.
    """

    def __init__(self):
        self.buckets, self.rights = {}, {}
        self.before_put = lambda bucket, key: None
        self.lock, self.numbers = threading.RLock(), itertools.count(1)
        self.uploads = {}

    def bucket(self, name, right):
        if name not in self.buckets:
            raise Refused(404, "The specified bucket does not exist.")
        if right not in self.rights.get(name, RIGHTS):
            raise Refused(403, f"me@example.com does not have storage.{right} access to it.")
        return self.buckets[name]

    def found(self, bucket, key, query, right="objects.get"):
        objects = self.bucket(bucket, right)
        if key not in objects:
            raise Refused(404, f"No such object: {bucket}/{key}")
        wanted = query.get("ifGenerationMatch")
        if wanted is not None and wanted != objects[key]["generation"]:
            raise Refused(412, "conditionNotMet")
        return objects[key]

    def put(self, bucket, key, content, query):
        self.before_put(bucket, key)
        objects = self.bucket(bucket, "objects.create")
        wanted = query.get("ifGenerationMatch")
        there = objects[key]["generation"] if key in objects else "0"
        if wanted is not None and wanted != there:
            raise Refused(412, "conditionNotMet")
        if key in objects:
            self.bucket(bucket, "objects.delete")  # Which writing over is, too.
        now = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
        crc = struct.pack(">I", google_crc32c.value(content))
        objects[key] = {
            "kind": "storage#object",
            "name": key,
            "bucket": bucket,
            "content": content,
            "size": str(len(content)),
            "generation": str(next(self.numbers)),
            "metageneration": "1",
            "timeCreated": now,
            "updated": now,
            "storageClass": "STANDARD",
            "md5Hash": base64.b64encode(hashlib.md5(content).digest()).decode(),
            "crc32c": base64.b64encode(crc).decode(),
        }
        return described(objects[key])

    def listed(self, bucket, query):
        objects = self.bucket(bucket, "objects.list")
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        start, end = query.get("startOffset", ""), query.get("endOffset")
        items, prefixes = [], set()
        for key in sorted(objects):
            if not key.startswith(prefix) or key < start or (end and key >= end):
                continue
            rest = key[len(prefix) :]
            if delimiter and delimiter in rest:
                prefixes.add(prefix + rest.split(delimiter)[0] + delimiter)
            else:
                items.append(described(objects[key]))
        return {"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)}


def described(stored):
    return {name: value for name, value in stored.items() if name != "content"}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, status=200, body=b"", **headers):
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def handle_any(self):
        content = self.body()
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        try:
            with self.server.storage.lock:
                self.route(url.path, query, content)
        except Refused as refused:
            error = {"code": refused.status, "message": refused.message}
            self.answer(refused.status, {"error": error})

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

    def route(self, path, query, content):
        storage, method = self.server.storage, self.command
        if match := re.fullmatch(r"/upload/storage/v1/b/([^/]+)/o", path):
            self.upload(urllib.parse.unquote(match[1]), query, content)
        elif match := re.fullmatch(OBJECT.pattern + r"/moveTo/o/([^/]+)", path):
            bucket, key, new = map(urllib.parse.unquote, match.groups())
            moved = storage.found(bucket, key, {}, "objects.delete")
            self.answer(body=storage.put(bucket, new, moved["content"], {}))
            del storage.buckets[bucket][key]
        elif match := re.fullmatch(OBJECT.pattern, path):
            self.object(*map(urllib.parse.unquote, match.groups()), query, content)
        elif match := re.fullmatch(r"/storage/v1/b/([^/]+)/o", path):
            self.answer(body=storage.listed(match[1], query))
        elif (match := re.fullmatch(r"/storage/v1/b/([^/]+)", path)) and method == "GET":
            storage.bucket(match[1], "buckets.get")
            self.answer(body={"kind": "storage#bucket", "name": match[1], "id": match[1]})
        else:
            raise Refused(501, f"{method} {path} is not in the stand-in.")

    def object(self, bucket, key, query, content):
        storage, method = self.server.storage, self.command
        if method == "GET":
            stored = storage.found(bucket, key, query)
            if query.get("alt") != "media":
                self.answer(body=described(stored))
                return
            octets, headers = stored["content"], {}
            headers["x_goog_generation"] = stored["generation"]
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if not asked:
                self.answer(body=octets, **headers)
                return
            first = int(asked[1])
            last = min(int(asked[2] or len(octets)), len(octets) - 1)
            if first > last:
                raise Refused(416, "Requested range not satisfiable")
            headers["Content_Range"] = f"bytes {first}-{last}/{len(octets)}"
            self.answer(206, octets[first : last + 1], **headers)
        elif method == "DELETE":
            storage.found(bucket, key, query, "objects.delete")
            del storage.buckets[bucket][key]
            self.answer(204)
        elif method == "PATCH":
            stored = storage.found(bucket, key, query, "objects.create")
            stored["metadata"] = json.loads(content).get("metadata")
            stored["metageneration"] = str(int(stored["metageneration"]) + 1)
            self.answer(body=described(stored))
        else:
            raise Refused(405, method)

    def upload(self, bucket, query, content):
        storage, kind = self.server.storage, query.get("uploadType")
        if kind == "media":
            self.answer(body=storage.put(bucket, query["name"], content, query))
        elif kind == "multipart":
            boundary = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])[1]
            _, about, rest = content.split(b"--" + boundary.encode(), 2)
            about = json.loads(re.split(rb"\r?\n\r?\n", about, maxsplit=1)[1])
            octets = re.split(rb"\r?\n\r?\n", rest, maxsplit=1)[1]
            octets = octets[: octets.rindex(b"\n--" + boundary.encode() + b"--")]
            self.answer(body=storage.put(bucket, about["name"], octets, query))
        elif "upload_id" not in query:
            storage.bucket(bucket, "objects.create")
            name = query.get("name") or json.loads(content)["name"]
            number = str(next(storage.numbers))
            storage.uploads[number] = (name, query, b"")
            where = f"http://{self.headers['Host']}{self.path.split('?')[0]}"
            self.answer(Location=f"{where}?uploadType=resumable&upload_id={number}")
        elif self.command == "DELETE":
            storage.uploads.pop(query["upload_id"], None)
            self.answer(499)
        else:
            name, asked, before = storage.uploads[query["upload_id"]]
            octets = before + content
            whole = self.headers["Content-Range"].split("/")[1]
            if whole == "*" or len(octets) < int(whole):
                storage.uploads[query["upload_id"]] = (name, asked, octets)
                self.answer(308, Range=f"bytes=0-{len(octets) - 1}")
                return
            self.answer(body=storage.put(bucket, name, octets, asked))


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), ConnectionError):  # The client wants to know it no more.
            super().handle_error(request, client_address)


@contextlib.contextmanager
def serve():
    """Yields the address of a service without buckets, and its `Storage`."""
    server = Server(("127.0.0.1", 0), Handler)
    server.storage = Storage()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", server.storage
    finally:
        server.shutdown()
        server.server_close()
