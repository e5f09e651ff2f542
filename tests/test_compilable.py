"""The modules that a wheel may have compiled stay within what mypyc can compile: down to C, which needs no C compiler."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROGRAM = """
import sys
from mypyc.build import mypycify
extensions = mypycify([*sys.argv[2:]], target_dir=sys.argv[1], opt_level="0")
print(len(extensions))
"""


def test_the_data_plane_can_be_compiled(tmp_path: Path) -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    hook = settings["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["mypyc"]
    modules = [path.removeprefix("/") for path in hook["include"]]
    assert all((ROOT / module).is_file() for module in modules)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), *hook["mypy-args"], *modules],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    generated = list(tmp_path.rglob("*.c"))
    assert generated, "nothing was generated"
    assert sum(path.stat().st_size for path in generated) > 100_000
