// The official JavaScript client: finds services (`find`), or is one (`serve`). The server is $NATS_URL.

import { connect } from "@nats-io/transport-node";
import { ServiceError, Svcm } from "@nats-io/services";

const [, , verb, name] = process.argv;
const connection = await connect({ servers: process.env.NATS_URL });
const services = new Svcm(connection);

async function all(answers) {
  const found = [];
  for await (const each of await answers) {
    found.push(each);
  }
  return found;
}

if (verb === "find") {
  const client = services.client();
  console.log(
    JSON.stringify({
      ping: await all(client.ping(name)),
      info: await all(client.info(name)),
      stats: await all(client.stats(name)),
    }),
  );
  await connection.close();
} else {
  const service = await services.add({ name, version: "1.0.0", description: "in JavaScript" });
  service.addGroup("js").addEndpoint("add", (error, message) => {
    if (message.data.length === 0) {
      throw new ServiceError(400, "nothing to add");
    }
    message.respond(JSON.stringify({ sum: 3 }));
  });
  console.log("ready");
}
