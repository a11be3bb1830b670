#!/usr/bin/env python3
"""Verify an agentgw audit log without agentgw: standard library and `cryptography` only. Exit 0 or 6."""
# mypy: ignore-errors
# Untyped and terse on purpose: an auditor reads it in one sitting.

import argparse
import base64
import json
import os
import pathlib
import re
import sys
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

RESULT = {}
LOG_NAME = r"[a-z0-9][a-z0-9._-]{0,63}"
BASE64 = r"[A-Za-z0-9+/]{%d}[AEIMQUYcgkosw048]="  # canonical, where two bits of padding are left
NOTE = re.compile(r"(.+\n)\n((?:\u2014 [^\s+]+ [A-Za-z0-9+/]{8}\S*\n)+)", re.DOTALL)
CHECKPOINT = re.compile(rf"((?:.*/)?([^\n/]+))\n(0|[1-9][0-9]{{0,18}})\n({BASE64 % 42})\n")


def need(holds, log, seq, reason, id=None):
    if not holds:
        RESULT.update(first_bad={"log": log, "seq": seq, "id": id, "reason": reason})
        raise SystemExit(6)


def read(path):
    return path.read_bytes() if path.exists() else b""


def read_text(path):
    return read(path).decode("utf-8", "replace")


def parse_key(vkey):
    vkey = open(vkey).read() if os.path.isfile(vkey) else vkey
    name, key_hash, body = vkey.strip().split("+", 2)
    return name, key_hash, Ed25519PublicKey.from_public_bytes(base64.b64decode(body)[1:])


def open_note(note, keys, log, seq):
    match, signers = NOTE.fullmatch(note), []
    need(match, log, seq, "that is no signed note")
    for line in match[2].splitlines():
        _, name, body = line.split(" ")
        for known, key_hash, key in keys:
            if (known, key_hash) == (name, base64.b64decode(body[:8])[:4].hex()):
                need(re.fullmatch(BASE64 % 90, body), log, seq, "a signature is malformed")
                try:
                    key.verify(base64.b64decode(body)[4:], match[1].encode())
                except InvalidSignature:
                    need(False, log, seq, "a signature does not hold")
                signers.append(name)
    need(signers or not keys, log, seq, "the note is not signed by a given key")
    return match[1], signers


def open_checkpoint(note, keys, log, seq):
    text, signers = open_note(note, keys, log, seq)
    match = CHECKPOINT.fullmatch(text)
    need(match, log, seq, "that is no checkpoint")
    need(not keys or match[1] == f"{signers[0]}/{match[2]}", log, seq, "of another log")
    return match[2], int(match[3]), base64.b64decode(match[4])


def notes_in(text):
    parts = text.split("\n\n")  # each note ends in a blank line; a last one cut short is left out
    return [f"{a}\n\n{b}\n" for a, b in zip(parts[:-1:2], parts[1:-1:2], strict=False)]


