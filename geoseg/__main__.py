"""`python -m geoseg`, which is what launchers of several processes call."""

from geoseg.cli import main

if __name__ == "__main__":
    main()
