"""`python -m hpcjobs`."""

from hpcjobs.cli import main

main()
