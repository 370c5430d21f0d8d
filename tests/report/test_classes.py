"""Counts by class and by pair of classes, counted by hand."""

from robustest.report.classes import class_rows, confusion_of
from robustest.results import Verdict
from tests.report.summaries import SURVIVOR, Fate, audit_of, flip

NAMES = ("cat", "dog", "owl")
FATES = [
    flip(0, 1, [1]),
    flip(0, 1, [1, 2, 3]),
    flip(0, 2, [1, 2]),
    SURVIVOR,
    flip(1, 0, [4]),
    Fate(1, Verdict.EXCLUDED, predicted=0),
    Fate(2, Verdict.UNKNOWN, reason="time limit"),
]


def test_each_class_is_counted() -> None:
    cat, dog, owl = class_rows(audit_of(FATES, class_names=NAMES)[0])
    assert (cat.name, cat.attacked, cat.flipped, cat.survived, cat.excluded) == ("cat", 4, 3, 1, 0)
    assert (dog.name, dog.attacked, dog.flipped, dog.excluded) == ("dog", 1, 1, 1)
    assert (owl.attacked, owl.unknown, owl.flipped) == (1, 1, 0)


def test_the_median_counts_survivors_as_farthest() -> None:
    assert class_rows(audit_of(FATES)[0])[0].median == "2"  # 1, 2, 3, never: half of four are within 2


def test_an_unknown_image_widens_the_interval_at_both_ends() -> None:
    owl = class_rows(audit_of(FATES)[0])[2]
    assert (owl.low, owl.high) == (0.0, 1.0)
    assert owl.at == 0.0


def test_a_class_that_was_never_attacked_has_no_share() -> None:
    row = class_rows(audit_of([Fate(0, Verdict.EXCLUDED, predicted=1), flip(1, 0, [1])])[0])[0]
    assert (row.share, row.median, row.low) == ("-", "-", None)


def test_flips_are_counted_by_pair() -> None:
    confusion = confusion_of(audit_of(FATES, class_names=NAMES)[0])
    assert confusion is not None
    assert confusion.columns == NAMES
    counts = [[cell.count for cell in row.cells] for row in confusion.rows]
    assert counts == [[0, 2, 1], [1, 0, 0], [0, 0, 0]]
    assert [cell.self for cell in confusion.rows[0].cells] == [True, False, False]
    assert confusion.note == "Most often: cat taken for dog, 2 of 4 flips."


def test_very_many_classes_become_a_list_of_pairs() -> None:
    fates = [flip(label, label + 100, [1]) for label in range(30)] + [flip(7, 107, [1])]
    confusion = confusion_of(audit_of(fates)[0])
    assert confusion is not None
    assert confusion.columns == ()
    assert confusion.pairs is not None
    assert confusion.pairs.rows[0] == ("7", "107", "2")
    assert len(confusion.pairs.rows) == 25


def test_no_flip_is_no_confusion() -> None:
    assert confusion_of(audit_of([SURVIVOR])[0]) is None


def test_pairs_that_occur_once_are_not_called_frequent() -> None:
    confusion = confusion_of(audit_of([flip(0, 1, [1]), flip(1, 0, [1])])[0])
    assert confusion is not None
    assert confusion.note == "No pair of classes occurs more than once in 2 flips."
