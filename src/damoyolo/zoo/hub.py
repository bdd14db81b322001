"""Names on the Hugging Face Hub, hf://owner/name, and the files behind them.

Only safetensors are read from there: nothing in them can be executed. `huggingface_hub` (the extra `hub`)
talks to the server, keeps the files in its cache and knows the user's token.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from damoyolo.errors import RunError, UserError
from damoyolo.zoo.download import LARGEST_BYTES, is_offline

DEFAULT_FILE = "model.safetensors"
"""The file that a name without one means."""
WRITTEN_AS = "hf://owner/name, hf://owner/name@revision or hf://owner/name/file.safetensors"
_PREFIX = re.compile(r"hf:/")  # pathlib makes one slash of two
_NAME = re.compile(r"hf:/+([\w.-]+/[\w.-]+)(?:@(refs/[^/@]+/[^/@]+|[^/@]+))?(?:/(.*))?")
_SILENCE_S = 10.0


class HubName(NamedTuple):
    """A file in a repository of the Hub; `revision` is a branch, a tag or a commit, None the main branch."""

    repo: str
    revision: str | None
    file: str

    def __str__(self) -> str:
        file = "" if self.file == DEFAULT_FILE else f"/{self.file}"
        return f"hf://{self.repo}{f'@{self.revision}' if self.revision else ''}{file}"


class Fetched(NamedTuple):
    """A file in the cache, and the name it has for ever: with the commit as its revision."""

    path: Path
    origin: str


def is_hub_name(name: str | Path) -> bool:
    """Whether this means a file on the Hub rather than one on the disk."""
    return _PREFIX.match(str(name)) is not None


def read_hub_name(name: str | Path) -> HubName:
    """The parts of hf://owner/name[@revision][/file.safetensors]; `UserError` for anything else."""
    match = _NAME.fullmatch(str(name))
    if match is None or ".." in str(name).split("/"):
        raise UserError(f"{name}: is no name on the Hugging Face Hub; give {WRITTEN_AS}")
    repo, revision, file = match.groups()
    if file and not file.endswith(".safetensors"):
        raise UserError(
            f"{name}: names no .safetensors file, and nothing else is read from the Hub, because reading it "
            "could run code; download it yourself and turn it into one with `damoyolo convert`"
        )
    return HubName(repo, revision, file or DEFAULT_FILE)


def _to_stderr(message: str) -> None:
    print(message, file=sys.stderr)


def fetch(name: str | Path, *, announce: Callable[[str], None] = _to_stderr) -> Fetched:
    """The file of that name in the cache of huggingface_hub, downloaded if the Hub has another by now.

    Args:
        name: see `read_hub_name`.
        announce: told if the Hub cannot be reached and the copy in the cache is taken.

    Raises:
        UserError: there is no such repository, revision or file, it may not be read, or the Hub cannot be
            reached and the cache has no copy.
    """
    wanted = read_hub_name(name)
    hub = library()
    with explained(wanted):
        reason = _why_unreachable(hub, wanted)
        try:
            path = hub.hf_hub_download(
                wanted.repo,
                wanted.file,
                revision=wanted.revision,
                endpoint=endpoint(),
                local_files_only=reason is not None,
            )
        except hub.errors.LocalEntryNotFoundError as error:
            raise UserError(
                f"{wanted}: is not in the cache, and the Hugging Face Hub cannot be reached "
                f"({reason or 'the connection broke'}); connect, or give the path of a .safetensors file"
            ) from error
    if reason is not None:
        announce(f"{wanted}: the Hub cannot be reached ({reason}), so the copy in the cache is taken")
    return Fetched(Path(path), str(wanted._replace(revision=_commit(Path(path), wanted.file))))


def endpoint() -> str | None:
    """HF_ENDPOINT as it is now, which huggingface_hub reads only when imported; None for its default."""
    return os.environ.get("HF_ENDPOINT") or None


