from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from models.arm import parse_arm
from router.api_token import read_token
from router.errors import SettingsError
from router.plan import ShadowShare, Split
from router.settings import Settings, json_schema, load_settings, require_token, setting_keys
from shadow.evidence_options import EvidenceOptions

ROOT = Path(__file__).resolve().parents[2]
BLUE = "blue: {name: iris-v1, servers: [http://127.0.0.1:9001]}\n"
GREEN = "green: {name: iris-v2, servers: [http://127.0.0.1:9002]}\n"
WHOLE = """
listen: 127.0.0.1:8000          # clients
control: 127.0.0.1:8001         # control API, dashboard, /metrics
state: ./bluegreen-state        # plan page, SQLite file, counter pages
workers: 2
blue:  {name: iris-v1, servers: [http://127.0.0.1:9001]}
green: {name: iris-v2, servers: [http://127.0.0.1:9002]}
split:
  green_percent: 0              # steps of 0.01
  key: header:x-user-id
  salt: iris
shadow: {percent: 100, noise_percent: 10, max_in_flight: 64}
compare: {protocol: auto, rtol: 1.0e-5, atol: 1.0e-8, ignore: [/id, /model_version]}
fallback: {on: [connect, timeout, 5xx]}
timeouts: {connect: 1s, first_byte: 30s, idle: 60s}
limits: {body: 64MiB, head: 32KiB, connections: 10000}
rollout: {steps: [1, 5, 25, 50, 100]}
"""


def load(folder: Path, text: str) -> Settings:
    path = folder / "bluegreen.yaml"
    path.write_text(text)
    return load_settings(path)


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load(folder, text)
    line = str(caught.value)
    assert line.startswith(f"{folder / 'bluegreen.yaml'}: ")
    assert "\n" not in line
    return line.removeprefix(f"{folder / 'bluegreen.yaml'}: ")


def test_a_whole_file_is_understood(tmp_path: Path) -> None:
    settings = load(tmp_path, WHOLE)
    assert settings.listen == "127.0.0.1:8000"
    assert settings.state == tmp_path / "bluegreen-state"
    assert settings.compare.ignore == ("/id", "/model_version")
    assert settings.fallback.on == ("connect", "timeout", "5xx")
    assert settings.timeouts.first_byte == 30.0
    assert settings.limits.body == 64 * 2**20
    assert settings.rollout.steps == (1, 5, 25, 50, 100)


def test_blue_alone_is_enough_and_the_rest_has_defaults(tmp_path: Path) -> None:
    settings = load(tmp_path, BLUE)
    assert settings.green is None
    assert (settings.listen, settings.control, settings.workers) == ("127.0.0.1:8000", "127.0.0.1:8001", 2)
    assert settings.state == tmp_path / "bluegreen-state"
    assert settings.shadow.methods == ("POST",)
    assert settings.limits.queue == 256
    assert settings.health.path is None
    assert settings.control_token_file is None


def test_the_first_plan_is_what_the_file_says(tmp_path: Path) -> None:
    text = BLUE + GREEN + "split: {green_percent: 12.5, key: 'cookie:uid', salt: s}\nshadow: {percent: 3, max_in_flight: 7}\n"
    plan = load(tmp_path, text).first_plan()
    assert plan.revision == 0
    assert plan.release == 1
    assert plan.blue == parse_arm({"name": "iris-v1", "servers": ["http://127.0.0.1:9001"]}, "blue")
    assert plan.green == parse_arm({"name": "iris-v2", "servers": ["http://127.0.0.1:9002"]}, "green")
    assert plan.split == Split(12.5, "cookie:uid", "s")
    assert plan.shadow == ShadowShare(3.0, 0.0, 7)


