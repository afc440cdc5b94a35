"""`python -m sandlot`: the same as the command `sandlot`, where no script is installed."""

from sandlot.cli import main

if __name__ == "__main__":
    main()
