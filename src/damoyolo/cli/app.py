"""`damoyolo app`."""

from __future__ import annotations

import math
from functools import partial
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from damoyolo.cli.ranges import Count, Port

Amount = Annotated[float, Parameter(validator=Number(gt=0, lt=math.inf))]


def app(
    *,
    weights: str,
    host: str = "127.0.0.1",
    port: Port = 8000,
    token: Annotated[str | None, Parameter(env_var="DAMOYOLO_TOKEN")] = None,
    image_size: str | None = None,
    device: str = "auto",
    batch_size: Annotated[Count, Parameter(alias="--batch")] = 8,
    max_upload_mb: Amount = 20.0,
    max_megapixels: Amount = 50.0,
    max_waiting: Count = 64,
) -> None:
    """Try a model in the browser, and serve it to other programs over HTTP.

    Parameters
    ----------
    weights
        A model size (Ns Nm Nl T S M L), a weights file (.safetensors, .pth, hf://owner/name) or an
        exported one (.onnx, .xml).
    host
        Address to listen at; one that other machines can reach, such as 0.0.0.0, needs a token.
    port
        To listen at; 0 for any that is free.
    token
        What clients must send as 'Authorization: Bearer TOKEN'; also read from the variable DAMOYOLO_TOKEN.
    image_size
        Network input in pixels, a side or HEIGHTxWIDTH, multiples of 32; default the model's own.
    device
        auto, cpu, cuda, cuda:1 or mps.
    batch_size
        Most images that the network gets at once, when many wait.
    max_upload_mb
        Largest image file, in MiB.
    max_megapixels
        Largest image, in millions of pixels.
    max_waiting
        Most images that wait; further ones are told to try again.
    """
    from damoyolo.export.extras import need

    for module in ("fastapi", "uvicorn", "prometheus_client"):
        need(module, "app")
    from damoyolo.app.limits import Limits
    from damoyolo.app.serving import access_for, serve
    from damoyolo.assemble.serving import open_served

    access_for(host, token)  # before the weights are read
    model = open_served(weights, device=device, image_size=image_size)
    limits = Limits(
        upload_mb=max_upload_mb, megapixels=max_megapixels, waiting=max_waiting, batch_size=batch_size
    )
    serve(model, host=host, port=port, token=token, limits=limits, say=partial(print, flush=True))
