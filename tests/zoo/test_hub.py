from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

import damoyolo as dy
from damoyolo.assemble.models import first_detector, load_teacher
from damoyolo.assemble.settings import resolve
from damoyolo.cli import main
from damoyolo.errors import UserError
from damoyolo.nn.detector import build_detector
from damoyolo.spec import ModelCard
from damoyolo.zoo import read_spec
from damoyolo.zoo.hub import HubName, fetch, is_hub_name, read_hub_name
from damoyolo.zoo.hub_card import hub_card
from damoyolo.zoo.hub_push import push
from damoyolo.zoo.weights import save_weights
from fake_hub import FakeHub, Repository, standing_in

pytest.importorskip("huggingface_hub")

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # among its own libraries

LINEAGE = {
    "source": "trained",
    "data": "cells",
    "epochs": 3,
    "seed": 0,
    "validation": {"ap": 0.5, "ap50": 0.75},
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    card = ModelCard(spec=read_spec("Ns"), class_names=("cat", "a<b|c"), image_size=(64, 64), lineage=LINEAGE)
    path = tmp_path_factory.mktemp("weights") / "best.safetensors"
    save_weights(build_detector(card).eval(), path)
    return path


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """An empty hub, an empty cache, and a token that may write."""
    with standing_in(monkeypatch, tmp_path) as running:
        yield running


@pytest.fixture
def shelf(hub: FakeHub, weights: Path) -> FakeHub:
    """A hub with one repository."""
    hub.repositories["me/cells"] = Repository()
    hub.repositories["me/cells"].commit({"model.safetensors": weights.read_bytes(), "README.md": b"# mine"})
    return hub


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("hf://me/cells", ("me/cells", None, "model.safetensors")),
        ("hf://me/cells/", ("me/cells", None, "model.safetensors")),
        ("hf://me/cells@v1.0", ("me/cells", "v1.0", "model.safetensors")),
        ("hf://me/cells@refs/pr/3/a/b.safetensors", ("me/cells", "refs/pr/3", "a/b.safetensors")),
        ("hf:/me/cells/best.safetensors", ("me/cells", None, "best.safetensors")),
    ],
)
def test_the_parts_of_a_name(name: str, parts: tuple[str, str | None, str]) -> None:
    assert is_hub_name(name)
    assert read_hub_name(name) == HubName(*parts)
    assert read_hub_name(str(read_hub_name(name))) == HubName(*parts)


@pytest.mark.parametrize(
    "name", ["hf://", "hf://me", "hf://me/a b", "hf://me/cells@", "hf://me/cells/../x.safetensors"]
)
def test_what_is_no_name_is_told_how_one_looks(name: str) -> None:
    with pytest.raises(UserError, match=r"is no name on the Hugging Face Hub; give hf://owner/name, "):
        read_hub_name(name)


def test_nothing_but_safetensors_is_named() -> None:
    with pytest.raises(UserError, match=r"names no \.safetensors file.*`damoyolo convert`"):
        read_hub_name("hf://me/cells/model.pth")


def test_paths_are_no_names() -> None:
    assert not any(map(is_hub_name, ("S", "hf.safetensors", "runs/hf:/x", Path("a/b.pth"))))


def test_weights_are_downloaded_once_and_their_commit_is_kept(shelf: FakeHub, weights: Path) -> None:
    model = dy.load("hf://me/cells")
    head = shelf.repositories["me/cells"].head
    assert model.card.lineage == {**LINEAGE, "origin": f"hf://me/cells@{head}"}
    expected = dy.load(weights).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())
    dy.load(Path("hf://me/cells"))
    dy.load(model.card.lineage["origin"])
    assert sum(request.startswith("GET /me/cells/resolve") for request in shelf.requests) == 1


