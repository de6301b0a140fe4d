"""The test vectors of docs/protocol/, made from fixed keys: the same bytes every time.

Sealing draws a nonce or a key for one use; here both are fixed, so that the bytes can be compared.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import nacl.bindings
import nacl.secret
from blake3 import blake3
from support.meshes import Device, keys_of, small_mesh

from wire.blobs import blob_digest, blob_ref, manifest_of
from wire.codec import FrameCodec, encode_envelope
from wire.content import (
    Content,
    Invocation,
    digest_key,
    input_purpose,
    output_digest,
    output_purpose,
)
from wire.execution import ExecutionStatus
from wire.ids import (
    BatchId,
    Digest,
    MeshId,
    PeerId,
    TaskId,
    did_key,
    digest_text,
    mesh_text,
    peer_text,
)
from wire.keys import Ed25519Verifier
from wire.limits import Limits
from wire.membership import (
    Certificate,
    Genesis,
    Invitation,
    NetworkKeyRoll,
    Removal,
    Role,
    invitation_text,
    mesh_id_of,
)
from wire.merkle import inclusion_proofs, merkle_root
from wire.messages import MESSAGES, Heartbeat, Hello, OfferRefusal, OfferRejected
from wire.records import (
    Capabilities,
    Observation,
    Observations,
    Presence,
    ProtocolRange,
    Record,
    RecordKind,
)
from wire.signed import Body, Signed, encode_body, sign, signing_bytes
from wire.tasks import (
    Contract,
    Durability,
    Epoch,
    KeyFor,
    Lease,
    Outcome,
    OutcomeKind,
    ProvenResult,
    Receipt,
    Result,
    ResultRoot,
    Steward,
    Task,
    Vote,
    batch_id_of,
    prove_tasks,
    result_digest,
    task_id_of,
    tasks_root_of,
)

DIRECTORY = Path(__file__).parent.parent / "wire" / "vectors"

BATCH_KEY = bytes(range(32))
EPOCH = Epoch(0, 1, 0)
PROFILE = "wasmtime-50.0.1/1"
OUTPUTS = (b"hello, mesh\n", b"", b"the third\n")
MESH = small_mesh(4, roles={3: (Role.EXECUTOR,)})


def all_vectors() -> dict[str, dict[str, object]]:
    """Return the content of each file of the directory, by its name."""
    makers: list[Callable[[], dict[str, object]]] = [
        ids,
        signatures,
        membership,
        merkle,
        content,
        records,
        tasks,
        frames,
    ]
    return {f"{make.__name__}.json": make() for make in makers}


def as_text(vectors: dict[str, object]) -> str:
    """Return the text of one file."""
    return json.dumps(vectors, indent=1, ensure_ascii=True) + "\n"


def write_all() -> None:
    """Write all files anew."""
    DIRECTORY.mkdir(exist_ok=True)
    for name, vectors in all_vectors().items():
        (DIRECTORY / name).write_text(as_text(vectors), encoding="ascii")


def ids() -> dict[str, object]:
    """Return ids as bytes and as text."""
    peers = [keys_of(0).peer, keys_of(1).peer, PeerId(bytes(32)), PeerId(b"\xff" * 32)]
    task = TaskId(batch=BatchId(bytes(range(20))), index=7, stewards=(b"abcd", b"wxyz"))
    return {
        "about": "ids as bytes and as text; `refused` are texts of no id",
        "peers": [
            {"peer": peer.hex(), "text": peer_text(peer), "did": did_key(peer)} for peer in peers
        ],
        "meshes": [
            {"mesh": raw.hex(), "text": mesh_text(MeshId(raw))}
            for raw in (bytes(32), bytes(range(32)), b"\xff" * 32)
        ],
        "digests": [
            {"digest": bytes(range(32)).hex(), "text": digest_text(Digest(bytes(range(32))))}
        ],
        "tasks": [
            {
                "batch": task.batch.hex(),
                "index": task.index,
                "stewards": [short.hex() for short in task.stewards],
                "text": str(task),
            }
        ],
        "refused": {
            "mesh": [
                mesh_text(MeshId(bytes(32)))[:-1] + "b",
                "a" * 51,
                "A" * 52,
                "a" * 52 + "====",
            ],
            "task": [str(task).replace(".7.", ".07."), str(task).replace(".7.", ".1024.")],
            "peer": ["QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", "12D3KooW", "did:key:z6Mk"],
        },
    }


def signatures() -> dict[str, object]:
    """Return one signature for each purpose, over the same body."""
    kinds = (
        *(Genesis, Certificate, Removal, NetworkKeyRoll),
        *(Record, Contract, Lease, ResultRoot, Vote),
    )
    body = b"\x80"
    return {
        "about": "Ed25519 over domain + 00 + body; the seed is device 0's private key",
        "seed": (bytes([0]) * 32).hex(),
        "signer": keys_of(0).peer.hex(),
        "signatures": [
            {
                "domain": kind.DOMAIN.decode(),
                "body": body.hex(),
                "signed": signing_bytes(kind.DOMAIN, body).hex(),
                "signature": keys_of(0).sign(signing_bytes(kind.DOMAIN, body)).hex(),
            }
            for kind in kinds
        ],
    }


def membership() -> dict[str, object]:
    """Return a mesh, a member's chain and an invitation to it."""
    invitation = Invitation(
        mesh=MESH.id,
        network_key=bytes(range(100, 132)),
        issuer=keys_of(0).peer,
        addresses=("/ip4/192.168.1.20/tcp/4001", "/ip6/fe80::1/tcp/4001"),
        secret=bytes(range(200, 216)),
        expires_wall_s=1_800_000_000,
    )
    return {
        "about": "device n has the seed nn nn ... (32 times); device 0 founded the mesh",
        "genesis": _signed(MESH.genesis),
        "mesh": MESH.id.hex(),
        "mesh_text": mesh_text(mesh_id_of(MESH.genesis)),
        "subject": keys_of(3).peer.hex(),
        "roles": ["executor"],
        "chain": [_signed(link) for link in MESH.chains[3]],
        "invitation": {
            "token": invitation_text(invitation),
            "mesh": invitation.mesh.hex(),
            "network_key": invitation.network_key.hex(),
            "issuer": invitation.issuer.hex(),
            "addresses": list(invitation.addresses),
            "secret": invitation.secret.hex(),
            "expires_wall_s": invitation.expires_wall_s,
        },
    }


