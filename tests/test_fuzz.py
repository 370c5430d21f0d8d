"""Hostile input: whatever the bytes, a usable value or a clear error, no hang, bounded memory, nothing read outside."""

from __future__ import annotations

import io
import json
import struct
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from robustest.classifiers import load_classifier
from robustest.classifiers.served_http import Reply, _retry_after
from robustest.classifiers.served_settings import ServerSettings, read_address
from robustest.classifiers.served_transport import (
    GarbledError,
    RefusedError,
    Signature,
    TransientError,
)
from robustest.classifiers.served_v2 import V2Http, parsed, signature_of
from robustest.classifiers.spec import InputSpec, read_spec, spec_of_table
from robustest.errors import InvalidImage, InvalidSetting, InvalidSpec, ModelError, RobustestError
from robustest.images import MAX_PICTURE_PIXELS, ImageSet, load_images, load_picture
from tests.models import write_linear_onnx

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (6, 5, 3), dtype=np.uint8)
SECONDS = 5.0


@contextmanager
def bounded(megabytes: int = 64) -> Iterator[None]:
    """Python and numpy may take so much, and the block so many seconds."""
    tracemalloc.start()
    started = time.monotonic()
    try:
        yield
        assert time.monotonic() - started < SECONDS
        assert tracemalloc.get_traced_memory()[1] < megabytes << 20
    finally:
        tracemalloc.stop()


def damaged(data: bytes) -> st.SearchStrategy[bytes]:
    """The data with bytes changed, put in, taken out or cut off."""
    place = st.integers(0, len(data))
    change = st.tuples(place, st.integers(0, 4), st.binary(max_size=8))

    def apply(changes: list[tuple[int, int, bytes]]) -> bytes:
        out = data
        for at, taken, put in changes:
            out = out[:at] + put + out[at + taken :]
        return out

    return st.lists(change, min_size=1, max_size=6).map(apply)


def encoded(suffix: str) -> bytes:
    done, data = cv2.imencode(suffix, PICTURE)
    assert done
    return bytes(data)


@given(data=st.data(), suffix=st.sampled_from([".png", ".jpg", ".bmp", ".ppm", ".tiff", ".webp"]))
def test_a_damaged_picture_is_a_picture_or_refused(tmp_path_factory: Any, data: st.DataObject, suffix: str) -> None:
    path = tmp_path_factory.getbasetemp() / f"damaged{suffix}"
    path.write_bytes(data.draw(st.one_of(damaged(encoded(suffix)), st.binary(max_size=64))))
    with bounded():
        try:
            picture = load_picture(path)
        except InvalidImage:
            return
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert picture.shape[2] in (1, 3)