def test_plain_json_holds_every_key_in_seconds_and_bytes(tmp_path: Path) -> None:
    text = WHOLE + "listen_tls: {listen: 127.0.0.1:8443, certificate: c.pem, key: k.pem}\nrecord: {keep: 2d, body: 1MB}\n"
    (tmp_path / "c.pem").touch()
    (tmp_path / "k.pem").touch()
    plain = json.loads(json.dumps(load(tmp_path, text).to_json(), allow_nan=False))
    assert plain["state"] == str(tmp_path / "bluegreen-state")
    assert plain["timeouts"]["continue"] == 1.0
    assert plain["limits"]["head"] == 32768
    assert plain["record"]["keep"] == 2 * 86400.0
    assert plain["record"]["body"] == 1_000_000
    assert plain["listen_tls"]["certificate"] == str(tmp_path / "c.pem")
    assert plain["blue"] == {"name": "iris-v1", "servers": ["http://127.0.0.1:9001"]}
    for key in setting_keys():
        if not key.startswith(("blue.", "green.", "rollout.gates.")):
            value: Any = plain
            for part in key.split("."):
                value = value[part]


@pytest.mark.parametrize("text", ["", "rollout: {steps: [50, 100]}\n", "rollout:\n  gates:\n"])
def test_gates_that_are_left_out_are_filled_in(tmp_path: Path, text: str) -> None:
    """The shadow reads the floor that its evidence is held against from there."""
    plain = load(tmp_path, BLUE + text).to_json()
    gates = {name: gate for name, gate in plain["rollout"]["gates"].items() if gate is not None}
    assert gates == {
        "agreement": {"min": 0.98, "not_worse_than_noise": False, "margin": 0.01}, "errors": {"max_increase": 0.005},
    }  # fmt: skip
    assert EvidenceOptions.from_settings(plain).floor == 0.98


def test_plain_json_can_be_read_as_a_file_again(tmp_path: Path) -> None:
    settings = load(tmp_path, WHOLE)
    again = tmp_path / "again.yaml"
    again.write_text(json.dumps(settings.to_json()))
    assert load_settings(again) == settings


