"""Composes the control process: plan page, store and workers' view behind the control API, on a socket that it inherits.

Started by the supervisor as `python -P -m router.run_control --state DIR --fd N`. The supervisor binds the socket, so that a
port that is taken is its clear refusal to start, and a restart of this process refuses no connection. SIGTERM ends it within
two seconds whatever clients hold open; it never outlives its supervisor.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

from router.api_token import read_token
from router.control.api import build_app
from router.control.feedback_calls import FEEDBACK_LIMIT, FEEDBACK_PATH, feedback_routes
from router.control.plans import Control
from router.control.recording_calls import recording_routes
from router.control.rollout_calls import rollout_routes
from router.control.status import is_listening
from router.errors import PlanError, RouterError, SettingsError, StartError
from router.page import PlanPage
from router.process import die_with_parent
from router.quantities import is_loopback
from router.rollout.runner import Rollouts
from router.state import StateDir
from router.store.exposures import ExposureLog
from router.store.store import Store
from router.unit_names import unit_names
from router.workers import Workers

log = logging.getLogger("control")


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers, which would raise SIGTERM once more at the end."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to `_serve`."""
        yield


def main(argv: Sequence[str] | None = None) -> int:
    """Run the control process until SIGTERM. Returns the exit status: 0, or 1 after one line on stderr."""
    options = _options(argv)
    die_with_parent(options.parent)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s control %(message)s", stream=sys.stderr)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    try:
        listener = socket.socket(fileno=options.fd)
        return _run(StateDir(options.state), listener)
    except (StartError, SettingsError, RouterError, OSError) as error:
        log.error("cannot start: %s", error)
        return 1


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="router.run_control", description="The control process; bluegreen serve starts it.")
    parser.add_argument("--state", type=Path, required=True, help="state directory")
    parser.add_argument("--fd", type=int, required=True, help="listening socket that is inherited")
    parser.add_argument("--parent", type=int, default=None, help="PID of the supervisor")
    return parser.parse_args(argv)


def _run(state: StateDir, listener: socket.socket) -> int:
    try:
        settings: dict[str, Any] = json.loads(state.settings_json.read_bytes())
    except (OSError, ValueError) as error:
        raise StartError(f"cannot read {state.settings_json}: {error}; `bluegreen serve` writes it") from None
    token = read_token(settings["control_token_file"])
    page = PlanPage(state.plan_page, writable=True)
    store = Store(state.store)
    control = Control(page, store, Workers(state))
    try:
        control.reconcile()
    except PlanError as error:
        raise StartError(str(error)) from None
    host = listener.getsockname()[0]
    rollouts = Rollouts(control, settings, lambda: is_listening(state.tap))
    names = unit_names(state.unit_secret, plain=bool(settings["predictions"]["plain_units"]))
    app = build_app(
        control,
        tap=state.tap,
        token=token,
        loopback=is_loopback(host),
        judge=rollouts.judge,
        rollout=rollouts.brief,
        more=[
            feedback_routes(ExposureLog(store), names),
            recording_routes(state),
            rollout_routes(rollouts, control.now),
        ],
        body_limits={FEEDBACK_PATH: FEEDBACK_LIMIT},
    )
    rollouts.start()
    try:
        uvloop.run(_serve(app, listener))
    finally:
        rollouts.stop()
        control.close()
        store.close()
    return 0


async def _serve(app: Any, listener: socket.socket) -> None:
    config = uvicorn.Config(
        app,
        loop="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=1,
    )
    server = _Server(config)

    def stop() -> None:
        server.should_exit = True

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop)
    loop.add_signal_handler(signal.SIGINT, lambda: None)  # Ctrl-C reaches the whole group; the supervisor decides
    await server.serve(sockets=[listener])


if __name__ == "__main__":
    sys.exit(main())
