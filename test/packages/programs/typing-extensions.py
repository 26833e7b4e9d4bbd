# package: typing-extensions
# load: typing_extensions
import typing_extensions as t


class Movie(t.TypedDict):
    name: t.Required[str]
    year: t.NotRequired[int]


@t.runtime_checkable
class Closes(t.Protocol):
    def close(self) -> None: ...


print(sorted(Movie.__required_keys__), sorted(Movie.__optional_keys__), isinstance(open('/dev/null'), Closes), t.get_type_hints(Movie, include_extras=True))
