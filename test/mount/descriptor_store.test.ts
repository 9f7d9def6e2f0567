/** A mount in the foreground, as a process of a unit: systemd keeps it while its client dies and comes again. */

import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import { isMounted } from '../../mount/unmount.js';
import { LOCK, O } from '../fixtures/agent.js';
import { type Cluster, startCluster } from '../fixtures/cluster.js';
import { falseSuccessor } from '../fixtures/false_successor.js';
import { nextTree, rootOf, thisTree } from '../fixtures/installed_tree.js';
import { MountUnit } from '../fixtures/service_manager.js';
import { until, within } from '../fixtures/until.js';

const EIO = { code: 'EIO' };
const LIMITS = { timeout: 180_000 };
const LIMIT_MS = 170_000;

async function startUnit(t: TestContext, burst: number, mounts = 0): Promise<readonly [Cluster, MountUnit]> {
  let started: MountUnit | undefined;
  // Before the cluster ends, which is prepared later.
  t.after(() => started?.stop());
  const cluster = await startCluster(t, { limitMs: LIMIT_MS, mounts });
  const unit = await MountUnit.start(cluster, 'unit', burst);
  started = unit;
  return [cluster, unit];
}

async function versionOf(cluster: Cluster, unit: MountUnit): Promise<string> {
  const status = JSON.parse(await cluster.cliOk(['status', unit.dir, '--json'])) as {
    readonly softwareVersion: string;
  };
  return status.softwareVersion;
}

test(
  'deaths under load: what was open answers EIO, everything else goes on, and an unmount leaves nothing in the store',
  LIMITS,
  async (t) => {
    const [cluster, unit] = await startUnit(t, 100, 1);
    const { kept } = unit;
    assert.equal(kept, 2, '/dev/fuse and the seed');
    const [agent, rival] = [unit.agent(), cluster.agent(0)];
    const held = await agent.open('held', O.CREAT | O.RDWR);
    await agent.flock(held, LOCK.EX);
    const wanted = await rival.open('held', O.RDWR);
    await assert.rejects(rival.flock(wanted, LOCK.EX | LOCK.NB), { code: 'EAGAIN' });

    let stop = false;
    let rounds = 0;
    const work = async (index: number): Promise<void> => {
      const worker = unit.agent();
      for (let at = 0; !stop; at++) {
        try {
          await worker.writeFile(`f${index}`, `${at}`);
          await worker.list();
          await worker.mkdir(`d${index}.${at}`);
          rounds += 1;
        } catch (error) {
          // What was open when the process died, or a call that had succeeded then and was made once more.
          assert.ok(['EIO', 'EEXIST'].includes((error as { code: string }).code), `${error}`);
        }
      }
    };
    const load = Promise.all([work(1), work(2)]);
    load.catch(() => undefined);
    for (let death = 0; death < 5; death++) {
      await unit.kill();
      await within('a call after a death', unit.agent().mkdir(`death ${death}`));
      const at = rounds;
      await until('the load goes on', () => rounds > at + 3);
    }
    // At once after its start, when it has said nothing yet.
    const first = await unit.kill();
    const next = await until(
      'the next start',
      () => unit.told().find(({ started = first }) => started > first)?.started,
    );
    await unit.kill(next);
    await within('a call after a death at the start', unit.agent().mkdir('twice'));
    stop = true;
    await within('the load ends', load);

    await assert.rejects(agent.write(held, 'x'), EIO);
    await assert.rejects(agent.close(held), EIO);
    await rival.flock(wanted, LOCK.EX | LOCK.NB);
    const starts = unit.told().flatMap(({ started, passed }) => (started === undefined ? [] : [passed]));
    assert.deepEqual(starts, [0, 2, 2, 2, 2, 2, 2, 2]);
    assert.equal(await unit.end(), 0);
    assert.equal(isMounted(unit.dir), false);
    assert.deepEqual(
      unit.all('FDSTOREREMOVE').map((said) => said.kept),
      [0],
    );
  },
);

