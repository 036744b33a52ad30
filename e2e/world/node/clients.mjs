// Clients of Node: node clients.mjs ws|undici URL says as JSON what came of a
// socket to the echo server.
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";

const libraries = {
  ws: async () => (await import("ws")).WebSocket,
  undici: async () => (await import("undici")).WebSocket,
};

async function socket(name, url) {
  const WebSocket = await libraries[name]();
  const manifest = createRequire(import.meta.url).resolve(name).replace(new RegExp(`(/node_modules/${name}/).*`), "$1package.json");
  const result = { version: JSON.parse(await readFile(manifest, "utf8")).version };
  const bytes = Uint8Array.from({ length: 256 }, (_, i) => i);
  const messages = [`text of ${name}`, bytes];
  await new Promise((resolve, reject) => {
    const c = new WebSocket(url, ["v1.echo"]);
    c.binaryType = "arraybuffer";
    const next = () => c.send(messages.length > 0 ? messages.shift() : "close 4001");
    c.onopen = () => {
      result.subprotocol = c.protocol;
      next();
    };
    c.onmessage = ({ data }) => {
      if (typeof data === "string") {
        result.text = data;
      } else if (Buffer.from(data).equals(Buffer.from(bytes))) {
        result.binary = data.byteLength;
      }
      next();
    };
    c.onerror = (event) => reject(event.error ?? new Error(event.message));
    c.onclose = ({ code }) => {
      result.close = code;
      resolve();
    };
  });
  return result;
}

const [name, url] = process.argv.slice(2);
if (!(name in libraries) || !url) {
  console.error("usage: node clients.mjs ws|undici URL");
  process.exit(2);
}
console.log(JSON.stringify(await socket(name, url)));
process.exit(0); // undici keeps connections for later
