"""Reading a configuration: what is taken, from where, and what is refused at which line."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgw.config import default_config_path, load
from agentgw.errors import ConfigError

from .conftest import EXAMPLE, HEAD, Load, Refusal, make_environment, write


def test_loads_the_documented_example_verbatim(read: Load, tmp_path: Path) -> None:
    config = read(EXAMPLE)
    time, tickets = config.servers["time"], config.servers["tickets"]
    assert time.command == str(tmp_path / "bin" / "mcp-server-time")
    assert (time.auth.mode, time.chain_assurance, time.audience) == ("none", "audit-only", None)
    assert (tickets.auth.mode, tickets.chain_assurance) == ("token", "token")
    assert tickets.audience == "https://tickets.example.com/mcp"
    assert tickets.tools["close_ticket"].scopes == {"tickets.write"}
    assert [grant.id for grant in config.grants] == ["g1", "g2", "g3"]
    auth = config.agents["coder"].auth
    assert auth is not None and auth.jwks is not None and auth.jwks["keys"][0]["kty"] == "EC"
    assert config.agents["coder"].max_depth == 3 and config.agents["planner"].max_depth == 4
    assert config.limits.body == 4 * 1024 * 1024 and config.address == ("127.0.0.1", 7117)
    assert config.state_dir == tmp_path / ".local/state/agentgw"


def test_json_says_the_same_as_yaml_tabs_and_surrogate_pairs_too(read: Load) -> None:
    data = {
        "version": 1,
        "public_url": "https://gw.example.com",
        "agents": {"planner": {"owner": "Zoë \U0001f600"}},
    }
    text = json.dumps(data, indent="\t")
    assert "\\ud83d\\ude00" in text
    assert read(text, name="a.json").agents["planner"].owner == "Zoë \U0001f600"


PASTED = """\
    "git": {"command": "mcp-server-time", "args": ["--repository", "."], "env": {"A": "b"}},
    "search": {"type": "http", "url": "https://s.example/mcp", "headers": {"Authorization": "Bearer x1y2"}},
    "docs": {"transport": "streamable-http", "url": "https://d.example/mcp"}
