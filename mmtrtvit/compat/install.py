"""Apply every mend once."""

from mmtrtvit.compat import config_scope


def install() -> None:
    """Apply the mends. Idempotent; called by ``import mmtrtvit``."""
    config_scope.install()
