// Jobs over bare NATS: node bare_jobs.mjs URL run KIND PAYLOAD ID, node bare_jobs.mjs URL cancel ID.
// A payload of - is read from standard input. Needs the npm package nats. docs/reference/nats-protocol.md describes the protocol.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { connect, headers, StringCodec } from "nats";

const INLINE_BYTES = 256 * 1024;
const DAY_S = 86_400;
const text = StringCodec();

/** A name as one part of a subject: every byte but letters, digits, - and _ is =XX. */
function token(name) {
  return [...Buffer.from(name)]
    .map((b) => (/[A-Za-z0-9_-]/.test(String.fromCharCode(b)) ? String.fromCharCode(b) : `=${b.toString(16).toUpperCase().padStart(2, "0")}`))
    .join("");
}

/** An id as parts of a subject: what stands before its first point, if any, is its batch. */
function ofJob(id) {
  const point = id.indexOf(".");
  return point > 0 && point < id.length - 1 ? `${token(id.slice(0, point))}.${token(id.slice(point + 1))}` : token(id);
}

const payloads = (nc) => nc.jetstream().views.os("payloads");

/** The result, if there is one already. */
async function findResult(nc, id) {
  const subject = `$JS.API.DIRECT.GET.RESULTS.results.${ofJob(id)}`;
  // No answer: whoever waits asks again.
  const found = await nc.request(subject, undefined, { timeout: 5000 }).catch((error) => {
    if (error.code === "TIMEOUT") return null;
    throw error;
  });
  if (found === null) return null;
  if (found.headers?.code === 404) return null;
  const result = JSON.parse(text.decode(found.data));
  if (result.output_ref) {
    result.output = JSON.parse(text.decode(await (await payloads(nc)).getBlob(result.output_ref))).output;
  }
  return result;
}

/** Submit a job, which is stored when this has its confirmation, and wait for its result. */
async function run(nc, kind, payload, id, waitMs = 60_000) {
  let body = { payload };
  if (Buffer.byteLength(JSON.stringify(payload)) > INLINE_BYTES) {
    // The name says when it may be deleted.
    const name = `${Math.floor(Date.now() / 1000) + DAY_S}-${createHash("sha256").update(id).digest("hex")}`;
    await (await payloads(nc)).putBlob({ name }, text.encode(JSON.stringify(payload)));
    body = { payload_ref: name };
  }
  // Listen first and look second, so that a result in between is not missed.
  let wake = () => {};
  const results = nc.subscribe(`results.${ofJob(id)}`, { callback: () => wake() });
  const h = headers();
  h.set("Nats-Msg-Id", token(id));
  const subject = `jobs.${token(kind)}.normal.${ofJob(id)}`;
  const ack = await nc.request(subject, text.encode(JSON.stringify(body)), { headers: h, timeout: 10_000 });
  const stored = JSON.parse(text.decode(ack.data));
  if (stored.error) throw new Error(stored.error.description);
  const until = Date.now() + waitMs;
  while (Date.now() < until) {
    const arrived = new Promise((resolve) => {
      wake = resolve;
      setTimeout(resolve, 5000).unref();
    });
    const result = await findResult(nc, id);
    if (result !== null) {
      results.unsubscribe();
      return { ...result, duplicate: stored.duplicate ?? false };
    }
    await arrived;
  }
  throw new Error(`${id}: no result in time`);
}

const [url, command, ...rest] = process.argv.slice(2);
const { username, password, host } = new URL(url);
const nc = await connect({ servers: host, user: username || undefined, pass: password || undefined });
if (command === "cancel") {
  await nc.jetstream().publish(`$KV.jobs.${token(rest[0])}`, text.encode('{"cancelled": true}'));
} else {
  const [kind, payload, id] = rest;
  console.log(JSON.stringify(await run(nc, kind, JSON.parse(payload === "-" ? readFileSync(0, "utf8") : payload), id)));
}
await nc.close();
