"""`daiko discovery`: who may ask which targets are here."""

from __future__ import annotations

import typer

from daiko.cli import client, option, render, secret

app = typer.Typer(no_args_is_help=True, help="Discovery sessions: who may ask for our targets.")


@app.command("show")
def show(context: typer.Context, json: option.Json = False) -> None:
    """Show how a discovery session has to prove itself."""
    found = client.of(context).get("discovery", "chap")
    if json:
        render.as_json(found)
    else:
        render.facts([("CHAP", "no: anybody may ask" if found is None else secret.said(found))])


@app.command("set-chap")
def set_chap(
    context: typer.Context,
    user: secret.User,
    secret_file: secret.SecretFile = None,
    from_stdin: secret.FromStdin = "",
    mutual_user: secret.MutualUser = "",
    mutual_secret_file: secret.MutualSecretFile = None,
    mutual_from_stdin: secret.MutualFromStdin = "",
    json: option.Json = False,
) -> None:
    """Let discovery sessions begin with a proof by CHAP. A host that has a CHAP user of its own may
    discover by that one, too."""
    body = secret.body(
        user, secret_file, from_stdin, mutual_user, mutual_secret_file, mutual_from_stdin
    )
    found = client.of(context).put("discovery", "chap", body=body)
    if json:
        render.as_json(found)
    else:
        render.said(f"discovery needs CHAP: {secret.said(found)}")


@app.command("clear-chap")
def clear_chap(context: typer.Context) -> None:
    """Let anybody ask again. What a host sees stays what it is given."""
    client.of(context).delete("discovery", "chap")
    render.said("anybody may discover")