def test_a_cached_copy_serves_where_the_hub_cannot_be_reached(
    shelf: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fetch("hf://me/cells")
    said: list[str] = []
    shelf.status = 503
    assert fetch("hf://me/cells", announce=said.append) == first
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens
    assert fetch("hf://me/cells", announce=said.append) == first
    monkeypatch.setenv("DAMOYOLO_OFFLINE", "1")
    asked = len(shelf.requests)
    assert fetch("hf://me/cells", announce=said.append) == first
    assert len(shelf.requests) == asked
    assert [sentence.split("(")[1].split(")")[0] for sentence in said[::2]] == ["HTTP 503", "offline"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf://me/dogs", "there is no repository me/dogs, or it is private; check the name, or log in"),
        ("hf://me/secret", "there is no repository me/secret, or it is private"),
        ("hf://me/gated", "the repository is gated; ask for access on its page"),
        ("hf://me/cells@v9", "the repository has no revision 'v9'"),
        (
            "hf://me/cells/best.safetensors",
            "has no best.safetensors; name one of those that it has: hf://me/cells",
        ),
        ("hf://me/cells@main/best.safetensors", "name one of those that it has: hf://me/cells@main"),
        ("hf://me/empty", "has no model.safetensors and no other .safetensors file"),
        ("hf://me/a--b", "is no name on the Hugging Face Hub"),
        ("hf://me/pickle", "calls itself safetensors and is something else, which is not read"),
        ("hf://me/foreign", "was not written by damoyolo"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(
    name: str,
    message: str,
    shelf: FakeHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from safetensors.torch import save

    monkeypatch.delenv("HF_TOKEN")
    shelf.repositories |= {
        "me/secret": Repository(private=True),
        "me/gated": Repository(gated=True),
        "me/empty": Repository(),
        "me/pickle": Repository(),
        "me/foreign": Repository(),
    }
    shelf.repositories["me/empty"].commit({"README.md": b""})
    shelf.repositories["me/pickle"].commit({"model.safetensors": pickle.dumps({})})
    shelf.repositories["me/foreign"].commit({"model.safetensors": save({"a": torch.zeros(1)})})
    (tmp_path / "x.jpg").touch()
    assert main(["predict", str(tmp_path / "x.jpg"), "--weights", name]) == 2
    shown = capsys.readouterr().err.splitlines()
    assert message in shown[-1]
    assert shown[-1].startswith("error: ")


def test_without_hub_or_copy_the_remedy_is_told(shelf: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.status = 500
    with pytest.raises(UserError, match=r"is not in the cache, and the .* \(HTTP 500\); connect, or"):
        fetch("hf://me/cells")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=r"\(offline\); connect, or"):
        fetch("hf://me/cells")


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install 'damoyolo\[hub\]'"):
        fetch("hf://me/cells")


def test_what_is_pushed_can_be_loaded(
    hub: FakeHub, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(weights), "hf://me/new", "--private", "--licence", "mit"]) == 0
    repository = hub.repositories["me/new"]
    assert repository.private
    assert repository.commits[repository.head]["model.safetensors"] == weights.read_bytes()
    assert capsys.readouterr().out.splitlines() == [
        f"{hub.url}/me/new: model.safetensors and README.md, commit {repository.head[:12]}",
        "use it with --weights hf://me/new",
    ]
    assert dy.load("hf://me/new").card.class_names == ("cat", "a<b|c")
    page = repository.commits[repository.head]["README.md"].decode()
    assert "0.500, AP50 0.750 on the validation images of cells" in page
    assert "--weights hf://me/new" in page
    assert yaml.safe_load(page.split("---")[1])["license"] == "mit"


def test_a_page_that_is_there_is_kept_unless_it_is_to_be_replaced(shelf: FakeHub, weights: Path) -> None:
    assert push(weights, "hf://me/cells/other.safetensors").files == ("other.safetensors",)
    repository = shelf.repositories["me/cells"]
    assert repository.commits[repository.head].keys() == {
        "model.safetensors",
        "other.safetensors",
        "README.md",
    }
    assert repository.commits[repository.head]["README.md"] == b"# mine"
    assert push(weights, "hf://me/cells", replace_card=True).files == ("model.safetensors", "README.md")
    assert b"AP50" in repository.commits[repository.head]["README.md"]


def test_a_push_that_cannot_be_is_one_sentence_and_leaves_nothing(
    shelf: FakeHub, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(shelf.repositories["me/cells"].commits)
    with pytest.raises(UserError, match="goes to the main branch; leave out @v1"):
        push(weights, "hf://me/cells@v1")
    torch.save({"a": torch.zeros(1)}, tmp_path / "theirs.pth")
    with pytest.raises(UserError, match="hf://me/dogs: is on the Hub already; push a file on the disk"):
        push(Path("hf://me/dogs"), "hf://me/cells")
    with pytest.raises(UserError, match="convert it with `damoyolo convert"):
        push(tmp_path / "theirs.pth", "hf://me/cells")
    with pytest.raises(UserError, match="there already and public"):
        push(weights, "hf://me/cells", private=True)
    shelf.may_write = False
    with pytest.raises(UserError, match=r"the token may not do that \(HTTP 403\)"):
        push(weights, "hf://me/cells")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"the Hugging Face Hub cannot be reached \(Connection refused"):
        push(weights, "hf://me/cells")
    monkeypatch.setenv("DAMOYOLO_OFFLINE", "1")
    with pytest.raises(UserError, match="nothing is sent offline"):
        push(weights, "hf://me/cells")
    monkeypatch.delenv("DAMOYOLO_OFFLINE")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match="there is no token; log in with `hf auth login`"):
        push(weights, "hf://me/cells")
    assert len(shelf.repositories["me/cells"].commits) == before


def test_a_push_that_breaks_on_its_way_is_a_failed_run(
    hub: FakeHub, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.has_room = False
    assert main(["push", str(weights), "hf://me/new"]) == 1
    assert (
        "error: hf://me/new: Error while uploading 'model.safetensors' to the Hub" in capsys.readouterr().err
    )
    assert not hub.repositories["me/new"].commits


def test_a_run_begins_from_the_hub_and_has_its_teacher_there(shelf: FakeHub, tmp_path: Path) -> None:
    where = "hf://me/cells"
    settings = {"data": tmp_path, "model": where, "teacher": where, "image_size": "64"}
    config = resolve(None, settings)
    assert config.optim == resolve("finetune", settings).optim
    detector, origin = first_detector(config, ("cat", "dog"))
    assert origin.startswith("Ns from hf://me/cells; classes kept: 'cat'; begun anew: 'dog'")
    assert detector.card.lineage["teacher"] == where
    assert detector.card.lineage["from"]["origin"].startswith(f"{where}@")
    found = load_teacher(config, detector.card.model_copy(update={"class_names": ("a<b|c", "cat")}))
    assert found is not None
    assert found[1].startswith("learns from Ns, hf://me/cells")


@pytest.mark.parametrize(
    ("lineage", "expected"),
    [
        ({}, "not recorded in the file; measure it"),
        ({"source": "converted"}, "0.323 on COCO val2017, as the authors published"),
        ({**LINEAGE, "from": {"source": "converted", "file": "x.pth"}}, "from weights converted from x.pth"),
        ({**LINEAGE, "teacher": "hf://me/large"}, "with hf://me/large as its teacher"),
    ],
)
def test_a_page_claims_no_more_than_the_file_knows(lineage: dict[str, object], expected: str) -> None:
    from damoyolo.zoo import coco_class_names

    spec = read_spec("Ns")
    card = ModelCard(spec=spec, class_names=coco_class_names(), image_size=(64, 64), lineage=lineage)
    assert expected in hub_card(card, "hf://me/x", "mit")
