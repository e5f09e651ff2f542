"""The configuration of every peer as pure text: the same 90/10 split, keep-alive on both sides, HTTP/1.1, no access log.

Each is written the way a careful operator would write it: one worker, room for the connections of all rows, limits on
requests per connection lifted (nginx closes after 1,000 otherwise), and bodies streamed rather than spooled to disk. What a
peer cannot do by itself is left out and said so in `peers.PEERS`. nginx's buffers for 1 MiB bodies are the best of those tried,
and HAProxy's event streams have `http-no-delay`, without which the kernel holds small events back for up to 200 ms.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one proxy shall do: where to listen, its two upstreams, green's share in percent, and whether to mirror to green."""

    port: int
    blue: int
    green: int
    green_percent: int = 10
    mirror: bool = False
    empty_mirror: bool = False  # nginx only: mirror to a path of green that answers 204
    prediction_log: bool = False  # the router only: log mirrored exchanges for late feedback
    shadow_first: bool = False  # the router only: the shadow goes before the worker, so that all is mirrored whatever the load


def _nginx_begins(directory: Path, user: str | None) -> str:
    """What every nginx here begins with, up to the inside of its `http` block."""
    return f"""
{f"user {user};" if user else ""}
worker_processes 1;
worker_rlimit_nofile 20000;
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/error.log crit;
events {{ worker_connections 12000; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;"""


def nginx(wanted: Wanted, directory: Path, user: str | None) -> str:
    """nginx: split_clients on the user id; `mirror` sends a copy with its body and throws the answer away."""
    split = f"{wanted.green_percent}% green; * blue;" if wanted.green_percent else "* blue;"
    mirror = "mirror /mirrored; mirror_request_body on;" if wanted.mirror else ""
    return f"""
{_nginx_begins(directory, user)}
    keepalive_requests 100000000;
    client_max_body_size 64m;
    split_clients "$http_x_user_id" $arm {{ {split} }}
    upstream blue {{ server 127.0.0.1:{wanted.blue}; keepalive 256; keepalive_requests 100000000; }}
    upstream green {{ server 127.0.0.1:{wanted.green}; keepalive 256; keepalive_requests 100000000; }}
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $http_host;
    proxy_connect_timeout 1s;
    proxy_read_timeout 30s;
    server {{
        listen 127.0.0.1:{wanted.port} backlog=4096;
        location / {{ {mirror} proxy_pass http://$arm; }}
        location /upload {{ proxy_request_buffering off; client_body_buffer_size 1m; proxy_pass http://$arm; }}
        location /large {{ proxy_buffering off; proxy_buffer_size 256k; proxy_buffers 8 256k; proxy_pass http://$arm; }}
        location /events {{ proxy_buffering off; proxy_pass http://$arm; }}
        location = /mirrored {{ internal; proxy_pass http://green{"/empty" if wanted.empty_mirror else "$request_uri"}; }}
    }}
}}
"""


def haproxy(wanted: Wanted) -> str:
    """HAProxy: a hash of the user id picks the backend. It has no mirroring of its own (its SPOE needs an agent beside it)."""
    return f"""
global
    nbthread 1
    maxconn 8000
defaults
    mode http
    http-reuse always
    timeout connect 1s
    timeout client 60s
    timeout server 30s
    timeout http-keep-alive 60s
frontend in
    bind 127.0.0.1:{wanted.port} backlog 4096
    use_backend streams if {{ path_beg /events }}
    acl canary req.hdr(x-user-id),xxh32,mod(100) lt {wanted.green_percent}
    use_backend green if canary
    default_backend blue
backend blue
    server blue 127.0.0.1:{wanted.blue} pool-max-conn 256
backend green
    server green 127.0.0.1:{wanted.green} pool-max-conn 256
backend streams
    option http-no-delay
    server blue 127.0.0.1:{wanted.blue} pool-max-conn 256
"""


