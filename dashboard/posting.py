"""Addresses that change something: they parse a form and work on a thread."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import wraps
from urllib.parse import parse_qsl

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from graft.schemas.errors import GraftError

LARGEST = 2_000_000
"""Maximum bytes of a form; far more than a long response takes."""

Form = Mapping[str, str]


def posted(work: Callable[[Request, Form], Response]) -> Callable[[Request], Awaitable[Response]]:
    """An address that accepts a form (urlencoded, as HTML sends it) and responds on a thread.

    If a field is sent several times the last value counts. Raises GraftError if the form is too large or invalid.
    """

    @wraps(work)
    async def answer(request: Request) -> Response:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > LARGEST:
                raise GraftError(f"a form of more than {LARGEST:,} bytes", where="form", fix="shorten the text")
        try:
            form = dict(parse_qsl(body.decode("utf-8"), keep_blank_values=True, max_num_fields=1000))
        except ValueError as error:
            raise GraftError("this is not a form", where="form", fix="submit it from the page") from error
        if any("\x00" in value for pair in form.items() for value in pair):
            raise GraftError("this form holds a NUL character", where="form", fix="submit it from the page")
        return await run_in_threadpool(work, request, form)

    return answer
