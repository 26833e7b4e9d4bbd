# package: lxml
# load: lxml.etree lxml.html
from lxml import etree, html

root = etree.fromstring('<r xmlns:n="u"><n:a i="2">x</n:a><n:a i="1">y</n:a></r>')
print(root.xpath('sum(n:a/@i)', namespaces={'n': 'u'}), etree.tostring(root, pretty_print=True).decode())
style = etree.XSLT(etree.XML('<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform"><xsl:template match="/">'
                             '<o><xsl:for-each select="//@i"><xsl:sort/><v><xsl:value-of select="."/></v></xsl:for-each></o></xsl:template></xsl:stylesheet>'))
print(str(style(root)).strip())
print(html.tostring(html.fromstring('<p>a<b>b<p class=x>c')))
try:
    etree.fromstring('<a>')
except etree.XMLSyntaxError as error:
    print(error)
