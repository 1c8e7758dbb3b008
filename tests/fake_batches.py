"""A fake provider of OpenAI's files and batches on loopback, in a thread of this process.

A batch counts as finished `seconds` after it was made. What goes wrong is drawn from each call's custom_id, so that it
does not depend on the order. It stands in for waiting and failure, never for the claim that a real provider works.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
import uuid
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import orjson
from aiohttp import web
from fake_llm import Behaviour, FakeLLM
from in_thread import InThread


@dataclass
class Habits:
    """Behaviour of the provider. Shares are of a batch's calls."""

    seconds: float = 0.0
    failing: float = 0.0
    fail_status: int = 500
    missing: float = 0.0
    broken: float = 0.0
    expire: bool = False
    answered_by_then: float = 0.5
    refuse: str = ""
    lose_results: bool = False
    drop_created: int = 0
    hold_created_s: float = 0.0  # seconds that the answer to a creation takes; the batch is there at once
    late_created: bool = False  # with hold_created_s: the batch is there only after it
    refuse_created: int = 0  # the status that every creation gets
    retry_after: str = ""
    no_list: bool = False
    refuse_files: str = ""
    key: str = ""
    fail_polls: int = 0
    reset_polls: int = 0
    page: int = 100
    refuse_schema: bool = False
    echo_key: bool = False
    reply_text: str = ""


