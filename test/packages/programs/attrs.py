# package: attrs
# load: attr attrs
import attrs


@attrs.frozen
class Point:
    x: int = attrs.field(converter=int, validator=attrs.validators.ge(0))
    y: int = 0
    tags: list = attrs.Factory(list)


print(Point('3'), attrs.evolve(Point(1), y=5), attrs.asdict(Point(1, tags=['t'])))
try:
    Point(-1)
except ValueError as error:
    print(error)
