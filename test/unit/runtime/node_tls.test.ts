/** Connections that are authenticated by a key: who gets in, who does not, and what both sides are told. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type Socket } from 'node:net';
import { test } from 'node:test';
import type { ConnectionOptions } from 'node:tls';
import { Deferred } from '../../../src/base/wait.js';
import { NetConnection } from '../../../src/runtime/node_net_connection.js';
import { StreamConnection } from '../../../src/runtime/node_stream.js';
import { tcpTransport } from '../../../src/runtime/node_tcp.js';
import type { Credentials } from '../../../src/runtime/ports.js';
import { IDENTITY, KEY, overTls, takingKeys, WITH_KEY } from '../../fixtures/carriers.js';
import { authority } from '../../fixtures/certificates.js';
import { connected, type End, listening } from '../../fixtures/connection_ends.js';
import {
  bare,
  clientHello,
  connectedWith,
  eachTls,
  endsIn,
  failure,
  secured,
  stranger,
} from '../../fixtures/tls_peers.js';
import { until } from '../../fixtures/until.js';

const tcp = tcpTransport('addon');
/** The name of an alert depends on the version of OpenSSL. */
const REFUSED = /ALERT_HANDSHAKE_FAILURE/;
const FRAME = Buffer.concat([Buffer.from('HFS1'), Buffer.alloc(300_000, 'x')]);

eachTls('whoever has the key is through, and both know who the other is', async (t) => {
  const { listener, accepted, refused } = await secured(t);
  const client = await connectedWith(t, listener.address, WITH_KEY);
  client.connection.write([Buffer.from('hello')]);
  await until('it is accepted', () => accepted.length === 1);
  const [server] = accepted as [End];
  assert.equal((await server.has(5)).toString(), 'hello');
  const proof = { kind: 'key', identity: IDENTITY };
  const { port, isOwners: _, ...origin } = server.connection.origin;
  assert.deepEqual(origin, { proof, address: '127.0.0.1', sameHost: true });
  assert.equal(server.connection.peer, `127.0.0.1:${port}`);
  assert.equal(client.connection.peer, `127.0.0.1:${listener.address.port}`);
  assert.ok(port < 1024, `source port ${port}`);
  await client.write(FRAME);
  await server.has(5 + FRAME.length);
  await until('the kernel knows', () => (client.connection.takenBytes ?? 0) >= FRAME.length);
  assert.deepEqual(refused, []);
});

/** The types of the extensions in a ServerHello, which nobody has encrypted. */
function extensionsOf(record: Buffer): number[] {
  // Headers of record and message, version, random value, session, cipher, compression.
  const sessionAt = 5 + 4 + 2 + 32;
  let at = sessionAt + 1 + (record[sessionAt] ?? 0) + 2 + 1;
  const end = at + 2 + record.readUInt16BE(at);
  const types: number[] = [];
  for (at += 2; at < end; at += 4 + record.readUInt16BE(at + 2)) types.push(record.readUInt16BE(at));
  return types;
}

eachTls(
  'a handshake by key has a secret of its own: recorded traffic stays secret when the key leaks',
  async (t) => {
    const { listener } = await secured(t);
    const { got } = await stranger(t, listener.address, await clientHello(t));
    await until('it is answered', () => got().length > 0);
    const [preSharedKey, supportedVersions, keyShare] = [41, 43, 51];
    assert.deepEqual(extensionsOf(got()).sort(), [preSharedKey, supportedVersions, keyShare]);
  },
);

eachTls('a wrong key and an unknown one are refused, and both sides say which', async (t) => {
  const { listener, accepted, refusals } = await secured(t);
  const { address } = listener;
  const at = `127.0.0.1:${address.port}`;
  const wrong = await failure(
    connectedWith(t, address, { ...WITH_KEY, key: Buffer.alloc(32, 'w') } as Credentials),
  );
  assert.equal(wrong.code, 'EACCES');
  assert.equal(wrong.message, `${at} has another key with the name "alice": copy the key from there again`);
  const unknown = await failure(connectedWith(t, address, { ...WITH_KEY, identity: 'bob\n' } as Credentials));
  assert.equal(unknown.code, 'EACCES');
  assert.equal(
    unknown.message,
    `${at} does not know the key "bob ": make it there with \`holdfast access add\``,
  );
  assert.deepEqual(await refusals(2), ['wrong key for "alice"', 'unknown key "bob "']);
  assert.equal(accepted.length, 0);
});

