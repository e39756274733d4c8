"""The command lines of deployment; ``tools/*.py`` and ``python -m mmtrtvit`` call them."""
