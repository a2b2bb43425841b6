"""Read the blocks of a network off its skeleton."""

from itertools import pairwise, takewhile
from typing import cast, get_args

from mbv3c.graphs.anchors import PER_CELL
from mbv3c.graphs.architecture import Activation, Architecture, Block, GateFunction
from mbv3c.graphs.skeleton import ConvGeometry, SkeletonStep


class MismatchError(Exception):
    """The graph is no network of inverted residual blocks; the message says why."""


def read_architecture(steps: tuple[SkeletonStep, ...]) -> tuple[Architecture, str | None, int]:
    """Return the network that stands behind a skeleton, its head and its number of classes.

    Without a classifier, the last convolution and the hidden layer are 0. With an unknown head,
    the head is None and the classes are 0. The activations and gates may be others than those of
    the published networks.

    Raises:
        MismatchError: the graph is no chain of inverted residual blocks after a stem.
    """
    return _BlockReader(steps).read()


class _BlockReader:
    """Reads blocks one after the other, from the input on."""

    def __init__(self, steps: tuple[SkeletonStep, ...]) -> None:
        self._steps = steps
        self._gates: set[GateFunction] = set()
        self._users: list[list[int]] = [[] for _ in steps]
        for index, step in enumerate(steps):
            for source in {source.step for source in step.sources}:
                self._users[source].append(index)

    def read(self) -> tuple[Architecture, str | None, int]:
        if not any(_is_depthwise(step.conv) for step in self._steps):
            raise MismatchError("it has no depthwise convolution")
        stem = self._only(self._users[0], "reads the input")
        conv = self._steps[stem].conv
        if conv is None or (conv.kernel, conv.stride, conv.groups) != (3, 2, 1):
            raise MismatchError("it does not begin with a 3x3 convolution of stride 2")
        activation = self._activation(stem, self._users[stem][0])
        blocks: list[Block] = []
        current, channels = stem, conv.channels_out
        while (following := self._next_depthwise(current)) is not None:
            block, current = self._block(len(blocks) + 1, current, channels, *following)
            channels = block.out
            blocks.append(block)
        last_conv, hidden, classes = self._classifier(current, activation) or (0, 0, 0)
        if len(self._gates) > 1:
            raise MismatchError(f"its gates are {' and '.join(sorted(self._gates))}")
        gate = next(iter(self._gates), Architecture.gate)
        network = Architecture(
            conv.channels_out, tuple(blocks), last_conv, hidden, activation, gate
        )
        if last_conv:
            return network, "classify", classes
        if classes := self._lraspp_classes(current):
            return network, "lraspp", classes
        if classes := self._raspp_classes(current):
            return network, "raspp", classes
        classes = self._ssdlite_classes(current)
        return network, "ssdlite" if classes else None, classes

    def _next_depthwise(self, current: int) -> tuple[int | None, int] | None:
        """Return the expansion, if any, and the depthwise convolution that follow a step."""
        for user in self._users[current]:
            if _is_depthwise(self._steps[user].conv):
                return None, user
            next_users = self._users[user]
            # A detector's last convolution has more than depthwise users, and ends the blocks.
            only_depthwise = all(_is_depthwise(self._steps[index].conv) for index in next_users)
            if _is_pointwise(self._steps[user].conv) and next_users and only_depthwise:
                return user, next_users[0]
        return None

    def _block(
        self, number: int, start: int, channels: int, expand: int | None, depthwise: int
    ) -> tuple[Block, int]:
        """Read one block; return it and the step that ends it."""
        name = f"block {number}"
        conv = self._conv(depthwise)
        before = None if expand is None else self._activation(expand, depthwise)
        users = self._users[depthwise]
        if not users:
            raise MismatchError(f"{name} ends with its depthwise convolution")
        activation = self._activation(depthwise, users[0])
        if before not in (None, activation):
            raise MismatchError(f"{name} has two activations, {before} and {activation}")
        end, squeeze = depthwise, 0
        if self._has_branch(users):
            end, squeeze = self._squeeze_excite(name, depthwise)
        project = self._only(self._users[end], f"follows the depthwise convolution of {name}")
        if not _is_pointwise(self._steps[project].conv):
            raise MismatchError(f"no projection follows the depthwise convolution of {name}")
        out = self._conv(project).channels_out
        sums = [user for user in self._users[project] if self._adds(user, start, project)]
        if (conv.stride == 1 and out == channels) != bool(sums):
            raise MismatchError(f"{name} {'has a' if sums else 'lacks the'} residual sum")
        linear = [project, *sums] if end == depthwise else [end, project, *sums]
        if not all(self._is_linear(index) for index in linear):
            raise MismatchError(f"{name} has an activation after its projection or its branch")
        block = Block(
            kernel=conv.kernel,
            expand=conv.channels_out,
            out=out,
            squeeze=squeeze,
            activation=activation,
            stride=conv.stride,
            dilation=conv.dilation,
        )
        return block, sums[0] if sums else project

    def _has_branch(self, users: list[int]) -> bool:
        return any(self._steps[user].kind == "pool" for user in users)

    def _squeeze_excite(self, name: str, depthwise: int) -> tuple[int, int]:
        """Read a branch pool → reduce → expand → multiply; return its end and its width."""
        where = f"stands in the squeeze-and-excite branch of {name}"
        pools = [user for user in self._users[depthwise] if self._steps[user].kind == "pool"]
        pool = self._only(pools, where)
        reduce = self._only(self._users[pool], where)
        expand = self._only(self._users[reduce], where)
        scale = self._only(self._users[expand], where)
        gated = {source.step for source in self._steps[scale].sources} == {depthwise, expand}
        if self._steps[scale].kind != "mul" or not gated:
            raise MismatchError(f"the squeeze-and-excite branch of {name} gates something else")
        functions = self._activation(reduce, expand), self._activation(expand, scale)
        if functions[0] != "relu" or functions[1] not in get_args(GateFunction):
            raise MismatchError(
                f"the squeeze-and-excite branch of {name} has {' and '.join(functions)}, relu "
                "and hardsigmoid in MobileNetV3"
            )
        self._gates.add(cast(GateFunction, functions[1]))
        return scale, self._conv(reduce).channels_out

    def _classifier(self, current: int, activation: Activation) -> tuple[int, int, int] | None:
        """Return the channels of the last convolution, the hidden layer and the logits.

        None if what follows is no classifier.
        """
        chain = [current]
        while len(chain) < 5 and len(self._users[chain[-1]]) == 1:
            chain.append(self._users[chain[-1]][0])
        if len(chain) < 4 or self._steps[chain[2]].kind != "pool":
            return None
        _, last, pool, *behind = chain
        dense = list(takewhile(lambda index: _is_pointwise(self._steps[index].conv), behind))
        layers = [self._steps[index].conv for index in (last, *dense)]
        if not dense or not _is_pointwise(layers[0]):
            return None
        activated = [(last, pool), *pairwise(dense)]
        for source, user in activated:
            actual = self._activation(source, user)
            if actual != activation:
                name = self._steps[source].name
                raise MismatchError(f"{name} has the activation {actual}, the stem {activation}")
        first, *hidden, classes = (cast(ConvGeometry, conv).channels_out for conv in layers)
        return first, sum(hidden), classes

    def _lraspp_classes(self, current: int) -> int:
        """Return the number of classes of an LR-ASPP after the last block; 0 if there is none.

        An LR-ASPP ends with the sum of two 1x1 convolutions, one on features at stride 8, the
        other on upsampled ones.
        """
        for step in self._steps[current:]:
            convs = [self._steps[source.step].conv for source in step.sources]
            if step.kind == "add" and len(convs) == 2 and all(map(_is_pointwise, convs)):
                sizes = {cast(ConvGeometry, conv).channels_out for conv in convs}
                below = [self._steps[source.step].sources[0].step for source in step.sources]
                if len(sizes) == 1 and any(self._steps[index].kind == "Resize" for index in below):
                    return sizes.pop()
        return 0

    def _raspp_classes(self, current: int) -> int:
        """Return the number of classes of an R-ASPP after the last block; 0 if there is none.

        It ends with an upsampled 1x1 convolution behind another one that reads a Concat.
        """
        for step in self._steps[current:]:
            if step.kind != "Resize" or len(step.sources) != 1:
                continue
            logits = self._steps[step.sources[0].step]
            if not _is_pointwise(logits.conv):
                continue
            project = self._steps[logits.sources[0].step]
            joined = [self._steps[source.step].kind for source in project.sources]
            if _is_pointwise(project.conv) and joined == ["Concat"]:
                return cast(ConvGeometry, logits.conv).channels_out
        return 0

    def _ssdlite_classes(self, current: int) -> int:
        """Return the number of classes of an SSDLite after the last block; 0 if there is none.

        Two depthwise convolutions read the last 1x1 convolution, and predict classes and boxes.
        """
        last = [user for user in self._users[current] if _is_pointwise(self._steps[user].conv)]
        heads = [
            user
            for index in last
            for user in self._users[index]
            if _is_depthwise(self._steps[user].conv)
        ]
        predicted = [index for head in heads for index in self._users[head]]
        if len(heads) != 2 or not all(_is_pointwise(self._steps[i].conv) for i in predicted):
            return 0
        values = [self._conv(index).channels_out for index in predicted]
        boxes = PER_CELL * 4
        if len(values) != 2 or boxes not in values or sum(values) % PER_CELL:
            return 0
        return (sum(values) - boxes) // PER_CELL

    def _adds(self, index: int, *operands: int) -> bool:
        step = self._steps[index]
        return step.kind == "add" and {source.step for source in step.sources} == {*operands}

    def _is_linear(self, index: int) -> bool:
        users = [self._steps[user] for user in self._users[index]]
        sources = [source for user in users for source in user.sources if source.step == index]
        return all(source.activation == "none" for source in sources)

    def _activation(self, source: int, user: int) -> Activation:
        """Return the activation between two steps, which may be one that MobileNetV3 lacks."""
        activations = (s.activation for s in self._steps[user].sources if s.step == source)
        return cast(Activation, next(activations))

    def _conv(self, index: int) -> ConvGeometry:
        conv = self._steps[index].conv
        if conv is None:
            raise MismatchError(f"{self._steps[index].name!r} is no convolution")
        return conv

    def _only(self, candidates: list[int], what: str) -> int:
        if len(candidates) != 1:
            names = ", ".join(repr(self._steps[index].name) for index in candidates) or "nothing"
            raise MismatchError(f"one step {what} in MobileNetV3, here {names}")
        return candidates[0]


def _is_depthwise(conv: ConvGeometry | None) -> bool:
    return conv is not None and 1 < conv.groups == conv.channels_in == conv.channels_out


def _is_pointwise(conv: ConvGeometry | None) -> bool:
    return conv is not None and (conv.kernel, conv.stride, conv.groups) == (1, 1, 1)
