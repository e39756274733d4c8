"""``--cfg-options`` that would silently add a key nobody reads are refused."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine import registry as root
from mmengine.config import Config
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmtrtvit.apis.errors import UserError, near

#: What mmengine and its children look up at the top of a config besides the arguments of ``Runner``.
_TOP_LEVEL = {
    'activation_checkpointing', 'auto_scale_lr', 'compile', 'custom_imports', 'default_scope', 'device',
    'efficient_conv_bn_eval', 'find_unused_parameters', 'gpu_ids', 'model_wrapper_cfg', 'param_scheduler',
    'runner_type', 'sync_bn', 'tta_model', 'tta_pipeline',
}  # fmt: skip
#: Registries of things that a config of a training holds.
_REGISTRIES = [
    value for value in vars(root).values() if isinstance(value, root.Registry) and value.name != 'inferencer'
]
_RESERVED = {'type', '_delete_', '_scope_'}
#: Keys that whatever builds a thing takes out of its dict beforehand, by the first word of their path: the optimizer's
#: wrapper, a scheduler, a hook.
_TAKEN_OUT = {
    'optim_wrapper': {'constructor', 'paramwise_cfg'}, 'param_scheduler': {'convert_to_iter_based'},
    'default_hooks': {'priority'}, 'custom_hooks': {'priority'},
}  # fmt: skip
#: Keys of ``paramwise_cfg``: mmengine's DefaultOptimWrapperConstructor and the layer decays of mmdet and mmseg.
_PARAMWISE = {
    'bias_decay_mult', 'bias_lr_mult', 'bypass_duplicate', 'custom_keys', 'dcn_offset_lr_mult', 'decay_rate',
    'decay_type', 'dwconv_decay_mult', 'flat_decay_mult', 'layer_decay_rate', 'norm_decay_mult', 'num_layers',
}  # fmt: skip
_DATALOADER = {'num_batch_per_epoch', 'disable_subprocess_warning'}
#: Settings of OpenMMLab before mmengine (and of other frameworks), by their first words -> what they are called now.
_FORMER = {
    'batch_size': 'train_dataloader.batch_size', 'checkpoint_config': 'default_hooks.checkpoint',
    'data.samples_per_gpu': 'train_dataloader.batch_size', 'data.workers_per_gpu': 'train_dataloader.num_workers',
    'data': 'train_dataloader, val_dataloader, test_dataloader', 'dist_params': 'env_cfg.dist_cfg',
    'epochs': 'train_cfg.max_epochs', 'evaluation': 'val_evaluator and train_cfg.val_interval',
    'fp16': 'optim_wrapper.type=AmpOptimWrapper, which --amp does', 'log_config': 'default_hooks.logger',
    'lr': 'optim_wrapper.optimizer.lr', 'lr_config': 'param_scheduler', 'max_epochs': 'train_cfg.max_epochs',
    'optimizer': 'optim_wrapper.optimizer', 'optimizer_config': 'optim_wrapper.clip_grad',
    'resume_from': 'load_from and resume, which --resume PATH does', 'runner': 'train_cfg',
    'seed': 'randomness.seed', 'total_epochs': 'train_cfg.max_epochs',
    'weight_decay': 'optim_wrapper.optimizer.weight_decay',
}  # fmt: skip


def check_options(cfg: Config, options: dict[str, Any], name: str) -> None:
    """Refuse options whose key is neither in the config nor an argument of what it is given to.

    Variables of the file whose value was copied into other places when it was parsed are refused too: a change of
    theirs would be read by nobody. Other top-level keys may be what a user's own hook reads.

    Args:
        cfg: The config as the file gives it, before the options are merged.
        options: Dotted keys and their values.
        name: How the user calls the config.

    Raises:
        UserError: An unknown key; names it, where it is, and the nearest known ones.
    """
    for option in options:
        _check_top(cfg, option, name)
    merged = cfg.copy()
    merged.merge_from_dict(options)
    for option in options:
        parts = option.split('.')
        before: Any = cfg
        after: Any = merged
        for depth, part in enumerate(parts):
            if isinstance(after, (list, tuple)):
                before = before[int(part)] if isinstance(before, (list, tuple)) and int(part) < len(before) else None
                after = after[int(part)]
                continue
            if before is not None and part not in before:
                _check_new(after, part, parts[:depth], name, str(cfg.get('default_scope', 'mmengine')))
            before = before.get(part) if before is not None else None
            after = after[part]
            if not isinstance(before, (dict, list, tuple)):
                before = None


def _check_top(cfg: Config, option: str, name: str) -> None:
    """Refuse a former name, and a variable that was copied to where it is needed."""
    key = option.partition('.')[0]
    copied = key == 'data_preprocessor' and (cfg.get('model') or {}).get(key) is not None  # that of the model wins
    if key in _parameters(Runner)[0] | _TOP_LEVEL and not copied:
        return
    places = list(_places(dict(cfg.items()), _bare(cfg[key]), key)) if key in cfg else []
    now = next((new for former, new in _FORMER.items() if f'{option}.'.startswith(f'{former}.')), '')
    if now and not places:
        raise UserError(f'--cfg-options {option}: nothing reads {key} in {name}: it is {now}')
    if places:
        raise UserError(
            f'--cfg-options {option}: {key} is a variable of {name}, whose value was copied when the file was read: '
            f'set {" and ".join(places)}'
        )


def _places(owner: Any, value: Any, variable: str, path: str = '') -> Iterator[str]:
    """Where in a config a variable's value occurs again: under its own name, or, of a container, anywhere."""
    entries = owner.items() if isinstance(owner, Mapping) else enumerate(owner)
    for key, found in entries:
        where = f'{path}.{key}' if path else str(key)
        if where == variable:
            continue
        if _was_copied(value, _bare(found), key == variable):
            yield where
        elif isinstance(found, (Mapping, list, tuple)):
            yield from _places(found, value, variable, where)


