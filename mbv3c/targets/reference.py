"""What a bundle's outputs are compared with."""

from mbv3c.bundle import Bundle, read_bundled
from mbv3c.feeds import Feed
from mbv3c.parity.inputs import inputs_of
from mbv3c.prepare import Prepared, Reference


def seeded_reference(
    bundle: Bundle, known: Prepared | None, reference: Reference, *, own: bool
) -> Reference | None:
    """Return the reference on seeded inputs, from which golden files come; None if just written.

    `own` says whether those of `reference` are the user's.
    """
    if known is not None:
        return None
    return reference_of(bundle, None) if own else reference


def reference_of(
    bundle: Bundle, known: Prepared | None, inputs: list[Feed] | None = None
) -> Reference:
    """Return what onnxruntime computes with the model that a bundle's program must equal.

    `inputs` take the place of the seeded ones.
    """
    if known:
        return known.reference
    given = read_bundled(bundle.model)
    model = read_bundled(bundle.quantized) if bundle.quantized else given
    return Reference(model, inputs or inputs_of(given))
