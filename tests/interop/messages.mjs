// The official JavaScript client: asks `subject`, and prints what it got. The server is $NATS_URL.

import { connect, headers } from "@nats-io/transport-node";

const [, , verb, subject, body] = process.argv;
const connection = await connect({ servers: process.env.NATS_URL });

function shown(message) {
  return { data: message.string(), headers: message.headers ? [...message.headers] : [] };
}

if (verb === "request") {
  const sent = headers();
  sent.append("Tag", "one");
  sent.append("Tag", "two");
  const answer = await connection.request(subject, body, { headers: sent, timeout: 5000 });
  console.log(JSON.stringify(shown(answer)));
} else {
  const options = { strategy: "sentinel", maxWait: 5000 };
  const found = [];
  for await (const answer of await connection.requestMany(subject, body, options)) {
    found.push(shown(answer));
  }
  console.log(JSON.stringify(found));
}
await connection.close();
