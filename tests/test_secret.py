"""The secret of a home: made once, the same for all, readable by its owner alone."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from graft.schemas.errors import GraftError
from graft.schemas.secret import SHAPE, secret_in


def test_a_secret_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with ThreadPoolExecutor(16) as pool:
        found = set(pool.map(lambda _: secret_in(home / "door.secret"), range(64)))
    assert len(found) == 1 and SHAPE.fullmatch(found.pop())
    assert stat.S_IMODE((home / "door.secret").stat().st_mode) == 0o600
    kept = [one.name for one in home.iterdir() if not one.name.endswith(".lock")]
    assert kept == ["door.secret"], "no part of a file stays behind"
    assert secret_in(home / "other.secret") != secret_in(home / "door.secret")


@pytest.mark.parametrize("spoilt", ["open to others", "too short", "a link", "another prefix"])
def test_a_secret_that_others_may_know_is_replaced(tmp_path: Path, spoilt: str) -> None:
    file = tmp_path / "door.secret"
    before = secret_in(file)
    if spoilt == "open to others":
        file.chmod(0o644)
    elif spoilt == "too short":
        file.write_text("abc")
    elif spoilt == "a link":
        file.replace(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
    else:
        file.write_text(f"other:{before}")
    after = secret_in(file)
    assert after != before and secret_in(file) == after
    assert stat.S_IMODE(file.lstat().st_mode) == 0o600 and not file.is_symlink()


def test_a_secret_that_cannot_be_kept_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(GraftError, match="cannot be stored") as caught:
        secret_in(tmp_path / "file" / "x.secret")
    assert "x.secret" in caught.value.where and caught.value.fix
