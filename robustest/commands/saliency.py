"""`robustest saliency`: a picture of where the search looks first in an image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
from cyclopts import Parameter

from robustest.commands.shared import read_picture


def saliency(
    image: str,
    /,
    *,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    uniform_part: float = 0.1,
) -> int:
    """Draw where the search looks first in an image: its SIFT features as circles, their distribution as a heat map.

    Args:
        image: picture file, or one image of a set as images.npz[7].
        out: PNG file to write; <name>-saliency.png if not given.
        uniform_part: share of the uniform distribution in the mixture, in (0, 1].
    """
    from robustest.report.files import write_bytes
    from robustest.report.png import png_of
    from robustest.saliency.mixture import saliency_of
    from robustest.saliency.picture import saliency_picture

    picture = read_picture(image)
    found = saliency_of(picture.image, uniform_part=uniform_part)
    where = write_bytes(out or Path(f"{picture.name}-saliency.png"), png_of(saliency_picture(picture.image, found)))
    height, width = found.distribution.shape
    if found.uniform:
        print(f"No feature was found in {picture.name} ({width} x {height}): every pixel is as likely.")
    else:
        ranked = np.sort(found.distribution, axis=None)[::-1]
        half = int(np.searchsorted(np.cumsum(ranked), 0.5)) + 1
        print(
            f"{len(found.features)} features in {picture.name} ({width} x {height}); half of the probability lies on "
            f"{half} of {height * width} pixels."
        )
    print(where)
    return 0
