/** Unix sockets at a path: who may use them, and what is left behind. */

import assert from 'node:assert/strict';
import {
  chmodSync,
  closeSync,
  existsSync,
  lstatSync,
  mkdtempSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { nativeBinding } from '../../../native/binding.js';
import { StreamConnection } from '../../../src/runtime/node_stream.js';
import { nodeTransport } from '../../../src/runtime/node_transport.js';
import type { Listener } from '../../../src/runtime/ports.js';
import { connected, type End, listening } from '../../fixtures/connection_ends.js';
import { asNobody, asRoot, NOBODY } from '../../fixtures/nobody.js';
import { failure } from '../../fixtures/tls_peers.js';
import { until } from '../../fixtures/until.js';

const binding = nativeBinding();

function pathIn(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-path-'));
  t.after(() => rmSync(folder, { recursive: true }));
  return join(folder, 'server.sock');
}

function listen(path: string): Promise<Listener> {
  return nodeTransport.listen({ host: path, port: 0 }, () => ({ data() {}, drain() {}, closed() {} }));
}

function connect(t: TestContext, path: string): Promise<End> {
  return connected(t, nodeTransport, { address: { host: path, port: 0 } });
}

/** A socket at which nobody listens. */
function leaveStale(path: string): void {
  closeSync(binding.unixListen(path, 1));
}

test('the kernel says who is at the other end, and the addon carries the bytes', async (t) => {
  const path = pathIn(t);
  const { listener, accepted } = await listening(t, nodeTransport, undefined, path);
  assert.deepEqual(listener.address, { host: path, port: 0 });
  const client = await connect(t, path);
  client.connection.write([Buffer.from('hello')]);
  await until('it is accepted', () => accepted.length === 1);
  const [server] = accepted as [End];
  assert.equal((await server.has(5)).toString(), 'hello');
  const uid = process.geteuid?.();
  const origin = { proof: { kind: 'local', uid, trusted: true }, port: 0, sameHost: true };
  assert.deepEqual([client.connection.origin, server.connection.origin], [origin, origin]);
  assert.deepEqual([client.connection.peer, server.connection.peer], [`unix:${path}`, `unix:${process.pid}`]);
  assert.ok(client.connection instanceof StreamConnection && server.connection instanceof StreamConnection);
});

test('nobody else may connect, whatever the umask', async (t) => {
  const path = pathIn(t);
  const before = process.umask(0);
  t.after(() => process.umask(before));
  const listener = await listen(path);
  assert.equal(statSync(path).mode & 0o777, 0o600);
  await listener.close();
});

test('a path at which nobody listens is refused, and so is one that is none', async (t) => {
  const path = pathIn(t);
  const codes = [];
  codes.push(await failure(connect(t, path)));
  codes.push(await failure(connect(t, join(path, 'deeper'))));
  leaveStale(path);
  codes.push(await failure(connect(t, path)));
  codes.push(await failure(connect(t, `/${'x'.repeat(107)}`)));
  assert.deepEqual(
    codes.map(({ code }) => code),
    ['ECONNREFUSED', 'ECONNREFUSED', 'ECONNREFUSED', 'EINVAL'],
  );
  assert.equal(codes[0]?.message, `nothing listens at ${path}`);
});

test('a stale socket gives way, a live one and a file do not', async (t) => {
  const path = pathIn(t);
  leaveStale(path);
  const listener = await listen(path);
  const busy = await failure(listen(path));
  assert.deepEqual([busy.code, busy.message], ['EBUSY', `cannot listen at ${path}: another process does`]);
  await connect(t, path);
  await listener.close();
  writeFileSync(path, 'precious');
  const file = await failure(listen(path));
  assert.equal(file.code, 'EBUSY');
  assert.match(file.message, /there is a file, and it is no socket$/);
  assert.ok(existsSync(path));
});

test('paths that cannot be are refused in words', async (t) => {
  const path = pathIn(t);
  const long = await failure(listen(`/${'x'.repeat(107)}`));
  const missing = await failure(listen(join(path, 'deeper.sock')));
  assert.deepEqual([long.code, missing.code], ['EINVAL', 'EINVAL']);
  assert.match(long.message, /at most 107 bytes, and this has 108/);
  assert.match(missing.message, /: its folder is not there$/);
  const longest = join(path, '..', 'x'.repeat(107 - join(path, '..').length - 1));
  const listener = await listen(longest);
  await connect(t, longest);
  await listener.close();
});

test('a listener removes its socket when it closes, but not that of another', async (t) => {
  const path = pathIn(t);
  const { listener, accepted } = await listening(t, nodeTransport, undefined, path);
  const client = await connect(t, path);
  await until('it is accepted', () => accepted.length === 1);
  await listener.close();
  assert.equal(existsSync(path), false);
  client.connection.write([Buffer.from('still here')]);
  await (accepted[0] as End).has(10);

  const first = await listen(path);
  renameSync(path, `${path}.moved`);
  const second = await listen(path);
  const { ino } = lstatSync(path);
  await first.close();
  assert.equal(lstatSync(path).ino, ino);
  await connect(t, path);
  await second.close();
  assert.equal(existsSync(path), false);
});

test('a listener of another user is refused', asRoot, async (t) => {
  const path = pathIn(t);
  chmodSync(join(path, '..'), 0o777);
  assert.equal(await asNobody(t, path, 's.bind(sys.argv[1]); s.listen(5)'), 'ready');
  const error = await failure(connect(t, path));
  assert.equal(error.code, 'EACCES');
  assert.match(error.message, /^user 65534 listens at .*, who is neither root nor the user of this process$/);
});

test('another user may not connect, and is not trusted if it may', asRoot, async (t) => {
  const path = pathIn(t);
  chmodSync(join(path, '..'), 0o755);
  const { accepted } = await listening(t, nodeTransport, undefined, path);
  assert.equal(await asNobody(t, path, 's.connect(sys.argv[1])'), 'Permission denied');
  chmodSync(path, 0o666);
  assert.equal(await asNobody(t, path, 's.connect(sys.argv[1])'), 'ready');
  await until('it is accepted', () => accepted.length === 1);
  assert.deepEqual(accepted[0]?.connection.origin.proof, { kind: 'local', uid: NOBODY, trusted: false });
});
