"""Inference as an ONNX graph of plain operators: the network of `models`, layer by layer.

Written by hand, as no converter of JAX could be used: of this network jax2onnx 0.13.0 makes a graph
that ONNX Runtime refuses, and 0.13.1 to 0.17.1 do not install beside our orbax-checkpoint. A layer
of `models` has a method of the same meaning here. The spatial convolution is unrolled, since
the sizes are fixed: a runtime then needs convolutions and additions alone.

ONNX is `[B, C, H, W]` inside; image and probabilities are `[B, H, W, C]`, as everywhere else. The
package onnx is imported where it is used, because it is optional.
"""

import itertools
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from ssa_jax.evaluation.inference import MIRRORED
from ssa_jax.models.resnet import CHANNELS
from ssa_jax.models.ssa_net import NORM_EPSILON, STRIDE, SSANet
from ssa_jax.ops.spatial_conv import PASSES, reachable
from ssa_jax.training.state import Variables

INPUT, OUTPUT = "image", "prob"
OPSET, IR_VERSION = 18, 8  # of 2022, so that older runtimes read the file
DECODER_LAYERS = (4, 3, 2, 1)  # by number, in order; all but the last have a skip connection
BATCH = "B"  # name of a dynamic batch


def onnx_model(
    model: SSANet,
    variables: Variables,
    *,
    shape: tuple[int | None, int, int, int],
    flip: bool,
    about: str,
) -> bytes:
    """Write inference as an ONNX model with its weights, in float32.

    Args:
        model: the network; its dtype and implementations are not read.
        variables: of the network.
        shape: of the images `[B, S, S, C]`, S a multiple of 32; B is None for any.
        flip: whether the probability is averaged over the mirror images, see `make_predict`.
        about: sentences for a person, kept in the model.

    Returns:
        A serialised model from `image`, float32 of that shape, to `prob`, `[B, S, S, K]` float32 in
        [0, 1], background first.

    Raises:
        ImportError: the package onnx is missing.
    """
    from onnx import TensorProto, helper

    batch, side, _, channels = shape
    graph = _Graph(model, variables)
    output = graph.probabilities(INPUT, side, flip)
    assert graph.used == set(named_arrays(variables)), "a layer of the network is missing here"
    classes = max(model.outputs, 2)
    float32 = TensorProto.FLOAT
    first = BATCH if batch is None else batch
    made = helper.make_graph(
        [*graph.nodes, helper.make_node("Identity", [output], [OUTPUT])],
        "SSANet",
        [helper.make_tensor_value_info(INPUT, float32, [first, side, side, channels])],
        [helper.make_tensor_value_info(OUTPUT, float32, [first, side, side, classes])],
        graph.constants,
        about,
    )
    opset = helper.make_opsetid("", OPSET)
    whole = helper.make_model(made, opset_imports=[opset], ir_version=IR_VERSION, doc_string=about)
    helper.set_model_props(whole, {"about": about})  # what ONNX Runtime shows as metadata
    data: bytes = whole.SerializeToString()
    return data


def named_arrays(variables: Variables) -> dict[str, Any]:
    """Return the arrays of a network by their paths, 'encoder/stem/kernel' for instance.

    Args:
        variables: of the network.
    """
    kinds = (variables["params"], variables["batch_stats"])
    return {name: array for kind in kinds for name, array in flatten_dict(kind, sep="/").items()}


