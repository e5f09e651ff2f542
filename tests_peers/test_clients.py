"""Real clients through the router, each beside the same thing done to the server directly."""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import openai
import pytest
import requests
import websockets
import websockets.sync.client
from routed import ENVIRONMENTS, Pair

PYTHON = str(ENVIRONMENTS / "clients" / "bin" / "python")
LARGE_BLOCKS = 800  # of 64 KiB: 50 MiB
BODY = random.Random(1).randbytes(300_000)


@pytest.fixture(scope="module")
def pair(run: Callable[..., int], route: Callable[..., Pair]) -> Pair:
    command = [PYTHON, str(Path(__file__).with_name("echo_app.py")), "--port", "{port}"]
    blue, green = run(command, "/large?blocks=0"), run(command, "/large?blocks=0")
    return route(blue, green, limits={"body": "64MiB"})


@pytest.fixture(scope="module")
def large_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "50MB"
    path.write_bytes(random.Random(2).randbytes(50_000_000))
    return path


# --- curl ---


def curl(*arguments: str, data: bytes | None = None) -> tuple[bytes, str]:
    """What it wrote, and what it said (-v)."""
    done = subprocess.run(
        ["curl", "-sSv", "--max-time", "60", *arguments], input=data, capture_output=True, check=False, timeout=90
    )
    said = done.stderr.decode(errors="replace")
    assert done.returncode == 0, said
    return done.stdout, said


def test_curl_keeps_its_connection(pair: Pair) -> None:
    url = f"{pair.router}/compressed"
    out, said = curl(url, url, url)
    direct, _ = curl(f"{pair.blue}/compressed")
    assert out == direct * 3
    assert len(re.findall(r"Re-using existing connection", said)) == 2


@pytest.mark.parametrize("size", [1_200_000, 5_000_000])
def test_curl_expects_100_continue_above_a_megabyte(pair: Pair, tmp_path: Path, size: int) -> None:
    data = random.Random(size).randbytes(size)
    file = tmp_path / "body"
    file.write_bytes(data)
    arguments = ("--data-binary", f"@{file}", "-H", "Content-Type: application/octet-stream")
    # Without an answer to its expectation curl would wait these 20 s and send all the same.
    out, said = curl("--expect100-timeout", "20", *arguments, "-H", "Expect: 100-continue", f"{pair.router}/echo")
    assert "> Expect: 100-continue" in said
    assert "< HTTP/1.1 100 Continue" in said
    assert out == data
    out, said = curl(*arguments, f"{pair.router}/echo")  # whether it expects by itself is this curl's own business
    assert out == data
    assert ("> Expect: 100-continue" in said) == ("< HTTP/1.1 100 Continue" in said)


def test_curl_uploads_in_chunks(pair: Pair) -> None:
    out, said = curl("-T", "-", "-H", "Transfer-Encoding: chunked", f"{pair.router}/echo", data=BODY)
    assert "> Transfer-Encoding: chunked" in said
    assert out == BODY


def test_curl_sends_a_large_file_and_gets_it_back(pair: Pair, large_file: Path, tmp_path: Path) -> None:
    back = tmp_path / "back"
    curl("-T", str(large_file), "-o", str(back), f"{pair.router}/echo")
    assert back.read_bytes() == large_file.read_bytes()
    curl("-T", str(large_file), "-H", "Transfer-Encoding: chunked", "-o", str(back), f"{pair.router}/echo")
    assert back.read_bytes() == large_file.read_bytes()


def test_curl_gets_a_large_file_in_chunks(pair: Pair, tmp_path: Path) -> None:
    for query in (f"blocks={LARGE_BLOCKS}", f"blocks={LARGE_BLOCKS}&length=1"):
        files = [tmp_path / "direct", tmp_path / "routed"]
        for url, file in zip((pair.blue, pair.router), files, strict=True):
            curl("-o", str(file), f"{url}/large?{query}")
        assert files[0].stat().st_size == LARGE_BLOCKS * 65536
        assert files[0].read_bytes() == files[1].read_bytes()


