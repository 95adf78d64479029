"""The client of the stream tests is strict, or they show nothing."""

import pytest

from tests.stream_client import BadStreamError, Events, Multipart, StreamClient

JPEG = b"\xff\xd8picture\r\n--no-boundary\xff\xd9"
HEAD = b"Content-Type: image/jpeg\r\nContent-Length: %d\r\nX-Frame-Id: 7\r\n\r\n" % len(JPEG)
PART = HEAD + JPEG + b"\r\n--healthd-frame\r\n"
LAST = HEAD + JPEG + b"\r\n--healthd-frame--\r\n"


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_a_multipart_body_is_read_however_it_is_cut(step: int) -> None:
    body = b"--healthd-frame\r\n" + PART * 3 + LAST
    reader = Multipart(keep=True)
    for begin in range(0, len(body), step):
        reader.feed(body[begin : begin + step])
    assert [(part.frame_id, part.jpeg) for part in reader.parts] == [(7, JPEG)] * 4
    assert reader.closed


@pytest.mark.parametrize(
    "body",
    [
        b"--other\r\n",
        b"--healthd-frame\r\n" + PART.replace(b"image/jpeg", b"text/plain"),
        b"--healthd-frame\r\n" + PART.replace(b"\xff\xd9", b"..", 1),
        b"--healthd-frame\r\n" + PART.replace(b"\r\n--healthd", b"\r\n==healthd") + b"more",
        b"--healthd-frame\r\n" + LAST + b"more",
    ],
)
def test_a_multipart_body_that_is_wrong_is_an_error(body: bytes) -> None:
    with pytest.raises(BadStreamError):
        Multipart().feed(body)


def test_a_body_without_its_closing_delimiter_or_its_last_chunk_is_not_clean() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = [b"%x\r\n%b\r\n" % (len(data), data) for data in (b"--healthd-frame\r\n", PART, LAST)]
    for kept, clean in ((chunks, False), ([*chunks[:2], b"0\r\n\r\n"], False), ([*chunks, b"0\r\n\r\n"], True)):
        client = StreamClient("/")
        client.data_received(head + b"".join(kept))
        assert client.error is None
        assert client.clean is clean


def test_events_are_read_however_they_are_cut() -> None:
    body = b'retry: 2000\n\nid: ab-1\nevent: camera\ndata: {"a": 1}\n\n: alive\n\n: end\n\n'
    for step in (1, 5, 1000):
        reader = Events()
        for begin in range(0, len(body), step):
            reader.feed(body[begin : begin + step])
        assert [(event.name, event.event_id, event.data) for event in reader.events] == [("camera", "ab-1", '{"a": 1}')]
        assert reader.comments == ["alive", "end"]
