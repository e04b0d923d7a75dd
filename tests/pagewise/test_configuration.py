from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Literal

import pytest

from pagewise.configuration import (
    ConfigurationError,
    build,
    convert,
    field_types,
    from_file,
    from_overrides,
    to_document,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wheels:
    count: int = 4
    radius: float = 0.3

    def __post_init__(self) -> None:
        mistakes = [f"{name}: expected > 0" for name in ("count", "radius") if getattr(self, name) <= 0]
        if mistakes:
            raise ValueError("\n".join(mistakes))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cart:
    name: str = "cart"
    wheels: Wheels = dataclasses.field(default_factory=Wheels)
    loads: tuple[float, ...] = (1.0,)
    pulled_by: Literal["horse", "ox"] = "horse"
    brake: bool | None = None
    prices: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stall:
    prices: dict[str, float] = dataclasses.field(default_factory=lambda: {"hay": 2.0})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Street:
    stall: Stall = dataclasses.field(default_factory=lambda: Stall(prices={"oats": 3.0}))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    engine: Wheels = dataclasses.field(default_factory=lambda: Wheels(count=8))
    tender: Cart = dataclasses.field(default_factory=lambda: Cart(name="tender", wheels=Wheels(count=6)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ticket:
    seat: int


def cart(*overrides: str) -> Cart:
    return build(Cart, [from_overrides(overrides)])


def test_entries_of_a_mapping_are_set_one_by_one_or_all_together() -> None:
    assert cart("prices.hay=2", "prices.oats=1e1").prices == {"hay": 2.0, "oats": 10.0}
    assert cart("prices.hay=2", "prices={oats: 3}").prices == {"oats": 3.0}
    assert cart("prices={oats: 3}", "prices.hay=2", "prices.oats=4").prices == {"oats": 4.0, "hay": 2.0}
    assert build(Stall, [from_overrides(["prices.rye=1"])]).prices == {"hay": 2.0, "rye": 1.0}
    assert build(Street, [from_overrides(["stall.prices.rye=1"])]).stall.prices == {"oats": 3.0, "rye": 1.0}


def test_a_mistake_in_an_entry_names_it() -> None:
    with pytest.raises(ConfigurationError, match=r"prices\.hay: expected a finite number, got 'much' \(prices\.hay"):
        cart("prices.hay=much")
    with pytest.raises(ConfigurationError, match=r"unknown name 'prices\.hay\.kilo'"):
        cart("prices.hay.kilo=1")


def test_overrides_reach_every_level_and_are_converted() -> None:
    built = cart("name=7", "wheels.count=1e1", "wheels.radius=1e-3", "loads=[1, 2]", "brake=true", "prices={hay: 2}")
    assert built == Cart(
        name="7", wheels=Wheels(count=10, radius=0.001), loads=(1.0, 2.0), brake=True, prices={"hay": 2.0}
    )


def test_later_sources_win(tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("wheels: {count: 2, radius: 1}\nname: first")
    second.write_text("wheels:\n  count: 3")
    sources = [from_file(first, Cart), from_file(second, Cart), from_overrides(["wheels.radius=2"])]
    assert build(Cart, sources) == Cart(name="first", wheels=Wheels(count=3, radius=2.0))


def test_a_section_may_be_empty(tmp_path: Path) -> None:
    path = tmp_path / "cart.yaml"
    path.write_text("wheels:\n  # count: 3\nname: plain")
    assert build(Cart, [from_file(path, Cart)]) == Cart(name="plain")


def test_a_section_keeps_the_defaults_it_is_given_where_others_of_its_values_are_set() -> None:
    built = build(Train, [from_overrides(["engine.radius=2", "tender.wheels.radius=1", "tender.brake=true"])])
    assert built.engine == Wheels(count=8, radius=2.0)
    assert built.tender == Cart(name="tender", brake=True, wheels=Wheels(count=6, radius=1.0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sledge:
    runners: int = 2
    dogs: int = 6

    def __post_init__(self) -> None:
        if self.runners != 2 or self.dogs < 1:
            raise ValueError(f"configuration of a sledge:\n  runners: got {self.runners}\n  dogs: got {self.dogs}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stable:
    sledge: Sledge = dataclasses.field(default_factory=Sledge)


def test_the_title_of_a_message_is_no_mistake() -> None:
    with pytest.raises(ConfigurationError) as caught:
        build(Stable, [from_overrides(["sledge.runners=3", "sledge.dogs=0"])])
    assert caught.value.mistakes == ("sledge: runners: got 3", "sledge: dogs: got 0")


def test_what_is_built_reads_back(tmp_path: Path) -> None:
    import yaml

    built = cart("prices={hay: 2}", "loads=[1, 2]")
    (tmp_path / "cart.yaml").write_text(yaml.safe_dump(to_document(built)))
    assert build(Cart, [from_file(tmp_path / "cart.yaml", Cart)]) == built


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("wheels.cuont=3", r"unknown name 'wheels.cuont' \(wheels.cuont=3\); the nearest known name is 'wheels.count'"),
        ("radius=3", r"unknown name 'radius' .* nearest known name is 'wheels.radius'"),
        ("wheels=3", r"unknown name 'wheels' .* is a section: set its values, for example wheels.count"),
        ("wheels.count=1.5", r"wheels.count: expected a whole number, got 1.5 \(wheels.count=1.5\)"),
        ("wheels.count=true", r"wheels.count: expected a whole number, got True"),
        ("wheels.radius=nan", r"wheels.radius: expected a finite number, got 'nan'"),
        ("wheels.radius=wide", r"wheels.radius: expected a finite number, got 'wide'"),
        ("brake=maybe", r"brake: expected true or false \(or null\), got 'maybe'"),
        ("pulled_by=dog", r"pulled_by: expected one of 'horse', 'ox', got 'dog'"),
        ("loads=3", r"loads: expected a list, for example \[1, 2\], got 3"),
        ("prices=3", r"prices: expected names with values, got 3"),
        ("wheels.count=-1", r"wheels: count: expected > 0"),
        ("wheels.count", r"'wheels.count' is no override: expected name=value"),
        ("name=[", r"'name=\[': '\[' is not a YAML value"),
    ],
)
def test_a_mistake_says_what_was_expected_and_what_came(override: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        cart(override)


def test_all_mistakes_are_shown_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        cart("wheels.count=-1", "wheels.radius=-1", "nmae=x", "loads=none", "pulled_by=dog")
    assert [mistake.split(":")[0].split(" (")[0] for mistake in caught.value.mistakes] == [
        "unknown name 'nmae'",
        "wheels",
        "wheels",
        "loads",
        "pulled_by",
    ]
    assert "5 mistakes in the configuration" in str(caught.value)


def test_a_value_without_default_must_be_given() -> None:
    assert build(Ticket, [from_overrides(["seat=3"])]).seat == 3
    with pytest.raises(ConfigurationError, match="seat: expected a value, there is no default"):
        build(Ticket, [])


def test_every_misspelt_name_is_answered_with_a_known_one() -> None:
    generator = random.Random(0)
    known = list(field_types(Cart))
    for _ in range(50):
        name = generator.choice(known)
        spot = generator.randrange(len(name))
        misspelt = name[:spot] + "q" + name[spot + 1 :]
        with pytest.raises(ConfigurationError, match="nearest known name is"):
            cart(f"{misspelt}=1")


@pytest.mark.parametrize(
    ("text", "message"),
    [("wheels: [", "is not YAML"), ("- 1", "expected sections and values, got list"), (None, "there is none")],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "cart.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=rf"{path}.*{message}"):
        from_file(path, Cart)


def test_null_is_refused_where_it_is_not_allowed() -> None:
    assert convert(None, int | None) is None
    with pytest.raises(ValueError, match="expected a whole number, got None"):
        convert(None, int)
