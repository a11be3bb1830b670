"""What each part of a configuration may say, and what must hold between the parts."""

from __future__ import annotations

import pytest

from .conftest import EXAMPLE, HEAD, Load, Refusal

ISSUER = "issuers: {acme: {issuer: https://idp.example, audiences: [x]}}\n"
AGENTS = "agents: {planner: {}, coder: {}}\n"
SERVERS = "servers: {tickets: {url: https://t.example/mcp}}\n"
ALL = HEAD + ISSUER + AGENTS + SERVERS + "grants:\n"


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("isuers: {}", "unknown key 'isuers'", "did you mean 'issuers'?"),
        ("mcpServers: {}", "unknown key 'mcpServers'", "paste its entries under servers"),
        ("limits: {bodi: 1}", "unknown key 'bodi' in limits", "did you mean 'body'?"),
        ("agents: {a: {ownr: x}}", "unknown key 'ownr' in agents.a", "did you mean 'owner'?"),
        (
            "agents: {a: {clients: [{isuer: x}]}}",
            "unknown key 'isuer' in agents.a.clients[0]",
            "did you mean 'issuer'?",
        ),
        (
            "servers: {a: {url: 'https://a.example', tools: {t: {scop: x}}}}",
            "unknown key 'scop' in servers.a.tools.t",
            "did you mean 'scope'?",
        ),
        ("agents: {a: {auth: {hunter2$: null}}}", "unknown key (not shown) in agents.a.auth", ""),
    ],
)
def test_unknown_keys_are_refused_with_a_suggestion(
    refuse: Refusal, line: str, message: str, hint: str
) -> None:
    error = refuse(HEAD + line + "\n")
    assert (error.line, error.message, error.hint) == (3, message, hint)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("listen: 7117", "listen should be text"),
        ("listen: ':7117'", "listen should be host:port"),
        ("listen: 127.0.0.1:99999", "listen should be host:port"),
        ("listen: '::1:7117'", "listen should have its IPv6 address in brackets"),
        ("listen: unix:relative", "listen should name an absolute socket path"),
        ("tls: {cert: nowhere, key: nowhere}", "tls.cert is no file that can be read"),
        ("tls: {cert: x}", "tls.key is missing"),
        ("servers: {a: {command: x, env: {'A=hunter2': b}}}", "the name servers.a.env.(not shown)"),
        (
            "servers: {a: {url: 'https://a.example', headers: {'X: hunter2': b}}}",
            "the name servers.a.headers.(not shown) is no header name",
        ),
        ('servers: {a: {command: x, env: {A: "b\\0"}}}', "servers.a.env.A holds a NUL character"),
        ("servers: {a: {command: mcp-server-time, cwd: ~nobody-here/x}}", "cwd of a is no folder"),
        ('servers: {"a\\nb": {command: x}}', "the name servers.(not shown)"),
        ("dev: maybe", "dev should be true or false"),
        ("workers: 1.5", "workers should be a whole number"),
        ("limits: {body: lots}", "limits.body should be a number of bytes"),
        ("limits: {call: 0}", "limits.call should be greater than 0"),
        ("limits: [1]", "limits should be a mapping"),
        ("trusted_proxies: [10.0.0.0/33]", "trusted_proxies[0] should be a network"),
        ("trusted_proxies: [10.0.0.1/8]", "trusted_proxies[0] should be a network"),
        ("trusted_proxies: ['::/0']", "trusts every address"),
        ("trusted_proxies: [0.0.0.0/0]", "trusts every address"),
        ("trusted_proxies: [0.0.0.0/1, 128.0.0.0/1]", "trusts every address"),
        ("trusted_proxies: [10]", "trusted_proxies[0] should be a network as text"),
        ("trusted_proxies: [true]", "trusted_proxies[0] should be a network as text"),
        ("trusted_proxies: ['10']", "trusted_proxies[0] should be a network"),
        ("outbound: {private_networks: [10]}", "private_networks[0] should be a network as text"),
        ("outbound: {private_networks: [true]}", "private_networks[0] should be a network as text"),
        ("outbound: {private_networks: [10.5]}", "private_networks[0] should be a network as text"),
        ("outbound: {private_networks: [[10, 8]]}", "private_networks[0] should be a network"),
        ("outbound: {private_networks: [0.0.0.0/0]}", "nothing would be refused any more"),
        ("outbound: {private_networks: ['::/0']}", "nothing would be refused any more"),
        ("outbound: {private_networks: ['8000::/1']}", "nothing would be refused any more"),
        ("outbound: {private_networks: ['::ffff:0:0/96']}", "nothing would be refused any more"),
        (
            "outbound: {private_networks: [10.0.0.0/8, 0.0.0.0/2]}",
            "nothing would be refused any more",
        ),
        ("keys: {rotate_every: 5m}", "keys.rotate_every should be greater than or equal to 600"),
        ("keys: {rotate_every: monthly}", "keys.rotate_every should be a time such as 30d"),
        ("keys: {wrap: {}}", "keys.wrap should have exactly one of file, env and keyring"),
        ("keys: {wrap: {file: a, env: B}}", "keys.wrap should have exactly one of file, env and"),
        ("keys: {wrap: {env: AGENTGW_KEY}}", "keys.wrap.env should not begin with AGENTGW_"),
        (
            "keys: {hsm: {module: m.so, token: t, pin: p, keys: {EdDSA: [a]}}}",
            "keys.hsm.keys.EdDSA should be 'ES256' or 'RS256'",
        ),
        (
            "keys: {hsm: {module: m.so, token: t, pin: p, keys: {ES256: []}}}",
            "ES256 should not be empty",
        ),
        ("hosts: ['a b']", "hosts[0] should match"),
        ("origins: ['https://a.example/']", "origins[0] should be an origin only"),
        ("issuers: {Acme: {}}", "the name issuers.Acme should be 1 to 20 of a-z, 0-9 and -"),
        ("issuers: {a: {issuer: 'https://i.example'}}", "issuers.a.audiences is missing"),
        ("issuers: {a: {issuer: idp, audiences: [x]}}", "issuers.a.issuer should be an absolute"),
        (
            "issuers: {a: {issuer: 'https://u:p4ssw0rd@i.example', audiences: [x]}}",
            "issuers.a.issuer should hold no user name or password",
        ),
        (
            "issuers: {a: {issuer: 'https://i.example', audiences: x}}",
            "issuers.a.audiences should be a",
        ),
        (
            "issuers: {a: {issuer: 'https://i.example', audiences: []}}",
            "issuers.a.audiences should not be empty",
        ),
        (
            "issuers: {a: {issuer: 'https://i.example', audiences: [x], algorithms: [HS256]}}",
            "issuers.a.algorithms[0] should be 'ES256'",
        ),
        ("agents: {a: {auth: {}}}", "agents.a.auth should have one or more of secret, jwks"),
        ("agents: {a: {auth: {jwks: 'file:nowhere'}}}", "cannot read nowhere"),
        ("agents: {a: {auth: {jwks: 'file:/dev/null'}}}", "a JWK Set of public keys"),
        ("agents: {a: {auth: {jwks: {keys: [{kty: EC, d: x}]}}}}", "a private or symmetric key"),
        ("agents: {a: {auth: {jwks: {keys: []}}}}", "should be a JWK Set"),
        ("agents: {a: {require: mtls}}", "bound to a TLS certificate, and none can come"),
        ("agents: {a: {may_hand_to: [a]}}", "a may not hand to itself"),
        ("servers: {a: {}}", "servers.a should have exactly one of command and url"),
        (
            "servers: {a: {url: 'https://a.example', args: [x]}}",
            "args, env, cwd, sandbox and isolation have no mean",
        ),
        ("servers: {a: {type: http, command: x}}", "servers.a says http, but has command"),
        ("servers: {a: {type: sse, url: 'https://a.example'}}", "servers.a.type should be 'stdio'"),
        (
            "servers: {a: {url: 'https://a.example', auth: {mode: vault}}}",
            "servers.a.auth.mode is not available in this version, only token or exchange or oauth or "
            "client_credentials or header or none",
        ),
        (
            "servers: {a: {url: 'https://a.example', token: {alg: HS256}}}",
            "servers.a.token.alg should be 'ES256', 'EdDSA' or 'RS256'",
        ),
        (
            "servers: {a: {url: 'https://a.example', token: {life: 600}}}",
            "servers.a.token.life should be less than or equal to 120",
        ),
        (
            "servers: {a: {command: mcp-server-time, headers: {X-A: b}}}",
            "takes neither tokens nor headers",
        ),
        (
            "servers: {a: {url: 'https://a.example', auth: {mode: header}}}",
            "should have auth.headers with mode header",
        ),
        (
            "servers: {a: {url: 'https://a.example', headers: {Host: b}}}",
            "a header the gateway writes itself",
        ),
        (
            'servers: {a: {url: "https://a.example", headers: {X-A: "hunter2\\r\\nX-B: c"}}}',
            "holds a character that may not stand in a header",
        ),
        ("servers: {a: {url: 'http://a.example'}}", "the url is plain http beyond loopback"),
        ("servers: {a: {url: 'https://gw.example.com/mcp'}}", "the url lies under public_url"),
        (
            "servers: {a: {url: 'https://a.example', auth: {audience: 'HTTPS://GW.example.com:443/x'}}}",
            "the audience lies under public_url",
        ),
        (
            "servers: {a: {url: 'https://a.example', agent: b}}",
            "unknown agent 'b'",
        ),
        (
            "servers: {a: {url: 'https://a.example', auth: {mode: none}, agent: b}}\nagents: {b: {}}",
            "the server gets no tokens of ours",
        ),
        (
            "servers: {a: {url: 'https://a.example', token: {typ: JWT}, agent: b}}\nagents: {b: {}}",
            "tokens to exchange have typ at+jwt",
        ),
        (
            "limits: {sessions_per_agent: 100}",
            "sessions_per_agent is not available in this version",
        ),
        (
            "issuers: {a: {issuer: 'https://i.example', audiences: [x], accept_evidence: [idp-facet]}}",
            "accept_evidence: idp-facet is not available in this version",
        ),
        ("servers: {a: {command: mcp-server-tim}}", "the command 'mcp-server-tim' of server a"),
        ("servers: {a: {command: mcp-server-time, cwd: nowhere}}", "cwd of a is no folder"),
        ("grants: [{users: ['x|y'], tools: ['a/*']}]", "begins with no configured issuer"),
        ("grants: [{agents: [a]}]", "grants[0] should name tools, resources, prompts or methods"),
        ("grants: [{tools: ['a/*']}]", "grants[0] should name users or agents"),
        ("grants: [{users: , agents: [a], tools: ['a/*']}]", "grants[0] users is empty"),
        ("grants: [{users: [], tools: ['a/*']}]", "grants[0].users should not be empty"),
        ("grants: [{agents: [a], tools: [a]}]", "grants[0].tools[0] should be server/name"),
    ],
)
def test_each_wrong_value_is_refused_at_its_line(refuse: Refusal, line: str, message: str) -> None:
    error = refuse(HEAD + line + "\n")
    assert message in error.message and error.line == 3
    assert "hunter2" not in str(error) and "p4ssw0rd" not in str(error)


