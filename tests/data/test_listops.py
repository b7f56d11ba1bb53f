import random
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

from compressm.data import DataError, Recipe, get_task, load
from compressm.data.listops import _IDS
from compressm.data.listops.generate import FILES
from compressm.data.listops.grammar import CLOSE, VOCABULARY, Limits, evaluate, random_expression

SIZES = (130, 12, 9)
generate = get_task("listops").generator
assert generate is not None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("listops")
    generate(out, Recipe(sizes=SIZES, seed=3, progress=False))
    return out


def value_and_depth(tokens: Iterator[str], depth: int = 1) -> tuple[int | None, int]:
    """The value of one expression by recursion and the statistics module; None at a closing bracket."""
    word = next(tokens)
    if word == CLOSE:
        return None, depth - 1
    if word.isdigit():
        return int(word), depth
    values, deepest = [], depth
    while True:
        value, reached = value_and_depth(tokens, depth + 1)
        deepest = max(deepest, reached)
        if value is None:
            break
        values.append(value)
    assert 2 <= len(values) <= 10
    apply = {
        "[MIN": min,
        "[MAX": max,
        "[MED": lambda numbers: int(statistics.median(numbers)),
        "[SM": lambda numbers: sum(numbers) % 10,
    }[word]
    return apply(values), deepest


def test_expressions_meet_the_specification(folder: Path) -> None:
    seen: list[str] = []
    depths = []
    for name, size in zip(FILES, SIZES, strict=True):
        header, *lines = (folder / "listops" / name).read_text().splitlines()
        assert header == "Source\tTarget"
        assert len(lines) == size
        for line in lines:
            source, target = line.split("\t")
            tokens = source.split()
            assert 500 < len(tokens) < 2000
            rest = iter(tokens)
            value, depth = value_and_depth(rest)
            assert next(rest, None) is None
            assert value == int(target)
            depths.append(depth)
            seen.append(source)
    assert len(set(seen)) == sum(SIZES)
    assert max(depths) == 10
    counts = {token: sum(source.split().count(token) for source in seen) for token in VOCABULARY}
    operators = [counts[token] for token in VOCABULARY[:4]]
    # Uniform choices: of about 20,000 operators and 80,000 digits none is far from its share.
    assert max(operators) < 1.05 * min(operators)
    assert sum(operators) == counts["]"]
    assert max(counts[digit] for digit in "0123456789") < 1.06 * min(counts[digit] for digit in "0123456789")


def test_short_expressions_are_of_the_same_grammar(tmp_path: Path) -> None:
    task = get_task("listops-short")
    assert task.generator is not None
    task.generator(tmp_path, Recipe(sizes=(60, 5, 5), seed=3, progress=False))
    splits = load("listops-short", data_dir=tmp_path)
    lines = (tmp_path / "listops-short" / FILES[0]).read_text().splitlines()[1:]
    assert len(set(lines)) == 60
    assert splits.train.lengths is not None
    for line, length, target in zip(lines, splits.train.lengths, splits.train.targets, strict=True):
        source, value = line.split("\t")
        assert 50 < len(source.split()) == length <= 200
        assert value_and_depth(iter(source.split()))[0] == int(value) == target
    assert splits.train.inputs.shape == (60, task.length)


def test_the_splits_hold_the_files_tokens(folder: Path) -> None:
    splits, task = load("listops", data_dir=folder), get_task("listops")
    names = {number: token for token, number in _IDS.items()}
    for name, split in zip(FILES, (splits.train, splits.validation, splits.test), strict=True):
        assert split.lengths is not None
        for line, ids, length, target in zip(
            (folder / "listops" / name).read_text().splitlines()[1:],
            split.inputs,
            split.lengths,
            split.targets,
            strict=True,
        ):
            assert " ".join(names[number] for number in ids[:length]) == line.split("\t")[0]
            assert int(line[-1]) == target
            assert not ids[length:].any()
    batch = splits.test.batch(slice(0, 1))
    assert batch.inputs.shape[2] == task.input_dim == task.vocab_size == 16


