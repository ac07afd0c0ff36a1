"""`python -m varve`: the command, for environments whose scripts are not on the path."""

from varve.command import main

if __name__ == "__main__":
    main()
