/* nats.js on Node, with the same command line and the same one line of output as the others. */

import { createRequire } from "node:module";

import { connect } from "@nats-io/transport-node";

const FIRST_ID = 1_000_000_000;
const REPORT = "report.count";
const ECHO = "echo.request";
const STREAM = "BENCH";
const DURABLE = "bench";
const BUCKET = "bench";
const KEYS = 1_000;
const OBJECTS = 4;
const OBJECT_SIZE = 8 << 20;
const PACE = 2_000;

const opts = options(process.argv.slice(2));
const subjects = Array.from({ length: opts.subscriptions }, (_, i) => `load.${i}`);
const payload = new Uint8Array(opts.size).fill(0x78);
const nc = await connect({ servers: opts.url });

function options([action, url, ...rest]) {
  const found = { action, url, n: 1000, warmup: 0, size: 128, block: 100, subscriptions: 1 };
  found["in-flight"] = 1;
  for (let i = 0; i + 1 < rest.length; i += 2) {
    found[rest[i].slice(2)] = Number(rest[i + 1]);
  }
  return found;
}

const now = () => performance.now() / 1000;
const turn = () => new Promise((resolve) => setImmediate(resolve));

function cpu() {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
}

class Meter {
  start() {
    this.rssBefore = process.memoryUsage.rss();
    this.cpu = cpu();
    this.clock = now();
  }

  stop() {
    this.seconds = now() - this.clock;
    this.cpu = cpu() - this.cpu;
    this.rssAfter = process.memoryUsage.rss();
  }

  result(n, more = {}) {
    const { seconds, cpu, rssBefore, rssAfter } = this;
    return { n, seconds, cpu, rss_before: rssBefore, rss_after: rssAfter, ...more };
  }
}

const wrongAnswers = (count) => (count ? { error: `${count} wrong answers` } : {});
const report = (count) => nc.publish(REPORT, `count=${count}`);

// Receiving

let left = opts.block;
let count = 0;
let error = "";
const received = new Meter();
let finish;
const everything = new Promise((resolve) => (finish = resolve));

function endBlock(sequence, isOrdered) {
  left = opts.block;
  count += opts.block;
  if (isOrdered && sequence !== count) error = `sequence ${sequence} after ${count} messages`;
  if (count === opts.warmup) received.start();
  if (count === opts.warmup + opts.n) {
    received.stop();
    finish();
  }
}

function sequenceOf(body) {
  if (body.length < 10) return body[0] === 0x21 ? count + opts.block : -1;
  return Number(new TextDecoder().decode(body.subarray(0, 10))) - FIRST_ID;
}

function onRaw(_, msg) {
  if (--left) return;
  endBlock(sequenceOf(msg.data), opts.subscriptions === 1);
  report(count);
}

function onHeaders(_, msg) {
  msg.headers?.get("Header-0");
  onRaw(_, msg);
}

function onJson(_, msg) {
  const { id } = msg.json();
  if (--left) return;
  endBlock(id - FIRST_ID, true);
  report(count);
}

async function receive(callback) {
  for (const subject of subjects) nc.subscribe(subject, { callback });
  report(0);
  await everything;
  await nc.flush();
  return received.result(opts.n, error ? { error } : {});
}

// Publishing

async function measured(send) {
  const meter = new Meter();
  await send(opts.warmup);
  meter.start();
  await send(opts.n);
  meter.stop();
  return meter.result(opts.n, { sent: opts.n + opts.warmup });
}

async function publishAll(n) {
  for (let i = 0; i < n; i++) {
    nc.publish(subjects[0], payload);
    if (i % 500 === 499) await turn();
  }
  await nc.flush();
}

// Requests

const question = (i) => JSON.stringify({ id: FIRST_ID + i, name: "Ada" });

function onRequest(_, msg) {
  msg.respond(JSON.stringify({ id: msg.json().id, ok: true }));
}

async function ask(i) {
  const reply = (await nc.request(ECHO, question(i), { timeout: 10_000 })).json();
  return reply.id === FIRST_ID + i && reply.ok === true;
}

/** Call `one(i)` for each number below n, with so many open at a time. */
async function all(n, open, one) {
  const results = [];
  let next = 0;
  const worker = async () => {
    while (next < n) results.push(await one(next++));
  };
  await Promise.all(Array.from({ length: open }, worker));
  return results;
}

const failures = (results) => results.filter((isRight) => !isRight).length;

async function requestMany() {
  const meter = new Meter();
  let wrong = failures(await all(opts.warmup, opts["in-flight"], ask));
  meter.start();
  wrong += failures(await all(opts.n, opts["in-flight"], ask));
  meter.stop();
  return meter.result(opts.n, wrongAnswers(wrong));
}

function percentiles(latencies) {
  latencies.sort((a, b) => a - b);
  const { length } = latencies;
  return { p50: latencies[length >> 1], p99: latencies[Math.floor((length * 99) / 100)] };
}

async function timed(i, latencies) {
  const before = now();
  const isRight = await ask(i);
  latencies.push(now() - before);
  return isRight;
}

async function requestOne() {
  const meter = new Meter();
  const latencies = [];
  let wrong = failures(await all(opts.warmup, 1, ask));
  meter.start();
  wrong += failures(await all(opts.n, 1, (i) => timed(i, latencies)));
  meter.stop();
  return meter.result(opts.n, { ...percentiles(latencies), ...wrongAnswers(wrong) });
}

