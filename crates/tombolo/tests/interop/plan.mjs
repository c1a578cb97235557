// What the programs of this folder have in common: they read a plan, connect two peers to each other
// through TURN servers alone, one of each peer or one of both, echo messages, and print what came back.
//
// The plan is the first argument, as JSON:
//   {"servers": [{"url": "turn:127.0.0.1:3478?transport=udp", "host": "127.0.0.1", "port": 3478}, {…}],
//    "transport": "udp" | "tcp" | "tls", "username": "…", "password": "…",
//    "messages": 50, "bytes": 1000, "browser": "…"}
// The outcome is one line of JSON: {"received": 50, "bytes": 50000, "local": "relay"}.

import { createRequire } from "node:module";

export const plan = JSON.parse(process.argv[2]);

// Packages live where scripts/install-interop.sh put them.
export const load = createRequire(`${process.env.TOMBOLO_INTEROP}/package.json`);

export function tell(outcome) {
  process.stdout.write(`${JSON.stringify(outcome)}\n`, () => process.exit(0));
}

// A program that hangs must end by itself, with a reason.
setTimeout(() => {
  console.error("gave up after 60 s");
  process.exit(1);
}, 60_000).unref();

export function message(index) {
  return new Uint8Array(plan.bytes).fill(index % 251);
}

export function isMessage(index, data) {
  const bytes = new Uint8Array(data);
  return bytes.length === plan.bytes && bytes.every((byte) => byte === index % 251);
}

// Sends every message through `send`, one after the other is back, and counts.
export class Counter {
  constructor(send, done) {
    Object.assign(this, { send, done, received: 0, bytes: 0 });
  }

  start() {
    this.send(message(0));
  }

  take(data) {
    if (!isMessage(this.received, data)) {
      throw new Error(`message ${this.received} came back changed`);
    }
    this.bytes += plan.bytes;
    this.received += 1;
    if (this.received === plan.messages) {
      this.done({ received: this.received, bytes: this.bytes });
    } else {
      this.send(message(this.received));
    }
  }
}
