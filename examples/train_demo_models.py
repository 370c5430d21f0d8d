"""Train the two small Fashion-MNIST classifiers that ship inside the package, from nothing.

    python examples/train_demo_models.py --data /usr/share/datasets/fashion-mnist --out robustest/demo/models

Both have the same layers and differ in their training alone: `plain` is trained as usual; `provable` also
lowers the loss of the worst scores that interval bounds allow in a ball around each training image, so that
the same bounds certify many test images afterwards.

Writes for each NAME.onnx and NAME.safetensors with the same weights, and `manifest.json` with the input spec,
digests and what was measured on the 10,000 test images, into the folder --out; into the folder above it
`images.npz`, the first 20 test images of each class. The same seed gives the same files on the same machine
with the same versions. A whole run took 10 minutes on a shared 2-core machine, 7.6 minutes of one core.

Source: interval bound propagation, Gowal et al. 2018, arXiv:1810.12715. Departures: the last layer is bounded
on differences of scores (one interval for `score of the label - score of another class`); images are mirrored
at random. Needs torch, safetensors and onnx: pip install 'robustest[bounds]'.
"""

from __future__ import annotations

import copy
import gzip
import hashlib
import json
import math
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cyclopts
import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save
from torch import Tensor, nn
from torch.nn import functional

from robustest.errors import InvalidImage, InvalidSetting, RobustestError

# In the order of the labels.
CLASSES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag"]
CLASSES += ["Ankle boot"]
SIDE = 28
SHIPPED_PER_CLASS = 20
REPORTED_EPSILONS = (0.02, 0.05, 0.1)
PGD_STEPS = 20
LAYERS = "Conv16 4x4 s2 p1 - ReLU - Conv32 4x4 s2 p1 - ReLU - Flatten - FC40 - ReLU - FC10"


