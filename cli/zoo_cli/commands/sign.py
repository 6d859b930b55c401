"""`zoo sign`: put one's key to a version's files and lineage."""

from __future__ import annotations

import os

import click

from zoo_cli.arguments import reference_argument, threads_option
from zoo_cli.output import json_option, say, show_json
from zoo_cli.session import Session, pass_session


@click.command("sign")
@reference_argument("ref")
@click.option(
    "--key",
    required=True,
    type=click.Path(),
    metavar="KEY.pem",
    help="Private elliptic curve key; its password, if any, in ZOO_KEY_PASSWORD.",
)
@click.option(
    "--out", type=click.Path(), metavar="FILE", help="Signature to write; `NAME@N.sig` by default."
)
@threads_option
@json_option
@pass_session
def command(
    session: Session,
    ref: str,
    key: str,
    out: str | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Sign a version: all its files, and how it was made.

    Its bytes are compared with those on record first. The signature is a file of its own, in the
    form of the OpenSSF's model signing. Check it by `zoo verify REF --signature FILE --key PUB`;
    anybody else checks an exported directory by `model_signing verify key`. Needs
    `pip install 'zoo-registry[sign]'`.

    \b
        openssl ecparam -name prime256v1 -genkey -noout -out key.pem
        openssl ec -in key.pem -pubout -out key.pub.pem
        zoo sign both --key key.pem
        zoo verify both --signature both@1.sig --key key.pub.pem
    """
    with session.open() as registry:
        password = os.environ.get("ZOO_KEY_PASSWORD")
        path = registry.sign(ref, key, out=out, password=password, threads=threads)
    if as_json:
        show_json({"signature": str(path)})
    else:
        say(click.style("signed  ", fg="green", bold=True) + ref)
        click.echo(path)
