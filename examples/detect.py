"""Detects things in an image with a raw ONNX file: onnxruntime, OpenCV and NumPy, nothing of damoyolo.

    python detect.py model.onnx image.jpg [--score 0.4] [--iou 0.7]

`damoyolo export model.onnx --weights W` writes such a file: `images` (1, 3, height, width), float RGB 0..255,
in; scores (1, points, classes) and boxes (1, points, 4), corners in pixels of the input, out. The image is
stretched to the input, as models of damoyolo are trained unless told otherwise. Prints a line for each thing
found, best first: class, score, left, top, right, bottom in pixels of the image.
"""

import argparse
import ast
import sys

import cv2
import numpy as np
import onnxruntime


def opened(path):
    """A session, or the end, with a sentence, if it is not such a file."""
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # its classes share no other base
        sys.exit(f"{path}: cannot be loaded: {str(error).splitlines()[0]}")
    inputs, outputs = (
        [each.shape for each in ports()] for ports in (session.get_inputs, session.get_outputs)
    )
    sizes = inputs[0] if len(inputs) == 1 else []
    plain = len(sizes) == 4 and sizes[:2] == [1, 3] and all(isinstance(size, int) for size in sizes)
    plain = plain and session.get_inputs()[0].type == "tensor(float)" and len(outputs) == 2
    if not plain or any(len(shape) != 3 for shape in outputs) or outputs[1] != [1, outputs[0][1], 4]:
        sys.exit(
            f"{path}: is no raw file for one float image of a fixed size; it gives {outputs} for {inputs}"
        )
    return session


def detect(session, image, score, iou):
    """Labels, scores and boxes of what is in an image (height, width, 3), BGR as OpenCV reads it."""
    (given,) = session.get_inputs()
    height, width = given.shape[2:]
    pixels = cv2.resize(image, (width, height))[..., ::-1].transpose(2, 0, 1)
    scores, boxes = (each[0] for each in session.run(None, {given.name: pixels[None].astype(np.float32)}))
    points, labels = np.nonzero(scores > score)
    values, corners = scores[points, labels], boxes[points]
    sizes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    if not len(values):
        return labels, values, corners
    kept = list(cv2.dnn.NMSBoxesBatched(sizes.tolist(), values.tolist(), labels.tolist(), score, iou))
    kept.sort(key=lambda i: -values[i])
    border = np.array(image.shape[1::-1] * 2)
    found = np.clip(corners[kept] * border / (width, height, width, height), 0, border)
    visible = (found[:, 2:] - found[:, :2] > 0.01).all(axis=1)
    return labels[kept][visible], values[kept][visible], found[visible]


def main():
    """Read the words on the command line; print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("image")
    parser.add_argument("--score", type=float, default=0.4)
    parser.add_argument("--iou", type=float, default=0.7)
    args = parser.parse_args()
    session = opened(args.model)
    names = ast.literal_eval(session.get_modelmeta().custom_metadata_map.get("names", "{}"))
    image = cv2.imread(args.image)
    if image is None:
        sys.exit(f"{args.image}: is no image")
    for label, score, box in zip(*detect(session, image, args.score, args.iou), strict=True):
        print(names.get(label, label), f"{score:.4f}", *(f"{side:.2f}" for side in box))


if __name__ == "__main__":
    main()
