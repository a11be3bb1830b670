"""What the documents tell people to type works, and what they point at is there."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

RECORD = "tests/docs/test_record.py::def test_the_record_is_read_as_the_readme_shows"
RUN_BY = {
    "tools/demo": 'tests/demo/test_demo.py::["tools/demo", "--exit", "--json"]',
    "tools/test": ".ci/run::step tests tools/test",
    'pip install ".[demo]" && agentgw demo': "tests/docs/test_readme.py::def test_the_demo_installs",
    'pip install -e ".[dev]" && pytest': 'tools/venv.sh::-e ".[$1]"',
    "agentgw config check --config agentgw.yaml": "tests/docs/test_readme.py::def test_the_config",
    "agentgw serve --config agentgw.yaml": 'agentgw/demo/stage.py::"serve", "--config"',
    "agentgw audit tail": RECORD,
    'agentgw audit search --user "acme|alice" --decision deny': RECORD,
    "agentgw why EVENT_ID": RECORD,
    "agentgw audit verify --key VKEY --checkpoint FILE": RECORD,
}
"""Each command of the README, and what runs it: a file and a piece of its text."""


def fenced(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    return [line for block in fenced(README, "sh") for line in block.splitlines() if line]


def run(
    *arguments: str, cwd: Path = ROOT, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agentgw", *arguments],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_every_command_of_the_readme_is_run_by_something() -> None:
    assert set(commands()) == set(RUN_BY)
    for where in RUN_BY.values():
        path, _, text = where.partition("::")
        assert text in (ROOT / path).read_text("utf-8"), where


def test_every_agentgw_command_of_the_readme_exists() -> None:
    for command in commands():
        words = shlex.split(command.rpartition("&& ")[2])
        if words[0] != "agentgw":
            continue
        names = [word for word in words[1:3] if word.islower() and not word.startswith("-")]
        shown = run(*names, "--help")
        assert shown.returncode == 0, shown.stderr
        for option in [word for word in words if word.startswith("--")]:
            assert option in shown.stdout, f"{command}: {option}"


def test_the_configuration_shown_is_valid(tmp_path: Path) -> None:
    (shown,) = fenced(README, "yaml")
    (tmp_path / "agentgw.yaml").write_text(shown, "utf-8")
    (tmp_path / "agentgw.yaml").chmod(0o600)
    checked = run("config", "check", "--config", "agentgw.yaml", cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr
    assert [grant["tools"] for grant in yaml.safe_load(shown)["grants"]][1] == [
        "time/*",
        "tickets/read_*",
    ]


def test_the_client_entries_shown_are_json() -> None:
    assert [list(json.loads(block)) for block in fenced(README, "json")] == [["mcpServers"]]


LINK = re.compile(r"\[[^\]]*\]\((?!https?://|#)([^)#\s]+)[^)]*\)")
TEST_FILE = re.compile(r"`((?:tests|tools|agentgw)/[\w/]+\.(?:py|sh))`")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_document_points_at_is_there(document: Path) -> None:
    text = document.read_text("utf-8")
    missing = [link for link in LINK.findall(text) if not (document.parent / link).exists()]
    missing += [path for path in TEST_FILE.findall(text) if not (ROOT / path).exists()]
    assert missing == []


def test_the_threat_model_names_every_attack_that_is_tested() -> None:
    text = (ROOT / "docs" / "threat-model.md").read_text("utf-8")
    attacks = [path.name for path in (ROOT / "tests" / "attacks").glob("test_*.py")]
    assert [name for name in attacks if f"`tests/attacks/{name}`" not in text] == []


def test_the_architecture_stays_on_one_page() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    assert len(text.splitlines()) <= 150
    rooms = {path.name for path in (ROOT / "agentgw").iterdir() if (path / "__init__.py").exists()}
    assert [room for room in sorted(rooms) if f"`{room}`" not in text] == []


@pytest.mark.slow
def test_the_demo_installs_from_scratch(tmp_path: Path) -> None:
    """`pip install ".[demo]" && agentgw demo`, in an environment of its own."""
    python = tmp_path / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path)], check=True, timeout=120)
    # A copy, since the build would leave its folder in the checkout.
    source = tmp_path / "source"
    shutil.copytree(ROOT / "agentgw", source / "agentgw")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    install = [str(python), "-m", "pip", "install", "--quiet", ".[demo]"]
    if subprocess.run(install, cwd=source, timeout=600, check=False).returncode:
        pytest.skip("pip cannot install here: no package index is reachable")
    played = subprocess.run(
        [str(tmp_path / "bin" / "agentgw"), "demo", "--exit", "--json"],
        cwd=tmp_path,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert played.returncode == 0, played.stderr
    assert all(step["ok"] for step in json.loads(played.stdout))
