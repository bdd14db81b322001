"""Many clients at one `damoyolo app` for a minute: what they get, how long it takes, and what memory does.

    python benchmarks/serve.py [--weights FILE] [--clients 200] [--rude 20] [--seconds 60] [--size Ns]

Every client sends a photograph, waits for the answer, and sends the next; told to come again (429 or 503 with
Retry-After) it does so when it was told. Beside them, rude ones hang up in the middle of a file, hang up
before the answer, or send a byte a second. Without `--weights` the network is one of `--size` with random
numbers, of which about 30 boxes an image pass the threshold. The exit code is 1 if anything but 200, 429 and
503 was answered, or a connection was lost.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import httpx
import numpy as np

from damoyolo.machine import describe_machine
from damoyolo.zoo.weights import save_weights
from plain_export import trained_like

PHOTOGRAPH = (480, 640)
POLITE = (200, 429, 503)


@dataclass
class Seen:
    """By all polite clients."""

    statuses: Counter[int] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    impolite: int = 0
    seconds: list[float] = field(default_factory=list)
    health_s: list[float] = field(default_factory=list)
    memory_mib: list[float] = field(default_factory=list)


async def polite(client, body, until, seen):
    while (begun := time.perf_counter()) < until:
        try:
            answer = await client.post("predict", content=body)
        except httpx.HTTPError as error:
            seen.lost.append(repr(error))
            continue
        seen.statuses[answer.status_code] += 1
        if answer.status_code == 200:
            seen.seconds.append(time.perf_counter() - begun)
        elif "retry-after" in answer.headers:
            await asyncio.sleep(min(float(answer.headers["retry-after"]), until - time.perf_counter()))
        else:
            seen.impolite += 1


async def rude(address, body, until, kind):
    head = f"POST /predict HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    while time.perf_counter() < until:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(address.host, address.port)
            writer.write(head + body[: len(body) if kind == "leaves" else len(body) // 2])
            await writer.drain()
            for _ in range(10 if kind == "trickles" else 0):
                if time.perf_counter() > until:
                    break
                await asyncio.sleep(1)
                writer.write(b"x")
                await writer.drain()
            await asyncio.sleep(0.05)
            writer.transport.abort()


async def watch(client, until, seen):
    while time.perf_counter() < until:
        begun = time.perf_counter()
        (await client.get("health")).raise_for_status()
        seen.health_s.append(time.perf_counter() - begun)
        text = (await client.get("metrics")).text
        seen.memory_mib.append(number(text, "process_resident_memory_bytes") / 2**20)
        await asyncio.sleep(1)


def number(text, name):
    return float(re.search(rf"^{name} (\S+)$", text, re.MULTILINE)[1])


async def attack(address, options, body):
    seen, url = Seen(), httpx.URL(address)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with (
        httpx.AsyncClient(base_url=address, timeout=120, limits=limits) as client,
        httpx.AsyncClient(base_url=address, timeout=120) as watcher,
    ):
        until = time.perf_counter() + options.seconds
        kinds = ("breaks", "leaves", "trickles")
        await asyncio.gather(
            *(polite(client, body, until, seen) for _ in range(options.clients)),
            *(rude(url, body, until, kinds[at % 3]) for at in range(options.rude)),
            watch(watcher, until, seen),
        )
        await asyncio.sleep(2)
        return seen, (await watcher.get("metrics")).text


def report(seen, metrics, options):
    images, batches = (number(metrics, f"damoyolo_batch_images_{what}") for what in ("sum", "count"))
    p50, p90, p99 = np.percentile(seen.seconds, [50, 90, 99])
    sixths = [f"{np.median(part):.0f}" for part in np.array_split(np.array(seen.memory_mib), 6) if part.size]
    print(describe_machine())
    print(f"{options.clients} clients, {options.rude} rude ones, {options.seconds} s")
    print(f"answers: {dict(seen.statuses)}; connections lost: {len(seen.lost)} {seen.lost[:3]}")
    print(f"refused without Retry-After: {seen.impolite}")
    print(f"served: {len(seen.seconds) / options.seconds:.1f} images/s, {images / batches:.2f} in a batch")
    print(
        f"seconds to an answer: p50 {p50:.2f}, p90 {p90:.2f}, p99 {p99:.2f}, longest {max(seen.seconds):.2f}"
    )
    health_ms = 1e3 * np.array(seen.health_s)
    print(f"/health meanwhile: p50 {np.median(health_ms):.0f} ms, longest {health_ms.max():.0f} ms")
    print(f"memory in MiB, medians of six parts: {', '.join(sixths)}; most {max(seen.memory_mib):.0f}")
    return not seen.lost and not seen.impolite and set(seen.statuses) <= set(POLITE)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--size", default="Ns")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--rude", type=int, default=20)
    parser.add_argument("--seconds", type=int, default=60)
    options = parser.parse_args()
    noise = np.random.default_rng(0).integers(0, 256, (PHOTOGRAPH[0] // 8, PHOTOGRAPH[1] // 8, 3), np.uint8)
    body = cv2.imencode(".jpg", cv2.resize(noise, PHOTOGRAPH[::-1]))[1].tobytes()
    with tempfile.TemporaryDirectory() as folder:
        weights = options.weights or Path(folder) / f"{options.size}.safetensors"
        if not options.weights:
            save_weights(trained_like(options.size), weights)
        command = [sys.executable, "-m", "damoyolo", "app", "--weights", str(weights), "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                address = server.stdout.readline().strip().rpartition(" at ")[2]
                fine = report(*asyncio.run(attack(address, options, body)), options)
            finally:
                server.terminate()
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
