"""`python -m daiko` is the `daiko` command."""

from daiko.main import main

main()
