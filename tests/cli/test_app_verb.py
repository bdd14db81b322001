from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from damoyolo.cli import main
from damoyolo.zoo.weights import save_weights
from exportable import lively
from live_server import encoded


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(lively(), path)
    return str(path)


def test_a_real_process_serves_until_it_is_told_to_end(weights: str) -> None:
    code = "import sys; from damoyolo.cli import main; sys.exit(main())"
    options = ["--weights", weights, "--port", "0", "--device", "cpu", "--max-megapixels", "0.002"]
    environment = {**os.environ, "DAMOYOLO_TOKEN": "a-long-secret"}
    with subprocess.Popen(
        [sys.executable, "-c", code, "app", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout
        assert process.stderr
        said, _, address = process.stdout.readline().strip().partition(" at ")
        assert said == "tiny with 3 classes"
        address, _, token = address.partition("#token=")
        answers = [
            httpx.post(
                f"{address}predict",
                content=encoded(),
                headers={"authorization": f"Bearer {given}"},
                timeout=60,
            )
            for given in (token, "another")
        ]
        assert [answer.status_code for answer in answers] == [413, 401]
        assert "more than 0.002 million" in answers[0].json()["error"]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) in (0, 130, -signal.SIGINT)
        assert "Traceback" not in process.stderr.read()


def test_mistakes_are_told_before_anything_is_served(
    weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def error(*options: str) -> str:
        assert main(["app", "--device", "cpu", *options]) == 2
        return capsys.readouterr().err.removeprefix("error: ").strip()

    missing = tmp_path / "missing.safetensors"
    assert error("--weights", str(missing)).startswith(f"{missing}: ")
    assert error("--weights", "Xl").startswith("--weights: 'Xl' is neither a model size nor a weights file")
    assert error("--weights", weights, "--host", "0.0.0.0").startswith("--host: 0.0.0.0 can be reached")
    assert error("--weights", weights, "--token", "short").startswith("--token: has 5 letters")
    assert "--port" in error("--weights", weights, "--port", "70000")
    assert "--max-upload-mb" in error("--weights", weights, "--max-upload-mb", "inf")
    assert "--max-waiting" in error("--weights", weights, "--max-waiting", "0")
    assert error("--weights", weights, "--image-size", "100").startswith(
        "--image-size: 100 px is no multiple"
    )
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert error("--weights", weights, "--port", port).startswith(f"--port: {port} is in use")


def test_without_the_extra_its_name_is_told(
    weights: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["app", "--weights", weights]) == 2
    assert "pip install 'damoyolo[app]' brings what is missing" in capsys.readouterr().err
