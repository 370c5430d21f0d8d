"""`robustest play`: the game on one image, shown move by move."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, cast

from cyclopts import Parameter

from robustest.commands.audit_flags import AS_FOUND, ModelFlags
from robustest.commands.shared import known_label, read_picture, typed
from robustest.settings import Norm


def play(
    model: str,
    image: str,
    /,
    *,
    label: int | None = None,
    kinds: str = "cooperator,nature,adversary,competitive",
    queries: int = 1000,
    radius: float = 5.0,
    norm: Norm = "l0",
    tau: float = 1.0,
    change: Literal["pixel", "corners", "dimension"] = "pixel",
    features: Literal["sift", "partition", "effect"] = "sift",
    most: int = 16,
    once: bool = True,
    target: int | None = None,
    seconds: float | None = None,
    epsilon: float | None = None,
    seed: int = 0,
    spec: ModelFlags = AS_FOUND,
    device: str | None = None,
    out: Annotated[Path, Parameter(name=["--out", "-o"])] = Path("play.html"),
) -> int:
    """Play the game on one image with each kind of player II, and show it on one page.

    Player I picks a feature; player II picks a pixel in it and how to move it; the play ends when the image is misclassified or has left the ball of the radius. What player II wants is the kind of game.

    Two games are hostile, and they are not the same. `adversary`: player II hinders player I; its value is how far one must go at worst, and is usually "cannot be forced within the radius". `competitive` (Wu et al. 2020): player I is the hostile one and picks the feature that is hardest to exploit, player II minimises; its value is feature robustness.

    Example: robustest play signs.onnx 'validation.npz[3]' --radius 4 -o play.html

    Args:
        model: ONNX file, module:callable, or the URL of a served model (v2+http://host:port/name).
        image: picture file, or one image of a set as images.npz[7].
        label: class of the image; known for an image of a set, else needed.
        kinds: which games, of cooperator, nature, adversary, competitive.
        queries: images that may be scored for each kind; what an earlier kind asked is remembered.
        radius: of the ball, in the norm's units.
        norm: distance in which severity is measured; l0 counts pixels.
        tau: step of the grid in (0, 1]; 1 moves to a bound.
        change: a pixel moves all its channels the same way (pixel), each either way (corners), or one channel at a time (dimension).
        features: player I's choices: the SIFT mixture, a partition of the image by its keypoints, or the pixels in the order of their measured effect.
        most: features used.
        once: a pixel is changed by one move alone; --no-once lets it move on by tau, for l1, l2 and linf.
        target: class to be reached; any other than the label if not given.
        seconds: limit for each kind; the only setting that makes a result depend on the machine.
        epsilon: stop a kind after 1/epsilon iterations without improvement.
        seed: of every random stream.
        device: of a torch module, such as cuda:0.
        out: the page.
    """
    from robustest.attack.play import KindName, PlaySettings, play_image
    from robustest.audit.files import check_writable
    from robustest.report.play_page import write_play_page

    settings = PlaySettings(
        kinds=cast("tuple[KindName, ...]", tuple(kind.strip() for kind in kinds.split(",") if kind.strip())),
        queries=queries,
        seconds=seconds,
        epsilon=epsilon,
        seed=seed,
        norm=norm,
        radius=radius,
        tau=tau,
        change=change,
        features=features,
        most=most,
        once=once,
        target=target,
    )
    picture = read_picture(image)
    classifier = spec.load(model, device=device)
    known = known_label(picture, image, label, classifier)
    check_writable(out.parent)  # before anything is played
    result = play_image(classifier, picture.image, known, settings)
    if not result.games:
        print(
            f"{picture.name}: the classifier answers {result.predicted}, not {known}, to the unchanged image; nothing to play."
        )
        return 5
    for game in result.games:
        print(f"{game.kind.name.lower():12} {game.words}")
    if result.decision_only:
        print("The classifier gives labels alone: nothing but random plays judged a state.")
    print(f"{result.queries} queries in all")
    print(write_play_page(result, out, command=typed(), names=picture.class_names))
    return 0
