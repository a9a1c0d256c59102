"""Who is chosen where a device lies at another site."""

from __future__ import annotations

from dataclasses import replace

from command_control.situation import DAIKO, address, can, directory, raw, reaches, second, table
from daiko.command_control.decision import Place, RequestedSegment, decide
from daiko.command_control.naming import Directory
from daiko.command_control.plan import THIS_CONTROLLER, Function, Mode, Plan, Rejection
from daiko.mapping.extent import DeviceId

SD1, SD2, OWN, THEIRS = (DeviceId(name, 0) for name in ("sd1", "sd2", "own", "osaka:sd7"))
ALL = directory(address(SD1), address(SD2), address(OWN, iqn=""))
REACHING = table({"sd1": can(DAIKO), "osaka:sd7": can(DAIKO)}, {("sd1", "osaka:sd7"): reaches()})


def plan(source: Place, destination: Place, devices: Directory) -> Plan:
    segment = RequestedSegment(source, 0, destination, 0, source.blocks)
    return decide(Function.DIRECT_BACKUP, [segment], REACHING, Mode.DELEGATE, directory=devices)


def far(device: DeviceId, **changes: str) -> Directory:
    """The devices of this site, and one whose controller takes its commands from another site."""
    theirs = replace(address(device), **{"commander": "site osaka", **changes})
    return directory(*ALL.values(), theirs)


def test_owner_of_the_source_copies_to_a_device_of_another_site() -> None:
    (step,) = plan(raw(SD1), raw(THEIRS), far(THEIRS)).steps
    assert step.executor == second("sd1")
    assert "reaches osaka:sd7/0" in step.reason


def test_only_its_own_site_gives_a_controller_commands() -> None:
    (step,) = plan(raw(SD2), raw(THEIRS), far(THEIRS)).steps
    assert step.executor == THIS_CONTROLLER
    assert Rejection(second("osaka:sd7"), "only site osaka gives it commands") in step.rejected


def test_device_that_is_withheld_is_named_to_nobody() -> None:
    devices = far(THEIRS, withheld="nobody has seen what it is")
    (step,) = plan(raw(SD1), raw(THEIRS), devices).steps
    assert step.executor == THIS_CONTROLLER
    assert Rejection(second("sd1"), "nobody has seen what it is") in step.rejected
    disk = far(THEIRS, withheld="a disk of that site", commander="", iqn="", portals=())
    (step,) = plan(raw(OWN), raw(THEIRS), disk).steps
    assert (step.executor, step.reason) == (THIS_CONTROLLER, "a disk of that site")