def lines_in(log, name):
    """(line, the leaf hash kept beside it or less than 32 bytes) for each whole line."""
    files, seq = sorted(log.glob("[0-9]*.jsonl")), 0
    for path in files:
        leaves = read(path.with_suffix(".leaves"))
        *lines, rest = read(path).split(b"\n")
        yield from ((line, leaves[at * 32 : at * 32 + 32]) for at, line in enumerate(lines))
        seq += len(lines)
        need(not rest or path == files[-1], name, seq, "the line is cut short")
        need(len(leaves) // 32 <= len(lines), name, seq, "a record is missing: its leaf is there")


def check_log(log, name, keys, held):
    covered, roots, peaks, decided, seq, believed = 0, {}, [], set(), 0, 0
    copy, notes = read_text(log / "checkpoint"), notes_in(read_text(log / "checkpoints"))
    for note in notes:
        origin, size, root = open_checkpoint(note, keys, name, covered)
        need(origin == name and (size > covered or not roots), name, covered, "out of place")
        roots[size], covered = {root}, size
        RESULT["checkpoints"] += 1
    need(not copy or copy in notes, name, covered, "the last checkpoint's copy differs")
    for size, root in held:
        roots.setdefault(size, set()).add(root)
    for line, leaf in lines_in(log, name):
        try:
            record, digest = json.loads(line), sha256(b"\x00" + line).digest()
            again = json.dumps(record, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
            need(type(record) is dict and again.encode() == line, name, seq, "not canonical")
        except (ValueError, RecursionError):
            need(False, name, seq, "no JSON")
        event, phase, id = (record.get(field) for field in ("event_id", "phase", "id"))
        head = f'{{"v":1,"log":"{name}","seq":{seq},'.encode()
        need(line.startswith(head) and type(event) is str, name, seq, "no next record", id)
        need(len(leaf) < 32 or leaf == digest, name, seq, "it differs from its leaf hash", id)
        decided |= {event} if phase == "decision" else set()
        need(phase != "outcome" or event in decided, name, seq, "an outcome, no decision", id)
        height = seq
        while height & 1:
            digest, height = sha256(b"\x01" + peaks.pop() + digest).digest(), height >> 1
        peaks.append(digest)
        seq, root, RESULT["records"] = seq + 1, digest, RESULT["records"] + 1
        for peak in peaks[-2::-1] if seq in roots else ():
            root = sha256(b"\x01" + peak + root).digest()
        need(roots.get(seq, {root}) == {root}, name, believed, f"changed before record {seq}")
        believed = seq if seq in roots else believed
    need(max(roots, default=0) <= seq, name, seq, "records are missing")
    need(notes or not seq, name, 0, "records but no checkpoint")
    return covered, max((size for size, _ in held), default=0), bool(held)


def check(path, keys, held_text):
    need(path.is_dir(), path.name, 0, "there is no such log")
    folders, held = [log for log in sorted(path.iterdir()) if log.is_dir()], {}
    logs = {log.name: log for log in folders if re.fullmatch(LOG_NAME, log.name)}
    is_root = logs or (path / "manifest").exists()  # never one log, whatever else stands there
    if not is_root and ((path / "checkpoints").exists() or list(path.glob("[0-9]*.jsonl"))):
        origin = read_text(path / "checkpoints").partition("\n")[0]
        logs = {origin.rpartition("/")[2] or path.name: path}
    else:
        text = open_note(read_text(path / "manifest"), keys, "manifest", 0)[0]
        head, *listed = text.removesuffix("\n").split("\nlog ")
        filled = {name for name in logs if (logs[name] / "checkpoints").exists()}
        fits = head == "agentgw log manifest" and filled <= set(listed) <= set(logs)
        need(fits, "manifest", 0, "the manifest lists other logs")
    notes = [] if held_text is None else notes_in(held_text.rstrip("\n") + "\n\n")
    whole = "\n".join(notes).strip("\n") == (held_text or "").strip("\n")
    need(held_text is None or (notes and whole), "", 0, "the held checkpoint is no signed note")
    for note in notes:
        name, size, root = open_checkpoint(note, keys, "", 0)
        need(name in logs, name, 0, "a checkpoint is held but the log is missing")
        held.setdefault(name, []).append((size, root))
    checked = [check_log(logs[name], name, keys, held.get(name, [])) for name in logs]
    own, held_to, is_held = zip(*checked, strict=True)
    RESULT["ok"], RESULT["assurance"] = True, "held" if held and all(is_held) else "self"
    RESULT["covered_to"] = sum(held_to if RESULT["assurance"] == "held" else own)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", metavar="DIR", type=pathlib.Path)
    parser.add_argument("--key", action="append", default=[], type=parse_key, metavar="VKEY")
    parser.add_argument("--checkpoint", type=pathlib.Path, metavar="FILE")
    parser.add_argument("--json", action="store_true", help="the answer is always JSON")
    args = parser.parse_args(argv)
    RESULT.update(
        ok=False, records=0, checkpoints=0, first_bad=None, assurance="self", covered_to=0
    )
    try:
        held = read_text(args.checkpoint) if args.checkpoint else None
        check(args.directory.resolve(), args.key, held)
    finally:
        print(json.dumps(RESULT))
        if not args.key:
            print("no key was given: signatures are unchecked", file=sys.stderr)
        if not args.checkpoint:
            print("truncation cannot be excluded", file=sys.stderr)


if __name__ == "__main__":
    main()
