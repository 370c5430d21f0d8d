"""The page as a file: complete in itself, safe against any text, small enough, readable without a script."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from robustest.errors import EnvironmentFailure
from robustest.report.html import report_page, write_report
from robustest.results import Verdict
from robustest.settings import AttackSettings
from tests.report.summaries import SURVIVOR, Fate, audit_of, flip

EVIL = '</title></style><script>alert(1)</script><img src=x onerror="alert(2)">\' " onload=alert(3) {{ 7*7 }} </svg>'
FATES = [flip(0, 1, [1, 9]), flip(1, 0, [3]), SURVIVOR, Fate(0, Verdict.EXCLUDED, predicted=1)]


class Page(HTMLParser):
    """Collects what a test asks about a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open and tag == self.open[-1]:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if not self.open:
            self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def evil_page() -> str:
    fates = [
        flip(0, 1, [1], name=EVIL),
        Fate(1, Verdict.UNKNOWN, reason=EVIL, name="b"),
        Fate(0, Verdict.EXCLUDED, predicted=1, name="c"),
    ]
    summary, images = audit_of(fates, class_names=(EVIL, EVIL + "2"), source=EVIL, doubts=(EVIL,), command=EVIL)
    return report_page(summary, images=images)


def test_markup_in_any_text_stays_text() -> None:
    page = Page(evil_page())
    assert len(page.all("script")) == 1
    assert all(not name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert [a for a in page.all("img") if not (a["src"] or "").startswith("data:")] == []
    told = "".join(page.texts)
    assert (
        told.count("<script>alert(1)</script>") >= 5
    )  # the model, the doubt, the command, the name, the class, as text
    assert "{{ 7*7 }}" in told
    assert "49" not in re.sub(r"[^ ]*\d\d\d+[^ ]*", "", told)


@pytest.mark.parametrize(
    "page", [evil_page(), report_page(*(lambda s, i: (s,))(*audit_of(FATES)))], ids=["evil", "plain"]
)
def test_nothing_is_loaded_from_anywhere(page: str) -> None:
    parsed = Page(page)
    for _, attributes in parsed.tags:
        for name in ("src", "href", "action", "data", "poster", "xlink:href", "srcset"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:image/")), value
    assert "@import" not in page
    assert "url(" not in page
    assert not {"link", "iframe", "object", "embed", "base", "audio", "video"} & {tag for tag, _ in parsed.tags}


def test_the_page_forbids_itself_to_load_and_allows_its_own_script_alone() -> None:
    page = report_page(audit_of(FATES)[0])
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    policies = [a["content"] or "" for a in Page(page).all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1
    assert "default-src 'none'" in policies[0]
    assert f"script-src 'sha256-{digest}'" in policies[0]


def test_identifiers_are_unique_and_links_inside_the_page_lead_somewhere() -> None:
    summary, images = audit_of(FATES)
    page = Page(report_page(summary, images=images))
    idents = [a["id"] for _, a in page.tags if a.get("id")]
    assert len(idents) == len(set(idents))
    links = {(a["href"] or "")[1:] for tag, a in page.tags if tag in ("a", "use")}
    assert links <= set(idents)
    named = {word for _, a in page.tags for word in (a.get("aria-labelledby") or "").split()}
    assert named <= set(idents)


def test_every_chart_has_a_title_and_a_table() -> None:
    summary, images = audit_of(FATES)
    text = report_page(summary, images=images)
    charts = Page(text).all("svg")
    assert len([c for c in charts if c.get("class") == "chart"]) == 3
    for chart in re.split(r'<svg class="chart"', text)[1:]:
        assert "<title" in chart[:400]
        assert "<table>" in chart.partition("</section>")[0]


def test_everything_is_there_without_the_script() -> None:
    summary, images = audit_of(FATES)
    text = report_page(summary, images=images)
    page = Page(text)
    assert "hidden" in next(a for a in page.all("form"))  # the tools, useless without it
    assert [a["data-index"] for a in page.all("tr") if "data-index" in a] == ["0", "1", "2", "3"]
    assert [a["data-index"] for a in page.all("li") if "data-index" in a] == ["0", "1", "2"]
    assert not any("hidden" in a for tag, a in page.tags if tag in ("tr", "li", "section"))


def test_the_report_opens_with_doubts_then_the_command_then_the_curve() -> None:
    text = report_page(audit_of(FATES, doubts=("the model does not repeat",))[0])
    order = [text.index(f'id="{part}"') for part in ("doubts", "again", "survival", "classes", "images")]
    assert order == sorted(order)
    assert text.index("the model does not repeat") < text.index("robustest audit model.onnx images.npz -o DIR")


def test_requirements_are_judged_on_the_page() -> None:
    from robustest.audit.requirements import Requirement

    summary = audit_of([SURVIVOR] * 40)[0].requiring([Requirement(3, 0.6), Requirement(3, 0.95)])
    text = report_page(summary)
    assert ">shown<" in text
    assert ">inconclusive<" in text


@pytest.mark.parametrize("norm", ["l0", "l0_dims", "l1", "l2", "linf"])
def test_every_norm_has_a_report(norm: str) -> None:
    summary, images = audit_of(FATES, settings=AttackSettings(queries=100, norm=norm))  # type: ignore[arg-type]
    assert 'id="survival"' in report_page(summary, images=images)


@pytest.mark.parametrize(
    "fates",
    [[SURVIVOR], [Fate(0, Verdict.EXCLUDED, predicted=1)], [Fate(0, Verdict.UNKNOWN, reason="x")], [flip(0, 1, [1])]],
    ids=["survived", "excluded", "unknown", "flipped"],
)
def test_audits_with_a_single_kind_of_verdict_have_a_report(fates: list[Fate]) -> None:
    summary, images = audit_of(fates)
    assert fates[0].verdict.value in report_page(summary, images=images)


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3), pytest.param((224, 224, 3), marks=pytest.mark.slow)])
def test_500_images_fit_into_two_megabytes(
    shape: tuple[int, int, int], rng: np.random.Generator, tmp_path: Path
) -> None:
    images = rng.integers(0, 256, (500, *shape), dtype=np.uint8)  # noise: what compresses worst
    fates = [
        flip(
            i % 43,
            (i + 1) % 43,
            rng.choice(shape[0] * shape[1], 1 + i % 30, replace=False).tolist(),
            name=f"a/folder/of-some-length/image-{i:06d}.png",
        )
        for i in range(490)
    ] + [SURVIVOR] * 10
    names = tuple(f"class number {k} with a name" for k in range(43))
    summary, _ = audit_of(fates, images=images, class_names=names)
    page = write_report(summary, tmp_path / "report.html", images=images)
    assert page.stat().st_size <= 2_000_000
    assert page.read_text(encoding="utf-8").count("<tr data-index=") == 500


