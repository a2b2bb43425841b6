"""Read the blocks of a network off its skeleton."""

from typing import cast

from mbv3c.graphs.skeleton import Convolution, Step
from mbv3c.graphs.spec import Activation, Architecture, Block, squeeze_channels


class MismatchError(Exception):
    """The graph is no MobileNetV3; the message says why."""


def read_architecture(steps: tuple[Step, ...]) -> tuple[Architecture, int]:
    """Return the network that stands behind a skeleton, and its number of classes.

    Without a classifier, the classes, the last convolution and the hidden layer are 0. The
    activations are those of the graph and need not be any that MobileNetV3 has.

    Raises:
        MismatchError: it is no chain of inverted residual blocks after a stem.
    """
    return _Reader(steps).read()


class _Reader:
    """Walks from the input along the blocks and notes what it sees."""

    def __init__(self, steps: tuple[Step, ...]) -> None:
        self._steps = steps
        self._users: list[list[int]] = [[] for _ in steps]
        for index, step in enumerate(steps):
            for source in {source.step for source in step.sources}:
                self._users[source].append(index)

    def read(self) -> tuple[Architecture, int]:
        if not any(_is_depthwise(step.conv) for step in self._steps):
            raise MismatchError("it has no depthwise convolution")
        stem = self._one(self._users[0], "reads the input")
        conv = self._steps[stem].conv
        if conv is None or (conv.kernel, conv.stride, conv.groups) != (3, 2, 1):
            raise MismatchError("it does not begin with a 3x3 convolution of stride 2")
        activation = self._activation(stem, self._users[stem][0])
        blocks: list[Block] = []
        current, channels = stem, conv.channels_out
        while (found := self._next_depthwise(current)) is not None:
            block, current = self._block(len(blocks) + 1, current, channels, *found)
            channels = block.out
            blocks.append(block)
        last_conv, hidden, classes = self._tail(current, activation) or (0, 0, 0)
        read = Architecture(conv.channels_out, tuple(blocks), last_conv, hidden, activation)
        return read, classes

    def _next_depthwise(self, current: int) -> tuple[int | None, int] | None:
        """Return the expansion, if any, and the depthwise convolution that follow a step."""
        for user in self._users[current]:
            if _is_depthwise(self._steps[user].conv):
                return None, user
            if _is_pointwise(self._steps[user].conv):
                for next_user in self._users[user]:
                    if _is_depthwise(self._steps[next_user].conv):
                        return user, next_user
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
        squeeze = any(self._steps[user].kind == "pool" for user in users)
        end = self._squeeze_excite(name, depthwise) if squeeze else depthwise
        project = self._one(self._users[end], f"follows the depthwise convolution of {name}")
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

    def _squeeze_excite(self, name: str, depthwise: int) -> int:
        """Read a branch pool → reduce → expand → multiply; return the multiplication."""
        where = f"stands in the squeeze-and-excite branch of {name}"
        pools = [user for user in self._users[depthwise] if self._steps[user].kind == "pool"]
        pool = self._one(pools, where)
        reduce = self._one(self._users[pool], where)
        expand = self._one(self._users[reduce], where)
        scale = self._one(self._users[expand], where)
        gated = {source.step for source in self._steps[scale].sources} == {depthwise, expand}
        if self._steps[scale].kind != "mul" or not gated:
            raise MismatchError(f"the squeeze-and-excite branch of {name} gates something else")
        channels = self._conv(reduce).channels_out, self._conv(expand).channels_out
        full = self._conv(depthwise).channels_out
        if channels != (squeeze_channels(full), full):
            raise MismatchError(
                f"the squeeze-and-excite branch of {name} has {channels[0]} channels, "
                f"{squeeze_channels(full)} in MobileNetV3"
            )
        functions = self._activation(reduce, expand), self._activation(expand, scale)
        if functions != ("relu", "hardsigmoid"):
            raise MismatchError(
                f"the squeeze-and-excite branch of {name} has {' and '.join(functions)}, relu "
                "and hardsigmoid in MobileNetV3"
            )
        return scale

    def _tail(self, current: int, activation: Activation) -> tuple[int, int, int] | None:
        """Return the channels of the last convolution, the hidden layer and the logits.

        None if what follows is no classifier.
        """
        chain = [current]
        for _ in range(4):
            if len(self._users[chain[-1]]) != 1:
                return None
            chain.append(self._users[chain[-1]][0])
        _, last, pool, hidden, logits = chain
        if self._steps[pool].kind != "pool":
            return None
        layers = [self._steps[index].conv for index in (last, hidden, logits)]
        if not all(_is_pointwise(conv) for conv in layers):
            return None
        for source, user in ((last, pool), (hidden, logits)):
            found = self._activation(source, user)
            if found != activation:
                name = self._steps[source].name
                raise MismatchError(f"{name} has the activation {found}, the stem {activation}")
        first, second, third = (cast(Convolution, conv).channels_out for conv in layers)
        return first, second, third

    def _adds(self, index: int, *operands: int) -> bool:
        step = self._steps[index]
        return step.kind == "add" and {source.step for source in step.sources} == {*operands}

    def _is_linear(self, index: int) -> bool:
        users = [self._steps[user] for user in self._users[index]]
        sources = [source for user in users for source in user.sources if source.step == index]
        return all(source.activation == "none" for source in sources)

    def _activation(self, source: int, user: int) -> Activation:
        """Return the activation between two steps; it need not be one that MobileNetV3 has."""
        sources = self._steps[user].sources
        return cast(Activation, next(one.activation for one in sources if one.step == source))

    def _conv(self, index: int) -> Convolution:
        conv = self._steps[index].conv
        if conv is None:
            raise MismatchError(f"{self._steps[index].name!r} is no convolution")
        return conv

    def _one(self, found: list[int], what: str) -> int:
        if len(found) != 1:
            names = ", ".join(repr(self._steps[index].name) for index in found) or "nothing"
            raise MismatchError(f"one step {what} in MobileNetV3, here {names}")
        return found[0]


def _is_depthwise(conv: Convolution | None) -> bool:
    return conv is not None and 1 < conv.groups == conv.channels_in == conv.channels_out


def _is_pointwise(conv: Convolution | None) -> bool:
    return conv is not None and (conv.kernel, conv.stride, conv.groups) == (1, 1, 1)
