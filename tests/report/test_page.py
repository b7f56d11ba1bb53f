import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from compressm.report import headline, read_run, read_runs, report_html, summary_table, write_report

NAMESPACES = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
VOID = {"meta", "br"}


class Outline(HTMLParser):
    """Checks that tags nest, and collects ids, table cells and visible text."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.cells, self.tags, self.text = [], [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.ids += [value for key, value in attributes if key == "id"]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "td":
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.ids += [value for key, value in attributes if key == "id"]

    def handle_data(self, data):
        if "td" in self.open:
            self.cells[-1] += data
        if "style" not in self.open:
            self.text.append(data)


def outline(page):
    parsed = Outline()
    parsed.feed(page)
    parsed.close()
    assert parsed.open == []
    return parsed


@pytest.fixture(scope="module")
def study(sample, tmp_path_factory):
    return read_runs(sample.comparison(tmp_path_factory.mktemp("study"), seeds=2, layers=2))


@pytest.fixture(scope="module")
def page(study):
    return report_html(study)


@pytest.fixture
def bare(sample, tmp_path):
    """A run of which only the settings exist: its report has no figures, so it is quickly written."""
    folder = sample.run(tmp_path / "bare", arm="full")
    for name in ("metrics.jsonl", "cuts.jsonl"):
        (folder / name).unlink()
    return [read_run(folder)]


def test_the_page_nests_and_tells_headline_table_and_cuts(study, page):
    parsed = outline(page)
    text = re.sub(r"\s+", " ", "".join(parsed.text))
    story = headline(study)
    assert story.finding in text
    assert story.comparison[1:] in text
    assert story.basis in text
    cells = list(parsed.cells)
    for row in summary_table(study).rows:
        for cell in row.cells:
            cells.remove(cell)
    assert {"256 → 108", "19 → 8", "blocks.1.mixer"} <= set(cells)
    assert len(set(parsed.ids)) == len(parsed.ids)


def test_nothing_is_loaded_from_anywhere(page):
    assert set(re.findall(r"[a-z]+://[^\s\"'<>)]+", page)) <= NAMESPACES
    parsed = outline(page)
    assert not {"script", "link", "img", "iframe", "object"} & set(parsed.tags)
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert all(target.startswith("#") for target in re.findall(r'href="([^"]*)"', page))


def test_every_figure_is_an_svg_that_parses_with_its_references(page):
    drawings = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(drawings) == 4
    for drawing in drawings:
        root = ElementTree.fromstring(drawing)  # noqa: S314
        ids = {element.get("id") for element in root.iter()} - {None}
        references = re.findall(r'(?:href="#|url\(#)([^")]+)', drawing)
        assert references
        assert set(references) <= ids
        assert root.get("viewBox")
        assert root.get("width") is None
        assert root.get("aria-label")
    assert "test accuracy (%)" in "".join(drawings)
    assert len(page) < 600_000


def test_names_and_commands_are_escaped_everywhere(sample, tmp_path):
    evil = '<script>alert("x")</script>&'
    sample.run(tmp_path / "a", arm=evil, final=8, task=evil, command=f"train {evil}", extra={evil: evil})
    sample.run(tmp_path / "b", arm="full", task=evil)
    page = report_html(read_runs([tmp_path]), title=evil)
    parsed = outline(page)
    assert "script" not in parsed.tags
    assert "<script" not in page
    assert "".join(parsed.text).count(evil) >= 6


def test_settings_tell_what_differs_and_what_is_shared(page):
    parsed = outline(page)
    rows = re.findall(r'<tr><td class="key">(.*?)</td>(.*?)</tr>', page)
    values = {key: re.findall(r'<td class="value">(.*?)</td>', rest) for key, rest in rows}
    assert values["model.state_dim"] == ["[256, 256]", "[256, 256]", "[8, 8]"]
    assert values["compression.realization"] == ["real", "—", "—"]
    assert values["seed"] == ["0, 1"]
    assert values["steps"] == ["2000"]
    assert "compression" not in values  # null in two arms: a dash below each of its keys says so
    assert "arm" not in values
    assert "details" in parsed.tags


def test_commands_are_shown_once_each(sample, tmp_path):
    sample.run(tmp_path / "a", final=8, command=["compressm", "train", "--task", "my task"])
    sample.run(tmp_path / "b", arm="full", command="compressm train")
    sample.run(tmp_path / "c", arm="full", seed=1, command="compressm train")
    sample.run(tmp_path / "d", arm="full", seed=2, command="")
    page = report_html(read_runs([tmp_path]))
    assert "<pre>compressm train --task &#x27;my task&#x27;\ncompressm train</pre>" in page


def test_a_stopped_run_is_reported_as_far_as_it_came(sample, tmp_path):
    page = report_html([read_run(sample.run(tmp_path / "a", final=8, stopped_at=900))])
    outline(page)
    assert "no test result yet" in page
    assert "the log ends at step 900 of 2,000" in page
    assert 'id="figure-accuracy"' not in page
    assert 'id="figure-spectra"' in page


def test_a_run_that_wrote_only_its_config_is_reported(bare):
    page = report_html(bare)
    outline(page)
    assert "full (stopped): 256 states, no test result yet" in page
    assert "<svg" not in page


def test_one_seed_is_not_called_a_mean(sample, tmp_path):
    page = report_html([read_run(sample.run(tmp_path / "a", final=8))])
    assert "One seed." in page
    assert "standard deviation" not in page
    assert "single seeds" not in page


def test_the_file_is_written_whole_under_its_title(bare, tmp_path):
    target = tmp_path / "deep" / "report.html"
    assert write_report(bare, target, title="My study") == target
    assert target.read_text(encoding="utf-8") == report_html(bare, title="My study")
    assert "<title>My study</title>" in target.read_text(encoding="utf-8")
    assert [path.name for path in target.parent.iterdir()] == ["report.html"]


def test_a_failure_leaves_the_old_report_and_no_draft(bare, tmp_path):
    target = tmp_path / "out" / "report.html"
    target.parent.mkdir()
    target.write_text("old")
    with pytest.raises(ValueError, match="no runs to report"):
        write_report([], target)
    assert target.read_text() == "old"
    blocked = tmp_path / "folder.html"
    (blocked / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match=r"folder\.html"):
        write_report(bare, blocked)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bare", "folder.html", "out"]


def test_the_page_is_the_same_every_time(study, page):
    assert report_html(study) == page