class FakeBatches:
    """The provider's state and handlers."""

    def __init__(self, habits: Habits) -> None:
        self.habits = habits
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.requests: Counter[str] = Counter()
        self.seen: list[dict[str, Any]] = []

    def app(self) -> web.Application:
        app = web.Application(client_max_size=2**28)
        for method, path, handler in (
            ("POST", "/v1/files", self.upload), ("GET", "/v1/files/{id}/content", self.content),
            ("POST", "/v1/batches", self.create), ("GET", "/v1/batches", self.list),
            ("GET", "/v1/batches/{id}", self.retrieve), ("POST", "/v1/batches/{id}/cancel", self.cancel),
        ):  # fmt: skip
            app.router.add_route(method, path, self._checked(handler))
        return app

    def _checked(self, handler: Any) -> Any:
        async def checked(request: web.Request) -> web.StreamResponse:
            self.requests[handler.__name__] += 1
            given = request.headers.get("Authorization")
            if self.habits.key and given != f"Bearer {self.habits.key}":
                return _problem(401, f"no such key {given}")
            answer: web.StreamResponse = await handler(request)
            return answer

        return checked

    async def upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        assert form["purpose"] == "batch"
        if self.habits.refuse_files:
            return _problem(400, f"{self.habits.refuse_files} {request.headers.get('Authorization')}")
        name = f"file-{uuid.uuid4().hex}"
        file = form["file"]
        assert isinstance(file, web.FileField)
        self.files[name] = file.file.read()
        return web.json_response({
            "id": name, "object": "file", "bytes": len(self.files[name]), "created_at": int(time.time()),
            "filename": "x.jsonl", "purpose": "batch", "status": "processed",
        })  # fmt: skip

    async def create(self, request: web.Request) -> web.StreamResponse:
        if self.habits.refuse_created:
            headers = {"Retry-After": self.habits.retry_after} if self.habits.retry_after else {}
            return web.Response(status=self.habits.refuse_created, headers=headers, text="not now")
        given = await request.json()
        name = f"batch_{uuid.uuid4().hex}"
        if self.habits.late_created:
            await asyncio.shield(asyncio.sleep(self.habits.hold_created_s))
        self.batches[name] = {
            "id": name, "object": "batch", "endpoint": given["endpoint"], "input_file_id": given["input_file_id"],
            "completion_window": given["completion_window"], "created_at": int(time.time()), "status": "validating",
            "metadata": given.get("metadata"), "made": time.monotonic(),
        }  # fmt: skip
        self.seen.append(given)
        if self.habits.hold_created_s and not self.habits.late_created:
            await asyncio.sleep(self.habits.hold_created_s)
        if self.habits.drop_created:
            self.habits.drop_created -= 1
            assert request.transport is not None
            request.transport.abort()
        return self._status_of(name)

    async def retrieve(self, request: web.Request) -> web.StreamResponse:
        if self.habits.fail_polls:
            self.habits.fail_polls -= 1
            return _problem(503, "come back later")
        if self.habits.reset_polls:
            self.habits.reset_polls -= 1
            assert request.transport is not None
            request.transport.abort()
            return web.Response(status=500)
        name = request.match_info["id"]
        return self._status_of(name) if name in self.batches else _problem(404, "no such batch")

    async def list(self, request: web.Request) -> web.Response:
        if self.habits.no_list:
            return _problem(404, "no such address")
        names = list(reversed(self.batches))
        after = request.query.get("after")
        names = names[names.index(after) + 1 :] if after else names
        page = names[: self.habits.page]
        data = [self._public(name) for name in page]
        return web.json_response({
            "object": "list", "data": data, "has_more": len(names) > len(page), "first_id": page[0] if page else None,
            "last_id": page[-1] if page else None,
        })  # fmt: skip

    async def cancel(self, request: web.Request) -> web.Response:
        batch = self.batches[request.match_info["id"]]
        if batch["status"] in ("validating", "in_progress"):
            batch["status"] = "cancelling"
        return self._status_of(batch["id"])

    async def content(self, request: web.Request) -> web.Response:
        name = request.match_info["id"]
        if name not in self.files or (self.habits.lose_results and name.startswith("out")):
            return _problem(404, "no such file")
        return web.Response(body=self.files[name])

    def _status_of(self, name: str) -> web.Response:
        return web.json_response(self._public(name))

    def _public(self, name: str) -> dict[str, Any]:
        batch = self.batches[name]
        if batch["status"] == "cancelling":
            self._finish(batch, "cancelled")
        elif batch["status"] in ("validating", "in_progress"):
            if time.monotonic() - batch["made"] >= self.habits.seconds:
                self._finish(batch, "expired" if self.habits.expire else "completed")
            else:
                batch["status"] = "in_progress"
        return {field: value for field, value in batch.items() if field != "made"}

    def _finish(self, batch: dict[str, Any], status: str) -> None:
        if self.habits.refuse:
            batch["status"] = "failed"
            batch["errors"] = {
                "object": "list",
                "data": [{"code": "invalid", "message": self.habits.refuse, "line": 1}],
            }
            return
        batch["status"] = status
        good, bad = [], []
        lines = [orjson.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]
        for line in lines:
            result = self._result(line, status)
            if result is not None:
                fine = (result["response"] or {}).get("status_code") == 200
                (good if fine else bad).append(orjson.dumps(result))
        random.Random(batch["id"]).shuffle(good)
        for field, kept in (("output_file_id", good), ("error_file_id", bad)):
            if kept:
                batch[field] = f"{field[:3]}-{uuid.uuid4().hex}"
                self.files[batch[field]] = b"\n".join(kept) + b"\n"
        batch["request_counts"] = {"total": len(lines), "completed": len(good), "failed": len(bad)}

    def _result(self, line: dict[str, Any], status: str) -> dict[str, Any] | None:
        how, key, body = self.habits, line["custom_id"], line["body"]
        draw = random.Random(hashlib.blake2b(key.encode(), digest_size=8).digest()).random()
        result: dict[str, Any] = {"id": f"r-{key}", "custom_id": key, "response": None, "error": None}
        if status != "completed" and draw >= how.answered_by_then:
            if status == "expired":
                result["error"] = {"code": "batch_expired", "message": "it ran out of time"}
                return result
            return None
        if draw < how.missing:
            return None
        draw -= how.missing
        if draw < how.failing or (how.refuse_schema and "response_format" in body):
            code = how.fail_status if draw < how.failing else 400
            message = "response_format is not supported" if draw >= how.failing else "it failed"
            if how.echo_key:
                message += f" for {how.key}"
            result["response"] = {"status_code": code, "body": {"error": {"message": message}}}
            return result
        draw -= how.failing
        result["response"] = {"status_code": 200, "request_id": "q", "body": self._answer(line, draw < how.broken)}
        return result

    def _answer(self, line: dict[str, Any], broken: bool) -> dict[str, Any]:
        body, chat = line["body"], line["url"].endswith("chat/completions")
        text = "no JSON" if broken else self.habits.reply_text
        model = FakeLLM(Behaviour(reply_text=text))
        return model._payload(body, random.Random(orjson.dumps(body)), chat)


class ServingBatches(InThread):
    """The provider in a thread of this process. `url` ends in /v1."""

    def __init__(self, **habits: Any) -> None:
        self.fake = FakeBatches(Habits(**habits))
        super().__init__(self.fake.app())

    def set(self, **habits: Any) -> None:
        """Behave otherwise from now on."""
        self.fake.habits = Habits(**{**asdict(self.fake.habits), **habits})

    @property
    def requests(self) -> Counter[str]:
        """Requests by name of the handler."""
        return self.fake.requests

    def sent(self) -> list[list[dict[str, Any]]]:
        """The lines of every batch that was made, in order."""
        files = (self.fake.files[batch["input_file_id"]] for batch in self.fake.batches.values())
        return [[orjson.loads(line) for line in file.splitlines()] for file in files]


def _problem(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message, "type": "invalid_request_error"}}, status=status)
