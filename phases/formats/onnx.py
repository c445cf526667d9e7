"""The network as ONNX, for ONNX Runtime, OpenVINO, TensorRT, DirectML and others."""

from pathlib import Path

import numpy as np

from ...network import Network
from .base import Format, named_graph, python_example

FILE = "msinet.onnx"

# Version of the standard operations; those that the network needs have not changed since.
OPSET = 17


def write_onnx(network: Network, folder: Path, bits: int, calibration=()) -> None:
    import onnx
    import tf2onnx

    graph = named_graph(network)
    model, _ = tf2onnx.convert.from_function(graph, input_signature=graph.input_signature, opset=OPSET)
    for node in model.graph.node:
        if node.op_type == "Conv":
            _pad_explicitly(node)
    _rename_output(model.graph, "output")
    _name_axes(model.graph.input[0], ("batch", "height", "width", 3))
    _name_axes(model.graph.output[0], ("batch", "height", "width", 1))
    if bits == 16:
        _halve(model.graph)
    onnx.checker.check_model(model)
    onnx.save(model, folder / FILE)


def _pad_explicitly(conv) -> None:
    """Set the padding of a stride-1 convolution: ONNX Runtime cannot derive it for dilated convolutions.

    That of other strides depends on the input's size and stays automatic.
    """
    from onnx import helper

    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in conv.attribute}
    if attributes.get("strides", [1])[0] > 1:
        return
    dilation, size = attributes.get("dilations", [1])[0], attributes["kernel_shape"][0]
    attributes.pop("auto_pad", None)
    attributes["pads"] = [dilation * (size - 1) // 2] * 4
    del conv.attribute[:]
    conv.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())


def _rename_output(graph, name: str) -> None:
    old = graph.output[0].name
    for node in graph.node:
        node.output[:] = [name if output == old else output for output in node.output]
    graph.output[0].name = name


def _name_axes(value, axes) -> None:
    """Set names or fixed sizes of the axes of the graph's input or output."""
    shape = value.type.tensor_type.shape
    del shape.dim[:]
    for axis in axes:
        shape.dim.add(**{"dim_value" if isinstance(axis, int) else "dim_param": axis})


def _halve(graph) -> None:
    """Store kernels as float16, each with a node that casts it back; runtimes do that once, at load time."""
    from onnx import TensorProto, helper, numpy_helper

    kernels = [tensor for tensor in graph.initializer if len(tensor.dims) == 4]
    for tensor in kernels:
        name = tensor.name
        values = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(values, f"{name}_float16"))
        graph.node.insert(0, helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))


def predict_onnx(folder: Path, images: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / FILE, providers=["CPUExecutionProvider"])
    return session.run(["output"], {"input": images})[0]


NOTES = f"""The axes of input and output are named batch, height and width. The opset is {OPSET}, which ONNX Runtime
supports since 1.12 (tested: 1.15 and 1.32). With 16 bits, kernels are stored as float16 and cast to float32 for
computing. On processors with bfloat16, OpenVINO uses it by default, and maps then differ by 0.005 to 0.02: set its
`INFERENCE_PRECISION_HINT` to `f32`."""

FORMAT = Format(
    runtime="ONNX Runtime",
    file=FILE,
    write=write_onnx,
    predict=predict_onnx,
    example=python_example(
        "import onnxruntime",
        'session = onnxruntime.InferenceSession("msinet.onnx", providers=["CPUExecutionProvider"])\n'
        'maps = session.run(["output"], {"input": images})[0]',
    ),
    needs="numpy, pillow and onnxruntime",
    notes=NOTES,
    packages=("onnx", "tf2onnx", "onnxruntime"),
)