def test_curl_with_http_1_0(pair: Pair) -> None:
    out, said = curl("--http1.0", "--data-binary", "abc", f"{pair.router}/echo")
    assert out == b"abc"
    assert "> POST /echo HTTP/1.0" in said
    out, said = curl("--http1.0", f"{pair.router}/large?blocks=3")
    assert out == curl(f"{pair.blue}/large?blocks=3")[0]
    assert "transfer-encoding" not in said.lower()  # HTTP/1.0 knows no chunks


def test_curl_head_204_and_gzip_as_it_came(pair: Pair) -> None:
    assert b"content-length: 131072" in curl("-I", f"{pair.router}/large?blocks=2&length=1")[0].lower()
    out, said = curl(f"{pair.router}/nothing")
    assert out == b""
    assert "< HTTP/1.1 204" in said
    raw = ("-H", "Accept-Encoding: gzip", "--raw")
    assert curl(*raw, f"{pair.router}/compressed")[0] == curl(*raw, f"{pair.blue}/compressed")[0]
    assert curl("--compressed", f"{pair.router}/compressed")[0] == curl(f"{pair.blue}/compressed")[0]


# --- Python's clients ---


def pieces() -> Iterator[bytes]:
    for start in range(0, len(BODY), 7919):
        yield BODY[start : start + 7919]


async def slow_pieces() -> AsyncIterator[bytes]:
    for piece in pieces():
        yield piece
        await asyncio.sleep(0)


EXPECTED = {"sha256": hashlib.sha256(BODY).hexdigest(), "size": len(BODY)}


def test_requests(pair: Pair) -> None:
    with requests.Session() as session:
        for _ in range(3):
            answer = session.post(f"{pair.router}/echo", data=BODY, timeout=30)
            assert answer.content == BODY
        assert answer.headers["x-bluegreen-arm"] == "blue"
        assert len(session.get_adapter(pair.router).poolmanager.pools) == 1
        chunked = session.post(f"{pair.router}/digest", data=pieces(), timeout=30).json()
        assert chunked == {**EXPECTED, "content-length": None, "transfer-encoding": "chunked", "content-encoding": None}
        zipped = session.get(f"{pair.router}/compressed", timeout=30)
        assert zipped.headers["content-encoding"] == "gzip"
        assert zipped.json() == requests.get(f"{pair.blue}/compressed", timeout=30).json()
        with session.get(f"{pair.router}/large", params={"blocks": 200}, stream=True, timeout=30) as stream:
            assert hashlib.sha256(b"".join(stream.iter_content(10_000))).digest() == digest_of(pair, 200)
        assert session.post(f"{pair.router}/stream-echo/", data=pieces(), timeout=30).content == BODY


def digest_of(pair: Pair, blocks: int) -> bytes:
    return hashlib.sha256(requests.get(f"{pair.blue}/large", params={"blocks": blocks}, timeout=30).content).digest()


def test_httpx(pair: Pair) -> None:
    with httpx.Client(base_url=pair.router, timeout=30) as client:
        assert client.post("/echo", content=BODY).content == BODY
        assert client.post("/digest", content=pieces()).json()["sha256"] == EXPECTED["sha256"]
        assert client.get("/compressed").json() == httpx.get(f"{pair.blue}/compressed").json()
        assert client.head("/large", params={"blocks": 1, "length": 1}).headers["content-length"] == "65536"
        with client.stream("GET", "/events", params={"count": 20}) as stream:
            lines = [line for line in stream.iter_lines() if line]
        assert lines == [*(f"data: {n}" for n in range(20)), "data: [DONE]"]

    async def many() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=pair.router, timeout=60) as client:
            return await asyncio.gather(*(client.post("/echo", content=b"%d" % n * 1000) for n in range(200)))

    answers = asyncio.run(many())
    assert [answer.content for answer in answers] == [b"%d" % n * 1000 for n in range(200)]


