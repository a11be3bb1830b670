"""SPIFFE IDs, the names of workloads (SPIFFE-ID specification, section 2)."""

from __future__ import annotations

import re

_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}")
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+")
_LIMIT = 2048


def parse_spiffe_id(text: str) -> str:
    """The trust domain of a workload's SPIFFE ID, `spiffe://trust-domain/path`.

    Raises ValueError for what is none; an ID without a path names a trust domain and no workload.
    """
    scheme, mark, rest = text.partition("://")
    trust_domain, *path = rest.split("/")
    if scheme != "spiffe" or not mark or len(text) > _LIMIT or not is_trust_domain(trust_domain):
        raise ValueError("it is no SPIFFE ID: write spiffe://trust-domain/path")
    if not path:
        raise ValueError("the SPIFFE ID has no path, so it names no workload")
    if any(not _SEGMENT.fullmatch(part) or part in (".", "..") for part in path):
        raise ValueError("the path of the SPIFFE ID has an empty or unusable segment")
    return trust_domain


def is_trust_domain(text: str) -> bool:
    """Whether `text` can be the name of a trust domain."""
    return _TRUST_DOMAIN.fullmatch(text) is not None
