# package: boto3
# load: boto3 botocore.session s3transfer.manager
# A bucket on loopback, its requests signed; s3transfer's threads carry the file.
import io
import boto3
from loopback import serve_http

objects = {}


def respond(method, path, headers, body):
    signed = headers['Authorization'].startswith('AWS4-HMAC-SHA256 Credential=key/')
    if method == 'PUT':
        objects[path] = body
        return 200 if signed else 403, {'ETag': '"1"'}, b''
    return 200, {'ETag': '"1"', 'Content-Type': 'text/plain'}, objects[path.partition('?')[0]]


s3 = boto3.client('s3', endpoint_url='http://127.0.0.1:%d' % serve_http(respond), aws_access_key_id='key',
                  aws_secret_access_key='secret', region_name='eu-north-1',
                  config=boto3.session.Config(request_checksum_calculation='when_required'))
s3.upload_fileobj(io.BytesIO(b'content' * 1000), 'bucket', 'name')
answer = s3.get_object(Bucket='bucket', Key='name')
print(len(answer['Body'].read()), answer['ContentType'], s3.meta.region_name, sorted(objects))