def test_aiohttp(pair: Pair) -> None:
    async def all_of_it() -> None:
        async with aiohttp.ClientSession(pair.router, timeout=aiohttp.ClientTimeout(60)) as session:
            async with session.post("/echo", data=BODY) as answer:
                assert await answer.read() == BODY
            async with session.post("/digest", data=slow_pieces()) as answer:
                assert (await answer.json())["sha256"] == EXPECTED["sha256"]
            async with session.post("/digest", data=slow_pieces(), expect100=True) as answer:
                assert (await answer.json())["sha256"] == EXPECTED["sha256"]
            async with session.get("/compressed") as answer:
                assert (await answer.json())["outputs"][-1] == 499
            async with session.get("/large", params={"blocks": "100"}) as answer:
                assert hashlib.sha256(await answer.read()).digest() == digest_of(pair, 100)
            async with session.ws_connect("/ws", protocols=("chat",), max_msg_size=0) as socket:
                assert socket.protocol == "chat"
                for message in (b"\x00\xff" * 10, BODY):
                    await socket.send_bytes(message)
                    assert await socket.receive_bytes() == message
                await socket.send_str("close")
                closed = await socket.receive()
                assert (closed.type, closed.data) == (aiohttp.WSMsgType.CLOSE, 4321)

    asyncio.run(all_of_it())


def test_websockets(pair: Pair) -> None:
    url = pair.router.replace("http:", "ws:") + "/ws"
    with websockets.sync.client.connect(url, max_size=None, compression=None) as plain:
        for size in (1, 125, 126, 65_536, 3_000_000):
            message = random.Random(size).randbytes(size)
            plain.send(message)
            assert plain.recv() == message
        plain.send("grüße")
        assert plain.recv() == "grüße"
        assert plain.ping().wait(10)
        plain.send("close")
        with pytest.raises(websockets.ConnectionClosed) as closed:
            plain.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4321, "as asked")

    async def several() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(one(f"{number} " * 500))

    async def one(text: str) -> None:
        async with websockets.connect(url) as compressed:
            for _ in range(5):
                await compressed.send(text)
                assert await compressed.recv() == text

    asyncio.run(several())


def test_openai_with_the_model_renamed_for_each_arm(pair: Pair, route: Callable[..., Pair]) -> None:
    ports = [int(url.rsplit(":", 1)[1]) for url in (pair.blue, pair.green)]
    own = route(*ports, arms={"blue": {"model": "served-v1"}, "green": {"model": "served-v2"}})
    client = openai.OpenAI(base_url=f"{own.router}/v1", api_key="none", max_retries=0)
    messages: Any = [{"role": "user", "content": "hello"}]
    for _ in range(5):
        answer = client.chat.completions.create(model="chat", messages=messages)
        assert (answer.model, answer.choices[0].message.content) == ("served-v1", "You said: hello")
    stream = client.chat.completions.create(model="chat", messages=messages, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "You said: hello"
    vector = client.embeddings.create(model="embed", input="four", encoding_format="float")
    assert vector.data[0].embedding == [4.0, 0.5, -1.0]
    evidence = own.evidence(7)
    assert (evidence["pairs"], evidence["dropped"]) == (7, 0)
    assert evidence["agreement"]["n"] >= 7
    assert evidence["agreement"]["rate"] == 1.0
    assert "openai" in str(evidence["protocols"])


def test_nothing_was_lost_on_the_way(pair: Pair) -> None:
    """After all of the above: what was sampled is compared or accounted for, and nothing is left on the way."""

    def quiet() -> bool:
        return {arm["in_flight"] for arm in pair.deployment.get("/v1/status")[1]["arms"].values()} == {0}

    pair.deployment.wait_until(quiet)
    status = pair.deployment.get("/v1/status")[1]
    assert status["arms"]["blue"]["errors"] == 0
    sampled = pair.deployment.get("/v1/evidence")[1]["sampled"]
    evidence = pair.evidence(sampled)
    assert evidence["pairs"] + evidence["dropped"] == sampled
