"""docs/reference/rest.md: the REST API, from its OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from daiko.api.app import create_app
from daiko.command_control.function_table import CopyLimits
from daiko.control.system import System
from reference_docs.markdown import code, head, said, table, text, words

_DATACLASSES = {CopyLimits.__name__: CopyLimits.__doc__}
"""Schemas that are made from dataclasses: not every version of pydantic takes their docstring."""


def _description() -> dict[str, Any]:
    """The OpenAPI document. It depends on no system: routes ask for one when they are called."""
    return create_app(cast(System, None)).openapi()


def _name(reference: str) -> str:
    """Of a schema. Some versions of the libraries give one to each direction where one is due."""
    name = reference.rpartition("/")[2]
    return name.removesuffix("-Input").removesuffix("-Output")


def _shape(schema: dict[str, Any]) -> str:
    """The type of a value, in one expression."""
    if "$ref" in schema:
        name = _name(schema["$ref"])
        return f"[{name}](#{name.lower()})"
    if "const" in schema:
        return code(schema["const"])
    if "enum" in schema:
        return ", ".join(code(value) for value in schema["enum"])
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " or ".join(_shape(each) for each in schema[several])
    if schema.get("type") == "array":
        return f"list of {_shape(schema.get('items', {}))}"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_shape(schema['additionalProperties'])}"
    return str(schema.get("type", "anything"))


def _body(content: dict[str, Any]) -> str:
    """What is sent or answered."""
    return ", ".join(
        f"{_shape(media.get('schema', {}))}" + ("" if kind == "application/json" else f" ({kind})")
        for kind, media in content.items()
    )


def _operations(description: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def _good(operation: dict[str, Any]) -> str:
    answers = []
    for status, answer in operation["responses"].items():
        if status < "400":
            body = _body(answer.get("content", {}))
            answers.append(f"{status} {body}".rstrip())
    return "; ".join(answers)


def _default(schema: dict[str, Any]) -> str:
    if schema.get("default") in (None, ""):
        return ""
    return f" Default: `{schema['default']}`."


def _operation(method: str, path: str, operation: dict[str, Any]) -> list[str]:
    lines = [f"### {method} {path}", "", words(operation.get("description")), ""]
    parameters = operation.get("parameters", [])
    if parameters:
        lines += table(
            ("parameter", "in", "type", "meaning"),
            [
                (
                    code(each["name"]),
                    each["in"],
                    _shape(each["schema"]),
                    words(each.get("description")) + _default(each["schema"]),
                )
                for each in parameters
            ],
        )
    if "requestBody" in operation:
        lines += [f"Body: {_body(operation['requestBody']['content'])}", ""]
    lines += [f"Answer: {_good(operation)}", ""]
    return lines


def _schema(name: str, schema: dict[str, Any]) -> list[str]:
    lines = [f"### {name}", ""]
    description = _DATACLASSES.get(name, schema.get("description"))
    if description:
        lines += [words(description), ""]
    if "enum" in schema:
        return [*lines, f"One of {_shape(schema)}.", ""]
    required = schema.get("required", [])
    return lines + table(
        ("field", "type", "required", "meaning"),
        [
            (
                code(field),
                _shape(what),
                said(field in required),
                (words(what.get("description")) + _default(what)).strip(),
            )
            for field, what in schema.get("properties", {}).items()
        ],
    )


def document() -> str:
    description = _description()
    lines = head("REST API", "the OpenAPI document that the API gives at `/v1/openapi.json`")
    lines += [
        words(description["info"]["description"]),
        "",
        "Where the API listens on anything but loopback or a Unix socket, every request carries",
        "the controller's token: `Authorization: Bearer TOKEN`.",
        "",
        "## Errors",
        "",
        "Any operation may answer with one of these, and a [Problem](#problem):",
        "",
    ]
    problems: dict[str, str] = {}
    for _, _, operation in _operations(description):
        for status, answer in operation["responses"].items():
            if status >= "400":
                problems.setdefault(status, words(answer["description"]))
    lines += table(("status", "meaning"), sorted(problems.items()))
    for tag in description["tags"]:
        own = [each for each in _operations(description) if tag["name"] in each[2]["tags"]]
        lines += [f"## {tag['name'].capitalize()}", "", f"{tag['description']}.", ""]
        lines += table(
            ("", "", "what it does"),
            [
                (method, code(path), words(operation.get("description")).partition(". ")[0])
                for method, path, operation in own
            ],
        )
        for method, path, operation in own:
            lines += _operation(method, path, operation)
    lines += ["## Schemas", ""]
    schemas = {_name(name): each for name, each in description["components"]["schemas"].items()}
    for name, schema in sorted(schemas.items()):
        lines += _schema(name, schema)
    return text(lines)
