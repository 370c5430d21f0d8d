"""`robustest evidence` and `robustest verify`: bundle a finished audit, and check a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def evidence(
    run: Path,
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    draft: bool = False,
    sign: Path | None = None,
) -> int:
    """Bundle a finished audit as evidence for a safety case.

    Refused where the run may not be called evidence: images that ended unknown, nothing tested, or a git tree with uncommitted changes.

    Args:
        run: folder of the finished audit.
        out: folder of the bundle; must not exist.
        draft: write a bundle that is not evidence, stamped on every page.
        sign: private key; the manifest and the statement are signed by `ssh-keygen -Y sign -n robustest`.
    """
    from robustest.evidence.bundle import write_bundle

    bundle = write_bundle(run, out, draft=draft, key=sign)
    print(f"{bundle}{' (draft)' if draft else ''}")
    return 0


def verify(
    bundle: Path,
    /,
    *,
    replay: int = 0,
    model: str | None = None,
    input: Path | None = None,
    trust_model: str | None = None,
    allowed_signers: Path | None = None,
    signer: str | None = None,
) -> int:
    """Verify an evidence bundle; exit with 1 if anything in it was changed or does not hold.

    Args:
        bundle: folder of the bundle.
        replay: how many adversarial images to score again; needs --model.
        model: the model that was audited; its digest is compared, and certificates are rechecked.
        input: TOML file with its input spec; the bundle's own if not given.
        trust_model: sha256:<digest> of a model file that may run code when it is loaded (pickles and the like).
        allowed_signers: file of allowed signers, as ssh-keygen reads it; with --signer.
        signer: who must have signed manifest and statement, as named in that file.
    """
    import json

    from robustest.classifiers import InputSpec, load_classifier
    from robustest.evidence.verify import verify_bundle

    spec: InputSpec | Path | None = input
    if model is not None and input is None:
        try:
            spec = InputSpec(**json.loads((bundle / "model.json").read_text(encoding="utf-8"))["spec"])
        except (OSError, ValueError, KeyError, TypeError):
            spec = None  # verification will name the file; the model's own spec is used
    classifier = load_classifier(model, spec, trust_model=trust_model) if model is not None else None
    found = verify_bundle(bundle, replay=replay, classifier=classifier, allowed_signers=allowed_signers, signer=signer)
    for line in found.checked:
        print(f"  checked  {line}")
    for line in found.problems:
        print(f"  PROBLEM  {line}")
    if found.draft:
        print("  DRAFT    this bundle does not call itself evidence")
    print("the bundle holds" if found.holds else f"the bundle does not hold: {len(found.problems)} problem(s)")
    return 0 if found.holds else 1
