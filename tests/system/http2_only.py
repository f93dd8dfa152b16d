"""A client that offers HTTP/2 alone, as gRPC's do: a script, run by path with `-I`.

    http2_only.py ADDRESS NAME PATH CA

Prints a JSON object: `protocol` (the one that TLS agreed on), `status` and `body`. Needs h2.
"""

import json
import socket
import ssl
import sys

import h2.config
import h2.connection
import h2.events


def ask(address: str, name: str, path: str, ca: str) -> dict[str, str]:
    """Make one request and return what came."""
    context = ssl.create_default_context(cafile=ca)
    context.set_alpn_protocols(["h2"])
    plain = socket.create_connection((address, 443), timeout=20)
    with context.wrap_socket(plain, server_hostname=name) as secure:
        told = {"protocol": secure.selected_alpn_protocol() or "", "status": "", "body": ""}
        spoken = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        spoken.initiate_connection()
        wanted = {":method": "GET", ":authority": name, ":scheme": "https", ":path": path}
        spoken.send_headers(1, list(wanted.items()), end_stream=True)
        while True:
            secure.sendall(spoken.data_to_send())
            if not (data := secure.recv(65536)):
                return told
            for each in spoken.receive_data(data):
                if isinstance(each, h2.events.ResponseReceived):
                    told["status"] = {str(key): str(value) for key, value in each.headers}[
                        ":status"
                    ]
                elif isinstance(each, h2.events.DataReceived):
                    told["body"] += each.data.decode()
                elif isinstance(each, h2.events.StreamEnded):
                    return told


if __name__ == "__main__":
    sys.stdout.write(json.dumps(ask(*sys.argv[1:])))
