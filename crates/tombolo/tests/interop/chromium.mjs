// Chromium: a relay-only data channel between two pages of a headless browser.

import { load, plan, tell } from "./plan.mjs";

const { chromium } = load("playwright-core");
const args = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  // The server's certificate was made for the test.
  "--ignore-certificate-errors",
  // The pages' sockets are on loopback, which WebRTC leaves out otherwise.
  "--allow-loopback-in-peer-connection",
];
const browser = await chromium.launch({ executablePath: plan.browser, args });
const outcome = await (await browser.newPage()).evaluate(meet, plan);
await browser.close();
tell(outcome);

// Runs in the page.
async function meet(plan) {
  const [alice, bob] = plan.servers.map(({ url }) => {
    const server = { urls: url, username: plan.username, credential: plan.password };
    return new RTCPeerConnection({ iceServers: [server], iceTransportPolicy: "relay" });
  });
  const problems = [];
  for (const [one, other] of [
    [alice, bob],
    [bob, alice],
  ]) {
    one.onicecandidate = ({ candidate }) => candidate && other.addIceCandidate(candidate);
    one.onicecandidateerror = (event) => problems.push(`${event.errorCode} ${event.errorText}`);
  }
  bob.ondatachannel = ({ channel }) => {
    channel.binaryType = "arraybuffer";
    channel.onmessage = ({ data }) => channel.send(data);
  };
  const channel = alice.createDataChannel("echo");
  channel.binaryType = "arraybuffer";
  await alice.setLocalDescription(await alice.createOffer());
  await bob.setRemoteDescription(alice.localDescription);
  await bob.setLocalDescription(await bob.createAnswer());
  await alice.setRemoteDescription(bob.localDescription);
  const opened = new Promise((resolve) => (channel.onopen = resolve));
  const failed = new Promise((resolve) => setTimeout(resolve, 40_000, "late"));
  if ((await Promise.race([opened, failed])) === "late") {
    throw new Error(`no channel: ${alice.iceConnectionState}; ${problems.join("; ")}`);
  }
  let bytes = 0;
  let received = 0;
  await new Promise((resolve, reject) => {
    const send = (index) => channel.send(new Uint8Array(plan.bytes).fill(index % 251));
    channel.onmessage = ({ data }) => {
      const echo = new Uint8Array(data);
      if (echo.length !== plan.bytes || echo.some((byte) => byte !== received % 251)) {
        reject(new Error(`message ${received} came back changed`));
      }
      bytes += echo.length;
      received += 1;
      received === plan.messages ? resolve() : send(received);
    };
    send(0);
  });
  const stats = [...(await alice.getStats()).values()];
  const pair = stats.find((one) => one.type === "candidate-pair" && one.nominated);
  const local = stats.find((one) => one.id === pair.localCandidateId);
  return { received, bytes, local: local.candidateType, protocol: local.relayProtocol };
}
