// Restate's server and a service, each a process of its own, and a client of its HTTP ingress.
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { Agent, request } from "node:http";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { measure } from "./load.mjs";

const { version } = JSON.parse(readFileSync("node_modules/@restatedev/restate-server/package.json", "utf8"));
const folder = mkdtempSync(join(tmpdir(), "dat-peer-restate-"));
const children = [];

const freePort = () =>
  new Promise((done) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => done(port));
    });
  });

const start = (command, args, env) => {
  const child = spawn(command, args, { env: { ...process.env, ...env }, stdio: ["ignore", "ignore", "pipe"] });
  let said = "";
  if (process.env.DEBUG) child.stderr.pipe(process.stderr);
  child.stderr.on("data", (text) => (said = (said + text).slice(-4000)));
  child.on("exit", (code) => {
    if (!ended) {
      console.error(`${command} ended with ${code}: ${said}`);
      process.exit(1);
    }
  });
  children.push(child);
};

let ended = false;
const end = () => {
  ended = true;
  for (const child of children) child.kill("SIGKILL");
  rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
};
process.on("exit", end);
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(1));

const agent = new Agent({ keepAlive: true, maxSockets: 512 });
const post = (port, path, body) =>
  new Promise((done, fail) => {
    const headers = { "content-type": "application/json" };
    const asked = request({ agent, host: "127.0.0.1", port, path, method: "POST", headers }, (answer) => {
      let text = "";
      answer.on("data", (part) => (text += part));
      answer.on("end", () =>
        answer.statusCode < 300 ? done(text) : fail(new Error(`${path}: ${answer.statusCode} ${text}`)),
      );
    });
    asked.on("error", fail);
    asked.end(JSON.stringify(body));
  });

const eventually = async (what) => {
  for (let tries = 0; ; tries += 1) {
    try {
      return await what();
    } catch (error) {
      if (tries > 150) throw error;
      await new Promise((done) => setTimeout(done, 200));
    }
  }
};

const [ingress, admin, fabric, service] = [await freePort(), await freePort(), await freePort(), await freePort()];
// The package's own command starts the server as a child that outlives it.
const server = join("node_modules", "@restatedev", `restate-server-${process.platform}-${process.arch}`, "bin", "restate-server");
start(server, ["--base-dir", folder, "--node-name", "peer"], {
  RESTATE_INGRESS__BIND_ADDRESS: `127.0.0.1:${ingress}`,
  RESTATE_ADMIN__BIND_ADDRESS: `127.0.0.1:${admin}`,
  RESTATE_BIND_ADDRESS: `127.0.0.1:${fabric}`,
  RESTATE_ADVERTISED_ADDRESS: `http://127.0.0.1:${fabric}`,
  RESTATE_DISABLE_TELEMETRY: "true",
  DO_NOT_TRACK: "1",
  RUST_LOG: "error",
});
start(process.execPath, ["service.mjs"], { SERVICE_PORT: String(service), RESTATE_LOGGING: "ERROR" });
await eventually(() => post(admin, "/deployments", { uri: `http://127.0.0.1:${service}` }));
await eventually(() => post(ingress, "/five/run", 0));
await measure("restate", version, async (n) => {
  const sum = JSON.parse(await post(ingress, "/five/run", n));
  if (sum !== n + 10) throw new Error(`a workflow gave ${sum} for ${n}`);
});
process.exit(0);
