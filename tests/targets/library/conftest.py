"""A served device that tests share."""

from tests.execution.device.fixtures import device, no_opencl, place  # noqa: F401 - fixtures
