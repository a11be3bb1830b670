"""Threat: a code of a pushed request in the hands of somebody without the client's DPoP key.

A client that sends a proof along with its pushed request may count on the code being bound to that key
(RFC 9449 section 10.1).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.dpop import Prover
from tests.login import App, allow, attacked_place, signed_in, web
from tests.people import Place, Visitor, query_of

PAR = "/oauth/par"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder: Path = tmp_path_factory.mktemp("login")
    with attacked_place(folder) as running:
        yield running


def push(app: App, *proofs: str, **changes: str | None) -> httpx2.Response:
    """Push the request, with DPoP proofs."""
    headers = [("DPoP", proof) for proof in proofs]
    with web() as client:
        return client.post(f"{app.here.url}{PAR}", data=app.query(**changes), headers=headers)


def test_a_code_is_bound_to_the_key_that_the_pushed_request_proved(here: Place) -> None:
    app, prover = App(here), Prover()
    pushed = push(app, prover.proof("POST", here.url + PAR)).json()["request_uri"]
    with Visitor() as alice:
        url = f"{here.url}/oauth/authorize?client_id=desktop&request_uri={pushed}"
        page = signed_in(here, alice, alice.open(url), "alice")
        code = query_of(allow(alice, page))["code"]
    stolen = app.redeem(code)
    assert (stolen.status_code, stolen.json()["error"]) == (400, "invalid_grant")
    assert "DPoP key" in stolen.json()["error_description"]


def test_a_proof_that_proves_nothing_pushes_nothing(here: Place) -> None:
    app, prover = App(here), Prover()
    good = prover.proof("POST", here.url + PAR)
    assert push(app, good).status_code == 201
    for proofs in (
        ["garbage"],
        [good],
        [prover.proof("POST", f"{here.url}/oauth/token")],
        [prover.proof("POST", here.url + PAR), prover.proof("POST", here.url + PAR)],
    ):
        answer = push(app, *proofs)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_dpop_proof")


def test_two_keys_for_one_code_are_refused(here: Place) -> None:
    app, prover = App(here), Prover()
    answer = push(app, prover.proof("POST", here.url + PAR), dpop_jkt=Prover().jkt)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
    same = push(app, prover.proof("POST", here.url + PAR), dpop_jkt=prover.jkt)
    assert same.status_code == 201


def test_where_nonces_are_asked_for_the_refusal_brings_one(tmp_path: Path) -> None:
    with attacked_place(tmp_path, dpop={"nonce": True}) as place:
        app, prover = App(place), Prover()
        answer = push(app, prover.proof("POST", place.url + PAR))
        assert (answer.status_code, answer.json()["error"]) == (400, "use_dpop_nonce")
        nonce = answer.headers["dpop-nonce"]
        again = push(app, prover.proof("POST", place.url + PAR, nonce=nonce))
        assert again.status_code == 201
