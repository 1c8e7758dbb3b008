"""Pushes an export to a hub with Hugging Face's protocol. The token is read from HF_TOKEN."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.data.export.write import format_of
from graft.schemas.errors import GraftError, KeyMissing, MissingExtra, ModelUnreachable
from graft.schemas.kinds import EXPORTS

if TYPE_CHECKING:
    from huggingface_hub import HfApi

TOKEN, ENDPOINT = "HF_TOKEN", "HF_ENDPOINT"


def check_push(repo: str, format: str, *, restricted: bool, private: bool) -> None:
    """Check a push before anything is written or sent.

    Raises GraftError if it is not allowed, KeyMissing without a token.
    """
    namespace, slash, name = repo.partition("/")
    if not (namespace and slash and name) or "/" in name:
        raise GraftError(f"{repo!r} is not a repository name", where="--push", fix="--push NAMESPACE/NAME")
    if not format_of(format).pushable:
        fits = " or ".join(name for name, one in EXPORTS.all().items() if one.pushable)
        fix = f"--format {fits} --push NAMESPACE/NAME"
        raise GraftError(f"the format {format} cannot be pushed to a hub", where="--push", fix=fix)
    if restricted and not private:
        what = "restricted rows are not pushed to a public repository"
        raise GraftError(what, where="--push", fix="add --private, or omit --restricted")
    if not os.environ.get(TOKEN):
        raise KeyMissing(f"{TOKEN} is not set", where="--push", fix=f"export {TOKEN}=… with write permission")


def push_folder(
    folder: Path, repo: str, *, private: bool = False, restricted: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> str:  # fmt: skip
    """Create the dataset repository if it does not exist, and commit the folder's files to it.

    Data files of an earlier push that are not in the folder are deleted.

    Args:
        folder: A complete export in a format that can be pushed.
        repo: NAMESPACE/NAME.
        private: Create the repository as private, and refuse a public one.
        restricted: The export contains restricted rows; they require `private`.
        say: Receives progress messages.

    Returns:
        The repository's address.

    Raises:
        GraftError: The hub rejects the token or the name, or the repository is public although `private` is set.
        ModelUnreachable: The hub does not answer.
    """
    made = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    restricted = restricted or bool(made["options"]["restricted"])
    check_push(repo, made["format"], restricted=restricted, private=private)
    try:
        import httpx
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
    except ImportError as error:
        raise MissingExtra("huggingface_hub is not installed", fix="pip install huggingface_hub") from error
    endpoint = os.environ.get(ENDPOINT) or None
    api = HfApi(endpoint=endpoint, token=os.environ[TOKEN])
    try:
        return _send(api, folder, made, repo, private, say)
    except OfflineModeIsEnabled:
        raise GraftError("HF_HUB_OFFLINE is set: nothing was sent", where=repo, fix="unset HF_HUB_OFFLINE") from None
    except HFValidationError as error:
        raise GraftError(f"{repo!r} is not a valid repository name", where="--push", fix=str(error)) from None
    except HfHubHTTPError as error:
        raise _refused(error.response.status_code if error.response is not None else 0, repo) from None
    except (httpx.HTTPError, OSError) as error:
        what = f"the hub does not answer ({type(error).__name__})"
        raise ModelUnreachable(what, where=api.endpoint, fix=f"check the network and {ENDPOINT}") from None


def _send(api: HfApi, folder: Path, made: dict[str, Any], repo: str, private: bool, say: Callable[[str], None]) -> str:
    names = ["manifest.json", *(str(one["path"]) for one in made["files"])]
    say(f"{repo}: checking the repository")
    address = api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
    if private and not api.repo_info(repo, repo_type="dataset").private:
        fix = "make it private on the hub first, or push to another name"
        raise GraftError("this repository is already public: nothing was sent", where=repo, fix=fix)
    say(f"{repo}: {len(names)} files")
    api.upload_folder(
        repo_id=repo, repo_type="dataset", folder_path=folder, allow_patterns=names,
        delete_patterns="data/*.parquet", commit_message=f"{made['dataset']}@{made['version']} by Graft",
    )  # fmt: skip
    return str(address)


def _refused(status: int, repo: str) -> GraftError:
    if status == 401:
        return GraftError("the hub does not accept this token", where=repo, fix=f"set a valid token in {TOKEN}")
    if status == 403:
        fix = f"set a token in {TOKEN} with write permission for {repo.partition('/')[0]}"
        return GraftError("this token has no write permission there", where=repo, fix=fix)
    what = f"the hub rejected the push with status {status}" if status else "the hub rejected the push"
    return GraftError(what, where=repo, fix="check the repository on the hub, then push again")