class _Graph:
    """Nodes and weights so far; a method adds a layer and returns the name of its output."""

    def __init__(self, model: SSANet, variables: Variables) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.used: set[str] = set()  # names of the weights that are in the graph
        self._model = model
        self._arrays = named_arrays(variables)
        self._numbers = itertools.count()

    def probabilities(self, image: str, side: int, flip: bool) -> str:
        """Map `[B, S, S, C]` to probabilities `[B, S, S, K]`; see `inference.predicted`."""
        if not flip:
            return self._softmax(self._network(image, side))
        mirrored = [self._mirrored(image, axes, side) for axes in MIRRORED]
        stacked = self._add("Concat", mirrored, axis=0)  # one pass of all of them
        prob = self._softmax(self._network(stacked, side))
        parts = self._split(prob, len(MIRRORED), axis=0)
        back = [self._mirrored(p, axes, side) for p, axes in zip(parts, MIRRORED, strict=True)]
        return self._add("Mean", back)

    def _mirrored(self, x: str, axes: tuple[int, ...], side: int) -> str:
        """Mirror `[B, S, S, C]` along axes."""
        backwards = self._constant(np.arange(side)[::-1].astype(np.int64)) if axes else ""
        for axis in axes:
            x = self._add("Gather", [x, backwards], axis=axis)
        return x

    def _softmax(self, logits: str) -> str:
        """Map logits `[B, K, S, S]` to `[B, S, S, max(K, 2)]`; see `ssa_net.probabilities`."""
        if self._model.outputs == 1:
            lesion = self._add("Sigmoid", [logits])
            rest = self._add("Sub", [self._constant(np.ones((), np.float32)), lesion])
            prob = self._add("Concat", [rest, lesion], axis=1)
        else:
            prob = self._add("Softmax", [logits], axis=1)
        return self._add("Transpose", [prob], perm=[0, 2, 3, 1])

    def _network(self, image: str, side: int) -> str:
        """Map `[B, S, S, C]` to logits `[B, K, S, S]`; see `SSANet`."""
        pixels = self._add("Transpose", [image], perm=[0, 3, 1, 2])
        *shallow, x = self._encoder(pixels)
        if self._model.spatial_conv:
            x = self._spatial_conv(x, side // STRIDE)
        for number, skipped in zip(DECODER_LAYERS, [*reversed(shallow), None], strict=True):
            x = self._decoder_layer(x, f"decoder/layer{number}")
            if skipped and self._model.skip == "add":
                x = self._add("Add", [x, skipped])
            elif skipped:
                x = self._add("Concat", [x, skipped], axis=1)
        x = self._relu(self._transposed(x, "decoder/head_deconv1"))
        x = self._relu(self._conv(x, "decoder/head_conv2"))
        logits = self._conv(x, "decoder/head_conv3")
        logits = self._nested(logits) if self._model.nested else logits
        return self._by_density(logits, pixels) if self._model.density[0] else logits

    def _encoder(self, x: str) -> list[str]:
        """Return the outputs of the four stages; see `ResNet34`."""
        x = self._relu(self._norm(self._encoder_conv(x, "encoder/stem", 2), "encoder/stem_norm"))
        x = self._add("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        outputs = []
        for stage, blocks in zip(range(1, len(CHANNELS) + 1), self._model.stage_sizes, strict=True):
            for block in range(1, blocks + 1):
                stride = 2 if block == 1 and stage > 1 else 1
                x = self._block(x, f"encoder/stage{stage}_block{block}", stride)
            outputs.append(x)
        return outputs

    def _block(self, x: str, path: str, stride: int) -> str:
        """See `ResidualBlock`; it has a projection if it has weights for one."""
        y = self._encoder_conv(x, f"{path}/conv1", stride)
        y = self._relu(self._norm(y, f"{path}/norm1"))
        y = self._norm(self._encoder_conv(y, f"{path}/conv2", 1), f"{path}/norm2")
        if f"{path}/shortcut/kernel" in self._arrays:
            x = self._encoder_conv(x, f"{path}/shortcut", stride)
            x = self._norm(x, f"{path}/shortcut_norm")
        return self._relu(self._add("Add", [y, x]))

    def _decoder_layer(self, x: str, path: str) -> str:
        """See `DecoderLayer`."""
        x = self._relu(self._norm(self._conv(x, f"{path}/conv1"), f"{path}/norm1"))
        x = self._relu(self._norm(self._transposed(x, f"{path}/deconv2"), f"{path}/norm2"))
        return self._relu(self._norm(self._conv(x, f"{path}/conv3"), f"{path}/norm3"))

    def _spatial_conv(self, x: str, side: int) -> str:
        """Map `[B, C, side, side]` to the same size; see `spatial_convolution`."""
        for name, axis, reverse in PASSES:
            rows = axis == 1  # of [B, H, W, C]; a slice is a row, else a column
            kernel = reachable(self._weight(f"spatial_conv/{name}"), side).transpose(2, 1, 0)
            radius = kernel.shape[2] // 2
            pads = [0, radius, 0, radius] if rows else [radius, 0, radius, 0]
            slices = self._split(x, side, axis=axis + 1)
            if len(slices) == 1:  # nothing is sent
                continue
            weight = self._constant(kernel[:, :, None] if rows else kernel[..., None])
            first, *rest = reversed(slices) if reverse else slices
            done = [first]
            for current in rest:
                sent = self._add("Conv", [done[-1], weight], pads=pads)
                done.append(self._add("Add", [current, self._relu(sent)]))
            x = self._add("Concat", done[::-1] if reverse else done, axis=axis + 1)
        return x

    def _by_density(self, logits: str, pixels: str) -> str:
        """See `ssa_net.by_density`; the intensity is the first channel of `[B, C, S, S]`."""
        intensity = self._add("Gather", [pixels, self._constant(np.array([0], np.int64))], axis=1)
        slope, middle = (self._constant(np.array(x, np.float32)) for x in self._model.density)
        *others, outer, inner = self._split(logits, self._model.outputs, axis=1)
        added = self._add("Mul", [self._add("Sub", [intensity, middle]), slope])
        raised = self._add("Add", [self._add("Sub", [inner, outer]), added])
        opposite = self._add("Neg", [raised])
        softplus = self._add("Softplus", [self._add("Sub", [inner, outer])])
        either = self._add("Add", [outer, softplus])  # log(exp(outer) + exp(inner))
        pair = [self._add("Sub", [either, self._add("Softplus", [x])]) for x in (raised, opposite)]
        return self._add("Concat", [*others, *pair], axis=1)

    def _nested(self, decisions: str) -> str:
        """See `ssa_net.nested_logits`; -softplus(-x) is the logarithm of the sigmoid of x."""
        count, opposite = self._model.outputs - 1, self._add("Neg", [decisions])
        yes = self._add("Neg", [self._add("Softplus", [opposite])])
        no = self._add("Neg", [self._add("Softplus", [decisions])])
        reached = self._add("CumSum", [yes, self._constant(np.array(1, np.int64))])
        first, *higher = self._split(no, count, axis=1)
        parts = self._split(reached, count, axis=1)
        between = [self._add("Add", [a, b]) for a, b in zip(parts, higher, strict=False)]
        return self._add("Concat", [first, *between, parts[-1]], axis=1)

    def _encoder_conv(self, x: str, path: str, stride: int) -> str:
        """Convolve with the encoder's padding; see `ops.conv.convolution`."""
        if self._model.padding == "zeros":
            return self._conv(x, path, stride)
        around = self._weight(f"{path}/kernel").shape[0] // 2
        pads = self._constant(np.array([0, 0, around, around] * 2, np.int64))
        return self._conv(self._add("Pad", [x, pads], mode="reflect"), path, stride, around=0)

    def _conv(self, x: str, path: str, stride: int = 1, *, around: int | None = None) -> str:
        """See `layers.Conv`; `around` is the padding, None for half the kernel's size."""
        kernel = self._weight(f"{path}/kernel").transpose(3, 2, 0, 1)
        pads = [kernel.shape[2] // 2 if around is None else around] * 4
        inputs = [x, self._constant(kernel), *self._bias(path)]
        return self._add("Conv", inputs, strides=[stride, stride], pads=pads)

    def _transposed(self, x: str, path: str) -> str:
        """See `layers.TransposedConv`."""
        kernel = self._weight(f"{path}/kernel").transpose(2, 3, 0, 1)
        inputs = [x, self._constant(kernel), *self._bias(path)]
        more = [kernel.shape[2] % 2] * 2  # a kernel of 3 leaves a row and a column out
        return self._add("ConvTranspose", inputs, strides=[2, 2], pads=[1] * 4, output_padding=more)

    def _norm(self, x: str, path: str) -> str:
        """BatchNorm with its running statistics."""
        names = [f"{path}/{name}" for name in ("scale", "bias", "mean", "var")]
        inputs = [x, *(self._constant(self._weight(name)) for name in names)]
        return self._add("BatchNormalization", inputs, epsilon=NORM_EPSILON)

    def _relu(self, x: str) -> str:
        return self._add("Relu", [x])

    def _split(self, x: str, count: int, axis: int) -> list[str]:
        """Cut into `count` equal parts along an axis."""
        if count == 1:
            return [x]
        return self._add_many("Split", [x], count, axis=axis, num_outputs=count)

    def _bias(self, path: str) -> list[str]:
        """Return the bias of a layer as a constant, or nothing."""
        name = f"{path}/bias"
        return [self._constant(self._weight(name))] if name in self._arrays else []

    def _weight(self, name: str) -> np.ndarray:
        """Return an array of the network by its path."""
        self.used.add(name)
        return np.asarray(self._arrays[name], np.float32)

    def _constant(self, array: np.ndarray) -> str:
        """Keep an array in the model."""
        from onnx import numpy_helper

        name = f"constant_{next(self._numbers)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def _add(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        """Add a node of one output."""
        return self._add_many(kind, inputs, 1, **attributes)[0]

    def _add_many(self, kind: str, inputs: list[str], count: int, **attributes: Any) -> list[str]:
        """Add a node of `count` outputs."""
        from onnx import helper

        outputs = [f"{kind}_{next(self._numbers)}" for _ in range(count)]
        self.nodes.append(helper.make_node(kind, inputs, outputs, **attributes))
        return outputs
