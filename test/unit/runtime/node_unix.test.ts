import assert from 'node:assert/strict';
import { closeSync } from 'node:fs';
import { networkInterfaces } from 'node:os';
import { type TestContext, test } from 'node:test';
import { nativeBinding } from '../../../native/binding.js';
import { tcpTransport } from '../../../src/runtime/node_tcp.js';
import { nodeTransport } from '../../../src/runtime/node_transport.js';
import { connectUnix, listenUnix, namesFor } from '../../../src/runtime/node_unix.js';
import type { Transport } from '../../../src/runtime/ports.js';
import { withCredentials } from '../../fixtures/carriers.js';
import { connected, listening } from '../../fixtures/connection_ends.js';
import { asNobody, asRoot, NOBODY } from '../../fixtures/nobody.js';
import { until } from '../../fixtures/until.js';

const binding = nativeBinding();
const tcp = tcpTransport('addon');

async function peerOf(t: TestContext, transport: Transport, host: string, from = host): Promise<string[]> {
  const { listener, accepted } = await listening(t, nodeTransport, undefined, host);
  const { connection } = await connected(t, transport, {
    address: { host: from, port: listener.address.port },
  });
  await until('it is accepted', () => accepted.length === 1);
  const kinds = [connection, accepted[0]?.connection].map((end) => end?.peer.split(':')[0] ?? '');
  connection.destroy();
  await listener.close();
  return kinds;
}

test('a client on the host of the server uses the Unix socket, whatever local address either names', async (t) => {
  const own = Object.values(networkInterfaces())
    .flatMap((found) => found ?? [])
    .filter(({ internal, family }) => !internal && family === 'IPv4')
    .map(({ address }) => address);
  const ways: [listens: string, connects: string][] = [
    ['127.0.0.1', '127.0.0.1'],
    ['127.0.0.1', '::ffff:127.0.0.1'],
    ['127.0.0.1', 'localhost'],
    ['0.0.0.0', '127.0.0.1'],
    ['0.0.0.0', '127.1.2.3'],
    ['::', '127.0.0.1'],
    ['::', '::1'],
    ['::1', '0:0:0:0:0:0:0:1'],
    ...own.map((address): [string, string] => ['0.0.0.0', address]),
    ...own.map((address): [string, string] => [address, address]),
  ];
  for (const [listens, connects] of ways) {
    assert.deepEqual(
      await peerOf(t, nodeTransport, listens, connects),
      ['unix', 'unix'],
      `${listens}, ${connects}`,
    );
  }
});

test('a client that uses TCP is served beside it', async (t) => {
  assert.deepEqual(await peerOf(t, tcp, '127.0.0.1'), ['127.0.0.1', '127.0.0.1']);
});

test('an address of another host, or one of a single link, has no name', () => {
  const others = ['192.0.2.1', '2001:db8::1', 'fe80::1%lo', 'server.example', ''];
  assert.deepEqual(
    others.map((host) => namesFor({ host, port: 7000 })),
    others.map(() => []),
  );
  assert.deepEqual(namesFor({ host: '::1', port: 7000 }), ['holdfast:[::1]:7000', 'holdfast:[::]:7000']);
});

test('root of this host is root through the Unix socket, and knows that it stays on this host', async (t) => {
  const { listener, accepted } = await listening(t, nodeTransport);
  const { connection } = await connected(t, nodeTransport, listener);
  await until('it is accepted', () => accepted.length === 1);
  const proof = { kind: 'local', uid: 0, trusted: true };
  assert.deepEqual(accepted[0]?.connection.origin, { proof, port: 0, sameHost: true });
  assert.equal(accepted[0]?.connection.peer, `unix:${process.pid}`);
  assert.equal(connection.peer, `unix:127.0.0.1:${listener.address.port}`);
});

test('when the listener closes, name and port are free at once', async (t) => {
  const { listener } = await listening(t, nodeTransport);
  const { address } = listener;
  await listener.close();
  await assert.rejects(connected(t, nodeTransport, { address }), { code: 'ECONNREFUSED' });
  const again = await nodeTransport.listen(address, () => ({ data() {}, drain() {}, closed() {} }));
  t.after(() => again.close());
  const { connection } = await connected(t, nodeTransport, again);
  assert.equal(connection.peer, `unix:127.0.0.1:${address.port}`);
});

test('a listener whose name another process has takes TCP connections', async (t) => {
  const free = await listening(t, tcp);
  const { address } = free.listener;
  await free.listener.close();
  const taken = binding.unixListen(`holdfast:127.0.0.1:${address.port}`, 1);
  t.after(() => closeSync(taken));
  assert.equal(
    listenUnix(binding, address, () => ({ data() {}, drain() {}, closed() {} })),
    undefined,
  );
  const listener = await nodeTransport.listen(address, () => ({ data() {}, drain() {}, closed() {} }));
  t.after(() => listener.close());
  const { connection } = await connected(t, tcp, listener);
  assert.equal(connection.peer, `127.0.0.1:${address.port}`);
});

test('a client does not use the name if a process of another user has it', asRoot, async (t) => {
  const { listener, accepted } = await listening(t, tcp);
  const { address } = listener;
  const said = await asNobody(
    t,
    `holdfast:127.0.0.1:${address.port}`,
    "s.bind('\\0' + sys.argv[1]); s.listen(5)",
  );
  assert.equal(said, 'ready');
  assert.equal(connectUnix(binding, address), undefined);
  await assert.rejects(connected(t, nodeTransport, listener), { code: 'EACCES', message: / needs a key: / });
  const { connection } = await connected(t, withCredentials(nodeTransport, { kind: 'plain' }), listener);
  // The first looked whether there is anybody.
  await until('both are accepted', () => accepted.length === 2);
  assert.equal(connection.peer, `127.0.0.1:${address.port}`);
});

test('a process of another user is not trusted', asRoot, async (t) => {
  const { listener, accepted } = await listening(t, nodeTransport);
  const name = `holdfast:127.0.0.1:${listener.address.port}`;
  assert.equal(await asNobody(t, name, "s.connect('\\0' + sys.argv[1])"), 'ready');
  await until('it is accepted', () => accepted.length === 1);
  const proof = { kind: 'local', uid: NOBODY, trusted: false };
  assert.deepEqual(accepted[0]?.connection.origin, { proof, port: 0, sameHost: true });
});

test('a cancelled connect does not use the Unix socket either', async (t) => {
  const { listener } = await listening(t, nodeTransport);
  const open = (): never => assert.fail('it was opened');
  const options = { timeoutMs: 5000, signal: AbortSignal.abort() };
  await assert.rejects(nodeTransport.connect(listener.address, open, options), { code: 'ECANCELED' });
});

test('names that are none are refused', () => {
  const connect = binding.unixConnect as (name: unknown) => number;
  const listen = binding.unixListen as (name: unknown, backlog: unknown) => number;
  const peer = binding.unixPeer as (fd: unknown) => unknown;
  assert.throws(() => connect(undefined), TypeError);
  assert.throws(() => listen('holdfast:x', 'many'), TypeError);
  assert.throws(() => peer('1'), TypeError);
  assert.throws(() => connect('x'.repeat(108)), { code: 'ENAMETOOLONG' });
  assert.throws(() => connect('holdfast:nobody'), { code: 'ECONNREFUSED' });
  assert.throws(() => peer(-1), { code: 'EBADF' });
});
