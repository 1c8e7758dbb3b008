"""A field that binds to a kind: read by the kind's own class, written whole, explained and described as a union is."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError, field_validator

from graft.schemas.base import Value
from graft.schemas.errors import NotFound
from graft.schemas.kinds import Kinds, OfKind, Plugin
from graft.schemas.problems import Explainer

SHAPES: Kinds[Any] = Kinds("shapes", "no/such/folder")


class Shape(Value):
    """The annotation of the field."""

    kind: str


class Circle(Shape):
    kind: Literal["circle"] = "circle"
    radius: float = Field(default=1.0, gt=0, description="in metres")

    @field_validator("radius")
    @classmethod
    def _round(cls, radius: float) -> float:
        if radius == 13:
            raise ValueError("13 is unlucky")
        return radius


class Square(Shape):
    kind: Literal["square"] = "square"
    corners: tuple[str, ...] = Field(default=(), max_length=4)


class Drawn:
    """A kind whose settings are an attribute of it."""

    Settings = Square


class Picture(Value):
    shape: Annotated[Shape, OfKind(SHAPES)] = Circle()


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    found: Any = {name: Plugin("shapes", name, "shapes-1", "1.0") for name in ("circle", "square")}
    found["blob"] = Plugin("shapes", "blob", "shapes-2", "2.0", problem="ImportError: no module named 'blobs'")
    monkeypatch.setattr(SHAPES, "_plugins", found)
    monkeypatch.setattr(SHAPES, "_loaded", {"circle": Circle, "square": Square})


def _errors_of(shape: Any) -> list[tuple[str, str, str]]:
    with pytest.raises(ValidationError) as caught:
        Picture.model_validate({"shape": shape})
    explained = Explainer(Picture.model_json_schema()).explain_all(
        [dict(error) for error in caught.value.errors(include_url=False)], {"shape": shape}
    )
    return [(".".join(map(str, one.path)), one.what, one.fix) for one in explained]


def test_a_value_is_read_and_written_by_its_own_class() -> None:
    """Fields that the annotated class does not have are kept; a finished value stands as it is."""
    read = Picture.model_validate({"shape": {"kind": "circle", "radius": 2}})
    assert read.shape == Circle(radius=2)
    assert read.model_dump(mode="json") == {"shape": {"kind": "circle", "radius": 2.0}}
    assert Picture.model_validate_json(read.model_dump_json()) == read
    assert read.model_dump(exclude={"shape": {"radius"}}) == {"shape": {"kind": "circle"}}
    assert Picture(shape=Square(corners=("a",))).shape == Square(corners=("a",))


def test_errors_read_like_those_of_a_union() -> None:
    """Each error names the field as in the file; it lists the available kinds and a plugin's problem."""
    known = "circle, square"
    assert _errors_of({"kind": "cirkle"}) == [
        ("shape", "shape has no kind 'cirkle'", f"did you mean 'circle'? choose kind from: {known}")
    ]
    assert _errors_of({"kind": ["circle"]})[0][:2] == ("shape", "shape has no kind \"['circle']\"")
    assert _errors_of({"radius": 2}) == [("shape", "shape has no kind", f"add kind: one of {known}")]
    assert _errors_of("round")[0][:2] == ("shape", "shape must be a block of fields, but is text ('round')")
    assert _errors_of({"kind": "circle", "radius": 0, "width": 1}) == [
        ("shape.radius", "radius is out of range (0)", "give a number of above 0 (in metres)"),
        ("shape.width", "unknown field 'width'", "allowed here: kind, radius"),
    ]
    assert _errors_of({"kind": "circle", "radius": 13})[0][:2] == ("shape.radius", "13 is unlucky")
    assert _errors_of({"kind": "square", "corners": ["a", 2]})[0][0] == "shape.corners.1"
    assert _errors_of({"kind": "blob"}) == [(
        "shape.kind", "kind 'blob' of shapes-2 cannot be used: ImportError: no module named 'blobs'",
        "repair or remove the plugin; graft plugins lists all",
    )]  # fmt: skip
    with pytest.raises(NotFound, match="no module named 'blobs'"):
        SHAPES.get("blob")


def test_the_schema_is_the_union_of_the_kinds_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a discriminator, and looked up anew: a kind that came later is in it. Settings may be a kind's attribute."""
    schema = Picture.model_json_schema()
    assert schema["properties"]["shape"]["discriminator"] == {
        "propertyName": "kind", "mapping": {"circle": "#/$defs/Circle", "square": "#/$defs/Square"},
    }  # fmt: skip
    assert set(schema["$defs"]) == {"Circle", "Square"}

    class Other(Value):
        shape: Annotated[Shape, OfKind(SHAPES, "Settings")]

    monkeypatch.setattr(SHAPES, "_plugins", {"square": Plugin("shapes", "square", "shapes-1", "1.0")})
    monkeypatch.setattr(SHAPES, "_loaded", {"square": Drawn})
    assert Other.model_validate({"shape": {"kind": "square"}}).shape == Square()
    assert set(Other.model_json_schema()["$defs"]) == {"Square"}