@pytest.mark.parametrize(
    ("row", "message", "hint"),
    [
        ("{agents: [planer], tools: ['tickets/*']}", "unknown agent 'planer'", "'planner'"),
        ("{agents: [coder], tools: ['ticket/*']}", "unknown server 'ticket'", "'tickets'"),
        ("{agents: [coder], methods: ['tikets/ping']}", "unknown server 'tikets'", "'tickets'"),
        ("{users: ['acm|alice'], tools: ['tickets/*']}", "no configured issuer", ""),
        ("{agents: [coder], tools: ['tickets/*'], when: 'args.'}", "when is no CEL", ""),
        ("{agents: [coder], tools: ['tickets/*'], when: 'arg.x == 1'}", "when reads 'arg'", ""),
        ("{id: g2, agents: [coder], tools: ['tickets/*']}", "", ""),
        (
            "{agents: [coder], tools: ['tickets/*'], min_evidence: receipt}",
            "min_evidence: receipt is not available in this version",
            "client-auth, exchange",
        ),
        ("{deny: true, min_evidence: consent, tools: ['tickets/*']}", "no meaning", ""),
    ],
)
def test_a_grant_that_could_never_mean_what_was_hoped_is_refused(
    refuse: Refusal, row: str, message: str, hint: str
) -> None:
    second = "{agents: [planner], tools: ['tickets/*']}"
    error = refuse(f"{ALL}  - {row}\n  - {second}\n")
    assert message in error.message and hint in error.hint
    assert error.line == (8 if row.startswith("{id: g2") else 7)


