"""The naive gateway: what a competent engineer writes in a day, before measuring anything.

Starlette in front, one long-lived httpx client behind, PyJWT both ways, one SQLite row per call,
committed with synchronous=FULL. It does the same story as the product for one server: verify the
caller, look the tool up in a table of grants, mint a token for this call, write the record, forward.
No caches, no batching, every library as its first page shows it.
"""

import argparse
import hashlib
import json
import sqlite3
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import jwt
import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

FORWARDED = ("content-type", "accept", "mcp-protocol-version", "mcp-method", "mcp-name")
GRANTS = {("alice", "planner"): {"search_tickets"}}


def make_app(upstream: str, issuer: str, audience: str, jwks: str, database: Path) -> Starlette:
    keys = jwt.PyJWKSet.from_json(jwks)
    signing_key = ec.generate_private_key(ec.SECP256R1())
    log = sqlite3.connect(database)
    log.execute("PRAGMA journal_mode=WAL")
    log.execute("PRAGMA synchronous=FULL")
    log.execute("CREATE TABLE IF NOT EXISTS calls (id, time, sub, agent, tool, decision, digest)")

    def record(claims: dict[str, str], tool: str, decision: str, body: bytes) -> None:
        row = (str(uuid.uuid4()), time.time(), claims["sub"], claims["azp"], tool, decision)
        digest = hashlib.sha256(body).hexdigest()
        log.execute("INSERT INTO calls VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, digest))
        log.commit()

    def mint(claims: dict[str, str], tool: str) -> str:
        now = int(time.time())
        token = {
            "iss": audience, "aud": upstream, "sub": claims["sub"], "act": {"sub": claims["azp"]},
            "scope": tool, "iat": now, "exp": now + 60, "jti": str(uuid.uuid4()),
        }  # fmt: skip
        return jwt.encode(token, signing_key, "ES256", headers={"typ": "at+jwt"})

    async def call(request: Request) -> Response:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        try:
            key = keys[jwt.get_unverified_header(token)["kid"]]
            claims = jwt.decode(token, key, ["ES256"], audience=audience, issuer=issuer)
        except (jwt.PyJWTError, KeyError):
            return JSONResponse({"error": "invalid_token"}, 401)
        body = await request.body()
        message = json.loads(body)
        tool = message["params"]["name"]
        if tool not in GRANTS.get((claims["sub"], claims["azp"]), ()):
            record(claims, tool, "deny", body)
            error = {"code": 46001, "message": "not available"}
            return JSONResponse({"jsonrpc": "2.0", "id": message["id"], "error": error})
        record(claims, tool, "allow", body)
        headers = {name: request.headers[name] for name in FORWARDED if name in request.headers}
        headers["authorization"] = f"Bearer {mint(claims, tool)}"
        client: httpx.AsyncClient = request.app.state.client
        answer = await client.post(upstream, content=body, headers=headers)
        return Response(answer.content, answer.status_code, media_type="application/json")

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with httpx.AsyncClient(timeout=30) as app.state.client:
            yield

    return Starlette(routes=[Route("/mcp/bench", call, methods=["POST"])], lifespan=lifespan)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for option in ("--upstream", "--issuer", "--audience"):
        parser.add_argument(option, required=True)
    parser.add_argument("--jwks", type=Path, required=True)
    parser.add_argument("--database", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    jwks = given.jwks.read_text()
    app = make_app(given.upstream, given.issuer, given.audience, jwks, given.database)
    uvicorn.run(app, host="127.0.0.1", port=given.port, access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
