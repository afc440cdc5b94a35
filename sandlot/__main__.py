"""Entry point of `python -m sandlot`: the command `sandlot` where no script is installed."""

from sandlot.cli import main

if __name__ == "__main__":
    main()
