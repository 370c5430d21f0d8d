"""`python -m robustest` is the command `robustest`."""

from robustest.cli import main

if __name__ == "__main__":
    main()