test('takeovers: the store has the seed of the process in charge', LIMITS, async (t) => {
  const [cluster, unit] = await startUnit(t, 100);
  const agent = unit.agent();
  const fd = await agent.open('f', O.CREAT | O.RDWR);
  await cluster.cliOk(['takeover', unit.dir, '--with', rootOf(nextTree())]);
  assert.equal(await versionOf(cluster, unit), nextTree().version);
  const successor = await unit.pid();
  assert.deepEqual(
    unit.all('MAINPID').map(({ value }) => value),
    [`${successor}`],
  );
  // The unit's command starts this version again.
  await unit.kill(successor);
  await within('a call after the death of a successor', unit.agent().mkdir('after'));
  assert.equal(await versionOf(cluster, unit), thisTree().version);
  await assert.rejects(agent.write(fd, 'x'), EIO);

  // A program that does not know the store: nothing is kept while it could be in charge.
  const before = unit.told().length;
  const done = await cluster.cli([
    'takeover',
    unit.dir,
    '--with',
    rootOf(falseSuccessor(cluster.folder, 'ready')),
  ]);
  assert.equal(done.code, 1, done.stdout);
  await unit.said((said) => said.FDSTORE === '1', before);
  assert.deepEqual(
    unit
      .told()
      .slice(before)
      .map(({ said, kept }) => [said?.FDSTOREREMOVE, said?.FDSTORE, kept]),
    [
      ['1', undefined, 0],
      [undefined, '1', 2],
    ],
  );
  const stays = await unit.pid();
  await unit.kill(stays);
  await within('a call after one more death', unit.agent().mkdir('later'));
  assert.equal(await unit.end(), 0);
});

test(
  'after too many deaths systemd closes what it has kept; the unit that cleans up unmounts',
  LIMITS,
  async (t) => {
    const [cluster, unit] = await startUnit(t, 2);
    const agent = unit.agent();
    await agent.writeFile('f', 'x');
    await unit.kill();
    await within('a call after a death', unit.agent().mkdir('after'));
    await unit.kill();
    assert.equal((await within('the manager gives up', unit.manager.exited)).code, 1);
    await assert.rejects(agent.stat('f'), { code: 'ENOTCONN' });
    assert.ok(isMounted(unit.dir));
    await cluster.cliOk(['umount', '--force', unit.dir]);
    assert.equal(isMounted(unit.dir), false);
    // Nobody says goodbye for the dead client.
    const dead = (await cluster.status()).clients.find(({ name }) => name.endsWith('/unit'));
    await cluster.cliOk(['evict', cluster.admin, dead?.uuid ?? '']);
  },
);

test('before Linux 6.9 systemd keeps a clone, and the next process reads another one', LIMITS, async (t) => {
  const cluster = await startCluster(t, { limitMs: LIMIT_MS, mounts: 0 });
  cluster.env.HOLDFAST_WITHOUT_RESEND = '1';
  const unit = await MountUnit.start(cluster, 'unit', 100);
  try {
    await unit.agent().writeFile('f', 'x');
    for (let death = 0; death < 2; death++) {
      await unit.kill();
      await within('a call after a death', unit.agent().mkdir(`after ${death}`));
    }
    assert.equal(await unit.agent().readFile('f'), 'x');
    assert.equal(await unit.end(), 0);
  } finally {
    await unit.stop();
  }
});

test('a seed that cannot be read: the process says so, and mounts anew', LIMITS, async (t) => {
  const [, unit] = await startUnit(t, 100);
  await unit.agent().writeFile('f', 'x');
  unit.manager.process.stdin?.write('tear\n');
  await until('the seed is torn', () => unit.told().some(({ torn }) => torn === true));
  await unit.kill();
  await unit.endAgents();
  await unit.manager.line(
    /cannot go on after the death of a client process, and mounts anew: .*no whole seed/,
  );
  await until('the new mount is kept', () => unit.all('FDSTORE').length === 2);
  assert.equal(await unit.agent().readFile('f'), 'x');
  assert.equal(unit.kept, 2);
  assert.equal(await unit.end(), 0);
});

test(
  'while the next process waits for a server, its calls wait; SIGTERM ends the mount, and the store is empty',
  LIMITS,
  async (t) => {
    const [cluster, unit] = await startUnit(t, 100);
    await unit.agent().writeFile('f', 'x');
    await cluster.killServer();
    await unit.kill(await unit.pid());
    await unit.said((said) => /^goes on with /.test(said.STATUS ?? ''));
    const waits = unit.agent().mkdir('waits');
    waits.catch(() => undefined);
    await cluster.serve();
    await within('a call that has waited for the server', waits);
    await unit.said(
      (said) => /^mounted /.test(said.STATUS ?? ''),
      unit.told().findIndex(({ ended }) => ended !== undefined),
    );

    await cluster.killServer();
    const from = unit.told().length;
    await unit.kill(await unit.pid());
    await unit.said((said) => /^goes on with /.test(said.STATUS ?? ''), from);
    const waiting = unit.told().findLast(({ started }) => started !== undefined)?.started;
    process.kill(waiting ?? 0, 'SIGTERM');
    assert.equal((await within('the manager ends', unit.manager.exited)).code, 0);
    assert.deepEqual([isMounted(unit.dir), unit.kept], [false, 0]);
  },
);
