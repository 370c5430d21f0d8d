"""Images and labels as they enter: what is read, and what is refused with which words."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from robustest.errors import InvalidImage, NothingToTest
from robustest.images import as_eight_bit, as_unit, check_images, check_labels, load_images, load_picture


def picture(path: Path, array: NDArray[np.generic]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), array)
    return path


def test_eight_bit_values_come_back_after_a_trip_through_floats() -> None:
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    assert (as_eight_bit(as_unit(every)[0]) == every[0]).all()


def test_npz_keeps_names_classes_and_eight_bits(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 4, 5), np.uint8), labels=[1, 0], class_names=["cat", "dog"])
    found = load_images(tmp_path / "a.npz")
    assert found.images.shape == (2, 4, 5, 1)
    assert found.eight_bit
    assert found.class_name(1) == "dog"
    assert found.labels.tolist() == [1, 0]


def test_folder_with_a_subfolder_a_class_is_read_as_rgb(tmp_path: Path) -> None:
    red = np.zeros((3, 3, 3), np.uint8)
    red[..., 2] = 255  # OpenCV writes BGR
    picture(tmp_path / "stop" / "a.png", red)
    picture(tmp_path / "go" / "b.png", np.zeros((3, 3, 3), np.uint8))
    found = load_images(tmp_path)
    assert found.class_names == ("go", "stop")
    assert found.labels.tolist() == [0, 1]
    assert found.images[1, 0, 0].tolist() == [255, 0, 0]


def test_numbered_folders_are_class_numbers_in_numeric_order(tmp_path: Path) -> None:
    for name in ("10", "2"):
        picture(tmp_path / name / "a.png", np.zeros((3, 3), np.uint8))
    assert load_images(tmp_path).labels.tolist() == [2, 10]


def test_subfolders_take_turns_so_that_the_first_pictures_hold_each_class_in_its_share(tmp_path: Path) -> None:
    for label, count in ((0, 4), (1, 2), (3, 2)):
        for place in range(count):
            picture(tmp_path / str(label) / f"{place}.png", np.full((3, 3), 10 * label + place, np.uint8))
    found = load_images(tmp_path)
    assert found.labels.tolist() == [0, 1, 3, 0, 0, 1, 3, 0]
    assert found.images[:, 0, 0, 0].tolist() == [0, 10, 30, 1, 2, 11, 31, 3]
    assert found.names[:2] == ("0/0.png", "1/0.png")


def test_labels_csv_names_files_and_classes(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", np.zeros((3, 3), np.uint8))
    (tmp_path / "labels.csv").write_text("file,label\na.png,7\n")
    found = load_images(tmp_path)
    assert found.labels.tolist() == [7]
    assert found.names == ("a.png",)


def refused(tmp_path: Path, *words: str, error: type[Exception] = InvalidImage) -> None:
    with pytest.raises(error) as raised:
        load_images(tmp_path)
    for word in words:
        assert word in str(raised.value)


def test_labels_csv_takes_whole_floats_for_the_class_numbers_that_they_are(tmp_path: Path) -> None:
    for name in "abc":
        picture(tmp_path / f"{name}.png", np.zeros((3, 3), np.uint8))
    (tmp_path / "labels.csv").write_text("file,label\na.png,7.0\nb.png,10.0\nc.png,2\n")
    assert load_images(tmp_path).labels.tolist() == [7, 10, 2]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("file,label\na.png,\n", "row 1 has no label"),
        ("file,label\na.png,1\na.png,2\n", "row 2 names 'a.png', as row 1 does"),
        ("path,class\na.png,1\n", "Column headings must be file,label"),
    ],
)
def test_labels_csv_that_leaves_a_label_open_is_refused(tmp_path: Path, rows: str, words: str) -> None:
    picture(tmp_path / "a.png", np.zeros((3, 3), np.uint8))
    (tmp_path / "labels.csv").write_text(rows)
    with pytest.raises(InvalidImage, match=words):
        load_images(tmp_path)


@pytest.mark.parametrize(
    ("images", "way"),
    [
        (np.full((1, 3, 3), 200, np.int64), r"0\.\.255: images\.astype\('uint8'\)"),
        (np.full((1, 3, 3), 2000, np.int64), "value // 257"),
        (np.ones((1, 3, 3), np.bool_), r"\* 255"),
        (np.full((1, 3, 3), 200.0), "by 255"),
        (np.full((1, 3, 3), -1.0), "mean"),
    ],
)
def test_images_of_another_type_are_refused_with_the_way_out_that_fits(images: NDArray[np.generic], way: str) -> None:
    with pytest.raises(InvalidImage, match=way):
        check_images(images)


def test_labels_csv_with_an_unknown_file_names_row_and_file(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", np.zeros((3, 3), np.uint8))
    (tmp_path / "labels.csv").write_text("a.png,7\nb.png,1\n")
    refused(tmp_path, "row 2", "b.png")


def test_labels_csv_cannot_reach_outside_the_folder(tmp_path: Path) -> None:
    picture(tmp_path / "secret.png", np.zeros((3, 3), np.uint8))
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "labels.csv").write_text("../secret.png,7\n")
    refused(inside, "outside")


def test_labels_csv_takes_whole_paths_into_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.png", "sub/b.png"):
        picture(tmp_path / "set" / name, np.zeros((3, 3), np.uint8))
    place = tmp_path / "set"
    (place / "labels.csv").write_text(f"file,label\n{place}/a.png,7\n{place}/sub/b.png,3\n")
    monkeypatch.chdir(tmp_path)
    found = load_images("set")
    assert found.names == ("a.png", "sub/b.png")
    assert found.labels.tolist() == [7, 3]
    (place / "labels.csv").write_text("a.png,7\nsub/../a.png,3\n")
    refused(place, "row 2", "as row 1 does")


def test_the_picture_that_an_error_names_does_not_depend_on_the_folders_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("b.png", "a.png", "c.png"):
        picture(tmp_path / name, np.zeros((3, 3), np.uint8))
    listed = sorted(tmp_path.iterdir())
    for order in (listed, listed[::-1]):
        monkeypatch.setattr(Path, "iterdir", lambda _, order=order: iter(order))
        refused(tmp_path, "holds pictures such as 'a.png'")


def test_pictures_that_nothing_names_are_left_out_and_listed(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "sub/c.jpg", ".cache/d.png", "._a.png"):
        picture(tmp_path / name, np.zeros((3, 3), np.uint8))
    (tmp_path / "e.gif").write_bytes(b"GIF89a")
    (tmp_path / "notes.txt").write_text("none")
    (tmp_path / "labels.csv").write_text("a.png,7\n")
    found = load_images(tmp_path)
    assert found.names == ("a.png",)
    assert found.left_out == ("b.png", "e.gif", "sub/c.jpg")


def test_what_archives_leave_is_no_class_and_no_picture(tmp_path: Path) -> None:
    for name in ("0", "1", "2"):
        picture(tmp_path / name / "a.png", np.zeros((3, 3), np.uint8))
    picture(tmp_path / "2" / "deeper" / "b.png", np.zeros((3, 3), np.uint8))
    (tmp_path / "0" / "._a.png").write_bytes(b"no picture")
    (tmp_path / "__MACOSX" / "0").mkdir(parents=True)
    found = load_images(tmp_path)
    assert found.labels.tolist() == [0, 1, 2]
    assert found.left_out == ("2/deeper/b.png",)


def test_what_was_written_about_a_run_is_no_class_and_no_picture(tmp_path: Path) -> None:
    for name in ("cat/a.png", "dog/b.png", "dog/run/adversarial/c.png", "a-run/adversarial/d.png"):
        picture(tmp_path / name, np.zeros((3, 3), np.uint8))
    for name, content in (("a-run", "plan"), ("dog/run", "result")):
        (tmp_path / name / f"{content}.json").write_text(f'{{\n "format": "robustest/{content}",\n "version": 1\n}}')
    found = load_images(tmp_path)
    assert (found.names, found.class_names) == (("cat/a.png", "dog/b.png"), ("cat", "dog"))
    assert (found.left_out, found.runs) == ((), ("a-run", "dog/run"))
    (tmp_path / "cat" / "result.json").write_text('{"format": "robustest/result"}')  # a class folder stays one
    (tmp_path / "cow").mkdir()
    (tmp_path / "cow" / "result.json").write_text('{"format": "another"}')  # and another's file makes no run
    assert load_images(tmp_path).class_names == ("cat", "cow", "dog")


def test_folders_of_numbers_and_names_are_refused_since_either_reading_shifts_classes(tmp_path: Path) -> None:
    for name in ("0", "1", "notes"):
        picture(tmp_path / name / "a.png", np.zeros((3, 3), np.uint8))
    refused(tmp_path, "'0' and 'notes'", "Move away")


def test_mixed_sizes_name_both_files(tmp_path: Path) -> None:
    picture(tmp_path / "x" / "a.png", np.zeros((3, 3), np.uint8))
    picture(tmp_path / "x" / "b.png", np.zeros((3, 4), np.uint8))
    refused(tmp_path, "a.png is 3x3", "b.png is 4x3")


def test_sixteen_bit_and_corrupt_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidImage, match="uint16"):
        load_picture(picture(tmp_path / "deep.png", np.zeros((3, 3), np.uint16)))
    whole = picture(tmp_path / "whole.png", np.zeros((30, 30), np.uint8)).read_bytes()
    (tmp_path / "short.png").write_bytes(whole[:30])
    with pytest.raises(InvalidImage, match="cannot be decoded"):
        load_picture(tmp_path / "short.png")


def test_loose_pictures_without_labels_say_how_to_give_them(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", np.zeros((3, 3), np.uint8))
    refused(tmp_path, "labels are missing", "labels.csv")


def test_empty_folder_is_nothing_to_test(tmp_path: Path) -> None:
    refused(tmp_path, "holds no picture", error=NothingToTest)


def test_npz_that_is_no_archive_or_lacks_labels_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(InvalidImage, match="cannot be read"):
        load_images(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", images=np.zeros((1, 2, 2, 1), np.uint8))
    with pytest.raises(InvalidImage, match="'labels'"):
        load_images(tmp_path / "b.npz")


def test_pickled_objects_in_an_npz_are_never_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.array([{"a": 1}], dtype=object), labels=[0])
    with pytest.raises(InvalidImage):
        load_images(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("array", "word"),
    [
        (np.zeros((1, 3, 8, 8), np.uint8), "transpose"),
        (np.zeros((1, 8, 8, 3), np.uint16), "uint16"),
        (np.full((1, 8, 8, 3), 2.0), "Divide"),
        (np.full((1, 8, 8, 3), np.nan), "NaN"),
        (np.zeros((8, 8), np.uint8), "axis"),
    ],
)
def test_arrays_that_are_no_images_say_what_to_do(array: NDArray[np.generic], word: str) -> None:
    with pytest.raises(InvalidImage, match=word):
        check_images(array)


@pytest.mark.parametrize(
    ("labels", "way"),
    [
        ([[0], [1]], "labels[:, 0]"),
        ([[0, 1, 0], [1, 0, 0]], "labels.argmax(axis=1)"),
        (["cat", "dog"], "'class_names'"),
    ],
)
def test_labels_of_another_form_are_refused_with_the_way_out_that_fits(labels: list[object], way: str) -> None:
    with pytest.raises(InvalidImage, match=re.escape(way)):
        check_labels(np.array(labels), 2, None)


def test_labels_out_of_range_name_the_image() -> None:
    with pytest.raises(InvalidImage, match="image 1"):
        check_labels([0, 10], 2, 10)
    with pytest.raises(InvalidImage, match=">= 0"):
        check_labels([0, -1], 2, None)
    with pytest.raises(InvalidImage, match="one number an image"):
        check_labels([0], 2, None)