def test_images_with_very_many_changes_fit_too(rng: np.random.Generator, tmp_path: Path) -> None:
    images = rng.integers(0, 256, (150, 32, 32, 3), dtype=np.uint8)
    fates = [flip(0, 1, rng.choice(1024, 550, replace=False).tolist()) for _ in range(150)]
    summary, _ = audit_of(fates, images=images)
    page = write_report(summary, tmp_path / "report.html", images=images)
    assert page.stat().st_size <= 2_000_000
    assert " of 150 attacked images are drawn" in page.read_text(encoding="utf-8")


def test_very_many_images_are_cut_off_and_said_so() -> None:
    fates = [flip(0, 1, [1])] * 2100
    text = report_page(audit_of(fates, images=np.zeros((2100, 4, 4, 1), np.uint8))[0])
    assert text.count("<tr data-index=") == 2000
    assert "The first 2,000 of 2,100 images; result.json has them all" in text


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "file" / "report.html"
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EnvironmentFailure, match="file"):
        write_report(audit_of(FATES)[0], target)
    assert (tmp_path / "file").read_text() == "in the way"


def test_the_same_audit_gives_the_same_bytes() -> None:
    pages = [report_page(s, images=i) for s, i in (audit_of(FATES), audit_of(FATES))]
    assert pages[0] == pages[1]
