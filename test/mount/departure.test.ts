/**
 * Unmounts while the server is away or recovers: they end in a bounded time, leave no mount, and say in one line what was
 * lost, if anything was.
 */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdirSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import { isMounted } from '../../mount/unmount.js';
import { O } from '../fixtures/agent.js';
import type { Child } from '../fixtures/child.js';
import { type Cluster, type Mount, prepareCluster, startCluster } from '../fixtures/cluster.js';
import { until, within } from '../fixtures/until.js';

/** Seconds that an unmount waits for a server that does nothing. */
const TIMEOUT_S = 2;
const OPTIONS = [`umount_timeout=${TIMEOUT_S}`];
/** Starting a command takes its time on a busy machine. */
const BOUND_MS = TIMEOUT_S * 1000 + 8000;

type How = 'holdfast umount' | 'SIGTERM' | 'SIGINT';

interface Ended {
  readonly code: number | null;
  readonly ms: number;
  /** What the command said, and the client process. */
  readonly command: string;
  readonly client: readonly string[];
}

/** Unmounts, and waits until the client process has ended. */
async function unmount(cluster: Cluster, mount: Mount, how: How): Promise<Ended> {
  const began = performance.now();
  let command = '';
  if (how === 'holdfast umount') {
    const done = await cluster.cli(['umount', mount.dir]);
    command = done.stderr;
    assert.equal(done.code, done.stderr === '' ? 0 : 1, done.stderr);
  } else {
    mount.child.kill(how);
  }
  const { code } = await within('the client ends', mount.child.exited, 30_000);
  const ms = performance.now() - began;
  assert.equal(isMounted(mount.dir), false);
  return { code, ms, command, client: mount.child.stderr };
}

function only(cluster: Cluster): Mount {
  const [mount] = cluster.mounts;
  assert.ok(mount !== undefined);
  return mount;
}

/** Written, closed, and not on the server, which stands still before anybody has noticed. */
async function dirty(cluster: Cluster): Promise<void> {
  const agent = cluster.agent();
  const fd = await agent.open('f', O.CREAT | O.RDWR);
  // With what it needs to write without asking: a lock, and room.
  await agent.pwrite(fd, 0, 'first');
  await agent.fsync(fd);
  cluster.server.child.kill('SIGSTOP');
  await agent.pwrite(fd, 0, 'five!');
  await agent.close(fd);
}

/** One line that names it, in the command and in the client's own words. */
function saidOnce({ client }: Ended, what: RegExp): void {
  const said = client.filter((line) => what.test(line));
  assert.equal(said.length, 1, client.join('\n'));
}

/** Something that takes connections and says nothing. */
async function silentServer(
  t: TestContext,
): Promise<{ readonly address: string; readonly asked: Promise<unknown> }> {
  const server = createServer((socket) => socket.on('error', () => undefined));
  const asked = once(server, 'connection');
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => server.close());
  return { address: `127.0.0.1:${(server.address() as AddressInfo).port}`, asked };
}

