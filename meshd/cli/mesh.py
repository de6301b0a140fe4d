"""What `meshctl` says about this device, the mesh and who has what; and invitations."""

from __future__ import annotations

import click

from meshd.cli import bounds
from meshd.cli.exits import Exit
from meshd.cli.grammar import (
    MeshCommand,
    Session,
    capabilities,
    duration_us,
    examples,
    pass_session,
)
from meshd.cli.output import (
    Cell,
    Column,
    milliseconds,
    note,
    plain,
    print_fields,
    print_json,
    print_table,
    rough_bytes,
    rough_duration,
    score,
    short_id,
    table_lines,
)
from meshd.cli.references import peer_argument
from meshd.control_frames import Frame
from meshd.quantities import format_duration_us

ROLES = ("admin", "submitter", "executor", "steward", "observer")
TERMS = ("bandwidth", "latency", "compute", "reputation")
WATCH_PERIOD_S = 1.0
SOURCES = {"local": "the directory", "dht": "the DHT"}

PEER_COLUMNS = (
    Column("NAME", width_max=14),
    Column("ID"),
    Column("STATE"),
    Column("HEALTH", is_number=True),
    Column("BAND", is_number=True),
    Column("LAT", is_number=True),
    Column("COMP", is_number=True),
    Column("REP", is_number=True),
    Column("BREAKER"),
    Column("RTT", is_number=True),
    Column("SLOTS", is_number=True),
    Column("LABELS", width_max=60),
)


@click.command(
    cls=MeshCommand,
    epilog=examples("meshctl status", "meshctl status --output json | jq .health"),
)
@pass_session
def status(session: Session) -> int:
    """Show this device, its mesh and work, and what needs attention."""
    with session.connect() as client:
        answer = client.ask({"command": "status"})
    if session.is_json:
        print_json(answer)
        return Exit.DONE
    print_fields(_status_fields(answer))
    for warning in answer["warnings"]:
        click.echo(click.style(f"warning: {plain(warning)}", fg="yellow"))
    return Exit.DONE


@click.command(cls=MeshCommand, epilog=examples("meshctl peers", "meshctl peers --watch"))
@click.option("--watch", is_flag=True, help="Show it again every second, until Ctrl-C.")
@pass_session
def peers(session: Session, watch: bool) -> int:
    """List the devices of the mesh as this one sees them.

    HEALTH is 0.4 BAND + 0.3 LAT + 0.2 COMP + 0.1 REP, over the terms that are known.
    """
    if watch:
        from meshd.cli.watch import watch_peers

        return watch_peers(session, period_s=WATCH_PERIOD_S)
    with session.connect() as client:
        answer = client.ask({"command": "peers"})
    if session.is_json:
        print_json(answer)
    else:
        print_table(PEER_COLUMNS, map(peer_row, answer["peers"]))
    return Exit.DONE


@click.command(
    cls=MeshCommand,
    epilog=examples("meshctl peer kitchen", "meshctl peer did:key:z6MkfakeFAKEfakeFAKE"),
)
@peer_argument
@pass_session
def peer(session: Session, peer: str) -> int:
    """Show one device. PEER is a name, a peer id, its beginning, or a did:key."""
    with session.connect() as client:
        answer = client.ask({"command": "peer", "peer": peer})
    if session.is_json:
        print_json(answer)
    else:
        print_fields(_peer_fields(answer))
    return Exit.DONE


@click.command(
    cls=MeshCommand,
    epilog=examples(
        "meshctl find arch:aarch64 mem:4GiB",
        "meshctl find label:camera=front --via dht",
    ),
)
@click.argument("wanted", metavar="CAPABILITY...", nargs=-1, required=True, callback=capabilities)
@click.option(
    "--via",
    type=click.Choice(["any", "local", "dht"]),
    default="any",
    help="Ask this device's directory, the DHT, or one after the other (any, the default).",
)
@pass_session
def find(session: Session, wanted: tuple[str, ...], via: str) -> int:
    """Find devices that provide every CAPABILITY. Exits with 1 if none does."""
    with session.connect() as client:
        answer = client.ask({"command": "find", "capabilities": wanted, "via": via})
    found = answer["peers"]
    if session.is_json:
        print_json(answer)
    elif found:
        print_table(PEER_COLUMNS, map(peer_row, found))
        note(f"answered by: {_source(answer['source'])}")
    else:
        asked = _asked(via, answer["source"])
        note(f"found no device that provides {' '.join(wanted)} (asked: {asked})")
        print_closest(answer["closest"])
    return Exit.DONE if found else Exit.NO


