# package: django
# load: django django.http django.template django.db.models django.test
import django
from django.conf import settings

settings.configure(SECRET_KEY='key', ROOT_URLCONF=__name__, ALLOWED_HOSTS=['*'], DATABASES={
    'default': {'ENGINE': 'django.db.backends.sqlite3', 'NAME': ':memory:'}},
    TEMPLATES=[{'BACKEND': 'django.template.backends.django.DjangoTemplates'}])
django.setup()
from django.db import connection, models
from django.http import HttpResponse
from django.template import engines
from django.test import Client
from django.urls import path


class Item(models.Model):
    name = models.CharField(max_length=9)

    class Meta:
        app_label = 'app'


def page(request, name):
    Item.objects.create(name=name)
    text = engines['django'].from_string('{% for i in items %}{{ i.name|upper }};{% endfor %}')
    return HttpResponse(text.render({'items': Item.objects.order_by('-name')}))


urlpatterns = [path('<str:name>', page)]
with connection.schema_editor() as editor:
    editor.create_model(Item)
client = Client()
print([client.get('/' + name).content for name in ('a', '<b>', 'c')], Item.objects.filter(name__lt='b').count())