def merkle() -> dict[str, object]:
    """Return roots and proofs over small trees."""
    trees = []
    for count in (1, 2, 3, 5, 8):
        leaves = [f"leaf {number}".encode() for number in range(count)]
        proofs = [[node.hex() for node in proof] for proof in inclusion_proofs(leaves)]
        trees.append(
            {
                "leaves": [leaf.hex() for leaf in leaves],
                "root": merkle_root(leaves).hex(),
                "proofs": proofs,
            }
        )
    return {"about": "RFC 9162, section 2.1, with BLAKE3", "trees": trees}


def content() -> dict[str, object]:
    """Return sealed content, its digests, and a blob."""
    plaintext = b"hello, mesh\n"
    blob = bytes(range(256)) * 300
    return {
        "about": "XChaCha20-Poly1305: nonce + ciphertext; digests keyed; a blob of two chunks",
        "batch_key": BATCH_KEY.hex(),
        "digest_key": digest_key(BATCH_KEY).hex(),
        "plaintext": plaintext.hex(),
        "purpose": output_purpose(1).hex(),
        "sealed": _sealed(plaintext, output_purpose(1)).hex(),
        "output_digest": output_digest(plaintext, key=digest_key(BATCH_KEY)).hex(),
        "box": _box(BATCH_KEY, keys_of(1).peer).hex(),
        "box_recipient_seed": (bytes([1]) * 32).hex(),
        "blob": {
            "content_is": "00 01 .. ff, 300 times",
            "manifest": encode_body(manifest_of(blob)).hex(),
            "digest": blob_digest(encode_body(manifest_of(blob))).hex(),
        },
    }


