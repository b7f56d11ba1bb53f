import pytest

from compressm.data.progress import progress_bar


@pytest.mark.parametrize(("terminal", "show"), [(True, True), (True, False), (False, True)])
def test_the_bar_is_for_terminals_only(
    terminal: bool, show: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    with progress_bar("decoding", 3, show=show) as advance:
        advance(2)
    captured = capsys.readouterr()
    assert ("decoding" in captured.err) == (terminal and show)
    assert captured.out == ""
    assert (terminal and show) or captured.err == ""
