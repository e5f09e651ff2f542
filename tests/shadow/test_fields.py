"""Header fields as mappings: read late, read once, and the same as reading them at once."""

import pytest

from models.http1 import HttpError, RequestHead
from models.http1_response import parse_response
from shadow.fields import MAX_HEAD, RequestFields, answered_fields, request_head

HEAD = b"POST /infer HTTP/1.1\r\nHost: models\r\nX-User-Id: Anna\r\nAccept: a\r\naccept: b\r\nContent-Length: 0\r\n\r\n"
FIELDS = {"host": "models", "x-user-id": "Anna", "accept": "a, b", "content-length": "0"}


class Counted(RequestHead):
    """A head that counts how often its fields are read."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.reads = 0

    def fields(self) -> dict[str, str]:
        self.reads += 1
        return super().fields()


def test_it_is_the_mapping_of_all_fields_by_lower_case_name():
    fields = RequestFields(request_head(HEAD))
    assert dict(fields) == dict(fields.items()) == FIELDS
    assert (len(fields), fields["accept"], fields.get("x-user-id")) == (4, "a, b", "Anna")
    assert repr(fields) == repr(FIELDS)
    with pytest.raises(KeyError):
        fields["x-none"]


def test_what_stands_nowhere_in_the_head_is_told_without_reading_it():
    head = Counted(HEAD)
    fields = RequestFields(head)
    assert fields.get("x-stainless-retry-count") is None
    assert fields.get("x-none", "-") == "-"
    assert head.reads == 0
    assert fields.get("host") == "models"
    assert (fields.get("accept"), fields["host"], len(fields)) == ("a, b", "models", 4)
    assert head.reads == 1


def test_a_name_that_stands_in_a_value_is_no_field():
    fields = RequestFields(Counted(b"GET /host HTTP/1.1\r\nX-Seen: traceparent\r\n\r\n"))
    assert fields.get("traceparent") is None
    assert fields.get("x-seen") == "traceparent"


def test_a_request_head_is_parsed_once():
    assert request_head(HEAD) is request_head(bytes(bytearray(HEAD)))
    assert request_head(HEAD).target == b"/infer"


def test_a_long_head_is_parsed_and_not_kept():
    long = HEAD[:-2] + b"x-long: " + b"x" * 5000 + b"\r\n\r\n"
    assert request_head(long) is not request_head(long)
    assert request_head(long).raw == long


@pytest.mark.parametrize(
    "raw", [b"", HEAD[:-1], b"rubbish\r\n\r\n", b"x" * (MAX_HEAD + 1)], ids=["none", "half", "other", "endless"]
)
def test_what_is_no_whole_head_is_refused_every_time(raw):
    for _ in range(2):
        with pytest.raises(HttpError):
            request_head(raw)


def test_equal_answers_share_one_mapping():
    raw = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n"
    heads = [parse_response(raw + b"{}", b"POST") for _ in range(2)]
    assert heads[0] is not None
    assert heads[1] is not None
    assert answered_fields(heads[0]) is answered_fields(heads[1])
    assert answered_fields(heads[0]) == {"content-type": "application/json", "content-length": "2"}
