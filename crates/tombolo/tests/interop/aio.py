"""aioice and aiortc: relayed datagrams and a relay-only data channel.

The plan is the second argument, as JSON (see plan.mjs); the first says which of the two it is.
"""

import asyncio
import json
import sys

PATIENCE_SECONDS = 60


def message(plan, index):
    return bytes([index % 251]) * plan["bytes"]


async def ice(plan):
    """Two ICE agents of aioice that have nothing but relayed candidates."""
    import aioice

    def agent(server, controlling):
        return aioice.Connection(
            ice_controlling=controlling,
            turn_server=(server["host"], server["port"]),
            turn_username=plan["username"],
            turn_password=plan["password"],
            turn_ssl=plan["transport"] == "tls",
            turn_transport="udp" if plan["transport"] == "udp" else "tcp",
            transport_policy=aioice.TransportPolicy.RELAY,
        )

    first, second = plan["servers"]
    alice, bob = agent(first, True), agent(second, False)
    await asyncio.gather(alice.gather_candidates(), bob.gather_candidates())
    for one, other in ((alice, bob), (bob, alice)):
        for candidate in one.local_candidates:
            await other.add_remote_candidate(candidate)
        await other.add_remote_candidate(None)
        other.remote_username = one.local_username
        other.remote_password = one.local_password
    await asyncio.gather(alice.connect(), bob.connect())
    received = 0
    for index in range(plan["messages"]):
        sent = message(plan, index)
        await alice.send(sent)
        await bob.send(await bob.recv())
        assert await alice.recv() == sent, f"message {index} came back changed"
        received += 1
    kinds = {candidate.type for candidate in alice.local_candidates}
    await asyncio.gather(alice.close(), bob.close())
    return received, kinds


async def rtc(plan):
    """A data channel of aiortc."""
    from aiortc import RTCConfiguration, RTCIceServer, RTCPeerConnection
    from aiortc.rtcconfiguration import RTCIceTransportPolicy

    def peer(server):
        server = RTCIceServer(server["url"], plan["username"], plan["password"])
        config = RTCConfiguration([server], iceTransportPolicy=RTCIceTransportPolicy.RELAY)
        return RTCPeerConnection(config)

    alice, bob = map(peer, plan["servers"])

    @bob.on("datachannel")
    def on_channel(channel):
        channel.on("message", channel.send)

    channel = alice.createDataChannel("echo")
    back = asyncio.Queue()
    opened = asyncio.Event()
    channel.on("open", opened.set)
    channel.on("message", back.put_nowait)
    await alice.setLocalDescription(await alice.createOffer())
    await bob.setRemoteDescription(alice.localDescription)
    await bob.setLocalDescription(await bob.createAnswer())
    await alice.setRemoteDescription(bob.localDescription)
    await opened.wait()
    received = 0
    for index in range(plan["messages"]):
        sent = message(plan, index)
        channel.send(sent)
        assert await back.get() == sent, f"message {index} came back changed"
        received += 1
    lines = alice.localDescription.sdp.splitlines()
    kinds = {line.split()[7] for line in lines if line.startswith("a=candidate:")}
    await asyncio.gather(alice.close(), bob.close())
    return received, kinds


async def main():
    plan = json.loads(sys.argv[2])
    run = {"ice": ice, "rtc": rtc}[sys.argv[1]]
    received, kinds = await asyncio.wait_for(run(plan), PATIENCE_SECONDS)
    print(json.dumps({
        "received": received,
        "bytes": received * plan["bytes"],
        "local": ",".join(sorted(kinds)),
    }))


asyncio.run(main())
