"""Where administrators reach the controller, as hosts are told."""

from __future__ import annotations

import pytest

from daiko.control import management, volumes
from daiko.control.apply import apply_document
from daiko.control.document import Document
from daiko.control.error import Invalid
from daiko.control.system import System
from daiko.scsi import spc
from daiko.scsi.opcode import Status
from daiko.scsi.target_page import parse_management_addresses
from daiko.state.record import ExtentRecord, HostRecord
from target.fake import Host

URL = "https://daiko.example.com:3261"
INQUIRY = spc.Inquiry.pack(evpd=1, page_code=0x85, allocation_length=255)


async def host_of(system: System) -> Host:
    await volumes.create_by_hand(system, "alpha", [ExtentRecord(device="a/0", lba=0, blocks=64)])
    await system.store.put(HostRecord(name="h", initiators=("*",), luns={0: "alpha"}))
    host = Host(system.access)
    host.run(bytes(6))  # the unit attention of a new host
    return host


async def test_hosts_are_told_the_url_at_once(system: System) -> None:
    host = await host_of(system)
    assert host.run(INQUIRY).condition == (0x5, 0x24, 0x00)
    assert await management.set_urls(system, [URL, URL]) == (URL,)
    assert host.run(bytes(6)).condition == (0x6, 0x3F, 0x03)
    assert parse_management_addresses(host.run(INQUIRY).data_in) == ((2, 1, URL),)
    assert await management.set_urls(system, []) == ()
    assert host.run(INQUIRY).status == Status.CHECK_CONDITION


async def test_url_is_part_of_the_document_and_survives_a_round(system: System) -> None:
    host = await host_of(system)
    await management.set_urls(system, [URL])
    document = Document.parse(Document.of(system.store).text())
    assert document.system.management_urls == (URL,)
    await management.set_urls(system, [])
    assert [action.detail for action in await apply_document(system, document)] != []
    assert system.record.management_urls == (URL,)
    assert await apply_document(system, document) == ()
    assert parse_management_addresses(host.run(INQUIRY).data_in) == ((2, 1, URL),)


@pytest.mark.parametrize(
    ("urls", "said"),
    [
        (["ftp://a"], "no management URL"),
        (["daiko.example.com"], "no management URL"),
        (["https://"], "no management URL"),
        (["https://ü.example"], "no management URL"),
        (["https://a b"], "no management URL"),
        (["https://[::1"], "no management URL"),
        (["https://admin:secret@a"], "login"),
        (["https://" + "a" * 300], "longer than 255"),
        ([f"https://{n}" for n in range(9)], "more than the 8"),
    ],
)
async def test_what_is_no_url_is_refused_and_changes_nothing(
    system: System, urls: list[str], said: str
) -> None:
    with pytest.raises(Invalid, match=said) as refused:
        await management.set_urls(system, urls)
    assert "secret" not in str(refused.value)
    assert system.record.management_urls == ()
