"""How much one client, and all of them together, may ask for."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """Of a server.

    Args:
        upload_mb: MiB of one image file.
        megapixels: millions of pixels of one image, by its header, before anything is decoded.
        waiting: images that are decoded, wait or are computed at a time; more are refused with 503.
        batch_size: images that the network gets at once.
        upload_s: seconds within which the whole of a file must have arrived.
        head_s: seconds within which a connection must have sent the head of a request.
        idle_s: seconds that a connection may wait for its next request; longer than any Retry-After, so that
            who comes again does not meet a closing door.
        all_uploads_mb: MiB of files that are arriving or wait to be decoded, of all clients together; of
            one at least.
        connections: open at a time.
    """

    upload_mb: float = 20.0
    megapixels: float = 50.0
    waiting: int = 64
    batch_size: int = 8
    upload_s: float = 30.0
    head_s: float = 10.0
    idle_s: int = 75
    all_uploads_mb: float = 256.0
    connections: int = 800


class RefusedError(Exception):
    """A request that is answered with a sentence instead of boxes.

    `status` is HTTP's; `reason` is one of few words, for counting; `retry_after_s` tells when it may work.
    """

    def __init__(self, status: int, reason: str, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status, self.reason, self.retry_after_s = status, reason, retry_after_s


def busy(reason: str, retry_after_s: int) -> RefusedError:
    """For a request that came at a bad time."""
    seconds = "a second" if retry_after_s == 1 else f"{retry_after_s} seconds"
    return RefusedError(503, reason, f"the server is busy; try again in {seconds}", retry_after_s)
