"""The README's Python runs as it stands, from top to bottom, in an empty folder."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"


def test_the_readmes_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) >= 3
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)  # noqa: S102 - this is the test
    shown = capsys.readouterr().out
    assert re.search(r"step 20: blocks\.0\.mixer \d+ -> [56] states", shown)
    assert names["model"].state_dims == [3]  # type: ignore[attr-defined]
    assert (tmp_path / "toy-model" / "model.safetensors").is_file()


def test_the_readmes_commands_exist() -> None:
    from compressm.cli.main import COMMANDS

    named = set(re.findall(r"^compressm (\w+)", README.read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert named
    assert named <= COMMANDS.keys()
