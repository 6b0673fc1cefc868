"""`python -m deployments.cli`."""

from . import main

main()
