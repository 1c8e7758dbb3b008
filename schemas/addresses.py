"""Model server addresses: normalised, and without any place for a key."""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import SplitResult, urlsplit

from graft.schemas.problems import field_error
from graft.schemas.redaction import has_key

KEY_FIX = "put the key into an environment variable and name it in api_key_env, or in headers_env for a header"
ADDRESS_FIX = "write it like http://127.0.0.1:8000/v1"
_PORTS = {"http": 80, "https": 443}
_ESCAPE = re.compile(r"%[0-9a-fA-F]{2}")


def checked_url(address: str) -> str:
    """The address as `normal_url` writes it.

    Raises:
        FieldErrors: it is no http(s) address, or has a part that holds keys: a user name, a password, a query, a
            fragment, or a path with the shape of a key. The message never repeats the address.
    """
    try:
        parts = urlsplit(address)
        parts.port  # noqa: B018 - reading it raises ValueError where it is no port
    except ValueError:
        raise field_error((), "it is not an address", ADDRESS_FIX) from None
    if parts.scheme.lower() not in _PORTS or not parts.hostname or re.search(r"\s", address):
        raise field_error((), "it is not an http or https address", ADDRESS_FIX)
    for held, part in ((parts.username or parts.password or "@" in parts.netloc, "a user name or password"),
                       (parts.query or "?" in address, "a query string"),
                       (parts.fragment or "#" in address, "a fragment")):  # fmt: skip
        if held:
            raise field_error((), f"an address must not hold {part}", KEY_FIX)
    if has_key(address):
        raise field_error((), "an address must not hold a key", KEY_FIX)
    return normal_url(address)


@lru_cache(maxsize=256)
def normal_url(address: str) -> str:
    """One way to write an address: lower-case scheme and host, no default port, dot segments or slash at the end.

    Text that is no address is returned unchanged.
    """
    try:
        parts = urlsplit(address)
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError:
        return address
    scheme = parts.scheme.lower()
    if not host or not scheme:
        return address
    host = f"[{host}]" if ":" in host else host
    user, at, _ = parts.netloc.rpartition("@")
    place = f"{user}{at}{host}" + (f":{port}" if port is not None and port != _PORTS.get(scheme) else "")
    path = _ESCAPE.sub(lambda escape: escape[0].upper(), _without_dots(parts.path)).rstrip("/")
    return SplitResult(scheme, place, path, parts.query, parts.fragment).geturl()


def without_keys(address: str) -> str:
    """An address of an earlier recipe without the parts that `checked_url` refuses."""
    try:
        parts = urlsplit(address)
        return normal_url(SplitResult(parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", "").geturl())
    except ValueError:
        return address


def _without_dots(path: str) -> str:
    """The path with `.` and `..` resolved (RFC 3986, section 5.2.4)."""
    kept: list[str] = []
    for step in path.split("/"):
        if step == "..":
            del kept[max(1, len(kept) - 1) :]
        elif step != ".":
            kept.append(step)
    return "/".join(kept)
