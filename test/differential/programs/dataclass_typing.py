import dataclasses, typing
@dataclasses.dataclass
class D:
    a: int
    b: typing.List[int] = dataclasses.field(default_factory=list)
print(D(1), typing.get_type_hints(D), D.__module__)
