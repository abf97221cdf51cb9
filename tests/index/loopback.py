"""A loopback server for the part of Qdrant's REST API that the index uses.

The wire, the client and the error translation are real; behind the wire stands the client's own
local mode. Faults can be switched on: a delay, a status, a dropped connection.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pydantic import TypeAdapter
from qdrant_client import QdrantClient, models

from funnel.indexing.lease import WRITERS

Route = Callable[["Loopback", str, Any], Any]


class Loopback:
    """What the server does, and how it misbehaves."""

    def __init__(self) -> None:
        self.client = QdrantClient(":memory:")
        self.lock = threading.Lock()
        self.version = "1.17.0"
        self.delay_s = 0.0
        self.status = 200
        self.drop_next = 0
        self.fail_next = 0
        self.stores_left: int | None = None  # then it answers 500 until status is set back
        self.api_key: str | None = None
        self.requests: list[str] = []
        self.indexes: dict[str, dict[str, str]] = {}  # kind by field by collection
        self.url = ""

    def answer(self, method: str, path: str, body: Any) -> Any:
        """The ``result`` of a request."""
        parts = path.strip("/").split("/")
        if parts[:1] == ["aliases"]:
            return self.client.get_aliases()
        if parts == ["collections"]:
            return self.client.get_collections()
        if parts == ["collections", "aliases"]:
            actions = TypeAdapter(models.ChangeAliasesOperation).validate_python(body).actions
            return self.client.update_collection_aliases(actions)
        name, rest = parts[1], "/".join(parts[2:])
        return ROUTES[method, rest](self, name, body)


def _create(server: Loopback, name: str, body: Any) -> Any:
    wanted = models.CreateCollection.model_validate(body)
    return server.client.create_collection(
        name,
        vectors_config=wanted.vectors,
        sparse_vectors_config=wanted.sparse_vectors,
        metadata=wanted.metadata,
    )


def _upsert(server: Loopback, name: str, body: Any) -> Any:
    wanted = models.PointsList.model_validate(body)
    return server.client.upsert(name, wanted.points, update_filter=wanted.update_filter)


def _delete_points(server: Loopback, name: str, body: Any) -> Any:
    return server.client.delete(name, models.PointIdsList.model_validate(body).points)


def _retrieve(server: Loopback, name: str, body: Any) -> Any:
    asked = models.PointRequest.model_validate(body)
    return server.client.retrieve(
        name,
        asked.ids,
        with_payload=asked.with_payload or False,
        with_vectors=asked.with_vector or False,
    )


def _scroll(server: Loopback, name: str, body: Any) -> Any:
    asked = models.ScrollRequest.model_validate(body)
    points, offset = server.client.scroll(
        name,
        asked.filter,
        limit=asked.limit or 10,
        offset=asked.offset,
        with_payload=asked.with_payload or False,
        with_vectors=asked.with_vector or False,
    )
    return {"points": [_plain(point) for point in points], "next_page_offset": offset}


def _query_batch(server: Loopback, name: str, body: Any) -> Any:
    asked = models.QueryRequestBatch.model_validate(body)
    return server.client.query_batch_points(name, asked.searches)


def _update_vectors(server: Loopback, name: str, body: Any) -> Any:
    return server.client.update_vectors(name, models.UpdateVectors.model_validate(body).points)


def _batch(server: Loopback, name: str, body: Any) -> Any:
    asked = models.UpdateOperations.model_validate(body)
    server.client.batch_update_points(name, asked.operations)
    return [{"operation_id": 0, "status": "completed"}]


def _set_payload(server: Loopback, name: str, body: Any) -> Any:
    return server.client.set_payload(name, body["payload"], body["points"])


def _info(server: Loopback, name: str, _: Any) -> Any:
    info = _plain(server.client.get_collection(name))
    made = server.indexes.get(name, {})
    schema = {path: {"data_type": kind, "points": 0} for path, kind in made.items()}
    return {**info, "payload_schema": schema}


def _index(server: Loopback, name: str, body: Any) -> Any:
    path = body["field_name"].replace('"', "")  # as a server writes it where it needs no quotes
    server.indexes.setdefault(name, {})[path] = body["field_schema"]
    return {"operation_id": 0, "status": "completed"}


def _exists(server: Loopback, name: str, body: Any) -> Any:
    names = [c.name for c in server.client.get_collections().collections]
    return {"exists": name in names}


ROUTES: dict[tuple[str, str], Route] = {
    ("GET", ""): _info,
    ("GET", "exists"): _exists,
    ("PUT", ""): _create,
    ("PATCH", ""): lambda server, name, body: server.client.update_collection(
        name, metadata=body["metadata"]
    ),
    ("DELETE", ""): lambda server, name, _: server.client.delete_collection(name),
    ("PUT", "index"): _index,
    ("PUT", "points"): _upsert,
    ("POST", "points"): _retrieve,
    ("POST", "points/delete"): _delete_points,
    ("POST", "points/scroll"): _scroll,
    ("POST", "points/count"): lambda server, name, _: server.client.count(name),
    ("POST", "points/query/batch"): _query_batch,
    ("PUT", "points/vectors"): _update_vectors,
    ("POST", "points/batch"): _batch,
    ("POST", "points/payload"): _set_payload,
}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    loopback: Loopback

    def _handle(self) -> None:
        server = self.loopback
        length = int(self.headers.get("content-length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        path = self.path.split("?")[0]
        server.requests.append(f"{self.command} {path}")
        time.sleep(server.delay_s)
        if server.drop_next:
            server.drop_next -= 1
            self.close_connection = True
            self.connection.close()
            return
        with suppress(ConnectionError):  # a client that gave up waiting
            self._reply(*self._outcome(server, path, body))

    def _outcome(self, server: Loopback, path: str, body: Any) -> tuple[int, Any]:
        if server.fail_next:
            server.fail_next -= 1
            return 503, {"status": {"error": "restarting"}}
        if server.status != 200:
            return server.status, {"status": {"error": "switched on"}}
        if server.api_key and self.headers.get("api-key") != server.api_key:
            return 401, {"status": {"error": "no"}}
        if path == "/":
            return 200, {"title": "loopback", "version": server.version, "commit": None}
        stores = self.command == "PUT" and path.endswith("/points") and WRITERS not in path
        if server.stores_left is not None and stores:
            server.stores_left -= 1
            server.status = 200 if server.stores_left else 500
        with server.lock:
            try:
                result = _plain(server.answer(self.command, path, body))
            except ValueError as error:
                status = 404 if "not found" in str(error) else 400
                return status, {"status": {"error": str(error)}}
        return 200, {"result": result, "status": "ok", "time": 0.0}

    def _reply(self, status: int, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        if status == 429:
            self.send_header("retry-after", "1")
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _handle  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@contextmanager
def serving() -> Iterator[Loopback]:
    """A server on a free port of the loopback interface."""
    loopback = Loopback()
    handler = type("Handler", (_Handler,), {"loopback": loopback})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    loopback.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield loopback
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
