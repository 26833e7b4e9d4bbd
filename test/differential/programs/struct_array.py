import struct, array, socket, gc, _socket
print(struct.pack('<ih', 1, 2), array.array('i', [1]).itemsize, socket.socket is not _socket.socket, _socket.timeout is socket.timeout)
