"""What an installation did or, in a dry run, would do: a value, and its two renderings."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

PAST = {"install": "installed", "remove": "removed", "create": "created", "keep": "kept", "unchanged": "unchanged"}
FUTURE = {"install": "would install", "remove": "would remove", "create": "would create", "keep": "would keep"}


@dataclass(frozen=True)
class Action:
    """One thing done to one place; `verb` is a key of PAST."""

    verb: str
    subject: str
    note: str = ""


@dataclass
class Report:
    """Everything done in order, what the operator should know, and what could be better."""

    dry_run: bool = False
    actions: list[Action] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, verb: str, subject: object, note: str = "") -> None:
        """Note one thing done."""
        self.actions.append(Action(verb, str(subject), note))

    def lines(self) -> list[str]:
        """Return the report for people."""
        verbs = PAST | FUTURE if self.dry_run else PAST
        done = [f"{verbs[do.verb]} {do.subject}" + (f" ({do.note})" if do.note else "") for do in self.actions]
        return [*done, *(f"note: {text}" for text in self.notes)]

    def json(self) -> str:
        """Return the report for programs."""
        actions = [{"action": PAST[do.verb], "subject": do.subject, "note": do.note} for do in self.actions]
        summary = {"dryRun": self.dry_run, "actions": actions, "warnings": self.warnings, "notes": self.notes}
        return json.dumps(summary, indent=2)
