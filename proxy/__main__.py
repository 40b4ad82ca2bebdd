"""`python -m proxy` runs the `tollgate` command."""

from proxy.cli import main

main()
