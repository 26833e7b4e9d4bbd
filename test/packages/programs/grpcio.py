# package: grpcio
# load: grpc
# A server and a client, each way of calling.
from concurrent import futures
import grpc


class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        if details.method == '/s/One':
            return grpc.unary_unary_rpc_method_handler(lambda request, context: request[::-1])
        if details.method == '/s/Many':
            return grpc.unary_stream_rpc_method_handler(lambda request, context: (request * i for i in range(1, 4)))


server = grpc.server(futures.ThreadPoolExecutor(4))
server.add_generic_rpc_handlers([Handler()])
port = server.add_insecure_port('127.0.0.1:0')
server.start()
with grpc.insecure_channel('127.0.0.1:%d' % port) as channel:
    print(channel.unary_unary('/s/One')(b'abc', timeout=20), list(channel.unary_stream('/s/Many')(b'x', timeout=20)))
    try:
        channel.unary_unary('/s/None')(b'', timeout=20)
    except grpc.RpcError as error:
        print(error.code())
server.stop(None).wait()
