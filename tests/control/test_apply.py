"""Making a system match a document."""

from __future__ import annotations

import asyncio
import socket
import textwrap
from pathlib import Path

import pytest

from daiko.command_control.function_table import Known
from daiko.command_control.plan import Function, Mode
from daiko.control.apply import Action, Verb, apply, export
from daiko.control.error import Conflict, ControlError, Invalid, NotFound, Unavailable
from daiko.control.system import System
from daiko.state.record import BackendRecord, HostRecord, PortalGroupRecord, VolumeRecord
from daiko.state.sqlite import SqliteStore
from processes import free_port

from .conftest import disk, initial_record


def document(tmp_path: Path, more: str = "") -> str:
    for name in ("c", "d"):
        if not (tmp_path / f"{name}.img").exists():
            disk(tmp_path, name, 8192)
    return textwrap.dedent(f"""
        [backend.c]
        path = "{tmp_path}/c.img"
        [backend.d]
        path = "{tmp_path}/d.img"
        [volume.alpha]
        extents = [{{ device = "c/0", lba = 0, blocks = 100 }}]
        [volume.beta]
        size = "1MiB"
        from = ["d/0"]
        [host.h1]
        initiators = ["iqn.2026-11.com.example:h1"]
        luns = {{ 0 = "alpha", 1 = "beta" }}
        """) + textwrap.dedent(more)


@pytest.fixture
async def bare(store: SqliteStore) -> object:
    system = await System.start(store)
    yield system
    await system.stop()


async def test_document_is_made_true_and_applying_again_changes_nothing(
    bare: System, tmp_path: Path
) -> None:
    text = document(tmp_path)
    done = await apply(bare, text)
    assert [(action.verb, action.kind, action.name) for action in done] == [
        (Verb.ADD, "backend", "c"),
        (Verb.ADD, "backend", "d"),
        (Verb.ADD, "volume", "alpha"),
        (Verb.ADD, "volume", "beta"),
        (Verb.ADD, "host", "h1"),
    ]
    assert bare.place("alpha").blocks == 100
    assert bare.place("beta").blocks == 2048
    before = bare.store.list(VolumeRecord)
    assert await apply(bare, text) == ()
    assert bare.store.list(VolumeRecord) == before


async def test_dry_run_says_the_same_and_does_nothing(bare: System, tmp_path: Path) -> None:
    text = document(tmp_path)
    would = await apply(bare, text, dry_run=True)
    assert bare.store.list(BackendRecord) == ()
    assert await apply(bare, text) == would


async def test_export_makes_the_same_system_elsewhere_with_the_same_identities(
    bare: System, tmp_path: Path
) -> None:
    await apply(
        bare,
        document(
            tmp_path,
            """
            [[function]]
            backend = "c"
            function = "direct-backup"
            can = false
            reason = "by \\"hand\\""
            [[reach]]
            backend = "c"
            device = "d/0"
            can = true
            reason = "same cable"
            """,
        ),
    )
    text = export(bare)
    assert await apply(bare, text) == ()
    await bare.stop()
    other_store = SqliteStore.open(tmp_path / "other")
    await other_store.put(initial_record())
    other = await System.start(other_store)
    await apply(other, text)
    assert export(other) == text
    identities = {record.name: record.naa for record in other_store.list(VolumeRecord)}
    assert identities == {record.name: record.naa for record in bare.store.list(VolumeRecord)}
    cell = other.function_table().function("c", Function.DIRECT_BACKUP)
    assert cell is not None
    assert (cell.can, cell.known, cell.reason) == (False, Known.DECLARED, 'by "hand"')
    await other.stop()
    await other_store.close()


async def test_what_is_not_in_the_document_is_removed(bare: System, tmp_path: Path) -> None:
    await apply(bare, document(tmp_path))
    done = await apply(bare, "")
    assert [(action.verb, action.kind, action.name) for action in done] == [
        (Verb.REMOVE, "host", "h1"),
        (Verb.REMOVE, "volume", "alpha"),
        (Verb.REMOVE, "volume", "beta"),
        (Verb.REMOVE, "backend", "c"),
        (Verb.REMOVE, "backend", "d"),
    ]
    for kind in (BackendRecord, VolumeRecord, HostRecord):
        assert bare.store.list(kind) == ()


