// The official JavaScript client: reads a bucket and an object store of one name, or fills them.
// The server is $NATS_URL.

import { Kvm } from "@nats-io/kv";
import { Objm } from "@nats-io/obj";
import { connect, headers } from "@nats-io/transport-node";

const [, , verb, name] = process.argv;
const connection = await connect({ servers: process.env.NATS_URL });

async function all(iterator) {
  const found = [];
  for await (const each of await iterator) {
    found.push(each);
  }
  return found;
}

if (verb === "read") {
  const bucket = await new Kvm(connection).open(name);
  const store = await new Objm(connection).open(name);
  const infos = await store.list();
  const objects = infos.filter((info) => !info.deleted);
  const contents = objects.map(async (info) => {
    const leadsToStore = info.options?.link !== undefined && !info.options.link.name;
    return [info.name, leadsToStore ? null : (await store.getBlob(info.name)).length];
  });
  console.log(
    JSON.stringify({
      keys: (await all(bucket.keys())).sort(),
      history: (await all(bucket.history())).map((e) => [e.key, e.operation, e.string()]),
      objects: Object.fromEntries(await Promise.all(contents)),
      infos: Object.fromEntries(
        objects.map((info) => [
          info.name,
          {
            description: info.description,
            metadata: info.metadata,
            headers: info.headers,
            link: info.options?.link,
          },
        ]),
      ),
    }),
  );
} else {
  const bucket = await new Kvm(connection).create(name, { history: 5, markerTTL: 60_000 });
  await bucket.put("a", JSON.stringify({ n: 1 }));
  await bucket.put("a", JSON.stringify({ n: 2 }));
  await bucket.create("expires", "{}", "3600s");
  await bucket.put("deleted", "{}");
  await bucket.delete("deleted");
  await bucket.put("purged", "{}");
  await bucket.purge("purged");
  const store = await new Objm(connection).create(name);
  const tags = headers();
  tags.append("Tag", "one");
  tags.append("Tag", "two");
  const meta = { description: "in JavaScript", metadata: { owner: "js" }, headers: tags };
  const bytes = new Uint8Array(4500).fill(7);
  await store.putBlob({ ...meta, name: "a/b c", options: { max_chunk_size: 1000 } }, bytes);
  await store.putBlob({ name: "empty" }, new Uint8Array(0));
  await store.putBlob({ name: "deleted" }, bytes);
  await store.delete("deleted");
  await store.putBlob({ name: "old name" }, bytes);
  await store.update("old name", { name: "new name" });
  await store.link("to an object", await store.info("a/b c"));
  await store.linkStore("to a store", store);
}
await connection.close();
