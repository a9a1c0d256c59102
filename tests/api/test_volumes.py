"""Volumes and their mapping over REST."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from daiko.api.schema.volume import VolumeSummary

Attach = Callable[..., Awaitable[Path]]


def by_hand(name: str, *extents: tuple[str, int, int]) -> dict[str, Any]:
    return {
        "how": "by-hand",
        "name": name,
        "extents": [{"device": d, "lba": lba, "blocks": blocks} for d, lba, blocks in extents],
    }


async def test_volume_by_hand_lies_where_it_was_put(api: httpx.AsyncClient, attach: Attach) -> None:
    await attach("a")
    await attach("b")
    answer = await api.post("/volumes", json=by_hand("v", ("b/0", 100, 50), ("a/0", 0, 10)))
    assert answer.status_code == 201, answer.text
    volume = answer.json()
    assert (volume["blocks"], volume["size"], volume["mapped_to"]) == (60, 60 * 512, [])
    mapping = (await api.get("/mappings/v")).json()
    assert [(m["lba"], m["blocks"], m["device"], m["device_lba"]) for m in mapping] == [
        (0, 50, "b/0", 100),
        (50, 10, "a/0", 0),
    ]


@pytest.mark.parametrize(
    ("lba", "device", "device_lba"),
    [(0, "b/0", 100), (49, "b/0", 149), (50, "a/0", 0), (59, "a/0", 9)],
)
async def test_block_of_a_volume_is_located(
    api: httpx.AsyncClient, attach: Attach, lba: int, device: str, device_lba: int
) -> None:
    await attach("a")
    await attach("b")
    await api.post("/volumes", json=by_hand("v", ("b/0", 100, 50), ("a/0", 0, 10)))
    (row,) = (await api.get("/mappings/v", params={"lba": lba})).json()
    assert (row["device"], row["device_lba"], row["blocks"]) == (device, device_lba, 1)


async def test_block_beyond_the_end_is_not_located(api: httpx.AsyncClient, attach: Attach) -> None:
    await attach("a")
    await api.post("/volumes", json=by_hand("v", ("a/0", 0, 10)))
    answer = await api.get("/mappings/v", params={"lba": 10})
    assert answer.status_code == 422
    assert "0 to 9" in answer.json()["next_step"]


async def test_automatic_volume_takes_candidates_in_their_order(
    api: httpx.AsyncClient, attach: Attach
) -> None:
    await attach("a", 2 << 20)
    await attach("b", 2 << 20)
    body = {"how": "automatic", "name": "v", "size": 3 << 20, "candidates": ["b", "a/0"]}
    answer = await api.post("/volumes", json=body)
    assert answer.status_code == 201, answer.text
    assert [e["device"] for e in answer.json()["extents"]] == ["b/0", "a/0"]
    assert answer.json()["size"] == 3 << 20


async def test_automatic_volume_larger_than_the_room_is_refused(
    api: httpx.AsyncClient, attach: Attach
) -> None:
    await attach("a", 2 << 20)
    body = {"how": "automatic", "name": "v", "size": 3 << 20, "candidates": ["a"]}
    answer = await api.post("/volumes", json=body)
    assert answer.status_code == 409
    assert (await api.get("/volumes")).json() == []


async def test_image_volume_is_the_whole_device_and_can_be_given_back(
    api: httpx.AsyncClient, attach: Attach
) -> None:
    path = await attach("a", content=b"what was there before")
    made = await api.post("/volumes", json={"how": "image", "name": "old", "device": "a"})
    assert made.status_code == 201, made.text
    assert made.json()["image"] is True
    assert made.json()["size"] == 1 << 20
    back = await api.post("/volumes/old/release")
    assert back.status_code == 200
    assert "a/0" in back.json()["next_step"]
    assert (await api.get("/volumes")).json() == []
    assert path.read_bytes().startswith(b"what was there before")


async def test_volume_that_is_no_image_is_not_released(
    api: httpx.AsyncClient, attach: Attach
) -> None:
    await attach("a")
    await api.post("/volumes", json=by_hand("v", ("a/0", 0, 10)))
    assert (await api.post("/volumes/v/release")).status_code == 422
    assert (await api.get("/volumes/v")).status_code == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param(by_hand("v", ("a/0", 0, 11), ("a/0", 10, 5)), 409, id="extents-overlap"),
        pytest.param(by_hand("v", ("a/0", 2040, 9)), 409, id="extent-beyond-the-device"),
        pytest.param(by_hand("v", ("a/7", 0, 9)), 404, id="no-such-lun"),
        pytest.param(by_hand("v", ("x/0", 0, 9)), 404, id="no-such-backend"),
        pytest.param(by_hand("v", ("a", 0, 9)), 422, id="device-without-lun"),
        pytest.param(by_hand("v"), 422, id="no-extents"),
        pytest.param(by_hand("V!", ("a/0", 0, 9)), 422, id="bad-name"),
        pytest.param(by_hand("a", ("a/0", 0, 9)), 409, id="name-of-a-backend"),
        pytest.param(by_hand("taken", ("a/0", 0, 9)), 409, id="name-of-a-volume"),
        pytest.param(by_hand("v", ("a/0", 1990, 20)), 409, id="blocks-of-another-volume"),
        pytest.param({"how": "magic", "name": "v"}, 422, id="no-such-way"),
        pytest.param(
            {"how": "automatic", "name": "v", "size": 512, "candidates": []},
            422,
            id="no-candidates",
        ),
    ],
)
async def test_volume_that_cannot_be_is_refused_and_not_made(
    api: httpx.AsyncClient, attach: Attach, body: dict[str, Any], status: int
) -> None:
    await attach("a")
    assert (await api.post("/volumes", json=by_hand("taken", ("a/0", 2000, 40)))).status_code == 201
    answer = await api.post("/volumes", json=body)
    assert answer.status_code == status, answer.text
    assert answer.json()["detail"]
    assert [volume["name"] for volume in (await api.get("/volumes")).json()] == ["taken"]


async def test_volume_that_a_host_sees_is_not_removed(
    api: httpx.AsyncClient, attach: Attach
) -> None:
    await attach("a")
    await api.post("/volumes", json=by_hand("v", ("a/0", 0, 10)))
    await api.post("/hosts", json={"name": "h", "initiators": ["*"], "luns": {"3": "v"}})
    assert (await api.get("/volumes/v")).json()["mapped_to"] == [{"host": "h", "lun": 3}]
    assert (await api.delete("/volumes/v")).status_code == 409
    await api.delete("/hosts/h/volumes/v")
    assert (await api.delete("/volumes/v")).status_code == 204


async def test_mapping_of_a_device_is_in_its_own_order(
    api: httpx.AsyncClient, attach: Attach
) -> None:
    await attach("a")
    await attach("b")
    await api.post("/volumes", json=by_hand("v", ("a/0", 500, 10), ("b/0", 0, 5), ("a/0", 20, 7)))
    await api.post("/volumes", json=by_hand("w", ("a/0", 100, 10)))
    rows = (await api.get("/mappings", params={"device": "a/0"})).json()
    assert [(m["volume"], m["lba"], m["device_lba"]) for m in rows] == [
        ("v", 15, 20),
        ("w", 0, 100),
        ("v", 0, 500),
    ]
    assert (await api.get("/mappings", params={"device": "a"})).json() == rows
    assert len((await api.get("/mappings")).json()) == 4
    assert (await api.get("/mappings", params={"device": "none"})).status_code == 404


async def test_mode_of_a_volume_is_overridden_and_taken_back(
    api: httpx.AsyncClient, attach: Attach
) -> None:
    await attach("a")
    await api.post("/volumes", json=by_hand("v", ("a/0", 0, 10)))
    changed = await api.patch("/volumes/v", json={"mode": "direct"})
    assert changed.status_code == 200, changed.text
    assert (await api.get("/volumes/v")).json()["mode"] == "direct"
    assert (await api.patch("/volumes/v", json={"mode": "odd"})).status_code == 422
    assert (await api.patch("/volumes/v", json={})).status_code == 422
    await api.patch("/volumes/v", json={"mode": None})
    assert (await api.get("/volumes/v")).json()["mode"] is None
    assert (await api.patch("/volumes/none", json={"mode": None})).status_code == 404


async def test_volumes_are_listed_in_pages_without_their_extents(
    api: httpx.AsyncClient, attach: Attach
) -> None:
    await attach("a")
    names = [f"v{number:03}" for number in range(450)]  # more than two pieces of a list
    for number, name in enumerate(names):
        await api.post("/volumes", json=by_hand(name, ("a/0", 2 * number, 1), ("a/0", 1999, 0)))
        await api.post("/volumes", json=by_hand(name, ("a/0", 2 * number, 1)))
    await api.post("/hosts", json={"name": "h", "initiators": ["*"], "luns": {"3": "v001"}})
    found = (await api.get("/volumes")).json()
    assert [each["name"] for each in found] == names
    for each in found:
        assert VolumeSummary.model_validate(each, strict=False).model_dump(mode="json") == each
    assert found[1]["mapped_to"] == [{"host": "h", "lun": 3}]
    assert (found[1]["extents"], found[1]["backends"], found[1]["size"]) == (1, ["a"], 512)
    pages = []
    while page := (
        await api.get("/volumes", params={"limit": 200, "after": pages[-1] if pages else ""})
    ).json():
        assert len(page) <= 200
        pages += [each["name"] for each in page]
    assert pages == names


async def test_mapping_of_a_device_is_told_in_the_order_of_the_device(
    api: httpx.AsyncClient, attach: Attach
) -> None:
    await attach("a")
    await attach("b")
    await api.post("/volumes", json=by_hand("v", ("a/0", 100, 10), ("b/0", 0, 5), ("a/0", 50, 10)))
    await api.post("/volumes", json=by_hand("w", ("a/0", 60, 10), ("a/0", 0, 10)))
    rows = (await api.get("/mappings", params={"device": "a"})).json()
    assert [(row["volume"], row["lba"], row["device_lba"], row["blocks"]) for row in rows] == [
        ("w", 10, 0, 10),
        ("v", 15, 50, 10),
        ("w", 0, 60, 10),
        ("v", 0, 100, 10),
    ]
    assert len((await api.get("/mappings")).json()) == 5


async def test_volume_and_its_back_end_grow(api: httpx.AsyncClient, attach: Attach) -> None:
    await attach("a")
    await api.post("/volumes", json={"how": "image", "name": "v", "device": "a/0"})
    before = (await api.get("/volumes/v")).json()["size"]
    grown = await api.post("/backends/a/grow", json={"size": before + 4096})
    assert grown.json()["devices"][0]["blocks"] * 512 == before + 4096
    assert (await api.post("/volumes/v/grow", json={"by": 512})).json()["size"] == before + 512
    assert (await api.post("/volumes/v/grow", json={})).json()["size"] == before + 4096
    refused = await api.post("/volumes/v/grow", json={"size": before})
    assert (refused.status_code, refused.json()["field"]) == (409, "size")
    refused = await api.post("/backends/a/grow", json={"size": before})
    assert (refused.status_code, refused.json()["field"]) == (409, "size")
    refused = await api.post("/volumes/v/grow", json={"by": 0})
    assert refused.status_code == 422
    refused = await api.post("/volumes/v/grow", json={"by": 1, "candidates": ["none"]})
    assert refused.status_code == 404
