/** Bounds for connections that have not proved anything: in number, in time, in memory. Small ones, so that tests reach them. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:net';
import type { TestContext } from 'node:test';
import { streamBinding } from '../../../src/runtime/node_stream.js';
import { type GateLimits, TlsGate } from '../../../src/runtime/node_tls_listen.js';
import { takingKeys, WITH_KEY } from '../../fixtures/carriers.js';
import {
  clientHello,
  connectedWith,
  eachTls,
  endsIn,
  failure,
  type Stranger,
  secured,
  stranger,
} from '../../fixtures/tls_peers.js';
import { until } from '../../fixtures/until.js';

const NEVER_MS = 1 << 30;
const ROOMY: GateLimits = { strangersMax: 1000, handshakesMax: 100, strangerMs: NEVER_MS, hurryMs: NEVER_MS };

interface Gated {
  readonly address: { host: string; port: number };
  readonly refused: string[];
  readonly through: () => number;
  readonly plain: () => number;
}

async function gated(
  t: TestContext,
  limits: Partial<GateLimits>,
  ready?: () => Promise<void>,
): Promise<Gated> {
  const refused: string[] = [];
  let through = 0;
  let plain = 0;
  const gate = new TlsGate(
    takingKeys({
      refused: (_peer, why) => void refused.push(why),
      ...(ready === undefined ? {} : { ready }),
    }),
    endsIn(t).server === 'addon' ? streamBinding() : undefined,
    {
      plain: (socket) => {
        plain += 1;
        socket.destroy();
      },
      secure: (connection) => {
        through += 1;
        connection.start({ data: () => undefined, drain: () => undefined, closed: () => undefined });
        t.after(() => connection.destroy());
      },
    },
    { ...ROOMY, ...limits },
  );
  const server = createServer({ pauseOnConnect: true }, (socket) => gate.take(socket));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => {
    gate.close();
    server.close();
  });
  const address = { host: '127.0.0.1', port: (server.address() as { port: number }).port };
  return { address, refused, through: () => through, plain: () => plain };
}

eachTls(
  'connections that say nothing, or half of it, or stall in the handshake, are closed in time',
  async (t) => {
    const { address, refused, plain } = await gated(t, { strangerMs: 200 });
    const hello = await clientHello(t);
    const silent = await stranger(t, address);
    await silent.closed;
    const half = await stranger(t, address, hello.subarray(0, 30));
    await half.closed;
    const stalled = await stranger(t, address, hello);
    await stalled.closed;
    assert.ok(stalled.got().length > 0, 'it was not answered');
    // A timer may be late on a busy machine.
    assert.match(
      refused.join('; '),
      /^it sent nothing; it did not finish its ClientHello; it did not go on with the handshake within \d+\.\d s$/,
    );
    assert.equal(plain(), 0);
  },
);

eachTls('the time in which it waits for a listener that is not ready does not count', async (t) => {
  let resolve = (): void => undefined;
  let isReady: Promise<void> | undefined = new Promise((done) => {
    resolve = done;
  });
  const waits = isReady;
  const { address, refused, through } = await gated(
    t,
    { strangerMs: 300 },
    (() => isReady) as () => Promise<void>,
  );
  const connecting = connectedWith(t, address, WITH_KEY);
  // It comes later than the connection that waits, and its time is over.
  const silent = await stranger(t, address);
  await silent.closed;
  isReady = undefined;
  resolve();
  await waits;
  await connecting;
  await until('it is through', () => through() === 1);
  assert.deepEqual(refused, ['it sent nothing']);
});

eachTls('only so many handshakes go on at once; the others wait in order', async (t) => {
  const { address, through } = await gated(t, { handshakesMax: 2 });
  const hello = await clientHello(t);
  const stalled: Stranger[] = [await stranger(t, address, hello), await stranger(t, address, hello)];
  await until('both are answered', () => stalled.every(({ got }) => got().length > 0));
  const waiting = await stranger(t, address, hello);
  const connecting = connectedWith(t, address, WITH_KEY);
  // What comes behind is answered, so it has been seen.
  const plain = await stranger(t, address, Buffer.from('HFS1'));
  await plain.closed;
  assert.deepEqual([waiting.got().length, through()], [0, 0]);
  stalled[0]?.socket.destroy();
  await until('the first that waits is answered', () => waiting.got().length > 0);
  waiting.socket.destroy();
  await connecting;
});

eachTls('a handshake that others wait for gets less time', async (t) => {
  const { address, refused, through } = await gated(t, { handshakesMax: 1, hurryMs: 100 });
  const stalled = await stranger(t, address, await clientHello(t));
  await until('it is answered', () => stalled.got().length > 0);
  await connectedWith(t, address, WITH_KEY);
  await stalled.closed;
  await until('it is through', () => through() === 1);
  assert.match(refused.join(), /^it did not go on with the handshake within \d+\.\d s$/);
});

eachTls('the oldest of too many is closed, and the newest gets in', async (t) => {
  const { address, refused, through } = await gated(t, { strangersMax: 5 });
  const silent: Stranger[] = [];
  for (let count = 0; count < 7; count += 1) silent.push(await stranger(t, address));
  await Promise.all([silent[0]?.closed, silent[1]?.closed]);
  await connectedWith(t, address, WITH_KEY);
  await silent[2]?.closed;
  await until('it is through', () => through() === 1);
  assert.deepEqual(
    refused,
    Array(3).fill('too many connections wait to prove who they are, and it was the oldest'),
  );
});

eachTls('two thousand connections that say nothing keep nobody out', async (t) => {
  const { listener, accepted } = await secured(t);
  const silent: Stranger[] = [];
  while (silent.length < 2000) {
    silent.push(...(await Promise.all(Array.from({ length: 100 }, () => stranger(t, listener.address)))));
  }
  await connectedWith(t, listener.address, WITH_KEY);
  await until('it is accepted', () => accepted.length === 1);
  await listener.close();
  await Promise.all(silent.map(({ closed }) => closed));
});

eachTls('a listener that is never ready refuses nobody, and lets go when it closes', async (t) => {
  const { listener, refused } = await secured(t, { ready: () => new Promise(() => undefined) });
  const waiting = await stranger(t, listener.address, await clientHello(t));
  const connecting = failure(connectedWith(t, listener.address, WITH_KEY));
  const plain = await stranger(t, listener.address, Buffer.from('HFS1'));
  await listener.close();
  await waiting.closed;
  assert.notEqual((await connecting).code, undefined);
  plain.socket.destroy();
  assert.deepEqual(refused, []);
});
