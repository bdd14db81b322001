from __future__ import annotations

import subprocess
import sys

import pytest

from damoyolo.cli import VERBS, build_app, by_option, main
from damoyolo.errors import RunError, UserError

COMMAND = [sys.executable, "-c", "import sys; from damoyolo.cli import main; sys.exit(main())"]
QUICK_VERBS = (
    "models",
    "predict",
    "evaluate",
    "convert",
    "train",
    "demo",
    "export",
    "verify",
    "bench",
    "search",
    "doctor",
    "convert-data",
    "push",
)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60)


def verb_that(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Make `damoyolo models` raise."""
    import damoyolo.cli.models

    def fail() -> None:
        raise error

    monkeypatch.setattr(damoyolo.cli.models, "models", fail)


def test_help_names_every_verb_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from damoyolo.cli import main; main(['--help']);"
        "print([name for name in ('torch', 'cv2', 'numpy', 'pydantic') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout
    assert all(verb in shown for verb in VERBS)
    assert shown.splitlines()[-1] == "[]"


@pytest.mark.parametrize("verb", QUICK_VERBS)
def test_the_help_of_a_verb_imports_no_torch(verb: str) -> None:
    code = f"from damoyolo.cli import main; main(['{verb}', '--help'])"
    code += "; import sys; print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout
    assert shown.splitlines()[-1] == "False"


@pytest.mark.parametrize("verb", QUICK_VERBS)
def test_every_option_is_explained(verb: str) -> None:
    for argument in build_app()[verb].assemble_argument_collection(parse_docstring=True):
        assert argument.parameter.help, f"{argument.name} has no help"


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip()[0].isdigit()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["modles"], "error: 'modles' is no command; did you mean 'models'?"),
        (["models", "--jsn"], "Did you mean --json?"),
        (["predict", "x.jpg", "--weights", "S", "--scor", "0.5"], "Did you mean --score?"),
        (["predict", "x.jpg", "--weight", "S"], "is missing; did you mean --weights instead of --weight?"),
        (["predict", "x.jpg", "--weights", "S", "--score", "1.5"], "error: --score: is 1.5; take 0 to 1"),
        (["predict", "x.jpg", "--weights", "S", "--iou", "2"], "error: --iou: is 2; take 0 to 1"),
        (["predict", "x.jpg", "--weights", "S", "--nms-iou", "2"], "error: --iou: is 2; take 0 to 1"),
        (
            ["predict", "x.jpg", "--weights", "S", "--score", "high"],
            "error: --score: 'high' is no number; give one",
        ),
        (["predict", "x.jpg"], "error: --weights: is missing; `damoyolo predict --help` tells of it"),
        (["predict", "x.jpg", "--weights"], "error: --weights: has no value; give one"),
        (
            ["predict", "x.avi", "--count-line", "-2,1,9,9"],
            "as --count-line=VALUE if it begins",
        ),
        (
            ["train", "x", "--teacher", "a", "--teacher", "b"],
            "--teacher: is there more than once",
        ),
        (["app", "--weights", "S", "--port", "99999"], "error: --port: is 99999; take 0 to 65535"),
        (
            ["app", "--weights", "S", "--max-megapixels", "0"],
            "error: --max-megapixels: is 0; take more than 0",
        ),
        (["app", "--weights", "S", "--port", "x"], "error: --port: 'x' is no whole number; give one"),
        (["app", "--weights", "S", "--port", "8.5"], "error: --port: '8.5' is no whole number; give one"),
        (["bench", "S", "--threads", "2.5"], "error: --threads: '2.5' is no whole number; give one"),
        (["demo", "--epochs", "0"], "error: --epochs: is 0; take 1 or more"),
        (["convert-data", "x", "y", "--to", "yol"], "error: --to: 'yol' is none of coco, yolo; did you mean"),
        (["train", "x", "--augment.scale", "1"], "error: --augment.scale: 1 is too little; give its values"),
        (["xyzzy"], "error: 'xyzzy' is no command; there are models, predict, "),
        (["doctor"], "error: DATA: is missing; `damoyolo doctor --help` tells of it"),
        (
            ["predict", "x.jpg", "y.jpg", "--weights", "S"],
            "unexpected argument: y.jpg; an option begins with",
        ),
    ],
)
def test_a_slip_of_the_hand_gets_one_line_and_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    assert message in shown.err


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (UserError("a.json: field 'x' is\n 3; make it 4"), 2, "error: a.json: field 'x' is 3; make it 4\n"),
        (
            MemoryError("393 TiB"),
            1,
            "error: not enough memory (393 TiB); take a smaller --image-size or --batch-size\n",
        ),
        (RunError("the loss is NaN at step 7"), 1, "error: the loss is NaN at step 7\n"),
        (OSError(28, "Disk full", "/full"), 1, "error: [Errno 28] Disk full: '/full'\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_how_a_run_ended_is_told_by_the_code(
    error: BaseException,
    code: int,
    shown: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    verb_that(monkeypatch, error)
    assert main(["models"]) == code
    assert capsys.readouterr() == ("", shown)


@pytest.mark.parametrize(
    ("arguments", "message", "shown"),
    [
        (["models"], "image_size: is odd", "image_size: is odd"),
        (["train", "x"], "image_size: is odd", "--image-size: is odd"),
        (["train", "x"], "optim.lr: is odd", "--optim.lr: is odd"),
        (["train", "x"], "weather: is odd", "weather: is odd"),
        (["doctor", "html/"], "html: does not exist", "html: does not exist"),
        (["doctor", "--html=./html"], "html: is a folder", "html: is a folder"),
        (["train"], "data: nothing to train on", "data: nothing to train on"),
        (["predict", "x", "--weights", "Nx"], "'Nx' is no size", "--weights: 'Nx' is no size"),
        (["predict", "x", "--weights=Nx"], "'Nx' is no size", "--weights: 'Nx' is no size"),
        (["predict", "Nx"], "'Nx' is no picture", "'Nx' is no picture"),
    ],
)
def test_a_setting_is_called_by_its_option(arguments: list[str], message: str, shown: str) -> None:
    assert by_option(message, arguments) == shown


def test_what_there_is_to_list_comes_before_the_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = UserError("a.json: is bad")
    error.add_note("first\n thing")
    error.add_note("and 3 more")
    verb_that(monkeypatch, error)
    assert main(["models"]) == 2
    assert capsys.readouterr().err == "  first thing\n  and 3 more\nerror: a.json: is bad\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "--batch-size foo",
            "--batch-size: must be a valid integer or 'auto' (got 'foo'); take one such as 32",
        ),
        (
            "--batch-size 0",
            "--batch-size: is 0; take 1 or more or 'auto'",
        ),
        ("--epochs -1 --seed -1", "--epochs: is -1; take 1 or more"),
        (
            "--freeze bakbone",
            "--freeze: 'bakbone' is none of backbone, neck, head, norms; did you mean 'backbone'?",
        ),
        (
            "--log-to trackio tensorbord",
            "--log-to: 'tensorbord' is none of tensorboard, wandb, trackio; did you mean 'tensorboard'?",
        ),
        (
            "--freeze backbone bccd",
            "--freeze: 'bccd' is none of backbone, neck, head, norms; "
            "an argument such as DATA goes before the options",
        ),
        (
            "--augment.scale -1 2",
            "--augment.scale: is -1; take more than 0, such as 0.1",
        ),
        (
            "--optim.lr 0",
            "--optim.lr: is 0; take more than 0, such as 0.01",
        ),
        ("--seed -1", "--seed: is -1; take 0 or more"),
        (
            "--augment.flip 2",
            "--augment.flip: is 2; take 1 or less",
        ),
        ("--optim.name adam", "--optim.name: 'adam' is none of sgd, adamw; did you mean 'adamw'?"),
        ("--image-size 32", "--image-size: 32 px is too small; it must be at least 64 (got '32')"),
        (
            "--image-size 12000000",
            "--image-size: 12000000 px is too large; it must be at most 8192, such as 640 (got '12000000')",
        ),
        ("--epochs 1.5", "--epochs: must be a valid integer (got '1.5'); take one such as 300"),
        ("--output=", "--output: is empty; give a value, or leave it out"),
    ],
)
def test_a_wrong_setting_is_told_in_terms_of_the_options(
    options: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *options.split()]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "data", "--output", ""], "--output: is empty"),
        (["train", ""], "an argument: is empty"),
    ],
)
def test_an_empty_argument_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err == f"error: {message}; give a value, or leave it out\n"


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    verb_that(monkeypatch, ZeroDivisionError("ours"))
    with pytest.raises(ZeroDivisionError, match="ours"):
        main(["models"])


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_reader_that_leaves_early_is_told_nothing(options: list[str]) -> None:
    command = [*COMMAND, "models", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 1


def test_a_typo_in_a_real_process_shows_no_traceback() -> None:
    done = run("evaluate", "--annotation", "x.json")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
