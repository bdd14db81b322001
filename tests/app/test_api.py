"""What the server answers, over real connections."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from damoyolo.app.api import OPTIONS
from damoyolo.app.guard import LOCAL_NAMES, Access
from damoyolo.app.limits import Limits
from damoyolo.app.server import STATIC
from damoyolo.assemble.serving import ServedModel
from damoyolo.data.draw import colour_of
from exportable import CLASS_NAMES, photograph
from live_server import encoded, running

TOKEN = "a-long-secret"


@pytest.fixture
def client(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=60) as found:
        yield found


def test_it_finds_what_predict_finds(client: httpx.Client, served: ServedModel) -> None:
    image = photograph(90, 130)
    (wanted,) = served.detect([image], score=0.3, nms_iou=0.5, max_detections=50)
    assert len(wanted) > 5
    answer = client.post("/predict?score=0.3&nms_iou=0.5&max_detections=50", content=encoded(image))
    said = answer.raise_for_status().json()
    assert (said["width"], said["height"], len(said["detections"])) == (130, 90, len(wanted))
    for one, record in zip(said["detections"], wanted.to_records(), strict=True):
        assert (one["label"], one["name"]) == (record["label"], record["name"])
        assert one["score"] == pytest.approx(record["score"], abs=1e-5)
        assert one["box"] == pytest.approx(record["box"], abs=0.01)
    assert said["ms"]["total"] >= said["ms"]["network"] > 0


def test_the_threshold_and_the_limit_are_those_of_predict_by_default(client: httpx.Client) -> None:
    scores = [each["score"] for each in client.post("/predict", content=encoded()).json()["detections"]]
    assert scores == sorted(scores, reverse=True)
    assert min(scores) > 0.4
    assert len(scores) <= 300


@pytest.mark.parametrize(
    ("query", "body", "status", "sentence"),
    [
        ("", b"", 400, "body: is empty; send the bytes of an image file as the body"),
        (
            "",
            b"no image",
            415,
            "image: the body is no file of JPEG, PNG, WEBP, GIF, BMP; send the bytes of one",
        ),
        ("", encoded(suffix=".jpg")[:-40], 422, "image: is truncated, its end is missing; replace the file"),
        (
            "?score=7",
            encoded(),
            422,
            "score: '7' should be less than or equal to 1; correct it or leave it out",
        ),
        ("?nms_iou=x", encoded(), 422, "nms_iou: 'x' should be a valid number"),
        ("?scores=.5", encoded(), 422, "'scores' is no option of /predict; did you mean 'score'?"),
        (
            "?score=.5&classes=cat",
            encoded(),
            422,
            "'classes' is no option of /predict; there are score, nms_iou, max_detections",
        ),
        ("?max_detections=0", encoded(), 422, "max_detections: '0' should be greater than or equal to 1"),
    ],
)
def test_a_wrong_request_gets_a_sentence(
    client: httpx.Client, query: str, body: bytes, status: int, sentence: str
) -> None:
    answer = client.post(f"/predict{query}", content=body)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert answer.json()["error"].startswith(sentence)


@pytest.mark.parametrize(("verb", "path", "status"), [("GET", "/nowhere", 404), ("GET", "/predict", 405)])
def test_a_wrong_address_gets_a_sentence(client: httpx.Client, verb: str, path: str, status: int) -> None:
    answer = client.request(verb, path)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert "/docs tells what there is" in answer.json()["error"]


def test_no_option_that_is_described_is_refused_as_unknown(client: httpx.Client) -> None:
    described = client.get("/openapi.json").json()["paths"]["/predict"]["post"]["parameters"]
    assert tuple(each["name"] for each in described) == OPTIONS


def test_a_wrong_method_is_told_what_to_send(client: httpx.Client) -> None:
    assert client.get("/predict").json()["error"] == (
        "GET /predict: Method Not Allowed; POST the bytes of an image file there, "
        "as curl --data-binary @FILE does; /docs tells what there is"
    )
    assert "Method Not Allowed; it answers to GET; " in client.post("/model").json()["error"]


def test_too_many_bytes_are_refused_before_they_are_read_and_while_they_come(served: ServedModel) -> None:
    with (
        running(served, Limits(upload_mb=0.5)) as address,
        httpx.Client(base_url=address, timeout=60) as client,
    ):
        promised = client.post("/predict", content=bytes(2**20))
        sent = client.post("/predict", content=iter([bytes(2**18)] * 3))
        for answer in (promised, sent):
            assert answer.status_code == 413
            assert answer.json()["error"] == "body: has more than 0.5 MiB; send a smaller or compressed image"


def test_the_card_says_what_the_model_is(client: httpx.Client, served: ServedModel) -> None:
    card = client.get("/model").raise_for_status().json()
    assert (card["name"], card["weights"], card["image_size"]) == ("tiny", "tiny.safetensors", [64, 96])
    assert [each["name"] for each in card["classes"]] == list(CLASS_NAMES)
    assert card["classes"][1]["colour"] == "#{:02x}{:02x}{:02x}".format(*colour_of(1))
    assert card["ap"] is None
    assert card["licence"].startswith("not recorded")
    assert card["spec"]["structure"]["kind"] == "mob"


def test_health_and_metrics_tell_how_it_is(client: httpx.Client) -> None:
    assert client.get("/health").json() == {"status": "ok", "inside": 0, "most_inside": 64}

    def count() -> float:
        text = client.get("/metrics").text
        found = re.search(
            r'^damoyolo_requests_total{path="/predict",status="200"} (\S+)$', text, re.MULTILINE
        )
        return float(found[1]) if found else 0.0

    before = count()
    client.post("/predict", content=encoded()).raise_for_status()
    assert count() == before + 1
    assert "damoyolo_batch_images_bucket" in client.get("/metrics").text


def test_the_pages_need_nothing_from_elsewhere(client: httpx.Client) -> None:
    for path in ("/", "/docs"):
        answer = client.get(path)
        assert "default-src 'none'; script-src 'self'" in answer.headers["content-security-policy"]
        for link in re.findall(r'(?:src|href)="([^"#]+)"', answer.text):
            assert client.get(f"/{link.removeprefix('.')}").status_code == 200, link
    for file in STATIC.iterdir():
        addresses = set(re.findall(r"https?://[^\s\"'`]+", file.read_text()))
        assert addresses <= {"http://www.w3.org/2000/svg"}, file


def test_a_failure_of_the_network_is_told_and_survived(served: ServedModel) -> None:
    calls = []

    def fail_first(*arguments: object, **options: object) -> object:
        calls.append(options)
        if len(calls) == 1:
            raise ValueError("a secret of the inside")
        return served.detect(*arguments, **options)

    broken = dataclasses.replace(served, detect=fail_first)
    with running(broken) as address, httpx.Client(base_url=address, timeout=60) as client:
        answer = client.post("/predict", content=encoded())
        assert (answer.status_code, "secret" in answer.text) == (500, False)
        assert answer.json()["error"].startswith("the server failed")
        assert client.post("/predict", content=encoded()).status_code == 200


def test_a_file_that_suppresses_by_itself_has_its_own_overlap(served: ServedModel) -> None:
    own = dataclasses.replace(served, own_nms=True, nms_iou=0.6)
    with running(own) as address, httpx.Client(base_url=address, timeout=60) as client:
        answer = client.post("/predict?nms_iou=0.5", content=encoded())
        assert answer.status_code == 422
        assert answer.json()["error"] == (
            "nms_iou: is 0.5, but this file suppresses at 0.6 by itself; leave it out"
        )
        assert client.post("/predict?nms_iou=0.6", content=encoded()).status_code == 200


def test_a_token_is_asked_for_where_there_are_secrets(served: ServedModel) -> None:
    with (
        running(served, access=Access(TOKEN)) as address,
        httpx.Client(base_url=address, timeout=60) as client,
    ):
        for given in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {TOKEN}"}):
            for verb, path in (("POST", "/predict"), ("GET", "/model"), ("GET", "/metrics")):
                answer = client.request(verb, path, headers=given)
                assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        known = {"authorization": f"Bearer {TOKEN}"}
        assert client.post("/predict", content=encoded(), headers=known).status_code == 200
        assert client.get("/").status_code == client.get("/health").status_code == 200


def test_a_name_that_was_pointed_here_is_not_served(served: ServedModel) -> None:
    with (
        running(served, access=Access(hosts=LOCAL_NAMES)) as address,
        httpx.Client(base_url=address, timeout=60) as client,
    ):
        assert client.get("/model", headers={"host": "evil.example"}).status_code == 403
        for name in ("localhost:8000", "127.0.0.1", "[::1]:8000"):
            assert client.get("/model", headers={"host": name}).status_code == 200


def test_large_images_wait_in_little_memory(served: ServedModel) -> None:
    prepared = served.prepare(np.zeros((3000, 4000, 3), np.uint8))
    assert prepared.pixels.nbytes == 64 * 96 * 3
    assert prepared.original == (3000, 4000)