@dataclass(frozen=True, slots=True)
class Split:
    """One half of the data set.

    images: (N, 1, 28, 28) uint8.
    labels: (N,) int64, 0 to 9.
    """

    images: Tensor
    labels: Tensor

    def batches(self, dtype: torch.dtype = torch.float32) -> Iterator[tuple[Tensor, Tensor]]:
        """Images in [0, 1] and labels, in order, 500 at a time."""
        for rows in torch.arange(len(self.labels)).chunk(max(len(self.labels) // 500, 1)):
            yield self.images[rows].to(dtype) / 255, self.labels[rows]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one of the models is trained.

    name: of its files.
    epochs: passes over the training images.
    rate: highest learning rate of Adam.
    shift: images move by up to so many pixels, each batch as one.
    epsilon: radius of the Linf ball whose worst scores are trained on, in [0, 1]; 0 for usual training.
    clean_weight: weight of the usual loss once the ball has its full radius; the rest is the worst one's.
    """

    name: str
    epochs: int
    rate: float
    shift: int = 0
    epsilon: float = 0.0
    clean_weight: float = 1.0

    def schedule(self, progress: float) -> tuple[float, float, float]:
        """Learning rate, radius and weight of the usual loss at `progress` in [0, 1] of the training.

        The rate rises until 10 % and falls from 60 %, both in a line. The radius grows from 5 % to 55 %:
        at its full size from the start it would teach constants.
        """
        grown = min(max((progress - 0.05) / 0.5, 0.0), 1.0)
        rate = self.rate * min(progress / 0.1, (1 - progress) / 0.4, 1.0)
        return rate, self.epsilon * grown, 1 - (1 - self.clean_weight) * grown


RECIPES = (
    Recipe("plain", epochs=25, rate=3e-3, shift=1),
    Recipe("provable", epochs=30, rate=1e-3, epsilon=0.1, clean_weight=0.5),
)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Array of unsigned bytes from a gzipped file in the IDX format of MNIST (magic 00 00 08 dimensions)."""
    try:
        content = gzip.decompress(path.read_bytes())
    except FileNotFoundError as error:
        raise InvalidSetting(
            f"--data has no file {path.name} (looked in {path.parent}). Install the data set: "
            "apt-get install dataset-fashion-mnist, then --data /usr/share/datasets/fashion-mnist"
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidImage(f"{path} must be a whole gzip file: {error}. Install the data set again.") from error
    start = 4 + 4 * content[3] if content[:3] == b"\0\0\x08" else 0
    shape = tuple(int(side) for side in np.frombuffer(content[4:start], dtype=">u4"))
    if not start or len(content) - start != math.prod(shape):
        raise InvalidImage(f"{path} must be an IDX file of bytes; got {content[:16].hex()}, {len(content)} bytes.")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def read_split(folder: Path, name: str) -> Split:
    """The split `train` or `t10k` of the data set in `folder`."""
    images = read_idx(folder / f"{name}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{name}-labels-idx1-ubyte.gz")
    if images.shape[1:] != (SIDE, SIDE) or labels.shape != images.shape[:1] or labels.max(initial=0) > 9:
        raise InvalidImage(
            f"{folder} must hold 28x28 images, one label of 0 to 9 each; "
            f"got images {images.shape} and labels {labels.shape} in {name}."
        )
    return Split(torch.tensor(images)[:, None], torch.tensor(labels, dtype=torch.int64))


def build() -> nn.Sequential:
    """The classifier: (N, 1, 28, 28) in [0, 1] to (N, 10) logits; 71,666 parameters.

    Strided convolutions in place of pooling: interval bounds lose nothing of their own there.
    """
    convolutions = [nn.Conv2d(1, 16, 4, stride=2, padding=1), nn.Conv2d(16, 32, 4, stride=2, padding=1)]
    dense = [nn.Linear(32 * 7 * 7, 40), nn.Linear(40, len(CLASSES))]
    return nn.Sequential(
        convolutions[0], nn.ReLU(), convolutions[1], nn.ReLU(), nn.Flatten(), dense[0], nn.ReLU(), dense[1]
    )


def margin_bounds(model: nn.Sequential, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """Lower bounds of `score of the label - score of class j` over the Linf ball cut to [0, 1].

    Intervals as centre and radius; an affine layer takes (c, r) to (W c + b, |W| r).

    Args:
        images: (N, 1, 28, 28) in [0, 1].
        labels: (N,).
        epsilon: radius of the ball, >= 0.

    Returns:
        (N, K), 0 in the label's own column. An image is certified where all others are > 0.
    """
    low, high = (images - epsilon).clamp(0, 1), (images + epsilon).clamp(0, 1)
    centre, radius = (high + low) / 2, (high - low) / 2
    *layers, last = model
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            radius = functional.conv2d(radius, layer.weight.abs(), None, layer.stride, layer.padding)
            centre = layer(centre)
        elif isinstance(layer, nn.Linear):
            centre, radius = layer(centre), functional.linear(radius, layer.weight.abs())
        elif isinstance(layer, nn.ReLU):
            low, high = (centre - radius).relu(), (centre + radius).relu()
            centre, radius = (high + low) / 2, (high - low) / 2
        else:
            centre, radius = layer(centre), layer(radius)
    assert isinstance(last, nn.Linear)
    weight = last.weight[labels][:, None] - last.weight
    bias = last.bias[labels][:, None] - last.bias
    return (weight @ centre[..., None] - weight.abs() @ radius[..., None])[..., 0] + bias


def augment(images: Tensor, shift: int, generator: torch.Generator) -> Tensor:
    """Mirror each image with probability 1/2 and move the batch by up to `shift` pixels, black coming in."""
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    row, column = torch.randint(0, 2 * shift + 1, (2,), generator=generator).tolist()
    padded = functional.pad(images, (shift,) * 4)
    return padded[:, :, row : row + SIDE, column : column + SIDE]


def train(recipe: Recipe, split: Split, *, epochs: int, batch: int, seed: int) -> nn.Sequential:
    """Train one model; prints a line per epoch. `seed` decides weights, order and augmentation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.rate)
    steps, started = max(len(split.labels) // batch, 1), time.monotonic()
    for epoch in range(epochs):
        order, total = torch.randperm(len(split.labels), generator=generator), 0.0
        for step in range(steps):
            rows = order[step * batch : (step + 1) * batch]
            labels = split.labels[rows]
            images = augment(split.images[rows].float() / 255, recipe.shift, generator)
            rate, epsilon, clean_weight = recipe.schedule((epoch * steps + step) / (epochs * steps))
            loss = clean_weight * functional.cross_entropy(model(images), labels)
            if epsilon > 0:
                worst = functional.cross_entropy(-margin_bounds(model, images, labels, epsilon), labels)
                loss = loss + (1 - clean_weight) * worst
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            total += loss.item()
        spent = time.monotonic() - started
        left = spent / (epoch + 1) * (epochs - epoch - 1)
        done = f"{recipe.name}  epoch {epoch + 1}/{epochs}  loss {total / steps:.4f}"
        print(f"{done}  {spent:.0f} s, {left:.0f} s left", flush=True)
    return model.eval().requires_grad_(False)


def correct(model: nn.Sequential, split: Split) -> NDArray[np.bool_]:
    """(N,) whether the highest score is the label's."""
    return np.concatenate([(model(x).argmax(1) == y).numpy() for x, y in split.batches()])


def certified(model: nn.Sequential, split: Split, epsilon: float) -> NDArray[np.bool_]:
    """(N,) whether interval bounds prove the label in the ball; float64, rounding not accounted for."""
    exact, found = copy.deepcopy(model).double(), []
    for images, labels in split.batches(torch.float64):
        margins = margin_bounds(exact, images, labels, epsilon)
        margins[torch.arange(len(labels)), labels] = np.inf
        found.append((margins.amin(1) > 0).numpy())
    return np.concatenate(found)


def survives_pgd(model: nn.Sequential, split: Split, epsilon: float) -> NDArray[np.bool_]:
    """(N,) whether the label survives projected gradient ascent on the loss from the image itself.

    Madry et al. 2018, arXiv:1706.06083: steps of the gradient's sign times epsilon / 4.
    """
    found = []
    for images, labels in split.batches():
        low, high = (images - epsilon).clamp(0, 1), (images + epsilon).clamp(0, 1)
        moved, alive = images, model(images).argmax(1) == labels
        for _ in range(PGD_STEPS):
            moved = moved.detach().requires_grad_()
            (slope,) = torch.autograd.grad(functional.cross_entropy(model(moved), labels), moved)
            moved = (moved.detach() + epsilon / 4 * slope.sign()).clamp(low, high)
            alive &= model(moved).argmax(1) == labels
        found.append(alive.numpy())
    return np.concatenate(found)


def onnx_model(model: nn.Sequential, name: str) -> onnx.ModelProto:
    """The model as an ONNX graph from `input` to `logits`, the first axis free; weights named as in torch."""
    nodes, weights, value = [], [], "input"
    for index, layer in enumerate(model):
        result = "logits" if index == len(model) - 1 else f"hidden{index}"
        names = [f"{index}.{key}" for key, _ in layer.named_parameters()]
        weights += [numpy_helper.from_array(v.numpy(), f"{index}.{k}") for k, v in layer.named_parameters()]
        settings: dict[str, Any] = {}
        if isinstance(layer, nn.Conv2d):
            settings = {"strides": list(layer.stride), "pads": [int(side) for side in layer.padding] * 2}
        elif isinstance(layer, nn.Linear):
            settings = {"transB": 1}
        kind = {nn.Conv2d: "Conv", nn.Linear: "Gemm", nn.ReLU: "Relu", nn.Flatten: "Flatten"}[type(layer)]
        nodes.append(helper.make_node(kind, [value, *names], [result], **settings))
        value = result
    source = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 1, SIDE, SIDE])
    sink = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(CLASSES)])
    graph = helper.make_graph(nodes, name, [source], [sink], weights)
    opset = [helper.make_opsetid("", 13)]
    made = helper.make_model(graph, opset_imports=opset, ir_version=8, producer_name="robustest")
    onnx.checker.check_model(made, full_check=True)
    return made


