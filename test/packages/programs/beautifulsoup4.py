# package: beautifulsoup4
# load: bs4
from bs4 import BeautifulSoup

for parser in ('html.parser', 'lxml'):
    soup = BeautifulSoup('<ul><li class="a b">one<li><a href="/x">two</a></ul>', parser)
    print([li.get_text() for li in soup.select('li')], soup.a['href'], soup.find(class_='b').name)
    soup.a.replace_with('three')
    print(soup.prettify())