@click.command(
    cls=MeshCommand,
    epilog=examples(
        "meshctl invite",
        "meshctl invite --role executor --ttl 1h --uses 5 --operator bob",
        "meshctl invite --output json | jq -r .token | ssh pi meshd start --join -",
    ),
)
@click.option(
    "--role",
    "roles",
    multiple=True,
    type=click.Choice(ROLES),
    help="What the new device may do; repeatable, all roles without it.",
)
@click.option(
    "--ttl",
    "ttl_us",
    metavar="DURATION",
    default="24h",
    show_default=True,
    callback=duration_us(*bounds.INVITATION_US),
    help="How long the invitation lasts.",
)
@click.option(
    "--uses",
    type=click.IntRange(*bounds.USES),
    metavar="N",
    default=1,
    show_default=True,
    help="How many devices it lets in.",
)
@click.option("--operator", metavar="NAME", help="Who runs the new device; else as this one.")
@pass_session
def invite(
    session: Session, roles: tuple[str, ...], ttl_us: int, uses: int, operator: str | None
) -> int:
    """Let a new device in: prints the whole command to type there.

    Whoever has the invitation can join, so send it by a way that you trust.
    """
    request: Frame = {"command": "invite", "ttl_us": ttl_us, "uses": uses}
    if roles:
        request["roles"] = list(dict.fromkeys(roles))
    if operator:
        request["operator"] = operator
    with session.connect() as client:
        answer = client.ask(request)
    if session.is_json:
        print_json(answer)
        return Exit.DONE
    note("type this on the new device:")
    click.echo(plain(answer["command"]))
    devices = _counted(answer["uses"], "device")
    lasts = format_duration_us(answer["ttl_us"])
    note(f"it lets in {devices} within {lasts}, as {', '.join(answer['roles'])}")
    return Exit.DONE


def peer_row(peer: Frame) -> list[Cell]:
    """Return the cells of a device in a table of devices."""
    health = peer["health"]
    return [
        peer["name"],
        short_id(peer["id"]),
        state_of(peer),
        score(health["score"]),
        *(score(health[term]) for term in TERMS),
        peer["breaker"],
        milliseconds(peer["round_trip_us"]),
        _slots(peer),
        " ".join(_labels(peer)),
    ]


def state_of(peer: Frame) -> str:
    """Return how a device is, and whom the link to it goes through."""
    state = str(peer["state"])
    return state if peer["via"] is None else f"{state} via {peer['via']}"


def peer_lines(answer: Frame, *, width: int | None) -> list[str]:
    """Return the lines of the table of devices."""
    return table_lines(PEER_COLUMNS, map(peer_row, answer["peers"]), width=width)


def print_closest(closest: list[Frame]) -> None:
    """Say which devices came closest to what was asked for, and what each lacks."""
    for candidate in closest:
        who = f"{candidate['name']} ({short_id(candidate['id'])})"
        if candidate["missing"]:
            note(f"  closest: {who} lacks {' '.join(candidate['missing'])}")
        else:
            note(f"  the directory says that {who} does")


def _status_fields(answer: Frame) -> list[tuple[str, Cell]]:
    tasks = ", ".join(f"{count} {state}" for state, count in answer["tasks"].items() if count)
    return [
        ("device", f"{answer['name']}  {answer['id']}"),
        ("did", answer["did"]),
        ("mesh", answer["mesh"]),
        ("roles", " ".join(answer["roles"])),
        ("operator", answer["operator"]),
        ("home", answer["home"]),
        ("daemon", _daemon(answer)),
        ("addresses", " ".join(answer["addresses"])),
        ("members", f"{answer['members']}, linked to {answer['links']}"),
        ("health", _health(answer["health"])),
        ("breaker", _with_reason(answer["breaker"], answer["breaker_reason"])),
        ("tasks", tasks or "none"),
        ("work here", _work_here(answer)),
        ("engine", answer["engine_profile"]),
        ("storage", _storage(answer["storage"])),
    ]


def _peer_fields(peer: Frame) -> list[tuple[str, Cell]]:
    return [
        ("device", f"{peer['name']}  {peer['id']}"),
        ("did", peer["did"]),
        ("state", _with_reason(state_of(peer), peer["reason"])),
        ("type", peer["node_type"]),
        ("region", peer["region"]),
        ("roles", " ".join(peer["roles"])),
        ("operator", peer["operator"]),
        ("addresses", " ".join(peer["addresses"])),
        ("health", _health(peer["health"])),
        ("breaker", _with_reason(peer["breaker"], peer["breaker_reason"])),
        ("round trip", _known(milliseconds(peer["round_trip_us"]))),
        ("transfer", _transfer(peer["transfer_bits_per_s"])),
        ("slots", _slots_in_words(peer)),
        *_reputation_fields(peer["reputation"]),
        ("telemetry", _telemetry_age(peer["telemetry_age_us"])),
        ("engines", " ".join(peer["engine_profiles"])),
        ("provides", " ".join(peer["capabilities"])),
    ]


