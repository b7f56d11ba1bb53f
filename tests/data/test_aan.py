from pathlib import Path

import pytest

from compressm.data import DataError, get_task, load
from compressm.data.aan import FILES


def write(folder: Path, rows: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (folder / name).write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")


@pytest.mark.parametrize("inside", ["aan", "tsv_data", ""])
def test_pairs_of_texts_become_pairs_of_rows(inside: str, tmp_path: Path) -> None:
    write(tmp_path / inside, ['1.0\tA\tB\tAb~\t" é"', f"0.0\tC\tD\t{'x' * 5000}\ty"])
    split, task = load("aan", data_dir=tmp_path).test, get_task("aan")
    assert split.targets.tolist() == [1, 0]
    batch = split.batch(slice(None))
    assert batch.lengths is not None
    assert batch.lengths.tolist() == [[3, 2], [4000, 1]]
    assert tuple(batch.inputs.shape) == (2, 2, 4000, task.input_dim)
    # Space is the first character of the alphabet, "~" the last; é is not in it.
    first, second = batch.inputs[0].argmax(dim=2)
    assert first[:3].tolist() == [2 + ord("A") - 32, 2 + ord("b") - 32, 96]
    assert second[:2].tolist() == [2, 1]
    assert task.kind == "pairs"
    assert split.batch(slice(0, 1)).inputs.shape[2] == 64


def test_a_long_paper_is_no_error(tmp_path: Path) -> None:
    write(tmp_path, ["1\tA\tB\t" + "x" * 300_000 + "\ty"])
    assert load("aan", data_dir=tmp_path).train.lengths.tolist() == [[4000, 1]]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "row", ["1.0\tA\tB\ttext", "2.0\tA\tB\tx\ty", "label\tA\tB\tx\ty", "1.0\tA\tB\t\ty", "1\tA\tB\tx\ty\tz"]
)
def test_a_row_of_another_layout_is_named(row: str, tmp_path: Path) -> None:
    write(tmp_path, ["0\tA\tB\tx\ty", row])
    with pytest.raises(DataError, match=r"row 2 of .*new_aan_pairs\.train\.tsv has . fields"):
        load("aan", data_dir=tmp_path)


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"give --data-dir a folder with aan/new_aan_pairs\.train\.tsv"):
        load("aan")
    with pytest.raises(DataError, match=r"no file .*new_aan_pairs\.train\.tsv or .*; give --data-dir"):
        load("aan", data_dir=tmp_path)
    write(tmp_path, [])
    with pytest.raises(DataError, match="has no rows"):
        load("aan", data_dir=tmp_path)
    (tmp_path / FILES[0]).write_bytes(b"1\tA\tB\t\xff\xff\ty\n")
    with pytest.raises(DataError, match="is damaged"):
        load("aan", data_dir=tmp_path)