def records() -> dict[str, object]:
    """Return signed records of three kinds."""
    presence = Presence(
        name="kitchen",
        node_type="raspberry-pi",
        region="eu-west",
        addresses=("/ip4/192.168.1.20/tcp/4001",),
        protocol=ProtocolRange(1, 1),
        engine_profiles=(PROFILE,),
        store=MESH.devices[1].store,
    )
    capabilities = Capabilities(keys=("arch:aarch64", "cpu:4", "runtime:wasi-p1"))
    subjects = sorted((MESH.devices[0].peer, MESH.devices[2].peer))
    observations = Observations(
        generation=2,
        slots=(
            Observation(subjects[0], "any", 1_000, 1, 0),
            Observation(subjects[0], "raspberry-pi", 0, 0, 3),
            Observation(subjects[1], "any", (1 << 53) - 1, 0, 0),
        ),
    )
    return {
        "about": "records of device 1; `body` of a record is MessagePack of its kind",
        "presence": _record(RecordKind.PRESENCE, encode_body(presence)),
        "capabilities": _record(RecordKind.CAPABILITIES, encode_body(capabilities)),
        "observations": _record(RecordKind.OBSERVATIONS, encode_body(observations)),
    }


def tasks() -> dict[str, object]:
    """Return a batch from contract to receipt."""
    stewards, executor = MESH.devices[:3], MESH.devices[3]
    batch = tuple(Task(index=index, input=_input(index)) for index in range(len(OUTPUTS)))
    proven = prove_tasks(batch)
    contract = sign(_contract(batch, stewards), keys_of(0))
    lease = sign(_lease(contract, executor), keys_of(0))
    results = _results(lease.body)
    outcomes = {
        index: Outcome(kind=OutcomeKind.RESULT, result=result_digest(result.received))
        for index, result in enumerate(results)
    }
    votes = tuple(
        sign(
            Vote(batch=batch_id_of(contract), store=voter.store, epoch=EPOCH, outcomes=outcomes),
            voter.keys,
        )
        for voter in stewards[:2]
    )
    receipt = Receipt(
        genesis=MESH.genesis,
        contract=contract,
        task=proven[0],
        lease=lease,
        result=results[0],
        votes=votes,
        chains=(MESH.chains[0], MESH.chains[1], MESH.chains[3]),
        digest_key=digest_key(BATCH_KEY),
    )
    return {
        "about": "device 0 submits three tasks to stewards 0, 1, 2; device 3 runs them",
        "mesh": MESH.id.hex(),
        "batch_key": BATCH_KEY.hex(),
        "invocations": [encode_body(_invocation(index)).hex() for index in range(len(OUTPUTS))],
        "tasks": [task.received.hex() for task in proven],
        "tasks_root": tasks_root_of(batch).hex(),
        "task_proofs": [[node.hex() for node in task.proof] for task in proven],
        "contract": _signed(contract),
        "batch": batch_id_of(contract).hex(),
        "task_ids": [str(task_id_of(contract, index)) for index in range(len(OUTPUTS))],
        "lease": _signed(lease),
        "results": [result.received.hex() for result in results],
        "result_digests": [result_digest(result.received).hex() for result in results],
        "result_root": _signed(results[0].root),
        "result_proofs": [[node.hex() for node in result.proof] for result in results],
        "outputs": [output.hex() for output in OUTPUTS],
        "votes": [_signed(vote) for vote in votes],
        "receipt": encode_body(receipt).hex(),
        "receipt_task": str(task_id_of(contract, 0)),
    }


def frames() -> dict[str, object]:
    """Return frames of the link, and bytes that are none."""
    codec = FrameCodec(MESSAGES, Ed25519Verifier())
    hello = Hello(
        mesh=MESH.id,
        genesis=MESH.genesis,
        chain=MESH.chains[3],
        protocol=ProtocolRange(1, 1),
        incarnation=5,
    )
    rejected = OfferRejected(offer=9, reason=OfferRefusal.SLOTS_FULL, detail="4 of 4 busy")
    return {
        "about": "whole frames, without the length that a stream puts before each",
        "hello": codec.encode(hello).hex(),
        "heartbeat": codec.encode(Heartbeat(token=1)).hex(),
        "heartbeat that wants no answer": codec.encode(Heartbeat()).hex(),
        "offer_rejected": codec.encode(rejected).hex(),
        "unknown_tag": (b"\1" + encode_envelope("probe", b"\xc1")).hex(),
        "malformed": {
            "empty": "",
            "other version": (b"\2" + codec.encode(Heartbeat(token=1))[1:]).hex(),
            "trailing byte": (codec.encode(Heartbeat(token=1)) + b"\0").hex(),
            "field twice": _heartbeat(b"\x82\xa5token\x01\xa5token\x02"),
            "negative": _heartbeat(b"\x81\xa5token\xff"),
            "fraction": _heartbeat(b"\x81\xa5token\xcb\x3f\xf0\0\0\0\0\0\0"),
            "extension type": _heartbeat(b"\x82\xa5token\x01\xa1x\xd6\xff\0\0\0\0"),
            "text that is not UTF-8": _heartbeat(b"\x82\xa5token\x01\xa1x\xa1\xff"),
        },
    }