def test_relative_files_lie_beside_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / "ca.pem").touch()
    (folder / "bluegreen.yaml").write_text(BLUE + "state: ../var\nupstream_tls: {ca: ca.pem}\naccess_log: {path: /log/a}\n")
    monkeypatch.chdir(tmp_path)
    settings = load_settings("etc/bluegreen.yaml")
    assert settings.state == tmp_path / "var"
    assert settings.upstream_tls.ca == folder / "ca.pem"
    assert settings.access_log.path == Path("/log/a")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("bleu: {name: a, servers: [http://h:1]}", "bleu: unknown key; did you mean blue? (and 1 more)"),
        (BLUE + "split: {green_precent: 1}", "split.green_precent: unknown key; did you mean split.green_percent?"),
        (BLUE + "green_percent: 1", "green_percent: unknown key; did you mean split.green_percent?"),
        (BLUE + "timeouts: {contine: 1}", "timeouts.contine: unknown key; did you mean timeouts.continue?"),
        (BLUE + "record: {kept: 1d}", "record.kept: unknown key; did you mean record.keep?"),
        ("blue: {name: a, servrs: [http://h:1]}", "blue.servrs: unknown key; did you mean blue.servers?"),
        (BLUE + "split: {zzz: 1}", "split.zzz: unknown key; known here are green_percent, key, salt"),
        ("{}", "blue: is missing"),
        ("blue: 3", "blue: must be a mapping with `name` and `servers`"),
        ("blue: {name: a, servers: []}", "blue.servers: must be a list of at least one URL such as http://127.0.0.1:9001"),
        (
            "blue: {name: a, servers: ['127.0.0.1:1']}",
            "blue.servers: server '127.0.0.1:1' has no scheme: write http://127.0.0.1:1 or https://127.0.0.1:1",
        ),
        (BLUE + "green: {name: '', servers: [http://h:1]}", "green.name: must be 1 to 100 letters"),
        (BLUE + GREEN + "split: {green_percent: 101}", "split.green_percent: must be a number from 0 to 100, got 101"),
        (BLUE + GREEN + "split: {green_percent: 0.001}", "split.green_percent: must be a multiple of 0.01, got 0.001"),
        (BLUE + "split: {green_percent: 5}", "split.green_percent: is above 0, but the plan has no green"),
        (BLUE + "split: {key: user}", "split.key: must be header:NAME, cookie:NAME, query:NAME or json:/pointer"),
        (BLUE + f"split: {{salt: {'x' * 65}}}", "split.salt: must be text of at most 64 bytes"),
        (BLUE + "split: {salt: 3}", "split.salt: must be text (put it in quotes), got 3"),
        (BLUE + "split: 3", "split: must be a mapping of settings, got 3"),
        (BLUE + "workers: 0", "workers: must be a whole number from 1 to 64, got 0"),
        (BLUE + "workers: 2.5", "workers: must be a whole number from 1 to 64, got 2.5"),
        (BLUE + "workers: true", "workers: must be a whole number from 1 to 64, got True"),
        (BLUE + "shadow: {percent: 1e999}", "shadow.percent: must be a number from 0 to 100, got inf"),
        (BLUE + "shadow: {max_in_flight: 0}", "shadow.max_in_flight: must be a whole number from 1 to 4096, got 0"),
        (BLUE + "shadow: {methods: POST}", "shadow.methods: must be a list such as [a, b], got 'POST'"),
        (BLUE + "shadow: {methods: [post]}", "shadow.methods.0: must be a method in capitals such as POST, got 'post'"),
        (BLUE + "shadow: {paths: [v2]}", "shadow.paths.0: must be a path prefix that starts with /, got 'v2'"),
        (BLUE + "compare: {protocol: grpc}", "compare.protocol: must be one of 'auto', 'open-inference'"),
        (BLUE + "compare: {ignore: [id]}", "compare.ignore.0: must be a JSON pointer such as /parameters/user, got 'id'"),
        (BLUE + "compare: {python: module}", "compare.python: must be \"module:function\", got 'module'"),
        (BLUE + "slices: [x-country]", "slices.0: must be header:NAME or json:/pointer"),
        (BLUE + "record: {redact: [secret]}", "record.redact.0: must be header:NAME or json:/pointer"),
        (BLUE + "fallback: {on: [reset]}", "fallback.on.0: must be one of 'connect', 'timeout' or '5xx', got 'reset'"),
        (BLUE + "timeouts: {connect: 0}", "timeouts.connect: must be from 1ms to 366d, got 0"),
        (BLUE + "timeouts: {connect: soon}", "timeouts.connect: must be a duration such as 250ms"),
        (BLUE + "limits: {body: much}", "limits.body: must be a size such as 32KiB"),
        (BLUE + "limits: {body: 0}", "limits.body: must be from 1 byte to 1024GiB, got 0"),
        (BLUE + "listen: ':80'", "listen: names no host; to listen on all interfaces write 0.0.0.0:80"),
        (BLUE + "listen: 127.0.0.1:8001", "control: 127.0.0.1:8001 is the address of listen already"),
        (BLUE + "forwarded: {trust: [proxy]}", "forwarded.trust.0: must be an address or network such as 10.0.0.0/8"),
        (BLUE + "upstream_tls: {ca: none.pem}", "upstream_tls.ca: there is no file"),
        (BLUE + "upstream_tls: {verify: 1}", "upstream_tls.verify: must be true or false, got 1"),
        (BLUE + "listen_tls: {listen: 127.0.0.1:8443}", "listen_tls.certificate: is missing (and 1 more)"),
        (BLUE + "control_token_file: nowhere", "control_token_file: there is no file"),
        (BLUE + "rollout: [1]", "rollout: must be a mapping of settings, got [1]"),
        (BLUE + "rollout: &r {again: *r}", "rollout.again: unknown key; known here are alpha, bake,"),
        (BLUE + "rollout: {setps: [100]}", "rollout.setps: unknown key; did you mean rollout.steps?"),
        (BLUE + "rollout: {steps: [5, 1, 100]}", "rollout.steps: must grow from step to step, got [5, 1, 100]"),
        (BLUE + "rollout: {gates: {latency: {ratio: 2}}}", "rollout.gates.latency.ratio: unknown key; did you mean"),
        (BLUE + "rollout: {gates: {slices: {min: 0.9}}}", "rollout.gates.slices: needs `slices` to look at"),
    ],
)
def test_what_is_wrong_gets_one_line_with_its_key(tmp_path: Path, text: str, line: str) -> None:
    assert refusal(tmp_path, text).startswith(line)


def test_a_certificate_needs_its_key(tmp_path: Path) -> None:
    (tmp_path / "c.pem").touch()
    assert refusal(tmp_path, BLUE + "upstream_tls: {certificate: c.pem}") == "upstream_tls: needs certificate and key together"


