/** What a server and a mount tell without DEBUG, with real processes. */

import assert from 'node:assert/strict';
import test from 'node:test';
import { O } from '../fixtures/agent.js';
import { run } from '../fixtures/child.js';
import { startCluster } from '../fixtures/cluster.js';

const TIME = '\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d\\.\\d{3}Z';
const line = (text: string): RegExp => new RegExp(`^${TIME} holdfast: ${text}`);

test('a mount tells that its server is lost and back, the server that a client is evicted, and both count it', async (t) => {
  const cluster = await startCluster(t);
  const [mount] = cluster.mounts;
  assert.ok(mount !== undefined);
  await cluster.crash(async () => {
    await mount.child.line(line('connection to 127\\.0\\.0\\.1:\\d+ lost'));
    await mount.child.line(line('still waiting for 127\\.0\\.0\\.1:\\d+ after 5 s'));
  });
  await mount.child.line(line('127\\.0\\.0\\.1:\\d+ is back after \\d+\\.\\d s'));
  const [client] = (await cluster.status()).clients;
  await cluster.cliOk(['evict', cluster.address, client?.name ?? '']);
  await cluster.server.child.line(line('client .* is evicted: .* \\(it had \\d+ opens, \\d+ locks'));
  await mount.child.line(line('evicted: .*; \\d+ bytes not written are lost'));
  const counts = async (
    status: Promise<{ readonly notices?: readonly { kind: string; count: number }[] | undefined }>,
  ) => Object.fromEntries(((await status).notices ?? []).map(({ kind, count }) => [kind, count]));
  const [ofMount, ofServer] = [await counts(cluster.mountStatus()), await counts(cluster.status())];
  assert.deepEqual([ofMount['still-waiting'], ofMount.evicted, ofServer.evicted], [1, 1, 1]);
});

test('a mount whose FUSE connection is aborted tells it', async (t) => {
  const cluster = await startCluster(t);
  const [mount] = cluster.mounts;
  assert.ok(mount !== undefined);
  // The open file keeps the mount in the table; the kernel aborts the connection all the same.
  await cluster.agent(0).open('f', O.CREAT | O.RDWR);
  await run('umount', ['-f', mount.dir]);
  await mount.child.line(line(`${mount.dir}: the FUSE connection was aborted`));
  await mount.child.exited;
  cluster.abortMount(mount);
});
