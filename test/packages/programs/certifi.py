# package: certifi
# load: certifi
import ssl
import certifi

context = ssl.create_default_context(cafile=certifi.where())
print(len(context.get_ca_certs()) > 50, sum(map(len, context.get_ca_certs(True))))