async function requestPaced() {
  const meter = new Meter();
  const latencies = [];
  const open = [];
  await all(opts.warmup, 1, ask);
  meter.start();
  for (let i = 0; i < opts.n; i++) {
    const early = meter.clock + i / PACE - now();
    if (early > 0) await new Promise((resolve) => setTimeout(resolve, early * 1000));
    open.push(timed(i, latencies));
  }
  const wrong = failures(await Promise.all(open));
  meter.stop();
  return meter.result(opts.n, { ...percentiles(latencies), ...wrongAnswers(wrong) });
}

// JetStream

const jetstream = async () => (await import("@nats-io/jetstream")).jetstream(nc);

async function consume() {
  const { jetstreamManager, jetstream, AckPolicy } = await import("@nats-io/jetstream");
  const manager = await jetstreamManager(nc);
  const config = { durable_name: DURABLE, ack_policy: AckPolicy.Explicit };
  await manager.consumers.add(STREAM, config);
  const consumer = await jetstream(nc).consumers.get(STREAM, DURABLE);
  const held = opts["in-flight"] > 1 ? opts["in-flight"] : opts.concurrency > 1 ? 100 : 1;
  const messages = await consumer.consume({
    max_messages: held,
    callback: (msg) => {
      if (!--left) endBlock(sequenceOf(msg.data), false);
      msg.ack();
    },
  });
  await everything;
  await nc.flush();
  messages.stop();
  return received.result(opts.n);
}

async function publishToStream(open) {
  const js = await jetstream();
  let failed = 0;
  const one = () =>
    js.publish(subjects[0], payload).then(
      () => true,
      () => (failed++, false),
    );
  const result = await measured((n) => all(n, open, one));
  return failed ? { ...result, error: `${failed} publishes failed` } : result;
}

async function bucket() {
  const { Kvm } = await import("@nats-io/kv");
  return new Kvm(await jetstream()).create(BUCKET, { storage: "memory" });
}

const key = (i) => `key.${i % KEYS}`;

async function put() {
  const values = await bucket();
  const one = (i) => values.put(key(i), payload);
  const meter = new Meter();
  const revisions = await all(opts.warmup, opts["in-flight"], one);
  meter.start();
  revisions.push(...(await all(opts.n, opts["in-flight"], one)));
  meter.stop();
  const sent = opts.n + opts.warmup;
  return meter.result(opts.n, { sent, ...wrongAnswers(sent - new Set(revisions).size) });
}

async function get() {
  const values = await bucket();
  const value = (i) => key(i) + "x".repeat(opts.size);
  for (let i = 0; i < KEYS; i++) await values.put(key(i), value(i));
  const one = async (i) => (await values.get(key(i))).string() === value(i);
  const meter = new Meter();
  await all(opts.warmup, opts["in-flight"], one);
  meter.start();
  const right = await all(opts.n, opts["in-flight"], one);
  meter.stop();
  return meter.result(opts.n, { sent: KEYS, ...wrongAnswers(failures(right)) });
}

async function store() {
  const { Objm } = await import("@nats-io/obj");
  return new Objm(await jetstream()).create(BUCKET, { storage: "memory" });
}

async function randomObject() {
  const { randomBytes } = await import("node:crypto");
  return new Uint8Array(randomBytes(OBJECT_SIZE));
}

async function objects(one, stored) {
  const meter = new Meter();
  let wrong = 0;
  for (let i = 0; i < opts.warmup; i++) await one(`object-${i % OBJECTS}`);
  meter.start();
  for (let i = 0; i < opts.n; i++) wrong += !(await one(`object-${i % OBJECTS}`));
  meter.stop();
  return meter.result(opts.n, { bytes: opts.n * OBJECT_SIZE, stored, ...wrongAnswers(wrong) });
}

async function putObjects() {
  const values = await store();
  const object = await randomObject();
  const one = (name) => values.putBlob({ name }, object);
  return objects(one, Math.min(opts.n, OBJECTS));
}

async function getObjects() {
  const values = await store();
  const object = await randomObject();
  for (let i = 0; i < OBJECTS; i++) await values.putBlob({ name: `object-${i}` }, object);
  const same = (found) => Buffer.compare(found, object) === 0;
  return objects(async (name) => same(await values.getBlob(name)), OBJECTS);
}

// Programs

async function respond() {
  nc.subscribe(ECHO, { callback: onRequest });
  report(0);
  await new Promise(() => {});
}

async function start() {
  nc.subscribe(ECHO, { callback: onRequest });
  const meter = new Meter();
  meter.start();
  report(0);
  await nc.flush();
  meter.stop();
  meter.cpu = cpu();
  return meter.result(1);
}

const actions = {
  publish: () => measured(publishAll),
  receive_raw: () => receive(onRaw),
  receive_headers: () => receive(onHeaders),
  receive_json: () => receive(onJson),
  request_many: requestMany,
  request_one: requestOne,
  request_paced: requestPaced,
  js_consume: consume,
  js_publish: () => publishToStream(1),
  js_publish_window: () => publishToStream(opts["in-flight"]),
  key_value_put: put,
  key_value_get: get,
  object_put: putObjects,
  object_get: getObjects,
  respond,
  start,
};

const result = await actions[opts.action]();
const packages = createRequire(import.meta.url);
const { version } = packages("@nats-io/transport-node/package.json");
const facts = { version: `${version} (Node ${process.versions.node})`, loop: "node" };
process.stdout.write(`\n${JSON.stringify({ ...facts, ...result })}\n`, () => process.exit(0));
