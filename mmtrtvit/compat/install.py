"""Apply every mend once."""

from mmtrtvit.compat import (
    checkpoint,
    checkpoint_saving,
    config_scope,
    distributed,
    exact_resume,  # noqa: F401  registers its hook
    mmcv_ops,
    numpy2,
    packaging,
)


def install() -> None:
    """Apply the mends. Idempotent; called by ``import mmtrtvit``."""
    config_scope.install()
    mmcv_ops.install()
    packaging.install()
    checkpoint.install()
    checkpoint_saving.install()
    distributed.install()
    numpy2.install()
