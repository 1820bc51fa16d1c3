// A closed loop of clients, then one workflow at a time.

const number = (name, otherwise) => Number(process.env[name] ?? otherwise);

/** Runs `workflow(n)` as often and as widely as the environment says, and prints the line of JSON. */
export async function measure(peer, version, workflow) {
  const workflows = number("WORKFLOWS", 2000);
  const clients = number("CLIENTS", 128);
  const alone = number("ALONE", 100);
  let next = 0;
  const client = async (until) => {
    while (next < until) await workflow(next++);
  };
  // A tenth to warm up: compilers, caches, pools.
  const warm = Math.ceil(workflows / 10);
  await Promise.all(Array.from({ length: clients }, () => client(warm)));
  const begun = performance.now();
  const from = next;
  await Promise.all(Array.from({ length: clients }, () => client(from + workflows)));
  const seconds = (performance.now() - begun) / 1000;
  const latencies = [];
  for (let n = 0; n < alone; n += 1) {
    const start = performance.now();
    await workflow(next++);
    latencies.push(performance.now() - start);
  }
  latencies.sort((a, b) => a - b);
  const at = (share) => latencies[Math.min(latencies.length - 1, Math.floor(latencies.length * share))];
  console.log(
    JSON.stringify({
      peer,
      version,
      steps_per_s: (5 * workflows) / seconds,
      alone_p50_ms: at(0.5),
      alone_p99_ms: at(0.99),
    }),
  );
}
