"""How places are written."""

from __future__ import annotations

import pytest

from daiko.mapping.extent import DeviceId


@pytest.mark.parametrize("device", [DeviceId("sd1", 0), DeviceId("a/b", 16383)])
def test_device_comes_back_from_its_text(device: DeviceId) -> None:
    assert DeviceId.parse(str(device)) == device


@pytest.mark.parametrize("text", ["", "sd1", "/0", "sd1/", "sd1/x", "sd1/-1", "sd1/²", "sd1/٣"])
def test_text_that_is_no_device_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write it as BACKEND/LUN"):
        DeviceId.parse(text)
