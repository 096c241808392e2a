"""Completion of commands, options, kinds and names by the shell, and `calicoctl completion`, which installs it.

Names come from the datastore: where it cannot be read there are none, and never an error in the middle of typing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem, get_completion_class

from calicoctl.command import CONFIG, CONTEXT, EXIT_CODES, Failure
from calicoctl.config import ConfigError, load
from calicoctl.resources import kinds
from datastore import open_store
from datastore.api import StoreError
from ipam.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Iterable

VARIABLE = "_CALICOCTL_COMPLETE"
PATIENCE = 2.0  # seconds for servers that do not answer: somebody is typing
EPILOG = f"""\b
Examples:
  eval "$(calicoctl completion bash)"                                                  for this shell only
  calicoctl completion bash > ~/.local/share/bash-completion/completions/calicoctl     for one user, from now on
  calicoctl completion zsh > ~/.zfunc/_calicoctl                 with ~/.zfunc in fpath, before compinit
  calicoctl completion fish > ~/.config/fish/completions/calicoctl.fish

{EXIT_CODES}
"""


@click.command(epilog=EPILOG, context_settings=CONTEXT)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script with which a shell completes calicoctl's commands, options, kinds and names."""
    maker = get_completion_class(shell)
    if maker is None:
        raise Failure(f"this version of click has no completion for {shell}")
    click.echo(maker(ctx.find_root().command, {}, "calicoctl", VARIABLE).source())


def kind_words(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the kinds that begin so."""
    return _matching((kind.words[0] for kind in kinds.KINDS), incomplete)


def resource_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the names of resources that begin so, of the kind that the command line has; none if that fails."""
    try:
        return _matching(_names(ctx), incomplete)
    except (BadRequest, ConfigError, StoreError, OSError):
        return []


def _names(ctx: click.Context) -> Iterable[str]:
    kind = kinds.named(ctx.params.get("kind") or "")
    access = load(ctx.meta.get(CONFIG), os.environ)
    if not kind.prefix.endswith("/"):
        return ["default"]
    namespace = f"{ctx.params.get('namespace') or kinds.DEFAULT_NAMESPACE}/" if kind.namespaced else ""
    found = open_store(access.settings, seconds=PATIENCE).keys(kind.prefix + namespace)
    return [key.rpartition("/")[2] for key in found]


def _matching(words: Iterable[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(word) for word in words if word.startswith(incomplete)]