"""


@pytest.mark.parametrize(
    "block", ["{" + PASTED + "}", '{"mcpServers": {' + PASTED + "}}"], ids=["entries", "wrapped"]
)
def test_takes_a_pasted_mcp_servers_block(read: Load, block: str) -> None:
    config = read(HEAD + "servers:\n  " + block.replace("\n", "\n  "))
    assert list(config.servers) == ["git", "search", "docs"]
    git, search, docs = config.servers.values()
    assert git.args == ("--repository", ".") and git.env["A"].get_secret_value() == "b"
    assert search.auth.mode == "header" and search.chain_assurance == "audit-only"
    assert search.auth.headers["Authorization"].get_secret_value() == "Bearer x1y2"
    assert docs.auth.mode == "token" and docs.audience == "https://d.example/mcp"
    assert "x1y2" not in repr(config) + repr(search) + str(config.model_dump())
    assert config.places["servers", "search", "headers"].line == 5


def test_flag_beats_environment_beats_file_beats_default(read: Load) -> None:
    text = HEAD + "listen: 127.0.0.1:1\nworkers: 2\nlimits: {body: 1MiB}\n"
    env = {"AGENTGW_LISTEN": "127.0.0.1:3", "AGENTGW_LIMITS__BODY": "8 MiB"}
    config = read(text, env=env, flags={"listen": "127.0.0.1:4", "workers": None})
    assert config.listen == "127.0.0.1:4"
    assert config.limits.body == 8 * 1024 * 1024 and config.workers == 2
    origins = {loc: str(place) for loc, place in config.places.items()}
    assert origins["listen",] == "flag --listen"
    assert origins["limits", "body"] == "env AGENTGW_LIMITS__BODY"
    assert origins["workers",].startswith("file ") and origins["workers",].endswith(":4")
    assert ("audit",) not in origins


def test_environment_takes_lists_and_names_with_dashes_and_files(
    read: Load, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("s3cr3t-of-the-coder\n")
    config = read(
        HEAD + "agents: {my-coder: {}}\n",
        env={
            "AGENTGW_AGENTS__MY_CODER__AUTH__SECRET_FILE": str(tmp_path / "secret"),
            "AGENTGW_HOSTS": "[a.example, 'b.example:8443']",
            "AGENTGW_VENV": "/somewhere",
            "AGENTGW_SERVICE_HOST": "10.0.0.1",
            "AGENTGW_PORT_7117_TCP_ADDR": "10.0.0.1",
        },
    )
    auth = config.agents["my-coder"].auth
    assert auth is not None and auth.secret is not None
    assert auth.secret.get_secret_value() == "s3cr3t-of-the-coder"
    assert config.hosts == ("a.example", "b.example:8443")
    assert "b.example:8443" in config.allowed_hosts


def test_an_unknown_variable_is_refused_by_its_name(refuse: Refusal) -> None:
    error = refuse(HEAD, env={"AGENTGW_LISTN": "x"})
    assert str(error) == "AGENTGW_LISTN: unknown key 'listn' (did you mean 'listen'?)"


def test_references_come_from_environment_and_files_beside_the_configuration(
    read: Load, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("from-file\r\n")
    text = (
        HEAD + "servers:\n  a:\n    url: https://a.example/mcp\n    headers:\n"
        "      X-A: Bearer ${env:A_KEY}\n      X-B: ${file:token}\n      X-C: $${env:A_KEY}\n"
    )
    config = read(text, env={"A_KEY": "from-env-${env:HOME}"})
    headers = {k: v.get_secret_value() for k, v in config.servers["a"].auth.headers.items()}
    assert headers["X-A"] == "Bearer from-env-${env:HOME}"
    assert headers["X-B"] == "from-file"
    assert headers["X-C"] == "${env:A_KEY}"
    assert config.redact("saw from-file here") == "saw ${file:token} here"


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("${env:NOT_SET}", "the environment variable NOT_SET is not set"),
        ("${file:nowhere}", "cannot read the file nowhere"),
        ("${input:key}", "a reference of no known kind"),
        ("${KEY}", "a reference of no known kind"),
        ("${env:OPEN", "a reference of no known kind"),
    ],
)
def test_refuses_references_that_name_nothing(
    refuse: Refusal, reference: str, message: str
) -> None:
    error = refuse(HEAD + f"agents:\n  a:\n    auth: {{secret: '{reference}'}}\n")
    assert error.line == 5 and message in str(error)


def test_a_value_by_reference_never_shows_in_an_error(refuse: Refusal) -> None:
    error = refuse(HEAD + "servers: {a: {command: '${env:KEY}'}}\n", env={"KEY": "hunter2-hunter2"})
    assert "hunter2" not in str(error) and "${env:KEY}" in str(error)


def test_the_digest_follows_the_content_and_not_the_spelling(read: Load) -> None:
    one = read(HEAD + "limits: {depth: 9}\n").digest
    assert one.startswith("sha-256:")
    assert read("# words\n" + HEAD + "limits:\n  depth: 9\n").digest == one
    assert read(HEAD + "limits: {depth: 8}\n").digest != one


def test_workers_may_be_handed_the_configuration(read: Load) -> None:
    config = read(
        HEAD + "agents: {a: {auth: {secret: '${env:KEY}'}}}\n", env={"KEY": "k3y-k3y-k3y-k3y-k3y"}
    )
    copy = pickle.loads(pickle.dumps(config))  # noqa: S301
    assert copy.agents == config.agents and copy.places == config.places
    assert copy.digest == config.digest
    assert copy.redact("k3y-k3y-k3y-k3y-k3y") == "${env:KEY}"


def test_an_error_of_the_app_finds_the_line(read: Load) -> None:
    config = read(HEAD + "grants:\n  - {deny: true, tools: ['*/*']}\n")
    assert config.error(("grants", 0, "when"), "is wrong").line == 4
    assert config.error(("audit",), "is wrong").line == 1


def test_the_default_place_is_never_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, HEAD)
    assert default_config_path({"HOME": "/h"}) == Path("/h/.config/agentgw/agentgw.yaml")
    assert default_config_path({"HOME": "/h", "XDG_CONFIG_HOME": "."}) == Path(
        "/h/.config/agentgw/agentgw.yaml"
    )
    assert default_config_path({"XDG_CONFIG_HOME": "/x"}) == Path("/x/agentgw/agentgw.yaml")
    assert default_config_path({"AGENTGW_CONFIG": "/c.yaml", "HOME": "/h"}) == Path("/c.yaml")


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_refuses_a_file_that_others_may_write(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path, HEAD)
    path.chmod(mode)
    with pytest.raises(ConfigError, match="others may write this file"):
        load(path, {})


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"", 1),
        (b"- a\n", 1),
        (b"version: 1\n\xff\n", 2),
        (b"version: 1\n\x07\n", 0),
        (b"version: 1\npublic_url: [\n", 3),
        (b"a: 1\n---\nb: 2\n", 2),
        (b"a: &x [*x]\n", 1),
        (b"version: 1\nb: &x 1\nc:\n  <<: *x\n", 4),
        (b"version: 1\nb: *hunter2\n", 2),
        (b"version: 1\nb: !!python/object:os.system x\n", 2),
        (b"version: 1\n? [a]\n: 1\n", 2),
        (b'version: 1\nb: "\\ud83d"\n', 2),
        (b"version: 1\nb: 9007199254740993\n", 0),
        (b"[" * 5000, 0),
        (b"a: " + b"{a: " * 5000, 0),
    ],
)
def test_refuses_bad_syntax_with_its_line(tmp_path: Path, data: bytes, line: int) -> None:
    path = tmp_path / "agentgw.yaml"
    path.write_bytes(data)
    path.chmod(0o600)
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert caught.value.line == line
    assert "hunter2" not in str(caught.value) and "\n" not in str(caught.value)


def test_refuses_aliases_that_multiply(refuse: Refusal) -> None:
    rows = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    assert "too many values" in str(refuse("a0: &a0 x\n" + "\n".join(rows)))


@pytest.mark.parametrize("name", ["agentgw.yaml", "agentgw.json"])
def test_refuses_duplicate_keys_and_names_both_lines(refuse: Refusal, name: str) -> None:
    text = '{"version": 1,\n"servers": {"a": {"url": "https://a.example"},\n"a": {}}}'
    error = refuse(text, name=name)
    assert (error.line, error.message, error.hint) == (3, "duplicate key 'a'", "first on line 2")


def test_refuses_a_server_that_stands_inside_and_outside_the_pasted_block(refuse: Refusal) -> None:
    text = HEAD + "servers:\n  a: {url: https://a.example}\n  mcpServers:\n    a: {command: x}\n"
    error = refuse(text)
    assert (error.line, error.message) == (6, "duplicate key 'a'")


@given(st.text(max_size=300))
def test_any_text_gives_a_configuration_or_one_line(text: str) -> None:
    from agentgw.config.source import parse

    try:
        parse(text, "x.yaml")
    except ConfigError as error:
        assert "\n" not in str(error)


def test_words_that_yaml_1_1_would_twist_stay_words(read: Load) -> None:
    config = read(HEAD + "agents: {no: {owner: on}, planner: {owner: 2026-11-23}}\n")
    assert config.agents["no"].owner == "on" and config.agents["planner"].owner == "2026-11-23"


def test_the_same_folder_serves_relative_paths(read: Load, tmp_path: Path) -> None:
    make_environment(tmp_path)
    text = HEAD + "state_dir: state\nservers: {a: {command: ./bin/mcp-server-time, cwd: bin}}\n"
    config = read(text)
    assert config.state_dir == tmp_path / "state"
    assert config.servers["a"].command == str(tmp_path / "bin/mcp-server-time")
    assert config.servers["a"].cwd == tmp_path / "bin"