def envoy(wanted: Wanted) -> str:
    """Envoy: weighted clusters by a hash of the user id; `request_mirror_policies` copies to green and drops the answer."""

    def cluster(name: str, port: int) -> dict[str, Any]:
        address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
        bounds = {"priority": "DEFAULT", "max_connections": 16000, "max_pending_requests": 16000, "max_requests": 16000}
        return {
            "name": name,
            "type": "STATIC",
            "connect_timeout": "1s",
            "circuit_breakers": {"thresholds": [bounds]},
            "load_assignment": {
                "cluster_name": name,
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
            },
        }

    route: dict[str, Any] = {
        "weighted_clusters": {
            "use_hash_policy": True,
            "clusters": [
                {"name": "blue", "weight": 100 - wanted.green_percent},
                {"name": "green", "weight": wanted.green_percent},
            ],
        },
        "hash_policy": [{"header": {"header_name": "x-user-id"}}],
        "timeout": "30s",
    }
    if wanted.mirror:
        route["request_mirror_policies"] = [{"cluster": "green"}]
    kind = "type.googleapis.com/envoy.extensions.filters"
    manager = {
        "@type": f"{kind}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "codec_type": "HTTP1",
        "route_config": {
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": route}]}]
        },
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{kind}.http.router.v3.Router"}}],
    }
    listener = {
        "name": "in",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": wanted.port}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    clusters = [cluster("blue", wanted.blue), cluster("green", wanted.green)]
    return json.dumps({"static_resources": {"listeners": [listener], "clusters": clusters}}, indent=1)


def traefik_static(wanted: Wanted, directory: Path) -> str:
    """Traefik's start-up file (JSON is YAML): one entry point, routes from a file, nothing sent home."""
    return json.dumps(
        {
            "global": {"checkNewVersion": False, "sendAnonymousUsage": False},
            "log": {"level": "ERROR"},
            "entryPoints": {"in": {"address": f"127.0.0.1:{wanted.port}", "http": {"maxHeaderBytes": 32768}}},
            "providers": {"file": {"filename": str(directory / "routes.yml"), "watch": False}},
        }
    )


def traefik_routes(wanted: Wanted) -> str:
    """Traefik's routes: weighted round robin (it has no split by a header), and its mirroring service."""

    def servers(port: int) -> dict[str, Any]:
        return {"loadBalancer": {"servers": [{"url": f"http://127.0.0.1:{port}"}], "serversTransport": "kept"}}

    weights = [{"name": "blue", "weight": 100 - wanted.green_percent}, {"name": "green", "weight": wanted.green_percent}]
    services: dict[str, Any] = {
        "blue": servers(wanted.blue),
        "green": servers(wanted.green),
        "split": {"weighted": {"services": weights}},
    }
    if wanted.mirror:
        services["mirrored"] = {"mirroring": {"service": "split", "mirrors": [{"name": "green", "percent": 100}]}}
    http = {
        "routers": {"all": {"rule": "PathPrefix(`/`)", "service": "mirrored" if wanted.mirror else "split"}},
        "services": services,
        "serversTransports": {"kept": {"maxIdleConnsPerHost": 256}},
    }
    return json.dumps({"http": http})


def caddy(wanted: Wanted) -> str:
    """Caddy: weighted round robin (its header policy knows no weights). It has no mirroring of its own."""
    proxy = {
        "handler": "reverse_proxy",
        "upstreams": [{"dial": f"127.0.0.1:{wanted.blue}"}, {"dial": f"127.0.0.1:{wanted.green}"}],
        "load_balancing": {
            "selection_policy": {
                "policy": "weighted_round_robin",
                "weights": [100 - wanted.green_percent, wanted.green_percent],
            }
        },
        "transport": {"protocol": "http", "dial_timeout": "1s", "keep_alive": {"max_idle_conns_per_host": 256}},
    }
    server = {
        "listen": [f"127.0.0.1:{wanted.port}"],
        "automatic_https": {"disable": True},
        "protocols": ["h1"],
        "routes": [{"handle": [proxy]}],
    }
    return json.dumps(
        {
            "admin": {"disabled": True},
            "logging": {"logs": {"default": {"level": "ERROR"}}},
            "apps": {"http": {"servers": {"in": server}}},
        }
    )


def router(wanted: Wanted, control: int, state: Path, *, workers: int, shadow_percent: int) -> str:
    """Bluegreen itself with key split, request ids, counters, timeouts, limits, fallback armed; no prediction log unless wanted."""
    return json.dumps(
        {
            "listen": f"127.0.0.1:{wanted.port}",
            "control": f"127.0.0.1:{control}",
            "state": str(state),
            "workers": workers,
            "blue": {"name": "bench-v1", "servers": [f"http://127.0.0.1:{wanted.blue}"]},
            "green": {"name": "bench-v2", "servers": [f"http://127.0.0.1:{wanted.green}"]},
            "split": {"green_percent": wanted.green_percent, "key": "header:x-user-id", "salt": "bench"},
            "shadow": {"percent": shadow_percent, **({"nice": 0} if wanted.shadow_first else {})},
            # No peer keeps a prediction log for late feedback; what it costs a worker is told in docs/performance.md.
            "predictions": {"percent": 0, **({} if wanted.prediction_log else {"rows": 0})},
            "fallback": {"on": ["connect", "timeout", "5xx"]},
            "timeouts": {"connect": "1s", "first_byte": "30s", "idle": "60s"},
            "limits": {"body": "64MiB", "head": "32KiB", "connections": 10000},
        },
        indent=1,
    )


def upstreams(blue: int, green: int, bulk: Path, directory: Path, user: str | None) -> str:
    """The two model servers as one nginx: blue and green answer the same JSON but for the version
    and two probabilities.

    `/counts` tells how many connections and requests both have had, which shows what was mirrored and whether connections
    were kept.
    """

    def server(port: int, version: int) -> str:
        # Not quite the same, so that the shadow has something to measure.
        probabilities = [0.0125, 0.0875, 0.9] if version == 1 else [0.0150, 0.0850, 0.9]
        answer = json.dumps(
            {
                "model_name": "iris",
                "model_version": str(version),
                "id": "bench",
                "outputs": [
                    {"name": "label", "shape": [1], "datatype": "INT64", "data": [2]},
                    {"name": "probability", "shape": [1, 3], "datatype": "FP64", "data": probabilities},
                ],
            },
            separators=(",", ":"),
        )
        return f"""
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{ return 200 '{answer}'; }}
        location = /empty {{ return 204; }}
        location = /counts {{ stub_status; }}
        location = /large {{ alias {bulk}; }}
    }}"""

    return f"""
{_nginx_begins(directory, user)}
    default_type application/json;
    keepalive_requests 100000000;
    sendfile on;
    tcp_nopush on;
    open_file_cache max=10;
{server(blue, 1)}
{server(green, 2)}
}}
"""
