"""`python -m mbv3c.jobs FOLDER` does the job in a folder."""

from mbv3c.imports import without_torch
from mbv3c.jobs.child import main

without_torch()
main()
