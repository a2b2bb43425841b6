"""Let `python -m mbv3c` be the same program as the `mbv3c` script."""

from mbv3c.supervisor import main

if __name__ == "__main__":
    main()
