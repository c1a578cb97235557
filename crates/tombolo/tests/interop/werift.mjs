// werift, WebRTC in TypeScript: a relay-only data channel.

import { Counter, load, plan, tell } from "./plan.mjs";

const { RTCPeerConnection } = load("werift");
const [alice, bob] = plan.servers.map(({ url }) => {
  const server = { urls: url, username: plan.username, credential: plan.password };
  return new RTCPeerConnection({ iceServers: [server], iceTransportPolicy: "relay" });
});

bob.onDataChannel.subscribe((channel) => {
  channel.onMessage.subscribe((data) => channel.send(Buffer.from(data)));
});
const channel = alice.createDataChannel("echo");
const counter = new Counter(
  (data) => channel.send(Buffer.from(data)),
  (counts) => tell({ ...counts, local: kindOf(alice.localDescription.sdp) }),
);
channel.stateChanged.subscribe((state) => state === "open" && counter.start());
channel.onMessage.subscribe((data) => counter.take(data));

// Every candidate is in the descriptions once they are gathered.
await alice.setLocalDescription(await alice.createOffer());
await bob.setRemoteDescription(alice.localDescription);
await bob.setLocalDescription(await bob.createAnswer());
await alice.setRemoteDescription(bob.localDescription);

function kindOf(sdp) {
  const kinds = new Set([...sdp.matchAll(/^a=candidate:.* typ (\w+)/gm)].map((match) => match[1]));
  return [...kinds].join(",");
}
