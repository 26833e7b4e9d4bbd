# package: jsonschema
# load: jsonschema
import jsonschema

schema = {'type': 'object', 'properties': {'n': {'type': 'integer', 'minimum': 1}, 'l': {'items': {'$ref': '#/$defs/s'}}},
          'required': ['n'], '$defs': {'s': {'type': 'string'}}}
validator = jsonschema.Draft202012Validator(schema)
for instance in ({'n': 1, 'l': ['a']}, {'n': 0}, {'l': [1]}):
    print(sorted(e.message for e in validator.iter_errors(instance)))