def _reputation_fields(reputation: Frame | None) -> list[tuple[str, Cell]]:
    """Return what a reputation is made of: own outcomes, and what others say with which weight."""
    if reputation is None:
        return []
    left = reputation["remembered"]
    still = f"{left['valid']:g} good, {left['failed']:g} failed, {left['disputed']:g} wrong"
    own = _outcomes(reputation["own"])
    fields: list[tuple[str, Cell]] = [
        ("reputation", score(reputation["score"])),
        ("seen here", f"{own}; still count: {still}"),
    ]
    if not reputation["observers"]:
        return [*fields, ("others say", "nothing")]
    rate, weight = reputation["others_rate"], reputation["others_weight"]
    together = "nothing that counts" if rate is None else f"{score(rate)} with weight {weight:.2f}"
    fields.append(("others say", together))
    for observer in reputation["observers"]:
        said = f"{_outcomes(observer['outcomes'])} (weight {observer['weight']:.2f})"
        fields.append(("", f"{observer['name']}: {said}"))
    left_out = reputation["observers_count"] - len(reputation["observers"])
    return fields + ([("", f"and {_counted(left_out, 'more device')}")] if left_out else [])


def _outcomes(outcomes: list[Frame]) -> str:
    """Return outcomes in words, those of each kind of task for itself."""
    told = []
    for one in outcomes:
        kind = "" if one["kind"] == "any" else f"{one['kind']}: "
        wrong = f", {one['disputed']} wrong" if one["disputed"] else ""
        told.append(f"{kind}{one['valid']} good, {one['failed']} failed{wrong}")
    return "; ".join(told) or "no outcome"


def _daemon(answer: Frame) -> str:
    process = f", process {answer['pid']}" if answer["pid"] else ""
    return f"meshd {answer['version']}{process}, up {rough_duration(answer['uptime_us'])}"


def _health(health: Frame) -> str:
    terms = ", ".join(f"{term} {score(health[term])}" for term in TERMS)
    return f"{score(health['score'])}  ({terms})"


def _with_reason(text: str, reason: str | None) -> str:
    return f"{text} ({reason})" if reason else text


def _known(text: str) -> str | None:
    return None if text == "-" else text


def _slots(peer: Frame) -> str:
    telemetry = peer["telemetry"] or {}
    free, total = telemetry.get("task_slots_free"), telemetry.get("task_slots_total")
    return "-" if free is None or total is None else f"{free}/{total}"


def _slots_in_words(peer: Frame) -> str | None:
    shown = _slots(peer)
    return None if shown == "-" else f"{shown.replace('/', ' of ')} free"


def _labels(peer: Frame) -> list[str]:
    prefix = "label:"
    return [key.removeprefix(prefix) for key in peer["capabilities"] if key.startswith(prefix)]


def _transfer(bits_per_s: int | None) -> str | None:
    return None if bits_per_s is None else f"{bits_per_s / 1_000_000:.1f}Mbit/s"


def _telemetry_age(age_us: int | None) -> str | None:
    return None if age_us is None else f"{rough_duration(age_us)} old"


def _storage(storage: Frame) -> str | None:
    """Return what blobs take of what they may; None where the host does not tell."""
    if not {"blobs_count", "blobs_bytes", "blobs_bytes_max"} <= storage.keys():
        return None
    used, budget = rough_bytes(storage["blobs_bytes"]), rough_bytes(storage["blobs_bytes_max"])
    return f"{used} of {budget}, {_counted(storage['blobs_count'], 'blob')}"


def _work_here(answer: Frame) -> str:
    """Return what this device does for the mesh: leases, and how its sandbox stands."""
    leased = f"{_counted(answer['leases_held'], 'lease')} held"
    sandbox = answer["sandbox"]
    if not {"worker_count", "busy_count", "waiting_count"} <= sandbox.keys():
        return f"{leased}, {_counted(answer['runs_active'], 'run')}"
    busy, workers = sandbox["busy_count"], sandbox["worker_count"]
    waiting = sandbox["waiting_count"]
    return f"{leased}, {busy} of {_counted(workers, 'worker')} busy, {waiting} waiting"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _source(source: str) -> str:
    return SOURCES.get(source, source)


def _asked(via: str, source: str) -> str:
    """Return who was asked in vain: with `any`, the directory is asked before the DHT."""
    if via == "any" and source == "dht":
        return " and ".join(SOURCES.values())
    return _source(source)
