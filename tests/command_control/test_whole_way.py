"""Decision and generation together, on the contents: a host's command, planned, turned into second
commands and own steps, each carried out from its bytes, leaves what the host asked for and nothing
else. The executors here are as simple as they can be: they read the list and copy block by block.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from command_control.situation import (
    DAIKO,
    LIO,
    SCST,
    address,
    can,
    cannot,
    directory,
    naa,
    reaches,
    second,
    table,
)
from daiko.command_control.decision import Place, RequestedSegment, decide
from daiko.command_control.function_table import CopyLimits
from daiko.command_control.generation import SecondCommand, generate
from daiko.command_control.naming import DeviceAddress
from daiko.command_control.plan import Function, Mode, Step
from daiko.mapping.extent import DeviceId, Extent
from daiko.mapping.mapping_table import MappingTable
from daiko.scsi.copy_parameters import ExtendedCopy, ListIdUsage, parse_extended_copy
from daiko.scsi.cscd import AliasCscd, Cscd, IdentificationCscd
from daiko.scsi.report import lun_field
from daiko.scsi.segment import BlockToBlock
from daiko.scsi.vpd import Designator

ABLE, ABLE_TOO, UNABLE, VAULT = (
    DeviceId.parse(text) for text in ("lio/0", "daiko/1", "tgt/0", "vault/0")
)
ALL = directory(*map(address, (ABLE, ABLE_TOO, UNABLE, VAULT)), address(DeviceId("own", 0), iqn=""))
LIMITS: dict[str, CopyLimits] = {"lio": LIO, "daiko": DAIKO, "vault": SCST}
SIZE = 400

Contents = dict[DeviceId, list[str]]
"""Each block of each device holds a word."""


def virtual(name: str, runs: list[tuple[DeviceId, int]]) -> Place:
    """A volume whose extents never share a block: each takes the next of its device."""
    taken: dict[DeviceId, int] = {}
    extents, at = [], 0
    for device, blocks in runs:
        extents.append(Extent(at, blocks, device, taken.get(device, 0)))
        taken[device] = taken.get(device, 0) + blocks
        at += blocks
    return Place(name, 512, at, MappingTable(extents))


alphas = st.lists(
    st.tuples(st.sampled_from(list(ALL)), st.integers(1, 20)), min_size=1, max_size=12
).map(lambda runs: virtual("alpha", [run for run in runs if run[0] != VAULT] or [(ABLE, 9)]))

BETA = Place(
    "beta",
    512,
    300,
    MappingTable([Extent(0, 100, VAULT, 250), Extent(100, 200, VAULT, 0)]),
)


@given(st.data(), alphas)
def test_host_command_is_carried_out_exactly(data: st.DataObject, alpha: Place) -> None:
    able = data.draw(st.sets(st.sampled_from(sorted(LIMITS))))
    functions = table(
        {name: can(LIMITS[name]) if name in able else cannot("told so") for name in LIMITS},
        {(name, "vault"): reaches() for name in ("lio", "daiko")},
    )
    host, asked = draw_host_command(data, alpha)
    plan = decide(
        Function.VOLUME_COPY,
        asked,
        functions,
        data.draw(st.sampled_from([Mode.DELEGATE, Mode.DELEGATE, Mode.DIRECT])),
        directory=ALL,
        excluded=data.draw(st.sampled_from([{}, {second("daiko"): "it broke"}])),
    )
    found, expected = fresh(), fresh()
    for segment in asked:
        ask_of(expected, segment)
    for step in plan.steps:
        carry_out(found, step, host)
    assert found == expected


def draw_host_command(
    data: st.DataObject, alpha: Place
) -> tuple[ExtendedCopy, list[RequestedSegment]]:
    asked = []
    for _ in range(data.draw(st.integers(1, 3))):
        blocks = data.draw(st.integers(0, min(alpha.blocks, BETA.blocks)))
        from_lba = data.draw(st.integers(0, alpha.blocks - blocks))
        to_lba = data.draw(st.integers(0, BETA.blocks - blocks))
        asked.append(RequestedSegment(alpha, from_lba, BETA, to_lba, blocks))
    names = [Designator.naa(bytes.fromhex("6" + "0" * 30 + digit)) for digit in "12"]
    host = ExtendedCopy(
        9,
        ListIdUsage.DISCARD,
        tuple(map(IdentificationCscd, names)),
        tuple(
            BlockToBlock(0, 1, each.blocks, each.source_lba, each.destination_lba) for each in asked
        ),
    )
    return host, asked


def fresh() -> Contents:
    return {device: [f"{device}:{lba}" for lba in range(SIZE)] for device in ALL}


def ask_of(contents: Contents, segment: RequestedSegment) -> None:
    """What the host wants, block by block through the mapping."""
    for n in range(segment.blocks):
        source, lba, _ = segment.source.table.locate(segment.source_lba + n)
        destination, at, _ = segment.destination.table.locate(segment.destination_lba + n)
        contents[destination][at] = contents[source][lba]


def carry_out(contents: Contents, step: Step, host: ExtendedCopy) -> None:
    if not step.executor.delegated:
        source, destination = step.source, step.destination
        for n in range(source.blocks):
            word = contents[source.device][source.lba + n]
            contents[destination.device][destination.lba + n] = word
        return
    for command in generate([step], ALL, LIMITS[step.executor.name], host):
        assert command.backend == step.executor.name
        execute(contents, command)


def execute(contents: Contents, command: SecondCommand) -> None:
    """A second controller: it knows LUs by identifier, and by the aliases that it was told."""
    sent = parse_extended_copy(command.parameter_list)
    targets = {alias.value: alias.name for alias in command.aliases}

    def is_named(candidate: DeviceAddress, cscd: Cscd | None) -> bool:
        if isinstance(cscd, AliasCscd):
            named = (targets[cscd.alias], cscd.lun)
            return named == (candidate.iqn, lun_field(candidate.lun))
        assert isinstance(cscd, IdentificationCscd)
        return cscd.designator.data == naa(candidate.device)[4:]

    def device(cscd_id: int) -> DeviceId:
        (found,) = [each.device for each in ALL.values() if is_named(each, sent.cscd(cscd_id))]
        return found

    own = DeviceId(command.backend, command.lun)
    for segment in sent.segments:
        assert isinstance(segment, BlockToBlock)
        source, destination = device(segment.source), device(segment.destination)
        assert own in (source, destination)
        for n in range(segment.blocks):
            word = contents[source][segment.source_lba + n]
            contents[destination][segment.destination_lba + n] = word
