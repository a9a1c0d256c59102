"""Following a job: a controller that goes away meanwhile, and one that stays away."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from daiko.api.address import ApiAddress
from daiko.cli import follow
from daiko.cli.client import Client
from daiko.cli.error import CliError, ExitCode

JOB: dict[str, Any] = {
    "id": 7,
    "type": "backup",
    "source": "alpha",
    "destination": "vault",
    "blocks": 100,
    "block_size": 512,
    "copied_blocks": 0,
    "percent": 0.0,
    "bytes_per_second": 0.0,
    "eta_seconds": None,
    "pace": "full",
    "limited_by": None,
    "error": "",
}


class Controller:
    """Answers each request with the next of these: a job's state, 304, or no answer (None)."""

    def __init__(self, *answers: str | int | None) -> None:
        self.answers = list(answers)
        self.tags: list[str | None] = []
        self.job = JOB

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.tags.append(request.headers.get("if-none-match"))
        answer = self.answers.pop(0)
        if answer is None:
            raise httpx.ConnectError("refused", request=request)
        if isinstance(answer, int):
            return httpx.Response(answer)
        body = self.job | {"state": answer, "percent": 100.0 if answer == "done" else 40.0}
        return httpx.Response(200, json=body, headers={"ETag": f'"x-{len(self.answers)}"'})

    @property
    def client(self) -> Client:
        client = Client(ApiAddress(host="localhost", port=1))
        client._http = httpx.Client(
            transport=httpx.MockTransport(self), base_url="http://localhost/v1"
        )
        return client


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time that passes only by sleeping."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr("daiko.cli.follow.time.sleep", sleep)
    monkeypatch.setattr("daiko.cli.follow.time.monotonic", lambda: now[0])
    return now


def test_job_is_followed_over_a_restart_of_the_controller(clock: list[float]) -> None:
    controller = Controller("queued", "running", None, None, 304, "running", "done")
    ended = follow.to_the_end(controller.client, dict(JOB), quiet=True)
    assert ended["state"] == "done"
    # Each question carries the tag of the last answer that had one.
    assert controller.tags == [None, '"x-6"', '"x-5"', '"x-5"', '"x-5"', '"x-5"', '"x-1"']


def test_controller_that_stays_away_is_given_up(clock: list[float]) -> None:
    controller = Controller("running", *[None] * 1000)
    with pytest.raises(CliError) as caught:
        follow.to_the_end(controller.client, dict(JOB), quiet=True)
    assert caught.value.code is ExitCode.UNREACHABLE
    assert clock[0] >= follow.PATIENCE_SECONDS


def test_progress_without_a_terminal_is_a_line_for_each_tenth(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    controller = Controller("running", "running", "running", "done")
    follow.to_the_end(controller.client, dict(JOB), quiet=False)
    assert capsys.readouterr().err.splitlines() == ["backup 7: 40 %", "backup 7: 100 %"]


def test_end_is_asked_for_in_one_question_where_nobody_watches() -> None:
    asked: list[httpx.URL] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url)
        return httpx.Response(200, json=JOB | {"state": "done"}, headers={"ETag": '"x-1"'})

    client = Controller().client
    client._http = httpx.Client(
        transport=httpx.MockTransport(answer), base_url="http://localhost/v1"
    )
    follow.to_the_end(client, dict(JOB), quiet=True)
    assert [dict(url.params) for url in asked] == [
        {"wait": "20.0", "ended": "true", "steps": "false"}
    ]


def test_interrupt_leaves_the_job_and_says_how_to_go_on(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("daiko.cli.follow.time.sleep", interrupt)
    with pytest.raises(CliError) as caught:
        follow.to_the_end(Controller("running").client, dict(JOB), quiet=False)
    assert caught.value.code is ExitCode.INTERRUPTED
    assert "daiko job wait 7" in caught.value.next_step
    assert "daiko job cancel 7" in caught.value.next_step


@pytest.mark.parametrize("state", ["failed", "cancelled", "interrupted"])
def test_outcome_of_a_job_that_is_not_done_is_a_failure(state: str) -> None:
    with pytest.raises(CliError) as caught:
        follow.outcome(JOB | {"state": state, "error": "both sides are away"})
    assert caught.value.code is ExitCode.FAILED
    assert "both sides are away" in caught.value.message
    follow.outcome(JOB | {"state": "done"})


@pytest.mark.parametrize(
    ("pace", "limited_by", "said"),
    [
        ("full", None, ""),
        ("50MiB/s", None, "pace 50MiB/s"),
        ("50MiB/s", "rate", "limited by its pace (50MiB/s)"),
        ("50MiB/s,latency:5ms", "hosts", "held back for hosts (50MiB/s,latency:5ms)"),
    ],
)
def test_pace_is_told_and_whether_it_limits_the_copy(
    pace: str, limited_by: str | None, said: str, clock: list[float], capsys: Any
) -> None:
    controller = Controller("done")
    controller.job = JOB | {"pace": pace, "limited_by": limited_by}
    follow.to_the_end(controller.client, dict(JOB), quiet=False)
    assert capsys.readouterr().err == f"backup 7: 100 %{', ' if said else ''}{said}\n"
