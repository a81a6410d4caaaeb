"""Packages that only some users need: an extra of pyproject.toml, with a file of requirements."""

import importlib.util

from system.errors import InputError


def check_extra(wanted_by: str, package: str, extra: str) -> None:
    """Refuse what needs a package that is not installed, before anything slow is imported.

    Args:
        wanted_by: The option that needs it.
        package: Name that is imported.
        extra: Name of the extra that installs it.

    Raises:
        InputError: It is missing; says how to install it.
    """
    if not is_installed(package):
        raise InputError(
            f"{wanted_by} needs {package}; it comes with the extra `{extra}`: "
            f"pip install -r requirements-{extra}.txt"
        )


def is_installed(package: str) -> bool:
    """Return whether a package is there, without importing it.

    A folder of its name in the current folder, such as W&B's `wandb`, is no package.
    """
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None
