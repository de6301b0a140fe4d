"""The vectors, read without our code: msgpack, PyNaCl and BLAKE3, as another language would.

What is written here follows docs/protocol/ and imports nothing of ours, on purpose: it would still
pass if our encoder and decoder were wrong in the same way, only if the pages were right.
"""

from __future__ import annotations

import base64
import json
import typing
from pathlib import Path

import msgpack
import nacl.exceptions
import nacl.public
import nacl.secret
import nacl.signing
import pytest
from blake3 import blake3

VECTORS = Path(__file__).parent / "vectors"
BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

Json = dict[str, typing.Any]
Wire = tuple[bytes, bytes, bytes]  # body, signer, signature


def load(name: str) -> Json:
    return typing.cast(Json, json.loads((VECTORS / name).read_text("ascii")))


def unpacked(received: bytes) -> typing.Any:  # noqa: ANN401 - MessagePack of any shape
    return msgpack.unpackb(received, strict_map_key=False)


def base32(raw: bytes) -> str:
    return base64.b32encode(raw).decode().rstrip("=").lower()


def unbase32(text: str) -> bytes:
    return base64.b32decode(text.upper() + "=" * (-len(text) % 8))


def base58(raw: bytes) -> str:
    number, digits = int.from_bytes(raw, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        digits = BASE58[digit] + digits
    return "1" * (len(raw) - len(raw.lstrip(b"\0"))) + digits


def derived(context: str, message: bytes) -> bytes:
    return blake3(message, derive_key_context=context).digest()


def is_signed(domain: str, parts: Wire) -> bool:
    body, signer, signature = parts
    try:
        nacl.signing.VerifyKey(signer).verify(domain.encode() + b"\0" + body, signature)
    except nacl.exceptions.BadSignatureError:
        return False
    return True


def opened(domain: str, parts: Wire) -> Json:
    assert is_signed(domain, parts)
    return typing.cast(Json, unpacked(parts[0]))


def wire_of(vector: Json) -> Wire:
    body, signer, signature = (
        bytes.fromhex(vector[part]) for part in ("body", "signer", "signature")
    )
    return body, signer, signature


def root_from_proof(leaf: bytes, index: int, count: int, proof: list[bytes]) -> bytes | None:
    """Follow RFC 9162, section 2.1.3.2, step by step."""
    fn, sn, r = index, count - 1, blake3(b"\0" + leaf).digest()
    for p in proof:
        if sn == 0:
            return None
        if fn % 2 == 1 or fn == sn:
            r = blake3(b"\1" + p + r).digest()
            while fn % 2 == 0 and fn != 0:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = blake3(b"\1" + r + p).digest()
        fn, sn = fn >> 1, sn >> 1
    return r if sn == 0 else None


def test_ids() -> None:
    vectors = load("ids.json")
    for vector in vectors["peers"]:
        peer = bytes.fromhex(vector["peer"])
        assert vector["text"] == base58(bytes.fromhex("002408011220") + peer)
        assert vector["did"] == "did:key:z" + base58(bytes.fromhex("ed01") + peer)
    for vector in vectors["meshes"]:
        assert vector["text"] == base32(bytes.fromhex(vector["mesh"]))
    for vector in vectors["tasks"]:
        shorts = [base32(bytes.fromhex(short)) for short in vector["stewards"]]
        batch = base32(bytes.fromhex(vector["batch"]))
        assert vector["text"] == ".".join([batch, str(vector["index"]), *shorts])


def test_signatures() -> None:
    vectors = load("signatures.json")
    key = nacl.signing.SigningKey(bytes.fromhex(vectors["seed"]))
    assert bytes(key.verify_key).hex() == vectors["signer"]
    for vector in vectors["signatures"]:
        signed = vector["domain"].encode() + b"\0" + bytes.fromhex(vector["body"])
        assert signed.hex() == vector["signed"]
        assert key.sign(signed).signature.hex() == vector["signature"]


def chain_leads_to_founder(chain: list[Wire], genesis: Wire, subject: bytes) -> Json | None:
    """Return the subject's certificate."""
    founding = opened("meshd/genesis/1", genesis)
    mesh = derived("meshd 2026 genesis", genesis[0])
    certificates = [opened("meshd/certificate/1", link) for link in chain]
    expected = subject
    for place, certificate in enumerate(certificates):
        if certificate["mesh"] != mesh or certificate["subject"] != expected:
            return None
        if place > 0 and "admin" not in certificate["roles"]:
            return None
        expected = chain[place][1]
    is_founders = certificates[-1]["subject"] == expected == founding["founder"] == genesis[1]
    return certificates[0] if is_founders else None


def test_membership() -> None:
    vectors = load("membership.json")
    genesis = wire_of(vectors["genesis"])
    mesh = derived("meshd 2026 genesis", genesis[0])
    assert mesh.hex() == vectors["mesh"]
    assert base32(mesh) == vectors["mesh_text"]
    chain = [wire_of(link) for link in vectors["chain"]]
    certificate = chain_leads_to_founder(chain, genesis, bytes.fromhex(vectors["subject"]))
    assert certificate is not None
    assert certificate["roles"] == vectors["roles"]
    assert chain_leads_to_founder(chain[1:], genesis, bytes.fromhex(vectors["subject"])) is None


def test_invitation() -> None:
    vector = load("membership.json")["invitation"]
    token = vector.pop("token")
    assert token.startswith("meshd1")
    raw = unbase32(token.removeprefix("meshd1"))
    context = "meshd 2026 invitation checksum"
    assert raw[:4] == blake3(raw[4:], derive_key_context=context).digest(4)
    fields = unpacked(raw[4:])
    shown = {k: v.hex() if isinstance(v, bytes) else v for k, v in fields.items()}
    assert shown == vector


def test_merkle_trees() -> None:
    for tree in load("merkle.json")["trees"]:
        leaves = [bytes.fromhex(leaf) for leaf in tree["leaves"]]
        for index, leaf in enumerate(leaves):
            proof = [bytes.fromhex(node) for node in tree["proofs"][index]]
            found = root_from_proof(leaf, index, len(leaves), proof)
            assert found is not None
            assert found.hex() == tree["root"]


def test_content() -> None:
    vector = load("content.json")
    key = bytes.fromhex(vector["batch_key"])
    purpose = bytes.fromhex(vector["purpose"])
    assert purpose == b"meshd/output/1\0" + (1).to_bytes(2, "big")
    sealed = bytes.fromhex(vector["sealed"])
    plaintext = nacl.secret.Aead(key).decrypt(sealed[24:], aad=purpose, nonce=sealed[:24])
    assert plaintext.hex() == vector["plaintext"]
    digest_key = derived("meshd 2026 digest key", key)
    assert digest_key.hex() == vector["digest_key"]
    assert blake3(plaintext, key=digest_key).hexdigest() == vector["output_digest"]
    recipient = nacl.signing.SigningKey(bytes.fromhex(vector["box_recipient_seed"]))
    box = nacl.public.SealedBox(recipient.to_curve25519_private_key())
    assert box.decrypt(bytes.fromhex(vector["box"])) == key


def test_blob() -> None:
    vector = load("content.json")["blob"]
    content = bytes(range(256)) * 300
    chunks = [content[start : start + 65_536] for start in range(0, len(content), 65_536)]
    digests = b"".join(derived("meshd 2026 blob chunk", chunk) for chunk in chunks)
    manifest = msgpack.packb([1, len(content), digests])
    assert manifest.hex() == vector["manifest"]
    assert derived("meshd 2026 blob manifest", manifest).hex() == vector["digest"]


def test_records() -> None:
    vectors = load("records.json")
    for kind in ("presence", "capabilities"):
        record = opened("meshd/record/1", wire_of(vectors[kind]))
        assert record["kind"] == kind
        assert record["owner"].hex() == vectors[kind]["signer"]
        assert (record["incarnation"], record["counter"]) == (3, 14)
        body = unpacked(record["body"])
        assert ("keys" in body) == (kind == "capabilities")
        if kind == "presence":
            assert body["name"] == "kitchen"
            assert body["protocol"] == [1, 1]


def test_observations() -> None:
    record = opened("meshd/record/1", wire_of(load("records.json")["observations"]))
    body = unpacked(record["body"])
    slots = [(subject, kind) for subject, kind, *_ in body["slots"]]
    assert slots == sorted(slots)
    assert (record["kind"], body["generation"]) == ("observations", 2)
    assert [counts for _, _, *counts in body["slots"]] == [
        [1_000, 1, 0],
        [0, 0, 3],
        [(1 << 53) - 1, 0, 0],
    ]


def test_tasks_from_contract_to_votes() -> None:
    vectors = load("tasks.json")
    contract = opened("meshd/contract/1", wire_of(vectors["contract"]))
    batch = derived("meshd 2026 contract", bytes.fromhex(vectors["contract"]["body"]))[:20]
    assert batch.hex() == vectors["batch"]
    shorts = [base32(peer[:4]) for peer, _store in contract["stewards"]]
    key = bytes.fromhex(vectors["batch_key"])
    for index, received in enumerate(map(bytes.fromhex, vectors["tasks"])):
        task = unpacked(received)
        proof = [bytes.fromhex(node) for node in vectors["task_proofs"][index]]
        count = contract["tasks_count"]
        assert root_from_proof(received, index, count, proof) == contract["tasks_root"]
        assert ".".join([base32(batch), str(index), *shorts]) == vectors["task_ids"][index]
        sealed, purpose = task["input"]["inline"], b"meshd/input/1\0" + index.to_bytes(2, "big")
        invocation = nacl.secret.Aead(key).decrypt(sealed[24:], aad=purpose, nonce=sealed[:24])
        assert invocation.hex() == vectors["invocations"][index]
        assert unpacked(invocation)["args"] == ["greet", str(index)]
    lease = opened("meshd/lease/1", wire_of(vectors["lease"]))
    root = opened("meshd/results/1", wire_of(vectors["result_root"]))
    digest_key = derived("meshd 2026 digest key", key)
    for index, received in enumerate(map(bytes.fromhex, vectors["results"])):
        result = unpacked(received)
        proof = [bytes.fromhex(node) for node in vectors["result_proofs"][index]]
        assert root_from_proof(received, index, root["count"], proof) == root["root"]
        assert result["executor"] == lease["executor"]
        assert result["executor"].hex() == vectors["result_root"]["signer"]
        output = bytes.fromhex(vectors["outputs"][index])
        assert blake3(output, key=digest_key).digest() == result["output_digest"]
        assert derived("meshd 2026 result", received).hex() == vectors["result_digests"][index]
    for vector in vectors["votes"]:
        vote = opened("meshd/vote/1", wire_of(vector))
        assert [bytes.fromhex(vector["signer"]), vote["store"]] in contract["stewards"]
        chosen = [vote["outcomes"][index]["result"].hex() for index in range(3)]
        assert chosen == vectors["result_digests"]


def test_the_receipt_proves_its_task() -> None:
    vectors = load("tasks.json")
    receipt = unpacked(bytes.fromhex(vectors["receipt"]))
    assert receipt["version"] == 1
    genesis: Wire = tuple(receipt["genesis"])
    mesh = derived("meshd 2026 genesis", genesis[0])
    assert mesh.hex() == vectors["mesh"]
    contract = opened("meshd/contract/1", tuple(receipt["contract"]))
    assert contract["mesh"] == mesh
    batch = derived("meshd 2026 contract", receipt["contract"][0])[:20]
    task = unpacked(receipt["task"]["received"])
    index = task["index"]
    assert (
        root_from_proof(
            receipt["task"]["received"], index, contract["tasks_count"], receipt["task"]["proof"]
        )
        == contract["tasks_root"]
    )
    result_bytes = receipt["result"]["received"]
    result = unpacked(result_bytes)
    root = opened("meshd/results/1", tuple(receipt["result"]["root"]))
    assert receipt["result"]["root"][1] == result["executor"]
    position, proof = receipt["result"]["position"], receipt["result"]["proof"]
    assert root_from_proof(result_bytes, position, root["count"], proof) == root["root"]
    assert (result["batch"], result["index"]) == (batch, index)
    assert result["engine_profile"] in contract["engine_profiles"]
    votes = [(vote[1], opened("meshd/vote/1", tuple(vote))) for vote in receipt["votes"]]
    for signer, vote in votes:
        assert [signer, vote["store"]] in contract["stewards"]
        assert vote["batch"] == batch
        assert vote["epoch"] == votes[0][1]["epoch"]
        assert vote["outcomes"][index]["kind"] == "result"
        assert vote["outcomes"][index]["result"] == derived("meshd 2026 result", result_bytes)
    assert len({signer for signer, _ in votes}) == 2 > len(contract["stewards"]) // 2
    lease = opened("meshd/lease/1", tuple(receipt["lease"]))
    leader = contract["stewards"][lease["epoch"][2]]
    assert leader == [receipt["lease"][1], lease["store"]]
    run = ("batch", "executor", "epoch", "attempt")
    assert [lease[name] for name in run] == [result[name] for name in run]
    assert index in lease["indices"]
    assert lease["epoch"] <= votes[0][1]["epoch"]
    needed = {receipt["contract"][1]: "submitter", result["executor"]: "executor"}
    members = [*needed.items(), *((signer, "steward") for signer, _ in votes)]
    for peer, role in members:
        chains = [[tuple(link) for link in chain] for chain in receipt["chains"]]
        certificates = [chain_leads_to_founder(chain, genesis, peer) for chain in chains]
        assert any(certificate and role in certificate["roles"] for certificate in certificates)
    output = bytes.fromhex(vectors["outputs"][index])
    assert blake3(output, key=receipt["digest_key"]).digest() == result["output_digest"]


@pytest.mark.parametrize(
    ("name", "tag"),
    [("hello", "hello"), ("heartbeat", "heartbeat"), ("offer_rejected", "offer_rejected")],
)
def test_frames(name: str, tag: str) -> None:
    frame = bytes.fromhex(load("frames.json")[name])
    assert frame[0] == 1
    found, body = unpacked(frame[1:])
    assert found == tag
    fields = unpacked(body)
    if name == "hello":
        opened("meshd/genesis/1", tuple(fields["genesis"]))
        subject = unpacked(fields["chain"][0][0])["subject"]
        chain = [tuple(link) for link in fields["chain"]]
        assert chain_leads_to_founder(chain, tuple(fields["genesis"]), subject)
        assert fields["protocol"] == [1, 1]
    if name == "heartbeat":
        assert fields == {"token": 1}
