"""The `ds-sync` command. Subcommands are imported when they are called, so that `--help` answers at once."""

from __future__ import annotations

import sys
from importlib import import_module
from keyword import iskeyword
from typing import Any

import click

from ds_sync import __version__
from ds_sync.exceptions import DsSyncError

_COMMANDS = {
    "serve": ("ds_sync.cli.serve", "Serve streams and documents until SIGTERM or SIGINT."),
    "stream": ("ds_sync.cli.stream", "Make, write, read and end streams, in the manner of curl."),
    "resolve": ("ds_sync.cli.resolve", "Decide what becomes of a document that was deleted or made anew on the server."),
    "import": ("ds_sync.cli.imports", "Bring documents from the store of another server, and prove that they are there."),
    "export": ("ds_sync.cli.export", "Write a document as a Yjs update, as JSON or as text."),
    "inspect": ("ds_sync.cli.inspect", "Show what stands in a replica's file: its outbox, and what was put aside."),
    "bridge": ("ds_sync.cli.bridge", "Keep a room of a y-websocket server and a document in step, for as long as a move takes."),
    "replay": ("ds_sync.cli.replaying.command", "Type a recorded editing session through replicas, through crashes, to its exact end."),
    "demo": ("ds_sync.cli.demo", "Show in under a minute what is kept when everything fails."),
}


class _LazyGroup(click.Group):
    """Knows names and one-line helps; imports a command when it is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        name = f"{cmd_name}_" if iskeyword(cmd_name) else cmd_name
        command: click.Command = getattr(import_module(_COMMANDS[cmd_name][0]), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DsSyncError as error:
            click.echo(f"ds-sync: {' '.join(str(error).split())}", err=True)
            sys.exit(2)


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ds-sync")
def main() -> None:
    """Local-first sync for Python: documents that are yours first, and meet on a server when there is one."""


if __name__ == "__main__":
    main()
