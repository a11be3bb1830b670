"""Threat: whoever can reach the OAuth endpoints sends them anything at all.

Every endpoint that metadata lists gets honest forms bent in every way a form, its encoding and its
headers can be. What comes back is the RFCs' 4xx, or an answer that gives no more than the honest one.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import quote_plus

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.attacks.oauth_endpoints import (
    FORM,
    MCP,
    SECRETS,
    Endpoints,
    assert_refusal,
    basic,
    claims_of,
    endpoints,
)

pytestmark = pytest.mark.anyio

NAMES = (
    "grant_type", "subject_token", "subject_token_type", "actor_token", "actor_token_type",
    "requested_token_type", "resource", "audience", "scope", "authorization_details", "client_id",
    "client_secret", "client_assertion", "client_assertion_type", "token", "token_type_hint",
    "code", "refresh_token", "redirect_uri", "assertion", "dpop_jkt", "receipt", "x", "",
)  # fmt: skip
ODD = (
    "", " ", "null", "true", "0", "-1", "1e999", "[]", "{}", '{"a": [', "[" * 5000, "../../etc/passwd",
    "\0", "a\0b", "\r\nX-Evil: 1", "\u2028", "\ufeff", "\u0130", "\U0001f600", "e\u0301", '"', "\\", "'",
    "a" * 300, "a.b.c", "..", "eyJhbGciOiJub25lIn0.e30.", "eyJhbGciOiJFUzI1NiJ9.e30.AAAA",
    "urn:ietf:params:oauth:token-type:access_token", "urn:ietf:params:oauth:token-type:jwt",
    "urn:ietf:params:oauth:token-type:refresh_token", "https://[", "https://[::1%25x]/", "http://a/#b",
    "javascript:alert(1)", "//gw/mcp", "https://gw.example.com/mcp\n", "planner", "coder", "nobody",
    "access_token", "refresh_token", "tickets.read", "tickets.read tickets.read", "* admin", "\t",
)  # fmt: skip
RAW = (
    b"%", b"%z", b"%zz", b"%0", b"%00", b"%ff", b"%c0%af", b"%ed%a0%80", b"%u0041", b"%25%30%30", b"\xff",
    b"\xc3\x28", b"+", b"%2B", b"&", b"&&", b"=", b"==", b";", b"a;b=c", b"\0", b"\n", b"\xef\xbb\xbf",
)  # fmt: skip
"""Pieces of a body that mean something odd, or nothing, to a reader of forms."""

TYPES = (
    FORM, f"{FORM}; charset=utf-8", f"{FORM};charset=utf-16", f"{FORM}, text/plain", FORM.upper(),
    "application/json", "multipart/form-data; boundary=x", "text/plain", "", "x" * 300, "\xff",
)  # fmt: skip
AUTHORIZATIONS = (
    None, "", "Basic", "Basic ", "Basic !!!", "Basic Og==", "Basic cGxhbm5lcg==", "Basic " + "QQ" * 9000,
    basic("planner"), basic("coder"), basic("planner", "wrong"), basic("planner", "%ff"),
    "Bearer x", "DPoP x", "Digest a=b", basic("planner").replace("Basic", "bAsIc"), "\xff\xfe",
)  # fmt: skip
HEADERS = (
    ("DPoP", "x"), ("DPoP", "eyJ0eXAiOiJkcG9wK2p3dCJ9.e30.AAAA"), ("Client-Cert", ":AAAA:"),
    ("Client-Cert", "x"), ("Content-Encoding", "gzip"), ("Content-Encoding", "identity"),
    ("Agentgw-Subject-Token", "x"), ("X-Forwarded-For", "'; --"), ("User-Agent", "\xff" * 400),
    ("Accept", "application/xml"), ("Accept", "application/token-introspection+jwt"),
    ("X-HTTP-Method-Override", "GET"), ("Transfer-Encoding", "gzip"), ("Authorization", "Basic x"),
)  # fmt: skip

Pair = tuple[bytes, bytes]


@dataclass(frozen=True)
class Bent:
    """What is laid over an honest request.

    `changes` are (how, name, value) over its form's pairs, `whole` and `raw` over the body they make;
    `number` chooses the endpoint.
    """

    number: int
    changes: tuple[tuple[str, bytes, bytes], ...]
    whole: str
    raw: bytes
    method: str
    query: bytes
    content_type: str
    authorization: str | None
    headers: tuple[tuple[str, str], ...]

    @property
    def honest_way(self) -> bool:
        """Whether the form comes in the one way a form may come, whatever it says."""
        encoded = self.whole not in ("as JSON", "in UTF-16")
        return encoded and self.method == "POST" and not self.query

    def body(self, form: dict[str, str]) -> bytes:
        """The body that the honest form becomes."""
        pairs = [(encoded(name), encoded(value)) for name, value in form.items()]
        for how, name, value in self.changes:
            pairs = _bend(pairs, how, name, value)
        body = b"&".join(name + b"=" + value for name, value in pairs)
        match self.whole:
            case "as JSON":
                return json.dumps(
                    {k.decode("latin-1"): v.decode("latin-1") for k, v in pairs}
                ).encode()
            case "behind":
                return self.raw + body
            case "before":
                return body + self.raw
            case "instead":
                return self.raw
            case "in UTF-16":
                return body.decode("latin-1").encode("utf-16")
        return body


def _bend(pairs: list[Pair], how: str, name: bytes, value: bytes) -> list[Pair]:
    others = [pair for pair in pairs if pair[0] != name]
    match how:
        case "set":
            return [*others, (name, value)]
        case "drop":
            return others
        case "add":
            return [*pairs, (name, value)]
        case "twice":
            return [*pairs, *(pair for pair in pairs if pair[0] == name)]
        case _:
            return [*pairs, *([(name, b"1")] * int(how))]


def encoded(text: str) -> bytes:
    return quote_plus(text, errors="surrogatepass").encode()


VALUES = st.one_of(
    st.sampled_from(ODD).map(encoded),
    st.sampled_from(RAW),
    st.text(max_size=40).map(encoded),
    st.binary(max_size=40),
    st.sampled_from((1_000, 17_000, 70_000)).map(lambda size: b"x" * size),
)
CHANGES = st.tuples(
    st.sampled_from(("set", "set", "set", "add", "drop", "twice", "2", "99", "101", "5000")),
    st.one_of(st.sampled_from(NAMES).map(encoded), st.sampled_from(RAW)),
    VALUES,
)


PARAMETERS = st.tuples(
    st.sampled_from(("set", "set", "set", "drop", "2")),
    st.sampled_from(NAMES).map(encoded),
    st.one_of(st.sampled_from(ODD).map(encoded), st.text(max_size=40).map(encoded)),
)

SAID = st.builds(
    Bent,
    number=st.integers(0, 99),
    changes=st.lists(PARAMETERS, min_size=1, max_size=3).map(tuple),
    whole=st.just("as it is"),
    raw=st.just(b""),
    method=st.just("POST"),
    query=st.just(b""),
    content_type=st.just(FORM),
    authorization=st.just(basic("planner")),
    headers=st.just(()),
)
"""Forms that come as they should, and say anything."""

SENT = st.builds(
    Bent,
    number=st.integers(0, 99),
    changes=st.lists(CHANGES, max_size=3).map(tuple),
    whole=st.sampled_from(("as it is", "as JSON", "behind", "before", "instead", "in UTF-16")),
    raw=VALUES,
    method=st.sampled_from(("POST",) * 12 + ("GET", "PUT", "HEAD", "DELETE")),
    query=st.sampled_from(
        (b"",) * 12
        + (b"grant_type=x", b"token=%ff", b"?&=%00", b"client_secret=planner-secret-for-tests")
    ),
    content_type=st.sampled_from((FORM,) * 30 + TYPES),
    authorization=st.sampled_from((basic("planner"),) * 12 + AUTHORIZATIONS),
    headers=st.one_of(st.just(()), st.lists(st.sampled_from(HEADERS), max_size=2).map(tuple)),
)
"""Forms that come in any way, also in none."""


@pytest.fixture(scope="module")
async def target(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Endpoints]:
    async with endpoints(tmp_path_factory.mktemp("oauth")) as found:
        yield found


async def shoot(target: Endpoints, bent: Bent) -> None:
    """Send one bent request and judge the answer."""
    listed = target.listed()
    name = sorted(listed)[bent.number % len(listed)]
    form = target.form(name)
    headers = [("content-type", bent.content_type), *bent.headers]
    if bent.authorization is not None:
        headers.append(("authorization", bent.authorization))
    request = target.client.build_request(
        bent.method,
        httpx2.URL(f"{target.client.base_url}{listed[name]}").copy_with(query=bent.query or None),
        content=bent.body(form),
        headers=[(key.encode(), value.encode("latin-1")) for key, value in headers],
    )
    answer = await target.client.send(request)
    assert not any(secret in answer.text for secret in SECRETS.values())
    if answer.status_code == 200:
        assert bent.honest_way, "parameters came in from elsewhere than the form"
        assert_no_more_than_asked(answer, name)
    elif bent.method == "HEAD":
        assert answer.status_code == 405
    else:
        assert_refusal(answer)
        token = form.get("subject_token", form.get("token", ""))
        assert token not in answer.text


def assert_no_more_than_asked(answer: httpx2.Response, endpoint: str) -> None:
    """A token endpoint's success is alice's planner and within what her token holds."""
    if endpoint != "token_endpoint":
        return
    body = answer.json()
    claims = claims_of(body["access_token"])
    assert claims["sub"] == "laptop|alice"
    assert claims["act"]["sub"].endswith("/a2a/planner") and "act" not in claims["act"]
    assert set(claims.get("scope", "").split()) <= {"tickets.read", "tickets.write"}
    assert claims["aud"] in (MCP, claims["act"]["sub"].replace("planner", "coder"))
    assert "refresh_token" not in body and "id_token" not in body


BUDGET = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
MORE = settings(BUDGET, max_examples=10_000)


@given(bent=SAID)
@BUDGET
async def test_nothing_a_form_can_say_breaks_an_endpoint_or_gets_more(
    target: Endpoints, bent: Bent
) -> None:
    await shoot(target, bent)


@given(bent=SENT)
@BUDGET
async def test_no_way_to_send_a_form_breaks_an_endpoint_or_gets_more(
    target: Endpoints, bent: Bent
) -> None:
    await shoot(target, bent)


async def test_the_honest_request_works_after_it_all(target: Endpoints) -> None:
    await target.works()


@pytest.mark.slow
@given(bent=st.one_of(SAID, SENT))
@MORE
async def test_nor_does_anything_in_many_more_tries(target: Endpoints, bent: Bent) -> None:
    await shoot(target, bent)
