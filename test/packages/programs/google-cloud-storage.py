# package: google-cloud-storage
# load: google.cloud.storage google.auth.credentials
# A bucket on loopback.
import json
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from loopback import serve_http


def respond(method, path, headers, body):
    if 'alt=media' in path:
        return 200, {'Content-Type': 'text/plain'}, b'content'
    return 200, {'Content-Type': 'application/json'}, json.dumps(
        {'name': 'object', 'bucket': 'bucket', 'size': '7', 'items': [{'name': 'a'}, {'name': 'b'}]}).encode()


client = storage.Client(project='p', credentials=AnonymousCredentials(), client_options={
    'api_endpoint': 'http://127.0.0.1:%d' % serve_http(respond)})
bucket = client.bucket('bucket')
blob = bucket.get_blob('object')
print(blob.name, blob.size, blob.download_as_bytes(checksum=None), [b.name for b in client.list_blobs('bucket')])
