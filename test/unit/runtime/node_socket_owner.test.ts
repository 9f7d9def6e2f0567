/** Whose a TCP socket is. */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { type TestContext, test } from 'node:test';
import { ownerOf } from '../../../src/runtime/node_socket_owner.js';

async function listening(t: TestContext, host: string): Promise<{ server: Server; port: number }> {
  const server = createServer({ allowHalfOpen: true });
  server.listen(0, host);
  await once(server, 'listening');
  t.after(() => server.close());
  return { server, port: (server.address() as { port: number }).port };
}

async function accepted(t: TestContext, server: Server): Promise<Socket> {
  const [socket] = (await once(server, 'connection')) as [Socket];
  t.after(() => socket.destroy());
  return socket;
}

function owner(socket: Socket): number | undefined {
  const { remoteAddress = '', remotePort = 0, localAddress = '', localPort = 0 } = socket;
  return ownerOf({ address: remoteAddress, port: remotePort }, { address: localAddress, port: localPort });
}

for (const [listens, connects] of [
  ['127.0.0.1', '127.0.0.1'],
  ['::', '127.0.0.1'],
  ['::1', '::1'],
] as const) {
  test(`the owner of a connection to ${listens} from ${connects} is found`, async (t) => {
    const { server, port } = await listening(t, listens);
    const both = accepted(t, server);
    const socket = connect(port, connects);
    t.after(() => socket.destroy());
    assert.equal(owner(await both), process.geteuid?.());
  });
}

test('a socket of another user is his', { skip: process.geteuid?.() !== 0 && 'needs root' }, async (t) => {
  const { server, port } = await listening(t, '127.0.0.1');
  const both = accepted(t, server);
  const script = `import socket, sys; s = socket.create_connection(('127.0.0.1', ${port})); sys.stdin.read()`;
  const other = spawn('python3', ['-c', script], {
    uid: 65_534,
    gid: 65_534,
    stdio: ['pipe', 'ignore', 'inherit'],
  });
  t.after(() => other.kill('SIGKILL'));
  assert.equal(owner(await both), 65_534);
});

test("a socket that its user has closed is nobody's: kernels before 6.17 show it as one of root", async (t) => {
  const { server, port } = await listening(t, '127.0.0.1');
  const both = accepted(t, server);
  const socket = connect(port, '127.0.0.1');
  const other = await both;
  assert.equal(owner(other), process.geteuid?.());
  // The other side has closed nothing: the socket stays in the table, and belongs to no descriptor.
  socket.destroy();
  other.resume();
  await once(socket, 'close');
  assert.equal(owner(other), undefined);
});

test('a connection that is not of this host has no owner', () => {
  assert.equal(ownerOf({ address: '192.0.2.1', port: 1 }, { address: '127.0.0.1', port: 2 }), undefined);
  assert.equal(ownerOf({ address: '2001:db8::1', port: 1 }, { address: '::1', port: 2 }), undefined);
});
