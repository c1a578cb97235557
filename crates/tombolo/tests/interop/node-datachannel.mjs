// node-datachannel, libdatachannel with libjuice: a relay-only data channel, over UDP alone.

import { Counter, load, plan, tell } from "./plan.mjs";

const { PeerConnection } = load("node-datachannel");
const [alice, bob] = plan.servers.map(({ host, port }, index) => {
  const server = {
    hostname: host,
    port,
    username: plan.username,
    password: plan.password,
    relayType: "TurnUdp",
  };
  const config = { iceServers: [server], iceTransportPolicy: "relay" };
  return new PeerConnection(["alice", "bob"][index], config);
});
const kinds = new Set();
for (const [one, other] of [
  [alice, bob],
  [bob, alice],
]) {
  one.onLocalDescription((sdp, type) => other.setRemoteDescription(sdp, type));
  one.onLocalCandidate((candidate, mid) => {
    kinds.add(candidate.match(/ typ (\w+)/)[1]);
    other.addRemoteCandidate(candidate, mid);
  });
}

bob.onDataChannel((channel) => channel.onMessage((data) => channel.sendMessageBinary(data)));
const channel = alice.createDataChannel("echo");
const counter = new Counter(
  (data) => channel.sendMessageBinary(Buffer.from(data)),
  (counts) => tell({ ...counts, local: [...kinds].join(",") }),
);
channel.onOpen(() => counter.start());
channel.onMessage((data) => counter.take(data));
