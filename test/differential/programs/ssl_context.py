# needs: ssl
import ssl
c = ssl.create_default_context()
print(c.verify_mode, c.check_hostname, len(ssl.RAND_bytes(8)))
