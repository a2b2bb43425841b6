"""How a machine is to be served as a device; TVM is not imported to check that."""

from dataclasses import dataclass
from pathlib import Path

from mbv3c.errors import UsageError
from mbv3c.execution.device.place import Address


@dataclass(frozen=True)
class ServeOptions:
    """How to serve.

    Attributes:
        host: address of the interface to listen at.
        port: TCP port; 0 for a free one.
        tracker: address of a tracker to register at, or None.
        key: name to register as; without a tracker, what clients must name, if anything.
        session_seconds: time that a client may have the device.
        upload_mib: size of the largest file that a client may send or write.
        memory_mib: memory that a process of a session may have; None for nine tenths of this
            machine's.
        secret: file of the secret that clients must know; None to let in all who come by
            loopback.
        disk_mib: size of all files of a session together.
        files: number of files of a session.
    """

    host: str = "127.0.0.1"
    port: int = 9090
    tracker: Address | None = None
    key: str = ""
    session_seconds: float = 3600.0
    upload_mib: int = 1024
    memory_mib: int | None = None
    secret: Path | None = None
    disk_mib: int = 4096
    files: int = 1000

    def check(self) -> None:
        """Make sure that this can be served.

        Raises:
            UsageError: it cannot.
        """
        if not 0 <= self.port < 65536:
            raise UsageError(f"--port {self.port} is not possible; choose 0 to 65535")
        if any(letter.isspace() for letter in self.key):
            raise UsageError(f"--key {self.key!r} has a space in it, which TVM's protocol lacks")
        limits = ("session_seconds", "upload_mib", "memory_mib", "disk_mib", "files")
        for name in limits:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UsageError(f"--{name.replace('_', '-')} must be more than 0")
        if self.secret is None and not Address(self.host, self.port).is_loopback:
            raise UsageError(
                f"--host {self.host} lets in whoever reaches it, to run any code as this user: "
                "add --secret FILE (`openssl rand -hex 32` makes one), and give it to the "
                "clients, too; or leave --host out, and have them come by `ssh -L`"
            )
        if self.tracker is None:
            return
        if not self.key:
            raise UsageError("--tracker needs --key, the name under which clients ask for devices")
        if Address(self.host, self.port).is_loopback and not self.tracker.is_loopback:
            raise UsageError(
                f"--host {self.host} cannot be reached by those that the tracker {self.tracker} "
                "sends here; give --host this machine's address in the network of the devices"
            )
