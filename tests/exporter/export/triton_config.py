"""A `config.pbtxt` as NVIDIA's published message reads it, in a process of its own: its stubs and ours share names.

    python triton_config.py FILE

Prints the message as JSON, with every name as in the proto file; a field or value that it does not know is an error.
"""

import sys
from pathlib import Path

from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

if __name__ == "__main__":
    message = text_format.Parse(Path(sys.argv[1]).read_text("utf-8"), model_config_pb2.ModelConfig())
    print(json_format.MessageToJson(message, preserving_proto_field_name=True))
