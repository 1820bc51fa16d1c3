// Five steps of a Restate handler, each recorded in its log.
// The SDK uses this, which Node.js has from 22 on.
Promise.withResolvers ??= () => {
  const made = {};
  made.promise = new Promise((resolve, reject) => Object.assign(made, { resolve, reject }));
  return made;
};
const restate = await import("@restatedev/restate-sdk");

const five = restate.service({
  name: "five",
  handlers: {
    run: async (ctx, n) => {
      let sum = n;
      for (let step = 0; step < 5; step += 1) {
        sum += await ctx.run(`step-${step}`, () => step);
      }
      return sum;
    },
  },
});

const port = await restate.serve({ services: [five], port: Number(process.env.SERVICE_PORT) });
console.log(`listens on ${port}`);
