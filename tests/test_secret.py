"""The secret of a home: made once, the same for all, readable by its owner alone."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from schemas.errors import GraftError
from schemas.secret import SHAPE, secret_of


def test_a_secret_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with ThreadPoolExecutor(16) as pool:
        found = set(pool.map(lambda _: secret_of(home, "door.secret"), range(64)))
    assert len(found) == 1 and SHAPE.fullmatch(found.pop())
    assert stat.S_IMODE((home / "door.secret").stat().st_mode) == 0o600
    assert [one.name for one in home.iterdir()] == ["door.secret"], "no part of a file stays behind"
    assert secret_of(home, "other.secret") != secret_of(home, "door.secret")


def test_a_secret_that_is_none_is_refused(tmp_path: Path) -> None:
    open_to_all = tmp_path / "open.secret"
    secret_of(tmp_path, open_to_all.name)
    open_to_all.chmod(0o644)
    (tmp_path / "short.secret").write_text("abc")
    (tmp_path / "short.secret").chmod(0o600)
    (tmp_path / "elsewhere").write_text(secret_of(tmp_path, "good.secret"))
    (tmp_path / "link.secret").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "file").write_text("")
    for folder, name in ((tmp_path, "open.secret"), (tmp_path, "short.secret"), (tmp_path, "link.secret"),
                         (tmp_path / "file", "x.secret")):  # fmt: skip
        with pytest.raises(GraftError) as caught:
            secret_of(folder, name)
        assert name in caught.value.where and "delete it" in caught.value.fix