def test_a_section_without_lines_is_an_empty_one(tmp_path: Path) -> None:
    assert load(tmp_path, BLUE + "limits:\n  # body: 1MiB\ngreen:\nlisten_tls:\n") == load(tmp_path, BLUE)


def test_settings_cannot_be_changed(tmp_path: Path) -> None:
    settings = load(tmp_path, BLUE)
    with pytest.raises(ValueError, match="frozen"):
        settings.workers = 3  # type: ignore[misc]


def test_a_control_address_that_others_reach_needs_a_token(tmp_path: Path) -> None:
    outside = load(tmp_path, BLUE + "control: 0.0.0.0:8001\n")
    with pytest.raises(
        SettingsError, match=r"control: 0\.0\.0\.0:8001 .* needs a token: set control_token_file or BLUEGREEN_TOKEN"
    ):
        require_token(outside, None)
    require_token(outside, "a-long-token")
    require_token(load(tmp_path, BLUE), None)
    require_token(load(tmp_path, BLUE + "control: '[::1]:8001'"), None)


def test_the_token_comes_from_the_environment_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"
    file.write_text("from-the-file\nand more\n")
    monkeypatch.delenv("BLUEGREEN_TOKEN", raising=False)
    assert read_token(None) is None
    assert read_token(file) == "from-the-file"
    monkeypatch.setenv("BLUEGREEN_TOKEN", "from-the-environment")
    assert read_token(file) == "from-the-environment"


@pytest.mark.parametrize("content", ["", "short", "with a space", "ümlaut-token", "tab\there-it-is"])
def test_a_token_that_could_not_stand_in_a_header_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.delenv("BLUEGREEN_TOKEN", raising=False)
    file = tmp_path / "token"
    file.write_text(content)
    with pytest.raises(SettingsError, match="token"):
        read_token(file)


def test_every_setting_has_its_line_in_the_documentation(tmp_path: Path) -> None:
    """The table rows of docs/configuration.md begin with the dotted key; each has one, sections may, and nothing else has."""
    text = (ROOT / "docs/configuration.md").read_text()
    documented = re.findall(r"^\| `([a-z_.]+)` \|", text, flags=re.MULTILINE)
    assert sorted(documented) == sorted(set(documented))
    known = {re.sub(r"^green\.", "blue.", key) for key in setting_keys()}
    sections = {key.rpartition(".")[0] for key in setting_keys()}
    assert known - sections <= set(documented) <= known


def as_yaml(value: Any) -> str:
    """A default as it stands in the table, or a mapping of them."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {as_yaml(part)}' for name, part in value.items())}}}"
    return str(value)


def test_documented_defaults_are_the_real_ones(tmp_path: Path) -> None:
    """The second column of those rows is the default as one would write it; a dash where there is none."""
    text = (ROOT / "docs/configuration.md").read_text()
    rows = re.findall(r"^\| `([a-z_.]+)` \| (?:`([^`]*)`|(—)) \|", text, flags=re.MULTILINE)
    assert len(rows) > 60
    plain = load(tmp_path, BLUE).to_json()
    given: dict[str, Any] = {}
    for key, default, none in rows:
        if none or key.partition(".")[0] in ("blue", "state"):
            continue
        *parents, last = key.split(".")
        section = given
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = default
    lines = "".join(f"{key}: {as_yaml(value)}\n" for key, value in given.items())
    assert load(tmp_path, BLUE + lines).to_json() == plain


def test_the_json_schema_in_the_documentation_is_up_to_date() -> None:
    stored = json.loads((ROOT / "docs/bluegreen.schema.json").read_text())
    assert stored == json_schema(), "run: bluegreen check --schema > docs/bluegreen.schema.json"


def test_the_json_schema_knows_every_key_and_explains_it() -> None:
    schema = json_schema()

    def resolve(part: dict[str, Any]) -> dict[str, Any]:
        while True:
            if "$ref" in part:
                part = schema["$defs"][part["$ref"].rpartition("/")[2]]
            elif "anyOf" in part and "properties" not in part:
                part = next(choice for choice in part["anyOf"] if choice.get("type") != "null")
            else:
                return part

    for key in setting_keys():
        part = schema
        for name in key.split("."):
            part = resolve(part)["properties"][name]
        assert part.get("description") or resolve(part).get("description") or resolve(part).get("properties"), key
