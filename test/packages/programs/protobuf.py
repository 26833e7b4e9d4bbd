# package: protobuf
# load: google.protobuf.message google.protobuf.descriptor_pb2 google.protobuf.json_format google.protobuf.struct_pb2
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory, struct_pb2
from google.protobuf.internal import api_implementation

file = descriptor_pb2.FileDescriptorProto(name='f.proto', package='p', syntax='proto3')
message = file.message_type.add(name='M')
message.field.add(name='n', number=1, type=5, label=1)
message.field.add(name='words', number=2, type=9, label=3)
pool = descriptor_pool.DescriptorPool()
pool.Add(file)
M = message_factory.GetMessageClass(pool.FindMessageTypeByName('p.M'))
data = M(n=-3, words=['a', 'é']).SerializeToString()
print(api_implementation.Type(), data, json_format.MessageToJson(M.FromString(data), indent=None))
s = struct_pb2.Struct()
s.update({'list': [1, True, None], 'text': 'x'})
print(json_format.MessageToDict(s) == {'list': [1, True, None], 'text': 'x'})
