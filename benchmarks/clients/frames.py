"""Hand exchanges to a shadow over its tap at a fixed rate, as a worker does, whatever the shadow makes of them.

Each frame is a small Open Inference Protocol v2 exchange that blue answered, with a request id of its own. Prints as JSON how
many frames were `offered` in how many `seconds`, and how many of them were `sent`: like a worker's tap it holds up to 32 MiB that
the socket does not take at once, and drops what is more. What it holds at the end is sent.
"""

from __future__ import annotations

import argparse
import json
import socket
import time
from collections import deque

from shadow import frame

DATA = [round((i * 37 % 100) / 10 + 0.0625, 4) for i in range(1, 25)]
REQUEST = {
    "id": "bench",
    "inputs": [{"name": "input-0", "shape": [1, 24], "datatype": "FP64", "data": DATA}],
    "outputs": [{"name": "label"}, {"name": "probability"}],
}
ANSWER = {
    "model_name": "iris",
    "model_version": "1",
    "id": "bench",
    "outputs": [
        {"name": "label", "shape": [1], "datatype": "INT64", "data": [2]},
        {"name": "probability", "shape": [1, 3], "datatype": "FP64", "data": [0.0125, 0.0875, 0.9]},
    ],
}
BOUND = 32 << 20
PIECE_SECONDS = 0.004  # what a worker gathers before it writes


def frames(release: int, revision: int, first: int, count: int, started: float) -> bytes:
    """`count` frames in a row, the first of them with the number `first`."""
    body = json.dumps(REQUEST, separators=(",", ":")).encode()
    answer = json.dumps(ANSWER, separators=(",", ":")).encode()
    answer_head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(answer)
    made = []
    for number in range(first, first + count):
        head = (
            b"POST /v2/models/iris/infer HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
            b"x-user-id: u%d\r\ncontent-length: %d\r\n\r\n" % (number, len(body))
        )
        made.append(
            frame.encode(0, 0, release, revision, started, 1.0, 1.2, b"%032x" % number, head, body, answer_head, answer)
        )
    return b"".join(made)


def send(tap: str, release: int, revision: int, rate: float, seconds: float) -> dict[str, float]:
    """Keep to the rate, whatever the socket takes."""
    each = max(1, round(rate * PIECE_SECONDS))
    # Made beforehand, so that making them takes nothing from what is measured; ids repeat only after all of these.
    pieces = [frames(release, revision, number * each, each, time.time()) for number in range(100)]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(tap)
        connection.setblocking(False)
        held: deque[bytes] = deque()
        size = offered = sent = 0
        began = time.monotonic()
        while (now := time.monotonic() - began) < seconds:
            while offered < rate * now:
                piece = pieces[offered // each % len(pieces)]
                offered += each
                if size + len(piece) <= BOUND:
                    held.append(piece)
                    size += len(piece)
                    sent += each
            while held:
                try:
                    taken = connection.send(held[0])
                except BlockingIOError:
                    break
                size -= taken
                if taken == len(held[0]):
                    held.popleft()
                else:
                    held[0] = held[0][taken:]
            time.sleep(PIECE_SECONDS / 2)
        connection.setblocking(True)
        for piece in held:
            connection.sendall(piece)
    return {"offered": offered, "sent": sent, "seconds": seconds}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tap", required=True)
    parser.add_argument("--release", type=int, required=True)
    parser.add_argument("--revision", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    asked = parser.parse_args()
    print(json.dumps(send(asked.tap, asked.release, asked.revision, asked.rate, asked.seconds)))
