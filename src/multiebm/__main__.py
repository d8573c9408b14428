"""`python -m multiebm` is the command line."""

from multiebm.cli.main import main

main()
