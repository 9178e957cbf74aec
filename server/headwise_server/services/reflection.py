"""grpc.reflection as v1, which tools ask for first, and as v1alpha, which older ones know.

The two differ in the name of their package alone, and grpcio-reflection has v1alpha. So both names have its servicer,
and the descriptor of v1 is made from that of v1alpha.
"""

from collections.abc import Sequence

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection, reflection_pb2

ALPHA, STABLE = "grpc.reflection.v1alpha", "grpc.reflection.v1"
STABLE_NAME = f"{STABLE}.ServerReflection"


def _describe() -> None:
    """Add v1 to what reflection itself can describe."""
    file = FileDescriptorProto.FromString(reflection_pb2.DESCRIPTOR.serialized_pb)
    file.name, file.package = f"{STABLE.replace('.', '/')}/reflection.proto", STABLE
    for message in file.message_type:
        for field in message.field:
            if field.type_name:  # of a message
                field.type_name = field.type_name.replace(ALPHA, STABLE)
    for method in file.service[0].method:
        method.input_type = method.input_type.replace(ALPHA, STABLE)
        method.output_type = method.output_type.replace(ALPHA, STABLE)
    descriptor_pool.Default().AddSerializedFile(file.SerializeToString())


def enable_reflection(services: Sequence[str], server: grpc.aio.Server) -> None:
    """Describe services to clients.

    Args:
        services: full names, beside those of reflection.
    """
    _describe()
    names = (*services, STABLE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    handler = grpc.stream_stream_rpc_method_handler(
        reflection.aio.ReflectionServicer(names).ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    handlers = grpc.method_handlers_generic_handler(STABLE_NAME, {"ServerReflectionInfo": handler})
    server.add_generic_rpc_handlers((handlers,))
