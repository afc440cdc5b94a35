"""Terminate TLS in front of a plain server: `python tls_proxy.py CERTIFICATE KEY HOST PORT`.

It listens on port 6380, for the test of remote workers: the Valkey in Sandlot's image has no TLS,
and a production one would have a proxy like this in front.
"""

import asyncio
import contextlib
import ssl
import sys


async def pump(reader, writer):
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def main(certificate, key, host, port):
    async def open_door(reader, writer):
        inner_reader, inner_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = await asyncio.start_server(open_door, "0.0.0.0", 6380, ssl=context)
    async with server:
        await server.serve_forever()


asyncio.run(main(*sys.argv[1:]))