def png(width: int, height: int, rows: int) -> bytes:
    """A PNG that claims a size and holds so many rows of black."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(3 * width + 1)) for _ in range(rows)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def test_a_picture_that_would_unpack_beyond_the_bound_is_refused_before_it_is(tmp_path: Path) -> None:
    side = int(MAX_PICTURE_PIXELS**0.5) + 1
    (tmp_path / "bomb.png").write_bytes(png(side, side, 50))
    with bounded(), pytest.raises(InvalidImage, match="cannot be decoded"):
        load_picture(tmp_path / "bomb.png")


def npz(images: bytes, labels: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", images)
        archive.writestr("labels.npy", labels)
    return out.getvalue()


def npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def npy_head(shape: str, descr: str = "'|u1'", body: bytes = b"") -> bytes:
    head = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + body


GOOD_NPZ = npz(npy(PICTURE[None]), npy(np.array([1])))


def checked_npz(path: Path, data: bytes) -> ImageSet | None:
    path.write_bytes(data)
    with bounded():
        try:
            found = load_images(path)
        except RobustestError:
            return None
    assert found.images.ndim == 4
    assert len(found.images) == len(found.labels) == len(found.names)
    assert (found.labels >= 0).all()
    return found


@given(st.data())
def test_a_damaged_npz_is_a_set_of_images_or_refused(tmp_path_factory: Any, data: st.DataObject) -> None:
    inner = npz(data.draw(damaged(npy(PICTURE[None]))), npy(np.array([1])))
    for content in (inner, data.draw(damaged(GOOD_NPZ)), data.draw(st.binary(max_size=64))):
        checked_npz(tmp_path_factory.getbasetemp() / "damaged.npz", content)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (npy_head("(1000000000000, 28, 28)"), npy([0])),
        (npy_head("(4611686018427387904, 4611686018427387904)"), npy([0])),
        (npy_head("(-1, 28, 28)"), npy([0])),
        (npy_head("(2,)", "'|O'", b"x" * 16), npy([0])),
        (npy_head("(1, 2)", "[('a', '|u1')]", b"xx"), npy([0])),
        (npy_head("(" * 50 + ")" * 50), npy([0])),
        (npy(PICTURE[None]), npy([np.inf])),
        (npy(PICTURE[None]), npy([1e300])),
        (npy(PICTURE[None]), npy(np.array([2**64 - 1], np.uint64))),
        (npy(PICTURE[None]), npy(["class"])),
        (npy(np.full((1, 2, 2, 1), np.nan)), npy([0])),
    ],
)
def test_an_archive_that_lies_is_refused(tmp_path: Path, images: bytes, labels: bytes) -> None:
    assert checked_npz(tmp_path / "a.npz", npz(images, labels)) is None


@given(st.binary(max_size=80), st.text(max_size=40))
@example(b"", "picture.png,\N{SUPERSCRIPT TWO}")
@example(b"", "picture.png," + "9" * 5000)
@example(b"", "a\0b,1")
@example(b"", "a" * 5000 + ",1")
@example(b"", "../outside.png,1")
@example(b"", "link.png,1")
@example(b"", "/etc/hostname,1")
def test_a_list_of_labels_names_pictures_inside_or_is_refused(tmp_path_factory: Any, data: bytes, text: str) -> None:
    base = tmp_path_factory.getbasetemp() / "listed"
    folder = base / "pictures"
    if not folder.exists():
        folder.mkdir(parents=True)
        for place in (base / "outside.png", folder / "picture.png"):
            cv2.imwrite(str(place), PICTURE)
        (folder / "link.png").symlink_to(base / "outside.png")
    (folder / "labels.csv").write_bytes(data + text.encode("utf-8", "surrogatepass"))
    with bounded():
        try:
            found = load_images(folder)
        except RobustestError:
            return
    assert set(found.names) == {"picture.png"}  # nothing outside, by whatever name


@pytest.mark.parametrize("name", ["\N{SUPERSCRIPT TWO}", "9" * 40, "-1", "1e3"])
def test_a_folders_name_that_only_looks_like_a_number_is_a_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    cv2.imwrite(str(tmp_path / name / "a.png"), PICTURE)
    assert load_images(tmp_path).class_names == (name,)


def test_a_manifest_that_is_nonsense_names_no_classes(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(GOOD_NPZ)
    for content in (b"[" * 100_000, b"\xff", b'{"data": [{"file": 3}]}', b"{}"):
        (tmp_path / "manifest.json").write_bytes(content)
        assert load_images(tmp_path / "a.npz").class_names == ()


values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=8,
)
KEYS = ("layout", "channels", "scale", "mean", "std", "output", "input", "server", "other")


@given(st.one_of(st.text(max_size=60), st.dictionaries(st.sampled_from(KEYS), values, max_size=4).map(repr)))
@example("a = " + "[" * 20_000)
@example("scale = " + "9" * 5000)
@example("scale = " + "9" * 400)
@example('scale = "1e9999999"')
@example('scale = "1/' + "9" * 500 + '"')
@example("scale = true")
@example("mean = [[1]]")
@example("input = 3")
def test_a_spec_file_is_a_spec_or_refused(tmp_path_factory: Any, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "spec.toml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    with bounded():
        try:
            spec = read_spec(path)
        except InvalidSpec:
            return
    assert np.isfinite([spec.scale, *spec.mean, *spec.std]).all()


@given(st.dictionaries(st.sampled_from(KEYS), values, max_size=4))
def test_a_spec_of_any_values_is_a_spec_or_refused(table: dict[str, Any]) -> None:
    with suppress(InvalidSpec):
        assert isinstance(spec_of_table(table, where="test"), InputSpec)


@given(
    st.one_of(st.text(max_size=40), st.text(max_size=30).map("v2+http://h:1/m#".__add__)),
    st.dictionaries(st.sampled_from(sorted(ServerSettings.__slots__)), values, max_size=4),
)
def test_a_served_models_url_and_table_are_settings_or_refused(url: str, table: dict[str, Any]) -> None:
    for address in (url, "v2+http://h/m"):
        with suppress(InvalidSetting):
            assert read_address(address, table)[1].timeout > 0


@pytest.fixture(scope="module")
def good_onnx(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("onnx") / "good.onnx"
    weights = RNG.normal(size=(12, 2))
    return write_linear_onnx(path, weights, RNG.normal(size=2), shape=("n", 2, 2, 3)).read_bytes()


@given(data=st.data())
def test_a_damaged_onnx_file_scores_or_is_refused(good_onnx: bytes, tmp_path_factory: Any, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(data.draw(damaged(good_onnx)))
    with bounded():
        try:
            classifier = load_classifier(path, threads=1)
            assert np.isfinite(classifier(np.zeros((1, 2, 2, 3), np.float32))).all()
        except RobustestError:
            return


def test_an_onnx_file_reads_no_data_from_outside_its_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(48))
    folder = tmp_path / "model"
    folder.mkdir()
    path = write_linear_onnx(folder / "m.onnx", np.zeros((12, 1)), np.zeros(1), shape=("n", 2, 2, 3))
    for location in ("../secret.bin", str(tmp_path / "secret.bin")):
        model = onnx.load(str(path), load_external_data=False)
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        del tensor.external_data[:]
        tensor.external_data.add(key="location", value=location)
        path.write_bytes(model.SerializeToString())
        with pytest.raises(ModelError, match=r"m\.onnx"):
            load_classifier(path)


class Canned:
    """A client to which every request is answered alike."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply

    def exchange(self, *_: Any) -> Reply:
        return self.reply

    def close(self) -> None:
        pass


