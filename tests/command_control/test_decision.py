"""Who is chosen, and what the administrator reads about it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from command_control.situation import (
    DAIKO,
    LIO,
    T10,
    address,
    can,
    cannot,
    directory,
    naa,
    raw,
    reaches,
    reaches_not,
    second,
    table,
)
from daiko.command_control.decision import (
    InexactSegment,
    NoExecutorLeft,
    Place,
    RangeOutsidePlace,
    RangesOverlap,
    RequestedSegment,
    Undecidable,
    decide,
)
from daiko.command_control.function_table import FunctionTable, Known
from daiko.command_control.naming import Directory
from daiko.command_control.plan import (
    THIS_CONTROLLER,
    Executor,
    Function,
    Mode,
    Plan,
    Rejection,
    Step,
)
from daiko.mapping.extent import DeviceId, Extent, Piece
from daiko.mapping.mapping_table import MappingTable

SD1, SD1B, SD2, VAULT = (DeviceId.parse(text) for text in ("sd1/0", "sd1/1", "sd2/0", "vault/0"))
OWN, OWN2 = DeviceId("own", 0), DeviceId("own2", 0)

ALL = directory(*map(address, (SD1, SD1B, SD2, VAULT)), address(OWN, iqn=""), address(OWN2, iqn=""))
ABLE = table(
    {"sd1": can(DAIKO), "sd2": cannot("no third-party copy"), "vault": cannot("3PC = 0")},
    {("sd1", "vault"): reaches(), ("sd1", "sd2"): reaches_not("no route")},
)


def place(name: str, *runs: tuple[DeviceId, int, int], block_size: int = 512) -> Place:
    extents, at = [], 0
    for device, lba, blocks in runs:
        extents.append(Extent(at, blocks, device, lba))
        at += blocks
    return Place(name, block_size, at, MappingTable(extents))


def plan(
    source: Place,
    destination: Place,
    *,
    blocks: int | None = None,
    source_lba: int = 0,
    destination_lba: int = 0,
    functions: FunctionTable = ABLE,
    mode: Mode = Mode.DELEGATE,
    devices: Directory = ALL,
    excluded: dict[Executor, str] | None = None,
) -> Plan:
    length = source.blocks - source_lba if blocks is None else blocks
    segment = RequestedSegment(source, source_lba, destination, destination_lba, length)
    return decide(
        Function.DIRECT_BACKUP,
        [segment],
        functions,
        mode,
        directory=devices,
        excluded=excluded,
    )


def only(made: Plan) -> Step:
    (step,) = made.steps
    return step


HERE = "this controller"
NOT_NEEDED = "not needed: every byte would pass through it"


@dataclass(frozen=True)
class Scenario:
    """One pair of devices, and the choice expected."""

    source: DeviceId
    destination: DeviceId
    executor: str
    reason: str
    rejected: dict[str, str] = field(default_factory=dict)
    functions: FunctionTable = ABLE
    mode: Mode = Mode.DELEGATE
    devices: Directory = field(default_factory=lambda: ALL)
    excluded: dict[Executor, str] = field(default_factory=dict)


SD1_DOES = "can do direct backup (probed)"
NOBODY = "no controller that owns the data can do it"
BOTH_ABLE = table(
    {"sd1": can(DAIKO), "vault": can(DAIKO)},
    {("sd1", "vault"): reaches(), ("vault", "sd1"): reaches()},
)

SCENARIOS = {
    "push by the owner of the source": Scenario(
        SD1,
        VAULT,
        "second controller sd1",
        f"sd1 owns the source, {SD1_DOES} and reaches vault/0 (probed)",
        {"second controller vault": "not needed: sd1 owns the source and can do it"}
        | {HERE: NOT_NEEDED},
    ),
    "push before pull when both can": Scenario(
        SD1,
        VAULT,
        "second controller sd1",
        f"sd1 owns the source, {SD1_DOES} and reaches vault/0 (probed)",
        {"second controller vault": "not needed: sd1 owns the source and can do it"}
        | {HERE: NOT_NEEDED},
        BOTH_ABLE,
    ),
    "pull by the owner of the destination": Scenario(
        VAULT,
        SD1,
        "second controller sd1",
        f"sd1 owns the destination, {SD1_DOES} and reaches vault/0 (probed)",
        {"second controller vault": "cannot do direct backup (probed): 3PC = 0"}
        | {HERE: NOT_NEEDED},
    ),
    "inside one controller": Scenario(
        SD1,
        SD1B,
        "second controller sd1",
        f"sd1 owns the source and the destination and {SD1_DOES}",
        {HERE: NOT_NEEDED},
    ),
    "nobody can": Scenario(
        SD2,
        VAULT,
        HERE,
        NOBODY,
        {"second controller sd2": "cannot do direct backup (probed): no third-party copy"}
        | {"second controller vault": "cannot do direct backup (probed): 3PC = 0"},
    ),
    "set by hand": Scenario(
        SD2,
        VAULT,
        HERE,
        NOBODY,
        {"second controller sd2": "cannot do direct backup (by hand): maintenance"}
        | {"second controller vault": "cannot do direct backup (probed): 3PC = 0"},
        table({"sd2": cannot("maintenance", Known.DECLARED), "vault": cannot("3PC = 0")}),
    ),
    "nothing known counts as cannot": Scenario(
        SD1,
        SD1B,
        HERE,
        NOBODY,
        {
            "second controller sd1": "not known whether it can do direct backup: "
            "probe it or set it by hand"
        },
        table({}),
    ),
    "able, but does not reach": Scenario(
        SD1,
        SD2,
        HERE,
        NOBODY,
        {"second controller sd1": "does not reach sd2/0 (probed): no route"}
        | {"second controller sd2": "cannot do direct backup (probed): no third-party copy"},
    ),
    "able, but reach not known": Scenario(
        SD1,
        VAULT,
        HERE,
        NOBODY,
        {
            "second controller sd1": "not known whether it reaches vault/0: "
            "probe it or set it by hand"
        }
        | {"second controller vault": "cannot do direct backup (probed): 3PC = 0"},
        table({"sd1": can(DAIKO), "vault": cannot("3PC = 0")}),
    ),
    "able, limits not known": Scenario(
        SD1,
        SD1B,
        HERE,
        NOBODY,
        {
            "second controller sd1": "can do direct backup (probed), but what its commands may "
            "contain is not known"
        },
        FunctionTable({("sd1", Function.DIRECT_BACKUP): can(None)}),
    ),
    "mode direct never delegates": Scenario(
        SD1,
        VAULT,
        HERE,
        "mode direct: this controller does everything itself",
        {"second controller sd1": "mode direct delegates nothing"}
        | {"second controller vault": "mode direct delegates nothing"},
        mode=Mode.DIRECT,
    ),
    "mode local executes itself": Scenario(
        OWN,
        VAULT,
        HERE,
        "mode local: this controller does everything itself",
        {"second controller vault": "mode local delegates nothing"},
        mode=Mode.LOCAL,
    ),
    "own disks": Scenario(OWN, OWN2, HERE, "source and destination are disks of this controller"),
    "from own disks nobody can fetch": Scenario(
        OWN,
        SD1,
        HERE,
        NOBODY,
        {"second controller sd1": "own/0 is a disk of this controller, which nobody else reaches"},
    ),
    "blocks of two sizes": Scenario(
        SD1,
        VAULT,
        HERE,
        NOBODY,
        {
            f"second controller {name}": "blocks of 512 and of 4096 bytes: only this controller "
            "converts"
            for name in ("sd1", "vault")
        },
        BOTH_ABLE,
        devices={**ALL, VAULT: address(VAULT, block_size=4096)},
    ),
    "no NAA designator": Scenario(
        SD1,
        SD1B,
        HERE,
        NOBODY,
        {"second controller sd1": "sd1/1 shows no NAA identifier to name it by"},
        devices={**ALL, SD1B: address(SD1B, designators=(T10,))},
    ),
    "two LUs with one designator": Scenario(
        SD1,
        SD1B,
        HERE,
        NOBODY,
        {"second controller sd1": "sd1/0 and sd1/1 show the same identifier"},
        devices={**ALL, SD1B: address(SD1B, designators=(naa(SD1),))},
    ),
    "a receiving LU without third-party copy": Scenario(
        SD1,
        VAULT,
        HERE,
        NOBODY,
        {"second controller sd1": "its LU sd1/0 announces no third-party copy (3PC = 0)"}
        | {"second controller vault": "cannot do direct backup (probed): 3PC = 0"},
        devices={**ALL, SD1: address(SD1, third_party_copy=False)},
    ),
    "the other LU without third-party copy": Scenario(
        SD1,
        SD1B,
        HERE,
        NOBODY,
        {"second controller sd1": "its LU sd1/1 announces no third-party copy (3PC = 0)"},
        devices={**ALL, SD1B: address(SD1B, third_party_copy=False)},
    ),
    "no segment of the type needed": Scenario(
        SD1,
        SD1B,
        HERE,
        NOBODY,
        {"second controller sd1": "its copy commands take no disk to disk segment (type 02h)"},
        table({"sd1": can(replace(LIO, segment_types=(0x00,)))}),
    ),
    "no room for two LUs": Scenario(
        SD1,
        SD1B,
        HERE,
        NOBODY,
        {"second controller sd1": "its limits leave no room for a segment between two LUs"},
        table({"sd1": can(replace(LIO, max_cscds=1))}),
    ),
    "no room for a list": Scenario(
        SD1,
        SD1B,
        HERE,
        NOBODY,
        {"second controller sd1": "its limit of 91 bytes a command leaves no room for a segment"},
        table({"sd1": can(replace(LIO, max_list_bytes=91))}),
    ),
    "identifiers not taken": Scenario(
        SD1,
        SD1B,
        HERE,
        NOBODY,
        {
            "second controller sd1": "its copy commands do not take sd1/0's identifier (CSCD "
            "type E4h)"
        },
        table({"sd1": can(replace(LIO, cscd_types=(0xE6,)))}),
    ),
    "another's LU that cannot be named": Scenario(
        SD1,
        VAULT,
        HERE,
        NOBODY,
        {"second controller sd1": "vault/0 shows no NAA identifier to name it by"}
        | {"second controller vault": "cannot do direct backup (probed): 3PC = 0"},
        table({"sd1": can(LIO), "vault": cannot("3PC = 0")}, {("sd1", "vault"): reaches()}),
        devices={**ALL, VAULT: address(VAULT, designators=())},
    ),
    "failed push falls back to pull": Scenario(
        SD1,
        VAULT,
        "second controller vault",
        "vault owns the destination, can do direct backup (probed) and reaches sd1/0 (probed)",
        {"second controller sd1": "it failed: COPY ABORTED, 0D/02", HERE: NOT_NEEDED},
        BOTH_ABLE,
        excluded={second("sd1"): "COPY ABORTED, 0D/02"},
    ),
    "failed delegation falls back to here": Scenario(
        SD1,
        SD1B,
        HERE,
        "no controller that owns the data is left that can do it",
        {"second controller sd1": "it failed: connection lost"},
        excluded={second("sd1"): "connection lost"},
    ),
    "failed here, delegated": Scenario(
        SD1,
        SD1B,
        "second controller sd1",
        f"sd1 owns the source and the destination and {SD1_DOES}",
        {HERE: "it failed: medium error"},
        excluded={THIS_CONTROLLER: "medium error"},
    ),
}


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS.keys())
def test_choice_of_an_executor(scenario: Scenario) -> None:
    step = only(
        plan(
            raw(scenario.source),
            raw(
                scenario.destination,
                block_size=scenario.devices[scenario.destination].block_size,
            ),
            blocks=800,
            functions=scenario.functions,
            mode=scenario.mode,
            devices=scenario.devices,
            excluded=scenario.excluded,
        )
    )
    assert str(step.executor) == scenario.executor
    assert step.reason == scenario.reason
    assert {str(executor): reason for executor, reason in step.rejected} == scenario.rejected


def test_chosen_executor_is_never_among_the_rejected() -> None:
    for scenario in SCENARIOS.values():
        assert scenario.executor not in scenario.rejected


def test_volume_over_able_and_unable_controllers_is_split() -> None:
    alpha = place("alpha", (SD1, 100, 300), (SD2, 0, 200), (SD1B, 7, 500))
    made = plan(alpha, raw(VAULT, 2000), destination_lba=50)
    assert [(step.source, step.destination, str(step.executor)) for step in made.steps] == [
        (Piece(SD1, 100, 300), Piece(VAULT, 50, 300), "second controller sd1"),
        (Piece(SD2, 0, 200), Piece(VAULT, 350, 200), "this controller"),
        (Piece(SD1B, 7, 500), Piece(VAULT, 550, 500), "second controller sd1"),
    ]
    assert made.blocks == 1000
    assert made.delegated_blocks == 800


def test_extents_that_follow_one_another_on_a_device_make_one_step() -> None:
    alpha = place("alpha", (SD1, 100, 300), (SD1, 400, 50), (SD1, 460, 1))
    made = plan(alpha, raw(VAULT))
    assert [step.source for step in made.steps] == [Piece(SD1, 100, 350), Piece(SD1, 460, 1)]


def test_destination_edges_cut_too() -> None:
    made = plan(raw(SD1, 100), place("gamma", (VAULT, 5, 30), (SD1B, 0, 30), (VAULT, 900, 40)))
    assert [(step.source.blocks, step.destination) for step in made.steps] == [
        (30, Piece(VAULT, 5, 30)),
        (30, Piece(SD1B, 0, 30)),
        (40, Piece(VAULT, 900, 40)),
    ]


def test_steps_keep_the_number_of_the_segment_that_they_come_from() -> None:
    alpha, vault = place("alpha", (SD1, 0, 10), (SD2, 0, 10)), raw(VAULT)
    asked = [
        RequestedSegment(alpha, 0, vault, 0, 20),
        RequestedSegment(alpha, 0, vault, 20, 0),
        RequestedSegment(alpha, 5, vault, 40, 3),
    ]
    made = decide(Function.VOLUME_COPY, asked, ABLE, Mode.DELEGATE, directory=ALL)
    assert [step.segment for step in made.steps] == [0, 0, 2]
    numbered = [replace(segment, number=10 + n) for n, segment in enumerate(asked)]
    made = decide(Function.VOLUME_COPY, numbered, ABLE, Mode.DELEGATE, directory=ALL)
    assert [step.segment for step in made.steps] == [10, 10, 12]
    assert "can do volume copy (probed)" in made.steps[0].reason


def test_blocks_of_another_size_are_counted_in_the_destinations() -> None:
    devices = {**ALL, VAULT: address(VAULT, block_size=4096)}
    vault = raw(VAULT, 100, block_size=4096)
    made = plan(place("alpha", (SD1, 8, 16), (SD2, 0, 8)), vault, devices=devices)
    assert [(step.source, step.destination) for step in made.steps] == [
        (Piece(SD1, 8, 16), Piece(VAULT, 0, 2)),
        (Piece(SD2, 0, 8), Piece(VAULT, 2, 1)),
    ]


REFUSALS = {
    "source beyond the end": (
        RequestedSegment(raw(SD1, 100), 90, raw(VAULT), 0, 11),
        RangeOutsidePlace,
        "11 blocks from block 90 reach outside sd1/0, which has 100 blocks",
    ),
    "destination beyond the end": (
        RequestedSegment(raw(SD1), 0, raw(VAULT, 100), 90, 11),
        RangeOutsidePlace,
        "11 blocks from block 90 reach outside vault/0, which has 100 blocks",
    ),
    "overlap upwards": (
        RequestedSegment(raw(SD1), 0, raw(SD1), 9, 10),
        RangesOverlap,
        "source and destination overlap: 10 blocks from block 0 of sd1/0",
    ),
    "overlap downwards": (
        RequestedSegment(raw(SD1), 9, raw(SD1), 0, 10),
        RangesOverlap,
        "source and destination overlap: 10 blocks from block 9 of sd1/0",
    ),
    "onto itself": (
        RequestedSegment(raw(SD1), 5, raw(SD1), 5, 1),
        RangesOverlap,
        "source and destination overlap: 1 blocks from block 5 of sd1/0",
    ),
    "overlap of a volume and the device under it": (
        RequestedSegment(place("alpha", (SD2, 0, 50), (SD1, 200, 50)), 0, raw(SD1), 150, 100),
        RangesOverlap,
        "source and destination overlap: 50 blocks from block 200 of sd1/0",
    ),
    "no whole number of blocks": (
        RequestedSegment(raw(SD1), 0, raw(VAULT, 100, block_size=4096), 0, 12),
        InexactSegment,
        "12 blocks of 512 bytes are no whole number of blocks of 4096 bytes",
    ),
    "an extent that ends inside a block": (
        RequestedSegment(
            place("alpha", (SD1, 0, 4), (SD2, 0, 4)), 0, raw(VAULT, 100, block_size=4096), 0, 8
        ),
        InexactSegment,
        "an extent ends inside a block: alpha has blocks of 512 bytes, vault/0 of 4096",
    ),
}


@pytest.mark.parametrize(("segment", "kind", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_what_nobody_can_do_is_refused_before_anything_starts(
    segment: RequestedSegment, kind: type[Undecidable], message: str
) -> None:
    good = RequestedSegment(raw(SD1), 0, raw(VAULT), 0, 1)
    with pytest.raises(kind, match=message) as refusal:
        decide(Function.VOLUME_COPY, [good, segment], ABLE, Mode.DELEGATE, directory=ALL)
    assert refusal.value.segment == 1


@pytest.mark.parametrize(("side", "at_source"), [("source", True), ("destination", False)])
def test_range_outside_says_which_side(side: str, at_source: bool) -> None:
    with pytest.raises(RangeOutsidePlace) as refusal:
        plan(raw(SD1), raw(VAULT), **{f"{side}_lba": 999}, blocks=2)
    assert refusal.value.at_source is at_source


def test_copy_within_one_lu_without_overlap_is_delegated() -> None:
    step = only(plan(raw(SD1), raw(SD1), blocks=10, destination_lba=10))
    assert step.executor == second("sd1")


def test_nobody_left_says_what_became_of_each() -> None:
    with pytest.raises(NoExecutorLeft) as refusal:
        plan(
            raw(SD1),
            raw(SD2),
            excluded={THIS_CONTROLLER: "medium error at block 7", second("sd1"): "refused"},
        )
    assert str(refusal.value) == (
        "nobody is left to copy sd1/0 to sd2/0: this controller: medium error at block 7; "
        "second controller sd1: it failed: refused; second controller sd2: cannot do direct "
        "backup (probed): no third-party copy"
    )


def test_later_step_that_touches_the_same_blocks_must_follow() -> None:
    def step(source: Piece, destination: Piece) -> Step:
        return Step(source, destination, THIS_CONTROLLER, "")

    first = step(Piece(SD1, 0, 10), Piece(VAULT, 100, 10))
    assert step(Piece(VAULT, 109, 1), Piece(SD2, 0, 1)).must_follow(first)
    assert step(Piece(SD2, 0, 1), Piece(VAULT, 100, 1)).must_follow(first)
    assert step(Piece(SD2, 0, 1), Piece(SD1, 9, 1)).must_follow(first)
    assert not step(Piece(SD1, 0, 10), Piece(VAULT, 110, 10)).must_follow(first)
    assert not step(Piece(SD1B, 0, 10), Piece(SD2, 100, 10)).must_follow(first)


runs = st.lists(
    st.tuples(st.sampled_from([SD1, SD1B, SD2, OWN]), st.integers(0, 500), st.integers(1, 50)),
    min_size=1,
    max_size=12,
)


@given(runs, st.data())
def test_steps_cover_the_request_exactly_once_whoever_does_them(
    found: list[tuple[DeviceId, int, int]], data: st.DataObject
) -> None:
    alpha = place("alpha", *found)
    gamma = place("gamma", (VAULT, 300, 400), (OWN2, 0, 5), (VAULT, 0, 250))
    first = data.draw(st.integers(0, alpha.blocks))
    blocks = data.draw(st.integers(0, min(alpha.blocks - first, gamma.blocks)))
    onto = data.draw(st.integers(0, gamma.blocks - blocks))
    failed = data.draw(st.sampled_from([{}, {second("sd1"): "it broke"}]))
    mode = data.draw(st.sampled_from(list(Mode)))
    made = plan(
        alpha,
        gamma,
        source_lba=first,
        destination_lba=onto,
        blocks=blocks,
        mode=mode,
        excluded=failed,
    )

    def spelled_out(place: Place, lba: int) -> list[tuple[DeviceId, int]]:
        return [place.table.locate(lba + offset)[:2] for offset in range(blocks)]

    expected = list(zip(spelled_out(alpha, first), spelled_out(gamma, onto), strict=True))
    assert [
        (
            (step.source.device, step.source.lba + n),
            (step.destination.device, step.destination.lba + n),
        )
        for step in made.steps
        for n in range(step.source.blocks)
    ] == expected
    for step in made.steps:
        assert step.source.blocks == step.destination.blocks > 0
        assert step.reason
        _check_executor(step, mode, failed)


def _check_executor(step: Step, mode: Mode, failed: dict[Executor, str]) -> None:
    """Whoever was chosen may do it, and whoever else could have been is among the rejected."""
    if mode is not Mode.DELEGATE or failed or step.source.device not in (SD1, SD1B):
        assert step.executor == THIS_CONTROLLER
    elif step.destination.device == VAULT:
        assert step.executor == second("sd1")
    owners = {piece.device.backend for piece in (step.source, step.destination)}
    candidates = {second(name) for name in owners - {"own", "own2"}} | {THIS_CONTROLLER}
    assert {step.executor, *(rejection.executor for rejection in step.rejected)} == candidates
    assert all(isinstance(rejection, Rejection) and rejection.reason for rejection in step.rejected)