def _signed(signed: Signed[Body]) -> dict[str, str]:
    received, signer, signature = signed.to_wire()
    return {
        "domain": signed.body.DOMAIN.decode(),
        "body": received.hex(),
        "signer": signer.hex(),
        "signature": signature.hex(),
    }


def _record(kind: RecordKind, body: bytes) -> dict[str, str]:
    record = Record(owner=keys_of(1).peer, kind=kind, incarnation=3, counter=14, body=body)
    return _signed(sign(record, keys_of(1)))


def _heartbeat(body: bytes) -> str:
    return (b"\1" + encode_envelope("heartbeat", body)).hex()


def _sealed(plaintext: bytes, purpose: bytes) -> bytes:
    nonce = blake3(purpose).digest(24)
    return bytes(nacl.secret.Aead(BATCH_KEY).encrypt(plaintext, aad=purpose, nonce=nonce))


def _box(secret: bytes, recipient: PeerId) -> bytes:
    """Return libsodium's sealed box with a fixed ephemeral key (crypto_box_seal)."""
    ephemeral, private = nacl.bindings.crypto_box_seed_keypair(b"e" * 32)
    public = nacl.bindings.crypto_sign_ed25519_pk_to_curve25519(recipient)
    nonce = hashlib.blake2b(ephemeral + public, digest_size=24).digest()
    return ephemeral + nacl.bindings.crypto_box_easy(secret, nonce, public, private)


def _invocation(index: int) -> Invocation:
    return Invocation(args=("greet", str(index)), env=(("LANG", "C"),), stdin=b"in")


def _input(index: int) -> Content:
    return Content(inline=_sealed(encode_body(_invocation(index)), input_purpose(index)))


def _contract(batch: tuple[Task, ...], stewards: tuple[Device, ...]) -> Contract:
    return Contract(
        mesh=MESH.id,
        nonce=bytes(range(16)),
        module=blob_ref(b"\0asm\1\0\0\0"),
        limits=Limits(),
        requirements=("runtime:wasi-p1",),
        engine_profiles=(PROFILE,),
        deadline_us=3_600_000_000,
        durability=Durability.MESH,
        stewards=tuple(Steward(steward.peer, steward.store) for steward in stewards),
        keys=tuple(KeyFor(steward.peer, _box(BATCH_KEY, steward.peer)) for steward in stewards),
        tasks_count=len(batch),
        tasks_root=tasks_root_of(batch),
    )


def _lease(contract: Signed[Contract], executor: Device) -> Lease:
    return Lease(
        batch=batch_id_of(contract),
        indices=(0, 1, 2),
        executor=executor.peer,
        store=contract.body.stewards[0].store,
        epoch=EPOCH,
        attempt=1,
        duration_us=10_000_000,
        key=_box(BATCH_KEY, executor.peer),
    )


def _results(lease: Lease) -> tuple[ProvenResult, ...]:
    leaves = [
        encode_body(
            Result(
                batch=lease.batch,
                index=index,
                executor=lease.executor,
                epoch=lease.epoch,
                attempt=lease.attempt,
                engine_profile=PROFILE,
                status=ExecutionStatus.EXITED,
                exit_code=index,
                output_digest=output_digest(output, key=digest_key(BATCH_KEY)),
                output=Content(inline=_sealed(output, output_purpose(index))),
                fuel_used=12_345,
                wall_us=678,
            )
        )
        for index, output in enumerate(OUTPUTS)
    ]
    root = sign(ResultRoot(count=len(leaves), root=merkle_root(leaves)), keys_of(3))
    return tuple(
        ProvenResult(received=leaf, position=position, proof=proof, root=root)
        for position, (leaf, proof) in enumerate(zip(leaves, inclusion_proofs(leaves), strict=True))
    )
