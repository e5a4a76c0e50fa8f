"""A ResNet as an ONNX graph: torchvision's layers under torchvision's names, node by node."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

import jaxft
from jaxft.batch_norm import BATCH_NORM_EPSILON
from jaxft.data.augment import IMAGENET_MEAN, IMAGENET_STD
from jaxft.formats.contract import self_contained_facts
from jaxft.model_file import Description, as_strings
from jaxft.resnet import ARCHS, Architecture

OPSET, IR_VERSION = 13, 7  # ONNX 1.8's, of 2020: runtimes of telephones and browsers know it, and no more is needed.
BATCH = "batch"
NORM_LEAVES = ("weight", "bias", "running_mean", "running_var")

Arrays = Mapping[str, np.ndarray]


def to_onnx(description: Description, state_dict: Arrays) -> onnx.ModelProto:
    """uint8 crops "images" [batch, s, s, 3] to float32 "probabilities" [batch, k].

    By hand, for jax2onnx 0.17 drops the max-pool's padding, transposes around each convolution and holds Orbax back.
    """
    facts = self_contained_facts(description)
    side, num_classes = description.recipe.size, len(description.class_names)
    body = [*stem(), *stages(ARCHS[description.arch], state_dict)]
    nodes = [*body, *head(body[-1].output[0])]
    constants = {"pixel_mean": pixel_constant(IMAGENET_MEAN), "pixel_std": pixel_constant(IMAGENET_STD), **state_dict}
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        description.arch,
        [helper.make_tensor_value_info("images", TensorProto.UINT8, [BATCH, side, side, 3], facts["input"])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [BATCH, num_classes], facts["output"])],
        [numpy_helper.from_array(array, name) for name, array in constants.items() if name in used],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="jaxft",
        producer_version=jaxft.__version__,
    )
    helper.set_model_props(model, as_strings(facts))
    return model


def pixel_constant(of_unit_range: tuple[float, ...]) -> np.ndarray:
    """A constant of the normalisation for pixels of 0 to 255, [3, 1, 1]."""
    return (255 * np.array(of_unit_range)).astype(np.float32)[:, None, None]


def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> NodeProto:
    """An operation, which is named as its only output is."""
    return helper.make_node(kind, inputs, [output], name=output, **attributes)


def stem() -> list[NodeProto]:
    """From "images" to "maxpool"."""
    return [
        node("Transpose", ["images"], "channels_first", perm=[0, 3, 1, 2]),
        node("Cast", ["channels_first"], "pixels", to=TensorProto.FLOAT),
        node("Sub", ["pixels", "pixel_mean"], "centred"),
        node("Div", ["centred", "pixel_std"], "normalised"),
        *conv_norm("normalised", "conv1", "bn1", kernel=7, stride=2),
        node("Relu", ["bn1"], "relu"),
        node("MaxPool", ["relu"], "maxpool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    ]


def stages(arch: Architecture, state_dict: Arrays) -> list[NodeProto]:
    """From "maxpool" to the last block's name."""
    nodes, x = [], "maxpool"
    for i, num_blocks in enumerate(arch.stage_sizes, start=1):
        for j in range(num_blocks):
            name = f"layer{i}.{j}"
            shortcut = f"{name}.downsample.0.weight" in state_dict
            nodes += block(arch, x, name, stride=2 if i > 1 and j == 0 else 1, downsample=shortcut)
            x = name
    return nodes


def block(arch: Architecture, x: str, name: str, *, stride: int, downsample: bool) -> list[NodeProto]:
    """torchvision's BasicBlock or Bottleneck, from x to the block's name."""
    if arch.block == "basic":
        main = [
            *conv_norm(x, f"{name}.conv1", f"{name}.bn1", kernel=3, stride=stride),
            node("Relu", [f"{name}.bn1"], f"{name}.relu1"),
            *conv_norm(f"{name}.relu1", f"{name}.conv2", f"{name}.bn2", kernel=3),
        ]
    else:
        main = [
            *conv_norm(x, f"{name}.conv1", f"{name}.bn1", kernel=1),
            node("Relu", [f"{name}.bn1"], f"{name}.relu1"),
            *conv_norm(f"{name}.relu1", f"{name}.conv2", f"{name}.bn2", kernel=3, stride=stride, groups=arch.groups),
            node("Relu", [f"{name}.bn2"], f"{name}.relu2"),
            *conv_norm(f"{name}.relu2", f"{name}.conv3", f"{name}.bn3", kernel=1),
        ]
    shortcut = []
    if downsample:
        shortcut = conv_norm(x, f"{name}.downsample.0", f"{name}.downsample.1", kernel=1, stride=stride)
    ends = [nodes[-1].output[0] if nodes else x for nodes in (main, shortcut)]
    return [*main, *shortcut, node("Add", ends, f"{name}.add"), node("Relu", [f"{name}.add"], name)]


def conv_norm(x: str, conv: str, norm: str, *, kernel: int, stride: int = 1, groups: int = 1) -> list[NodeProto]:
    """A convolution with torch's padding and BatchNorm on its stored statistics, from x to the latter's name."""
    pads, strides = [kernel // 2] * 4, [stride, stride]
    return [
        node("Conv", [x, f"{conv}.weight"], conv, pads=pads, strides=strides, group=groups),
        node(
            "BatchNormalization", [conv, *(f"{norm}.{leaf}" for leaf in NORM_LEAVES)], norm, epsilon=BATCH_NORM_EPSILON
        ),
    ]


def head(x: str) -> list[NodeProto]:
    """From the last block to "probabilities"."""
    return [
        node("GlobalAveragePool", [x], "avgpool"),
        node("Flatten", ["avgpool"], "pooled"),
        node("Gemm", ["pooled", "fc.weight", "fc.bias"], "fc", transB=1),
        node("Softmax", ["fc"], "probabilities", axis=1),
    ]