async def test_without_prune_what_is_not_in_the_document_stays(
    bare: System, tmp_path: Path
) -> None:
    await apply(bare, document(tmp_path))
    assert await apply(bare, "", prune=False) == ()
    assert len(bare.store.list(VolumeRecord)) == 2


async def test_volume_is_removed_in_the_same_application_that_takes_it_from_its_host(
    bare: System, tmp_path: Path
) -> None:
    await apply(bare, document(tmp_path))
    text = (
        document(tmp_path)
        .replace(', 1 = "beta"', ', 2 = "alpha"')
        .replace('[volume.beta]\nsize = "1MiB"\nfrom = ["d/0"]\n', "")
    )
    done = await apply(bare, text)
    assert [(action.verb, action.kind, action.name) for action in done] == [
        (Verb.CHANGE, "host", "h1"),
        (Verb.REMOVE, "volume", "beta"),
    ]
    host = bare.store.get(HostRecord, "h1")
    assert host is not None
    assert host.luns == {0: "alpha", 2: "alpha"}


async def test_modes_are_changed_and_taken_back(bare: System, tmp_path: Path) -> None:
    await apply(bare, document(tmp_path))
    text = document(tmp_path, '[system]\nmode = "direct"\n').replace(
        "[volume.alpha]\n", '[volume.alpha]\nmode = "delegate"\n'
    )
    done = await apply(bare, text)
    assert done == (
        Action(Verb.CHANGE, "system", "system", "mode direct"),
        Action(Verb.CHANGE, "volume", "alpha", "mode delegate"),
    )
    assert bare.record.mode is Mode.DIRECT
    alpha = bare.store.get(VolumeRecord, "alpha")
    assert alpha is not None
    assert alpha.mode is Mode.DELEGATE
    back = await apply(bare, document(tmp_path))
    assert back == (Action(Verb.CHANGE, "volume", "alpha", "mode as the system has it"),)


async def test_portals_are_opened_and_closed_live(bare: System) -> None:
    port = free_port()
    first = f"127.0.0.1:{port}"
    await bare.store.put(PortalGroupRecord(tag=1, portals=(first,), target_port_group=1))
    await bare.listen()

    async def answers(address: str) -> bool:
        try:
            _, writer = await asyncio.open_connection(address, port)
        except OSError:
            return False
        writer.close()
        await writer.wait_closed()
        return True

    done = await apply(bare, f'[system]\nportals = ["{first}", "127.0.0.2:{port}"]\n')
    assert [(action.verb, action.kind) for action in done] == [(Verb.CHANGE, "portal_group")]
    assert await answers("127.0.0.1")
    assert await answers("127.0.0.2")
    await apply(bare, f'[system]\nportals = ["127.0.0.2:{port}"]\n')
    assert bare.portals == (f"127.0.0.2:{port}",)
    assert not await answers("127.0.0.1")
    assert await answers("127.0.0.2")


