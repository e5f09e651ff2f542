"""A worker reads from the settings document what the settings were checked to be, and its defaults are theirs."""

from __future__ import annotations

import dataclasses
import ipaddress

from router.proxy.options import Fallback, Limits, ProxyOptions, Timeouts, read_options
from router.settings import Settings

SERVERS = {"blue": {"name": "one", "servers": ["http://127.0.0.1:1"]}}


def test_nothing_set_means_the_defaults() -> None:
    assert read_options({}) == ProxyOptions()


def test_the_settings_defaults_are_the_worker_s() -> None:
    document = Settings.model_validate(SERVERS).to_json()
    ours, default = read_options(document), ProxyOptions()
    for part in dataclasses.fields(ProxyOptions):
        assert getattr(ours, part.name) == getattr(default, part.name), part.name


def test_every_value_arrives_under_its_name() -> None:
    document = Settings.model_validate(
        {
            **SERVERS,
            "timeouts": {"connect": "250ms", "first_byte": 3, "continue": "2s"},
            "limits": {"body": "1MiB", "headers": 40, "in_flight": 7},
            "fallback": {"on": ["connect"], "open_after": 9, "budget_percent": 5},
            "forwarded": {"trust": ["10.0.0.0/8", "::1/128"]},
            "shadow": {"methods": ["POST", "PUT"], "paths": ["/v2/"]},
            "predictions": {"percent": 25},
        }
    ).to_json()
    options = read_options(document)
    assert (options.timeouts.connect, options.timeouts.first_byte, options.timeouts.continue_) == (0.25, 3.0, 2.0)
    assert options.timeouts.idle == Timeouts().idle
    assert (options.limits.body, options.limits.headers, options.limits.in_flight) == (1 << 20, 40, 7)
    assert options.limits.queue == Limits().queue
    assert (options.fallback.on, options.fallback.open_after) == (frozenset({"connect"}), 9)
    assert options.fallback.body == Fallback().body
    assert options.trusted == (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::1/128"))
    assert options.mirroring.methods == {b"POST", b"PUT"}
    assert options.mirroring.paths == (b"/v2/",)
    assert options.mirroring.logged == 0.25


def test_no_rows_means_no_log() -> None:
    assert read_options({"predictions": {"rows": 0, "percent": 100}}).mirroring.logged == 0.0


def test_what_a_worker_does_not_know_is_passed_over() -> None:
    assert read_options({"limits": {"later": 1}, "else": {}}) == ProxyOptions()
