# package: openai
# load: openai openai.resources.chat
# The service's answers come from loopback.
import json
import openai
from loopback import serve_http


def respond(method, path, headers, body):
    asked = json.loads(body)
    if asked.get('stream'):
        parts = [{'id': 'i', 'object': 'chat.completion.chunk', 'created': 1, 'model': 'm', 'choices': [
            {'index': 0, 'delta': {'content': c}, 'finish_reason': None}]} for c in 'abc']
        text = ''.join('data: %s\n\n' % json.dumps(p) for p in parts) + 'data: [DONE]\n\n'
        return 200, {'Content-Type': 'text/event-stream'}, text.encode()
    message = {'role': 'assistant', 'content': asked['messages'][0]['content'].upper()}
    return 200, {'Content-Type': 'application/json'}, json.dumps({'id': 'i', 'object': 'chat.completion', 'created': 1, 'model': 'm', 'choices': [
        {'index': 0, 'message': message, 'finish_reason': 'stop'}]}).encode()


client = openai.OpenAI(api_key='key', base_url='http://127.0.0.1:%d/v1' % serve_http(respond))
asked = {'model': 'm', 'messages': [{'role': 'user', 'content': 'hello'}]}
print(client.chat.completions.create(**asked).choices[0].message.content)
print([c.choices[0].delta.content for c in client.chat.completions.create(stream=True, **asked)])