async def test_portal_that_cannot_be_opened_leaves_the_others_as_they_are(bare: System) -> None:
    await bare.listen()
    before = bare.portals
    with socket.create_server(("127.0.0.1", 0)) as taken:
        portal = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(Unavailable, match="Address already in use"):
            await apply(bare, f'[system]\nportals = ["{portal}"]\n')
    assert bare.portals == before
    record = bare.store.get(PortalGroupRecord, "00001")
    assert record is not None
    assert record.portals == before


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        ("blocks = 100", "blocks = 99", Conflict, "moves no data"),
        ('path = "{}/c.img"', 'path = "{}/d.img"', Conflict, "back end c is"),
        ("[volume.alpha]", '[volume.alpha]\nnaa = "6{:031x}"', Conflict, "keeps for ever"),
        ('0 = "alpha"', '0 = "gamma"', NotFound, "no volume gamma"),
        (
            "[backend.c]",
            '[[reach]]\nbackend = "e"\ndevice = "c/0"\ncan = true\nreason = ""\n[backend.c]',
            Invalid,
            "back end e, which is not there",
        ),
        ("[host.h1]", '[volume.new]\ndevices = ["c/0"]\n[host.h1]', Conflict, "in use"),
        (
            "[backend.c]",
            '[system]\niqn = "iqn.2026-11.com.example:x"\n[backend.c]',
            Conflict,
            "iqn is",
        ),
    ],
    ids=["moved", "other-file", "other-identity", "no-volume", "no-back-end", "no-room", "iqn"],
)
async def test_document_that_cannot_be_made_true_changes_nothing(
    bare: System, tmp_path: Path, old: str, new: str, error: type[ControlError], message: str
) -> None:
    await apply(bare, document(tmp_path))
    before = export(bare)
    text = document(tmp_path).replace(
        old.replace("{}", str(tmp_path)),
        new.replace("{}", str(tmp_path)).replace("{:031x}", "0" * 31),
    )
    assert text != document(tmp_path)
    with pytest.raises(error, match=message):
        await apply(bare, text)
    assert export(bare) == before


async def test_back_end_that_is_not_there_is_named_and_the_rest_not_begun(
    bare: System, tmp_path: Path
) -> None:
    text = document(tmp_path)
    (tmp_path / "d.img").unlink()
    with pytest.raises(Unavailable, match=r"d\.img: No such file"):
        await apply(bare, text)
    assert bare.store.list(VolumeRecord) == ()
    disk(tmp_path, "d", 8192)
    await apply(bare, text)
    assert len(bare.store.list(VolumeRecord)) == 2


async def test_two_hosts_with_one_initiator_are_refused(bare: System, tmp_path: Path) -> None:
    text = document(tmp_path, '[host.h2]\ninitiators = ["iqn.2026-11.com.example:h1"]\n')
    with pytest.raises(Conflict, match="host h1 has the initiator"):
        await apply(bare, text)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        pytest.param(
            '[host.far]\ninitiators = ["*"]\nluns = { 99999 = "alpha" }', "LUN 99999", id="lun"
        ),
        pytest.param('[host.far]\ninitiators = ["someone"]', "'someone'", id="initiator"),
        pytest.param("[host.far]\ninitiators = []", "at least one initiator", id="no-initiator"),
        pytest.param(
            '[host.far]\ninitiators = ["*"]\nremote_copy = ["a:b:c"]', "'a:b:c'", id="remote"
        ),
        pytest.param('[host."a b"]\ninitiators = ["*"]', "'a b'", id="name-of-a-host"),
        pytest.param('[volume."A"]\nimage = "d/0"', "'A'", id="name-of-a-volume"),
        pytest.param('[backend."a/b"]\npath = "/x"', "'a/b'", id="name-of-a-back-end"),
        pytest.param('[backend.e]\npath = "x"', "'x'", id="path"),
        pytest.param('[backend.e]\npath = "/x"\nblock_size = 1000', "1000", id="block-size"),
        pytest.param('[backend.e]\niqn = "foo"\nportals = ["h:1"]', "'foo'", id="iscsi-name"),
        pytest.param(
            '[backend.e]\niqn = "iqn.2026-11.com.example:e"\nportals = ["h:x"]',
            "'h:x'",
            id="portal",
        ),
        pytest.param('[system]\nportals = ["h:x"]', "'h:x'", id="own-portal"),
    ],
)
async def test_what_no_other_way_takes_is_not_taken_from_a_document_either(
    bare: System, tmp_path: Path, part: str, words: str
) -> None:
    text = document(tmp_path)
    await apply(bare, text)
    before = export(bare)
    with pytest.raises(Invalid, match=words) as caught:
        await apply(bare, part, prune=False)
    assert caught.value.next_step
    assert export(bare) == before