SIGNATURE = Signature("x", None, "FP32", (None, 2, 2, 3), None)
ANSWER = {"outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}]}
BATCH = np.zeros((1, 2, 2, 3), np.float32)
tensors = st.fixed_dictionaries(
    {},
    optional={
        "name": values,
        "datatype": st.one_of(st.sampled_from(["FP32", "INT64", "UINT8", "BYTES"]), values),
        "shape": st.one_of(st.lists(st.integers(-2, 2**70), max_size=3), values),
        "data": st.one_of(st.lists(st.floats(), max_size=4), values),
        "parameters": st.one_of(st.dictionaries(st.just("binary_data_size"), st.integers(-1, 99)), values),
    },
)


@given(
    body=st.one_of(
        st.binary(max_size=60),
        damaged(json.dumps(ANSWER).encode()),
        values.map(lambda value: json.dumps(value).encode()),
        st.lists(tensors, max_size=3).map(lambda found: json.dumps({"outputs": found}).encode()),
    ),
    raw=st.binary(max_size=16),
    length=st.one_of(st.none(), st.integers(-5, 500).map(str), st.text(max_size=5)),
)
def test_any_answer_is_an_array_or_garbled(body: bytes, raw: bytes, length: str | None) -> None:
    headers = {} if length is None else {"Inference-Header-Content-Length": length or str(len(body))}
    transport = V2Http(Canned(Reply(200, headers, body + raw)), "/m", binary=True)  # type: ignore[arg-type]
    with bounded():
        try:
            answer = transport.infer(BATCH, SIGNATURE)
        except (GarbledError, RefusedError, TransientError):
            return
    assert answer.size <= len(body) + len(raw)


@given(values)
def test_any_metadata_is_a_signature_or_refused(page: Any) -> None:
    for shown in (page, {"inputs": page, "outputs": page}, {"inputs": [{"shape": page, "datatype": page}]}):
        try:
            signature = signature_of(shown if isinstance(shown, dict) else {}, ServerSettings(), source="s")
        except ModelError:
            continue
        assert len(signature.shape) == 4


@given(st.text(max_size=30))
@example("Wed, 21 Oct 2015 07:28:00 GMT")
@example("nan")
@example("1e400")
@example("-5")
def test_any_retry_after_is_seconds_or_nothing(value: str) -> None:
    seconds = _retry_after(value)
    assert seconds is None or 0 <= seconds < float("inf")


@pytest.mark.parametrize("body", [b"[" * 200_000, b'{"a":' * 100_000, b"9" * 100_000, b"\xff\xfe", b"", b"NaN "])
def test_json_that_is_deep_long_or_none_is_garbled_or_read(body: bytes) -> None:
    with bounded(256):
        try:
            parsed(body)
        except GarbledError:
            return
    assert body == b"NaN "
