// The official JavaScript client: reads what a stream has, or publishes to it. The server is $NATS_URL.

import { jetstream, jetstreamManager } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";

const [, , verb, stream] = process.argv;
const connection = await connect({ servers: process.env.NATS_URL });
const js = jetstream(connection);
const manager = await jetstreamManager(connection);

if (verb === "read") {
  const { state } = await manager.streams.info(stream);
  const consumer = await js.consumers.get(stream); // an ordered one
  const read = [];
  for await (const message of await consumer.fetch({ max_messages: state.messages })) {
    read.push([message.subject, message.string(), message.headers ? [...message.headers] : []]);
  }
  const last = [];
  const asked = { multi_last: [`${stream}.>`] };
  for await (const message of await manager.direct.getLastMessagesFor(stream, asked)) {
    last.push(message.subject);
  }
  console.log(JSON.stringify({ read, last }));
} else {
  const batch = await js.startBatch(`${stream}.batch`, "1");
  batch.add(`${stream}.batch`, "2");
  const committed = await batch.commit(`${stream}.batch`, "3");
  const once = await js.publish(`${stream}.once`, "4", { msgID: "once" });
  const again = await js.publish(`${stream}.once`, "4", { msgID: "once" });
  const due = new Date(Date.now() + 1000);
  const schedule = { specification: due, target: `${stream}.due` };
  await js.publish(`_schedule.${stream}.js`, "5", { schedule });
  console.log(JSON.stringify({ count: committed.count, duplicates: [once.duplicate, again.duplicate] }));
}
await connection.close();
