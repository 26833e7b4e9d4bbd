# package: jinja2
# load: jinja2
from jinja2 import DictLoader, Environment, TemplateSyntaxError

environment = Environment(loader=DictLoader({
    'base': '<h1>{% block title %}{% endblock %}</h1>',
    'page': '{% extends "base" %}{% block title %}{% for x in list|sort %}{{ loop.index }}:{{ x|upper|e }} {% endfor %}{% endblock %}'}),
    autoescape=True, trim_blocks=True)
print(environment.get_template('page').render(list=['b&', 'a<']))
try:
    environment.from_string('{% if %}')
except TemplateSyntaxError as error:
    print(error.lineno, error.message)
