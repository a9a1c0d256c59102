"""Second commands to one back end: in turns, with identifiers, aliases and further tries."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from copy_rig import GENEROUS, QUICK, FakeController, Reply, Rig
from daiko.command_control.generation import SecondCommand, generate
from daiko.command_control.plan import Executor, ExecutorKind, Step
from daiko.copy_manager.failure import Verdict
from daiko.copy_manager.halt import Halt, HaltReason
from daiko.copy_manager.lane import GOOD_TO_WIDEN, CommandFailed, Halted, Lane
from daiko.copy_manager.settings import Retries
from daiko.device.error import Unreachable
from daiko.mapping.extent import DeviceId, Piece
from daiko.scsi.copy_parameters import ExtendedCopy
from daiko.scsi.opcode import Status
from daiko.scsi.sense import copy_target_not_reachable, invalid_opcode

SD1 = Executor(ExecutorKind.SECOND_CONTROLLER, "sd1")
WITH_IDS = replace(GENEROUS, no_list_id=False)


@pytest.fixture
def rig() -> Rig:
    rig = Rig()
    rig.attach("sd1", 256)
    rig.attach("vault", 256)
    return rig


def _command(rig: Rig, lba: int = 0, limits: object = GENEROUS) -> SecondCommand:
    step = Step(Piece(DeviceId("sd1", 0), lba, 8), Piece(DeviceId("vault", 0), lba, 8), SD1, "")
    (command,) = generate([step], rig.directory(), limits)  # type: ignore[arg-type]
    return command


def _lane(rig: Rig, limits: object = GENEROUS) -> tuple[Lane, FakeController]:
    sd1 = rig.controllers["sd1"]
    return Lane(sd1, limits, QUICK), sd1  # type: ignore[arg-type]


async def test_no_more_commands_are_sent_at_a_time_than_the_back_end_works_on(rig: Rig) -> None:
    lane, sd1 = _lane(rig)
    sd1.gate = asyncio.Event()
    commands = [
        asyncio.ensure_future(lane.carry_out(_command(rig, 8 * n), QUICK.retries, Halt()))
        for n in range(20)
    ]
    for _ in range(50):
        await asyncio.sleep(0)
    assert sd1.in_flight == GENEROUS.concurrent
    sd1.gate.set()
    await asyncio.gather(*commands)
    assert len(sd1.received) == 20
    assert sd1.most_in_flight == GENEROUS.concurrent


async def test_a_command_is_allowed_the_time_that_a_slow_array_takes_for_its_bytes() -> None:
    rig = Rig()
    gib = 1 << 30
    rig.attach("sd1", 8 * gib // 512)
    rig.attach("vault", 8 * gib // 512)
    step = Step(
        Piece(DeviceId("sd1", 0), 0, 8 * gib // 512),
        Piece(DeviceId("vault", 0), 0, 8 * gib // 512),
        SD1,
        "",
    )
    limits = replace(GENEROUS, max_segments=512, max_list_bytes=0)
    (command,) = generate([step], rig.directory(), limits, command_bytes=8 * gib)
    lane, sd1 = _lane(rig)
    sd1.script = lambda _: Reply(Status.GOOD)
    await lane.carry_out(command, QUICK.retries, Halt())
    (allowed,) = sd1.allowed
    assert allowed is not None
    assert allowed >= lane.width * 8 * gib / (4 << 20)


async def test_a_small_command_is_allowed_three_minutes_and_little_more(rig: Rig) -> None:
    lane, sd1 = _lane(rig)
    await lane.carry_out(_command(rig), QUICK.retries, Halt())
    (allowed,) = sd1.allowed
    assert allowed is not None
    assert 180 <= allowed < 181


async def test_running_commands_carry_different_identifiers(rig: Rig) -> None:
    lane, sd1 = _lane(rig, WITH_IDS)
    at_once: list[set[int]] = []
    running: set[int] = set()

    def note(copy: ExtendedCopy) -> None:
        assert copy.list_id not in running
        running.add(copy.list_id)
        at_once.append(set(running))

    sd1.script = note

    async def carry_out(lba: int) -> None:
        await lane.carry_out(_command(rig, lba, WITH_IDS), QUICK.retries, Halt())
        running.clear()

    await asyncio.gather(*(carry_out(8 * n) for n in range(10)))
    assert all(0 < list_id < 256 for ids in at_once for list_id in ids)


async def test_an_alias_is_set_once_for_a_nexus_and_anew_for_the_next(rig: Rig) -> None:
    lane, sd1 = _lane(rig)
    for lba in (0, 8):
        await lane.carry_out(_command(rig, lba), QUICK.retries, Halt())
    assert sd1.alias_commands == 1
    sd1.lose_nexus()
    await lane.carry_out(_command(rig, 16), QUICK.retries, Halt())
    assert sd1.alias_commands == 2


async def test_a_refusal_after_the_aliases_were_lost_under_way_is_tried_again(rig: Rig) -> None:
    lane, sd1 = _lane(rig)
    lost = False

    def lose(_: ExtendedCopy) -> Reply | None:
        nonlocal lost
        if lost:
            return None
        lost = True
        sd1.lose_nexus()
        return Reply(Status.CHECK_CONDITION, sense=copy_target_not_reachable(0).fixed())

    sd1.script = lose
    await lane.carry_out(_command(rig), QUICK.retries, Halt())
    assert (sd1.alias_commands, len(sd1.received)) == (2, 2)


async def test_a_refused_alias_list_is_the_commands_failure(rig: Rig) -> None:
    lane, sd1 = _lane(rig)
    execute = sd1.execute

    async def refuse(lun: int, cdb: bytes, *rest: object, **named: object) -> Reply:
        if cdb[0] == 0xA4:
            return Reply(Status.CHECK_CONDITION, sense=invalid_opcode().fixed())
        return await execute(lun, cdb, *rest, **named)  # type: ignore[arg-type]

    sd1.execute = refuse  # type: ignore[method-assign,assignment]
    with pytest.raises(
        CommandFailed, match="CHANGE ALIASES: it answered ILLEGAL REQUEST"
    ) as failed:
        await lane.carry_out(_command(rig), QUICK.retries, Halt())
    assert failed.value.failure.verdict is Verdict.FALL_BACK
    assert sd1.received == []


async def test_a_back_end_that_is_full_with_several_gets_one_at_a_time(rig: Rig) -> None:
    lane, sd1 = _lane(rig)

    def full(_: ExtendedCopy) -> Reply | None:
        return Reply(Status.TASK_SET_FULL) if sd1.in_flight > 1 else None

    sd1.script = full
    patient = Retries((0.0,) * 100)
    await asyncio.gather(
        *(lane.carry_out(_command(rig, 8 * n), patient, Halt()) for n in range(GOOD_TO_WIDEN))
    )
    assert lane.width <= 2, "it was narrowed, and has just begun to widen"


async def test_further_tries_are_bounded(rig: Rig) -> None:
    lane, sd1 = _lane(rig)
    sd1.script = lambda _: Reply(Status.BUSY)
    with pytest.raises(CommandFailed) as failed:
        await lane.carry_out(_command(rig), Retries((0.0, 0.0)), Halt())
    assert failed.value.failure.verdict is Verdict.TRY_AGAIN
    assert len(sd1.received) == 3


async def test_a_lost_connection_is_not_tried_again_here(rig: Rig) -> None:
    lane, sd1 = _lane(rig)
    sd1.script = lambda _: Unreachable("gone")
    with pytest.raises(CommandFailed) as failed:
        await lane.carry_out(_command(rig), QUICK.retries, Halt())
    assert failed.value.failure.verdict is Verdict.UNKNOWN
    assert len(sd1.received) == 1


async def test_a_halt_keeps_back_what_was_not_sent(rig: Rig) -> None:
    lane, sd1 = _lane(rig)
    halt = Halt()
    halt.request(HaltReason.CANCEL)
    with pytest.raises(Halted):
        await lane.carry_out(_command(rig), QUICK.retries, halt)
    assert sd1.received == []


async def test_a_command_that_is_cancelled_while_it_waits_gives_up_its_turn(rig: Rig) -> None:
    lane, sd1 = _lane(rig)
    lane.width = 1
    sd1.gate = asyncio.Event()
    commands = [
        asyncio.ensure_future(lane.carry_out(_command(rig, 8 * n), QUICK.retries, Halt()))
        for n in range(3)
    ]
    await sd1.arrived.wait()
    commands[1].cancel()
    with pytest.raises(asyncio.CancelledError):
        await commands[1]
    sd1.gate.set()
    await asyncio.gather(commands[0], commands[2])
    assert len(sd1.received) == 2


async def test_lane_that_was_narrowed_widens_again_with_what_ends_well(rig: Rig) -> None:
    lane, sd1 = _lane(rig)
    widest = lane.width
    assert widest > 1
    lane.width = 1
    for wanted in range(2, widest + 1):
        for _ in range(GOOD_TO_WIDEN):
            assert lane.width == wanted - 1
            await lane.carry_out(_command(rig), QUICK.retries, Halt())
        assert lane.width == wanted
    for _ in range(2 * GOOD_TO_WIDEN):
        await lane.carry_out(_command(rig), QUICK.retries, Halt())
    assert lane.width == widest
    assert sd1.most_in_flight == 1
