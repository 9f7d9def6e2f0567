/**
 * A failover pair on a network, with keys and with certificates: an upgrade to the standby, a crash and a failover back, under the load of
 * three clients. No call fails.
 */

import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import type { StatusReply } from '../../src/wire/admin.js';
import { O } from '../fixtures/agent.js';
import { type Authority, authority } from '../fixtures/certificates.js';
import { MIB } from '../fixtures/devices.js';
import { type FailoverPair, failoverPair, PERIOD_S, Worker } from '../fixtures/failover_pair.js';
import { type Host, Network } from '../fixtures/hosts.js';

const SMALL = { metaBytes: 64 * MIB, dataBytes: 128 * MIB, limitMs: 170_000 };
const CLIENTS = 3;

interface Site {
  readonly pair: FailoverPair;
  readonly hosts: readonly [a: Host, b: Host, clients: Host];
}

async function site(t: TestContext): Promise<Site> {
  const network = await Network.make();
  const hosts = [await network.addHost('a'), await network.addHost('b'), await network.addHost('c')] as const;
  const pair = await failoverPair(t, SMALL, { a: hosts[0], b: hosts[1] });
  pair.cluster.whenEnded(() => network.remove());
  return { pair, hosts };
}

/** What servers are told, and what clients show. */
interface Proofs {
  readonly serve: readonly string[];
  /** Once a server serves. @returns mount options. */
  readonly client: () => Promise<readonly string[]>;
}

function byKey({ pair }: Site): Proofs {
  return {
    serve: [],
    client: async () => {
      const path = `${pair.cluster.folder}/web.key`;
      const made = await pair.cli('a', ['access', 'add', 'web', '--no-root-squash', '--output', path]);
      assert.equal(made.code, 0, made.stderr);
      return [`key=${path}`];
    },
  };
}

function byCertificate({ pair, hosts }: Site, ca: Authority): Proofs {
  const ofServers = ca.issue({ name: 'servers', hosts: hosts.map(({ address }) => `IP:${address}`) });
  const ofClients = ca.issue({ name: 'web.example' });
  const { certificate, key } = ofServers;
  return {
    serve: ['--tls-cert', certificate, '--tls-key', key, '--tls-ca', ofServers.ca],
    client: async () => {
      const made = await pair.cli('a', ['access', 'add', 'web.example', '--cert', '--no-root-squash']);
      assert.equal(made.code, 0, made.stderr);
      return ['tls', `cert=${ofClients.certificate}`, `key=${ofClients.key}`, `ca=${ofClients.ca}`];
    },
  };
}

for (const by of ['keys', 'certificates'] as const) {
  test(`an upgrade, a crash and a failover of a pair with ${by}: three clients under load see no error`, async (t) => {
    const where = await site(t);
    const { pair, hosts } = where;
    const ca = by === 'certificates' ? authority() : undefined;
    if (ca !== undefined) t.after(() => ca.remove());
    const proofs = ca === undefined ? byKey(where) : byCertificate(where, ca);
    const a = pair.start('a', proofs.serve);
    await a.ready();
    pair.cluster.adopt(a);
    const options = await proofs.client();
    const addresses = [pair.sides.a.address, pair.sides.b.address].join(',');
    const workers: Worker[] = [];
    for (let n = 0; n < CLIENTS; n++) {
      const mount = pair.cluster.startMount(options, addresses, undefined, hosts[2]);
      await mount.ready();
      const agent = pair.agent(mount);
      await agent.mkdir(`of-${n}`);
      const inside = pair.agent({ dir: `${mount.dir}/of-${n}` });
      workers.push(new Worker(inside, await inside.open('f', O.CREAT | O.RDWR)));
    }
    const goOn = (): Promise<unknown> => Promise.all(workers.map((worker) => worker.goesOn()));
    await goOn();

    const b = pair.start('b', ['--standby', ...proofs.serve], pair.cluster.otherTree());
    await b.standingBy();
    await pair.shutdown('a', a);
    await pair.takesOver(b);
    await goOn();

    await pair.kill(b);
    const again = pair.start('b', proofs.serve, b.tree);
    await pair.takesOver(again);
    await goOn();

    const back = pair.start('a', ['--standby', ...proofs.serve], b.tree);
    await back.standingBy();
    await pair.kill(again);
    await pair.takesOver(back);
    await goOn();
    const longest = Math.max(...workers.map(({ longestMs }) => longestMs));
    t.diagnostic(`longest call ${longest.toFixed(0)} ms, heartbeat period ${PERIOD_S} s`);
    for (const worker of workers) await worker.stop();
    const shown = await pair.cli('a', ['status', pair.sides.a.address, '--json']);
    const { clients, evicted } = JSON.parse(shown.stdout) as StatusReply;
    assert.equal(clients.length, CLIENTS);
    assert.deepEqual(evicted, []);
    for (const { access } of clients) assert.match(access ?? '', /^(key:web|certificate:web\.example)$/);
  });
}