def test_the_first_problem_of_the_file_is_the_one_told(refuse: Refusal) -> None:
    error = refuse(HEAD + "workers: many\ndev: maybe\nlimits: {depth: x}\n")
    assert error.line == 3


def test_two_servers_never_share_an_audience(refuse: Refusal) -> None:
    text = "servers:\n  a: {url: https://a.example/mcp}\n  b: {url: 'https://A.example:443/mcp/'}\n"
    error = refuse(HEAD + text)
    assert error.line == 5 and "the audience of b is that of a too" in error.message


def test_a_client_means_one_agent_and_one_issuer_is_plain(refuse: Refusal) -> None:
    client = "{clients: [{issuer: acme, client_id: c}]}"
    error = refuse(HEAD + ISSUER + f"agents:\n  a: {client}\n  b: {client}\n")
    assert error.line == 6 and "already means the agent a" in error.message
    plain = "audiences: [x], subject: plain}"
    error = refuse(
        f"{HEAD}issuers:\n  a: {{issuer: https://a.example, {plain}\n"
        f"  b: {{issuer: https://b.example, {plain}\n"
    )
    assert error.line == 5 and "subject: plain again" in error.message


def test_audiences_may_be_mapped_by_resource(read: Load, refuse: Refusal) -> None:
    text = (
        HEAD
        + SERVERS
        + (
            "issuers: {a: {issuer: 'https://a.example', audiences: {'https://gw.example.com/mcp/%s': x}}}\n"
        )
    )
    config = read(text % "tickets")
    assert config.issuers["a"].audiences == {"https://gw.example.com/mcp/tickets": ("x",)}
    error = refuse(text % "tickts")
    assert (error.line, error.hint) == (4, "did you mean 'tickets'?")
    assert "no resource of this gateway" in refuse(text % "a/b").message


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("public_url: http://127.0.0.1:7117", True),
        ("public_url: http://localhost:7117", True),
        ("public_url: http://gateway:7117\ndev: true", True),
        ("public_url: http://gateway:7117", False),
        ("public_url: https://gw.example.com\ndev: true", False),
        ("public_url: https://8.8.8.8\ndev: true", False),
        ("public_url: https://10.1.2.3\ndev: true", True),
        ("public_url: https://gw.example.com/", False),
        ("public_url: https://gw.example.com?x", False),
        ("public_url: https://GW.example.com", False),
        ("public_url: ftp://gw.example.com", False),
        ("public_url: https://gw.example.com\nlisten: 0.0.0.0:1", False),
        ("public_url: https://gw.example.com\nlisten: 0.0.0.0:1\ninsecure: true", True),
        (
            "public_url: https://gw.example.com\nlisten: 0.0.0.0:1\n"
            "tls: {cert: coder.jwks.json, key: coder.jwks.json}",
            True,
        ),
        (
            "public_url: https://gw.example.com\nlisten: '[::]:1'\ntrusted_proxies: [10.0.0.0/8]",
            True,
        ),
        ("public_url: https://gw.example.com\nlisten: unix:/run/a.sock", True),
        ("public_url: https://gw.example.com\nlisten: '[::1]:0'", True),
    ],
)
def test_plain_http_stays_at_home(read: Load, refuse: Refusal, text: str, allowed: bool) -> None:
    text = f"version: 1\n{text}\n"
    if allowed:
        assert read(text).version == 1
    else:
        assert refuse(text).line >= 2


