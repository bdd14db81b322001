"""What a run is told, as data: every field has a default, a range and a unit; nothing here imports torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

from damoyolo.spec import Activation, Frozen, Side, read_image_size


class Config(Frozen):
    """Settings; the text under each field is its help on the command line."""

    model_config = ConfigDict(use_attribute_docstrings=True, allow_inf_nan=False)


def _tidy_size(value: int | str) -> int | str:
    """A side where both are equal, and `HEIGHTxWIDTH` otherwise."""
    height, width = read_image_size(value)
    return height if height == width else f"{height}x{width}"


Probability = Annotated[float, Field(ge=0, le=1)]
ImageSize = Annotated[int | str, AfterValidator(_tidy_size)]


class AugmentConfig(Config):
    """Random changes to training images, off in the last `no_augment_epochs` except for flips and colours."""

    mosaic: Probability = 1.0
    """Chance that four images are combined into one."""
    mosaic_size: PositiveInt | None = None
    """Side in pixels of the square a mosaic is laid out in; default the network's own height and width."""
    mixup: Probability = 0.15
    """Chance that a mosaic is blended with one more image."""
    mixup_scale: tuple[PositiveFloat, PositiveFloat] = (0.5, 1.5)
    """Range of the blended image's scale."""
    degrees: NonNegativeFloat = 10.0
    """Rotation in -degrees .. degrees."""
    translate: Annotated[float, Field(ge=0, le=0.5)] = 0.2
    """Shift in -translate .. translate of the image side."""
    scale: tuple[PositiveFloat, PositiveFloat] = (0.1, 2.0)
    """Range of the zoom."""
    shear: NonNegativeFloat = 2.0
    """Shear in -shear .. shear degrees, on each axis."""
    flip: Probability = 0.5
    """Chance of a mirror image left to right."""
    flip_vertical: Probability = 0.0
    """Chance of a mirror image top to bottom; for views without an up, such as a microscope's."""
    hue: Probability = 0.0
    """Largest change of hue, as a fraction of the colour circle."""
    saturation: Probability = 0.0
    """Largest relative change of saturation."""
    value: Probability = 0.0
    """Largest relative change of brightness."""
    box_augment: Probability = 0.0
    """Chance at the end of the run that a box is changed by itself (SADA); published with 0.3. It grows with
    the share of the run that is over; the original's ramp, by the images of each worker, is not reproduced.
    """
    box_clip: bool = True
    """Cut copies of boxes at the image border; the original code lets their boxes stick out."""
    box_plain: bool = False
    """Change boxes also in the last `no_augment_epochs`, as the original code does."""


class OptimConfig(Config):
    """Optimizer, learning-rate schedule and weight averaging (paper section 4.1; reference recipes)."""

    name: Literal["sgd", "adamw"] = "sgd"
    """`sgd` has Nesterov momentum; `adamw` is what the nano models are trained with."""
    lr: PositiveFloat = 0.01
    """Peak learning rate for 64 images per step; scaled linearly with the batch size."""
    backbone_lr: Annotated[float, Field(ge=0)] = 1.0
    """Learning rate of the backbone as a share of the others'; below 1 to keep what it has learnt before."""
    weight_decay: NonNegativeFloat = 5e-4
    """For convolution weights; norms and biases are not decayed."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Of `sgd`."""
    warmup_epochs: NonNegativeFloat = 5.0
    """Quadratic rise from zero."""
    min_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Where the cosine ends, as a share of the peak."""
    clip_norm: PositiveFloat | None = None
    """Largest L2 norm of the gradient; none by default."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.9998
    """Decay per step of the averaged weights, which are the ones evaluated and shipped."""
    ema_warmup_steps: PositiveFloat = 2000.0
    """Steps over which that decay is approached from zero."""


class DistillConfig(Config):
    """Learning from a teacher's feature maps (paper section 3.5); matters only with `teacher`."""

    method: Literal["cwd", "mimic", "mgd"] = "cwd"
    """`cwd` compares where each channel looks, `mimic` each element, `mgd` a map completed from a part."""
    weight: PositiveFloat = 1.0
    """Of this loss beside the others."""
    temperature: PositiveFloat = 1.0
    """Of `cwd`; higher compares more of the background."""
    normalise: Literal["batch", "image"] = "image"
    """Maps by the statistics of each image, or of the batch (paper), where odd images outweigh the rest."""
    schedule: Literal["cosine", "until_plain", "constant"] = "cosine"
    """`cosine` falls to a tenth over the run; `until_plain` also ends with the augmentation (paper)."""


