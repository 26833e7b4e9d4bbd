# needs: ssl
import random, os, uuid, secrets, ssl, tempfile
print(len({random.random() for _ in range(5)}), len(os.urandom(4)), uuid.uuid4() != uuid.uuid4(), len(secrets.token_hex(4)))
