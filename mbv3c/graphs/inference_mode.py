"""Convert a model that was exported in training mode to inference mode.

    BatchNormalization(x, …, mean, var), training   ⇒   BatchNormalization(x, …, mean, var)
    Dropout(x, ratio, training=True)                ⇒   Dropout(x)

torch's exporter keeps training mode with `training=TrainingMode.TRAINING`, or `PRESERVE` and a
model that was not put in evaluation mode. Such a graph normalises with the statistics of the
current batch and drops at random, so there is no single result to compare with. A network is
compiled for inference, with the statistics that training left in it; so it is read that way.
"""

import onnx
from onnx import numpy_helper

from mbv3c.errors import ModelError
from mbv3c.graphs.count import tensors_read
from mbv3c.graphs.skeleton import constant_tensors


def inference_mode(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Return the model in inference mode, and the names of the nodes that were in training mode.

    Raises:
        ModelError: a node or output uses the running statistics or the mask, which only training
            writes.
    """
    trained = [node for node in model.graph.node if _trains(node, model)]
    if not trained:
        return model, ()
    used = {name for node in model.graph.node for name in tensors_read(node)}
    used |= {output.name for output in model.graph.output}
    for node in trained:
        taken = next((name for name in node.output[1:] if name and name in used), None)
        if taken is not None:
            name = node.name or f"→ {node.output[0]}"
            raise ModelError(
                f"{node.op_type} {name} is in training mode and its output {taken!r} is "
                "used: export the model in evaluation mode (model.eval())"
            )
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for node in changed.graph.node:
        if not _trains(node, model):
            continue
        del node.output[1:]
        if node.op_type == "Dropout":
            del node.input[1:]
        kept = [a for a in node.attribute if a.name != "training_mode"]
        del node.attribute[:]
        node.attribute.extend(kept)
    return changed, tuple(node.name or node.op_type for node in trained)


def _trains(node: onnx.NodeProto, model: onnx.ModelProto) -> bool:
    if node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type == "BatchNormalization":
        modes = [a.i for a in node.attribute if a.name == "training_mode"]
        return bool(modes and modes[0]) or any(node.output[1:])
    if node.op_type != "Dropout" or len(node.input) < 3:
        return False
    mode = constant_tensors(model.graph).get(node.input[2])
    return mode is not None and bool(numpy_helper.to_array(mode).all())