def library() -> Any:
    """huggingface_hub; without it a `UserError` says how to get it."""
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise UserError(
            f"names that begin with hf:// need huggingface_hub, which cannot be imported ({error}); "
            "pip install 'damoyolo[hub]' brings it"
        ) from error


@contextmanager
def explained(wanted: HubName) -> Iterator[None]:
    """What the Hub refuses as a `UserError`, what breaks on the way as a `RunError`.

    A full disk stays an `OSError`.
    """
    errors = importlib.import_module("huggingface_hub.errors")
    try:
        yield
    except (errors.HTTPError, errors.HFValidationError, errors.OfflineModeIsEnabled) as error:
        raise UserError(f"{wanted}: {_in_words(errors, error, wanted)}") from error
    except (RuntimeError, ValueError) as error:
        raise RunError(
            f"{wanted}: {_brief(error)} ({_brief(error.__cause__ or error)}); try again"
        ) from error


def _why_unreachable(hub: Any, wanted: HubName) -> str | None:
    """Nothing if the Hub has the file; its errors are those of the library's, but for the silent ones."""
    if is_offline():
        return "offline"
    url = hub.hf_hub_url(wanted.repo, wanted.file, revision=wanted.revision, endpoint=endpoint())
    try:
        found = hub.get_hf_file_metadata(url, timeout=_SILENCE_S, endpoint=endpoint())
    except hub.errors.HfHubHTTPError as error:
        if error.response.status_code < 500:
            raise
        return f"HTTP {error.response.status_code}"
    except (hub.errors.HTTPError, hub.errors.OfflineModeIsEnabled) as error:
        return _brief(error)
    if (found.size or 0) > LARGEST_BYTES:
        raise UserError(
            f"{wanted}: has {found.size >> 20} MiB, weights have at most {LARGEST_BYTES >> 20}; name another"
        )
    return None


def _in_words(errors: Any, error: Exception, wanted: HubName) -> str:
    """What went wrong and what to do."""
    login = "log in with `hf auth login` or set HF_TOKEN"
    if isinstance(error, errors.GatedRepoError):
        return f"the repository is gated; ask for access on its page, and {login}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"there is no repository {wanted.repo}, or it is private; check the name, or {login}"
    if isinstance(error, errors.RevisionNotFoundError):
        return (
            f"the repository has no revision '{wanted.revision or 'main'}'; check the name, or leave it out"
        )
    if isinstance(error, errors.EntryNotFoundError):
        return f"the repository has no {wanted.file}{_files_there(wanted)}"
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        if status in (401, 403):
            return f"the token may not do that (HTTP {status}); {login}, with a token that may"
        return f"the Hub answers HTTP {status} ({_brief(error)}); try again later"
    if isinstance(error, errors.HFValidationError):
        return f"is no name on the Hugging Face Hub ({_brief(error)}); give {WRITTEN_AS}"
    return f"the Hugging Face Hub cannot be reached ({_brief(error)}); connect and try again"


def _files_there(wanted: HubName) -> str:
    """Which weights there are instead; nothing if that cannot be told either."""
    hub = library()
    try:
        files = hub.HfApi(endpoint=endpoint()).list_repo_files(wanted.repo, revision=wanted.revision)
    except (hub.errors.HTTPError, ValueError):
        return "; check the name"
    weights = [file for file in files if file.endswith(".safetensors")]
    if not weights:
        return " and no other .safetensors file; take another repository"
    names = (str(wanted._replace(file=file)) for file in weights[:5])
    return f"; name one of those that it has: {', '.join(names)}"


def _brief(error: BaseException) -> str:
    """The first line of what a library says, without its last dot and a system's number."""
    first = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return re.sub(r"^\[Errno -?\d+\] ", "", first)


def _commit(path: Path, file: str) -> str | None:
    """Of a file in the cache, where it lies below the name of its commit."""
    folder = path.parents[file.count("/")].name
    return folder if re.fullmatch("[0-9a-f]{40}", folder) else None
