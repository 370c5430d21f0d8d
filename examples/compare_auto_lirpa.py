"""Margin bounds beside those of auto_LiRPA on the same networks, images and balls, both in float64 on one thread.

    PYTHONPATH=path/to/auto_LiRPA python examples/compare_auto_lirpa.py NETS [--images 8] [--out reports/auto_lirpa.md]

NETS is a folder that `examples/small_networks.py` wrote. auto_LiRPA is no dependency (its release on PyPI is of 2022);
its repository is Verified-Intelligence/auto_LiRPA, and a copy on PYTHONPATH is enough. What is compared is the least
lower bound of the nine margins. In Linf both bound the ball cut by [0, 1] and do the same mathematics, so they must
agree; there ours is asked for exact real arithmetic, since theirs accounts for no rounding. In L2, L1 and L0 ours
takes the minimum over (ball and [0, 1]) and is never below theirs. Exits with 1 where either fails.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from small_networks import images_of, load

from robustest.bounds.alpha import optimise
from robustest.bounds.checker import Checker
from robustest.bounds.crown import margin_bounds
from robustest.bounds.reading import graph_of, scorer_of
from robustest.bounds.region import Region
from robustest.classifiers.spec import InputSpec
from robustest.settings import Norm

BALLS: tuple[tuple[Norm, float], ...] = (("linf", 0.01), ("linf", 0.03), ("l2", 0.3), ("l1", 2.0), ("l0", 1), ("l0", 3))
GRAY = InputSpec("NCHW", "gray")
AGREE = 1e-6
ALPHA_STEPS = 20


class Theirs:
    """auto_LiRPA on one network."""

    def __init__(self, network: torch.nn.Module, shape: tuple[int, ...]) -> None:
        self.tool: Any = importlib.import_module("auto_LiRPA")
        logging.getLogger("auto_LiRPA").setLevel(logging.ERROR)
        settings = {"conv_mode": "matrix"}
        self.patches = self.tool.BoundedModule(network, torch.zeros(1, *shape).double())
        self.matrix = self.tool.BoundedModule(network, torch.zeros(1, *shape).double(), settings)

    def lower(self, x: torch.Tensor, label: int, norm: Norm, eps: float, method: str) -> float:
        """Least lower bound of the margins around x (1, C, H, W)."""
        rows = torch.eye(10, dtype=torch.float64)
        rows = (rows[label] - rows[[c for c in range(10) if c != label]])[None]
        if norm == "l0":
            ball: Any = importlib.import_module("auto_LiRPA.perturbations").PerturbationL0Norm(eps=int(eps))
            network = self.matrix
        elif norm == "linf":
            low, high = (x - eps).clamp_min(0), (x + eps).clamp_max(1)
            ball = self.tool.PerturbationLpNorm(norm=np.inf, x_L=low, x_U=high)
            network = self.patches
        else:
            ball = self.tool.PerturbationLpNorm(norm=int(norm[1]), eps=eps)
            network = self.patches
        if method != "CROWN":
            network.set_bound_opts({"optimize_bound_args": {"iteration": ALPHA_STEPS}})
        given = self.tool.BoundedTensor(x, ball)
        # Its optimiser makes buffers of the default type.
        torch.set_default_dtype(torch.float64)
        try:
            return float(network.compute_bounds(x=(given,), C=rows, method=method, bound_upper=False)[0].min())
        finally:
            torch.set_default_dtype(torch.float32)


def main() -> int:
    """Compare and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", type=Path)
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    try:
        version = importlib.import_module("auto_LiRPA").__version__
    except ImportError as error:
        sys.exit(f"auto_LiRPA is not importable ({error}): put a copy of its repository on PYTHONPATH.")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    lines, worst, lost = [], 0.0, 0
    images, labels = images_of(options.data, "t10k")
    for kind in ("plain", "adversarial"):
        network = load(options.nets, kind)
        graph, scorer = graph_of(network, GRAY, image_shape=(28, 28, 1)), scorer_of(network, GRAY)
        right = np.flatnonzero(np.asarray(scorer(images[:100])).argmax(1) == labels[:100])[: options.images]
        ours = Checker(graph, scorer, executed=False)
        theirs = Theirs(load(options.nets, kind).double(), (1, 28, 28))
        for norm, eps in BALLS:
            for method in ("CROWN", "CROWN-Optimized") if norm != "l0" else ("CROWN",):
                rows = []
                for i in right.tolist():
                    label = int(labels[i])
                    point = torch.from_numpy(images[i]).reshape(1, -1).double()
                    x = torch.from_numpy(images[i]).permute(2, 0, 1)[None].double()
                    region = Region.ball(point, norm, eps)
                    begin = time.thread_time()
                    with torch.no_grad():
                        mine = float(margin_bounds(graph, region, label, executed=False).lower.min())
                    if method != "CROWN":
                        mine = float(
                            optimise(
                                graph, region, torch.tensor([label]), steps=ALPHA_STEPS, executed=False
                            ).lower.min()
                        )
                    middle = time.thread_time()
                    other = theirs.lower(x, label, norm, eps, method)
                    spent = middle - begin, time.thread_time() - middle
                    best = mine if norm == "linf" else float(ours.margins(region, label).min())
                    rows.append((mine, best, other, *spent))
                own, best_, other_, t_own, t_other = (statistics.median(c) for c in zip(*rows, strict=True))
                if method == "CROWN":
                    if norm == "linf":
                        worst = max(worst, *(abs(m - o) for m, _, o, _, _ in rows))
                    lost += sum(b < o - AGREE for _, b, o, _, _ in rows)
                lines.append(
                    f"| {kind} | {norm} {eps:g} | {method} | {own:.4f} | {best_:.4f} | {other_:.4f} | "
                    f"{1e3 * t_own:.0f} | {1e3 * t_other:.0f} |"
                )
                print(lines[-1], flush=True)
    verdict = [
        f"* Linf, CROWN: largest difference {worst:.2g} over {2 * 2 * options.images} balls (wanted: at most {AGREE:g}).",
        f"* All norms, CROWN: ours (all cheap methods together) is below theirs on {lost} of "
        f"{2 * len(BALLS) * options.images} balls.",
    ]
    print("\n".join(verdict))
    if options.out is not None:
        head = "| network | ball | method | ours | ours, all cheap methods | theirs | our ms | their ms |"
        text = [
            "# Margin bounds beside auto_LiRPA's",
            "",
            f"`PYTHONPATH=AUTO_LIRPA python examples/compare_auto_lirpa.py NETS --images {options.images}` after "
            f"`python examples/small_networks.py NETS`; auto_LiRPA {version}; float64, one thread of a 2-core "
            "CPU, CPU milliseconds. Two networks of 2,452 neurons on the first test images of Fashion-MNIST that they "
            "get right; medians of the least of nine margins' lower bounds, higher is better. `CROWN-Optimized` is 20 steps, "
            "intermediate slopes included. Theirs takes L1 and L2 balls without the limits [0, 1] of an image: "
            "that is its documented region, and most of the difference.",
            "",
            *verdict,
            "",
            head,
            "|---|---|---|---|---|---|---|---|",
            *lines,
            "",
        ]
        options.out.write_text("\n".join(text))
    return int(worst > AGREE or lost > 0)


if __name__ == "__main__":
    sys.exit(main())
