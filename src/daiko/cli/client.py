"""The way to the controller: REST over a Unix socket or TCP, and nothing else."""

from __future__ import annotations

import gc
from typing import Any
from urllib.parse import quote

import httpx
import typer

from daiko.api.address import ApiAddress
from daiko.cli.error import CliError, ExitCode

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 180.0
"""Attaching a slow array with hundreds of LUs is the longest request that there is."""


class Client:
    """One connection to the API. Every method raises CliError for what the API refuses and for a
    controller that does not answer."""

    def __init__(
        self, address: ApiAddress, token: str = "", *, seconds: float = ANSWER_SECONDS
    ) -> None:
        self.address = address
        self._http = httpx.Client(
            base_url=f"{address.base_url}/v1",
            transport=httpx.HTTPTransport(uds=address.path) if address.path else None,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=httpx.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS)),
            # A proxy in the environment is for the outer world.
            trust_env=False,
        )

    def get(self, *path: object, **query: Any) -> Any:
        """What is there, as JSON. Query parameters that are None or "" are left out."""
        # Of a long list everything is kept until it is printed: to look for garbage in it again
        # and again would take a third of the time.
        gc.set_threshold(1_000_000, 10, 10)
        return self.request("GET", path, query=query).json()

    def post(self, *path: object, body: dict[str, Any] | None = None) -> Any:
        """Ask for something; the answer as JSON."""
        return self.request("POST", path, body=body).json()

    def put(self, *path: object, body: dict[str, Any]) -> Any:
        """Set something; the answer as JSON."""
        return self.request("PUT", path, body=body).json()

    def patch(self, *path: object, body: dict[str, Any]) -> Any:
        """Change something; the answer as JSON."""
        return self.request("PATCH", path, body=body).json()

    def delete(self, *path: object, **query: Any) -> Any:
        """Take something away; the answer as JSON, None where there is none."""
        response = self.request("DELETE", path, query=query)
        return response.json() if response.content else None

    def text(self, *path: object) -> str:
        """What is there, as text."""
        return self.request("GET", path).text

    def request(
        self,
        method: str,
        path: tuple[object, ...],
        *,
        query: dict[str, Any] | None = None,
        body: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        """One request; an answer of 304 is an answer. The parts of the path are quoted here."""
        url = "/".join(quote(str(part), safe="") for part in path)
        given = {key: value for key, value in (query or {}).items() if value not in (None, "")}
        try:
            response = self._http.request(method, url, params=given, json=body, headers=headers)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        if response.status_code >= 400:
            raise _refusal(response)
        return response

    def _unreachable(self, error: httpx.TransportError) -> CliError:
        why = str(error) or type(error).__name__
        return CliError(
            f"the controller at {self.address} does not answer: {why}",
            "start it with `daiko serve`, or say where it is with --api or DAIKO_API",
            ExitCode.UNREACHABLE,
        )


def _refusal(response: httpx.Response) -> CliError:
    if response.headers.get("content-type", "").startswith("application/problem+json"):
        return CliError.of(response.json())
    return CliError(
        f"the answer of {response.url} is no answer of a Daiko: "
        f"{response.status_code} {response.reason_phrase}",
        "see that --api or DAIKO_API names the API of a controller",
    )


def of(context: typer.Context) -> Client:
    """The client that the options --api and --token of this command line ask for."""
    client = context.find_object(Client)
    if client is None:
        raise TypeError("the command was called without the options of `daiko`")
    return client
