"""Checkpoints as signed notes: what is written reads back, everything else is refused."""

from __future__ import annotations

import base64
import hashlib

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from agentgw.core.checkpoint import (
    Checkpoint,
    NoteInvalid,
    UnknownSigner,
    VerifierKey,
    format_manifest,
    note_text,
    open_note,
    parse_checkpoint,
    parse_manifest,
    parse_vkey,
    sign_note,
    split_notes,
)

# The example of C2SP's signed-note, made by Go's golang.org/x/mod/sumdb/note.
GO_VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_NOTE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZ"
    "SNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
PRIVATE = Ed25519PrivateKey.from_private_bytes(b"c" * 32)
KEY = VerifierKey("gw.example.com", PRIVATE.public_key().public_bytes_raw())
CHECKPOINT = Checkpoint("gw.example.com/gw-1", 18, hashlib.sha256(b"root").digest())
NOTE = sign_note(str(CHECKPOINT), KEY, PRIVATE.sign)


def verify(public_key: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def test_opens_a_note_that_go_signed() -> None:
    key = parse_vkey(GO_VKEY)
    text, signer = open_note(GO_NOTE, [KEY, key], verify)
    assert (text, signer) == (GO_NOTE.partition("\n\n")[0] + "\n", key)
    assert str(key) == GO_VKEY


def test_a_signed_checkpoint_reads_back() -> None:
    text, signer = open_note(NOTE, [KEY], verify)
    assert parse_checkpoint(text) == CHECKPOINT
    assert (signer, CHECKPOINT.log) == (KEY, "gw-1")


def test_every_change_of_one_byte_is_refused() -> None:
    raw = NOTE.encode()
    for place in range(len(raw)):
        changed = raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]
        with pytest.raises(NoteInvalid):
            parse_checkpoint(open_note(changed.decode("utf-8", "replace"), [KEY], verify)[0])


def test_a_note_of_another_key_is_signed_by_nobody_we_know() -> None:
    other = Ed25519PrivateKey.from_private_bytes(b"d" * 32)
    same_name = VerifierKey(KEY.name, other.public_key().public_bytes_raw())
    with pytest.raises(UnknownSigner):
        open_note(sign_note(str(CHECKPOINT), same_name, other.sign), [KEY], verify)


def test_a_line_of_an_unknown_witness_does_no_harm_and_a_false_one_of_ours_does() -> None:
    witness = "— witness.example.com " + base64.b64encode(b"w" * 76).decode() + "\n"
    assert open_note(NOTE + witness, [KEY], verify)[1] == KEY
    false = sign_note("other\n", KEY, PRIVATE.sign).rpartition("\n\n")[2]
    with pytest.raises(NoteInvalid, match="does not hold"):
        open_note(NOTE + false, [KEY], verify)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "o\n1\n",
        "\n1\nAAAA\n",
        "o\n01\n" + base64.b64encode(bytes(32)).decode() + "\n",
        "o\n+1\n" + base64.b64encode(bytes(32)).decode() + "\n",
        "o\n²\n" + base64.b64encode(bytes(32)).decode() + "\n",
        "o\n" + "9" * 5000 + "\n" + base64.b64encode(bytes(32)).decode() + "\n",
        "o\n1\n" + base64.b64encode(bytes(31)).decode() + "\n",
        "o\n1\n" + base64.b64encode(bytes(32)).decode().replace("A=", "B=") + "\n",
        "o\n1\n" + base64.b64encode(bytes(32)).decode(),
        "o\n1\n" + base64.b64encode(bytes(32)).decode() + "\nextension\n",
    ],
)
def test_refuses_what_is_no_canonical_checkpoint(text: str) -> None:
    with pytest.raises(NoteInvalid):
        parse_checkpoint(text)


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        "PeterNeumann",
        GO_VKEY.replace("Peter", "Pieter"),
        GO_VKEY.replace("c74f", "c74e"),
        "Peter Neumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeumann+c74f20a3+AhpC",
    ],
)
def test_refuses_what_is_no_verifier_key(vkey: str) -> None:
    with pytest.raises(NoteInvalid):
        parse_vkey(vkey)


def test_refuses_a_note_without_a_signature_line() -> None:
    for note in ("text\n", "text\n\n", "text\n\nPeter AAAAAAAA\n", NOTE[:-1]):
        with pytest.raises(NoteInvalid):
            note_text(note)


def test_splits_a_file_of_notes_and_hands_back_a_cut_tail() -> None:
    assert split_notes("") == ([], "")
    assert split_notes(f"{NOTE}\n{NOTE}\n") == ([NOTE, NOTE], "")
    for cut in range(1, len(NOTE)):
        notes, rest = split_notes(f"{NOTE}\n{NOTE[:cut]}")
        assert notes == [NOTE]
        assert rest == NOTE[:cut]


def test_a_manifest_reads_back_and_never_as_a_checkpoint() -> None:
    text = format_manifest(["gw-2", "gw-1"])
    assert parse_manifest(text) == ("gw-1", "gw-2")
    with pytest.raises(NoteInvalid):
        parse_checkpoint(text)
    for bad in ("", text + "log gw-1\n", text[:-1], text.replace("log gw-1\n", "gw-1\n")):
        with pytest.raises(NoteInvalid):
            parse_manifest(bad)
