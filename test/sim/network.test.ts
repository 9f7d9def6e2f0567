/** The network of the simulator asks for the proofs that the real one asks for. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Deferred } from '../../src/base/wait.js';
import type { Connection, ConnectionEvents, Credentials, Proof } from '../../src/runtime/ports.js';
import { IDENTITY, KEY, takingKeys, WITH_KEY } from '../fixtures/carriers.js';
import { Machine, type Program } from './machine.js';
import { SimNetwork } from './network.js';
import { SimRng } from './rng.js';
import { Scheduler } from './scheduler.js';

const ADDRESS = { host: 'server', port: 7000 };
const NOTHING: ConnectionEvents = { data: () => undefined, drain: () => undefined, closed: () => undefined };

interface Hosts {
  readonly server: Program;
  readonly accepted: Proof[];
  readonly accept: (connection: Connection) => ConnectionEvents;
  /** Runs until it is settled. @returns 'connected', or the code of its error. */
  connect(credentials?: Credentials): Promise<string>;
}

function hosts(): Hosts {
  const scheduler = new Scheduler();
  const rng = new SimRng(1);
  const network = new SimNetwork(scheduler, rng);
  const program = (name: string): Program => {
    const machine = new Machine(name, scheduler, network, rng.fork(name));
    network.add(machine);
    return machine.run(name);
  };
  const server = program('server');
  const client = program('client').runtime();
  const accepted: Proof[] = [];
  return {
    server,
    accepted,
    accept: ({ origin }) => {
      accepted.push(origin.proof);
      return NOTHING;
    },
    connect: async (credentials) => {
      let outcome: string | undefined;
      client.transport
        .connect(ADDRESS, () => NOTHING, { timeoutMs: 5000, credentials })
        .then(
          () => {
            outcome = 'connected';
          },
          (error: NodeJS.ErrnoException) => {
            outcome = error.code;
          },
        );
      await scheduler.run(() => outcome !== undefined, scheduler.nowMs + 10_000);
      // The listener accepts in an event of its own.
      await scheduler.run(() => false, scheduler.nowMs + 10);
      return outcome ?? 'nothing';
    },
  };
}

test('who has the key is through with it, and who has another or none is not', async () => {
  const { server, accepted, accept, connect } = hosts();
  const refused: string[] = [];
  const tls = takingKeys({ refused: (peer, why) => void refused.push(`${peer}: ${why}`) });
  await server.runtime().transport.listen(ADDRESS, accept, tls);
  assert.deepEqual(
    [
      await connect(WITH_KEY),
      await connect({ kind: 'key', identity: IDENTITY, key: Buffer.alloc(32) }),
      await connect({ kind: 'key', identity: 'bob', key: KEY }),
      await connect({ kind: 'plain' }),
      await connect(),
    ],
    ['connected', 'EACCES', 'EACCES', 'connected', 'connected'],
  );
  assert.deepEqual(accepted, [{ kind: 'key', identity: IDENTITY }, { kind: 'none' }, { kind: 'none' }]);
  assert.deepEqual(refused, ['client/client: wrong key for "alice"', 'client/client: unknown key "bob"']);
});

test('a listener without TLS does not take a key', async () => {
  const { server, accept, connect } = hosts();
  await server.runtime().transport.listen(ADDRESS, accept);
  assert.equal(await connect(WITH_KEY), 'EPROTO');
});

test('who comes with a key waits until the listener is ready, or until it ends', async () => {
  const { server, accepted, accept, connect } = hosts();
  let ready = new Deferred<void>();
  let isReady = false;
  const tls = takingKeys({ ready: () => (isReady ? undefined : ready.promise) });
  await server.runtime().transport.listen(ADDRESS, accept, tls);
  const { timers } = server.runtime();
  timers.after(3000, () => {
    isReady = true;
    ready.resolve();
  });
  assert.equal(await connect({ kind: 'plain' }), 'connected');
  assert.equal(await connect(WITH_KEY), 'connected');
  assert.ok(isReady);
  assert.deepEqual(accepted, [{ kind: 'none' }, { kind: 'key', identity: IDENTITY }]);
  isReady = false;
  ready = new Deferred();
  timers.after(3000, () => server.end('kill'));
  assert.equal(await connect(WITH_KEY), 'ECONNREFUSED');
});
