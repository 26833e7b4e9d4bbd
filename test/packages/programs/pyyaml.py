# package: pyyaml
# load: yaml
import yaml

text = yaml.dump({'list': [1, 2.5, None, True], 'map': {'a': 'x: y', 'b': 'é'}}, Dumper=getattr(yaml, 'CSafeDumper'), allow_unicode=True)
print(text, yaml.load(text, getattr(yaml, 'CSafeLoader')), yaml.safe_load('&a [1, *a, 2020-01-01]')[2])
try:
    yaml.safe_load('a: [')
except yaml.YAMLError as error:
    print(error)