class TrainConfig(Config):
    """One training run."""

    model: str = "Ns"
    """A size (Ns Nm Nl T S M L), a spec file (.yaml), or weights to start from (.safetensors, .pth, hf://owner/name)."""
    data: Path
    """A folder or YAML file of a data set: COCO JSON, YOLO text or Pascal VOC XML, found by looking."""
    output: Path = Path("runs/train")
    """Folder for weights, metrics and the resolved configuration."""
    teacher: str | None = None
    """Weights of a larger detector of the same classes to learn from (.safetensors, .pth)."""
    epochs: PositiveInt = 300
    """Passes over the training images."""
    max_minutes: PositiveFloat | None = None
    """Time limit; the schedule is fitted to it, and `epochs` then is the most that are made."""
    batch_size: PositiveInt | Literal["auto"] = 32
    """Images per step, of all processes together; `auto` takes what fits the memory and the data."""
    accumulate: PositiveInt = 1
    """Parts that a batch is computed in, one after another, to need less memory."""
    image_size: ImageSize | None = None
    """Network input in pixels, a side or HEIGHTxWIDTH, multiples of 32; default the model's own."""
    no_augment_epochs: NonNegativeInt = 16
    """Last epochs, without mosaic, mixup and affine, at the lowest learning rate."""
    evaluate_every: PositiveInt = 10
    """Epochs between evaluations on the validation images; there is one at the end, too."""
    best_by: str = "ap"
    """Number that makes an evaluation the best: ap, ap50, ap75, ap_small, ar100, or ap/CLASS."""
    patience: PositiveInt | None = None
    """Epochs without a better evaluation after which the run ends; by default it never does."""
    checkpoint_minutes: NonNegativeFloat = 10.0
    """Longest time between two checkpoints; there is one after every epoch, too."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of weights, order and augmentation; the same seed on the same machine gives the same result."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    """Of convolutions while training; `auto` takes bfloat16 where the device computes it faster."""
    freeze: tuple[Literal["backbone", "neck", "head", "norms"], ...] = ()
    """Parts that stay as they are; `norms` keeps the running statistics of all normalisations."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps`."""
    devices: PositiveInt = 1
    """Processes of this machine that train together, each on a GPU of its own or a share of the cores."""
    sync_norm: bool = False
    """Normalise by the statistics of the whole batch rather than of each process's share."""
    channels_last: bool = True
    """Keep feature maps in channels-last memory, which convolutions are faster in."""
    compile: bool = False
    """Compile the network with torch.compile; slow to begin with, worth it on GPUs and in long runs."""
    resize: Literal["stretch", "letterbox"] = "stretch"
    """`stretch` ignores the aspect ratio, as the published models do; `letterbox` keeps it and pads."""
    skip_bad: bool = False
    """List unreadable images and wrong annotations and leave them out, instead of stopping before epoch 1."""
    workers: NonNegativeInt = 1
    """Processes that prepare batches; 0 prepares them in the training process."""
    cache_mb: NonNegativeInt = 1024
    """Memory for decoded images in each worker, in MiB."""
    log_to: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Where metrics go beside metrics.jsonl and metrics.csv; each is an optional extra to install."""
    report: bool = True
    """Write report.html and its pictures at the end."""
    augment: AugmentConfig = AugmentConfig()
    """Random changes to training images."""
    optim: OptimConfig = OptimConfig()
    """Optimizer, learning rate and weight averaging."""
    distill: DistillConfig = DistillConfig()
    """How to learn from `teacher`."""


DeviceName = Literal["here", "openvino-cpu", "onnxruntime-cpu", "torch-cpu", "torch-cuda", "tensorrt"]
"""An engine on a processor; `here` is the quickest there is."""
SpaceName = Literal["k1kx", "kxkx", "csp", "k1kxk1", "mob"]


class SearchConfig(Config):
    """One search for a backbone."""

    space: SpaceName = "k1kx"
    """Kind of blocks: `k1kx` as in T and S, `csp` as in M and L, `mob` depthwise as in Ns Nm Nl."""
    like: str | None = None
    """The size, or spec file, whose neck and head the found one gets; default the space's nearest size."""
    activation: Activation | None = None
    """Of backbone and neck; default the space's own in the backbone, that size's in the neck."""
    image_size: Side | None = None
    """Side of the image in pixels, a multiple of 32 from 64 to 8192; default that size's own."""
    image_sizes: tuple[Side, ...] | None = None
    """Instead: try each by a short search within the same budget, and take the one of the highest score."""
    num_classes: PositiveInt = 80
    """Classes the head will tell apart."""
    max_latency_ms: PositiveFloat | None = None
    """Most milliseconds an image, by the table of latencies."""
    max_gflops: PositiveFloat | None = None
    """Most GFLOPs, 2 a multiply-add as `damoyolo models` shows them."""
    max_params_m: PositiveFloat | None = None
    """Most parameters in millions, RepConv fused."""
    max_layers: PositiveInt | None = None
    """Most convolutions one after another in the backbone, shortcuts and wrapping not counted."""
    device: DeviceName | None = None
    """Search for this device: profile it, unless that was done before, and measure the best found."""
    threads: PositiveInt | None = None
    """Of that device, if it is a CPU; default as many as cores."""
    precision: Literal["bf16"] | None = None
    """Of that device: bfloat16 in OpenVINO; default float32, and float16 for TensorRT."""
    measured: PositiveInt = 5
    """How many of the best to build, export and measure on that device."""
    latency_table: Path | None = None
    """Instead: what `damoyolo profile` wrote (.json), or a table with a line for each operator:
    {Type,Batch,Cin,H,W,Cout,K,Stride,Fused} milliseconds."""
    latency_batch: PositiveInt | None = None
    """Which of the table's batches to read, where it has several."""
    min_widths: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None
    """Fewest channels of C3, C4 and C5; default the space's."""
    max_widths: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None
    """Most channels of C3, C4 and C5; default the space's."""
    counting: Literal["detector", "backbone", "searched"] = "detector"
    """What budgets limit: all that is built, its backbone alone, or the original's model of the backbone."""
    search_neck: bool = False
    """Search widths and depth of the neck, too, by the entropy of the maps that the head sees."""
    score: Literal["madnas", "deepmad", "padded"] = "madnas"
    """Entropy as in the paper, as in DeepMAD, or as in the paper with zero padding counted (slow)."""
    front: Literal["latency", "gflops", "params"] | None = None
    """Find the best score at every cost, not the best within the budgets."""
    sizes: PositiveInt | None = None
    """How many to choose from that front, small to large; 3 by default with a front."""
    candidates: PositiveInt = 500_000
    """Structures to try, repeated and refused ones included."""
    population: Annotated[int, Field(ge=2)] = 512
    """Structures that may have children."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of all random choices; the same seed and number of workers finds the same."""
    workers: PositiveInt = 1
    """Processes."""
    cluster: str | None = None
    """Run them in a ray cluster: `auto` for this machine's, `local`, or `ray://host:port`; same results."""
    reference: bool = False
    """Count, mutate and read the table as the original code does, faults included; needs scipy."""
    output: Path = Path("runs/search")
    """Folder for what is found, as files for `damoyolo train --model`."""


