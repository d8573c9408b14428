"""Multimodal energy-based models: generate, complete and score data that comes in several parts.

The names of `__init__.pyi` are imported when they are first used, so that `import multiebm` does not wait for torch.
"""

import lazy_loader

_found, _, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version  # reads a file, so not at import

        return version("multiebm")
    if name not in __all__:
        raise AttributeError(f"module 'multiebm' has no attribute {name!r}; it has {', '.join(__all__)}")
    return _found(name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
