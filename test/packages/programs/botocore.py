# package: botocore
# load: botocore.session botocore.auth
import datetime
import botocore.auth
import botocore.awsrequest
import botocore.credentials
import botocore.session

session = botocore.session.get_session()
print(len(session.get_available_services()) > 200, session.get_available_regions('sqs')[:3])
request = botocore.awsrequest.AWSRequest('GET', 'https://sqs.eu-north-1.amazonaws.com/', params={'Action': 'ListQueues'})
signer = botocore.auth.SigV4QueryAuth(botocore.credentials.Credentials('key', 'secret'), 'sqs', 'eu-north-1')
print(sorted(p.partition('=')[0] for p in (signer.add_auth(request) or request.url).partition('?')[2].split('&')))
