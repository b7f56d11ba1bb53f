"""The settings of the runs: what they share, in what the arms differ, and the commands."""

import html
import shlex
from collections.abc import Sequence

from .groups import Group, flatten
from .runs import Run

# Told elsewhere in the report, or different in every run by design.
_NOT_A_SETTING = ("arm", "command")


def settings_html(groups: Sequence[Group]) -> str:
    """Return collapsible tables of the settings, shared ones first, then those that differ by arm."""
    flat = [
        [
            flatten({key: value for key, value in run.config.items() if key not in _NOT_A_SETTING})
            for run in group.runs
        ]
        for group in groups
    ]
    keys = list(dict.fromkeys(key for runs in flat for run in runs for key in run))
    cells = {key: [_joined([run.get(key) for run in runs]) for runs in flat] for key in keys}
    shared = {key: found for key, found in cells.items() if len(set(found)) == 1}
    differing = {key: found for key, found in cells.items() if key not in shared}
    parts = ["<details><summary>Settings</summary>"]
    if differing:
        parts.append("<h3>What differs between the arms</h3>")
        heads = [f"{group.label}, {group.states_label} states" for group in groups]
        parts.append(_settings_table(differing, heads))
    parts.append("<h3>The same in every arm</h3>" if differing else "")
    parts.append(_settings_table({key: found[:1] for key, found in shared.items()}, ["value"]))
    parts.append("</details>")
    return "\n".join(parts)


def commands(runs: Sequence[Run]) -> list[str]:
    """Return the commands that the runs were made with, each once, in order."""
    found = []
    for run in runs:
        command = run.config.get("command")
        if isinstance(command, str) and command:
            found.append(command)
        elif isinstance(command, Sequence) and command:
            found.append(shlex.join(map(str, command)))
    return list(dict.fromkeys(found))


def _joined(values: Sequence[str | None]) -> str:
    """Return what the runs of a group have under one key, each value once."""
    return ", ".join(dict.fromkeys("—" if value is None else value for value in values))


def _settings_table(settings: dict[str, list[str]], heads: Sequence[str]) -> str:
    head = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in ("setting", *heads))
    rows = [
        f'<tr><td class="key">{html.escape(key)}</td>'
        + "".join(f'<td class="value">{html.escape(value)}</td>' for value in values)
        + "</tr>"
        for key, values in settings.items()
    ]
    return (
        '<div class="scroll"><table><thead><tr>'
        + head
        + "</tr></thead><tbody>"
        + "".join(rows)
        + ("</tbody></table></div>")
    )
