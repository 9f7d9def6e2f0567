/** The log of slow operations, on both sides of a real mount: a line says what the operation waited for. */

import assert from 'node:assert/strict';
import test from 'node:test';

import { startCluster } from '../fixtures/cluster.js';
import { until } from '../fixtures/until.js';

const SLOW = { serveArgs: ['--slow', '100ms'], mountOptions: ['slow=100ms'] };

test('a call that waits for a server that is away says so', async (t) => {
  const cluster = await startCluster(t, SLOW);
  const agent = cluster.agent(0);
  await agent.writeFile('f', 'x');
  const [mount] = cluster.mounts;
  let made: Promise<void> = Promise.resolve();
  await cluster.upgrade(async () => {
    made = agent.mkdir('d');
    // The next server takes longer than the limit to start.
  });
  await made;
  const line = await mount?.child.line(
    /slow: (?:MKDIR|LOOKUP) of node \d+ by pid \d+ took [\d.]+ s: gate \(server away\) /,
  );
  assert.ok(line, mount?.child.tail());
});

test('the server names the client that holds a lock; the other client waits for the server', async (t) => {
  // Less than any program needs to start and end.
  const few = { serveArgs: ['--slow', '5ms'], mountOptions: ['slow=5ms'] };
  const cluster = await startCluster(t, { ...few, mounts: 2 });
  const [holder, waiter] = [cluster.agent(0), cluster.agent(1)];
  const [first, second] = cluster.mounts;
  await holder.writeFile('f', 'x'.repeat(100_000));
  // A client process that stands still gives nothing back.
  first?.child.kill('SIGSTOP');
  const reading = waiter.readFile('f');
  await until('the call waits for the server', async () => {
    const { targets } = await cluster.mountStatus(second);
    return (targets[0]?.rpcsInFlight ?? 0) > 0;
  });
  // It waits at least for as long as this program lives.
  await cluster.mountStatus(second);
  first?.child.kill('SIGCONT');
  await reading;
  const line = await cluster.server.child.line(
    new RegExp(
      `slow: [A-Z]+( of inode \\d+)? for client .* took [\\d.]+ s: (?:lock|answer) of \\S*${first?.dir} `,
    ),
  );
  assert.ok(line);
  assert.ok(
    await second?.child.line(
      /slow: [A-Z]+ of node \d+ by pid \d+ took [\d.]+ s: server or network \([A-Z]+\) /,
    ),
  );
});
