"""Running a bundle: in this process, or under an emulator."""
