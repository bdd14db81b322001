from __future__ import annotations

import re
from pathlib import Path

import pytest

from colour_model import photo, write
from damoyolo.errors import UserError
from damoyolo.prediction import find_images, find_media, video_places
from damoyolo.prediction.sources import is_camera, is_stream, without_password


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images, a broken one between them, and a file that is no image."""
    folder = tmp_path / "photos"
    write(folder / "a.png", photo((64, 96), (8, 16, 16, 24)))
    (folder / "b.jpg").write_bytes(b"\xff\xd8 this is no photograph")
    write(folder / "c.bmp", photo((64, 96), (80, 40, 88, 48)))
    (folder / "notes.txt").write_text("nothing to see")
    return folder


def test_a_source_is_a_file_a_folder_or_a_pattern(folder: Path) -> None:
    write(folder / "deeper" / "d.PNG", photo((8, 8), (0, 0, 8, 8)))
    assert [path.name for path in find_images(folder / "notes.txt")] == ["notes.txt"]  # named, so tried
    assert [path.name for path in find_images(folder)] == ["a.png", "b.jpg", "c.bmp"]
    assert [path.name for path in find_images(f"{folder}/*.[pj]*")] == ["a.png", "b.jpg"]
    assert [path.name for path in find_images(f"{folder}/**/*")] == ["a.png", "b.jpg", "c.bmp", "d.PNG"]


def test_a_source_without_images_is_an_error_that_says_what_to_do(folder: Path) -> None:
    (folder / "empty").mkdir()
    for source, message in {
        folder / "empty": r"has no images; .*\*\*/\*\.jpg",
        f"{folder}/*.gif": "matches no images",
        folder / "absent.jpg": "no such file",
    }.items():
        with pytest.raises(UserError, match=message):
            find_images(source)


def test_a_folder_or_pattern_may_hold_images_and_videos(folder: Path) -> None:
    for name in ("z.mp4", "d.AVI"):
        (folder / name).write_bytes(b"a video")
    media = find_media(folder)
    assert [path.name for path in media.images] == ["a.png", "b.jpg", "c.bmp"]
    assert media.videos == [str(folder / "d.AVI"), str(folder / "z.mp4")]
    assert find_media(f"{folder}/*.mp4") == ([], [str(folder / "z.mp4")])
    assert find_media(folder / "z.mp4") == ([], [str(folder / "z.mp4")])
    assert find_media(folder / "notes.txt") == ([folder / "notes.txt"], [])  # named, so tried
    assert media.waits
    assert find_media(folder / "z.mp4").waits
    assert not find_media(folder / "a.png").waits


@pytest.mark.parametrize("source", ["0", "12", "rtsp://host/path", "https://host:80/a.mp4?x=1"])
def test_cameras_and_streams_are_videos(source: str) -> None:
    assert find_media(source) == ([], [source])
    assert not find_media(source).waits


def test_a_file_whose_name_is_a_number_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "7").write_bytes(b"no camera")
    assert not is_camera("7")
    assert is_camera("8")
    assert not is_camera("photos8")
    assert not is_stream("C:/photos")


def test_nothing_to_predict_is_an_error_that_says_what_to_do(folder: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match="has no images or videos"):
        find_media(folder / "empty")
    with pytest.raises(UserError, match="no such file or folder"):
        find_media("rtsp:/host")


def test_passwords_are_not_shown() -> None:
    assert without_password("rtsp://me:secret@host/a@b") == "rtsp://host/a@b"
    assert without_password("photos/me@home.mp4") == "photos/me@home.mp4"


def test_videos_keep_their_names_and_folders_and_never_collide(folder: Path, tmp_path: Path) -> None:
    files = [folder / "a.mp4", folder / "a.avi", folder / "deeper" / "a.mp4"]
    places = video_places([str(each) for each in files], tmp_path / "out")
    assert [place.relative_to(tmp_path / "out").as_posix() for place in places.values()] == [
        *("a.mp4", "a.avi.mp4", "deeper/a.mp4")
    ]
    with pytest.raises(UserError, match=r"a\.mp4: would be overwritten"):
        video_places([str(folder / "a.mp4")], folder)


def test_what_comes_live_is_kept_under_a_name_with_the_date(tmp_path: Path) -> None:
    camera, stream = video_places(["0", "rtsp://me:secret@10.0.0.7:554/door"], tmp_path).values()
    assert re.fullmatch(r"camera0-\d{8}-\d{6}\.mp4", camera.name)
    assert re.fullmatch(r"stream-10-0-0-7-554-door-\d{8}-\d{6}\.mp4", stream.name)


def test_hidden_files_of_a_folder_are_left_out(folder: Path) -> None:
    """MacOS puts `._a.png`, which is no image, beside `a.png`."""
    (folder / "._a.png").write_bytes(b"\0\5")
    assert [path.name for path in find_media(folder).images] == ["a.png", "b.jpg", "c.bmp"]
    assert [path.name for path in find_images(folder)] == ["a.png", "b.jpg", "c.bmp"]
