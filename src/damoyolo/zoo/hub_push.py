"""Weights of ours to the Hugging Face Hub, with a page that tells what they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from damoyolo.errors import UserError, counted
from damoyolo.zoo.download import is_offline
from damoyolo.zoo.hub import HubName, endpoint, explained, is_hub_name, library, read_hub_name
from damoyolo.zoo.hub_card import hub_card
from damoyolo.zoo.weights import load_weights

CARD_FILE = "README.md"


class Pushed(NamedTuple):
    """What a push left: the address of the repository, the commit, and the files in it."""

    name: str
    url: str
    commit: str
    files: tuple[str, ...]


def push(
    weights: str | Path,
    name: str,
    *,
    private: bool = False,
    licence: str = "apache-2.0",
    replace_card: bool = False,
) -> Pushed:
    """Upload a weights file in one commit, and the page about it where the repository has none.

    Args:
        weights: a file of ours; it is read and checked first.
        name: hf://owner/name[/file.safetensors]; the repository is made if there is none.
        private: made so that only its owner sees it; refused for one that is public already.
        licence: of the weights, as the Hub abbreviates it; stands on the page.
        replace_card: write the page even where there is one.

    Raises:
        UserError: the file is none of ours, the name is none, or the Hub refuses or cannot be reached.
    """
    wanted = read_hub_name(name)
    if wanted.revision:
        raise UserError(f"{name}: a push goes to the main branch; leave out @{wanted.revision}")
    if is_hub_name(weights):
        raise UserError(f"{read_hub_name(weights)}: is on the Hub already; push a file on the disk")
    card = load_weights(weights).card
    hub = library()
    if is_offline():
        raise UserError(f"{name}: nothing is sent offline; unset DAMOYOLO_OFFLINE and HF_HUB_OFFLINE")
    if hub.get_token() is None:
        raise UserError(
            f"{name}: there is no token; log in with `hf auth login`, or set HF_TOKEN to one that may write"
        )
    with explained(wanted):
        api = hub.HfApi(endpoint=endpoint(), library_name="damoyolo")
        there = _repository(api, wanted, private)
        content: dict[str, str | bytes] = {wanted.file: str(weights)}
        if replace_card or CARD_FILE not in there:
            content[CARD_FILE] = hub_card(card, str(wanted), licence).encode()
        commit = api.create_commit(
            wanted.repo,
            [hub.CommitOperationAdd(path, each) for path, each in content.items()],
            commit_message=f"{card.spec.name}, {counted(len(card.class_names), 'class', 'classes')}",
        )
    return Pushed(str(wanted), f"{api.endpoint}/{wanted.repo}", commit.oid, tuple(content))


def _repository(api: Any, wanted: HubName, private: bool) -> set[str]:
    """The files in the repository, which is made if need be."""
    if not api.repo_exists(wanted.repo):
        api.create_repo(wanted.repo, private=private or None, exist_ok=True)
    found = api.model_info(wanted.repo)
    if private and not found.private:
        raise UserError(
            f"{wanted}: the repository is there already and public; make it private on its page, or push "
            "without --private"
        )
    return {file.rfilename for file in found.siblings or ()}
