"""Clients of Python: clients.py websockets|aiohttp URL says as JSON what came
of a socket to the echo server."""

import asyncio
import importlib.metadata
import json
import sys

SUBPROTOCOL = "v1.echo"
BYTES = bytes(range(256))


async def use_websockets(url):
    import websockets

    result = {}
    async with websockets.connect(url, subprotocols=[SUBPROTOCOL]) as c:
        result["subprotocol"] = c.subprotocol
        await c.send("text of websockets")
        result["text"] = await c.recv()
        await c.send(BYTES)
        if await c.recv() == BYTES:
            result["binary"] = len(BYTES)
        await c.send("close 4001")
        try:
            await c.recv()
        except websockets.ConnectionClosed as closed:
            result["close"] = closed.rcvd.code
    return result


async def use_aiohttp(url):
    import aiohttp

    result = {}
    async with aiohttp.ClientSession() as session, session.ws_connect(url, protocols=[SUBPROTOCOL], compress=15) as c:
        result["subprotocol"] = c.protocol
        await c.send_str("text of aiohttp")
        result["text"] = await c.receive_str()
        await c.send_bytes(BYTES)
        if await c.receive_bytes() == BYTES:
            result["binary"] = len(BYTES)
        await c.send_str("close 4001")
        await c.receive()
        result["close"] = c.close_code
    return result


CLIENTS = {"websockets": use_websockets, "aiohttp": use_aiohttp}

if len(sys.argv) != 3 or sys.argv[1] not in CLIENTS:
    sys.exit("usage: clients.py websockets|aiohttp URL")
name, url = sys.argv[1:]
print(json.dumps({"version": importlib.metadata.version(name)} | asyncio.run(CLIENTS[name](url))))
