"""`python -m wakegate`."""

from wakegate.cli import main

if __name__ == "__main__":
    main(prog_name="wakegate")
