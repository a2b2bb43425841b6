"""What a C library is made of, for every backend that writes one."""

from collections.abc import Sequence
from hashlib import sha256

from mbv3c.bundle import MODEL, Bundle, Golden
from mbv3c.c_library.names import prefix_for
from mbv3c.c_library.record import CLibraryRequest
from mbv3c.ends.ends import ends_of
from mbv3c.job import Job
from mbv3c.parity.golden import read_golden
from mbv3c.prepare import Prepared, describe


def c_request(
    prepared: Prepared, job: Job, tools: Sequence[str], prefix: str, golden: Golden
) -> CLibraryRequest:
    """Say what a C library is for; without a prefix its names begin with the model's."""
    described = describe(prepared, job, tuple(tools))
    return CLibraryRequest(
        prefix or prefix_for(described.model.name),
        sha256(prepared.given.SerializeToString(deterministic=True)).hexdigest(),
        described,
        golden,
        job.ends.labels,
    )


def request_of(bundle: Bundle, prefix: str) -> CLibraryRequest:
    """Return what the C library of a bundle was made of; its golden files are checked elsewhere.

    Raises:
        BundleError: a golden file is damaged.
    """
    labels = ends_of(bundle.manifest.model.metadata).labels
    return CLibraryRequest(
        prefix, bundle.files[MODEL], bundle.manifest, read_golden(bundle), labels
    )
