# package: pydantic
# load: pydantic pydantic.main pydantic.fields
from datetime import datetime
from typing import Literal, Optional, Union
from pydantic import BaseModel, Field, ValidationError, field_validator


class Address(BaseModel):
    street: str = Field(min_length=2)


class Person(BaseModel):
    name: str
    born: datetime
    kind: Literal['a', 'b'] = 'a'
    home: Optional[Address] = None
    size: Union[int, float] = 1

    @field_validator('name')
    @classmethod
    def title(cls, value):
        return value.title()


print(Person.model_validate_json('{"name": "ada l", "born": "1815-12-10T00:00:00Z", "home": {"street": "St"}, "size": 1.5}'))
try:
    Person(name=1, born='never', kind='c', home={'street': ''})
except ValidationError as error:
    print([(e['loc'], e['type']) for e in error.errors()])
print(sorted(Person.model_json_schema()['properties']))