def shipped(split: Split) -> NDArray[np.int64]:
    """Positions of the first images of each class in the split, interleaved: class 0, 1, ... 9, 0, 1, ..."""
    labels = split.labels.numpy()
    return np.stack([np.flatnonzero(labels == k)[:SHIPPED_PER_CLASS] for k in range(len(CLASSES))], 1).ravel()


def shares(found: NDArray[np.bool_], rows: NDArray[np.int64], word: str) -> dict[str, Any]:
    """Share of the test set and of the shipped images, with the counts, for the manifest."""
    sets = {"full_test_set": found, "shared_images": found[rows]}.items()
    return {k: {"n": len(v), "count": int(v.sum()), word: round(float(v.mean()), 4)} for k, v in sets}


def describe(path: Path) -> dict[str, str | int]:
    """Name, size and digest of a file, for the manifest."""
    content = path.read_bytes()
    return {"file": path.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def measure(model: nn.Sequential, test: Split, rows: NDArray[np.int64]) -> dict[str, Any]:
    """Accuracy, certified shares and shares that survive PGD, as they stand in the manifest; prints them."""
    right = correct(model, test)
    print(f"accuracy {right.mean():.2%} of {len(right)}")
    proven, attacked = [], []
    for epsilon in REPORTED_EPSILONS:
        found, alive = certified(model, test, epsilon), survives_pgd(model, test, epsilon)
        proven.append({"norm": "linf", "eps": epsilon, **shares(found, rows, "share")})
        figures = {"clean": round(float(right.mean()), 4), "robust_acc": round(float(alive.mean()), 4)}
        attacked.append({"eps": epsilon, "steps": PGD_STEPS, "n": len(alive), **figures})
        print(f"Linf {epsilon}: certified {found.mean():.2%}, right after PGD-{PGD_STEPS} {alive.mean():.2%}")
    return {
        "accuracy": shares(right, rows, "accuracy"),
        "certified": proven,
        "certified_by": "interval bounds, last layer on score differences; float64, rounding ignored",
        "pgd": attacked,
    }


def write_model(recipe: Recipe, model: nn.Sequential, out: Path, training: str) -> dict[str, Any]:
    """Write one model's two files; its entry in the manifest, without what was measured."""
    onnx_path, weights_path = out / f"{recipe.name}.onnx", out / f"{recipe.name}.safetensors"
    onnx_path.write_bytes(onnx_model(model, recipe.name).SerializeToString(deterministic=True))
    weights_path.write_bytes(save({key: value.numpy() for key, value in model.state_dict().items()}))
    kind = f"interval bounds (IBP), Linf {recipe.epsilon:g}" if recipe.epsilon else "standard"
    return {
        "id": recipe.name, **describe(onnx_path), "dataset": "fashion", "data": "../images.npz",
        "architecture": LAYERS, "parameters": sum(value.numel() for value in model.parameters()),
        "input": {"name": "input", "shape": ["batch", 1, SIDE, SIDE], "layout": "NCHW", "channels": "gray",
                  "dtype": "float32", "scale": "1/255", "mean": [0], "std": [1]},
        "output": {"name": "logits", "shape": ["batch", len(CLASSES)], "kind": "logits"},
        "opset": 13, "training": f"{kind}; {training}",
        "robust": f"yes (trained for Linf {recipe.epsilon:g})" if recipe.epsilon else "no",
        "source": "examples/train_demo_models.py", "licence": "Apache-2.0",
        "state_dict": describe(weights_path),
    }  # fmt: skip


def write_images(test: Split, rows: NDArray[np.int64], path: Path) -> dict[str, Any]:
    """Write the shipped images; their entry in the manifest."""
    images = test.images[rows].permute(0, 2, 3, 1).contiguous().numpy()
    np.savez_compressed(path, images=images, labels=test.labels[rows].numpy(), index=rows, class_names=CLASSES)
    return {
        **describe(path), "file": "../images.npz", "dataset": "fashion",
        "description": f"Fashion-MNIST test set, 28x28 gray; the first {SHIPPED_PER_CLASS} of each class",
        "side": SIDE, "n": len(rows), "shape": list(images.shape), "dtype": "uint8", "layout": "NHWC",
        "channels": "gray", "arrays": ["class_names", "images", "index", "labels"], "classes": CLASSES,
        "n_classes": len(CLASSES), "source": "Debian package dataset-fashion-mnist",
        "licence": "MIT (Zalando SE), see ../LICENSE-fashion-mnist",
    }  # fmt: skip


def train_and_write(*, data: Path, out: Path, seed: int = 0, epochs: int = 0, batch: int = 128) -> None:
    """Train the two Fashion-MNIST classifiers that ship inside robustest; about 8 minutes of one core.

    Args:
        data: folder with the four *-ubyte.gz files of the data set.
        out: folder for the models and manifest.json; images.npz goes into the folder above it.
        seed: of weights, order and augmentation.
        epochs: passes over the training images, for a quick try; 0 for each model's own number.
        batch: images in a training step.
    """
    for flag, number, least in (("seed", seed, 0), ("epochs", epochs, 0), ("batch", batch, 1)):
        if number < least:
            raise InvalidSetting(f"--{flag} must be {least} or more; got {number}.")
    training, test = read_split(data, "train"), read_split(data, "t10k")
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # sums in another order would give other weights
    rows, models = shipped(test), []
    for recipe in RECIPES:
        passes = epochs or recipe.epochs
        model = train(recipe, training, epochs=passes, batch=batch, seed=seed)
        how = f"Adam, {passes} epochs, batch {batch}, seed {seed}, torch {torch.__version__}"
        models.append({**write_model(recipe, model, out, how), **measure(model, test, rows)})
    manifest = {
        "format": 1,
        "preprocessing": "x_model = (x_uint8 * scale - mean) / std per channel; transpose NHWC -> NCHW",
        "models": models,
        "data": [write_images(test, rows, out.parent / "images.npz")],
    }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit code."""
    app = cyclopts.App(name="train_demo_models.py", default_command=train_and_write)
    try:
        app(arguments, result_action="return_value")
    except RobustestError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: --out cannot be written: {error}. Name another folder.", file=sys.stderr)
        return RobustestError.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
