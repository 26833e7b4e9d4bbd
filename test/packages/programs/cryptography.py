# package: cryptography
# load: cryptography.fernet cryptography.x509 cryptography.hazmat.primitives.asymmetric.rsa cryptography.hazmat.primitives.ciphers.aead
import hashlib
from cryptography.exceptions import InvalidSignature
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

key = rsa.generate_private_key(65537, 2048)
signature = key.sign(b'text', padding.PKCS1v15(), hashes.SHA256())
try:
    key.public_key().verify(signature, b'other', padding.PKCS1v15(), hashes.SHA256())
except InvalidSignature:
    print('invalid', len(signature))
print(AESGCM(b'k' * 16).encrypt(b'n' * 12, b'text', b'more').hex(), Scrypt(b's', 16, 1024, 8, 1).derive(b'word').hex())
print(ed25519.Ed25519PrivateKey.from_private_bytes(b'x' * 32).sign(b'text').hex())
f = Fernet(Fernet.generate_key())
print(f.decrypt(f.encrypt(b'secret')), hashlib.sha256(b'').hexdigest())