@pytest.mark.parametrize("url", ["http://idp.example", "https://localhost:8443"])
def test_http_and_loopback_issuers_need_dev(read: Load, refuse: Refusal, url: str) -> None:
    issuer = f"issuers: {{a: {{issuer: '{url}', audiences: [x]}}}}\n"
    assert "plain http or loopback" in refuse(HEAD + issuer).message
    text = "version: 1\npublic_url: http://127.0.0.1:7117\ndev: true\n" + issuer
    assert read(text).issuers["a"].issuer == url


ASKED = "introspection: {client_id: gw, client_secret: '${env:GW_SECRET}'"


def test_one_issuer_may_be_asked_about_opaque_tokens(read: Load, refuse: Refusal) -> None:
    def issuer(alias: str, more: str = "") -> str:
        url = f"https://{alias}.example"
        return f"  {alias}: {{issuer: '{url}', audiences: [x], {ASKED}{more}}}}}\n"

    two = HEAD + "issuers:\n" + issuer("a") + issuer("b")
    env = {"GW_SECRET": "hunter2"}
    error = refuse(two, env=env)
    assert (error.line, "a is asked about them already" in error.message) == (5, True)
    config = read(HEAD + "issuers:\n" + issuer("a") + issuer("b", ", tokens: jwt"), env=env)
    asked = config.issuers["b"].introspection
    assert asked is not None
    assert asked.client_secret.get_secret_value() == "hunter2"
    assert "hunter2" not in repr(config)


def test_an_introspection_endpoint_on_plain_http_needs_dev(refuse: Refusal) -> None:
    more = f"{ASKED}, endpoint: 'http://a.example/introspect'}}"
    text = HEAD + f"issuers: {{a: {{issuer: 'https://a.example', audiences: [x], {more}}}}}\n"
    assert "endpoint is plain http" in refuse(text, env={"GW_SECRET": "hunter2"}).message


def test_a_server_takes_the_time_of_limits_call_unless_it_has_its_own(read: Load) -> None:
    text = HEAD + "limits: {call: 7}\nservers:\n  a: {url: https://a.example}\n"
    config = read(text + "  b: {url: https://b.example, timeout: 9}\n")
    assert [config.call_timeout(server) for server in config.servers.values()] == [7, 9]
    assert read(HEAD).limits.call == 60


def test_grants_are_handed_on_as_they_were_written(read: Load) -> None:
    grant = read(EXAMPLE).grants[2]
    assert grant.entry() == {
        "users": ["acme|alice"],
        "tools": ["tickets/close_ticket"],
        "when": "args.priority in ['P3', 'P4']",
        "deny": False,
    }
