"""What all sections of a config share: the base class, and the ranges of numbers."""

from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, le=1e30)]  # float32 ends at 3e38
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """Base of all sections: unknown keys and wrong types are refused, values never change."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


def each_once(names: list[Any]) -> list[Any]:
    """Return a list, whose values must differ.

    Raises:
        ValueError: One is there twice.
    """
    if len(set(names)) < len(names):
        raise ValueError("must name each once")
    return names


def section_in(annotation: Any) -> Any:
    """Return the section that a type names, alone or beside a number; None for a value."""
    options = (annotation, *get_args(annotation))
    return next((option for option in options if hasattr(option, "model_fields")), None)
