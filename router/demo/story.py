"""The demo's story, told while it happens: what is done, what it should show, and what was measured.

Nothing is staged: the models are trained, the servers answer, the traffic runs all the time, and every number comes from the
control API or from what the clients saw.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.panel import Panel
from rich.progress import Progress, SpinnerColumn, TextColumn

from router.commands.client import ControlClient
from router.commands.failed import Failed
from router.demo.stage import Stage, StageError, free_ports
from router.demo.traffic import Traffic

if TYPE_CHECKING:
    from models.reference.train import TrainedModel

REQUESTS_PER_SECOND = 120.0
MIN_PAIRS = 100
# How the seconds of traffic are shared between the acts, and from which duration on there is time for the two rollouts.
SHADOW, SPLIT, BROKEN, BLUE = 0.40, 0.25, 0.20, 0.15
BY_HAND, ROLLOUTS_FROM = 0.45, 60.0
POLICY: dict[str, Any] = {
    "shadow": {"min_pairs": 200},
    "steps": [10, 50, 100],
    "hold": "3s",
    "bake": "3s",
    "gates": {"agreement": {"min": 0.95}},
    "promote": True,
}
FINAL = ("done", "rolled_back", "aborted", "paused")


class _Ended(Exception):
    """SIGTERM: end as Ctrl-C does."""


def run(duration: float = 90.0, as_json: bool = False) -> int:
    """Play the demo with about `duration` seconds of traffic; the exit status. With `as_json` only the result is printed."""
    console = Console(quiet=as_json, highlight=False)

    def ended(_number: int, _frame: object) -> None:
        raise _Ended

    signal.signal(signal.SIGTERM, ended)
    try:
        with Stage() as stage:
            result = _play(stage, console, duration)
    except (StageError, Failed) as error:
        print(f"bluegreen: the demo cannot go on: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, _Ended):
        print("bluegreen: the demo was ended; everything it started has been stopped", file=sys.stderr)
        return 130
    if as_json:
        print(json.dumps(result))
    good = result["errors"] == 0 and result["wrong_after_switch"] == 0 and result["pairs"] > 0
    return 0 if good else 1


def _play(stage: Stage, console: Console, duration: float) -> dict[str, Any]:
    listen_port, control_port, blue_port, green_port, worse_port = free_ports(8000, 8001, 9001, 9002, 9003)
    listen, control = f"127.0.0.1:{listen_port}", f"127.0.0.1:{control_port}"
    console.print(
        Panel(
            "[bold]bluegreen[/bold]: one endpoint, two model versions.\n"
            "Blue is in production. Green is the candidate. Clients ask for predictions all the while.",
            expand=False,
        )
    )
    models = _set_up(stage, console, listen, control, blue_port, green_port)
    console.print(f"clients    http://{listen}   (they know nothing else)")
    console.print(f"dashboard  http://{control}\n")

    from models.reference.train import traffic as held_out

    rows, _ = held_out("digits")
    api = ControlClient(f"http://{control}")
    clients = Traffic(f"http://{listen}", rows, REQUESTS_PER_SECOND)
    clients.start()
    rollouts = duration >= ROLLOUTS_FROM
    try:
        result = _acts(stage, console, duration * BY_HAND if rollouts else duration, api, clients)
        if rollouts:
            good = f"http://127.0.0.1:{green_port}", models["green"].path
            worse = f"http://127.0.0.1:{worse_port}", models["green-swapped"].path
            result["rollouts"] = [
                _rollout(stage, console, 5, "A rollout by itself", "digits-v3", good, api, duration),
                _rollout(stage, console, 6, "A rollout of a worse model", "digits-v4", worse, api, duration),
            ]
        return _close(console, result, clients)
    finally:
        clients.stop()


def _set_up(
    stage: Stage, console: Console, listen: str, control: str, blue_port: int, green_port: int
) -> dict[str, TrainedModel]:
    """Train, serve, route; with a spinner, since it takes some seconds."""
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), console=console, transient=True) as progress:
        task = progress.add_task("training two versions of a classifier of handwritten digits")
        from models.reference.train import train

        models = {m.card.version: m for m in train(stage.path / "models", ["digits"])}
        progress.update(task, description="starting two model servers and the router")
        blue = stage.serve_model("blue", models["blue"].path, blue_port)
        green = stage.serve_model("green", models["green"].path, green_port)
        stage.serve_router(
            {
                "listen": listen,
                "control": control,
                "state": str(stage.path / "state"),
                "workers": 2,
                "blue": {"name": "digits-v1", "servers": [blue]},
                "green": {"name": "digits-v2", "servers": [green]},
                "split": {"green_percent": 0, "key": "header:x-user-id", "salt": "demo"},
                "shadow": {"percent": 100, "noise_percent": 20},
            }
        )
        stage.wait_for_model("blue", blue)
        stage.wait_for_model("green", green)
        stage.wait_for_router(listen, control)
    for version in ("blue", "green"):
        score = models[version].card.score
        console.print(f"{version:<10} digits-{'v1' if version == 'blue' else 'v2'}, right on {score:.1%} of held-out digits")
    return models


def _acts(stage: Stage, console: Console, duration: float, api: ControlClient, clients: Traffic) -> dict[str, Any]:
    seen = clients.seen

    _act(console, 1, "Shadow", "All users are on blue. Each request is mirrored to green, and nobody waits for it.")
    _pass(console, duration * SHADOW, lambda: _pairs_line(api), until=lambda: _evidence(api)["pairs"] >= MIN_PAIRS)
    evidence = _evidence(api)
    agreement = evidence["agreement"]
    low, high = agreement["ci"]
    console.print(
        f"  {evidence['pairs']} pairs compared, {evidence['dropped']} not. Green agrees with blue on "
        f"[bold]{agreement['rate']:.1%}[/bold] of them; the true rate lies between {low:.1%} and {high:.1%} "
        "(an interval that may be looked at at any time)."
    )
    console.print(f"  Users met green {seen.by_arm['green']} times.")

    _act(console, 2, "Split", "10 % of the users, always the same ones, get green's answers.")
    api.post("/v1/split", {"green_percent": 10, "reason": "demo: a first tenth of the users"})
    before = dict(seen.by_arm)
    _pass(console, duration * SPLIT, lambda: _shares_line(clients, before))
    green, blue = (seen.by_arm[c] - before[c] for c in ("green", "blue"))
    console.print(
        f"  Green answered {green} of {green + blue} requests, for {len(seen.users_on_green)} users of 400. "
        "Who was on green stays on green."
    )

    _act(console, 3, "Green breaks", "Its server is killed in the middle of everything.")
    stage.kill("green")
    errors, fallbacks = seen.errors, _fallbacks(api)
    _pass(console, duration * BROKEN, lambda: f"{_fallbacks(api) - fallbacks} requests answered by blue in green's place")
    green_arm = api.get("/v1/status")["arms"]["green"]
    console.print(
        f"  {green_arm['fallbacks'] - fallbacks} requests failed at green and were answered by blue; "
        f"{green_arm['skipped']} more went to blue at once, since the breaker was {green_arm['breaker']}. "
        f"Clients saw [bold]{seen.errors - errors}[/bold] errors."
    )

    _act(console, 4, "Switch", "Everything back to blue. When the call returns, it holds on every worker.")
    began = time.perf_counter()
    api.post("/v1/switch", {"to": "blue", "reason": "demo: green is broken"})
    switch_ms = (time.perf_counter() - began) * 1e3
    clients.only("blue")
    _pass(console, duration * BLUE, lambda: f"{seen.requests} requests, {seen.wrong_after_switch} answered by green")
    clients.only(None)
    console.print(
        f"  The switch took {switch_ms:.1f} ms. Of the requests sent after it, {seen.wrong_after_switch} were answered "
        "by green."
    )
    evidence = _evidence(api)
    return {
        "requests": 0,
        "errors": 0,
        "pairs": evidence["pairs"],
        "agreement": evidence["agreement"]["rate"],
        "switch_ms": round(switch_ms, 3),
        "wrong_after_switch": 0,
    }


def _rollout(
    stage: Stage,
    console: Console,
    number: int,
    title: str,
    name: str,
    server: tuple[str, Path],
    api: ControlClient,
    duration: float,
) -> dict[str, Any]:
    """A new candidate, walked up (or not) under a policy; tells each change of its state."""
    url, model = server
    policy = f"shadow, then {', '.join(f'{step} %' for step in POLICY['steps'])}, as long as at least 95 % agree"
    _act(console, number, title, f"{name} is the new green. The policy: {policy}.")
    stage.serve_model(name, model, int(url.rpartition(":")[2]))
    stage.wait_for_model(name, url)
    api.put("/v1/arms/green", {"name": name, "servers": [url], "reason": f"demo: {name}"})
    api.post("/v1/rollout", {"action": "start", "policy": POLICY})
    told, deadline = "", time.monotonic() + max(duration, 60.0)
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), console=console, transient=True) as progress:
        task = progress.add_task("")
        while True:
            rollout = api.get("/v1/rollout")
            where = f"{rollout['state']}, {rollout['green_percent']:g} % on green"
            if where != told:
                told = where
                console.print(f"  {where}")
            progress.update(task, description=_gates_line(rollout))
            if rollout["state"] in FINAL:
                break
            if time.monotonic() > deadline:
                api.post("/v1/rollout", {"action": "abort"})
            time.sleep(0.25)
    verdict = {"done": "[bold green]promoted[/bold green]", "rolled_back": "[bold red]rolled back[/bold red]"}
    console.print(f"  {name} was {verdict.get(rollout['state'], rollout['state'])}: {'; '.join(rollout['reasons'])}.")
    return {"name": name, "state": rollout["state"], "reasons": rollout["reasons"]}


def _gates_line(rollout: dict[str, Any]) -> str:
    """The gates with their intervals, and about how much more each one needs."""
    parts = []
    for gate in rollout["gates"]:
        low, high = gate.get("ci") or (None, None)
        interval = f" {low:.3f} to {high:.3f}" if low is not None and high is not None else ""
        more = f", about {gate['more']} more" if gate.get("more") else ""
        parts.append(f"{gate['name']} {gate['state']}{interval}{more}")
    return "; ".join(parts)


def _close(console: Console, result: dict[str, Any], clients: Traffic) -> dict[str, Any]:
    """The last panel: what the clients saw of all this."""
    final = clients.stop()
    result |= {"requests": final.requests, "errors": final.errors, "wrong_after_switch": final.wrong_after_switch}
    good = "green" if not final.errors else "red"
    rollouts = ", a promotion and a rollback" if "rollouts" in result else ""
    console.print(
        Panel(
            f"[bold {good}]{final.errors} errors[/bold {good}] in {final.requests} requests, through a shadow, a split, "
            f"a dead server, a switch{rollouts}.\n"
            f"{result['pairs']} predictions compared before the switch, {result['agreement']:.2%} agree."
            + (f"\nfirst error: {final.first_error}" if final.first_error else ""),
            title="what the clients saw",
            expand=False,
        )
    )
    return result


def _act(console: Console, number: int, title: str, text: str) -> None:
    console.print(f"\n[bold]{number}. {title}.[/bold] {text}")


def _pass(console: Console, seconds: float, line: Any, until: Any = None) -> None:
    """Let time pass with a line that says what is happening; at most as long again until `until` is true."""
    started = time.monotonic()
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), console=console, transient=True) as progress:
        task = progress.add_task("")
        while True:
            spent = time.monotonic() - started
            if spent >= seconds and (until is None or until() or spent > 2 * seconds + 30):
                return
            progress.update(task, description=line())
            time.sleep(0.25)


def _evidence(api: ControlClient) -> dict[str, Any]:
    return api.get("/v1/evidence")


def _fallbacks(api: ControlClient) -> int:
    fallbacks: int = api.get("/v1/status")["arms"]["green"]["fallbacks"]
    return fallbacks


def _pairs_line(api: ControlClient) -> str:
    evidence = _evidence(api)
    rate = evidence["agreement"]["rate"]
    return f"{evidence['pairs']} pairs compared" + (f", {rate:.1%} agree" if rate is not None else "")


def _shares_line(clients: Traffic, before: dict[str, int]) -> str:
    green, blue = (clients.seen.by_arm[c] - before[c] for c in ("green", "blue"))
    return f"green answered {green} of {green + blue} requests"
