"""Seconds that `damoyolo doctor` takes for thousands of images: annotations alone, then pixels, too.

    python benchmarks/doctor.py [--images 5000] [--boxes 36000] [--data a/folder/of/your/own]

Without `--data`, images of 640 x 480 with random boxes are drawn into a temporary folder first.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np

from damoyolo.assemble import doctor

HEIGHT, WIDTH = 480, 640
CLASSES = 10
VAL_SHARE = 0.2


def write_data(folder: Path, images: int, boxes: int) -> None:
    """Smooth random colours as JPEG, and a COCO file per split with boxes of 4 to 200 pixels."""
    (folder / "images").mkdir()
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda number: write_image(folder / "images" / f"{number}.jpg", number), range(images)))
    random = np.random.default_rng(0)
    owners = random.integers(0, images, boxes)
    sides = random.integers(4, 200, (boxes, 2))
    corners = (random.random((boxes, 2)) * (np.array([WIDTH, HEIGHT]) - sides)).astype(int)
    entries = [
        {
            "id": n,
            "image_id": int(owner),
            "category_id": n % CLASSES,
            "bbox": [*corner, *side],
            "area": 1,
            "iscrowd": 0,
        }
        for n, (owner, corner, side) in enumerate(zip(owners, corners.tolist(), sides.tolist(), strict=True))
    ]
    first_val = round(images * (1 - VAL_SHARE))
    for split, numbers in (("train", range(first_val)), ("val", range(first_val, images))):
        content = {
            "images": [{"id": n, "file_name": f"{n}.jpg", "width": WIDTH, "height": HEIGHT} for n in numbers],
            "annotations": [entry for entry in entries if entry["image_id"] in numbers],
            "categories": [{"id": n, "name": f"class{n}"} for n in range(CLASSES)],
        }
        (folder / f"{split}.json").write_text(json.dumps(content))


def write_image(path: Path, number: int) -> None:
    random = np.random.default_rng(number)
    small = random.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    image = cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(path), cv2.add(image, random.integers(0, 16, image.shape, dtype=np.uint8)))


def report(data: Path) -> None:
    for pixels in (False, True):
        begin = time.perf_counter()
        diagnosis = doctor(data, device="cpu", pixels=pixels)
        seconds = time.perf_counter() - begin
        found = ", ".join(f"{each.title} {each.count}" for each in diagnosis.findings)
        print(f"{'with pixels' if pixels else 'annotations'}: {seconds:.1f} s; {found}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--boxes", type=int, default=36_000)
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    if options.data:
        report(options.data)
    else:
        with TemporaryDirectory() as folder:
            write_data(Path(folder), options.images, options.boxes)
            report(Path(folder))
