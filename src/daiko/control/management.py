"""The addresses at which an administrator reaches this controller, as hosts are told them (VPD page
85h, SPC-4, 7.8.8). They are not found out: only the administrator knows by which name the API, or
a console before it, is reached from elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from daiko.control.error import Invalid

if TYPE_CHECKING:
    from daiko.control.system import System

MOST_URLS: Final = 8
LONGEST_URL: Final = 255


async def set_urls(system: System, urls: Sequence[str]) -> tuple[str, ...]:
    """Tell hosts these addresses from now on; none takes the page away. Raises Invalid."""
    async with system.changing:
        await system.change_record({"management_urls": check_urls(urls)})
    return system.record.management_urls


def check_urls(urls: Sequence[str]) -> tuple[str, ...]:
    """The URLs, each once. Raises Invalid."""
    found = tuple(dict.fromkeys(urls))
    if len(found) > MOST_URLS:
        raise Invalid(
            f"{len(found)} management URLs are more than the {MOST_URLS} that hosts are told",
            "leave some out",
            field="system.management_urls",
        )
    for url in found:
        _check(url)
    return found


def _check(url: str) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
        has_login = parts.username is not None or parts.password is not None
    except ValueError:
        usable, has_login = False, False
    if not usable or not url.isascii() or not url.isprintable() or " " in url:
        raise Invalid(
            f"{url!r} is no management URL",
            "write it like https://daiko.example.com:3261",
            field="system.management_urls",
        )
    if has_login:
        raise Invalid(
            "a management URL with a login in it would tell it to every host",
            "leave out what stands before the @",
            field="system.management_urls",
        )
    if len(url) > LONGEST_URL:
        raise Invalid(
            f"a management URL of {len(url)} characters is longer than {LONGEST_URL}",
            "give a shorter one",
            field="system.management_urls",
        )