eachTls('a key that is gone does not get in again, with a session from before or without', async (t) => {
  let known = true;
  const { listener, accepted, refusals } = await secured(t, {
    keyOf: (identity) => (known && identity === IDENTITY ? KEY : undefined),
  });
  // The addon makes no sessions. This one comes from a listener by node:tls with the same key.
  const other = await listening(t, overTls(takingKeys(), WITH_KEY, 'node:net'));
  const { session } = await bare(other.listener.address, {});
  assert.ok(session !== undefined, 'the client got no session to offer');
  // While the key is there, too: a session is worth nothing.
  const withoutKey: ConnectionOptions = { session, pskCallback: undefined };
  assert.match(String((await bare(listener.address, withoutKey)).error), REFUSED);
  known = false;
  assert.match(String((await bare(listener.address, withoutKey)).error), REFUSED);
  assert.match(String((await bare(listener.address, { session })).error), REFUSED);
  const nothing = 'it has no key and no certificate';
  assert.deepEqual(await refusals(3), [nothing, nothing, 'unknown key "alice"']);
  assert.equal(accepted.length, 0);
});

eachTls('other versions and ciphers are refused by name', async (t) => {
  const { listener, accepted, refusals } = await secured(t);
  await bare(listener.address, {
    minVersion: 'TLSv1.2',
    maxVersion: 'TLSv1.2',
    ciphers: 'PSK-AES128-GCM-SHA256',
  });
  await bare(listener.address, { ciphers: 'TLS_AES_256_GCM_SHA384' });
  assert.deepEqual(await refusals(2), [
    'it speaks no TLS 1.3',
    'it does not know the cipher TLS_AES_128_GCM_SHA256',
  ]);
  assert.equal(accepted.length, 0);
});

eachTls('a plain connection is passed on with nothing proved, and loses no byte', async (t) => {
  const { listener, accepted, refused } = await secured(t);
  const one = await stranger(t, listener.address);
  for (const byte of FRAME.subarray(0, 40)) {
    one.socket.write(Uint8Array.of(byte));
    await new Promise(setImmediate);
  }
  one.socket.write(FRAME.subarray(40));
  await until('it is accepted', () => accepted.length === 1);
  await stranger(t, listener.address, FRAME, FRAME, FRAME);
  await until('it is accepted', () => accepted.length === 2);
  const [slow, large] = accepted as [End, End];
  assert.ok((await slow.has(FRAME.length)).equals(FRAME));
  assert.ok((await large.has(3 * FRAME.length)).equals(Buffer.concat([FRAME, FRAME, FRAME])));
  const { server } = endsIn(t);
  for (const { connection } of accepted) {
    assert.ok(connection instanceof (server === 'addon' ? StreamConnection : NetConnection));
    assert.deepEqual(connection.origin.proof, { kind: 'none' });
  }
  assert.deepEqual(refused, []);
});

test('without the addon a plain connection loses no byte either', async (t) => {
  const bare = tcpTransport('node:net');
  const transport: typeof tcp = {
    ...bare,
    listen: (address, accept) => bare.listen(address, accept, takingKeys()),
  };
  const { listener, accepted } = await listening(t, transport);
  const client = await connected(t, bare, listener);
  client.connection.write([FRAME.subarray(0, 1)]);
  await until('it is accepted', () => accepted.length === 1);
  client.connection.write([FRAME.subarray(1), FRAME]);
  const [server] = accepted as [End];
  assert.ok(server.connection instanceof NetConnection);
  assert.ok((await server.has(2 * FRAME.length)).equals(Buffer.concat([FRAME, FRAME])));
});

test('what came first waits for a receiver that is paused, and goes to memory of its own', async (t) => {
  const given: Buffer[] = [];
  const transport: typeof tcp = {
    ...tcp,
    listen: (address, accept) => tcp.listen(address, accept, takingKeys()),
  };
  const { listener, accepted } = await listening(t, transport, (end) => {
    end.connection.pause();
    end.space = () => {
      given.push(Buffer.alloc(1000));
      return given.at(-1) as Buffer;
    };
  });
  const peer = await stranger(t, listener.address, Buffer.from('HFS1 first'));
  await until('it is accepted', () => accepted.length === 1);
  const [end] = accepted as [End];
  peer.socket.write('more');
  const other = await stranger(t, listener.address, Buffer.from('HFS1'));
  await until('another is accepted after that', () => accepted.length === 2);
  assert.deepEqual([end.log, given.length], [[], 0]);
  end.connection.resume();
  assert.equal((await end.has(14)).toString(), 'HFS1 firstmore');
  assert.equal(end.chunks.at(-1)?.chunk.buffer, given[0]?.buffer);
  other.socket.destroy();
});

