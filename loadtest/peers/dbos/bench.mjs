// Five steps of a DBOS workflow, each recorded in PostgreSQL, in the process that asks for them.
import { readFileSync } from "node:fs";
import { DBOS } from "@dbos-inc/dbos-sdk";
import { measure } from "./load.mjs";

const { version } = JSON.parse(readFileSync("node_modules/@dbos-inc/dbos-sdk/package.json", "utf8"));

const five = DBOS.registerWorkflow(
  async (n) => {
    let sum = n;
    for (let step = 0; step < 5; step += 1) {
      sum += await DBOS.runStep(async () => step, { name: `step-${step}` });
    }
    return sum;
  },
  { name: "five" },
);

DBOS.setConfig({
  name: "dat-peer",
  systemDatabaseUrl: process.env.DATABASE_URL,
  systemDatabasePoolSize: 20,
  runAdminServer: false,
  logLevel: "error",
});
await DBOS.launch();
await measure("dbos", version, async (n) => {
  const sum = await five(n);
  if (sum !== n + 10) throw new Error(`a workflow gave ${sum} for ${n}`);
});
await DBOS.shutdown();
process.exit(0);
