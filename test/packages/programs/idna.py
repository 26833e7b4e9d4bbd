# package: idna
# load: idna
import idna

print(idna.encode('bücher.example'), idna.decode('xn--bcher-kva.example'), idna.encode('Königsgäßchen', uts46=True))
try:
    idna.encode('a⒈com')
except idna.IDNAError as error:
    print(type(error).__name__)
