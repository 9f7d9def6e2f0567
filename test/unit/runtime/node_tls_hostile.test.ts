/** Peers that do what no client of ours does: they get nowhere, and nobody else notices. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createConnection, createServer, type Socket } from 'node:net';
import type { TestContext } from 'node:test';
import { connect, createServer as createTlsServer, type TLSSocket } from 'node:tls';
import type { Address } from '../../../src/runtime/ports.js';
import { IDENTITY, WITH_KEY } from '../../fixtures/carriers.js';
import { authority } from '../../fixtures/certificates.js';
import type { End } from '../../fixtures/connection_ends.js';
import {
  BARE,
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

eachTls(
  'a cipher for which the key does not count does not turn a key that was only named into a proof',
  async (t) => {
    const ca = authority();
    t.after(ca.remove);
    const { listener, accepted, refusals } = await secured(t, { certificate: ca.issue({ name: 'server' }) });
    const pskCallback = () => ({ identity: IDENTITY, psk: Buffer.alloc(32) });
    const both = 'TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256';
    await bare(listener.address, { ciphers: both, pskCallback, rejectUnauthorized: false });
    await bare(listener.address, {
      ciphers: 'TLS_AES_256_GCM_SHA384',
      pskCallback,
      rejectUnauthorized: false,
    });
    assert.match(
      (await refusals(2)).join(),
      /^(wrong key for "alice"|unknown key.*),it does not know the cipher/,
    );
    assert.equal(accepted.length, 0);
  },
);

/** Passes a connection on, and keeps what the client says. */
async function recorder(t: TestContext, to: Address): Promise<{ address: Address; said: () => Buffer }> {
  const chunks: Buffer[] = [];
  const server = createServer((client) => {
    const onward = createConnection(to);
    client.on('data', (chunk: Buffer) => chunks.push(chunk));
    client.pipe(onward).pipe(client);
    for (const end of [client, onward]) end.on('error', () => undefined);
    t.after(() => onward.destroy());
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => server.close());
  const { port } = server.address() as { port: number };
  return { address: { host: '127.0.0.1', port }, said: () => Buffer.concat(chunks) };
}

eachTls('a recorded handshake that is sent again does not get in', async (t) => {
  const { listener, accepted, refusals } = await secured(t);
  const { address, said } = await recorder(t, listener.address);
  const client = await connectedWith(t, address, WITH_KEY);
  client.connection.write([Buffer.from('open the door')]);
  await until('the server has it', () => accepted[0]?.receivedBytes === 13);
  const recorded = said();
  const helloBytes = 5 + recorded.readUInt16BE(3);
  const again = await stranger(t, listener.address, recorded.subarray(0, helloBytes));
  await until('it is answered', () => again.got().length > 0);
  again.socket.write(recorded.subarray(helloBytes));
  await again.closed;
  // At once, too.
  await (await stranger(t, listener.address, recorded)).closed;
  const [first = '', second] = await refusals(2);
  assert.match(first, /^the TLS handshake failed: .*(mac|decrypt)/);
  assert.equal(second, 'it sent more than a ClientHello');
  assert.deepEqual([accepted.length, accepted[0]?.log], [1, ['data']]);
});

eachTls(
  'garbage, halves and requests for other services do not get in, and each is told apart',
  async (t) => {
    const { listener, accepted, refusals } = await secured(t);
    const { address } = listener;
    const hello = await clientHello(t);
    const half = await stranger(t, address, hello.subarray(0, hello.length >> 1));
    half.socket.end();
    await half.closed;
    await (await stranger(t, address, Buffer.from([22, 9, 9, 9, 9, 9]))).closed;
    // A record of 16 KiB, and one that is short, without a ClientHello.
    await (await stranger(t, address, Buffer.concat([Buffer.from([22, 3, 1, 64, 0]), Buffer.alloc(16_384)])))
      .closed;
    await (await stranger(t, address, Buffer.from([22, 3, 1, 0, 4, 2, 0, 0, 0]))).closed;
    // One byte of it is wrong.
    const bent = Buffer.from(hello);
    bent[bent.length - 1] = ~(bent.at(-1) as number);
    await (await stranger(t, address, bent)).closed;
    const none = 'it sent no ClientHello';
    assert.deepEqual(await refusals(5), [
      'it hung up in its ClientHello',
      ...[none, none, none],
      'wrong key for "alice"',
    ]);
    // What does not begin as TLS goes to the room that knows frames.
    await stranger(t, address, Buffer.from('GET / HTTP/1.1\r\n\r\n'));
    await until('it is passed on', () => accepted.length === 1);
    assert.deepEqual(accepted[0]?.connection.origin.proof, { kind: 'none' });
  },
);

eachTls('a peer that OpenSSL would ask for another ClientHello, of any size, is refused', async (t) => {
  const { listener, accepted, refusals } = await secured(t);
  await bare(listener.address, { ecdhCurve: 'P-521' });
  assert.deepEqual(await refusals(1), ['it shares no key of X25519 or P-256']);
  assert.equal(accepted.length, 0);
  const first = await clientHello(t, { ...BARE, ecdhCurve: 'P-256' });
  const answered = await stranger(t, listener.address, first);
  await until('it is answered', () => answered.got().length > 0);
  // A ServerHello, and no request for another ClientHello, which has a random value of its own.
  assert.notEqual(answered.got().subarray(11, 15).toString('hex'), 'cf21ad74');
});

eachTls('a ClientHello may come byte by byte', async (t) => {
  const { listener, accepted } = await secured(t);
  const relay = createServer((client) => {
    const onward = createConnection({ ...listener.address, noDelay: true });
    client.on('data', (chunk: Buffer) => {
      for (const byte of chunk) onward.write(Uint8Array.of(byte));
    });
    onward.pipe(client);
    for (const end of [client, onward]) end.on('error', () => undefined);
    t.after(() => onward.destroy());
  });
  relay.listen(0, '127.0.0.1');
  await once(relay, 'listening');
  t.after(() => relay.close());
  const { port } = relay.address() as { port: number };
  await connectedWith(t, { host: '127.0.0.1', port }, WITH_KEY);
  await until('it is accepted', () => accepted.length === 1);
});

/** A TLS client of Node over a socket that it can break. */
async function breakable(t: TestContext, address: Address): Promise<{ raw: Socket; secure: TLSSocket }> {
  const raw = createConnection(address);
  raw.on('error', () => undefined);
  t.after(() => raw.destroy());
  await once(raw, 'connect');
  const secure = connect({ ...BARE, socket: raw });
  secure.on('error', () => undefined);
  await once(secure, 'secureConnect');
  return { raw, secure };
}

eachTls('a record that is cut or bent in mid-session ends its connection, and no other', async (t) => {
  const { listener, accepted } = await secured(t);
  const other = await connectedWith(t, listener.address, WITH_KEY);
  await until('the other is accepted', () => accepted.length === 1);
  const relays: { client: Socket; onward: Socket }[] = [];
  let bend = (chunk: Buffer): Buffer => chunk;
  const relay = createServer((client) => {
    const onward = createConnection(listener.address);
    relays.push({ client, onward });
    client.on('data', (chunk: Buffer) => onward.write(bend(chunk)));
    onward.pipe(client);
    for (const end of [client, onward]) end.on('error', () => undefined);
  });
  relay.listen(0, '127.0.0.1');
  await once(relay, 'listening');
  t.after(() => relay.close());
  const address = { host: '127.0.0.1', port: (relay.address() as { port: number }).port };
  const ways: [name: string, bend: (chunk: Buffer) => Buffer, closes: boolean, log: RegExp][] = [
    [
      'bent',
      (chunk) => Buffer.from(chunk.map((byte, at) => (at === 20 ? byte ^ 1 : byte))),
      false,
      /^closed EPROTO$/,
    ],
    ['junk', (chunk) => Buffer.alloc(chunk.length, 'j'), false, /^closed EPROTO$/],
    // Node does not tell an end without close_notify from one with it. No part of the record is handed out.
    [
      'cut',
      (chunk) => chunk.subarray(0, 50),
      true,
      endsIn(t).server === 'addon' ? /^closed ECONNRESET$/ : /^closed/,
    ],
  ];
  for (const [name, how, closes, expected] of ways) {
    const before = accepted.length;
    bend = (chunk) => chunk;
    const client = await connectedWith(t, address, WITH_KEY);
    await until('it is accepted', () => accepted.length === before + 1);
    bend = how;
    client.connection.write([Buffer.alloc(1000)]);
    const server = accepted.at(-1) as End;
    const { client: near, onward } = relays.at(-1) as (typeof relays)[number];
    if (closes) {
      await once(near, 'data');
      onward.end();
    }
    await server.end();
    assert.match(server.log.join(), expected, name);
    await client.end();
  }
  other.connection.write([Buffer.from('still here')]);
  await (accepted[0] as End).has(10);
});

eachTls('a peer that asks for new keys again and again costs nothing but its own connection', async (t) => {
  const { listener, accepted } = await secured(t);
  const { secure } = await breakable(t, listener.address);
  // TLS 1.3 has no renegotiation.
  assert.equal(
    secure.renegotiate({}, () => undefined),
    false,
  );
  secure.write('x');
  await until('it goes on', () => accepted[0]?.receivedBytes === 1);
});

eachTls('a client with a key does not talk to a server that only says it has it', async (t) => {
  const impostor = createTlsServer(
    { ...BARE, pskCallback: () => Buffer.alloc(32) } as object,
    () => undefined,
  );
  impostor.on('tlsClientError', () => undefined);
  impostor.listen(0, '127.0.0.1');
  await once(impostor, 'listening');
  t.after(() => impostor.close());
  const address = { host: '127.0.0.1', port: (impostor.address() as { port: number }).port };
  assert.equal((await failure(connectedWith(t, address, WITH_KEY))).code, 'EACCES');
});
