/** Who does not belong gets nothing: strangers, users of the server's host, stolen UUIDs, wrong keys. Real processes and networks. */

import assert from 'node:assert/strict';
import { chmodSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import type { ClientStatus } from '../../src/client/api.js';
import { Child, type Finished, run } from '../fixtures/child.js';
import { type Cluster, prepareCluster } from '../fixtures/cluster.js';
import { type Host, Network } from '../fixtures/hosts.js';
import { thisTree } from '../fixtures/installed_tree.js';
import { until } from '../fixtures/until.js';

interface Site {
  readonly cluster: Cluster;
  readonly server: Host;
  readonly client: Host;
  readonly stranger: Host;
  /** A command on a host, with the cluster's surroundings. */
  on(host: Host, args: readonly string[]): Promise<Finished>;
}

/** A server that a network reaches, and a local mount of root. */
async function site(t: TestContext): Promise<Site> {
  const network = await Network.make();
  const cluster = prepareCluster(t);
  cluster.whenEnded(() => network.remove());
  const [server, client, stranger] = [
    await network.addHost('srv'),
    await network.addHost('cli'),
    await network.addHost('bad'),
  ];
  await cluster.cliOk(['mkfs', ...cluster.deviceArgs, '--label', 'test']);
  await cluster.serve({ on: server, listen: `${server.address}:0` });
  const on = (host: Host, args: readonly string[]): Promise<Finished> => {
    const [command = '', ...rest] = [...host.command, process.execPath, thisTree().main, ...args];
    return run(command, rest, { env: cluster.env });
  };
  return { cluster, server, client, stranger, on };
}

/** It ends with status 1 and one line. */
function refused(done: Finished, text: RegExp): void {
  assert.equal(done.code, 1, `${done.stdout}${done.stderr}`);
  assert.equal(done.stderr.trim().split('\n').length, 1, done.stderr);
  assert.match(done.stderr, text);
}

test('a stranger on the network gets nothing: no mount, no status, no shutdown, no eviction', async (t) => {
  const { cluster, stranger, on } = await site(t);
  const local = cluster.startMount([], 'test');
  await local.ready();
  const { address } = cluster;
  for (const options of [[], ['-o', 'tls=off']]) {
    refused(await on(stranger, ['mount', ...options, address, cluster.folder]), /access add|key/);
  }
  for (const args of [
    ['status', address],
    ['shutdown', address],
    ['evict', address, 'x'],
    ['access', 'list', '--server', address],
  ]) {
    refused(await on(stranger, args), /key/);
  }
  assert.equal((await cluster.status()).state, 'active');
  await until('the server has said so', () =>
    cluster.server.child.stderr.some((line) => /refuses /.test(line)),
  );
  await cluster.umount(local);
});

test('a user of the server host who is not root cannot use the Unix sockets, whatever he speaks', async (t) => {
  const { cluster } = await site(t);
  const path = join(cluster.env.HOLDFAST_RUNTIME_DIR ?? '', 'test.sock');
  const script = `
import os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
s = socket.socket(socket.AF_UNIX)
try:
    s.connect(sys.argv[1])
    print('connected')
except OSError as e:
    print(e.errno)
`;
  const tried = await run('python3', ['-c', script, path]);
  assert.equal(tried.stdout.trim(), '13', 'EACCES');
});

test('a client with a key works; a key that others may read, a damaged one, and one of another filesystem do not', async (t) => {
  const { cluster, client, on } = await site(t);
  const key = await cluster.makeKey('web', ['--no-root-squash']);
  const mount = await cluster.addMount([`key=${key}`], undefined, client);
  const agent = cluster.agent();
  await agent.writeFile('f', 'text');
  assert.equal((await cluster.status()).clients[0]?.access, 'key:web');
  const { address } = cluster;
  const target = join(cluster.folder, 'bad.key');
  const tryKey = async (text: string, mode = 0o600): Promise<Finished> => {
    writeFileSync(target, text);
    chmodSync(target, mode);
    return on(client, ['mount', '-o', `key=${target}`, address, cluster.folder]);
  };
  const whole = readFileSync(key, 'utf8');
  refused(await tryKey(whole, 0o644), /chmod 600/);
  refused(await tryKey('nothing'), /no key file/);
  const secret = /^secret (.*)$/m.exec(whole)?.[1] ?? '';
  const other = Buffer.from(secret, 'base64').map((byte, at) => (at === 0 ? byte ^ 1 : byte));
  refused(await tryKey(whole.replace(secret, Buffer.from(other).toString('base64'))), /another key|key/);
  refused(await tryKey(whole.replace(/^id .*$/m, 'id 0123456789abcdef')), /does not know the key/);
  refused(await on(client, ['shutdown', address, '--key', key]), /administrator/);
  const brief = await on(client, ['status', address, '--key', key]);
  assert.equal(brief.code, 0, brief.stderr);
  assert.doesNotMatch(brief.stdout, /web|opens/);
  assert.equal(await agent.readFile('f'), 'text');
  for (const { stderr } of [cluster.server.child, mount.child]) {
    assert.ok(!stderr.join('\n').includes(secret), 'no secret is logged');
  }
});

test('a key that is taken back ends its mounts at once: calls fail, nothing hangs, others go on', async (t) => {
  const { cluster, client } = await site(t);
  const [gone, stays] = [
    await cluster.makeKey('gone', ['--no-root-squash']),
    await cluster.makeKey('stays', ['--no-root-squash']),
  ];
  const mounts = [
    await cluster.addMount([`key=${gone}`], undefined, client),
    await cluster.addMount([`key=${stays}`], undefined, client),
  ];
  const [lost, kept] = [cluster.agent(0), cluster.agent(1)];
  await lost.writeFile('f', 'text');
  const fd = await lost.open('f', 0);
  await cluster.cliOk(['access', 'remove', 'gone', '--server', cluster.admin]);
  await until('the mount is refused', async () => {
    const [target] = ((await cluster.mountStatus(mounts[0])) as ClientStatus).targets;
    return target?.gate === 'REFUSED';
  });
  await assert.rejects(lost.readFile('f'), { code: 'EACCES' });
  await assert.rejects(lost.pread(fd, 0, 4), { code: 'EIO' });
  assert.equal(await kept.readFile('f'), 'text');
  await until(
    'it is told',
    () => mounts[0]?.child.stderr.some((line) => /refuses this mount/.test(line)) ?? false,
  );
});

test('a key works for the servers of an upgrade and of a crash, and survives rotation', async (t) => {
  const { cluster, client, server } = await site(t);
  const key = await cluster.makeKey('web', ['--no-root-squash']);
  await cluster.addMount([`key=${key}`], undefined, client);
  const agent = cluster.agent();
  await agent.writeFile('f', 'one');
  const fd = await agent.open('f', 2);
  const where = { on: server };
  await cluster.shutdown();
  await cluster.serve({ ...where, tree: cluster.otherTree() });
  assert.equal(await agent.pread(fd, 0, 3), 'one');
  await cluster.killServer();
  await cluster.serve({ ...where, tree: cluster.server.tree });
  assert.equal(await agent.pread(fd, 0, 3), 'one');
  const renewed = join(cluster.folder, 'new.key');
  await cluster.cliOk([
    'access',
    'rotate',
    'web',
    '--server',
    cluster.admin,
    '--grace',
    '1s',
    '--output',
    renewed,
  ]);
  writeFileSync(key, readFileSync(renewed));
  await until('the old key has run out', async () => {
    const list = JSON.parse(await cluster.cliOk(['access', 'list', '--server', cluster.admin, '--json']));
    return list.entries[0].keys.some((one: { untilMs?: number }) => (one.untilMs ?? Infinity) < Date.now());
  });
  await agent.writeFile('g', 'two');
  assert.equal(await agent.pread(fd, 0, 3), 'one');
});

test('a mount more than its entry may have says why it waits, and is there when another one ends', async (t) => {
  const { cluster, client } = await site(t);
  const key = await cluster.makeKey('one', ['--max-clients', '1']);
  const first = await cluster.addMount([`key=${key}`], undefined, client);
  const second = cluster.startMount([`key=${key}`], undefined, undefined, client);
  await second.child.line(/waits for the server, which says: key:one has 1 clients, as many as it may have/);
  await cluster.umount(first);
  await second.ready();
});

test('two machines with one key file are two clients', async (t) => {
  const { cluster, client, stranger } = await site(t);
  const key = await cluster.makeKey('cloned', ['--no-root-squash']);
  await cluster.addMount([`key=${key}`], undefined, client);
  await cluster.addMount([`key=${key}`], undefined, stranger);
  const [one, other] = [cluster.agent(0), cluster.agent(1)];
  await one.writeFile('f', 'text');
  assert.equal(await other.readFile('f'), 'text');
  const { clients } = await cluster.status();
  assert.deepEqual(
    clients.map(({ access }) => access),
    ['key:cloned', 'key:cloned'],
  );
  assert.equal(new Set(clients.map(({ uuid }) => uuid)).size, 2);
});

test('plain TCP that is no Holdfast and half a handshake disturb nobody, and are said on the server', async (t) => {
  const { cluster, client, stranger } = await site(t);
  const key = await cluster.makeKey('web', ['--no-root-squash']);
  await cluster.addMount([`key=${key}`], undefined, client);
  const [host, port] = cluster.address.split(':');
  const script = `
import socket, sys
host, port = sys.argv[1], int(sys.argv[2])
for text in [b'GET / HTTP/1.0\\r\\n\\r\\n', b'\\x16\\x03\\x01\\x00\\xff' + b'\\x01' * 40, b'\\x16', b'\\0' * 70000]:
    s = socket.create_connection((host, port))
    s.sendall(text)
    s.close()
print('done', flush=True)
s = socket.create_connection((host, port)); s.sendall(b'\\x16\\x03\\x01')
sys.stdin.read()
`;
  const [command = '', ...rest] = [...stranger.command, 'python3', '-c', script, host ?? '', port ?? ''];
  const child = new Child('stranger', command, rest, cluster.env);
  t.after(() => child.kill('SIGKILL'));
  await child.line(/^done/);
  await cluster.agent().writeFile('f', 'text');
  assert.equal((await cluster.status()).clients[0]?.state, 'connected');
});
