"""`python -m edgeattn` is the command `edgeattn`."""

from edgeattn.cli.main import main

main()