class ProfileConfig(Config):
    """One measurement of a device."""

    device: DeviceName = "here"
    """What detectors are to run on, measured where it is: `here` takes the quickest of this machine."""
    space: SpaceName = "k1kx"
    """Kind of blocks whose operators are measured, as in `damoyolo search`."""
    like: str | None = None
    """The size, or spec file, whose neck and head are measured; default the space's nearest size."""
    activation: Activation | None = None
    """Of backbone and neck; default the space's own in the backbone, that size's in the neck."""
    image_size: Side | None = None
    """Side of the image in pixels, a multiple of 32 from 64 to 8192; default that size's own."""
    num_classes: PositiveInt = 80
    """Classes the head tells apart."""
    search_neck: bool = False
    """Measure necks of other widths and depths, too, for a search with --search-neck."""
    threads: PositiveInt | None = None
    """Of a CPU; default as many as cores."""
    precision: Literal["bf16"] | None = None
    """bfloat16, which OpenVINO has where the CPU has it; default float32, and float16 for TensorRT."""
    seconds: PositiveFloat = 60.0
    """How long to refine the table of operators, after a coarse one."""
    detectors: Annotated[int, Field(ge=3)] = 8
    """Random whole detectors to measure, which set the sum of operators right; at least one of each neck."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of what is drawn."""
    output: Path | None = None
    """The file to write (.json), for `damoyolo search --latency-table`; default one in the cache."""