def _bare(value: Any) -> Any:
    """A value without mmengine's own keys, which it drops or adds where it copies one."""
    if isinstance(value, Mapping):
        return {key: _bare(part) for key, part in value.items() if key not in ('_scope_', '_delete_')}
    return [_bare(part) for part in value] if isinstance(value, (list, tuple)) else value


def _was_copied(value: Any, found: Any, same_name: bool) -> bool:
    if isinstance(value, Mapping) and value:
        return isinstance(found, Mapping) and all(found.get(key) == part for key, part in value.items())
    return bool(found == value) and (same_name or (isinstance(value, list) and bool(value)))


def _check_new(owner: Any, key: str, path: list[str], name: str, scope: str) -> None:
    """Refuse ``key``, new in ``owner`` at ``path``, unless something reads it."""
    known, closed = _readers(owner, path, scope)
    if key in known:
        return
    others = (known | set(owner)) - {key}
    hint = near(key, others, cutoff=0.6 if closed else 0.72)
    if closed or hint:
        where = '.'.join(path) or 'the top level'
        of = f" (type='{owner['type']}')" if path and 'type' in owner else ''
        raise UserError(f'--cfg-options {".".join([*path, key])}: {name} has no {key} in {where}{of}{hint}')


def _readers(owner: Any, path: list[str], scope: str) -> tuple[set[str], bool]:
    """The keys that a dict of the config may have, and whether that list is complete."""
    if not path:
        return _parameters(Runner)[0] | _TOP_LEVEL, False
    taken = _TAKEN_OUT.get(path[0], set())
    if path[-1] == 'paramwise_cfg':
        return _PARAMWISE, False
    if path[-1].endswith('norm_cfg'):
        taken = {'requires_grad'}  # mmcv.cnn.build_norm_layer
    kind = owner.get('type')
    if kind is None:
        if path[-1].endswith('dataloader'):
            return _parameters(DataLoader)[0] | _DATALOADER, False
        return set(), False
    cls = _find(kind, scope) if isinstance(kind, str) else kind
    if cls is None:
        return set(), False
    known, closed = _parameters(cls)
    return known | _RESERVED | taken, closed


def _parameters(cls: Any) -> tuple[set[str], bool]:
    """Names of the arguments of a class, those it hands to its bases included, and whether these are all."""
    names: set[str] = set()
    for base in inspect.getmro(cls) if inspect.isclass(cls) else (cls,):
        if inspect.isclass(base) and '__init__' not in vars(base):
            continue
        try:
            parameters = inspect.signature(base).parameters.values()
        except (TypeError, ValueError):  # written in C
            return names, False
        names.update(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return names, base is not object
    return names, False


def _find(kind: str, scope: str) -> Any:
    """The class that a ``type`` means in this scope, whatever registry it is in."""
    for registry in _REGISTRIES:
        found = registry.children.get(scope, registry).get(kind)
        if found is not None:
            return found
    return None
