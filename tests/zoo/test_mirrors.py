from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

import reference_files
from damoyolo.errors import UserError
from damoyolo.zoo import SIZES
from damoyolo.zoo.mirrors import Mirrors, Place, find_weights, read_mirrors
from damoyolo.zoo.weights import load_weights


class Server:
    """Serves on this machine what `answers` says for a path, and counts the requests."""

    def __init__(self) -> None:
        self.answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        self.requests: list[str] = []
        self.stop = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.requests.append(self.path)
                answer = server.answers.get(self.path)
                answer(self) if answer else self.send_error(404)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.stop.set()
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    def mirrors(self, *paths: str) -> Mirrors:
        port = self.http.server_port
        return Mirrors(
            files=tuple(
                Place(name=path, url=f"http://127.0.0.1:{port}{path}", sizes=SIZES) for path in paths
            ),
            pages=(Place(name="page", url="https://example.org/damo-{size}", sizes=("Ns",)),),
        )

    def whole(self, content: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
        return partial(_send, content=content, length=len(content))

    def truncated(self, content: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
        return partial(_send, content=content[: len(content) // 2], length=len(content))

    def unannounced(self, content: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
        return partial(_send, content=content, length=None)

    def silent(self, handler: BaseHTTPRequestHandler) -> None:
        _send(handler, content=b"PK\x03\x04", length=1000)
        self.stop.wait(10)

    def dripping(self, handler: BaseHTTPRequestHandler) -> None:
        _send(handler, content=b"PK\x03\x04", length=1000)
        while not self.stop.wait(0.02):
            handler.wfile.write(b"x")
            handler.wfile.flush()


def _send(handler: BaseHTTPRequestHandler, content: bytes, length: int | None) -> None:
    handler.send_response(200)
    if length is not None:
        handler.send_header("Content-Length", str(length))
    handler.end_headers()
    handler.wfile.write(content)
    handler.wfile.flush()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("DAMOYOLO_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("DAMOYOLO_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return reference_files.checkpoint(
        tmp_path_factory.mktemp("reference") / "Ns.pt", date="2023"
    ).read_bytes()


@pytest.fixture(scope="module")
def other_nano(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return reference_files.checkpoint(
        tmp_path_factory.mktemp("reference") / "Ns.pt", date="2024"
    ).read_bytes()


def left_behind(tmp_path: Path) -> list[str]:
    home = tmp_path / "home"
    return sorted(path.name for path in home.iterdir()) if home.exists() else []


def test_a_good_file_is_checked_stored_and_announced(server: Server, nano: bytes, tmp_path: Path) -> None:
    server.answers["/nano.pt"] = server.whole(nano)
    said: list[str] = []
    seen: list[tuple[int, int | None]] = []
    mirrors = server.mirrors("/nano.pt")
    path = find_weights("ns", mirrors=mirrors, announce=said.append, progress=lambda *n: seen.append(n))
    assert path == tmp_path / "home" / "Ns.safetensors"
    digest, url = hashlib.sha256(nano).hexdigest(), mirrors.files[0].url
    assert len(said) == 1
    assert digest in said[0]
    assert url in said[0]
    assert seen[-1] == (len(nano), len(nano))
    card = load_weights(path).card
    assert card.lineage == {"source": "converted", "file": "nano.pt", "sha256": digest, "origin": url}
    assert left_behind(tmp_path) == ["Ns.safetensors", "hashes.json"]


def test_the_hash_is_printed_by_default(
    server: Server, nano: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers["/nano.pt"] = server.whole(nano)
    find_weights("Ns", mirrors=server.mirrors("/nano.pt"))
    output = capsys.readouterr()
    assert hashlib.sha256(nano).hexdigest() in output.err
    assert output.out == ""


def test_what_is_stored_is_not_fetched_again(server: Server, nano: bytes) -> None:
    server.answers["/nano.pt"] = server.whole(nano)
    first = find_weights("Ns", mirrors=server.mirrors("/nano.pt"))
    assert find_weights("Ns", mirrors=server.mirrors("/nano.pt")) == first
    assert server.requests == ["/nano.pt"]


def test_mirrors_are_tried_in_order_until_one_is_good(server: Server, nano: bytes) -> None:
    server.answers |= {"/damaged.pt": server.truncated(nano), "/good.pt": server.unannounced(nano)}
    find_weights("Ns", mirrors=server.mirrors("/absent.pt", "/damaged.pt", "/good.pt", "/unused.pt"))
    assert server.requests == ["/absent.pt", "/damaged.pt", "/good.pt"]


def assert_refused(server: Server, tmp_path: Path, answer: Callable[..., None] | None, reason: str) -> None:
    if answer is not None:
        server.answers["/x.pt"] = answer
    mirrors = server.mirrors("/x.pt")
    with pytest.raises(UserError, match=reason) as error:
        find_weights("Ns", mirrors=mirrors, timeout_s=0.3)
    message = str(error.value)
    assert message.startswith(f"no weights of Ns in {tmp_path / 'home'} and from {mirrors.files[0].url} (")
    assert f"https://example.org/damo-ns) as Ns.pth in {tmp_path / 'home'}" in message
    assert " and run the same command again, or give the path" in message
    assert ".download-" not in message
    assert left_behind(tmp_path) == []


def test_an_absent_file_is_reported(server: Server, tmp_path: Path) -> None:
    assert_refused(server, tmp_path, None, "HTTP 404 Not Found")


def test_a_truncated_file_is_refused(server: Server, nano: bytes, tmp_path: Path) -> None:
    reason = f"ended after {len(nano) // 2} of {len(nano)} bytes"
    assert_refused(server, tmp_path, server.truncated(nano), reason)


def test_a_truncated_file_of_unannounced_length_is_refused(
    server: Server, nano: bytes, tmp_path: Path
) -> None:
    assert_refused(server, tmp_path, server.unannounced(nano[:-2000]), r"x\.pt: is truncated, damaged")


def test_an_error_page_with_status_ok_is_refused(server: Server, tmp_path: Path) -> None:
    assert_refused(server, tmp_path, server.whole(b"<html>sign in</html>"), r"x\.pt: holds no weights")


def test_weights_of_another_size_are_refused(server: Server, tmp_path: Path) -> None:
    content = reference_files.checkpoint(tmp_path / "other.pt", size="Nm").read_bytes()
    assert_refused(server, tmp_path, server.whole(content), "holds the weights of Nm, which is not the Ns")


def test_weights_of_the_size_with_a_wrong_shape_are_refused(server: Server, tmp_path: Path) -> None:
    state = {key: tensor.clone() for key, tensor in reference_files.state("Ns").items()}
    state["neck.bu_conv13.dwnorm.bias"] = torch.zeros(5)
    torch.save(state, tmp_path / "wrong.pt")
    content = (tmp_path / "wrong.pt").read_bytes()
    assert_refused(
        server, tmp_path, server.whole(content), r"1 misshapen \(neck\.bu_conv13\.dwnorm\.bias \[5\]"
    )


def test_weights_for_other_classes_are_refused(server: Server, tmp_path: Path) -> None:
    state = {key: tensor.clone() for key, tensor in reference_files.state("Ns", channels=7).items()}
    torch.save(state, tmp_path / "seven.pt")
    content = (tmp_path / "seven.pt").read_bytes()
    assert_refused(server, tmp_path, server.whole(content), "has 7 classes, but the published Ns has 80")


def test_a_malicious_pickle_is_refused_unexecuted(server: Server, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    reference_files.checkpoint(tmp_path / "evil.pt", extra=reference_files.Malice(trace))
    content = (tmp_path / "evil.pt").read_bytes()
    assert_refused(server, tmp_path, server.whole(content), r"asks for 'posix\.mkdir' .* would execute code")
    assert not trace.exists()


def test_a_silent_server_is_given_up(server: Server, tmp_path: Path) -> None:
    assert_refused(server, tmp_path, server.silent, r"silent for 0\.3 s")


def test_a_server_that_drips_is_given_up(server: Server, tmp_path: Path) -> None:
    assert_refused(server, tmp_path, server.dripping, "slower than 10 KiB/s")


def test_an_endless_file_is_refused_before_it_fills_the_disk(server: Server, tmp_path: Path) -> None:
    assert_refused(server, tmp_path, partial(_send, content=b"PK", length=1 << 40), "larger than 1024 MiB")


def test_a_server_that_is_gone_is_reported(server: Server, tmp_path: Path) -> None:
    mirrors = server.mirrors("/x.pt")
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(UserError, match="Connection refused"):
        find_weights("Ns", mirrors=mirrors)


def test_another_hash_than_remembered_is_refused_unless_accepted(
    server: Server, nano: bytes, other_nano: bytes
) -> None:
    mirrors = server.mirrors("/x.pt")
    server.answers["/x.pt"] = server.whole(nano)
    find_weights("Ns", mirrors=mirrors).unlink()
    server.answers["/x.pt"] = server.whole(other_nano)
    known, new = hashlib.sha256(nano).hexdigest(), hashlib.sha256(other_nano).hexdigest()
    with pytest.raises(UserError, match=rf"SHA-256 is {new}, but {known} came from http.* before"):
        find_weights("Ns", mirrors=mirrors)
    path = find_weights("Ns", mirrors=mirrors, accept_new_hash=True)
    assert load_weights(path).card.lineage["sha256"] == new
    path.unlink()
    find_weights("Ns", mirrors=mirrors)


def test_stored_weights_that_changed_are_refused_unless_accepted(server: Server, nano: bytes) -> None:
    server.answers["/x.pt"] = server.whole(nano)
    path = find_weights("Ns", mirrors=server.mirrors("/x.pt"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"Ns\.safetensors: SHA-256 is .* was stored; delete the file"):
        find_weights("Ns", mirrors=Mirrors())
    assert find_weights("Ns", mirrors=Mirrors(), accept_new_hash=True) == path
    assert find_weights("Ns", mirrors=Mirrors()) == path


@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_a_checkpoint_put_in_the_folder_is_used_without_network(
    nano: bytes, tmp_path: Path, suffix: str
) -> None:
    (tmp_path / f"Ns{suffix}").write_bytes(nano)
    path = find_weights("Ns", folder=tmp_path, mirrors=Mirrors())
    assert path == tmp_path / "Ns.safetensors"
    assert load_weights(path).card.lineage["origin"] == f"Ns{suffix}"


def test_stored_weights_are_checked_before_they_are_first_used(nano: bytes, tmp_path: Path) -> None:
    (tmp_path / "Ns.pth").write_bytes(nano)
    stored = find_weights("Ns", folder=tmp_path, mirrors=Mirrors())
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "Ns.safetensors").write_bytes(stored.read_bytes())
    (elsewhere / "T.safetensors").write_bytes(stored.read_bytes())
    assert find_weights("Ns", folder=elsewhere, mirrors=Mirrors()) == elsewhere / "Ns.safetensors"
    with pytest.raises(UserError, match=r"T\.safetensors: holds the weights of Ns, which is not the T"):
        find_weights("T", folder=elsewhere, mirrors=Mirrors())


@pytest.mark.parametrize("variable", ["DAMOYOLO_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_asks_no_mirror(
    server: Server, nano: bytes, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    server.answers["/x.pt"] = server.whole(nano)
    monkeypatch.setenv(variable, "1")
    with pytest.raises(UserError, match=r"/x\.pt \(not tried: offline\)"):
        find_weights("Ns", mirrors=server.mirrors("/x.pt"))
    assert server.requests == []
    monkeypatch.setenv(variable, "0")
    assert find_weights("Ns", mirrors=server.mirrors("/x.pt")).exists()


def test_without_any_mirror_the_sentence_says_where_to_put_a_file(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        find_weights("L", mirrors=Mirrors())
    assert str(error.value) == (
        f"no weights of L in {tmp_path / 'home'} and no mirror is known; save a checkpoint of the original "
        f"DAMO-YOLO as L.pth in {tmp_path / 'home'}, a folder to be made, and run the same command again, or "
        "give the path of a .safetensors or .pth file instead of 'L'"
    )
    (tmp_path / "home").mkdir()
    with pytest.raises(UserError, match=r"in .*home and run the same command again"):
        find_weights("L", mirrors=Mirrors())


def test_a_folder_that_cannot_be_made_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        UserError, match=r"file/home: cannot be written \(Not a directory\); set DAMOYOLO_HOME"
    ):
        find_weights("Ns", folder=tmp_path / "file" / "home", mirrors=server.mirrors("/x.pt"))


def test_an_unknown_size_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean"):
        find_weights("Nz", mirrors=Mirrors())


def test_the_shipped_list_names_known_sizes_and_plain_addresses() -> None:
    mirrors = read_mirrors()
    assert mirrors.files
    for place in (*mirrors.files, *mirrors.pages):
        assert set(place.sizes) <= set(SIZES)
        assert "{" not in place.address("Ns")
    expected = "https://huggingface.co/LibreYOLO/LibreDAMOYOLOns/resolve/main/LibreDAMOYOLOns.pt"
    assert mirrors.files[0].address("Ns") == expected
