"""`python -m qaedge`."""

from qaedge.cli import main

if __name__ == "__main__":
    main()