def test_files_do_not_depend_on_the_number_of_workers_but_on_the_seed(folder: Path, tmp_path: Path) -> None:
    generate(tmp_path / "two", Recipe(sizes=SIZES, seed=3, workers=2, progress=False))
    generate(tmp_path / "other", Recipe(sizes=(5, 1, 1), seed=4, progress=False))
    for name in (*FILES, "manifest.json"):
        expected = (folder / "listops" / name).read_bytes()
        assert (tmp_path / "two" / "listops" / name).read_bytes() == expected
        assert not expected.startswith((tmp_path / "other" / "listops" / name).read_bytes())


def test_released_files_with_grouping_brackets_are_read(tmp_path: Path) -> None:
    for name in FILES:
        (tmp_path / name).write_text("Source\tTarget\n( ( ( ( [SM 8 ) 7 ) 5 ) ] )\t0\n")
    split = load("listops", data_dir=tmp_path).test
    assert split.inputs[0, :6].tolist() == [_IDS[token] for token in ("[SM", "8", "7", "5", "]")] + [0]
    assert split.targets.tolist() == [0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is empty or damaged"),
        ("Source\tTarget\n", "must start with .* and have rows"),
        ("a\tb\n[MIN 1 ]\t1\n", "must start with"),
        ("Source\tTarget\n[MIN 1 2 ]\t1\n[XOR 1 2 ]\t1\n", r"line 3 of .* unknown token '\[XOR'"),
        ("Source\tTarget\n[MIN 1 2 ]\t12\n", "line 2 of .* the value '12'"),
        ("Source\tTarget\n[MIN 1 2 ]\n", "line 2 of .* the value ''"),
        ("Source\tTarget\n" + "1 " * 2001 + "\t1\n", "line 2 of .* has 2001 tokens"),
    ],
)
def test_a_damaged_file_is_named(content: str, words: str, tmp_path: Path) -> None:
    for name in FILES:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=words):
        load("listops", data_dir=tmp_path)


def test_a_changed_or_missing_file_is_noticed(tmp_path: Path) -> None:
    generate(tmp_path, Recipe(sizes=(3, 1, 1), progress=False))
    path = tmp_path / "listops" / FILES[1]
    text = path.read_text()
    path.write_text(text[:-2] + str((int(text[-2]) + 1) % 10) + "\n")
    with pytest.raises(DataError, match=r"basic_val\.tsv does not match its checksum in .*manifest\.json"):
        load("listops", data_dir=tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=r"no file .*basic_val\.tsv; make them with: compressm data generate"):
        load("listops", data_dir=tmp_path)
    with pytest.raises(DataError, match=r"listops needs files .*compressm data generate listops --out DIR"):
        load("listops")


def test_nothing_is_overwritten_and_nothing_half_written_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("compressm.data.generated.json.dumps", interrupt)
        with pytest.raises(KeyboardInterrupt):
            generate(tmp_path, Recipe(sizes=(1, 1, 1), progress=False))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "listops").mkdir()
    with pytest.raises(DataError, match=r"listops exists already; choose another --out"):
        generate(tmp_path, Recipe(sizes=(1, 1, 1), progress=False))


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("7", 7),
        ("[MED 4 9 ]", 6),
        ("[MED 1 9 3 ]", 3),
        ("[SM 9 9 [MAX 1 2 ] ]", 0),
        ("[MIN 3 [SM 6 5 ] ]", 1),
    ],
)
def test_values_by_hand(expression: str, value: int) -> None:
    assert evaluate(expression.split()) == value


@pytest.mark.parametrize("expression", ["", "1 2", "[MIN 1 2", "]", "[MAX ]", "[MIN 1 ] ]", "x"])
def test_what_is_no_expression_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match="expression"):
        evaluate(expression.split())


def test_limits_are_kept() -> None:
    limits = Limits(shorter=5, longer=20, depth=3, arguments=4)
    for seed in range(50):
        tokens = random_expression(random.Random(seed), limits)  # noqa: S311 - no secret
        assert 5 < len(tokens) < 20
        assert value_and_depth(iter(tokens))[1] <= 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sizes": (1, 0, 1)}, r"at least one sequence, got sizes=\(1, 0, 1\)"),
        ({"sizes": (1, 1, 1), "seed": -1}, "seed must not be negative, got -1"),
        ({"sizes": (1, 1, 1), "workers": 0}, "workers must be at least 1, got 0"),
    ],
)
def test_impossible_recipes_are_refused(options: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Recipe(**options)  # type: ignore[arg-type]
