"""The server against what it serves: `graftage serve` in a process of its own, asked by clients on the same machine.

One client against decode plus forward alone; 32 clients against batch prediction, both sides in turn in one run; then
good and hostile requests mixed for some minutes, with the server's memory, every good answer held against
`Predictor.predict`. The clients take their share of the same cores.

    python bench/serve.py --minutes 10
"""

import argparse
import asyncio
import itertools
import json
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from graftage import Settings, load, train
from graftage.progress import Silent
from graftage.serve.predict import Prediction, Predictor
from pictures import solar_cells
from saved import machine

ROUNDS, ONE, MANY, CLIENTS = 5, 200, 1600, 32


@dataclass(frozen=True)
class Answer:
    """What the server said."""

    status: int
    body: bytes
    seconds: float


class Connection(asyncio.Protocol):
    """The least that speaks HTTP/1.1: a client that costs much would be measured with the server."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._whole: asyncio.Future[tuple[int, bytes]] | None = None

    async def ask(self, request: bytes) -> Answer:
        """The answer to a whole request."""
        started = time.perf_counter()
        loop = asyncio.get_running_loop()
        if self._transport is None:
            await loop.create_connection(lambda: self, "127.0.0.1", self._port)
        assert self._transport is not None
        self._whole = loop.create_future()
        self._transport.write(request)
        status, body = await self._whole
        return Answer(status, body, time.perf_counter() - started)

    def close(self) -> None:
        """The next request opens another connection."""
        if self._transport is not None:
            self._transport.abort()
        self._transport = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As asyncio has it."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """As asyncio has it."""
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._received[:end]).lower()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
        if len(self._received) < end + 4 + length:
            return
        body = bytes(self._received[end + 4 : end + 4 + length])
        self._received.clear()
        if b"connection: close" in head:
            self.close()
        if self._whole is not None and not self._whole.done():
            self._whole.set_result((int(head[9:12]), body))

    def connection_lost(self, _: Exception | None) -> None:
        """As asyncio has it."""
        self._transport = None
        self._received.clear()
        if self._whole is not None and not self._whole.done():
            self._whole.set_exception(ConnectionResetError("the server closed the connection"))


def request(body: bytes, kind: str = "image/jpeg", *, length: int | None = None) -> bytes:
    length = len(body) if length is None else length
    head = f"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
    return head.encode() + body


def form(parts: list[tuple[str, bytes]]) -> bytes:
    pieces = [
        f'--b0undary\r\nContent-Disposition: form-data; name="p"; filename="{name}"\r\n\r\n'.encode() + data + b"\r\n"
        for name, data in parts
    ]
    return request(b"".join([*pieces, b"--b0undary--\r\n"]), "multipart/form-data; boundary=b0undary")


# ---------------------------------------------------------------- both sides


@contextmanager
def serving(model: Path, *options: str) -> Iterator[tuple[int, int]]:
    """(port, process id) of a server."""
    command = [sys.executable, "-m", "graftage", "serve", str(model), "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline().rsplit(":", 1)[1]), process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, process.returncode


async def one_client(port: int, requests: list[bytes]) -> list[Answer]:
    connection = Connection(port)
    try:
        return [await connection.ask(one) for one in requests]
    finally:
        connection.close()


async def many_clients(port: int, requests: list[bytes]) -> list[Answer]:
    """The answers in order, from CLIENTS connections that each ask for the next as soon as they have one."""
    answers: list[Answer | None] = [None] * len(requests)
    left = iter(enumerate(requests))

    async def client() -> None:
        connection = Connection(port)
        for i, one in left:
            answers[i] = await connection.ask(one)
        connection.close()

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return [answer for answer in answers if answer is not None]


def alone(predictor: Predictor, pictures: list[bytes]) -> float:
    """Median milliseconds of decode plus forward, one after the other."""
    times = []
    for data in pictures:
        started = time.perf_counter()
        predictor.predict_bytes(data)
        times.append(time.perf_counter() - started)
    return 1000 * float(np.median(times))


def same(answer: Answer, expected: Prediction) -> bool:
    if answer.status != 200:
        return False
    (row,) = json.loads(answer.body)["predictions"]
    return (row["label"], tuple(row["probabilities"])) == (expected.label, expected.probabilities)


def kept(held: bool) -> str:
    return "ok" if held else "FAIL"


def compare(port: int, predictor: Predictor, paths: list[Path], expected: list[Prediction]) -> None:
    pictures = [path.read_bytes() for path in paths]
    turns = list(itertools.islice(itertools.cycle(range(len(paths))), MANY))
    requests = [request(pictures[i]) for i in turns]
    asyncio.run(many_clients(port, requests[:200]))  # threads and files warm on both sides
    predictor.predict(paths[:200])
    rows = []
    wrong = 0
    for _ in range(ROUNDS):
        own = alone(predictor, pictures[:ONE])
        single = asyncio.run(one_client(port, requests[:ONE]))
        started = time.perf_counter()
        predictor.predict([paths[i] for i in turns])
        batch = MANY / (time.perf_counter() - started)
        started = time.perf_counter()
        answers = asyncio.run(many_clients(port, requests))
        served = MANY / (time.perf_counter() - started)
        wrong += sum(not same(answer, expected[i]) for answer, i in zip(answers, turns, strict=True))
        seconds = [answer.seconds for answer in answers]
        p50 = 1000 * float(np.median([answer.seconds for answer in single]))
        rows.append((own, p50, p50 / own, batch, served, served / batch, 1000 * float(np.quantile(seconds, 0.99))))
    own, p50, slower, batch, served, share, p99 = np.median(np.array(rows), axis=0)
    print(f"medians of {ROUNDS} rounds, 300 × 300 JPEGs, {predictor.forward.name}")
    print(
        f"  1 client, p50             {p50:6.1f} ms   {slower:.2f} × decode + forward alone, {own:.1f} ms (goal 1.5 ×)"
    )
    against = f"{share:.0%} of predict, {batch:.0f}/s (goal 80 %) {kept(share >= 0.8)}"
    print(f"  {CLIENTS} clients, throughput   {served:6.0f}/s   {against}")
    print(f"  {CLIENTS} clients, p99           {p99:6.0f} ms   (goal 2,000) {kept(p99 < 2000)}")
    print(f"  errors or wrong answers   {wrong} of {ROUNDS * MANY:,} (goal 0) {kept(not wrong)}")
    print("  each round: " + "; ".join(f"{row[2]:.2f} ×, {row[5]:.0%}" for row in rows), flush=True)


# ---------------------------------------------------------------- the soak


def bomb() -> bytes:
    """A PNG of 1.3 kB whose header promises 60,000 × 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def hostile(rng: random.Random, picture: bytes) -> bytes:
    """A request that deserves a 4xx."""
    junk = rng.randbytes(rng.randrange(1, 20_000))
    return rng.choice(
        [
            request(junk),
            request(bomb(), "image/png"),
            request(picture[: len(picture) // 3]),
            request(picture, "application/json"),
            request(b""),
            form([("../../etc/passwd", picture)]),
            form([("a.jpg", junk)]),
            request(junk, "multipart/form-data; boundary=b0undary"),
            request(picture, "multipart/form-data"),
            form([(f"{i}.jpg", b"x") for i in range(100)]),
        ]
    )


async def soak(port: int, pid: int, paths: list[Path], expected: list[Prediction], minutes: float) -> None:
    pictures = [path.read_bytes() for path in paths]
    tally: Counter[str] = Counter()
    ends = time.monotonic() + 60 * minutes

    async def good(rng: random.Random, connection: Connection) -> None:
        chosen = rng.sample(range(len(pictures)), rng.choice([1, 1, 1, 4]))
        if len(chosen) == 1:
            right = same(await connection.ask(request(pictures[chosen[0]])), expected[chosen[0]])
        else:
            answer = await connection.ask(form([(f"{i}.jpg", pictures[i]) for i in chosen]))
            rows = json.loads(answer.body).get("predictions", [])
            found = [(row["path"], tuple(row["probabilities"])) for row in rows]
            right = answer.status == 200 and found == [(f"{i}.jpg", expected[i].probabilities) for i in chosen]
        tally["good requests"] += 1
        tally["good requests answered wrongly"] += not right

    async def bad(rng: random.Random, connection: Connection) -> None:
        try:
            status = (await connection.ask(hostile(rng, pictures[0]))).status
        except OSError:
            connection.close()
            tally["hostile requests cut off"] += 1
            return
        tally["hostile requests"] += 1
        tally["hostile requests without a 4xx"] += not 400 <= status < 500

    async def rude(rng: random.Random) -> None:
        """One that leaves in the middle, or sends a byte at a time for a while."""
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        tally["clients that left, or were too slow"] += 1
        try:
            whole = request(pictures[0])
            writer.write(whole[: rng.randrange(1, len(whole) + 1)])
            for _ in range(rng.choice([0, 0, 8])):
                await asyncio.sleep(1)
                writer.write(b"x")
        except OSError:  # it was put out
            pass
        finally:
            writer.close()

    async def client(seed: int) -> None:
        rng, connection = random.Random(seed), Connection(port)
        while time.monotonic() < ends:
            drawn = rng.random()
            await (good(rng, connection) if drawn < 0.7 else bad(rng, connection) if drawn < 0.97 else rude(rng))
        connection.close()

    async def watch() -> None:
        step = min(30.0, 60 * minutes / 4)
        seen: list[float] = []
        while time.monotonic() < ends:
            await asyncio.sleep(step)
            status = Path(f"/proc/{pid}/status").read_text()
            seen.append(next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS")))
            print(
                f"  {len(seen) * step / 60:5.1f} min   {seen[-1]:6.0f} MiB   {tally['good requests']:,} good",
                flush=True,
            )
        grown = seen[-1] / seen[0] - 1
        print(
            f"  memory at the end against the first reading: {grown:+.1%} (goal within 5 %) {kept(abs(grown) <= 0.05)}"
        )

    print(f"soak of {minutes:g} minutes, {CLIENTS} clients, 70 % good requests")
    await asyncio.gather(watch(), *(client(i) for i in range(CLIENTS)))
    for name in sorted(tally):
        print(f"  {name:<36} {tally[name]:,}")


def prepared(folder: Path) -> tuple[Path, list[Path]]:
    """A model of 300 solar cells, and 400 others as JPEGs."""
    cells = solar_cells()
    for i, (path, probability, _) in enumerate(cells[:300]):
        target = folder / "photos" / ("defective" if probability > 0.5 else "functional") / f"{i}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(path, target) if path.stat().st_dev == folder.stat().st_dev else target.write_bytes(path.read_bytes())
    settings = Settings(
        data=str(folder / "photos"), output=str(folder / "run"), recipe="linear", fit="squash", folds="3"
    )
    train(settings, watcher=Silent())
    paths = [folder / f"{i}.jpg" for i in range(400)]
    for path, (cell, _, _) in zip(paths, cells[300:], strict=False):
        Image.open(cell).save(path, quality=90)
    return folder / "run" / "model.safetensors", paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2.0, help="of the soak; 0 leaves it out")
    parser.add_argument("--workers", default="0", help="threads of the server")
    minutes, workers = vars(parser.parse_args()).values()
    print(machine("graftage", "openvino", "fastapi", "uvicorn"))
    with tempfile.TemporaryDirectory() as name:
        model, paths = prepared(Path(name))
        predictor = load(model)
        expected = predictor.predict(paths)
        with serving(model, "--workers", workers, "--timeout", "5") as (port, pid):
            compare(port, predictor, paths, expected)
            if minutes:
                asyncio.run(soak(port, pid, paths, expected, minutes))


if __name__ == "__main__":
    main()
