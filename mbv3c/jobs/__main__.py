"""`python -m mbv3c.jobs FOLDER` does the job in a folder."""

from mbv3c.jobs.child import main

main()