describe('an unmount', { concurrency: 2 }, () => {
  for (const how of ['holdfast umount', 'SIGTERM', 'SIGINT'] as const) {
    test(`by ${how} while the server is down ends; nothing was dirty, and nothing is said to be lost`, async (t) => {
      const cluster = await startCluster(t, { mountOptions: OPTIONS });
      const agent = cluster.agent();
      await agent.writeFile('f', 'kept');
      await agent.fsync(await agent.open('f', O.RDONLY));
      agent.child.kill('SIGKILL');
      await agent.child.exited;
      await cluster.killServer();
      const ended = await unmount(cluster, only(cluster), how);
      assert.deepEqual([ended.code, ended.command], [0, ''], ended.client.join('\n'));
      assert.ok(ended.ms < BOUND_MS, `${ended.ms} ms`);
    });

    test(`by ${how} while the server is down, with dirty data, ends in time and says how much is lost`, async (t) => {
      const cluster = await startCluster(t, { mountOptions: OPTIONS });
      await dirty(cluster);
      await cluster.killServer();
      const ended = await unmount(cluster, only(cluster), how);
      assert.equal(ended.code, 1);
      assert.ok(ended.ms < BOUND_MS, `${ended.ms} ms`);
      const line =
        /^holdfast: unmounted, but 5 bytes were not written to the server: .* did not answer for 2 s$/;
      saidOnce(ended, line);
      if (how === 'holdfast umount') assert.match(ended.command, line);
    });
  }

  test('while the server is stopped ends in time and says how much is lost', async (t) => {
    const cluster = await startCluster(t, { mountOptions: OPTIONS });
    await dirty(cluster);
    const ended = await unmount(cluster, only(cluster), 'SIGTERM');
    cluster.server.child.kill('SIGCONT');
    // If the goodbye has not reached it, its own end would wait for this client.
    for (const { uuid } of (await cluster.status()).clients)
      await cluster.cli(['evict', cluster.address, uuid]);
    assert.equal(ended.code, 1);
    assert.ok(ended.ms < BOUND_MS + 5000, `${ended.ms} ms`);
    saidOnce(ended, /^holdfast: unmounted, but 5 bytes were not written/);
  });

  test('of what was answered and not committed by a server that is gone says so', async (t) => {
    const cluster = await startCluster(t, { mountOptions: OPTIONS, faults: true });
    await cluster.hold();
    const agent = cluster.agent();
    await agent.mkdir('made');
    await cluster.killServer();
    const ended = await unmount(cluster, only(cluster), 'SIGTERM');
    assert.equal(ended.code, 1);
    saidOnce(ended, /^holdfast: unmounted, but 1 operations may not be on its devices: /);
  });

  test('waits for a server that comes back in time: nothing is lost', async (t) => {
    const cluster = await startCluster(t, { mountOptions: ['umount_timeout=30'] });
    await dirty(cluster);
    await cluster.killServer();
    const mount = only(cluster);
    const unmounting = unmount(cluster, mount, 'SIGTERM');
    await mount.child.line(/^holdfast: unmounted; waits for the server, 5 B are not written yet$/);
    await cluster.serve();
    const ended = await unmounting;
    assert.equal(ended.code, 0, ended.client.join('\n'));
    await cluster.addMount();
    assert.equal(await cluster.agent(1).readFile('f'), 'five!');
  });

  test('in the middle of a recovery waits longer than for a server that is away: nothing is lost', async (t) => {
    const cluster = await startCluster(t, { mountOptions: OPTIONS, mounts: 2 });
    const [mount, other] = cluster.mounts;
    assert.ok(mount !== undefined && other !== undefined);
    other.child.kill('SIGSTOP');
    await dirty(cluster);
    await cluster.killServer();
    await cluster.serve();
    await until('it has replayed', async () => {
      const { targets } = await cluster.mountStatus(mount);
      return targets[0]?.importState === 'WAIT_RECOVERED';
    });
    const began = performance.now();
    const unmounting = unmount(cluster, mount, 'SIGTERM');
    await until('twice its patience has passed', () => performance.now() - began > 2 * TIMEOUT_S * 1000);
    assert.equal(mount.child.exit, undefined, mount.child.tail());
    const away = (await cluster.status()).clients.find(({ name }) => name.endsWith(other.dir));
    await cluster.cliOk(['evict', cluster.address, away?.uuid ?? '']);
    assert.equal((await unmounting).code, 0, mount.child.tail());
    other.child.kill('SIGCONT');
    assert.equal(await cluster.agent(1).readFile('f'), 'five!');
  });

  test('of a client with nothing to lose does not wait for the recovery of others', async (t) => {
    const cluster = await startCluster(t, { mountOptions: OPTIONS, mounts: 2 });
    const [mount, other] = cluster.mounts;
    assert.ok(mount !== undefined && other !== undefined);
    other.child.kill('SIGSTOP');
    await cluster.crash();
    const ended = await unmount(cluster, mount, 'holdfast umount');
    other.child.kill('SIGCONT');
    assert.deepEqual([ended.code, ended.command], [0, ''], ended.client.join('\n'));
    assert.ok(ended.ms < BOUND_MS, `${ended.ms} ms`);
    // It has said goodbye: nobody waits for it.
    await until('recovery ends', async () => (await cluster.status()).state === 'active', 30_000);
    assert.deepEqual((await cluster.status()).evicted, []);
  });

  test('of a client that is evicted meanwhile says what that cost', async (t) => {
    const cluster = await startCluster(t, { mountOptions: ['umount_timeout=30'] });
    await dirty(cluster);
    await cluster.killServer();
    const mount = only(cluster);
    const unmounting = unmount(cluster, mount, 'SIGTERM');
    await mount.child.line(/waits for the server/);
    await cluster.serve({ tree: cluster.otherTree(), args: ['--force-start'] });
    const ended = await unmounting;
    assert.equal(ended.code, 1);
    saidOnce(
      ended,
      /^holdfast: unmounted, but 5 bytes were not written to the server.*: this client was evicted: /,
    );
  });

  test('by force, of one that waits already, ends it', async (t) => {
    const cluster = await startCluster(t, { mountOptions: ['umount_timeout=60'] });
    await dirty(cluster);
    await cluster.killServer();
    const mount = only(cluster);
    mount.child.kill('SIGTERM');
    await mount.child.line(/waits for the server/);
    const done = await cluster.cli(['umount', '--force', mount.dir]);
    assert.match(done.stderr, /^holdfast: the server did not answer: 5 B of unwritten data are lost$/);
    assert.equal((await within('the client ends', mount.child.exited)).code, 1);
  });

  for (const start of ['foreground', 'background'] as const) {
    for (const server of ['silent', 'recovering'] as const) {
      test(`before it was mounted (${start}, server ${server}): SIGTERM ends it, and no mount comes later`, async (t) => {
        const cluster = server === 'silent' ? prepareCluster(t) : await startCluster(t);
        const [away] = cluster.mounts;
        const silent = await silentServer(t);
        let { address } = silent;
        if (away !== undefined) {
          away.child.kill('SIGSTOP');
          await cluster.crash();
          address = cluster.address;
        }
        const dir = join(cluster.folder, 'target');
        mkdirSync(dir);
        const args = [
          'mount',
          address,
          dir,
          '-o',
          // Nobody has a key for a server that never answers.
          server === 'silent' ? 'retry,tls=off' : 'retry',
          ...(start === 'foreground' ? ['--foreground'] : []),
        ];
        const child: Child = cluster.command(args);
        if (away === undefined) await within('it connects', silent.asked);
        else await until('it has connected', async () => (await cluster.status()).clients.length === 2);
        child.kill('SIGTERM');
        const exit = await within('it ends', child.exited);
        const expected =
          start === 'foreground' ? { code: null, signal: 'SIGTERM' } : { code: 1, signal: null };
        assert.deepEqual(exit, expected, child.tail());
        assert.match(child.tail(), /ended by SIGTERM before it was mounted/);
        if (away !== undefined) {
          away.child.kill('SIGCONT');
          await until('recovery ends', async () => (await cluster.status()).state === 'active', 30_000);
        }
        assert.equal(isMounted(dir), false);
      });
    }
  }
});