test('a listener without TLS does not wait for the first byte', async (t) => {
  const { listener, accepted } = await listening(t, tcp);
  await stranger(t, listener.address);
  await until('it is accepted', () => accepted.length === 1);
});

eachTls(
  'handshakes wait until the listener is ready, and those who hang up meanwhile are forgotten',
  async (t) => {
    const ready = new Deferred<void>();
    let isReady = false;
    const { listener, accepted, refused } = await secured(t, {
      ready: () => (isReady ? undefined : ready.promise),
    });
    const connecting = [1, 2].map(() => connectedWith(t, listener.address, WITH_KEY));
    const gone = await stranger(t, listener.address, await clientHello(t));
    // Plain connections do not wait.
    await stranger(t, listener.address, FRAME);
    await until('the plain one is accepted', () => accepted.length === 1);
    gone.socket.end();
    await gone.closed;
    assert.deepEqual([accepted.length, gone.got().length], [1, 0]);
    isReady = true;
    ready.resolve();
    await Promise.all(connecting);
    await until('both are accepted', () => accepted.length === 3);
    assert.deepEqual(refused, []);
  },
);

eachTls('connecting is cancelled and times out in the middle of a handshake', async (t) => {
  const { listener, accepted } = await secured(t, { ready: () => new Promise(() => undefined) });
  const open = (): never => assert.fail('it was opened');
  const aborter = new AbortController();
  const options = { credentials: WITH_KEY, timeoutMs: 60_000, signal: aborter.signal };
  const cancelled = failure(tcp.connect(listener.address, open, options));
  const late = await failure(tcp.connect(listener.address, open, { credentials: WITH_KEY, timeoutMs: 300 }));
  aborter.abort();
  assert.deepEqual([late.code, (await cancelled).code], ['ETIMEDOUT', 'ECANCELED']);
  assert.match(late.message, /^no TLS handshake with 127\.0\.0\.1:\d+ within 300 ms$/);
  assert.equal(accepted.length, 0);
});

eachTls('a server that does not speak TLS is told apart from one that has gone', async (t) => {
  const ways: [name: string, answers: (socket: Socket) => void][] = [
    ['closes', (socket) => socket.destroy()],
    ['ends', (socket) => socket.end()],
    ['answers', (socket) => socket.end('HFS1 what is this? I speak in frames')],
  ];
  for (const [name, answers] of ways) {
    const server = createServer((socket) => {
      socket.on('error', () => undefined);
      socket.once('data', () => answers(socket));
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    t.after(() => server.close());
    const address = { host: '127.0.0.1', port: (server.address() as { port: number }).port };
    const error = await failure(connectedWith(t, address, WITH_KEY));
    assert.equal(error.code, 'EPROTO', `${name}: ${error.message}`);
    assert.equal(
      error.message,
      `127.0.0.1:${address.port} does not speak TLS: is it a server of an older release, or one with --tls=off? ` +
        'then mount with -o tls=off',
    );
  }
  // It ends in the middle of a handshake.
  const dying = createServer((socket) => {
    dying.close();
    socket.once('data', () => socket.destroy());
  });
  dying.listen(0, '127.0.0.1');
  await once(dying, 'listening');
  const address = { host: '127.0.0.1', port: (dying.address() as { port: number }).port };
  assert.equal((await failure(connectedWith(t, address, WITH_KEY))).code, 'ECONNREFUSED');
});

eachTls(
  'a server that does not know the key is refused, even with a certificate of a public CA',
  async (t) => {
    const ca = authority();
    t.after(ca.remove);
    const { listener, refusals } = await secured(t, {
      certificate: ca.issue({ name: 'server', hosts: ['IP:127.0.0.1'] }),
      keyOf: () => undefined,
    });
    const error = await failure(connectedWith(t, listener.address, WITH_KEY));
    assert.equal(error.code, 'EACCES');
    assert.match(error.message, / does not know the key "alice": /);
    assert.deepEqual(await refusals(1), ['unknown key "alice"']);
  },
);

eachTls('a listener that closes ends handshakes, and no connection that is through', async (t) => {
  const { listener, accepted } = await secured(t);
  const client = await connectedWith(t, listener.address, WITH_KEY);
  await until('it is accepted', () => accepted.length === 1);
  const waiting = await stranger(t, listener.address, (await clientHello(t)).subarray(0, 100));
  await connected(t, tcp, listener);
  await listener.close();
  await waiting.closed;
  client.connection.write([Buffer.from('hi')]);
  await (accepted[0] as End).has(2);
  const { server } = endsIn(t);
  assert.ok(accepted[0]?.connection instanceof (server === 'addon' ? StreamConnection : NetConnection));
});
